-- The vectors of another model stand in a column of their own until all have moved to it, and have
-- indexes of their own.
ALTER TABLE memkit_indexes ADD COLUMN vectors text COLLATE "C" NOT NULL DEFAULT 'embedding';
ALTER TABLE memkit_indexes DROP CONSTRAINT memkit_indexes_pkey;
ALTER TABLE memkit_indexes ADD PRIMARY KEY (scope, vectors);
