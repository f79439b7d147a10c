"""What sets tenants apart in the database beyond their keys: row-level security, and shards."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import tuple_row

from memkit.db.pool import Connection
from memkit.errors import MigrationError
from memkit.store import namespace as ns
from memkit.store.plan import Batch, Statement

# Parents come first.
TABLES = ("memkit_items", "memkit_passages", "memkit_history")
_FUNCTIONS = ("memkit_number(jsonb)", "memkit_terms(jsonb)")

# What a connection names is a text[], or that it is for all: to sweep, to search a whole tree.
_POLICY = """
CREATE POLICY memkit_tenants ON {table} USING (
    tenant = ANY (nullif(current_setting('memkit.tenants', true), '')::text[])
    OR current_setting('memkit.all_tenants', true) = 'on'
)
"""
ALL = Statement("SELECT set_config('memkit.all_tenants', 'on', true)", {})
"""Lets the transaction see every tenant."""


@contextmanager
def seeing_all(connection: Connection) -> Iterator[None]:
    """Hold a transaction that sees every tenant and takes as long as it needs.

    Neither is set for longer: behind PgBouncer the connection serves others next.
    """
    with connection.transaction():
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute(*ALL)
        yield


def secure(connection: Connection) -> None:
    """Let nobody see a row, the owner of the tables included, who has not named its tenant.

    Superusers and roles with BYPASSRLS see all, as always in Postgres.
    """
    with connection.transaction():
        for table in TABLES:
            name = sql.Identifier(table)
            for statement in (
                "ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
                "ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
                "DROP POLICY IF EXISTS memkit_tenants ON {table}",
                _POLICY,
            ):
                connection.execute(sql.SQL(statement).format(table=name))


def is_secured(connection: Connection) -> bool:
    """Return whether the tables have row-level security."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        cursor.execute("SELECT relrowsecurity FROM pg_class WHERE oid = 'memkit_items'::regclass")
        row = cursor.fetchone()
    return bool(row and row[0])


def distribute(connection: Connection) -> None:
    """Distribute the tables by tenant over the workers of a Citus cluster; harmless when repeated.

    Raises:
        MigrationError: The server has no Citus.
    """
    try:
        connection.execute("CREATE EXTENSION IF NOT EXISTS citus")
    except (pg.FeatureNotSupported, pg.UndefinedFile) as error:
        msg = (
            f"the server of database {connection.info.dbname!r} has no Citus "
            f"({error.diag.message_primary}); leave out distributed=True, or see compose.yaml"
        )
        raise MigrationError(msg) from error
    for table in TABLES:
        if not is_distributed(connection, table):
            beside = "default" if table == TABLES[0] else TABLES[0]
            connection.execute(
                "SELECT create_distributed_table(%s, 'tenant', colocate_with => %s)",
                (table, beside),
            )
    for function in _FUNCTIONS:
        connection.execute("SELECT create_distributed_function(%s)", (function,))


def is_distributed(connection: Connection, table: str = TABLES[0]) -> bool:
    """Return whether a table is distributed."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        # Asked for first: a table that is not there would end a transaction.
        cursor.execute("SELECT to_regclass('pg_dist_partition') IS NOT NULL")
        if cursor.fetchone() != (True,):
            return False
        cursor.execute("SELECT FROM pg_dist_partition WHERE logicalrelid = %s::regclass", (table,))
        return cursor.fetchone() is not None


def named_by(batch: Batch) -> Statement:
    """Return the statement that names the tenants of a batch, for its transaction."""
    prefixes = [search.namespace_prefix for _, search in batch.searches]
    prefixes += [search.namespace_prefix for _, search in batch.threads]
    if batch.listings or any(of_prefix(prefix) is ALL for prefix in prefixes):
        return ALL
    namespaces = [*prefixes, *(get.namespace for _, get in batch.gets)]
    return name({*map(ns.tenant, namespaces), *(address.tenant for address in batch.writes)})


def of_prefix(prefix: Sequence[str]) -> Statement:
    """Return the statement that names the tenant of a search, or all that it may find."""
    return name([ns.tenant(prefix)]) if len(prefix) >= ns.TENANT_LABELS else ALL


def name(tenants: Iterable[str]) -> Statement:
    """Return the statement that names some tenants, for a transaction."""
    return Statement(
        "SELECT set_config('memkit.tenants', %(tenants)b::text[]::text, true)",
        {"tenants": sorted(tenants)},
    )
