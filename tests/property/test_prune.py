"""Whatever graphs run, are forked, interrupted and pruned: what stays is what it was."""

import copy
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.types import Command

from memkit import checkpoints
from tests.conftest import Server
from tests.savers import orphans
from tests.threads import config, seen, states, tree

FUZZ = int(os.environ.get("MEMKIT_FUZZ", "0"))

GRAPHS = st.fixed_dictionaries(
    {
        "frequency": st.sampled_from([1, 3, 100]),
        "subgraph": st.sampled_from([None, "call", "kept"]),
        "asks": st.booleans(),
        "overwrites": st.booleans(),
        "delta": st.sampled_from([True, True, False]),
    }
)
DURABILITY = st.sampled_from(["sync", "async", "exit"])
PLACE = st.integers(0, 30)
RUNS = st.tuples(st.just("run"), DURABILITY, st.integers(1, 4))
FORKS = st.tuples(st.just("fork"), DURABILITY, PLACE)
REPLAYS = st.tuples(st.just("replay"), DURABILITY, PLACE)
PRUNES = st.tuples(
    st.just("prune"),
    st.fixed_dictionaries(
        {
            "keep_last": st.integers(1, 6),
            "batch_rows": st.sampled_from([1, 20, 500]),
            "with_graph": st.booleans(),
            "pins": st.lists(PLACE, max_size=2),
        }
    ),
    PLACE,
)


@contextmanager
def memory() -> Iterator[tuple[Any, Callable[[], Any]]]:
    saver = InMemorySaver()

    def twin() -> Any:
        other = InMemorySaver()
        for thread, spaces in saver.storage.items():
            for ns, stored in spaces.items():
                other.storage[thread][ns].update(stored)
        other.writes.update(copy.deepcopy(saver.writes))
        other.blobs.update(saver.blobs)
        return other

    yield saver, twin


@contextmanager
def sqlite() -> Iterator[tuple[Any, Callable[[], Any]]]:
    with ExitStack() as stack, TemporaryDirectory() as place:
        numbers = iter(range(1000))

        def opened() -> SqliteSaver:
            path = str(Path(place, f"{next(numbers)}.db"))
            connection = sqlite3.connect(path, check_same_thread=False)
            stack.callback(connection.close)
            saver = SqliteSaver(connection)
            saver.setup()
            return saver

        saver = opened()

        def twin() -> Any:
            other = opened()
            with saver.lock:
                saver.conn.backup(other.conn)
            return other

        yield saver, twin


def postgres(server: Server) -> Any:
    @contextmanager
    def opened() -> Iterator[tuple[Any, Callable[[], Any]]]:
        with ExitStack() as stack:
            dsn = server.create()
            stack.callback(server.drop, dsn)
            other_dsn = server.create()
            stack.callback(server.drop, other_dsn)
            saver = stack.enter_context(PostgresSaver.from_conn_string(dsn))
            saver.setup()
            other = stack.enter_context(PostgresSaver.from_conn_string(other_dsn))
            other.setup()

            def twin() -> Any:
                tables = ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
                with saver._cursor() as source, other._cursor() as target:
                    for table in tables:
                        target.execute(f"TRUNCATE {table}")
                        with (
                            source.copy(f"COPY {table} TO STDOUT") as reading,
                            target.copy(f"COPY {table} FROM STDIN") as writing,
                        ):
                            for block in reading:
                                writing.write(block)
                return other

            yield saver, twin

    return opened


class Story:
    """One thread, told step by step; after each pruning everything is compared."""

    def __init__(self, shape: dict[str, Any], saver: Any, twin: Callable[[], Any]) -> None:
        self.builder = tree(**shape)
        self.saver, self.twin = saver, twin
        self.graph = self.builder.compile(checkpointer=saver)

    def ids(self, graph: Any) -> list[dict[str, Any]]:
        return [
            state.config
            for state in graph.get_state_history(config())
            if not state.metadata.get("memkit_carrier")
        ]

    def finish(self, graph: Any, durability: Any, place: Any = None) -> Any:
        """Answer questions until the thread rests."""
        for _ in range(4):
            state = graph.get_state(config())
            if not state.next:
                break
            waiting = state.interrupts
            graph.invoke(
                Command(resume="yes") if waiting else None, config(), durability=durability
            )
        return graph.get_state(config()).values

    def outcome(self, graph: Any, place: Any) -> Any:
        """Run from a checkpoint; the ids of what is made on the way differ every time."""
        result = graph.invoke(None, place, durability="sync")
        questions = [question.value for question in result.pop("__interrupt__", ())]
        return result, questions

    def run(self, durability: Any, times: int) -> None:
        for _ in range(times):
            state = self.graph.get_state(config())
            given: Any = {"said": ["in"]}
            if state.interrupts:
                given = Command(resume="yes")
            elif state.next:
                given = None
            self.graph.invoke(given, config(), durability=durability)

    def fork(self, durability: Any, at: int, graph: Any = None) -> None:
        graph = graph or self.graph
        places = self.ids(graph)
        if places:
            place = places[at % len(places)]
            forked = graph.update_state(place, {"said": ["forked"]}, as_node="close")
            graph.invoke({"said": ["on"]}, forked, durability=durability)

    def replay(self, durability: Any, at: int, graph: Any = None) -> None:
        graph = graph or self.graph
        places = self.ids(graph)
        if places:
            graph.invoke(None, places[at % len(places)], durability=durability)

    def prune(self, policy: dict[str, Any], at: int) -> None:
        policy = dict(policy)
        with_graph, pins = policy.pop("with_graph"), policy.pop("pins")
        before = states(self.graph, self.saver)
        places = sorted(before)
        pinned = [places[pin % len(places)][1] for pin in pins] if places else []
        other = self.builder.compile(checkpointer=self.twin())
        arguments = {
            **policy,
            "pinned": pinned,
            "graph": self.graph if with_graph else None,
            "grace_s": 0,
        }
        expected = checkpoints.prune(self.saver, dry_run=True, **arguments)
        assert states(self.graph, self.saver) == before
        report = checkpoints.prune(self.saver, **arguments)
        after = states(self.graph, self.saver)

        assert after == {key: before[key] for key in after}
        assert {i for _, i in after} >= set(pinned)
        assert (report.kept, report.added, report.blobs, report.writes) == (
            expected.kept,
            expected.added,
            expected.blobs,
            expected.writes,
        )
        assert report.checkpoints.rows == expected.checkpoints.rows
        # A carrier of an earlier pruning may be rewritten, a little shorter, before it goes.
        assert abs(report.checkpoints.bytes - expected.checkpoints.bytes) < 200
        latest = [state for state in places if state[0] == ""][-policy["keep_last"] :]
        assert set(latest) <= after.keys()
        assert orphans(self.saver) == []
        assert checkpoints.prune(self.saver, **arguments).rows == 0

        # A kept checkpoint is continued, here and where nothing was pruned.
        kept = self.ids(self.graph)
        if kept:
            place = kept[at % len(kept)]
            assert self.outcome(self.graph, place) == self.outcome(other, place)
            assert self.finish(self.graph, "sync") == self.finish(other, "sync")
            assert seen(self.graph.get_state(config()))[:2] == seen(other.get_state(config()))[:2]


def tell(shape: dict[str, Any], steps: list[Any], opened: Any) -> None:
    with opened() as (saver, twin):
        story = Story(shape, saver, twin)
        story.run("async", 1)
        for name, *arguments in steps:
            getattr(story, name)(*arguments)
        story.prune({"keep_last": 2, "batch_rows": 20, "with_graph": False, "pins": []}, 0)


STORIES = given(
    shape=GRAPHS, steps=st.lists(st.one_of(RUNS, RUNS, FORKS, REPLAYS, PRUNES), max_size=8)
)
QUIET: Any = {"suppress_health_check": [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]}


@pytest.mark.slow
@settings(max_examples=FUZZ or 30, **QUIET)
@STORIES
@example(  # two that stay have one version of a DeltaChannel, so one snapshot serves both
    shape={
        "frequency": 100,
        "subgraph": None,
        "asks": False,
        "overwrites": False,
        "delta": True,
    },
    steps=[("prune", {"keep_last": 1, "batch_rows": 1, "with_graph": True, "pins": [3]}, 0)],
)
def test_in_memory(shape: dict[str, Any], steps: list[Any]) -> None:
    tell(shape, steps, memory)


@pytest.mark.slow
@settings(max_examples=FUZZ or 15, **QUIET)
@STORIES
def test_in_sqlite(shape: dict[str, Any], steps: list[Any]) -> None:
    tell(shape, steps, sqlite)


@pytest.mark.slow
@settings(max_examples=FUZZ or 15, **QUIET)
@STORIES
def test_in_postgres(shape: dict[str, Any], steps: list[Any], server: Server) -> None:
    tell(shape, steps, postgres(server))
