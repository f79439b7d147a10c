"""Superseded versions: how they are kept and read.

Whatever replaces or deletes a live item writes the old version down in the same statement, from the
row it has locked: no version is lost or written twice, however many writers there are. What stood
when is a chain without gaps or overlaps per key: a version starts no sooner than the one before
ended, even where its transaction began earlier.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, TypeAlias

import psycopg
from langgraph.store.base import GetOp, Item, SearchOp
from psycopg import errors as pg
from psycopg.rows import tuple_row

from memkit.db.database import Database, Transaction
from memkit.db.pool import Connection
from memkit.effects import Body
from memkit.errors import ConfigError
from memkit.facts.staleness import duration
from memkit.store import namespace as ns
from memkit.store import reads, tenants
from memkit.store.filters import compile_filter
from memkit.store.items import VersionedItem, VersionedSearchItem, serialized_as
from memkit.store.plan import LIVE, Address, Batch, Group, Statement, Write, groups, plan

Retention: TypeAlias = timedelta | str | bool | None
"""How long superseded versions are kept: a duration, True for ever, False or None not at all."""

DEFAULT_RETENTION = "30d"
# Postgres cannot subtract more from today than some 6,700 years.
_FOR_EVER = timedelta(days=365_000)
# Of one put, where others put and delete the key anew each time between lock and insert.
_ATTEMPTS = 20

# Where another store replaced versions without keeping them, one may be counted twice: the later
# stays, and the put goes on.
_KEEP = """
INSERT INTO memkit_history
    (tenant, namespace, key, version, value, created_at, updated_at, ended_at, expires_at)
SELECT i.tenant, i.namespace, i.key, i.version, i.value, i.created_at, i.updated_at,
    greatest(i.updated_at, now()), i.expires_at
FROM {rows} i WHERE {live}
ON CONFLICT (tenant, namespace, key, version) DO UPDATE SET
    value = excluded.value,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    ended_at = excluded.ended_at,
    expires_at = excluded.expires_at
"""
_KEEP_LIVE = _KEEP.format(rows="{rows}", live=LIVE)

_ASKED = "%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[]"

# What was inserted after the lock was sought is neither in `old` nor written: it is tried again.
_PUT = f"""
WITH old AS MATERIALIZED (
    SELECT i.* FROM memkit_items i
    JOIN unnest({_ASKED}) AS asked (tenant, namespace, key)
        ON i.namespace = asked.namespace AND i.key = asked.key
    WHERE i.tenant = {{tenant}}
    FOR UPDATE OF i
), kept AS ({_KEEP_LIVE.format(rows="old")})
INSERT INTO memkit_items AS item
    (tenant, namespace, key, value, created_at, updated_at, ttl_minutes, expires_at, version)
SELECT {{tenant}}, asked.namespace, asked.key, asked.value::jsonb,
    CASE WHEN i.key IS NOT NULL AND {LIVE} THEN i.created_at
        ELSE greatest(i.updated_at, now()) END,
    greatest(i.updated_at, now()), asked.ttl, now() + make_interval(secs => asked.ttl * 60),
    coalesce(i.version, 0) + 1
FROM unnest({_ASKED}, %(values)b::text[], %(ttls)s::float8[])
    AS asked (tenant, namespace, key, value, ttl)
LEFT JOIN old i
    ON i.tenant = {{tenant}} AND i.namespace = asked.namespace AND i.key = asked.key
ON CONFLICT (tenant, namespace, key) DO UPDATE SET
    value = excluded.value,
    created_at = excluded.created_at,
    updated_at = excluded.updated_at,
    ttl_minutes = excluded.ttl_minutes,
    expires_at = excluded.expires_at,
    version = excluded.version
WHERE item.version = excluded.version - 1
RETURNING item.tenant, item.namespace, item.key, item.version
"""

# A deleted item that is put again goes on counting where its history ends. Of its own, since only
# a new snapshot shows what others committed before the row could be inserted; from then on the row
# keeps everybody else out.
_GO_ON = f"""
UPDATE memkit_items i SET
    version = last.version + 1,
    created_at = greatest(i.created_at, last.ended_at),
    updated_at = greatest(i.updated_at, last.ended_at)
FROM unnest({_ASKED}) AS asked (tenant, namespace, key)
CROSS JOIN LATERAL (
    SELECT h.version, h.ended_at FROM memkit_history h
    WHERE h.tenant = {{tenant}} AND h.namespace = asked.namespace AND h.key = asked.key
    ORDER BY h.version DESC LIMIT 1
) AS last
WHERE i.tenant = {{tenant}} AND i.namespace = asked.namespace AND i.key = asked.key
    AND i.version <= last.version
"""

_DELETE = f"""
WITH gone AS (
    DELETE FROM memkit_items i
    USING unnest({_ASKED}) AS asked (tenant, namespace, key)
    WHERE i.tenant = {{tenant}} AND i.namespace = asked.namespace AND i.key = asked.key
    RETURNING i.*
)
{_KEEP_LIVE.format(rows="gone")}
"""

PUT_IF_VERSION = f"""
WITH old AS MATERIALIZED (
    SELECT i.*, asked.value AS new_value, asked.ttl AS new_ttl FROM memkit_items i
    JOIN unnest(%(namespaces)b::text[], %(keys)b::text[], %(versions)s::bigint[],
        %(values)b::text[], %(ttls)s::float8[]) AS asked (namespace, key, version, value, ttl)
        ON i.namespace = asked.namespace AND i.key = asked.key AND i.version = asked.version
    WHERE i.tenant = %(tenant)s AND {LIVE}
    FOR UPDATE OF i
), kept AS ({_KEEP.format(rows="old", live="true")})
UPDATE memkit_items i SET
    value = old.new_value::jsonb,
    updated_at = greatest(old.updated_at, now()),
    ttl_minutes = old.new_ttl,
    expires_at = now() + make_interval(secs => old.new_ttl * 60),
    version = old.version + 1
FROM old
WHERE i.tenant = %(tenant)s AND i.namespace = old.namespace AND i.key = old.key
RETURNING i.tenant, i.namespace, i.key
"""
DELETE_IF_VERSION = f"""
WITH gone AS (
    DELETE FROM memkit_items i
    USING unnest(%(namespaces)b::text[], %(keys)b::text[], %(versions)s::bigint[])
        AS asked (namespace, key, version)
    WHERE i.tenant = %(tenant)s AND i.namespace = asked.namespace AND i.key = asked.key
        AND i.version = asked.version AND {LIVE}
    RETURNING i.*
)
{_KEEP.format(rows="gone", live="true")}
RETURNING tenant, namespace, key
"""

_FORGET = f"""
DELETE FROM memkit_history h
USING unnest({_ASKED}) AS asked (tenant, namespace, key)
WHERE h.tenant = {{tenant}} AND h.namespace = asked.namespace AND h.key = asked.key
"""

_COLUMNS = "i.namespace, i.key, i.value, i.created_at, i.updated_at, i.version"
_AS_ITEM = (
    "i.namespace, i.key, i.value::text, i.created_at, i.updated_at, false AS is_due, i.version"
)
_KEPT = f"""
    (%(keep)s::interval IS NULL OR i.ended_at > now() - %(keep)s::interval) AND {LIVE}
"""
_AT = f"""
SELECT {_AS_ITEM} FROM (
    SELECT {_COLUMNS} FROM memkit_items i
    WHERE {{where}} AND i.updated_at <= %(as_of)s AND {LIVE}
    UNION ALL
    SELECT {_COLUMNS} FROM memkit_history i
    WHERE {{where}} AND i.updated_at <= %(as_of)s AND i.ended_at > %(as_of)s AND {_KEPT}
) AS i
WHERE {{filter}}
ORDER BY {reads.NEWEST} {reads.PAGE}
"""
_ONE = "i.tenant = %(tenant)s AND i.namespace = %(namespace)s AND i.key = %(key)s"
_VERSIONS = f"""
SELECT {_AS_ITEM}, i.ended_at FROM (
    SELECT {_COLUMNS}, NULL::timestamptz AS ended_at FROM memkit_items i WHERE {_ONE} AND {LIVE}
    UNION ALL
    SELECT {_COLUMNS}, i.ended_at FROM memkit_history i WHERE {_ONE} AND {_KEPT}
) AS i
ORDER BY i.version DESC LIMIT %(limit)s
"""


@serialized_as(Item)
class ItemVersion(VersionedItem):
    """One version of an item, current or superseded."""

    __slots__ = ("ended_at",)

    ended_at: datetime | None
    """When it was replaced or deleted; None for the current one. It stood from `updated_at`."""

    def __init__(self, *, ended_at: datetime | None, **item: Any) -> None:
        super().__init__(**item)
        self.ended_at = ended_at

    def __reduce__(self) -> tuple[Any, ...]:
        _, (fields,) = super().__reduce__()
        return _item_version, ({**fields, "ended_at": self.ended_at},)


def _item_version(fields: dict[str, Any]) -> ItemVersion:
    return ItemVersion(**fields)


def forget(addresses: Iterable[Address]) -> list[Statement]:
    """Return the statements that delete the superseded versions of some items, one per tenant."""
    return [group.statement(_FORGET) for group in groups(addresses, apart=True)]


def retention(value: Retention) -> timedelta | None:
    """Return how long superseded versions are kept: None for ever, zero not at all.

    Raises:
        ConfigError: It is no duration.
    """
    if value is True:
        return None
    if value is False or value is None:
        return timedelta(0)
    kept = duration(value)
    return None if kept > _FOR_EVER else kept


@dataclass(frozen=True, slots=True)
class History:
    """The superseded versions in a database.

    Attributes:
        database: The database.
        keep: How long they are kept; None is for ever, zero never.
        named: Lets work name its tenants first, where the database hides those not named.
    """

    database: Database
    keep: timedelta | None
    named: Callable[[Callable[[Connection], Any], Statement], Callable[[Connection], Any]]

    @property
    def is_kept(self) -> bool:
        """Whether writes keep what they replace."""
        return self.keep is None or self.keep > timedelta(0)

    # Writes

    def write(self, cursor: psycopg.Cursor[Any], batch: Batch, *, apart: bool) -> set[Address]:
        """Put and delete what asks for no version; number on what was deleted before.

        Does nothing where no versions are kept.

        Args:
            cursor: In the transaction of the batch.
            batch: What to write.
            apart: Whether each tenant has statements of its own.

        Returns:
            What is new, and so has no passages yet.
        """
        if not self.is_kept:
            return set()
        puts: list[Address] = []
        gone: list[Address] = []
        absent: list[Address] = []  # or expired
        for address, new in batch.writes.items():
            if new.if_version is None:
                (gone if new.value is None else puts).append(address)
            elif new.if_version == 0:
                absent.append(address)
        fresh: set[Address] = set()
        for group in groups(puts, apart=apart):
            fresh |= self._put(cursor, group, batch.writes)
        for sql, addresses in ((_DELETE, gone), (_GO_ON, [*absent, *fresh])):
            for group in groups(addresses, apart=apart):
                cursor.execute(*group.statement(sql))
        return fresh

    @staticmethod
    def _put(
        cursor: psycopg.Cursor[Any], group: Group, writes: Mapping[Address, Write]
    ) -> set[Address]:
        """Put items, and return those that were new."""
        fresh: set[Address] = set()
        for _ in range(_ATTEMPTS):
            statement = group.statement(
                _PUT,
                values=[writes[address].value for address in group.addresses],
                ttls=[writes[address].ttl_minutes for address in group.addresses],
            )
            rows = cursor.execute(*statement).fetchall()
            put = {Address(*row[:3]): row[3] for row in rows}
            fresh |= {address for address, version in put.items() if version == 1}
            left = [address for address in group.addresses if address not in put]
            if not left:
                return fresh
            group = Group(group.tenant, left)
        msg = f"others kept putting and deleting the item with key {left[0].key!r}"
        raise pg.SerializationFailure(msg)  # the transaction starts anew

    # Reads

    def get(self, namespace: tuple[str, ...], key: str, as_of: datetime) -> Body[Item | None]:
        """Read what stood at an address at a moment."""
        as_of = self._moment(as_of)
        plan([GetOp(namespace, key)], None)
        statement = Statement(
            _AT.format(where=_ONE, filter="true"),
            {
                **Address.of(namespace, key)._asdict(),
                "as_of": as_of,
                "keep": self.keep,
                "limit": 1,
                "offset": 0,
            },
        )
        rows = yield self._read(statement, tenants.name([ns.tenant(namespace)]))
        return reads.as_item(reads.item(rows[0])) if rows else None

    def search(self, op: SearchOp, as_of: datetime) -> Body[list[VersionedSearchItem]]:
        """Read what stood below a namespace at a moment, the newest first."""
        as_of = self._moment(as_of)
        if op.query:
            msg = (
                "search takes query or as_of, not both: no vectors or words are kept of old "
                "versions; pass as_of with a filter, and rank what it gives"
            )
            raise ConfigError(msg)
        plan([op], None)
        filter_sql, params = compile_filter(op.filter, "i.value")
        where = ns.subtree_sql("i", len(op.namespace_prefix))
        statement = Statement(
            _AT.format(where=where, filter=filter_sql),
            {
                **params,
                **ns.subtree(op.namespace_prefix),
                "as_of": as_of,
                "keep": self.keep,
                "limit": op.limit,
                "offset": op.offset,
            },
        )
        rows = yield self._read(statement, tenants.of_prefix(op.namespace_prefix))
        return [reads.item(row) for row in rows]

    def versions(
        self, namespace: tuple[str, ...], key: str, limit: int | None
    ) -> Body[list[ItemVersion]]:
        """Read the versions of an item, the newest first."""
        plan([GetOp(namespace, key), SearchOp((), limit=0 if limit is None else limit)], None)
        address = Address.of(namespace, key)
        statement = Statement(_VERSIONS, {**address._asdict(), "keep": self.keep, "limit": limit})
        rows = yield self._read(statement, tenants.name([address.tenant]))
        return [_version(row) for row in rows]

    def _read(self, statement: Statement, name: Statement) -> Transaction:
        work = self.named(partial(_fetched, statement), name)
        return Transaction(self.database, work, writes=False)

    def _moment(self, as_of: Any) -> datetime:
        """Check a moment: beyond what is kept, an answer would leave out what stood then."""
        if not isinstance(as_of, datetime) or as_of.utcoffset() is None:
            msg = f"as_of is a datetime with a time zone, such as datetime.now(UTC), not {as_of!r}"
            raise ConfigError(msg)
        if not self.is_kept:
            msg = "as_of asks for old versions, and this store keeps none; open it with history="
            raise ConfigError(msg)
        if self.keep is not None and as_of < (since := datetime.now(UTC) - self.keep):
            msg = (
                f"as_of={as_of.isoformat()} is before {since.isoformat(timespec='seconds')}: old "
                f"versions are kept for {self.keep}; open the store with a longer history="
            )
            raise ConfigError(msg)
        return as_of


def _fetched(statement: Statement, connection: Connection) -> list[Any]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(*statement).fetchall()


def _version(row: Sequence[Any]) -> ItemVersion:
    item = reads.item(row[:7])
    return ItemVersion(
        value=item.value,
        key=item.key,
        namespace=item.namespace,
        created_at=item.created_at,
        updated_at=item.updated_at,
        version=item.version,
        ended_at=row[7],
    )
