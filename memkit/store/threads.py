"""The SQL of searches that see what stands around: candidates, and their neighbours in the thread.

Candidates are the nearest passages and those with the rarest words of the query. What comes back is
evidence rather than an order, one row per passage: its cosine, which words it has, and how rare
each word is. The order is made of it by whoever asks, `memkit.turns` for one.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from typing import Any

from memkit.effects import ThreadHit, ThreadHits, ThreadSearch
from memkit.store import namespace as ns
from memkit.store import reads
from memkit.store.plan import LIVE, Statement
from memkit.store.search import ASKED, COMMON, FOUND, SEEN, Reach
from memkit.store.values import words
from memkit.store.vectors import VectorSpace

_PLACE = "p.tenant, p.namespace, p.key, p.path, p.thread, p.position"
_KEY = "tenant, namespace, key, path"

_RARITY = """
rarity AS MATERIALIZED (
    SELECT bit, ln(1 + (total - seen + 0.5) / (seen + 0.5))::float8 AS idf FROM ({counts}) AS counts
)"""
_COUNTS = """
    SELECT bit, (SELECT count(*) FROM passage) AS total,
        (SELECT count(*) FROM passage WHERE found & bit <> 0) AS seen
    FROM asked
"""
_COUNTS_BY_INDEX = "SELECT bit, greatest(%(passages)s::bigint, seen) AS total, seen FROM seen"

# Every passage is looked at. OFFSET 0 keeps the planner from computing a cosine twice.
_ALL = f"""
{ASKED}, passage AS MATERIALIZED (
    SELECT {_PLACE}, {{cosine}} AS cosine, {FOUND}
    FROM memkit_passages p WHERE {{p_subtree}} OFFSET 0
), {_RARITY.format(counts=_COUNTS)}, ranked AS (
    SELECT *,
        cosine IS NOT NULL
            AND row_number() OVER (ORDER BY cosine DESC NULLS LAST) <= %(count)s
        OR found <> 0
            AND row_number() OVER (ORDER BY worth DESC) <= %(count)s
        AS is_best
    FROM (
        SELECT *, CASE WHEN found = 0 THEN 0 ELSE (
            SELECT sum(idf) FROM rarity WHERE found & bit <> 0
        ) END AS worth FROM passage
    ) AS passage
), chosen AS (
    SELECT * FROM (
        SELECT *,
            max(CASE WHEN is_best THEN position END) OVER (
                PARTITION BY tenant, thread ORDER BY position
            ) AS best_before,
            min(CASE WHEN is_best THEN position END) OVER (
                PARTITION BY tenant, thread ORDER BY position DESC
            ) AS best_behind
        FROM ranked
    ) AS ranked
    WHERE is_best
        OR position - best_before <= %(around)s::bigint
        OR best_behind - position <= %(around)s::bigint
)
"""

# In a scope that has indexes the candidates come out of them. A limit within a LATERAL means
# a probe for each row, whatever the planner believes of their number.
_BRANCHES = 16  # turns at one position: time travel leaves several
_AROUND = """
    SELECT DISTINCT tenant, thread, position + step AS position
    FROM best CROSS JOIN generate_series(-%(around)s::bigint, %(around)s::bigint) AS step
    WHERE position IS NOT NULL
"""
_BY_INDEX = f"""
{ASKED}, {SEEN}, {_RARITY.format(counts=_COUNTS_BY_INDEX)}, rare AS (
    SELECT {_PLACE}, sum(idf) AS worth
    FROM seen JOIN rarity USING (bit) CROSS JOIN LATERAL (
        SELECT * FROM memkit_passages p WHERE {{p_inside}} AND p.tsv @@ seen.query LIMIT {COMMON}
    ) AS p WHERE seen.seen < {COMMON} GROUP BY {_PLACE}
), best AS MATERIALIZED (
    (SELECT {_KEY}, thread, position FROM rare ORDER BY worth DESC LIMIT %(count)s)
    {{or_near}}
), place AS MATERIALIZED (
    SELECT {_KEY} FROM best
    UNION
    SELECT p.* FROM ({_AROUND}) AS near CROSS JOIN LATERAL (
        SELECT {_KEY} FROM memkit_passages p
        WHERE {{p_inside}} AND p.tenant = near.tenant AND p.thread = near.thread
            AND p.position = near.position
        LIMIT {_BRANCHES}
    ) AS p
), chosen AS (
    SELECT p.* FROM place CROSS JOIN LATERAL (
        SELECT p.tenant, p.namespace, p.key, {{cosine}} AS cosine, {FOUND}
        FROM memkit_passages p
        WHERE {{p_tenant}} AND p.tenant = place.tenant AND p.namespace = place.namespace
            AND p.key = place.key AND p.path = place.path
        LIMIT 1
    ) AS p
)
"""
_OR_NEAR = f"""
    UNION
    (SELECT {_PLACE} FROM memkit_passages p WHERE {{p_inside}} AND {{p_near}}
    ORDER BY {{near_order}} LIMIT %(count)s)
"""

# How rare the words are is told once, with the first row.
_ITEMS = f"""
SELECT {reads.ITEM}, chosen.cosine, chosen.found,
    CASE WHEN row_number() OVER () = 1
        THEN (SELECT array_agg(idf ORDER BY bit) FROM rarity) END
FROM chosen CROSS JOIN LATERAL (
    SELECT * FROM memkit_items i
    WHERE {{i_tenant}} AND i.tenant = chosen.tenant AND i.namespace = chosen.namespace
        AND i.key = chosen.key
    LIMIT 1
) AS i
WHERE {LIVE}
"""


def around(
    op: ThreadSearch,
    *,
    space: VectorSpace | None,
    vector: Any,
    language: str,
    reach: Reach | None,
) -> Statement:
    """Return the statement of a search in threads.

    Args:
        op: The search.
        space: Where the vectors lie; None: the words alone give candidates.
        vector: The query's embedding.
        language: Of the words, a text search configuration.
        reach: Of the indexes of the scope; None where there are none.
    """
    by_index = reach is not None and (reach.probes is not None or space is None)
    labels = min(len(op.namespace_prefix), ns.TENANT_LABELS + 1)
    return Statement(
        _text(space, labels, by_index=by_index),
        {
            **ns.subtree(op.namespace_prefix),
            "words": words(op.words),
            "language": language,
            "vector": vector,
            "count": op.candidates,
            "around": op.around,
            "passages": reach.passages if reach else None,
        },
    )


@lru_cache(maxsize=64)
def _text(space: VectorSpace | None, labels: int, *, by_index: bool) -> str:
    parts = {
        "p_subtree": ns.subtree_sql("p", labels),
        "p_inside": ns.subtree_sql("p", labels, by_key=False),
        "p_tenant": ns.tenant_sql("p", labels),
        "i_tenant": ns.tenant_sql("i", labels),
        "cosine": "NULL::float8",
        "or_near": "",
    }
    if space is not None:
        parts["cosine"] = space.similarity(f"p.{space.name}")
        # The condition of the whole tree's index; a tenant's has none.
        parts["p_near"] = "true" if labels >= ns.TENANT_LABELS else f"p.{space.is_there}"
        parts["near_order"] = space.order(f"p.{space.column}")
        parts["or_near"] = _OR_NEAR.format(**parts)
    return (_BY_INDEX if by_index else _ALL).format(**parts) + _ITEMS.format(**parts)


def hits(rows: Iterable[Sequence[Any]]) -> ThreadHits:
    """Decode the rows: an item with several passages has its best cosine, and the words of all."""
    by_item: dict[tuple[str, str], ThreadHit] = {}
    rarity: list[float] = []
    for row in rows:
        *item, cosine, found, idf = row
        rarity = idf or rarity
        place = (row[0], row[1])
        known = by_item.get(place)
        if known is None:
            # Most are only looked at: what else an item has is for those that are returned.
            by_item[place] = ThreadHit(reads.value(row), partial(reads.item, item), cosine, found)
        else:
            best = max((one for one in (known.cosine, cosine) if one is not None), default=None)
            by_item[place] = known._replace(cosine=best, found=known.found | found)
    return ThreadHits(list(by_item.values()), rarity)
