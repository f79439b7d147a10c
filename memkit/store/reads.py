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
# Candidates per item that is wanted: some of them may have expired, or not pass the filter.
_SPARE = 4

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
_COSINE = "coalesce(nullif(1 - (p.embedding <=> %(vector)b::halfvec), 'NaN'), 0)"
_SIMILARITY = {
    "cosine": _COSINE,
    "l2": "-(p.embedding <-> %(vector)b::halfvec)",
    "inner_product": "-(p.embedding <#> %(vector)b::halfvec)",
}
_SAME_ITEM = "p.tenant = i.tenant AND p.namespace = i.namespace AND p.key = i.key"
# Items that have no indexed text come last.
_BEST_FIRST = f"score DESC NULLS LAST, {_NEWEST} {_PAGE}"

# Every item by its best passage. With a selective filter few passages are looked at.
_BY_VECTOR = f"""
SELECT {_ITEM}, best.score FROM memkit_items i
CROSS JOIN LATERAL (
    SELECT max({{similarity}}) AS score
    FROM memkit_passages p WHERE {{p_tenant}} AND {_SAME_ITEM} AND p.embedding IS NOT NULL
) AS best
WHERE {{i_subtree}} AND {LIVE} AND {{filter}}
ORDER BY {_BEST_FIRST}
"""

_SCORED_BY_VECTOR = """
    SELECT p.tenant, p.namespace, p.key, max({similarity}) AS score
    FROM memkit_passages p WHERE {p_subtree} AND p.embedding IS NOT NULL
    GROUP BY p.tenant, p.namespace, p.key
"""

# The words of the query that an item has, weighted by their inverse document frequency below the
# prefix (the idf of BM25), as a share of the weight of all the query's words. Words are bits of
# one number, hence the limit: what is asked at the beginning counts.
_WITH_WORDS = r"""
WITH asked AS MATERIALIZED (
    SELECT 1::bigint << (row_number() OVER (ORDER BY positions[1], lexeme) - 1)::integer AS bit,
        ('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''')::tsquery AS query
    FROM unnest(to_tsvector('english', left(%(words)s::text, 4000)))
    ORDER BY positions[1], lexeme LIMIT 60
), item AS MATERIALIZED (
    SELECT tenant, namespace, key, max(cosine) AS cosine, bit_or(found) AS found
    FROM (
        SELECT p.tenant, p.namespace, p.key, {cosine} AS cosine,
            (SELECT coalesce(bit_or(bit), 0) FROM asked WHERE p.tsv @@ query) AS found
        FROM memkit_passages p WHERE {p_subtree}
    ) AS passage
    GROUP BY tenant, namespace, key
), rarity AS MATERIALIZED (
    SELECT bit, ln(1 + (total - seen + 0.5) / (seen + 0.5))::float8 AS idf
    FROM (
        SELECT bit, (SELECT count(*) FROM item) AS total,
            (SELECT count(*) FROM item WHERE found & bit <> 0) AS seen
        FROM asked
    ) AS counts
), scored AS (
    SELECT tenant, namespace, key, {score} AS score FROM item WHERE {keep}
)
"""
_SHARE = """CASE WHEN found = 0 THEN 0 ELSE (
        SELECT sum(idf) FILTER (WHERE found & bit <> 0) / sum(idf) FROM rarity
    ) END"""
_SCORED_BY_WORDS = "SELECT tenant, namespace, key, score FROM scored"

# Of the best candidates those that the filter lets through: a probe for each, whatever the planner
# believes of how many there are. The latest of equals may stand behind the last candidate.
_OF_CANDIDATES = f"""
SELECT {_ITEM}, best.score FROM (
    {{scored}} ORDER BY score DESC FETCH FIRST (%(candidates)s::bigint) ROWS WITH TIES
) AS best
JOIN memkit_items i ON {{i_tenant}}
    AND i.tenant = best.tenant AND i.namespace = best.namespace AND i.key = best.key
WHERE {LIVE} AND {{filter}}
ORDER BY {_BEST_FIRST}
"""
_OF_ALL = f"""
SELECT {_ITEM}, score FROM (
    SELECT i.*, best.score FROM scored AS best
    JOIN memkit_items i ON {{i_tenant}}
        AND i.tenant = best.tenant AND i.namespace = best.namespace AND i.key = best.key
    UNION ALL
    SELECT i.*, NULL FROM memkit_items i
    WHERE {{i_subtree}} AND {{without}} AND NOT EXISTS (
        SELECT FROM memkit_passages p WHERE {{p_tenant}} AND {_SAME_ITEM}
    )
) AS i
WHERE {LIVE} AND {{filter}}
ORDER BY {_BEST_FIRST}
"""


def get(ops: Sequence[GetOp]) -> Statement:
    """Return the statement that reads the live ones among some items."""
    addresses = sorted({Address.of(op.namespace, op.key) for op in ops})
    return Statement(_GET, columns(addresses))


def search(
    op: SearchOp, mode: SearchMode | None, vector: Any = None, distance: Distance = "cosine"
) -> list[Statement]:
    """Return the statements of one search: each is for where the one before it gives too few.

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
        "candidates": _SPARE * (op.offset + op.limit + 1),
        "vector": vector,
        "words": words(op.query or ""),
    }
    parts = {
        "i_subtree": ns.subtree_sql("i", op.namespace_prefix),
        "p_subtree": ns.subtree_sql("p", op.namespace_prefix),
        "i_tenant": ns.tenant_sql("i", op.namespace_prefix),
        "p_tenant": ns.tenant_sql("p", op.namespace_prefix),
        "filter": filter_sql,
    }
    if not op.query or mode is None:
        return [Statement(_BROWSE.format(**parts), params)]
    if mode == "vector":
        parts["similarity"] = _SIMILARITY[distance]
        few = _OF_CANDIDATES.format(**parts, scored=_SCORED_BY_VECTOR.format(**parts))
        return [Statement(sql, params) for sql in (few, _BY_VECTOR.format(**parts))]
    if mode == "text":
        ranked = _WITH_WORDS.format(**parts, cosine="NULL", score=_SHARE, keep="found <> 0")
        return [Statement(ranked + _OF_ALL.format(**parts, without="false"), params)]
    # A passage without a vector counts as unrelated; an item without passages has no score.
    ranked = _WITH_WORDS.format(
        **parts,
        cosine=f"coalesce({_COSINE}, 0)",
        score=f"{VECTOR_WEIGHT} * cosine + {1 - VECTOR_WEIGHT} * {_SHARE}",
        keep="true",
    )
    few = _OF_CANDIDATES.format(**parts, scored=_SCORED_BY_WORDS)
    every = _OF_ALL.format(**parts, without="true")
    return [Statement(ranked + sql, params) for sql in (few, every)]


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
