"""The SQL of puts, deletes and renewals.

Batches that write several items of one namespace take turns, so that they never lock rows
crosswise; a batch of one write cannot, and waits for nobody's turn.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from zlib import crc32

from memkit.store import namespace as ns
from memkit.store import versions
from memkit.store.plan import (
    LIVE,
    Address,
    Batch,
    Statement,
    Write,
    columns,
    groups,
    passage_columns,
)
from memkit.store.text import Languages
from memkit.store.values import unescape
from memkit.store.vectors import FIRST_COLUMN, VectorSpace

_TURNS = 64
# A plan for any number of items would compare each with each.
_TAKE_TURN = """
SELECT set_config('plan_cache_mode', 'force_custom_plan', true),
    pg_advisory_xact_lock(hashtext('memkit_items'), turn)
FROM unnest(%(turns)s::integer[]) AS turn
"""

_INSERT = """
INSERT INTO memkit_items AS i
    (tenant, namespace, key, value, created_at, updated_at, ttl_minutes, expires_at, version)
SELECT tenant, namespace, key, value::jsonb, now(), now(), ttl,
    now() + make_interval(secs => ttl * 60), 1
FROM unnest(%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[], %(values)b::text[],
    %(ttls)s::float8[]) AS new (tenant, namespace, key, value, ttl)
ON CONFLICT (tenant, namespace, key) DO UPDATE SET
    value = excluded.value,
    created_at = {created_at},
    updated_at = excluded.updated_at,
    ttl_minutes = excluded.ttl_minutes,
    expires_at = excluded.expires_at,
    version = i.version + 1
"""

# An expired row counts as none, but its version goes on: who read it once is told of the new item.
_UPSERT = _INSERT.format(
    created_at="CASE WHEN i.expires_at <= excluded.updated_at "
    "THEN excluded.created_at ELSE i.created_at END"
)
_PUT_IF_ABSENT = f"""
{_INSERT.format(created_at="excluded.created_at")}
WHERE i.expires_at <= excluded.updated_at
RETURNING i.tenant, i.namespace, i.key
"""

# Whoever waits here for another writer of the row checks the version that the other left.
_WITH_VERSION = f"""
    i.tenant = %(tenant)s AND i.namespace = asked.namespace AND i.key = asked.key
    AND i.version = asked.version AND {LIVE}
RETURNING i.tenant, i.namespace, i.key
"""
_PUT_IF_VERSION = f"""
UPDATE memkit_items i SET
    value = asked.value::jsonb,
    updated_at = now(),
    ttl_minutes = asked.ttl,
    expires_at = now() + make_interval(secs => asked.ttl * 60),
    version = i.version + 1
FROM unnest(%(namespaces)b::text[], %(keys)b::text[], %(versions)s::bigint[], %(values)b::text[],
    %(ttls)s::float8[]) AS asked (namespace, key, version, value, ttl)
WHERE {_WITH_VERSION}
"""
_DELETE_IF_VERSION = f"""
DELETE FROM memkit_items i
USING unnest(%(namespaces)b::text[], %(keys)b::text[], %(versions)s::bigint[])
    AS asked (namespace, key, version)
WHERE {_WITH_VERSION}
"""

VERSION = f"""
SELECT i.version FROM memkit_items i
WHERE i.tenant = %(tenant)s AND i.namespace = %(namespace)s AND i.key = %(key)s AND {LIVE}
"""

_DELETE = """
DELETE FROM {table} old
USING unnest(%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[])
    AS asked (tenant, namespace, key)
WHERE old.tenant = {tenant} AND old.namespace = asked.namespace AND old.key = asked.key
"""

# A tsvector holds at most 1 MB, hence left(). unnest pads the shorter array with NULL.
_INDEX = """
INSERT INTO memkit_passages
    (tenant, namespace, key, path, text, {column}, tsv, terms, thread, position)
SELECT tenant, namespace, key, path, text, embedding,
    to_tsvector(language::regconfig, left(text, 100000)), memkit_terms(plain::jsonb),
    thread, position
FROM unnest(%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[], %(paths)b::text[],
    %(texts)b::text[], %(plain)b::text[], %(languages)b::text[], %(vectors)b::{vector_type}[],
    %(threads)b::text[], %(positions)b::bigint[])
    AS new (tenant, namespace, key, path, text, plain, language, embedding, thread, position)
"""

# A row that someone else is writing is left alone: the writer sets its expiry.
_REFRESH = """
WITH due AS (
    SELECT i.namespace, i.key FROM memkit_items i
    JOIN unnest(%(namespaces)b::text[], %(keys)b::text[]) AS read (namespace, key)
        ON i.namespace = read.namespace AND i.key = read.key
    WHERE i.tenant = %(tenant)s AND i.ttl_minutes IS NOT NULL AND i.expires_at > now()
    FOR UPDATE OF i SKIP LOCKED
)
UPDATE memkit_items i SET expires_at = now() + make_interval(secs => i.ttl_minutes * 60)
FROM due WHERE i.tenant = %(tenant)s AND i.namespace = due.namespace AND i.key = due.key
"""


def take_turns(batch: Batch) -> list[Statement]:
    """Return what comes before a batch's writes."""
    if len(batch.writes) < 2:
        return []
    turns = {crc32(address.namespace.encode()) % _TURNS for address in batch.writes}
    return [Statement(_TAKE_TURN, {"turns": sorted(turns)})]


def write_if(batch: Batch, *, history: bool = False) -> list[tuple[Statement, list[Address]]]:
    """Return the statements of the writes that ask for a version, and the addresses each writes.

    A statement returns the addresses that it wrote: of the others, the version is another one.

    Args:
        batch: The batch.
        history: Whether they keep the versions that they replace.
    """
    put, delete = _PUT_IF_VERSION, _DELETE_IF_VERSION
    if history:
        put, delete = versions.PUT_IF_VERSION, versions.DELETE_IF_VERSION
    kinds: dict[tuple[str, str | None], dict[Address, Write]] = {}
    for address, new in batch.writes.items():
        if new.if_version is None:
            continue
        if new.if_version == 0:
            kind: tuple[str, str | None] = (_PUT_IF_ABSENT, None)
        else:
            kind = (delete if new.value is None else put, address.tenant)
        kinds.setdefault(kind, {})[address] = new
    return [
        (
            Statement(
                sql,
                {
                    **columns(group),
                    **_contents(group),
                    "tenant": tenant,
                    "versions": [new.if_version for new in group.values()],
                },
            ),
            list(group),
        )
        for (sql, tenant), group in kinds.items()
    ]


def write(
    batch: Batch,
    vectors: Sequence[Any],
    *,
    space: VectorSpace | None,
    languages: Languages,
    history: bool = False,
    fresh: Collection[Address] = (),
    apart: bool = False,
) -> list[Statement]:
    """Return the statements of a batch's other writes, and of all its passages.

    The passages of every item written are replaced: a text that is gone is found no more.

    Args:
        batch: The batch.
        vectors: One per passage, or none at all.
        space: Where they lie.
        languages: Of the words.
        history: Whether versions are kept; `versions.History.write` then writes the items.
        fresh: Items that are new for certain, and so have no passages to replace.
        apart: Whether each tenant has statements of its own.
    """
    kept = {address: new for address, new in batch.writes.items() if new.value is not None}
    plain = {address: new for address, new in kept.items() if new.if_version is None}
    gone = [
        address
        for address, new in batch.writes.items()
        if new.value is None and new.if_version is None
    ]
    statements = []
    if plain and not history:
        statements.append(Statement(_UPSERT, {**columns(plain), **_contents(plain)}))
    statements += _delete(
        "memkit_passages", [address for address in kept if address not in fresh], apart=apart
    )
    if not history:
        statements += _delete("memkit_items", gone, apart=apart)
    if batch.passages:
        said = any(passage.position is not None for passage in batch.passages)
        params = {
            **passage_columns(batch.passages),
            "plain": [passage.plain for passage in batch.passages],
            "vectors": list(vectors),
            "languages": [languages.of(passage.language) for passage in batch.passages],
            "threads": [passage.thread for passage in batch.passages] if said else [],
            "positions": [passage.position for passage in batch.passages] if said else [],
        }
        column, type_ = (space.name, space.type) if space else (FIRST_COLUMN, "halfvec")
        statements.append(Statement(_INDEX.format(column=column, vector_type=type_), params))
    return statements


def _delete(table: str, addresses: Iterable[Address], *, apart: bool) -> list[Statement]:
    sql = _DELETE.replace("{table}", table)
    return [group.statement(sql) for group in groups(addresses, apart=apart)]


def refresh(addresses: Iterable[Address]) -> list[Statement]:
    """Return the statements that start the time to live of some items anew, one per tenant."""
    return [group.statement(_REFRESH) for group in groups(addresses, apart=True)]


def _contents(writes: Mapping[Address, Write]) -> dict[str, Any]:
    return {
        "values": [new.value for new in writes.values()],
        "ttls": [new.ttl_minutes for new in writes.values()],
    }


def conflict(address: Address, write: Write, found: int | None, others: int) -> str:
    """Return the message of a conflict.

    Args:
        address: The first item that is not as expected.
        write: What was to be written.
        found: The version it has; None if there is no such item.
        others: How many more items of the batch are not as expected.
    """
    more = f" (and {others} more of the batch)" if others else ""
    is_ = "does not exist" if found is None else f"has version {found}"
    wanted = f"version {write.if_version}" if write.if_version else "no such item (if_version=0)"
    return (
        f"the item with key {unescape(address.key)!r} in {ns.from_text(address.namespace)}{more} "
        f"{is_}, but {wanted} was expected: someone else changed it; nothing was written. Read "
        "again, decide again, and put with the version that was read"
    )
