-- The version of an item: 1 when it is new, one more with every put. A put may ask for the version
-- that was read, and is refused if the item has another one by then.

ALTER TABLE memkit_items ADD COLUMN version bigint NOT NULL DEFAULT 1;
