-- Vectors of half precision: half the bytes to store, to read and to send, for a loss of recall that
-- the benchmark does not show. In the row itself, since a search reads all those of a small tenant.

ALTER TABLE memkit_passages ALTER COLUMN embedding TYPE halfvec USING embedding::halfvec;
ALTER TABLE memkit_passages ALTER COLUMN embedding SET STORAGE MAIN;
