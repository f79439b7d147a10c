-- Where a text was said: its thread, and its place there, so that a search can see what was said
-- around it. Only items whose value has both a thread_id and a position have them.
ALTER TABLE memkit_passages ADD COLUMN thread text COLLATE "C", ADD COLUMN position bigint;

CREATE INDEX memkit_passages_by_position ON memkit_passages (tenant, thread, position)
    WHERE position IS NOT NULL;
