"""Threads that go entirely when nothing has happened in them for long."""

import asyncio
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memkit import checkpoints
from memkit.checkpoints.backend import Backend, Script
from memkit.checkpoints.memory import MemoryTables
from memkit.checkpoints.postgres import PostgresTables
from memkit.checkpoints.sqlite import SqliteTables
from tests.savers import ASYNC, SYNC, async_saver, orphans, rows, sync_saver
from tests.threads import config, states, tree

MONTH = timedelta(days=30)


@pytest.fixture(params=SYNC)
def saver(request: pytest.FixtureRequest, tmp_path: Path, empty_dsn: str) -> Iterator[Any]:
    with sync_saver(request.param, tmp_path / "checkpoints.db", empty_dsn) as opened:
        yield opened


def of(thread: str, saver: Any) -> dict[str, int]:
    """How many rows each table has of a thread."""
    return {name: sum(row[0] == thread for row in found) for name, found in rows(saver).items()}


def test_an_idle_thread_goes_and_others_stay_whole(saver: Any) -> None:
    graph = tree(subgraph="call").compile(checkpointer=saver)
    for _ in range(3):
        graph.invoke({"said": ["in"]}, config("old"))
    month_later = datetime.now(UTC) + MONTH
    graph.invoke({"said": ["in"]}, config("new"))
    graph.invoke({"said": ["in"]}, config("new"))
    before, new = of("old", saver), states(graph, saver, "new")
    asked: dict[str, Any] = {"thread_ttl": "30d", "now": month_later}
    expected = checkpoints.prune(saver, dry_run=True, **asked)
    assert of("old", saver) == before
    report = checkpoints.prune(saver, **asked)
    assert (report.expired, report.pruned, report.threads) == (1, 1, 2)
    assert "1 of 2 threads (1 entirely)" in str(report)
    assert report.as_dict() | {"dry_run": True} == expected.as_dict()
    went = {"checkpoints": report.checkpoints, "writes": report.writes, "blobs": report.blobs}
    assert {name: tally.rows for name, tally in went.items()} == before
    assert set(of("old", saver).values()) == {0}
    assert states(graph, saver, "new") == new
    assert orphans(saver) == []
    graph.invoke({"said": ["in"]}, config("old"))  # the id may be used again
    assert graph.get_state(config("old")).values["turn"] == 1


def test_beside_other_terms_each_thread_gets_its_own(saver: Any) -> None:
    graph = tree(delta=False).compile(checkpointer=saver)
    for _ in range(2):
        graph.invoke({"said": ["in"]}, config("old"))
    month_later = datetime.now(UTC) + MONTH
    for _ in range(2):
        graph.invoke({"said": ["in"]}, config("new"))
    report = checkpoints.prune(saver, keep_last=3, thread_ttl=MONTH, now=month_later)
    assert (report.pruned, report.expired, report.kept) == (2, 1, {"last": 3})
    assert (of("old", saver)["checkpoints"], of("new", saver)["checkpoints"]) == (0, 3)


def test_what_is_pinned_or_of_others_stays_and_what_waits_goes(saver: Any) -> None:
    graph: Any = tree(asks=True, delta=False).compile(checkpointer=saver)
    for thread, metadata in (
        ("pinned", {"pinned": True, "tenant": "a"}),
        ("of b", {"tenant": "b"}),
        ("waits", {"tenant": "a"}),
    ):
        for _ in range(2):
            graph.invoke({"said": ["in"]}, {**config(thread), "metadata": metadata})
    assert graph.get_state(config("waits")).interrupts
    later = datetime.now(UTC) + MONTH
    report = checkpoints.prune(saver, thread_ttl="30d", metadata={"tenant": "a"}, now=later)
    assert report.expired == 1
    assert not of("waits", saver)["checkpoints"]
    assert of("pinned", saver)["checkpoints"]
    assert of("of b", saver)["checkpoints"]


@pytest.mark.parametrize("kind", ASYNC)
def test_aprune(kind: str, tmp_path: Path, empty_dsn: str) -> None:
    async def story() -> None:
        async with async_saver(kind, tmp_path / "a.db", empty_dsn) as saver:
            graph = tree().compile(checkpointer=saver)
            if kind in ("sqlite", "postgres"):
                graph.invoke({"said": ["in"]}, config())
            else:
                await graph.ainvoke({"said": ["in"]}, config())
            report = await checkpoints.aprune(saver, thread_ttl="1d", now=datetime.now(UTC) + MONTH)
            assert report.expired == 1
            left = await checkpoints.areport(saver)
            assert {tally.rows for tally in left.tables.values()} == {0}

    asyncio.run(story())


@pytest.mark.parametrize("kind", SYNC)
def test_a_run_in_the_very_moment_keeps_its_thread(
    kind: str, tmp_path: Path, empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored between the look at the thread and its removal."""
    tables: Any = {"memory": MemoryTables, "sqlite": SqliteTables, "postgres": PostgresTables}[kind]
    removing = tables.remove_thread
    runs: list[threading.Thread] = []

    def remove(self: Backend, *args: Any) -> Script[None]:
        if not runs:
            runs.append(threading.Thread(target=talk))
            runs[0].start()
            # SQLite lets it read, and write behind the removal.
            runs[0].join(timeout=0.5 if kind == "sqlite" else None)
        yield from removing(self, *args)

    def talk() -> None:
        with opened() as other:
            tree(delta=False).compile(checkpointer=other).invoke({"said": ["in"]}, config())

    def opened() -> Any:
        return sync_saver(kind, tmp_path / "c.db", empty_dsn)

    with opened() as saver:
        if kind == "memory":
            opened_once = saver
            monkeypatch.setattr(
                "tests.integration.test_thread_ttl.sync_saver", lambda *_: _as_is(opened_once)
            )
        graph = tree(delta=False).compile(checkpointer=saver)
        graph.invoke({"said": ["in"]}, config())
        later = datetime.now(UTC) + MONTH
        monkeypatch.setattr(tables, "remove_thread", remove)
        report = checkpoints.prune(saver, thread_ttl="30d", now=later)
        runs[0].join()
        state = graph.get_state(config()).values
        assert orphans(saver) == []
        if kind == "sqlite":
            assert (report.expired, state["turn"]) == (1, 2)  # it had read all it needs
        else:
            assert (report.expired, state["turn"]) == (0, 2)
            assert state["said"][0] == "in"
            assert len(state["said"]) == 8


class _as_is:  # noqa: N801 - a context manager
    def __init__(self, saver: Any) -> None:
        self.saver = saver

    def __enter__(self) -> Any:
        return self.saver

    def __exit__(self, *error: object) -> None:
        """Leave it open."""


def test_a_table_that_is_locked_makes_no_writer_wait_long(empty_dsn: str) -> None:
    """VACUUM holds such a lock for minutes: the thread then goes another time."""
    with sync_saver("postgres", Path(), empty_dsn) as saver, psycopg.connect(empty_dsn) as vacuum:
        graph = tree(delta=False).compile(checkpointer=saver)
        graph.invoke({"said": ["in"]}, config())
        before = rows(saver)
        vacuum.execute("LOCK TABLE checkpoints IN SHARE UPDATE EXCLUSIVE MODE")
        later = datetime.now(UTC) + MONTH
        began = time.monotonic()
        report = checkpoints.prune(saver, thread_ttl="30d", now=later)
        assert 0.4 < time.monotonic() - began < 20
        assert (report.expired, report.rows) == (0, 0)
        assert rows(saver) == before
        vacuum.rollback()
        assert checkpoints.prune(saver, thread_ttl="30d", now=later).expired == 1
