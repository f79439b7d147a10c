"""Threads move from any saver to another, and nothing of them changes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langgraph.types import Command

from memkit import checkpoints
from tests.conftest import Server
from tests.savers import SYNC, rows, sync_saver
from tests.threads import config, states, tree


@pytest.fixture(params=SYNC)
def source(request: pytest.FixtureRequest, tmp_path: Path, server: Server) -> Iterator[Any]:
    dsn = server.create()
    with sync_saver(request.param, tmp_path / "source.db", dsn) as opened:
        yield opened
    server.drop(dsn)


@pytest.fixture
def target(empty_dsn: str) -> Iterator[Any]:
    with sync_saver("postgres", Path(), empty_dsn) as opened:
        yield opened


def live(graph: Any, thread: str = "t") -> None:
    """Turns under each durability, a fork, a replay and, where the graph asks, a question."""
    place = config(thread)
    for durability in ("sync", "async", "exit"):
        for _ in range(2):
            given: Any = {"said": ["in"]}
            if graph.get_state(place).next:
                given = Command(resume="yes")
            graph.invoke(given, place, durability=durability)
    history = list(graph.get_state_history(place))
    forked = graph.update_state(
        history[len(history) // 2].config, {"said": ["forked"]}, as_node="close"
    )
    graph.invoke({"said": ["on"]}, forked)
    while graph.get_state(place).metadata["step"] % 2 or not graph.get_state(place).values:
        graph.invoke({"said": ["more"]}, place)
        break


def keys(saver: Any, *tables: str) -> dict[str, Any]:
    return {name: found for name, found in rows(saver).items() if name in tables}


SHAPES = [
    {"delta": False},
    {"frequency": 3},
    {"frequency": 100, "subgraph": "call", "asks": True},
    {"frequency": 3, "subgraph": "kept", "asks": True, "overwrites": True},
]


@pytest.mark.parametrize("shape", SHAPES)
def test_everything_comes_along(source: Any, target: Any, shape: Any) -> None:
    graph = tree(**shape).compile(checkpointer=source)
    live(graph)
    live(graph, "other")
    before = states(graph, source)
    stored = rows(source)

    expected = checkpoints.copy(source, target, dry_run=True)
    assert rows(target)["checkpoints"] == []
    report = checkpoints.copy(source, target)

    assert rows(source) == stored
    assert keys(target, "checkpoints", "writes") == keys(source, "checkpoints", "writes")
    moved = tree(**shape).compile(checkpointer=target)
    assert states(moved, target) == before
    assert report.checkpoints == report.compared == len(stored["checkpoints"])
    assert report.writes == len(stored["writes"])
    assert (report.threads, report.copied, report.same, report.refused) == (2, 2, 0, ())
    assert (expected.checkpoints, expected.writes, expected.copied) == (
        report.checkpoints,
        report.writes,
        2,
    )
    again = checkpoints.copy(source, target)
    assert (again.copied, again.checkpoints, again.writes) == (0, 0, 0)
    assert again.same == again.compared == report.checkpoints
