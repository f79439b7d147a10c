-- Superseded versions of items: what stood from updated_at until ended_at. A version that had a time
-- to live is over in here too once that has passed, hence expires_at.

CREATE TABLE memkit_history (
    tenant text COLLATE "C" NOT NULL,
    namespace text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    value jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    ended_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (tenant, namespace, key, version)
);

-- For the sweep. Rows come in the order of their end, so this costs a write next to nothing.
CREATE INDEX memkit_history_by_end ON memkit_history USING brin (ended_at);
CREATE INDEX memkit_history_by_expiry ON memkit_history (tenant, expires_at)
    WHERE expires_at IS NOT NULL;
