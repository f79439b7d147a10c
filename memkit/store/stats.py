"""What a store holds and takes, counted in the database."""

from dataclasses import dataclass
from typing import Any

from psycopg.rows import dict_row

from memkit.db.migrate import verify
from memkit.db.pool import connect, translated
from memkit.store.tenants import seeing_all

_COUNTS = """
SELECT (SELECT count(*) FROM memkit_items) AS items,
    (SELECT count(*) FROM memkit_passages) AS passages,
    (SELECT count(DISTINCT namespace) FROM memkit_items) AS namespaces,
    (SELECT count(DISTINCT tenant) FROM memkit_items) AS tenants,
    (SELECT count(*) FROM memkit_items WHERE expires_at <= now()) AS expired,
    (SELECT count(*) FROM memkit_history) AS versions
"""
_BYTES = """
SELECT relname AS name, pg_total_relation_size(oid) AS bytes FROM pg_class
WHERE relkind = 'r' AND relnamespace =
    (SELECT relnamespace FROM pg_class WHERE oid = 'memkit_items'::regclass)
    AND relname LIKE 'memkit!_%' ESCAPE '!' ORDER BY relname
"""
_INDEXES = """
SELECT indexrelid::regclass::text AS name, indrelid::regclass::text AS on_table,
    pg_relation_size(indexrelid) AS bytes, indisvalid AS valid
FROM pg_index WHERE indrelid IN
    ('memkit_items'::regclass, 'memkit_passages'::regclass, 'memkit_history'::regclass)
ORDER BY 1
"""


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds at one moment.

    Attributes:
        items: Items, with those whose time to live is over and that wait for the sweep.
        passages: Indexed texts.
        namespaces: Namespaces that hold an item.
        tenants: Tenants that hold an item.
        expired: Items whose time to live is over.
        versions: Superseded versions that are kept.
        bytes: What each table takes, with its indexes, by its name.
        indexes: Each with `name`, `on_table`, `bytes` and `valid`.
    """

    items: int
    passages: int
    namespaces: int
    tenants: int
    expired: int
    versions: int
    bytes: dict[str, int]
    indexes: list[dict[str, Any]]


def store_stats(conninfo: str) -> StoreStats:
    """Count what a store holds.

    Cost: each table is read once; with a million items, seconds.

    Raises:
        MigrationError: The store is not set up, or older than this version.
        StoreError: The database cannot be reached.
    """
    with translated(conninfo), connect(conninfo) as connection:
        verify(connection)
        with seeing_all(connection), connection.cursor(row_factory=dict_row) as cursor:
            counts = cursor.execute(_COUNTS).fetchone() or {}
            tables = cursor.execute(_BYTES).fetchall()
            indexes = cursor.execute(_INDEXES).fetchall()
    return StoreStats(
        **counts, bytes={row["name"]: row["bytes"] for row in tables}, indexes=list(indexes)
    )
