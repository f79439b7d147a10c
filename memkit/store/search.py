"""The SQL of ranked searches.

A search is a list of statements: each is for where the one before it gives too few. The best
passages come first, then only their items are read; in a scope that has indexes the passages are
those that the indexes give. The tenant stands beside every table wherever the prefix names one.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import Any, NamedTuple

from langgraph.store.base import SearchOp

from memkit.errors import ConfigError
from memkit.store import namespace as ns
from memkit.store.filters import compile_filter, equalities
from memkit.store.plan import LIVE, SearchMode, Statement
from memkit.store.reads import ITEM, NEWEST, PAGE
from memkit.store.values import encode, escape, words
from memkit.store.vectors import VectorSpace

# Hybrid score = VECTOR_WEIGHT * cosine + (1 - VECTOR_WEIGHT) * the share of the query's words
# found, each word counting by its rarity in the searched scope. On LoCoMo any weight from .2 to
# .5 is within .01 of the best.
VECTOR_WEIGHT = 0.4

# Candidates beyond those wanted, since some may have expired; per item wanted where a filter may
# refuse them.
_SPARE = 4
# With indexes: how many passages the vectors give to a hybrid search, and in how many passages a
# word must not be for it to give candidates.
_NEAR = 200
COMMON = 2_000


@dataclass(frozen=True, slots=True)
class Boosts:
    """What counts in a ranking beside meaning and words; it is added to the score.

    Attributes:
        recency: What an item gets for having been written just now; half of it after
            `half_life_days`, and so on.
        half_life_days: See there.
        importance: What an item gets whose importance is 1, or above.
        importance_field: The field of the value that holds the importance, from 0 to 1.

    Raises:
        ConfigError: A number makes no sense.
    """

    recency: float = 0.0
    half_life_days: float = 90.0
    importance: float = 0.0
    importance_field: str = "importance"

    def __post_init__(self) -> None:
        """Refuse what would turn a ranking upside down."""
        for name in ("recency", "half_life_days", "importance"):
            number: Any = getattr(self, name)
            if not isinstance(number, int | float) or not 0 <= number < inf:
                msg = f"boosts: {name} is a number from 0 on, not {number!r}"
                raise ConfigError(msg)
        if self.half_life_days == 0:
            msg = "boosts: half_life_days is above 0"
            raise ConfigError(msg)

    @property
    def sql(self) -> str:
        """What is added to the score of item i."""
        terms = []
        if self.recency:
            age = "greatest(0, extract(epoch FROM now() - i.updated_at))::float8"
            terms.append(f" + {self.recency} * 0.5 ^ ({age} / {86_400 * self.half_life_days})")
        if self.importance:
            number = "memkit_number(i.value -> %(importance_field)s::text)::float8"
            terms.append(f" + {self.importance} * least(greatest(coalesce({number}, 0), 0), 1)")
        return "".join(terms)


NO_BOOSTS = Boosts()


class Reach(NamedTuple):
    """What the indexes of a scope were measured to need.

    Attributes:
        passages: How many there were.
        probes: How many lists of the vector index to look into; None where it does not pay.
    """

    passages: int
    probes: int | None


_SAME_ITEM = "p.tenant = i.tenant AND p.namespace = i.namespace AND p.key = i.key"
# Items that have no indexed text come last.
_BEST_FIRST = f"score DESC NULLS LAST, {NEWEST} {PAGE}"

# Every item by its best passage. With a selective filter few passages are looked at.
_BY_VECTOR = f"""
SELECT {ITEM}, best.score{{boost}} AS score FROM memkit_items i
CROSS JOIN LATERAL (
    SELECT max({{similarity}}) AS score
    FROM memkit_passages p WHERE {{p_tenant}} AND {_SAME_ITEM} AND {{p_vector}}
) AS best
WHERE {{i_subtree}} AND {LIVE} AND {{filter}}
ORDER BY {_BEST_FIRST}
"""

# OFFSET 0: what is grouped, by sorting perhaps, are scores, and not whole vectors.
_SCORED_BY_VECTOR = """
    SELECT tenant, namespace, key, max(score) AS score FROM (
        SELECT p.tenant, p.namespace, p.key, {similarity} AS score
        FROM memkit_passages p WHERE {p_subtree} AND {p_terms} AND {p_vector} OFFSET 0
    ) AS passage GROUP BY tenant, namespace, key
"""
# The planner takes the index of vectors, or that of terms where few passages pass the filter.
_NEAREST = """
        SELECT p.tenant, p.namespace, p.key, {near_similarity} AS score
        FROM memkit_passages p WHERE {p_inside} AND {p_terms} AND {p_near}
        ORDER BY {near_order} LIMIT %(near)s
"""
_SCORED_BY_INDEX = f"""
    SELECT tenant, namespace, key, max(score) AS score FROM ({_NEAREST}) AS near
    GROUP BY tenant, namespace, key
"""

# The words of the query are bits of one number, hence the limit: what is asked first counts.
ASKED = r"""
WITH asked AS MATERIALIZED (
    SELECT 1::bigint << (row_number() OVER (ORDER BY positions[1], lexeme) - 1)::integer AS bit,
        ('''' || replace(replace(lexeme, '\', '\\'), '''', '''''') || '''')::tsquery AS query
    FROM unnest(to_tsvector(%(language)s::regconfig, left(%(words)s::text, 4000)))
    ORDER BY positions[1], lexeme LIMIT 60
)"""
_OF_ITEMS = """
    SELECT tenant, namespace, key, max(cosine) AS cosine, bit_or(found) AS found
    FROM ({passages} OFFSET 0) AS passage GROUP BY tenant, namespace, key
"""
FOUND = "(SELECT coalesce(bit_or(bit), 0) FROM asked WHERE p.tsv @@ query) AS found"
_PASSAGES = f"""
        SELECT p.tenant, p.namespace, p.key, {{cosine}} AS cosine, {FOUND}
        FROM memkit_passages p WHERE {{p_subtree}}
"""
# The words that an item has, weighted by their inverse document frequency below the prefix (the idf
# of BM25), as a share of the weight of all the query's words.
_SCORED = """
rarity AS MATERIALIZED (
    SELECT bit, ln(1 + (total - seen + 0.5) / (seen + 0.5))::float8 AS idf FROM ({counts}) AS counts
), scored AS (
    SELECT tenant, namespace, key, {score} AS score FROM item WHERE {keep}
)
"""
_SHARE = """CASE WHEN found = 0 THEN 0 ELSE (
        SELECT sum(idf) FILTER (WHERE found & bit <> 0) / sum(idf) FROM rarity
    ) END"""
_COUNTS = """
        SELECT bit, (SELECT count(*) FROM item) AS total,
            (SELECT count(*) FROM item WHERE found & bit <> 0) AS seen
        FROM asked
"""
_WITH_WORDS = f"{ASKED}, item AS MATERIALIZED ({_OF_ITEMS}), {_SCORED}"

# With indexes: the nearest passages, and those with a word that is not common.
SEEN = f"""seen AS MATERIALIZED (
    SELECT bit, query, (SELECT count(*) FROM (
        SELECT FROM memkit_passages p WHERE {{p_inside}} AND p.tsv @@ query LIMIT {COMMON}
    ) AS few) AS seen
    FROM asked
)"""
_WITH_RARE_WORDS = f"""
        SELECT rare.tenant, rare.namespace, rare.key, rare.cosine, seen.bit | rare.found AS found
        FROM seen CROSS JOIN LATERAL (
            SELECT p.tenant, p.namespace, p.key, {{cosine}} AS cosine, (
                SELECT coalesce(bit_or(bit), 0) FROM seen AS common
                WHERE common.seen >= {COMMON} AND p.tsv @@ common.query
            ) AS found
            FROM memkit_passages p
            WHERE {{p_inside}} AND {{p_terms}} AND p.tsv @@ seen.query LIMIT {COMMON}
        ) AS rare WHERE seen.seen < {COMMON}
"""
_OR_NEAR = f"""
        UNION ALL (
            SELECT p.tenant, p.namespace, p.key, {{near_similarity}}, {FOUND}
            FROM memkit_passages p WHERE {{p_inside}} AND {{p_terms}} AND {{p_near}}
            ORDER BY {{near_order}} LIMIT %(near)s
        )
"""
_COUNTS_BY_INDEX = "SELECT bit, greatest(%(passages)s::bigint, seen) AS total, seen FROM seen"
_WITH_WORDS_BY_INDEX = f"{ASKED}, {SEEN}, item AS MATERIALIZED ({_OF_ITEMS}), {_SCORED}"

_SCORED_BY_WORDS = "SELECT tenant, namespace, key, score FROM scored"

# Of the best candidates those that the filter lets through: a probe for each, whatever the planner
# believes of how many there are. The latest of equals may stand behind the last candidate.
_OF_CANDIDATES = f"""
SELECT {ITEM}, best.score{{boost}} AS score FROM (
    {{scored}} ORDER BY score DESC FETCH FIRST (%(candidates)s::bigint) ROWS WITH TIES
) AS best
JOIN memkit_items i ON {{i_tenant}}
    AND i.tenant = best.tenant AND i.namespace = best.namespace AND i.key = best.key
WHERE {LIVE} AND {{filter}}
ORDER BY {_BEST_FIRST}
"""
_OF_ALL = f"""
SELECT {ITEM}, score{{boost}} AS score FROM (
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


def ranked(
    op: SearchOp,
    mode: SearchMode,
    *,
    space: VectorSpace | None,
    vector: Any = None,
    language: str,
    reach: Reach | None = None,
    boosts: Boosts = NO_BOOSTS,
) -> list[Statement]:
    """Return the statements of one search with a query.

    Args:
        op: The search.
        mode: How the query ranks.
        space: Where the vectors lie; None only in mode "text".
        vector: The query's embedding, for "vector" and "hybrid".
        language: The query's, a text search configuration.
        reach: Of the indexes of the scope searched; None where there are none.
        boosts: What counts besides; among the best candidates by `mode`.

    Raises:
        ConfigError: The filter cannot be understood.
    """
    filter_sql, params = compile_filter(op.filter, "i.value")
    equal = equalities(op.filter)
    wanted = op.offset + op.limit
    candidates = _SPARE + wanted * (_SPARE if op.filter else 1) * (_SPARE if boosts.sql else 1)
    params |= {
        **ns.subtree(op.namespace_prefix),
        "limit": op.limit,
        "offset": op.offset,
        "candidates": candidates,
        "near": candidates if mode == "vector" else max(candidates, _NEAR),
        "vector": vector,
        "words": words(op.query or ""),
        "language": language,
        "equal": encode(equal, "the filter"),
        "passages": reach.passages if reach else None,
        "importance_field": escape(boosts.importance_field),
    }
    by_index = reach is not None and (reach.probes is not None or mode == "text")
    labels = min(len(op.namespace_prefix), ns.TENANT_LABELS + 1)
    texts = _texts(
        mode, space, labels, filter_sql, boosts.sql, has_terms=bool(equal), by_index=by_index
    )
    return [Statement(sql, params) for sql in texts]


@lru_cache(maxsize=256)
def _texts(
    mode: SearchMode,
    space: VectorSpace | None,
    labels: int,
    filter_sql: str,
    boost: str,
    *,
    has_terms: bool,
    by_index: bool,
) -> list[str]:
    parts = {
        "i_subtree": ns.subtree_sql("i", labels),
        "p_subtree": ns.subtree_sql("p", labels),
        "p_inside": ns.subtree_sql("p", labels, by_key=False),
        "i_tenant": ns.tenant_sql("i", labels),
        "p_tenant": ns.tenant_sql("p", labels),
        "p_terms": "p.terms @> memkit_terms(%(equal)s::jsonb)" if has_terms else "true",
        "filter": filter_sql,
        "boost": boost,
    }
    if space is not None:
        parts["p_vector"] = f"p.{space.is_there}"
        # The condition of the whole tree's index; a tenant's has none.
        parts["p_near"] = "true" if labels >= ns.TENANT_LABELS else parts["p_vector"]
        parts["similarity"] = space.similarity(f"p.{space.name}")
        parts["near_similarity"] = space.similarity(f"p.{space.column}")
        parts["near_order"] = space.order(f"p.{space.column}")
    if mode == "vector":
        return _by_vector(parts, by_index=by_index)
    if mode == "hybrid":
        return _by_both(parts, by_index=by_index)
    return _by_words(parts, by_index=by_index)


def _by_vector(parts: Mapping[str, str], *, by_index: bool) -> list[str]:
    scored = [_SCORED_BY_INDEX] if by_index else []
    scored.append(_SCORED_BY_VECTOR)
    return [
        *(_OF_CANDIDATES.format(**parts, scored=sql.format(**parts)) for sql in scored),
        _BY_VECTOR.format(**parts),
    ]


def _by_both(parts: Mapping[str, str], *, by_index: bool) -> list[str]:
    """A passage without a vector counts as unrelated; an item without passages has no score."""
    parts = {
        **parts,
        "cosine": parts["similarity"],
        "score": f"{VECTOR_WEIGHT} * cosine + {1 - VECTOR_WEIGHT} * {_SHARE}",
        "keep": "true",
        "without": "true",
        "or_near": _OR_NEAR,
    }
    best = _OF_CANDIDATES.format(**parts, scored=_SCORED_BY_WORDS)
    every = _of_all_passages(parts)
    few = [_of_candidates(parts)] if by_index else []
    return [*(sql + best for sql in (*few, every)), every + _OF_ALL.format(**parts)]


def _by_words(parts: Mapping[str, str], *, by_index: bool) -> list[str]:
    parts = {
        **parts,
        "cosine": "NULL",
        "score": _SHARE,
        "keep": "found <> 0",
        "without": "false",
        "or_near": "",
    }
    few = [_of_candidates(parts) + _OF_CANDIDATES.format(**parts, scored=_SCORED_BY_WORDS)]
    return [*(few if by_index else []), _of_all_passages(parts) + _OF_ALL.format(**parts)]


def _of_all_passages(parts: Mapping[str, str]) -> str:
    passages = _PASSAGES.format(**parts)
    return _WITH_WORDS.format(**parts, passages=passages, counts=_COUNTS)


def _of_candidates(parts: Mapping[str, str]) -> str:
    passages = (_WITH_RARE_WORDS + parts["or_near"]).format(**parts)
    return _WITH_WORDS_BY_INDEX.format(**parts, passages=passages, counts=_COUNTS_BY_INDEX)
