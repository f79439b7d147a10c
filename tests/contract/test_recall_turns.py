"""Turns recorded and recalled: their places, what finds them, and what facts say of them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.store.base import BaseStore
from langgraph.store.memory import InMemoryStore

from memkit import FactExtractor, MemoryRecall, MemoryState, TurnRecorder
from memkit.errors import ConfigError
from memkit.store import SemanticStore
from memkit.turns import TurnRanking
from tests.fakes import HashEmbeddings

NOW = "2026-11-20T12:00:00+00:00"
TURNS = ("users", "ann", "turns")


def config(thread: str = "t") -> Any:
    return {"configurable": {"thread_id": thread, "user_id": "ann"}}


def recorder(store: BaseStore) -> Any:
    builder = StateGraph(MemoryState)
    builder.add_node("record", TurnRecorder())
    builder.add_edge(START, "record")
    builder.add_edge("record", END)
    return builder.compile(checkpointer=InMemorySaver(), store=store)


def kept(store: BaseStore, thread: str = "t") -> list[tuple[int, str]]:
    items = store.search(TURNS, limit=100)
    return sorted(
        (item.value["position"], item.value["text"])
        for item in items
        if item.value["thread_id"] == thread
    )


def say(app: Any, *texts: str, thread: str = "t", **more: Any) -> None:
    for text in texts:
        app.invoke({"messages": [HumanMessage(text, **more)]}, config(thread))


def recalled(store: BaseStore, text: str, *, thread: str = "new", **kwargs: Any) -> list[Any]:
    builder = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall(**{"sources": ("turns",), **kwargs}))
    builder.add_edge(START, "recall")
    app = builder.compile(store=store)
    given: Any = {"messages": [HumanMessage(text, additional_kwargs={"timestamp": NOW})]}
    found = app.invoke(given, config(thread))["recalled"]
    assert asyncio.run(app.ainvoke(given, config(thread)))["recalled"] == found
    return list(found)


# Their places


def test_turns_are_numbered_in_their_thread() -> None:
    store = InMemoryStore()
    app = recorder(store)
    say(app, "one", "two")
    messages = [AIMessage("", tool_calls=[]), AIMessage("three"), HumanMessage("four")]
    app.invoke({"messages": messages}, config())
    say(app, "first", thread="u")
    assert kept(store) == [
        (0, "user: one"),
        (1, "user: two"),
        (2, "assistant: three"),
        (3, "user: four"),
    ]
    assert kept(store, "u") == [(0, "user: first")]


def cut(app: Any) -> None:
    first = app.get_state(config()).values["messages"][0]
    app.update_state(config(), {"messages": [RemoveMessage(first.id)]}, as_node="record")


def cut_all(app: Any) -> None:
    removed: list[Any] = [RemoveMessage(REMOVE_ALL_MESSAGES)]
    app.update_state(config(), {"messages": removed}, as_node="record")


def edit(app: Any) -> None:
    last = app.get_state(config()).values["messages"][-1]
    again = HumanMessage("three again", id=last.id)
    app.update_state(config(), {"messages": [again]}, as_node="record")


@pytest.mark.parametrize(
    ("change", "third"), [(cut, "three"), (cut_all, "three"), (edit, "three again")]
)
def test_places_stay_when_the_history_changes(change: Callable[[Any], None], third: str) -> None:
    store = InMemoryStore()
    app = recorder(store)
    say(app, "one", "two", "three")
    change(app)
    say(app, "four")
    assert kept(store) == [
        (0, "user: one"),
        (1, "user: two"),
        (2, f"user: {third}"),
        (3, "user: four"),
    ]


def test_a_replay_keeps_every_place() -> None:
    store = InMemoryStore()
    app = recorder(store)
    for text in (
        "one",
        "two",
        "three",
    ):  # a replay of the input gives messages without ids new ones
        say(app, text, id=text)
    before = kept(store)
    for state in list(app.get_state_history(config())):
        app.invoke(None, {"configurable": {**state.config["configurable"], "user_id": "ann"}})
    assert kept(store) == before


# What finds them


def test_what_was_said_around_a_turn_finds_it(store: SemanticStore) -> None:
    app = recorder(store)
    say(app, *(f"small talk {n}" for n in range(12)))
    say(app, "Have you seen the new telescope?", name="Bob")
    say(app, "Sure, it is amazing!", name="Ann")
    say(app, *(f"more talk {n}" for n in range(12)))
    found = recalled(store, "What does Ann think of the telescope?", limit=2)
    assert found[0]["text"] == "Ann: Sure, it is amazing!"
    alone = TurnRanking(reach=0, near=(1.0,), speaker=0, question=0)
    found = recalled(store, "What does Ann think of the telescope?", limit=1, ranking=alone)
    assert "telescope" in found[0]["text"]


def test_a_name_is_known_once_it_has_spoken(store: SemanticStore) -> None:
    app = recorder(store)
    say(app, "Hello there.", name="Bob")
    (first, *_) = recalled(store, "What did Bob say?")
    assert first["message_ids"]
    assert first["score"] is not None


def test_what_the_model_sees_anyway_is_left_out(store: SemanticStore) -> None:
    say(recorder(store), "I saw a zebra")
    builder = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall(sources=("turns",)))
    builder.add_node("record", TurnRecorder())
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "record")
    app = builder.compile(checkpointer=InMemorySaver(), store=store)
    given: Any = {"messages": [HumanMessage("A zebra, you know.", id="mine")]}
    app.invoke(given, config("u"))
    given = {"messages": [HumanMessage("What about the zebra?")]}
    found = app.invoke(given, config("u"))["recalled"]
    assert [one["text"] for one in found] == ["user: I saw a zebra"]


# What facts say of them


def remembered(store: BaseStore) -> None:
    builder = StateGraph(MemoryState)
    builder.add_node("facts", FactExtractor(None))
    builder.add_node("turns", TurnRecorder())
    builder.add_edge(START, "facts")
    builder.add_edge("facts", "turns")
    app = builder.compile(checkpointer=InMemorySaver(), store=store)
    say(app, "I live in Kiel.", "Well, " + "you know, " * 60 + "I have two cats.")


@pytest.mark.parametrize("kind", ["semantic", "in memory"])
def test_a_fact_comes_with_the_words_it_was_taken_from(kind: str, store: SemanticStore) -> None:
    index: Any = {"dims": 64, "embed": HashEmbeddings(), "fields": ["text"]}
    either: BaseStore = store if kind == "semantic" else InMemoryStore(index=index)
    remembered(either)
    found = recalled(either, "Where do I live, and what have I got?", sources=("facts", "turns"))
    said = {one["text"]: one.get("said") for one in found if one["source"] == "facts"}
    assert said
    for text, words in said.items():
        assert words
        assert len(words[0]) <= 400
        assert "Kiel" not in text or words == ["user: I live in Kiel."]
    facts = recalled(either, "Where do I live?", sources=("facts",))
    assert facts
    assert all("said" not in one for one in facts)


# A better order


class Backwards(BaseDocumentCompressor):
    """Keeps some documents, the last first."""

    keep: int = 99

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        if query == "Break!":
            raise TimeoutError("no answer")
        return list(reversed(documents))[: self.keep]


@pytest.mark.parametrize("kind", ["semantic", "in memory"])
def test_a_reranker_has_the_last_word(kind: str, store: SemanticStore) -> None:
    index: Any = {"dims": 64, "embed": HashEmbeddings(), "fields": ["text"]}
    either: BaseStore = store if kind == "semantic" else InMemoryStore(index=index)
    say(recorder(either), *(f"zebra {n}" for n in range(5)))
    plain = [one["text"] for one in recalled(either, "zebra")]
    assert len(plain) == 5
    turned = [one["text"] for one in recalled(either, "zebra", reranker=Backwards())]
    assert turned == plain[::-1]
    some = [one["text"] for one in recalled(either, "zebra", reranker=Backwards(keep=2))]
    assert some == [*plain[:2:-1], *plain[:3]]


def test_a_reranker_that_fails_changes_nothing(
    store: SemanticStore, caplog: pytest.LogCaptureFixture
) -> None:
    say(recorder(store), *(f"zebra {n}" for n in range(5)))
    plain = recalled(store, "Break!")
    assert recalled(store, "Break!", reranker=Backwards()) == plain
    assert "the reranker failed: TimeoutError" in caplog.text


@pytest.mark.parametrize("wrong", [{"ranking": 3}, {"reranker": "cross-encoder"}])
def test_what_is_no_ranking_is_refused(wrong: Any) -> None:
    with pytest.raises(ConfigError):
        MemoryRecall(**wrong)
