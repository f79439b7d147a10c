"""MemoryRecall: what is chosen from what was found."""

from typing import Any

from langchain_core.messages import HumanMessage
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from memkit import MemoryRecall, MemoryState
from tests.fakes import HashEmbeddings
from tests.graphs import config, said

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


def test_all_facts_of_one_message_are_recalled_and_its_turn_gives_way() -> None:
    found = recall(
        [
            ("facts", "I drink tea", source("m")),
            ("facts", "I get up early in the morning", source("m")),
            ("turns", "user: I drink green tea in the morning, and I get up early", source("m")),
            ("turns", "user: the green parcel", source("n")),
        ]
    )
    assert [r["source"] for r in found] == ["facts", "facts", "turns"]
    scores = [r["score"] for r in found]
    assert scores == sorted(scores, reverse=True)
    assert found[2]["text"] == "user: the green parcel"


def test_a_stale_fact_is_not_hidden_behind_its_turn_and_an_expired_one_takes_it_along() -> None:
    old = {"last_updated": "2025-01-01T00:00:00+00:00"}
    turn = ("turns", "user: I drink green tea in the morning", source("m"))
    (stale,) = recall([("facts", "I drink tea", {**source("m"), **old}), turn])
    assert (stale["source"], stale["freshness"]) == ("facts", "stale")
    ended = {"valid_to": "2026-01-01T00:00:00+00:00"}
    assert recall([("facts", "I drink tea", {**source("m"), **ended}), turn]) == []
    shown = recall([("facts", "I drink tea", {**source("m"), **ended})], include_expired=True)
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
