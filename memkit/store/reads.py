"""The SQL of gets, searches and listings, and from its rows back to items.

A search carries its tenant beside every table wherever its prefix names one; a batch of gets may
span tenants, and joins on them.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import GetOp, ListNamespacesOp, SearchOp

from memkit.store import namespace as ns
from memkit.store.filters import compile_filter
from memkit.store.items import VersionedItem, VersionedSearchItem
from memkit.store.plan import LIVE, Address, Distance, SearchMode, Statement, columns
from memkit.store.values import decode, unescape, words

# Hybrid score = VECTOR_WEIGHT * cosine + (1 - VECTOR_WEIGHT) * the share of the query's words
# found, each word counting by its rarity in the searched scope. On LoCoMo any weight from .2 to
# .5 is within .01 of the best.
VECTOR_WEIGHT = 0.4

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
WHERE {LIVE}
"""

_BROWSE = f"""
SELECT {_ITEM}, NULL::float8 AS score FROM memkit_items i
WHERE {{i_subtree}} AND {LIVE} AND {{filter}}
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
WHERE {{i_subtree}} AND {LIVE} AND {{filter}}
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
    WHERE {{i_subtree}} AND {LIVE} AND {{filter}}
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
    return Statement(_GET, columns(addresses))


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
    FROM memkit_items i WHERE {LIVE}
), listed AS (
    SELECT DISTINCT labels[1:coalesce(%(depth)s::integer, cardinality(labels))] AS labels
    FROM present WHERE {matches}
)
SELECT array_to_string(labels, '.') FROM listed ORDER BY labels COLLATE "C" {_PAGE}
"""
    return Statement(sql, {**params, "depth": op.max_depth, "limit": op.limit, "offset": op.offset})


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
