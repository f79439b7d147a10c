"""MemoryRecall: what is chosen from what was found."""

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from memkit import MemoryRecall, MemoryState
from tests.fakes import HashEmbeddings
from tests.graphs import config, memory_graph, said

NOW = said("Do I drink green tea in the morning?", "06-01", id="q")


def recall(items: list[tuple[str, str, dict[str, Any]]], **arguments: Any) -> list[dict[str, Any]]:
    """Recall with a store that holds items given as (source, text, more of the value)."""
    embed = HashEmbeddings()
    store = InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    for n, (source, text, more) in enumerate(items):
        value = {
            "text": text,
            "status": "current",
            "last_updated": "2026-05-01T00:00:00+00:00",
            "source": {"thread_id": "t0", "message_ids": [f"m{n}"]},
            **more,
        }
        store.put(("users", "ann@example%2Ecom", source), f"{source}{n}", value)
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall(**{"sources": ("facts", "turns"), **arguments}))
    builder.add_edge(START, "recall")
    state = builder.compile(store=store).invoke({"messages": [NOW]}, config("t1"))
    return list(state["recalled"])


def source(*ids: str, thread: str = "t0") -> dict[str, Any]:
    return {"source": {"thread_id": thread, "message_ids": list(ids)}}


def test_all_facts_of_one_message_are_recalled() -> None:
    facts = ["I drink tea in the morning", "I get up early in the morning", "My cup is green"]
    found = recall([("facts", text, source("m")) for text in facts])
    assert {r["text"] for r in found} == set(facts)
    scores = [r["score"] for r in found]
    assert scores == sorted(scores, reverse=True)


def test_nothing_is_said_both_as_a_turn_and_as_a_fact() -> None:
    exact, far = "Do I drink green tea in the morning?", "my boat"
    turn_first = recall([("facts", far, source("m")), ("turns", exact, source("m"))])
    assert [(r["source"], r["text"]) for r in turn_first] == [("turns", exact)]
    fact_first = recall([("facts", exact, source("m")), ("turns", far, source("m"))])
    assert [(r["source"], r["text"]) for r in fact_first] == [("facts", exact)]


def test_a_turn_is_as_old_as_the_facts_that_were_taken_from_it() -> None:
    old = {"last_updated": "2025-01-01T00:00:00+00:00"}
    ended = {"valid_to": "2026-01-01T00:00:00+00:00"}
    turn = ("turns", "Do I drink green tea in the morning?", source("m"))
    (stale,) = recall([("facts", "my boat", {**source("m"), **old}), turn])
    assert (stale["source"], stale["freshness"]) == ("turns", "stale")
    assert recall([("facts", "my boat", {**source("m"), **ended}), turn]) == []
    one_of_two = [("facts", "my boat", {**source("m"), **ended}), ("facts", "tea", source("m"))]
    (fresh,) = recall([*one_of_two, turn])
    assert fresh["freshness"] == "fresh"
    shown = recall([("facts", "my boat", {**source("m"), **ended}), turn], include_expired=True)
    assert [r["freshness"] for r in shown] == ["expired"]


def test_what_the_model_sees_anyway_and_what_is_superseded_is_left_out() -> None:
    here = source("q", thread="t1")
    gone = {"status": "superseded"}
    assert recall([("turns", "user: green tea", here), ("facts", "green tea", gone)]) == []


def test_the_limit_holds_and_no_query_finds_nothing() -> None:
    items: list[tuple[str, str, dict[str, Any]]] = [
        ("facts", f"green tea number {n}", {}) for n in range(20)
    ]
    assert len(recall(items, limit=5)) == 5
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall())
    builder.add_edge(START, "recall")
    graph = builder.compile(store=InMemoryStore())
    assert graph.invoke({"messages": [HumanMessage("")]}, config("t"))["recalled"] == []


def test_facts_of_this_thread_come_back_once_the_summary_has_covered_their_words() -> None:
    embed = HashEmbeddings()
    store = InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    graph = memory_graph(turns=False).compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke({"messages": [HumanMessage("I am allergic to peanuts.")]}, config("t"))
    for n in range(20):
        text = f"Parcel number {n} came in the morning, and it was blue, as always."
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    state = graph.invoke({"messages": [HumanMessage("allergic to peanuts?")]}, config("t"))
    assert [r["text"] for r in state["recalled"]] == ["I am allergic to peanuts."]
