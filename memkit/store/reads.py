"""The SQL of gets, listings and searches without a query, and from rows back to items."""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import GetOp, ListNamespacesOp, SearchOp

from memkit.store import namespace as ns
from memkit.store.filters import compile_filter
from memkit.store.items import VersionedItem, VersionedSearchItem
from memkit.store.plan import LIVE, Address, Passage, Statement, by_group, groups
from memkit.store.values import decode, unescape

ITEM = (
    "i.namespace, i.key, i.value::text, i.created_at, i.updated_at, "
    "i.expires_at < now() + make_interval(secs => i.ttl_minutes * 60 * 0.98), i.version"
)
"""The columns of item i; the sixth: whether its time to live is worth starting anew."""

NEWEST = "i.updated_at DESC, i.namespace, i.key"
PAGE = "LIMIT %(limit)s OFFSET %(offset)s"
_GET = f"""
SELECT {ITEM} FROM memkit_items i
JOIN unnest(%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[])
    AS asked (tenant, namespace, key) ON i.namespace = asked.namespace AND i.key = asked.key
WHERE i.tenant = {{tenant}} AND {LIVE}
"""

_GET_ONE = f"""
SELECT {ITEM} FROM memkit_items i
WHERE i.tenant = %(tenant)s AND i.namespace = %(namespace)s AND i.key = %(key)s AND {LIVE}
"""

_EMBEDDED = """
SELECT p.text, p.{vectors} FROM memkit_passages p
JOIN unnest(%(tenants)b::text[], %(namespaces)b::text[], %(keys)b::text[], %(paths)b::text[],
    %(texts)b::text[]) AS asked (tenant, namespace, key, path, text)
    ON p.namespace = asked.namespace AND p.key = asked.key AND p.path = asked.path
    AND p.text = asked.text
WHERE p.tenant = {tenant} AND p.{vectors} IS NOT NULL
"""

_BROWSE = f"""
SELECT {ITEM}, NULL::float8 AS score FROM memkit_items i
WHERE {{i_subtree}} AND {LIVE} AND {{filter}}
ORDER BY {NEWEST} {PAGE}
"""

# In recursion rows come in the order in which they are found, and no more than are asked for.
_LABELS = r"replace(i.namespace, '.', E'\x01')"
_NEXT = f"""
    SELECT {_LABELS} FROM memkit_items i
    WHERE {_LABELS} >= {{first}} AND {_LABELS} < %(beyond)s::text
    ORDER BY {_LABELS} LIMIT 1
"""
# From one listed namespace to behind all that it stands for: itself, or all below it.
_LISTED = r"""
    SELECT labels[1:coalesce(%(depth)s::integer, cardinality(labels))] AS labels,
        array_to_string(labels, E'\x01') AS first,
        CASE WHEN cardinality(labels) >= %(depth)s::integer
            THEN array_to_string(labels[1:%(depth)s::integer], E'\x01') || E'\x02'
            ELSE array_to_string(labels, E'\x01') || E'\x01' END AS beyond
    FROM (
        SELECT string_to_array(place, E'\x01') AS labels FROM walk WHERE place IS NOT NULL
    ) AS here
"""
_WALK = f"""
WITH RECURSIVE walk (place) AS (
    ({_NEXT.format(first="%(first)s::text")})
    UNION ALL
    SELECT ({_NEXT.format(first="here.beyond")}) FROM ({_LISTED}) AS here
), listed AS (
    SELECT *, array_to_string(labels[1:{ns.TENANT_LABELS}], '.') AS tenant FROM ({_LISTED}) AS here
)
SELECT array_to_string(labels, '.') FROM listed
WHERE {{matches}} AND EXISTS (
    SELECT FROM memkit_items i WHERE {_LABELS} >= first AND {_LABELS} < beyond AND {LIVE}
)
{PAGE}
"""
_SCAN = f"""
WITH present AS (
    SELECT DISTINCT i.tenant, string_to_array(i.namespace, '.') AS labels
    FROM memkit_items i WHERE {LIVE}
), listed AS (
    SELECT DISTINCT labels[1:coalesce(%(depth)s::integer, cardinality(labels))] AS labels
    FROM present WHERE {{matches}}
)
SELECT array_to_string(labels, '.') FROM listed ORDER BY labels COLLATE "C" {PAGE}
"""


def get(ops: Sequence[GetOp], *, apart: bool) -> list[Statement]:
    """Return the statements that read the live ones among some items.

    Args:
        ops: Which items.
        apart: Whether each tenant has a statement of its own.
    """
    if len(ops) == 1:  # plain enough for Postgres to plan it once and for all
        return [Statement(_GET_ONE, Address.of(ops[0].namespace, ops[0].key)._asdict())]
    asked = groups((Address.of(op.namespace, op.key) for op in ops), apart=apart)
    return [group.statement(_GET) for group in asked]


def embedded(passages: Sequence[Passage], column: str, *, apart: bool) -> list[Statement]:
    """Return the statements that read text and vector of the passages that are there already.

    Args:
        passages: What is to be put.
        column: Of the vectors.
        apart: Whether each tenant has a statement of its own.
    """
    sql = _EMBEDDED.replace("{vectors}", column)
    return [group.statement(sql, **params) for group, params in by_group(passages, apart=apart)]


def browse(op: SearchOp) -> Statement:
    """Return the statement of a search without a query: the newest first.

    Raises:
        ConfigError: The filter cannot be understood.
    """
    filter_sql, params = compile_filter(op.filter, "i.value")
    i_subtree = ns.subtree_sql("i", len(op.namespace_prefix))
    return Statement(
        _BROWSE.format(i_subtree=i_subtree, filter=filter_sql),
        {**params, **ns.subtree(op.namespace_prefix), "limit": op.limit, "offset": op.offset},
    )


def list_namespaces(op: ListNamespacesOp, *, walk: bool = True) -> Statement:
    """Return the statement that lists the namespaces that hold a live item, sorted by labels.

    Args:
        op: What to list.
        walk: Whether to go from namespace to namespace, which Citus cannot.

    Cost: two probes of an index per namespace until the page is full; where labels beyond
    `max_depth` decide, a scan of all items.
    """
    matches, params = ns.match_sql(op)
    params |= {"depth": op.max_depth, "limit": op.limit, "offset": op.offset}
    conditions = op.match_conditions or ()
    if walk and (
        op.max_depth is None
        or (
            op.max_depth > 0
            and all(c.match_type == "prefix" and len(c.path) <= op.max_depth for c in conditions)
        )
    ):
        return Statement(_WALK.format(matches=matches), {**params, **ns.label_range(conditions)})
    return Statement(_SCAN.format(matches=matches), params)


# Rows back to items.


@dataclass(frozen=True, slots=True)
class Found:
    """An item as read, and whether its time to live is worth starting anew."""

    item: VersionedSearchItem
    is_due: bool

    @property
    def address(self) -> Address:
        """Where it is stored."""
        return Address.of(self.item.namespace, self.item.key)


def namespaces(rows: Iterable[Sequence[str]]) -> list[tuple[str, ...]]:
    """Decode the rows of `list_namespaces`."""
    return [ns.from_text(text) for (text,) in rows]


def item(row: Sequence[Any]) -> VersionedSearchItem:
    """Decode a row of a read; rows of `get` carry no score."""
    namespace, key, value, created_at, updated_at, _, version = row[:7]
    score = row[7] if len(row) > 7 else None
    return VersionedSearchItem(
        ns.from_text(namespace),
        unescape(key),
        decode(value),
        created_at,
        updated_at,
        score,
        version=version,
    )


def found(row: Sequence[Any]) -> Found:
    """Decode a row of a read that may start the time to live anew."""
    return Found(item(row), bool(row[5]))


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
