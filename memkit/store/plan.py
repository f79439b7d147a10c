"""From store operations to SQL, and from rows back to items. Nothing here touches a database.

In one batch every read sees the state before the batch's writes, and of several puts of one key
the last counts: the semantics of LangGraph's InMemoryStore. Puts that ask for a version check it in
the statement that writes, since a read before it could be out of date by then.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias, get_args
from zlib import crc32

from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    Op,
    PutOp,
    SearchOp,
    validate_op_namespace,
)

from memkit.effects import PutIf
from memkit.errors import ConfigError
from memkit.store import namespace as ns
from memkit.store.filters import compile_filter
from memkit.store.items import VersionedItem, VersionedSearchItem
from memkit.store.text import passages
from memkit.store.values import decode, encode, escape, unescape, words

SearchMode: TypeAlias = Literal["hybrid", "vector", "text"]
Distance: TypeAlias = Literal["cosine", "l2", "inner_product"]
SEARCH_MODES: tuple[str, ...] = get_args(SearchMode)

# Hybrid score = VECTOR_WEIGHT * cosine + (1 - VECTOR_WEIGHT) * the share of the query's words
# found, each word counting by its rarity in the searched scope. On LoCoMo any weight from .2 to
# .5 is within .01 of the best.
VECTOR_WEIGHT = 0.4


class Statement(NamedTuple):
    """SQL and its named parameters."""

    sql: str
    params: Mapping[str, Any]


class Address(NamedTuple):
    """The primary key of an item, as stored; sorts as Postgres sorts it."""

    tenant: str
    namespace: str
    key: str

    @classmethod
    def of(cls, namespace: tuple[str, ...], key: str) -> "Address":
        """Return where an item is stored."""
        return cls(ns.tenant(namespace), ns.to_text(namespace), escape(str(key)))


class Passage(NamedTuple):
    """A text to index."""

    address: Address
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Write:
    """What is to stand at an address; `value` None deletes, `if_version` None does not ask."""

    value: str | None
    ttl_minutes: float | None = None
    if_version: int | None = None


@dataclass(slots=True)
class Batch:
    """The operations of a batch, checked and sorted by kind; numbers are places in the results."""

    size: int = 0
    gets: list[tuple[int, GetOp]] = field(default_factory=list)
    searches: list[tuple[int, SearchOp]] = field(default_factory=list)
    listings: list[tuple[int, ListNamespacesOp]] = field(default_factory=list)
    writes: dict[Address, Write] = field(default_factory=dict)
    passages: list[Passage] = field(default_factory=list)


def plan(ops: Iterable[Op | PutIf], fields: Sequence[str] | None) -> Batch:
    """Check operations and sort them by kind; writes are in the order of their addresses.

    Args:
        ops: As given to `batch`.
        fields: What is indexed of a value where the put does not say; None indexes nothing.

    Raises:
        ConfigError: A limit, offset, depth, time to live, version or kind of operation that makes
            no sense, or another put of a key beside one that asks for its version.
        StoreError: A value that JSON cannot say.
        InvalidNamespaceError: A label that LangGraph refuses.
    """
    batch = Batch()
    puts: dict[Address, PutOp] = {}
    versions: dict[Address, int] = {}
    for place, operation in enumerate(ops):
        op = _put_of(operation) if isinstance(operation, PutIf) else operation
        validate_op_namespace(op)
        batch.size += 1
        if isinstance(op, GetOp):
            batch.gets.append((place, op))
        elif isinstance(op, SearchOp):
            _not_negative(limit=op.limit, offset=op.offset)
            batch.searches.append((place, op))
        elif isinstance(op, ListNamespacesOp):
            _not_negative(limit=op.limit, offset=op.offset, max_depth=op.max_depth or 0)
            batch.listings.append((place, op))
        elif isinstance(op, PutOp):
            address = Address.of(op.namespace, op.key)
            if address in versions or (address in puts and op is not operation):
                raise ConfigError(_put_twice(op))
            puts[address] = op
            if isinstance(operation, PutIf):
                versions[address] = _checked_version(operation)
        else:
            raise ConfigError(_unknown(op))
    for address, put in sorted(puts.items()):
        batch.writes[address] = _write(put, versions.get(address))
        if put.value is None or put.index is False or fields is None:
            continue
        wanted = fields if put.index is None else put.index
        batch.passages += [
            Passage(address, path, text) for path, text in passages(put.value, wanted).items()
        ]
    return batch


def _put_of(op: PutIf) -> PutOp:
    put: Any = op.put
    if not isinstance(put, PutOp):
        msg = f"PutIf holds a PutOp, not {type(put).__name__}"
        raise ConfigError(msg)
    return put


def _checked_version(op: PutIf) -> int:
    version: Any = op.if_version
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        msg = (
            f"if_version is the version of an item, or 0 for none, not {version!r} "
            f"(key {op.put.key!r})"
        )
        raise ConfigError(msg)
    if version == 0 and op.put.value is None:
        msg = (
            f"if_version=0 asks that there be no item with key {op.put.key!r}, so there is none to "
            "delete; pass the version that was read"
        )
        raise ConfigError(msg)
    return version


def _put_twice(put: PutOp) -> str:
    return (
        f"a batch puts key {put.key!r} in {put.namespace} more than once, with if_version; put it "
        "once, or in two batches"
    )


def _write(put: PutOp, if_version: int | None) -> Write:
    what = f"the value of key {put.key!r} in {put.namespace}"
    if put.value is None:
        return Write(None, if_version=if_version)
    value: Any = put.value
    if not isinstance(value, Mapping):
        msg = f"{what} is a {type(put.value).__name__}; a store keeps mappings with string keys"
        raise ConfigError(msg)
    is_number = isinstance(put.ttl, int | float)
    if put.ttl is not None and not (is_number and math.isfinite(put.ttl) and put.ttl > 0):
        msg = f"ttl is a number of minutes above 0 or None, not {put.ttl!r} (key {put.key!r})"
        raise ConfigError(msg)
    ttl = None if put.ttl is None else float(put.ttl)
    return Write(encode(put.value, what), ttl, if_version)


def _unknown(op: object) -> str:
    return f"a store knows get, search, put and list operations, not {type(op).__name__}"


def _not_negative(**numbers: Any) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int):
            msg = f"{name} is a whole number, not {number!r}"
            raise ConfigError(msg)
        if number < 0:
            msg = f"{name} is {number}; it cannot be negative"
            raise ConfigError(msg)


# Reads. A search carries its tenant beside every table wherever its prefix names one; a batch of
# gets or deletes may span tenants, and joins on them.

_LIVE = "(i.expires_at IS NULL OR i.expires_at > now())"
_ITEM = (
    "i.namespace, i.key, i.value::text, i.created_at, i.updated_at, i.ttl_minutes IS NOT NULL, "
    "i.version"
)
_NEWEST = "i.updated_at DESC, i.namespace, i.key"
_PAGE = "LIMIT %(limit)s OFFSET %(offset)s"

_GET = f"""
SELECT {_ITEM} FROM memkit_items i
JOIN unnest(%(tenants)s::text[], %(namespaces)s::text[], %(keys)s::text[])
    AS wanted (tenant, namespace, key)
    ON i.tenant = wanted.tenant AND i.namespace = wanted.namespace AND i.key = wanted.key
WHERE {_LIVE}
"""

_BROWSE = f"""
SELECT {_ITEM}, NULL::float8 AS score FROM memkit_items i
WHERE {{i_subtree}} AND {_LIVE} AND {{filter}}
ORDER BY {_NEWEST} {_PAGE}
"""

# A vector of zeros has no direction: its cosine is NaN in pgvector, and 0 here.
_COSINE = "coalesce(nullif(1 - (p.embedding <=> %(vector)b::vector), 'NaN'), 0)"
_SIMILARITY = {
    "cosine": _COSINE,
    "l2": "-(p.embedding <-> %(vector)b::vector)",
    "inner_product": "-(p.embedding <#> %(vector)b::vector)",
}

# The passages of item i: one probe of the primary key, however many items there are and whatever
# the planner believes about them.
_OF_ITEM = "{p_tenant} AND p.tenant = i.tenant AND p.namespace = i.namespace AND p.key = i.key"
# Items that have no indexed text come last.
_BEST_FIRST = f"score DESC NULLS LAST, {_NEWEST} {_PAGE}"

_BY_VECTOR = f"""
SELECT {_ITEM}, best.score FROM memkit_items i
CROSS JOIN LATERAL (
    SELECT max({{similarity}}) AS score
    FROM memkit_passages p WHERE {_OF_ITEM} AND p.embedding IS NOT NULL
) AS best
WHERE {{i_subtree}} AND {_LIVE} AND {{filter}}
ORDER BY {_BEST_FIRST}
"""

# The words of the query that an item has, weighted by their inverse document frequency among the
# items searched (the idf of BM25), as a share of the weight of all the query's words.
_BY_WORDS = f"""
WITH asked AS MATERIALIZED (
    SELECT coalesce(array_agg(lexeme), '{{{{}}}}') AS lexemes
    FROM unnest(to_tsvector('english', left(%(words)s::text, 4000)))
), scope AS MATERIALIZED (
    SELECT i.namespace, i.key, i.value, i.created_at, i.updated_at, i.ttl_minutes, i.version,
        ({{cosine}}) AS cosine,
        ARRAY(
            SELECT DISTINCT word.lexeme
            FROM memkit_passages p CROSS JOIN LATERAL unnest(p.tsv) AS word
            WHERE {_OF_ITEM} AND word.lexeme = ANY(asked.lexemes)
        ) AS lexemes
    FROM memkit_items i CROSS JOIN asked
    WHERE {{i_subtree}} AND {_LIVE} AND {{filter}}
), rarity AS MATERIALIZED (
    SELECT lexeme, ln(1 + (total - seen + 0.5) / (seen + 0.5))::float8 AS idf
    FROM (
        SELECT lexeme, (SELECT count(*) FROM scope) AS total,
            (SELECT count(*) FROM scope WHERE lexeme = ANY(scope.lexemes)) AS seen
        FROM asked CROSS JOIN LATERAL unnest(asked.lexemes) AS lexeme
    ) AS counts
)
SELECT {_ITEM}, {{score}} AS score
FROM scope i CROSS JOIN LATERAL (
    SELECT coalesce(sum(idf) FILTER (WHERE lexeme = ANY(i.lexemes)) / sum(idf), 0) AS share
    FROM rarity
) AS words
WHERE {{keep}}
ORDER BY {_BEST_FIRST}
"""
# A passage without a vector counts as unrelated; an item without passages has no score.
_BEST_COSINE = f"SELECT max(coalesce({_COSINE}, 0)) FROM memkit_passages p WHERE {_OF_ITEM}"
_FUSED = f"{VECTOR_WEIGHT} * i.cosine + {1 - VECTOR_WEIGHT} * words.share"


def get(ops: Sequence[GetOp]) -> Statement:
    """Return the statement that reads the live ones among some items."""
    addresses = sorted({Address.of(op.namespace, op.key) for op in ops})
    return Statement(_GET, _columns(addresses))


def search(
    op: SearchOp, mode: SearchMode | None, vector: Any = None, distance: Distance = "cosine"
) -> Statement:
    """Return the statement of one search.

    Args:
        op: The search.
        mode: How the query ranks; None ignores it: everything, newest first.
        vector: The query's embedding, for "vector" and "hybrid".
        distance: What ranks in mode "vector".

    Raises:
        ConfigError: The filter cannot be understood.
    """
    filter_sql, filter_params = compile_filter(op.filter, "i.value")
    params = {
        **filter_params,
        **ns.subtree(op.namespace_prefix),
        "limit": op.limit,
        "offset": op.offset,
    }
    parts = {
        "i_subtree": ns.subtree_sql("i", op.namespace_prefix),
        "p_tenant": ns.tenant_sql("p", op.namespace_prefix),
        "filter": filter_sql,
    }
    if not op.query or mode is None:
        return Statement(_BROWSE.format(**parts), params)
    if mode == "vector":
        params["vector"] = vector
        return Statement(_BY_VECTOR.format(**parts, similarity=_SIMILARITY[distance]), params)
    params["words"] = words(op.query)
    if mode == "text":
        sql = _BY_WORDS.format(
            **parts, cosine="NULL", score="words.share", keep="i.lexemes <> '{}'"
        )
        return Statement(sql, params)
    params["vector"] = vector
    cosine = _BEST_COSINE.format(**parts)
    sql = _BY_WORDS.format(**parts, cosine=cosine, score=_FUSED, keep="true")
    return Statement(sql, params)


def list_namespaces(op: ListNamespacesOp) -> Statement:
    """Return the statement that lists the namespaces that hold a live item, sorted."""
    matches, params = ns.match_sql(op)
    sql = f"""
WITH present AS (
    SELECT DISTINCT i.tenant, string_to_array(i.namespace, '.') AS labels
    FROM memkit_items i WHERE {_LIVE}
), listed AS (
    SELECT DISTINCT labels[1:coalesce(%(depth)s::integer, cardinality(labels))] AS labels
    FROM present WHERE {matches}
)
SELECT array_to_string(labels, '.') FROM listed ORDER BY labels COLLATE "C" {_PAGE}
"""
    return Statement(sql, {**params, "depth": op.max_depth, "limit": op.limit, "offset": op.offset})


# Writes. Batches that write several items of one namespace take turns, so that they never lock rows
# crosswise; a batch of one write cannot, and waits for nobody's turn.

_TURNS = 64
_TAKE_TURN = """
SELECT pg_advisory_xact_lock(hashtext('memkit_items'), turn)
FROM unnest(%(turns)s::integer[]) AS turn
"""

_INSERT = """
INSERT INTO memkit_items AS i
    (tenant, namespace, key, value, created_at, updated_at, ttl_minutes, expires_at, version)
SELECT tenant, namespace, key, value::jsonb, now(), now(), ttl,
    now() + make_interval(secs => ttl * 60), 1
FROM unnest(%(tenants)s::text[], %(namespaces)s::text[], %(keys)s::text[], %(values)s::text[],
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
    AND i.version = asked.version AND {_LIVE}
RETURNING i.tenant, i.namespace, i.key
"""
_PUT_IF_VERSION = f"""
UPDATE memkit_items i SET
    value = asked.value::jsonb,
    updated_at = now(),
    ttl_minutes = asked.ttl,
    expires_at = now() + make_interval(secs => asked.ttl * 60),
    version = i.version + 1
FROM unnest(%(namespaces)s::text[], %(keys)s::text[], %(versions)s::bigint[], %(values)s::text[],
    %(ttls)s::float8[]) AS asked (namespace, key, version, value, ttl)
WHERE {_WITH_VERSION}
"""
_DELETE_IF_VERSION = f"""
DELETE FROM memkit_items i
USING unnest(%(namespaces)s::text[], %(keys)s::text[], %(versions)s::bigint[])
    AS asked (namespace, key, version)
WHERE {_WITH_VERSION}
"""

VERSION = f"""
SELECT i.version FROM memkit_items i
WHERE i.tenant = %(tenant)s AND i.namespace = %(namespace)s AND i.key = %(key)s AND {_LIVE}
"""

_DELETE = """
DELETE FROM {table} old
USING unnest(%(tenants)s::text[], %(namespaces)s::text[], %(keys)s::text[])
    AS gone (tenant, namespace, key)
WHERE old.tenant = gone.tenant AND old.namespace = gone.namespace AND old.key = gone.key
"""

_INDEX = """
INSERT INTO memkit_passages (tenant, namespace, key, path, text, embedding)
SELECT * FROM unnest(%(tenants)s::text[], %(namespaces)s::text[], %(keys)s::text[],
    %(paths)s::text[], %(texts)s::text[], {embeddings})
"""

# A row that someone else is writing is left alone: the writer sets its expiry.
_REFRESH = """
WITH due AS (
    SELECT i.namespace, i.key FROM memkit_items i
    JOIN unnest(%(namespaces)s::text[], %(keys)s::text[]) AS read (namespace, key)
        ON i.namespace = read.namespace AND i.key = read.key
    WHERE i.tenant = %(tenant)s AND i.ttl_minutes IS NOT NULL AND i.expires_at > now()
    FOR UPDATE OF i SKIP LOCKED
)
UPDATE memkit_items i SET expires_at = now() + make_interval(secs => i.ttl_minutes * 60)
FROM due WHERE i.tenant = %(tenant)s AND i.namespace = due.namespace AND i.key = due.key
"""

EXPIRED_TENANTS = "SELECT DISTINCT tenant FROM memkit_items WHERE expires_at <= now()"
SWEEP = """
DELETE FROM memkit_items i WHERE i.tenant = %(tenant)s AND (i.namespace, i.key) IN (
    SELECT namespace, key FROM memkit_items
    WHERE tenant = %(tenant)s AND expires_at <= %(now)s
    FOR UPDATE SKIP LOCKED
)
"""


def take_turns(batch: Batch) -> list[Statement]:
    """Return what comes before a batch's writes."""
    if len(batch.writes) < 2:
        return []
    turns = {crc32(address.namespace.encode()) % _TURNS for address in batch.writes}
    return [Statement(_TAKE_TURN, {"turns": sorted(turns)})]


def write_if(batch: Batch) -> list[tuple[Statement, list[Address]]]:
    """Return the statements of the writes that ask for a version, and the addresses each writes.

    A statement returns the addresses that it wrote: of the others, the version is another one.
    """
    groups: dict[tuple[str, str | None], dict[Address, Write]] = {}
    for address, new in batch.writes.items():
        if new.if_version is None:
            continue
        if new.if_version == 0:
            kind: tuple[str, str | None] = (_PUT_IF_ABSENT, None)
        else:
            sql = _DELETE_IF_VERSION if new.value is None else _PUT_IF_VERSION
            kind = (sql, address.tenant)
        groups.setdefault(kind, {})[address] = new
    return [
        (
            Statement(
                sql,
                {
                    **_columns(group),
                    **_contents(group),
                    "tenant": tenant,
                    "versions": [new.if_version for new in group.values()],
                },
            ),
            list(group),
        )
        for (sql, tenant), group in groups.items()
    ]


def write(batch: Batch, vectors: Sequence[Any] | None) -> list[Statement]:
    """Return the statements of a batch's other writes, and of all its passages.

    The passages of every item written are replaced: a text that is gone is found no more.

    Args:
        batch: The batch.
        vectors: One per passage; None where there are none.
    """
    kept = {address: new for address, new in batch.writes.items() if new.value is not None}
    plain = {address: new for address, new in kept.items() if new.if_version is None}
    gone = [
        address
        for address, new in batch.writes.items()
        if new.value is None and new.if_version is None
    ]
    statements = []
    if plain:
        statements.append(Statement(_UPSERT, {**_columns(plain), **_contents(plain)}))
    if kept:
        statements.append(Statement(_DELETE.format(table="memkit_passages"), _columns(kept)))
    if gone:
        statements.append(Statement(_DELETE.format(table="memkit_items"), _columns(gone)))
    if batch.passages:
        statements.append(_index(batch.passages, vectors))
    return statements


def _index(rows: Sequence[Passage], vectors: Sequence[Any] | None) -> Statement:
    params = {
        **_columns([row.address for row in rows]),
        "paths": [row.path for row in rows],
        "texts": [row.text for row in rows],
    }
    if vectors is None:
        # unnest pads the shorter array with NULL.
        return Statement(_INDEX.format(embeddings="ARRAY[]::vector[]"), params)
    params["vectors"] = list(vectors)
    return Statement(_INDEX.format(embeddings="%(vectors)b::vector[]"), params)


def refresh(addresses: Iterable[Address]) -> list[Statement]:
    """Return the statements that start the time to live of some items anew, one per tenant."""
    by_tenant: dict[str, list[Address]] = {}
    for address in sorted(set(addresses)):
        by_tenant.setdefault(address.tenant, []).append(address)
    return [
        Statement(_REFRESH, {**_columns(group), "tenant": tenant})
        for tenant, group in by_tenant.items()
    ]


def _contents(writes: Mapping[Address, Write]) -> dict[str, Any]:
    return {
        "values": [new.value for new in writes.values()],
        "ttls": [new.ttl_minutes for new in writes.values()],
    }


def _columns(addresses: Iterable[Address]) -> dict[str, Any]:
    rows = list(addresses)
    return {
        "tenants": [address.tenant for address in rows],
        "namespaces": [address.namespace for address in rows],
        "keys": [address.key for address in rows],
    }


# Rows back to items.


@dataclass(frozen=True, slots=True)
class Found:
    """An item as read, where it is stored, and whether it has a time to live."""

    address: Address
    item: VersionedSearchItem
    has_ttl: bool


def namespaces(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Decode the rows of `list_namespaces`."""
    return [ns.from_text(text) for (text,) in rows]


def found(row: Sequence[Any]) -> Found:
    """Decode a row of a read; rows of `get` carry no score."""
    namespace_text, key, value, created_at, updated_at, has_ttl, version = row[:7]
    namespace = ns.from_text(namespace_text)
    item = VersionedSearchItem(
        namespace=namespace,
        key=unescape(key),
        value=decode(value),
        created_at=created_at,
        updated_at=updated_at,
        score=row[7] if len(row) > 7 else None,
        version=version,
    )
    return Found(Address(ns.tenant(namespace), namespace_text, key), item, bool(has_ttl))


def as_item(item: VersionedSearchItem) -> VersionedItem:
    """Return a fresh item without a score: what `get` gives."""
    return VersionedItem(
        value=item.value,
        key=item.key,
        namespace=item.namespace,
        created_at=item.created_at,
        updated_at=item.updated_at,
        version=item.version,
    )


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
