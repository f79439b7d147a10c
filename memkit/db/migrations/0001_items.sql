-- Items, the texts indexed for them, and what all of them share.
-- The tenant (the first two labels of the namespace) leads every key, so that the tables can be
-- distributed by tenant. COLLATE "C" makes a subtree of namespaces a range of the key.

CREATE EXTENSION IF NOT EXISTS vector;

CREATE TABLE memkit_meta (
    name text COLLATE "C" PRIMARY KEY,
    value jsonb NOT NULL
);

CREATE TABLE memkit_items (
    tenant text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    value jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ttl_minutes double precision,
    expires_at timestamptz,
    PRIMARY KEY (tenant, namespace, key)
);

CREATE INDEX memkit_items_by_namespace ON memkit_items (namespace);
CREATE INDEX memkit_items_by_expiry ON memkit_items (tenant, expires_at)
    WHERE expires_at IS NOT NULL;

-- One row per indexed text: a value with several fields, or a list in one, has several.
-- A tsvector holds at most 1 MB, hence left().
CREATE TABLE memkit_passages (
    tenant text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    path text COLLATE "C" NOT NULL,
    text text NOT NULL,
    embedding vector,
    tsv tsvector NOT NULL
        GENERATED ALWAYS AS (to_tsvector('english'::regconfig, left(text, 100000))) STORED,
    PRIMARY KEY (tenant, namespace, key, path),
    FOREIGN KEY (tenant, namespace, key)
        REFERENCES memkit_items (tenant, namespace, key) ON DELETE CASCADE
);

-- The number that a JSON value is to Python's float(): numbers, true and false, and strings that
-- spell a finite number. Anything else is NULL, so that comparing it is no match and no error.
CREATE FUNCTION memkit_number(value jsonb) RETURNS numeric
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT CASE jsonb_typeof(value)
        WHEN 'number' THEN value::numeric
        WHEN 'boolean' THEN value::boolean::integer::numeric
        WHEN 'string' THEN CASE
            WHEN length(value #>> '{}') <= 1000 AND value #>> '{}'
                ~ '^[ \t\n\r\f\v]*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,3})?[ \t\n\r\f\v]*$'
            THEN btrim(value #>> '{}', E' \t\n\r\f\v')::numeric
        END
    END
$$;
