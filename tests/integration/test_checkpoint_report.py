"""What checkpoints take is counted as it is stored, and what they will take is foretold."""

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph

from memkit import DeltaMemoryState, checkpoints
from memkit.errors import ConfigError
from tests.savers import ASYNC, SYNC, async_saver, rows, sync_saver
from tests.threads import config, tree

TOLERANCE = 0.15


@pytest.fixture(params=SYNC)
def saver(request: pytest.FixtureRequest, tmp_path: Path, empty_dsn: str) -> Iterator[Any]:
    with sync_saver(request.param, tmp_path / "checkpoints.db", empty_dsn) as opened:
        yield opened


def text(words: int, seed: int) -> str:
    """Words that compress about as little as those of people."""
    letters = random.Random(seed)  # noqa: S311 - no secret
    return " ".join("".join(letters.choices("etaoinshrdlucmfwyp", k=5)) for _ in range(words))


def line(nodes: int, saver: Any, keep: int | None = None, schema: Any = MessagesState) -> Any:
    """A graph of so many nodes one after another; the last answers, and may trim the history."""
    builder = StateGraph(schema)

    def answer(state: Any) -> dict[str, Any]:
        turn = int(state["messages"][-1].id.partition(" ")[0])
        changes: list[Any] = [AIMessage(text(40, 1000 + turn), id=f"{turn} answer")]
        if keep is not None:
            gone = state["messages"][: max(0, len(state["messages"]) + 1 - 2 * keep)]
            changes += [RemoveMessage(message.id) for message in gone]
        return {"messages": changes}

    names = [f"node {number}" for number in range(nodes)]
    for name in names[:-1]:
        builder.add_node(name, lambda _: {})
    builder.add_node(names[-1], answer)
    for one, other in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(one, other)
    return builder.compile(checkpointer=saver)


def talk(graph: Any, thread: str, turns: int, durability: Any = "sync") -> None:
    for turn in range(turns):
        message = HumanMessage(text(20, turn), id=f"{turn} question")
        graph.invoke({"messages": [message]}, config(thread), durability=durability)


def test_rows_and_bytes_are_those_that_are_stored(saver: Any) -> None:
    graph = tree(subgraph="call", delta=False).compile(checkpointer=saver)
    for thread, turns in (("a", 2), ("b", 5), ("c", 3)):
        for _ in range(turns):
            graph.invoke({"said": ["in"]}, config(thread), durability="sync")
    report = checkpoints.report(saver, largest=2)
    stored = rows(saver)
    assert {name: table.rows for name, table in report.tables.items()} == {
        name: len(found) for name, found in stored.items()
    }
    assert report.threads == 3
    assert [thread.thread_id for thread in report.largest] == ["b", "c"]
    of_b = sum(row[0] == "b" for found in stored.values() for row in found)
    checkpoints_of_b = sum(row[0] == "b" for row in stored["checkpoints"])
    assert report.largest[0][1:3] == (checkpoints_of_b, of_b)
    # What a pruning of everything but one checkpoint says of the same rows, it says of their bytes.
    parts = [checkpoints.report(saver, thread_ids=[thread]) for thread in "abc"]
    assert sum(part.bytes for part in parts) == report.bytes > 0
    assert [part.largest[0] for part in parts][1:] == list(report.largest)
    assert checkpoints.report(saver, thread_ids=[]).bytes == 0
    went = checkpoints.prune(saver, keep_last=1)
    assert checkpoints.report(saver).bytes == report.bytes - went.bytes
    assert report.bytes_per_step == report.bytes / len(stored["checkpoints"])


def test_an_empty_saver_has_a_report(saver: Any) -> None:
    report = checkpoints.report(saver)
    assert (report.rows, report.bytes, report.threads, report.largest) == (0, 0, 0, ())
    assert (report.growth, report.bytes_per_step) == (None, 0)
    assert "growth: not known" in str(report)


def test_a_report_is_read_by_people_and_programs(saver: Any) -> None:
    talk(line(2, saver), "dee", 5)
    report = checkpoints.report(saver)
    told = report.as_dict()
    assert json.loads(json.dumps(told)) == told
    assert told["growth"]["turns"] == 5
    assert told["largest"][0]["thread_id"] == "dee"
    assert "large: dee: 20 checkpoints" in str(report)
    assert ("on disk" in str(report)) == (not isinstance(saver, InMemorySaver))


def test_the_disk_holds_more_than_the_rows(saver: Any) -> None:
    talk(line(2, saver), "t", 8)
    report = checkpoints.report(saver)
    if isinstance(saver, InMemorySaver):
        assert report.disk == {}
    else:
        assert sum(report.disk.values()) > report.bytes


def test_messages_grow_by_the_square_and_deltas_do_not() -> None:
    exponents = []
    for schema in (MessagesState, DeltaMemoryState):
        saver = InMemorySaver()
        talk(line(1, saver, schema=schema), "t", 40)
        growth = checkpoints.report(saver).growth
        assert growth is not None
        exponents.append(growth.exponent)
    assert exponents[0] > 1.5
    assert 0.85 < exponents[1] < 1.15


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
def test_turns_are_told_under_each_durability(saver: Any, durability: str) -> None:
    talk(line(3, saver), "t", 6, durability)
    growth = checkpoints.report(saver).growth
    assert growth is not None
    assert growth.turns == 6
    assert growth.steps_per_turn == (1 if durability == "exit" else 5)


def test_a_pruned_thread_tells_nothing_of_growth(saver: Any) -> None:
    talk(line(1, saver), "t", 8)
    checkpoints.prune(saver, keep_last=18)
    assert checkpoints.report(saver).growth is None


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("care", ["plain", "trimmed", "pruned", "both"])
def test_an_estimate_comes_true(saver: Any, durability: Any, care: Any) -> None:
    """Measured with 4 nodes and 8 turns, foretold for 6 nodes and 15 turns."""
    talk(line(4, saver), "measured", 8)
    report = checkpoints.report(saver)
    keep_turns, keep_last = 4, 3
    foretold = checkpoints.estimate(
        report, users=1, turns=15, nodes=6, days=1, keep_turns=keep_turns, keep_last=keep_last
    )
    keep = keep_turns if care in ("trimmed", "both") else None
    talk(line(6, saver, keep), "real", 15, durability)
    if care in ("pruned", "both"):
        checkpoints.prune(saver, keep_last=keep_last, thread_ids=["real"])
    real = checkpoints.report(saver, thread_ids=["real"])
    assert foretold.rows[durability][care] == real.tables["checkpoints"].rows
    assert foretold.bytes[durability][care] == pytest.approx(real.bytes, rel=TOLERANCE)


def test_an_estimate_is_a_table() -> None:
    saver = InMemorySaver()
    talk(line(2, saver), "t", 5)
    report = checkpoints.report(saver)
    daily = checkpoints.estimate(report, users=200, turns=15, nodes=6, days=90)
    one = checkpoints.estimate(report, users=200, turns=15, nodes=6, days=90, thread_days=90)
    assert (daily.threads, daily.turns) == (18_000, 15)
    assert (one.threads, one.turns) == (200, 1350)
    assert daily.rows["sync"]["plain"] == one.rows["sync"]["plain"] == 200 * 15 * 8 * 90
    assert one.bytes["sync"]["plain"] > 10 * daily.bytes["sync"]["plain"]
    for sizes in daily.bytes.values():
        assert sizes["plain"] > sizes["trimmed"] > sizes["both"]
        assert sizes["plain"] > sizes["pruned"] > sizes["both"]
    assert daily.bytes["exit"]["plain"] < daily.bytes["sync"]["plain"] / 2
    assert json.loads(json.dumps(daily.as_dict())) == daily.as_dict()
    assert "18000 threads of 15 turns" in str(daily)
    assert report.growth is not None
    assert checkpoints.estimate(report.growth, users=200, turns=15, nodes=6, days=90) == daily


def test_bad_arguments_are_told() -> None:
    saver = InMemorySaver()
    with pytest.raises(ConfigError, match="largest is at least 0, got -1"):
        checkpoints.report(saver, largest=-1)
    with pytest.raises(ConfigError, match="the string 't'"):
        checkpoints.report(saver, thread_ids="t")
    with pytest.raises(ConfigError, match="a dict are not known"):
        checkpoints.report({})
    asked = {"users": 1, "turns": 1, "nodes": 1, "days": 1}
    with pytest.raises(ConfigError, match="run some turns"):
        checkpoints.estimate(checkpoints.report(saver), **asked)
    talk(line(1, saver), "t", 5)
    with pytest.raises(ConfigError, match="nodes is at least 1, got 0"):
        checkpoints.estimate(checkpoints.report(saver), **{**asked, "nodes": 0})


@pytest.mark.parametrize("kind", ASYNC)
def test_areport(kind: str, tmp_path: Path, empty_dsn: str) -> None:
    async def story() -> None:
        async with async_saver(kind, tmp_path / "a.db", empty_dsn) as saver:
            graph = line(2, saver)
            for turn in range(5):
                given: Any = {"messages": [HumanMessage(text(20, turn), id=f"{turn} question")]}
                if kind.startswith("async"):
                    await graph.ainvoke(given, config())
                else:
                    graph.invoke(given, config())
            report = await checkpoints.areport(saver)
            assert report.tables["checkpoints"].rows == 20
            assert report.growth is not None
            if kind.startswith("async"):
                with pytest.raises(ConfigError, match=r"await areport\(\.\.\.\)"):
                    checkpoints.report(saver)
            else:
                assert checkpoints.report(saver) == report

    asyncio.run(story())


def test_a_saver_whose_tables_are_missing_is_told(empty_dsn: str) -> None:
    with PostgresSaver.from_conn_string(empty_dsn) as saver:
        with pytest.raises(ConfigError, match=r"call its setup\(\)"):
            checkpoints.report(saver)
        with pytest.raises(ConfigError, match=r"call its setup\(\)"):
            checkpoints.prune(saver, keep_last=1)
