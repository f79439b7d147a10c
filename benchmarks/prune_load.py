"""Pruning 10,000 threads of a Postgres database beside 8 live writers.

Each writer is a process with a PostgresSaver on a connection of its own, and takes a turn of a
graph with MessagesState every 0.4 s, in a new thread after every 20 turns; together they ask for
about a third of what two cores give. The threads that are pruned are copies of one of 4 turns; all
but the last 5 of its 12 checkpoints go, by `checkpoints.prune` at its defaults, some threads a
call.

Pruning goes on for some seconds and then stands still for some, over and over, until all is done,
so that a noisy minute hits both. A turn counts where it fell into one of these spans as a whole:

- `prune_writers_ms_p50`, `_p95`: turns of the writers beside pruning; with `_alone` without it.
- `prune_p95_ratio`, `prune_p50_ratio`: the first by the second. Goal: a p95 ratio of at most 1.2.
- `prune_p95_ratio_low`, `_high`: the middle nine tenths of what the p95 ratio is when spans are
  drawn at random from those that were measured (a bootstrap): what the noise leaves of it.
- `prune_threads_per_s`, `prune_threads`, `prune_rows`: how fast it was, and what was pruned.
"""

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psycopg
from langgraph.graph import START, MessagesState, StateGraph

from benchmarks.conversations import chat
from benchmarks.report import say
from memkit import checkpoints

KEEP_LAST = 5
P95_GOAL = 1.2
_MESSAGES = chat(101, seed=1)[1:]
_THREAD_TURNS = 20  # of a writer, until it begins another thread
_CALL = 25  # threads a call, so that spans are about as long as they are to be
_TABLES = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")

Span = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Load:
    """What is pruned, and beside whom.

    Attributes:
        threads: How many threads are pruned.
        turns: Of each of them.
        writers: How many processes write.
        every_s: The time from one turn of a writer to its next.
        beside_s: How long pruning goes on at a time.
        alone_s: How long it then stands still.
    """

    threads: int
    turns: int = 4
    writers: int = 8
    every_s: float = 0.4
    beside_s: float = 4.0
    alone_s: float = 2.0

    def settings(self) -> dict[str, Any]:
        """Return it as settings of a report."""
        return {**asdict(self), "p95_goal": P95_GOAL}


FULL_LOAD = Load(threads=10_000)
QUICK_LOAD = Load(threads=30, writers=2, every_s=0.05, beside_s=0.3, alone_s=0.3)


def beside_writers(dsn: str, load: Load) -> dict[str, float]:
    """Prune beside writers, and return the figures."""
    from langgraph.checkpoint.postgres import PostgresSaver

    fill(dsn, load)
    # Spawned: a fork would share the connections of this process.
    context = multiprocessing.get_context("spawn")
    stop, done = context.Event(), context.Queue()
    ready = context.Barrier(load.writers + 1)
    writers = [
        context.Process(target=write, args=(dsn, n, load, (ready, stop, done)), daemon=True)
        for n in range(load.writers)
    ]
    for writer in writers:
        writer.start()
    beside: list[Span] = []
    alone: list[Span] = []
    rows = 0
    try:
        ready.wait(timeout=120)
        time.sleep(load.every_s)
        waiting = [f"old-{n:05}" for n in range(load.threads)]
        said = time.monotonic()
        with PostgresSaver.from_conn_string(dsn) as saver:
            while waiting:
                start = time.monotonic()
                while waiting and time.monotonic() - start < load.beside_s:
                    now, waiting = waiting[:_CALL], waiting[_CALL:]
                    rows += checkpoints.prune(saver, keep_last=KEEP_LAST, thread_ids=now).rows
                beside.append((start, time.monotonic()))
                time.sleep(load.alone_s)
                alone.append((beside[-1][1], time.monotonic()))
                if time.monotonic() - said > 30:
                    said = time.monotonic()
                    say("checkpoints", f"{len(waiting):,} threads are left to prune")
        stop.set()
        turns = [turn for _ in writers for turn in done.get(timeout=120)]
    finally:
        stop.set()
        for writer in writers:
            writer.join(timeout=30)
    figures = compared(turns, beside, alone)
    busy = sum(end - start for start, end in beside)
    return {
        **figures,
        "prune_threads": load.threads,
        "prune_rows": rows,
        "prune_threads_per_s": load.threads / busy,
    }


def write(dsn: str, number: int, load: Load, shared: tuple[Any, Any, Any]) -> None:
    """Take turns until told to stop, and hand over when each began and ended."""
    from langgraph.checkpoint.postgres import PostgresSaver

    ready, stop, done = shared
    turns: list[Span] = []
    with PostgresSaver.from_conn_string(dsn) as saver:
        graph = talker(saver)
        take_turn(graph, f"warm-{number}", 0)
        ready.wait(timeout=120)
        due = time.monotonic() + load.every_s * number / load.writers
        while not stop.is_set():
            time.sleep(max(0.0, due - time.monotonic()))
            due += load.every_s
            thread, turn = divmod(len(turns), _THREAD_TURNS)
            start = time.monotonic()
            take_turn(graph, f"live-{number}-{thread}", turn)
            turns.append((start, time.monotonic()))
    done.put(turns)


def talker(saver: Any) -> Any:
    """Return a graph that answers."""

    def respond(state: MessagesState) -> dict[str, Any]:
        return {"messages": [_MESSAGES[len(state["messages"])]]}

    builder = StateGraph(MessagesState)
    builder.add_node("respond", respond)
    builder.add_edge(START, "respond")
    return builder.compile(checkpointer=saver)


def take_turn(graph: Any, thread_id: str, turn: int) -> None:
    """Ask the question of a turn."""
    config = {"configurable": {"thread_id": thread_id}}
    graph.invoke({"messages": [_MESSAGES[2 * turn]]}, config)


def fill(dsn: str, load: Load) -> None:
    """Store one thread, and copies of it."""
    from langgraph.checkpoint.postgres import PostgresSaver

    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
        graph = talker(saver)
        for turn in range(load.turns):
            take_turn(graph, "source", turn)
    with psycopg.connect(dsn, autocommit=True) as connection:
        for table in _TABLES:
            query = (
                "SELECT column_name FROM information_schema.columns WHERE table_name = %s "
                "AND column_name <> 'thread_id'"
            )
            others = ", ".join(name for (name,) in connection.execute(query, (table,)))
            statement = (
                f"INSERT INTO {table} (thread_id, {others}) "  # noqa: S608 - names of the savers' own
                f"SELECT 'old-' || lpad(n::text, 5, '0'), {others} "
                f"FROM generate_series(0, %s) AS n, {table} WHERE thread_id = 'source'"
            )
            connection.execute(statement.encode(), (load.threads - 1,))
        connection.execute("VACUUM (ANALYZE)")
        connection.execute("CHECKPOINT")


def compared(
    turns: Sequence[Span], beside: Sequence[Span], alone: Sequence[Span]
) -> dict[str, float]:
    """Return how long turns took within spans of the one kind and of the other."""
    took = {
        name: [
            1_000 * np.array([e - s for s, e in turns if start <= s and e <= end])
            for start, end in spans
        ]
        for name, spans in (("", beside), ("_alone", alone))
    }
    figures: dict[str, float] = {}
    for name, of_spans in took.items():
        times = np.concatenate(of_spans)
        p50, p95 = np.percentile(times, (50, 95))
        figures[f"prune_writers{name}_turns"] = len(times)
        figures[f"prune_writers{name}_ms_p50"] = float(p50)
        figures[f"prune_writers{name}_ms_p95"] = float(p95)
    for quantile in ("p50", "p95"):
        ratio = (
            figures[f"prune_writers_ms_{quantile}"] / figures[f"prune_writers_alone_ms_{quantile}"]
        )
        figures[f"prune_{quantile}_ratio"] = ratio
    low, high = np.percentile(_resampled(took[""], took["_alone"]), (5, 95))
    return figures | {"prune_p95_ratio_low": float(low), "prune_p95_ratio_high": float(high)}


def _resampled(beside: Sequence[Any], alone: Sequence[Any], times: int = 500) -> list[float]:
    """Return the ratio of the p95 over spans drawn at random."""
    rng = np.random.default_rng(0)

    def p95(spans: Sequence[Any]) -> float:
        drawn = [spans[i] for i in rng.integers(len(spans), size=len(spans))]
        return float(np.percentile(np.concatenate(drawn), 95))

    # A draw of spans that are all empty has no percentile.
    kept = [[span for span in spans if len(span)] for spans in (beside, alone)]
    return [p95(kept[0]) / p95(kept[1]) for _ in range(times)]
