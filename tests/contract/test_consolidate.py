"""FactConsolidator at the end of a thread, on any store, sync and async, beside other writers."""

import asyncio
from datetime import UTC, datetime, timedelta
from threading import Thread
from typing import Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from memkit import FactBook, FactConsolidator, FactExtractor, MemoryState, SemanticStore
from memkit.errors import ConfigError
from memkit.facts import Fact
from tests.graphs import config, said

FACTS = ("users", "ann@example%2Ecom", "facts")
MAY = datetime(2026, 5, 1, tzinfo=UTC)


@pytest.fixture(params=["memory", "postgres"])
def any_store(request: pytest.FixtureRequest) -> BaseStore:
    if request.param == "memory":
        return InMemoryStore()
    store: SemanticStore = request.getfixturevalue("store")
    return store


def graph(store: BaseStore, **limits: Any) -> Any:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("remember", FactExtractor(None))
    builder.add_node("consolidate", FactConsolidator(**limits))
    builder.add_edge(START, "remember")
    builder.add_edge("remember", "consolidate")
    return builder.compile(checkpointer=InMemorySaver(), store=store)


def fill(store: BaseStore) -> FactBook:
    book = FactBook(store, FACTS)
    old = MAY - timedelta(days=500)
    times = {"first_seen": old, "last_updated": old, "last_confirmed": old}
    facts = [
        Fact("I love green tea", key="tea", **times),  # type: ignore[arg-type]
        Fact("I love the green tea", key="tea again", **times),  # type: ignore[arg-type]
        Fact("I lived in Rome", key="gone", status="retracted", valid_to=old, **times),  # type: ignore[arg-type]
    ]
    store.batch([book.put_of(fact) for fact in facts])
    return book


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_the_node_tidies_up_behind_the_extractor(any_store: BaseStore, mode: str) -> None:
    book = fill(any_store)
    turn = {"messages": [said("I love hiking in fog.", "05-01")]}
    made = graph(any_store)
    if mode == "sync":
        state = made.invoke(turn, config("t"))
    else:
        state = asyncio.run(made.ainvoke(turn, config("t")))
    counts = {"merged": 1, "expired": 1, "over_cap": 0}
    entry = state["memory"]["consolidate"]
    assert {name: entry[name] for name in counts} == counts
    status = {f.key: f.status for f in book.all()}
    assert status.pop("tea") == "current"
    assert status.pop("tea again") == "superseded"
    assert list(status.values()) == ["current"]
    if mode == "sync":
        assert book.consolidate(at=MAY).counts == dict.fromkeys(counts, 0)
    else:
        assert asyncio.run(book.aconsolidate(at=MAY)).counts == dict.fromkeys(counts, 0)


def test_a_cap_holds_however_much_is_told(any_store: BaseStore) -> None:
    made = graph(any_store, max_per_kind=5)
    for n in range(12):
        made.invoke({"messages": [said(f"I love tea number {n}.", f"05-{n + 1:02}")]}, config("t"))
    kept = sorted(f.text for f in FactBook(any_store, FACTS).all())
    assert kept == sorted(f"I love tea number {n}." for n in range(7, 12))


def test_a_thread_is_left_alone_for_a_while_if_asked(any_store: BaseStore) -> None:
    book = fill(any_store)
    made = graph(any_store, every="1d")

    def visit(day: str) -> list[Any]:
        turn = {"messages": [said("I love hiking in fog.", day)]}
        return [*made.stream(turn, config("t"), stream_mode="custom")]

    told = {
        "memkit": "consolidate",
        "node": "consolidate",
        "merged": 1,
        "expired": 1,
        "over_cap": 0,
    }
    assert told in visit("05-01")
    any_store.batch([book.put_of(Fact("I love that green tea", key="new", last_updated=MAY))])
    assert not [event for event in visit("05-01") if event["memkit"] == "consolidate"]
    assert told | {"expired": 0} in visit("05-03")


def test_a_dry_run_changes_nothing(any_store: BaseStore) -> None:
    book = fill(any_store)
    before = book.all()
    assert book.consolidate(at=MAY, dry_run=True).merged == 1
    assert book.all() == before


def test_beside_a_live_writer_nothing_is_lost(store: SemanticStore) -> None:
    writer, tidier = graph(store), FactBook(store, FACTS)
    for n in range(5):
        fact = Fact(f"I love the cup number {n}", key=f"cup {n}", last_updated=MAY)
        store.batch([tidier.put_of(fact)])

    def tell() -> None:
        for n in range(15):
            text = f"I love cup number {n % 5}. I love tea number {n}."
            writer.invoke({"messages": [said(text, "05-01")]}, config("t"))

    thread = Thread(target=tell)
    thread.start()
    while thread.is_alive():
        tidier.consolidate(at=MAY)
    thread.join()
    current = [f.text for f in tidier.all(status="current")]
    assert sorted(t for t in current if "tea" in t) == sorted(
        f"I love tea number {n}." for n in range(15)
    )
    assert len([t for t in current if "cup" in t]) == 5


@pytest.mark.parametrize(
    "arguments", [{"max_per_kind": 0}, {"max_per_kind": "5"}, {"keep_ended": "x"}, {"policy": 3}]
)
def test_limits_are_checked_when_the_node_is_built(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FactConsolidator(**arguments)
