-- What a store needs beside the tables once one tenant, or all of them, hold more than a search can
-- look at: the plain fields of a value as terms, to be filtered by, and which indexes there are.

-- One number per field that a filter may ask for by equality: strings, numbers and booleans. Two
-- fields may share one, so the filter itself is checked as well.
CREATE FUNCTION memkit_terms(value jsonb) RETURNS integer[]
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT coalesce(array_agg(('x' || left(md5(key || '=' || CASE jsonb_typeof(field)
        WHEN 'number' THEN trim_scale(field::numeric)::text ELSE field::text END
    ), 8))::bit(32)::integer), '{}')
    FROM jsonb_each(value) AS plain (key, field)
    WHERE jsonb_typeof(field) IN ('string', 'number', 'boolean') AND length(field::text) <= 200
$$;

ALTER TABLE memkit_passages ADD COLUMN terms integer[] NOT NULL DEFAULT '{}';
UPDATE memkit_passages p SET terms = memkit_terms(i.value)
FROM memkit_items i
WHERE i.tenant = p.tenant AND i.namespace = p.namespace AND i.key = p.key
    AND jsonb_typeof(i.value) = 'object';

-- Words are put down as they are written, in the language of the item.
ALTER TABLE memkit_passages ALTER COLUMN tsv DROP EXPRESSION;

-- scope is a tenant, or '' for all of them; generation is in the names of its indexes.
CREATE TABLE memkit_indexes (
    scope text COLLATE "C" PRIMARY KEY,
    generation bigint NOT NULL,
    built_at timestamptz NOT NULL,
    passages bigint NOT NULL,
    probes integer,
    recall double precision
);

-- Namespaces in the order of their labels: the separator sorts before all that a label holds.
CREATE INDEX memkit_items_by_labels ON memkit_items ((replace(namespace, '.', E'\x01')));
