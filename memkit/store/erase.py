"""Deleting all that is below a namespace, old versions included, as if it had never been there."""

# ruff: noqa: S608 - statements are put together from constants

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from psycopg.rows import tuple_row

from memkit.db.database import Database
from memkit.db.pool import Connection
from memkit.errors import ConfigError
from memkit.namespaces import check_namespace
from memkit.store import namespace as ns
from memkit.store import tenants
from memkit.store.plan import Statement

_ROWS = 1000  # of a transaction
_COUNT = "SELECT count(*) FROM {table} t WHERE {inside}"
# Passages go with their items.
_DELETE = f"""
DELETE FROM {{table}} WHERE tenant = %(tenant)s AND ({{key}}) IN (
    SELECT {{key}} FROM {{table}} t WHERE {{inside}} LIMIT {_ROWS}
)
"""
_KEYS = {"memkit_items": "namespace, key", "memkit_history": "namespace, key, version"}


@dataclass(frozen=True, slots=True)
class Erased:
    """What was deleted of a store.

    Attributes:
        items: How many, expired ones included.
        passages: Indexed texts of theirs, each with its vector.
        versions: Superseded versions, of these items and of deleted ones.
    """

    items: int = 0
    passages: int = 0
    versions: int = 0


def erase(
    database: Database,
    named: Callable[[Callable[[Connection], Any], Statement], Callable[[Connection], Any]],
    prefix: tuple[str, ...],
    *,
    dry_run: bool = False,
) -> Erased:
    """Delete what is below a namespace, in transactions of 1,000 rows; or only count it.

    Args:
        database: Where it is.
        named: Lets work name its tenants first, where the database hides those not named.
        prefix: The namespace; it names a tenant at least.
        dry_run: Delete nothing.

    Raises:
        ConfigError: The namespace names no tenant, so that others' items are below it too.
    """
    labels = check_namespace(prefix)
    if len(labels) < ns.TENANT_LABELS:
        msg = (
            f"erase takes a namespace of at least {ns.TENANT_LABELS} labels, such as "
            f"('users', 'ann'), not {prefix!r}: all users' items are below that one"
        )
        raise ConfigError(msg)
    inside, params = ns.subtree_sql("t", len(labels)), ns.subtree(labels)

    def run(sql: str, table: str) -> int:
        statement = sql.format(table=table, inside=inside, key=_KEYS.get(table))
        work = partial(_count if sql is _COUNT else _delete, Statement(statement, dict(params)))
        return int(database.run(named(work, tenants.name([ns.tenant(labels)]))))

    def all_of(table: str) -> int:
        if dry_run:
            return run(_COUNT, table)
        total = 0
        while rows := run(_DELETE, table):
            total += rows
        return total

    passages = run(_COUNT, "memkit_passages")
    return Erased(all_of("memkit_items"), passages, all_of("memkit_history"))


def _count(statement: Statement, connection: Connection) -> int:
    with connection.cursor(row_factory=tuple_row) as cursor:
        [[rows]] = cursor.execute(*statement).fetchall()
    return int(rows)


def _delete(statement: Statement, connection: Connection) -> int:
    return connection.execute(*statement).rowcount
