"""The Retention node: it prunes its own thread, and never costs the person their answer."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from typing_extensions import TypedDict

from memkit import DeltaMemoryState, Retention
from memkit.errors import ConfigError
from tests.graphs import memory_graph, said
from tests.savers import SYNC, async_saver, orphans, rows, sync_saver
from tests.threads import config, tree

TURNS = 12
# LangGraph refuses the other two there.
ON_THE_LOOP = ("memory", "async sqlite", "async postgres")


def with_last(builder: Any, last: str, node: Any) -> Any:
    """Put the node behind the last one, in the place of END."""
    builder.edges.discard((last, END))
    builder.add_node("retain", node)
    builder.add_edge(last, "retain")
    builder.add_edge("retain", END)
    return builder


def pruned_tree(node: Retention, **kwargs: Any) -> Any:
    return with_last(tree(**kwargs), "close", node)


def root_checkpoints(saver: Any) -> int:
    """How many the thread has, but for what pruning adds."""
    found = list(saver.list(config(checkpoint_ns="")))
    return sum(not stored.metadata.get("memkit_carrier") for stored in found)


@pytest.mark.parametrize("durability", ["sync", "async", "exit"])
@pytest.mark.parametrize("given", [True, False])
@pytest.mark.parametrize("kind", SYNC)
def test_values_stay_and_checkpoints_go(
    kind: str, given: bool, durability: Any, tmp_path: Path, empty_dsn: str
) -> None:
    plain = tree(subgraph="kept").compile(checkpointer=InMemorySaver())
    with sync_saver(kind, tmp_path / "c.db", empty_dsn) as saver:
        graph: Any = None
        node = Retention(keep_last=3, every=2, grace_s=0, graph=(lambda: graph) if given else None)
        graph = pruned_tree(node, subgraph="kept").compile(checkpointer=saver)
        per_turn = 1 if durability == "exit" else 7  # input, five nodes' steps, this one's
        for _ in range(TURNS):
            plain.invoke({"said": ["in"]}, config(), durability=durability)
            graph.invoke({"said": ["in"]}, config(), durability=durability)
            # What two turns add to what stays, the end of this one included.
            assert root_checkpoints(saver) <= 3 + 2 * per_turn
        assert graph.get_state(config()).values == plain.get_state(config()).values
        assert graph.get_state(config()).next == ()
        assert orphans(saver) == []


@pytest.mark.parametrize("kind", ON_THE_LOOP)
def test_on_the_event_loop(kind: str, tmp_path: Path, empty_dsn: str) -> None:
    asyncio.run(talk_on_the_loop(kind, tmp_path / "c.db", empty_dsn))


async def talk_on_the_loop(kind: str, place: Path, dsn: str) -> None:
    plain = tree().compile(checkpointer=InMemorySaver())
    async with async_saver(kind, place, dsn) as saver:
        events: list[Any] = []
        graph = pruned_tree(Retention(keep_last=3, every=2, grace_s=0)).compile(checkpointer=saver)
        for _ in range(TURNS):
            await plain.ainvoke({"said": ["in"]}, config())
            turn = graph.astream({"said": ["in"]}, config(), stream_mode="custom")
            events += [event async for event in turn]
        state = await graph.aget_state(config())
        assert state.values == (await plain.aget_state(config())).values
        assert {event["memkit"] for event in events} == {"retain"}
        assert all(event["rows"] > event["checkpoints"] > 0 for event in events)
        assert len(events) >= TURNS // 2 - 1
        stored = [found async for found in saver.alist(config(checkpoint_ns=""))]
        assert len(stored) < 3 + 2 * 8


@pytest.mark.parametrize("kind", ["async sqlite", "async postgres"])
def test_an_async_saver_under_invoke(kind: str, tmp_path: Path, empty_dsn: str) -> None:
    asyncio.run(talk_beside_the_loop(kind, tmp_path / "c.db", empty_dsn))


async def talk_beside_the_loop(kind: str, place: Path, dsn: str) -> None:
    async with async_saver(kind, place, dsn) as saver:
        graph = pruned_tree(Retention(keep_last=2, every=1, grace_s=0)).compile(checkpointer=saver)
        for _ in range(4):
            await asyncio.to_thread(graph.invoke, {"said": ["in"]}, config())
        stored = [found async for found in saver.alist(config(checkpoint_ns=""))]
        assert len(stored) <= 2 + 8 + 1


@pytest.mark.parametrize("kind", SYNC)
def test_a_run_from_an_old_checkpoint_keeps_what_it_continues(
    kind: str, tmp_path: Path, empty_dsn: str
) -> None:
    with sync_saver(kind, tmp_path / "c.db", empty_dsn) as saver:
        plain = tree().compile(checkpointer=saver)
        for _ in range(4):
            plain.invoke({"said": ["in"]}, config())
        old = next(s for s in plain.get_state_history(config()) if s.values.get("turn") == 2)
        graph = pruned_tree(Retention(keep_last=1, every=1, grace_s=0)).compile(checkpointer=saver)
        graph.invoke({"said": ["again"]}, old.config, durability="exit")
        now = graph.get_state(config())
        assert now.values["turn"] == 3
        assert now.values["said"][: len(old.values["said"])] == old.values["said"]
        # Its end has been stored behind what it began from, which was not among the last.
        assert now.parent_config["configurable"] == old.config["configurable"]
        again = graph.get_state(old.config)
        assert (again.values, again.next) == (old.values, old.next)


def test_what_waits_for_an_answer_is_left_and_resumed(tmp_path: Path) -> None:
    with sync_saver("sqlite", tmp_path / "c.db", "") as saver:
        node = Retention(keep_last=1, every=1, grace_s=0)
        graph = pruned_tree(node, subgraph="call", asks=True).compile(checkpointer=saver)
        for turn in range(1, 7):
            graph.invoke({"said": ["in"]}, config())
            if turn % 2 == 0:
                assert graph.get_state(config()).interrupts
                graph.invoke(Command(resume=f"answer {turn}"), config())
        values = graph.get_state(config()).values
        assert (values["turn"], values["log"].count("left")) == (6, 6)
        assert len([text for text in values["said"] if text == "in"]) == 6


class Turn(TypedDict, total=False):
    turn: int


def test_in_a_subgraph() -> None:
    saver = InMemorySaver()
    inner = StateGraph(Turn)
    inner.add_node("retain", Retention(keep_last=2, every=1, grace_s=0))
    inner.add_edge(START, "retain")
    inner.add_edge("retain", END)
    builder = with_last(tree(), "close", inner.compile())
    graph = builder.compile(checkpointer=saver)
    for _ in range(6):
        graph.invoke({"said": ["in"]}, config())
    values = graph.get_state(config()).values
    assert (values["turn"], len(values["said"])) == (6, 6 * 4)
    assert root_checkpoints(saver) <= 2 + 7
    assert orphans(saver) == []


def test_a_failure_is_a_warning_and_an_event(caplog: pytest.LogCaptureFixture) -> None:
    graph = pruned_tree(Retention(saver=object())).compile(checkpointer=InMemorySaver())
    with caplog.at_level(logging.WARNING, logger="memkit"):
        events = list(graph.stream({"said": ["in"]}, config(), stream_mode="custom"))
    [event] = events
    assert (event["memkit"], event["what"]) == ("failed", "retention")
    assert "was not pruned" in caplog.text
    assert graph.get_state(config()).values["turn"] == 1


def test_without_a_checkpointer_it_does_nothing() -> None:
    graph = pruned_tree(Retention()).compile()
    assert graph.invoke({"said": ["in"]})["turn"] == 1


@pytest.mark.parametrize(
    "wrong",
    [{"keep_last": 0}, {"every": 0}, {"keep_last": True}, {"older_than": "soon"}, {"grace_s": -1}],
)
def test_bad_arguments_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Retention(**wrong)


def test_only_every_so_many_turns_cost_something() -> None:
    saver = InMemorySaver()
    graph = pruned_tree(Retention(keep_last=1, every=4)).compile(checkpointer=saver)
    pruned = []
    for _ in range(9):
        events = list(graph.stream({"said": ["in"]}, config(), stream_mode="custom"))
        pruned.append(bool(events))
    assert pruned == [True, False, False, False] * 2 + [True]


def test_memkits_delta_state_grows_with_its_messages_only() -> None:
    def held(turns: int) -> int:
        saver = InMemorySaver()
        graph: Any = None
        builder = memory_graph(DeltaMemoryState, turns=False)
        node = Retention(keep_last=5, every=5, grace_s=0, graph=lambda: graph)
        graph = with_last(builder, "remember", node).compile(
            checkpointer=saver, store=InMemoryStore()
        )
        for turn in range(turns):
            text = said(f"My plant number {turn} grew by {turn} inches", "05-01")
            graph.invoke({"messages": [text]}, {"configurable": {"thread_id": "t", "user_id": "a"}})
        stored = rows(saver)
        return len(stored["checkpoints"]) + len(stored["blobs"])

    assert held(60) <= held(20) + 10
