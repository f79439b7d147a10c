"""The SQL of searches that see what stands around an item in its thread.

Every passage of a scope is looked at; in a scope that has indexes, the nearest, those with the
rarest words of the query, and what is around each. A window over the thread then adds up what
speaks for an item, and only the best are read. `memkit.effects.ThreadSearch` says what counts.
"""

# ruff: noqa: S608 - statements are put together from constants; all else is a parameter

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from memkit.effects import ThreadSearch
from memkit.store import namespace as ns
from memkit.store import reads
from memkit.store.plan import LIVE, Statement
from memkit.store.search import ASKED, COMMON, FOUND, SEEN, Reach
from memkit.store.values import words
from memkit.store.vectors import VectorSpace

# A number for a thread sorts faster than its name. What is in none stands alone.
_THREAD = """coalesce(
        hashtextextended(p.tenant || p.thread, 0), hashtextextended(p.namespace || '.' || p.key, 1)
    ) AS thread"""
_PLACE = "tenant, namespace, key, thread, position"
_KEY = "p.tenant, p.namespace, p.key, p.path, p.thread, p.position"

# Of a long query the rarest words count: else its many common ones decide.
_RAREST = 12
_RARITY = f"""
rarity AS MATERIALIZED (
    SELECT bit, ln(1 + (total - seen + 0.5) / (seen + 0.5))::float8 AS idf
    FROM ({{counts}}) AS counts WHERE seen > 0 ORDER BY idf DESC, bit LIMIT {_RAREST}
)"""
_COUNTS = """
    SELECT bit, (SELECT count(*) FROM item) AS total, count(*) AS seen
    FROM item JOIN asked ON found & bit <> 0 WHERE found <> 0 GROUP BY bit
"""
_COUNTS_BY_INDEX = "SELECT bit, greatest(%(passages)s::bigint, seen) AS total, seen FROM seen"

# OFFSET 0 keeps the planner from computing a cosine twice.
_ITEM = f"""
item AS MATERIALIZED (
    SELECT {_PLACE}, max(cosine) AS cosine, bit_or(found) AS found
    FROM ({{passages}} OFFSET 0) AS passage GROUP BY {_PLACE}
)"""
_ALL = f"""
{ASKED}, {
    _ITEM.format(
        passages='''
    SELECT p.tenant, p.namespace, p.key, {thread}, p.position, {cosine} AS cosine, '''
        + FOUND
        + '''
    FROM memkit_passages p WHERE {p_subtree}
'''
    )
}, {_RARITY.format(counts=_COUNTS)}
"""

# A limit within a LATERAL means a probe for each row, whatever the planner believes of their
# number.
_BRANCHES = 16  # turns at one position: time travel leaves several
_AROUND = """
    SELECT DISTINCT tenant, thread, position + step AS position
    FROM best CROSS JOIN generate_series(-%(around)s::bigint, %(around)s::bigint) AS step
    WHERE position IS NOT NULL
"""
_BY_INDEX = f"""
{ASKED}, {SEEN}, {_RARITY.format(counts=_COUNTS_BY_INDEX)}, rare AS (
    SELECT {_KEY}, sum(idf) AS worth
    FROM seen JOIN rarity USING (bit) CROSS JOIN LATERAL (
        SELECT * FROM memkit_passages p WHERE {{p_inside}} AND p.tsv @@ seen.query LIMIT {COMMON}
    ) AS p WHERE seen.seen < {COMMON} GROUP BY {_KEY}
), best AS MATERIALIZED (
    (SELECT tenant, namespace, key, path, thread, position
    FROM rare ORDER BY worth DESC LIMIT %(candidates)s)
    {{or_near}}
), place AS MATERIALIZED (
    SELECT tenant, namespace, key, path FROM best
    UNION
    SELECT p.* FROM ({_AROUND}) AS near CROSS JOIN LATERAL (
        SELECT tenant, namespace, key, path FROM memkit_passages p
        WHERE {{p_inside}} AND p.tenant = near.tenant AND p.thread = near.thread
            AND p.position = near.position
        LIMIT {_BRANCHES}
    ) AS p
), {
    _ITEM.format(
        passages='''
    SELECT p.* FROM place CROSS JOIN LATERAL (
        SELECT p.tenant, p.namespace, p.key, {thread}, p.position, {cosine} AS cosine, '''
        + FOUND
        + '''
        FROM memkit_passages p
        WHERE {p_tenant} AND p.tenant = place.tenant AND p.namespace = place.namespace
            AND p.key = place.key AND p.path = place.path
        LIMIT 1
    ) AS p
'''
    )
}
"""
_OR_NEAR = f"""
    UNION
    (SELECT {_KEY} FROM memkit_passages p WHERE {{p_inside}} AND {{p_near}}
    ORDER BY {{near_order}} LIMIT %(candidates)s)
"""

# Positions that follow each other are a run, in which a row away is a position away.
_SCORED = f"""
, run AS (
    SELECT *, coalesce(
        thread # (position - dense_rank() OVER (PARTITION BY thread ORDER BY position)), thread
    ) AS run FROM item
), spread AS MATERIALIZED (
    SELECT avg(cosine) AS mean, nullif(stddev_pop(cosine), 0) AS deviation FROM item
), around AS (
    SELECT tenant, namespace, key, position, {{founds}}, {{cosines}} AS near
    FROM run WINDOW thread AS (PARTITION BY run ORDER BY position)
), scored AS (
    SELECT tenant, namespace, key, position,
        %(said)s::float8 * CASE WHEN found_near = 0 THEN 0 ELSE (
            SELECT sum(idf * CASE {{fades}} END) FROM rarity WHERE found_near & bit <> 0
        ) END + %(meaning)s::float8 * coalesce((near - mean) / deviation, 0) AS score
    FROM around CROSS JOIN spread
)
SELECT {reads.ITEM}, best.score FROM (
    SELECT * FROM scored ORDER BY score DESC LIMIT 2 * %(limit)s
) AS best CROSS JOIN LATERAL (
    SELECT * FROM memkit_items i
    WHERE {{i_tenant}} AND i.tenant = best.tenant AND i.namespace = best.namespace
        AND i.key = best.key
    LIMIT 1
) AS i
WHERE {LIVE}
ORDER BY best.score DESC, best.position DESC, {reads.NEWEST} LIMIT %(limit)s
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
        space: Where the vectors lie; None: the words alone count.
        vector: The query's embedding.
        language: Of the words, a text search configuration.
        reach: Of the indexes of the scope; None where there are none.
    """
    by_index = reach is not None and (reach.probes is not None or space is None)
    labels = min(len(op.namespace_prefix), ns.TENANT_LABELS + 1)
    return Statement(
        _text(space, labels, op.reach, len(op.near), by_index=by_index),
        {
            **ns.subtree(op.namespace_prefix),
            "words": words(op.terms),
            "language": language,
            "vector": vector,
            "limit": op.limit,
            "candidates": op.candidates,
            "around": op.around,
            "said": op.words,
            "meaning": op.meaning,
            **{f"fade_{n}": op.decay**n for n in range(op.reach + 1)},
            **{f"near_{n}": weight for n, weight in enumerate(op.near)},
            "passages": reach.passages if reach else None,
        },
    )


@lru_cache(maxsize=64)
def _text(space: VectorSpace | None, labels: int, reach: int, near: int, *, by_index: bool) -> str:
    parts = {
        "p_subtree": ns.subtree_sql("p", labels),
        "p_inside": ns.subtree_sql("p", labels, by_key=False),
        "p_tenant": ns.tenant_sql("p", labels),
        "i_tenant": ns.tenant_sql("i", labels),
        "thread": _THREAD,
        "cosine": "NULL::float8",
        "or_near": "",
        "founds": ", ".join(_founds(reach)),
        "fades": " ".join(
            f"WHEN found_{n} & bit <> 0 THEN %(fade_{n})s::float8" for n in range(reach + 1)
        ),
        "cosines": _mean(near),
    }
    if space is not None:
        parts["cosine"] = space.similarity(f"p.{space.name}")
        # The condition of the whole tree's index; a tenant's has none.
        parts["p_near"] = "true" if labels >= ns.TENANT_LABELS else f"p.{space.is_there}"
        parts["near_order"] = space.order(f"p.{space.column}")
        parts["or_near"] = _OR_NEAR.format(**parts)
    return (_BY_INDEX if by_index else _ALL).format(**parts) + _SCORED.format(**parts)


def _founds(reach: int) -> Iterator[str]:
    """Yield which words there are 0, 1, ... positions away."""
    rings = ["found"]
    for n in range(1, reach + 1):
        sides = (f"coalesce({side}(found, {n}) OVER thread, 0)" for side in ("lag", "lead"))
        rings.append(" | ".join(sides))
    yield f"{' | '.join(rings)} AS found_near"
    yield from (f"{ring} AS found_{n}" for n, ring in enumerate(rings))


def _mean(near: int) -> str:
    """Return the weighted mean of the cosines around; NULL where there is none."""
    cosines = [("cosine", 0)] + [
        (f"{side}(cosine, {n}) OVER thread", n) for n in range(1, near) for side in ("lag", "lead")
    ]
    total = " + ".join(f"coalesce({one} * %(near_{n})s::float8, 0)" for one, n in cosines)
    weight = " + ".join(
        f"CASE WHEN {one} IS NULL THEN 0 ELSE %(near_{n})s::float8 END" for one, n in cosines
    )
    return f"({total}) / nullif({weight}, 0)"
