"""FactExtractor with scripted models: what is believed, and that nothing is written twice."""

import asyncio
import re
from collections.abc import Iterator
from typing import Any, cast

import pytest
from langchain_core.messages import AIMessage, HumanMessage, RemoveMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import START, StateGraph
from langgraph.store.memory import InMemoryStore

from memkit import FactExtractor, MemoryRecall, MemoryState
from memkit.errors import ConfigError, StoreError
from tests.graphs import config, said
from tests.scripted import ScriptedModel, facts_reply

FACTS = ("users", "ann@example%2Ecom", "facts")
HARBOUR = "I moved to 3 Harbour Road in Hamburg."
MOVED = {
    "text": "The user moved to 3 Harbour Road in Hamburg.",
    "kind": "address",
    "attribute": "home_address",
    "message_ids": ["1"],
}


def graph_with(model: Any, store: InMemoryStore) -> Any:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("remember", FactExtractor(model))
    builder.add_edge(START, "remember")
    return builder.compile(checkpointer=InMemorySaver(), store=store)


def test_a_models_facts_are_kept_with_their_source() -> None:
    store = InMemoryStore()
    model = ScriptedModel(lambda _: facts_reply(MOVED))
    graph = graph_with(model, store)
    message = said("I moved to 3 Harbour Road in Hamburg.", "05-01", id="m1")
    graph.invoke({"messages": [message]}, config("t"))
    (item,) = store.search(FACTS)
    assert item.value["text"] == MOVED["text"]
    assert item.value["attribute"] == "home_address"
    assert item.value["last_updated"] == "2026-05-01T12:00:00+00:00"
    assert item.value["source"]["message_ids"] == ["m1"]
    shown = str(model.prompts[0][1].content)
    assert "[1] (2026-05-01, Friday) user: I moved to 3 Harbour Road" in shown


@pytest.mark.parametrize(
    "proposed",
    [
        {**MOVED, "text": "The user owns two dogs and a boat."},
        {**MOVED, "message_ids": ["2"]},  # what the assistant said
        {**MOVED, "message_ids": ["9"]},
        {**MOVED, "message_ids": []},
    ],
)
def test_what_no_person_said_is_not_believed(proposed: dict[str, Any]) -> None:
    store = InMemoryStore()
    graph = graph_with(ScriptedModel(lambda _: facts_reply(proposed)), store)
    messages = [
        HumanMessage("I moved to 3 Harbour Road in Hamburg.", id="m1"),
        AIMessage("So you moved to 3 Harbour Road in Hamburg.", id="m2"),
    ]
    events = list(graph.stream({"messages": messages}, config("t"), stream_mode="custom"))
    assert store.search(FACTS) == []
    assert proposed["message_ids"] == [] or events == [] or events[-1].get("add", 0) == 0


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_failed_or_unreadable_reply_is_tried_again_on_the_next_turn(mode: str) -> None:
    replies: Iterator[Any] = iter(
        [AIMessage("no JSON here"), TimeoutError("slow"), facts_reply(MOVED)]
    )

    def answer(_: Any) -> AIMessage:
        reply = next(replies)
        if isinstance(reply, Exception):
            raise reply
        return cast("AIMessage", reply)

    store = InMemoryStore()
    graph = graph_with(ScriptedModel(answer), store)

    def call(text: str) -> dict[str, Any]:
        given = {"messages": [HumanMessage(text)]}
        if mode == "async":
            return dict(asyncio.run(graph.ainvoke(given, config("t"))))
        return dict(graph.invoke(given, config("t")))

    for text in ("I moved to 3 Harbour Road in Hamburg.", "Hello?"):
        assert "through_id" not in call(text)["memory"]["extract"]
        assert store.search(FACTS) == []
    values = call("Are you there?")
    assert values["memory"]["extract"]["through_id"] == values["messages"][-1].id
    assert [f.value["text"] for f in store.search(FACTS)] == [MOVED["text"]]


def test_only_new_messages_are_read() -> None:
    model = ScriptedModel(lambda _: facts_reply())
    graph = graph_with(model, InMemoryStore())
    for text in ("first thing", "second thing"):
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    assert "first thing" not in str(model.prompts[1][1].content)
    graph.invoke({"messages": []}, config("t"))
    assert len(model.prompts) == 2


def test_a_move_told_in_several_threads_leaves_one_current_address() -> None:
    store = InMemoryStore()
    graph = graph_with(None, store)
    for n, (text, day) in enumerate(
        [
            ("I live at 14 Linden Street.", "01-01"),
            ("As I said, I live at 14 Linden Street.", "02-01"),
            ("I moved to 3 Harbour Road.", "03-01"),
            ("I moved to 3 Harbour Road.", "04-01"),
        ]
    ):
        graph.invoke({"messages": [said(text, day)]}, config(f"t{n}"))
    facts = [f.value for f in store.search(FACTS)]
    (current,) = [f for f in facts if f["status"] == "current"]
    assert current["text"] == "I moved to 3 Harbour Road."
    assert current["first_seen"].startswith("2026-03-01")
    assert current["last_confirmed"].startswith("2026-04-01")
    assert all(f["valid_to"] for f in facts if f["status"] == "superseded")


MOVES = ["I live at 14 Linden Street.", "I live at 14 Linden Street.", "I moved to 3 Harbour Road."]


def statuses(store: InMemoryStore) -> dict[str, str]:
    return {f.value["text"]: f.value["status"] for f in store.search(FACTS)}


@pytest.mark.parametrize("again", ["removed", "replayed"])
def test_reading_a_confirmation_again_never_brings_back_the_old_value(again: str) -> None:
    store = InMemoryStore()
    graph = graph_with(None, store)
    for text in MOVES:
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    before = statuses(store)
    assert before == {MOVES[0]: "superseded", MOVES[2]: "current"}
    if again == "removed":
        last = graph.get_state(config("t")).values["messages"][-1]
        graph.invoke({"messages": [RemoveMessage(last.id)]}, config("t"))
    else:
        history = list(graph.get_state_history(config("t")))
        for snapshot in [s for s in history if s.next == ("remember",)]:
            configurable = {**config("t")["configurable"], **snapshot.config["configurable"]}
            graph.invoke(None, {"configurable": configurable})
    assert statuses(store) == before
    assert len(store.search(FACTS)) == 2


def test_the_same_words_are_one_fact() -> None:
    store = InMemoryStore()
    graph = graph_with(None, store)
    for text in ("I love green tea.", "I love green tea!", "i love green tea"):
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    assert len(store.search(FACTS)) == 1


def test_a_backlog_is_read_in_calls_of_bounded_size() -> None:
    model = ScriptedModel(lambda _: facts_reply())
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("remember", FactExtractor(model, batch_chars=300))
    builder.add_edge(START, "remember")
    graph = builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    graph.invoke(
        {"messages": [HumanMessage(f"message {n} " + "x" * 90) for n in range(9)]}, config("t")
    )
    for _ in range(3):
        graph.invoke({"messages": []}, config("t"))
    asked = [str(prompt[1].content) for prompt in model.prompts]
    assert len(asked) == 3
    assert all(len(text) < 500 for text in asked)
    assert all(sum(f"message {n} " in text for text in asked) == 1 for n in range(9))


def test_without_a_checkpointer_the_store_says_what_was_read() -> None:
    model = ScriptedModel(lambda _: facts_reply())
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("remember", FactExtractor(model, batch_chars=300))
    builder.add_edge(START, "remember")
    graph = builder.compile(store=InMemoryStore())
    said_all = [
        message
        for n in range(9)
        for message in (
            AIMessage(f"Question {n}?", id=f"a{n}"),
            HumanMessage(f"message {n} " + "x" * 90, id=f"h{n}"),
        )
    ]
    for _ in range(6):
        graph.invoke({"messages": said_all}, config("t"))
    asked = [str(prompt[1].content) for prompt in model.prompts]
    assert all(len(text) < 600 for text in asked)
    assert all(sum(f"message {n} " in text for text in asked) == 1 for n in range(9))
    assert all(any(f"Question {n}?" in t and f"message {n} " in t for t in asked) for n in range(9))


def test_a_message_that_the_model_refuses_holds_up_nothing_for_ever() -> None:
    def answer(prompt: Any) -> AIMessage:
        shown = str(prompt[1].content)
        if "poison" in shown:
            return AIMessage("I cannot help with that.")
        moved = re.search(r"\[(\d)\][^\n]*Hamburg", shown)
        return facts_reply(*([{**MOVED, "message_ids": [moved[1]]}] if moved else []))

    store = InMemoryStore()
    graph = graph_with(ScriptedModel(answer), store)
    said_by_ann = ["one", "two", "poison", "four", "five"]
    graph.invoke({"messages": [HumanMessage(text) for text in said_by_ann]}, config("t"))
    graph.invoke({"messages": [HumanMessage("I moved to 3 Harbour Road in Hamburg.")]}, config("t"))
    events = []
    for _ in range(12):
        events += list(graph.stream({"messages": []}, config("t"), stream_mode="custom"))
    values = graph.get_state(config("t")).values
    assert values["memory"]["extract"]["through_id"] == values["messages"][-1].id
    assert sum(event.get("passed_over", 0) for event in events) == 1
    assert [f.value["text"] for f in store.search(FACTS)] == [MOVED["text"]]


def test_an_outage_passes_over_nothing() -> None:
    down = True

    def answer(_: Any) -> AIMessage:
        if down:
            raise TimeoutError("slow")
        return facts_reply(MOVED)

    store = InMemoryStore()
    graph = graph_with(ScriptedModel(answer), store)
    graph.invoke({"messages": [HumanMessage("I moved to 3 Harbour Road in Hamburg.")]}, config("t"))
    for _ in range(9):
        graph.invoke({"messages": []}, config("t"))
    down = False
    graph.invoke({"messages": []}, config("t"))
    assert [f.value["text"] for f in store.search(FACTS)] == [MOVED["text"]]


@pytest.mark.parametrize("model", [None, ScriptedModel(lambda _: facts_reply())])
def test_an_edited_message_is_read_again(model: Any) -> None:
    store = InMemoryStore()
    graph = graph_with(model, store)
    for n, text in enumerate(["I live at 14 Linden Street.", "Thanks!", "Bye!"]):
        graph.invoke({"messages": [HumanMessage(text, id=f"m{n}")]}, config("t"))
    shown = len(model.prompts) if model else 0
    graph.invoke({"messages": [HumanMessage("I live at 41 Linden Street.", id="m0")]}, config("t"))
    if model is None:
        assert statuses(store) == {
            "I live at 14 Linden Street.": "superseded",
            "I live at 41 Linden Street.": "current",
        }
    else:
        assert len(model.prompts) == shown + 1
        assert "41 Linden" in str(model.prompts[-1][1].content)
        assert "Thanks!" not in str(model.prompts[-1][1].content)


def test_two_extractors_in_one_graph_do_not_share_a_cursor() -> None:
    store = InMemoryStore()
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("own", FactExtractor(None))
    builder.add_node("team", FactExtractor(None, namespace=("teams", "red", "facts")))
    builder.add_edge(START, "own")
    builder.add_edge("own", "team")
    graph = builder.compile(checkpointer=InMemorySaver(), store=store)
    graph.invoke({"messages": [HumanMessage("I love green tea.")]}, config("t"))
    assert len(store.search(FACTS)) == len(store.search(("teams", "red", "facts"))) == 1


def test_a_fact_of_two_messages_survives_that_another_worker_read_one_of_them() -> None:
    """Two workers on one thread, the second with a message more."""
    store = InMemoryStore()
    first = said("I moved to 3 Harbour Road.", "05-01", id="m1")
    second = said("That is in Hamburg, I moved there for my job.", "05-01", id="m2")
    both = {**MOVED, "message_ids": ["1", "2"]}

    def meanwhile(_: Any) -> AIMessage:
        # The other worker is done with the first message while this one asks the model.
        graph_with(ScriptedModel(lambda _: facts_reply()), store).invoke(
            {"messages": [first]}, config("t")
        )
        return facts_reply(both)

    graph_with(ScriptedModel(meanwhile), store).invoke({"messages": [first, second]}, config("t"))
    assert [f.value["text"] for f in store.search(FACTS)] == [MOVED["text"]]


def test_numbers_for_ids_are_not_taken_for_the_numbers_of_the_prompt() -> None:
    store = InMemoryStore()
    messages = [HumanMessage("Hello there, how are you?", id="2"), said(HARBOUR, "05-01", id="1")]
    for cited, expected in (("2", ["1"]), ("1", [])):
        store = InMemoryStore()
        model = ScriptedModel(lambda _, c=cited: facts_reply({**MOVED, "message_ids": [c]}))  # type: ignore[misc]
        graph_with(model, store).invoke({"messages": messages}, config("t"))
        found = [f.value["source"]["message_ids"] for f in store.search(FACTS)]
        assert found == ([expected] if expected else [])


def test_nul_characters_are_left_out() -> None:
    store = InMemoryStore()
    graph_with(None, store).invoke({"messages": [HumanMessage("I love \0green tea.")]}, config("t"))
    assert [f.value["text"] for f in store.search(FACTS)] == ["I love green tea."]


def test_a_model_without_schemas_is_asked_in_words() -> None:
    class Refused(Exception):
        status_code = 400

    class NoSchemas(ScriptedModel):
        def with_structured_output(self, *_: Any, **__: Any) -> Any:
            raise Refused("response_format is not supported")

    store = InMemoryStore()
    odd = {**MOVED, "message_ids": [1], "kind": None}
    model = NoSchemas(  # type: ignore[call-arg]
        lambda _: AIMessage(f"<think>{{}}</think>[note] {facts_reply(odd).content}")  # type: ignore[arg-type]
    )
    graph_with(model, store).invoke(
        {"messages": [HumanMessage("I moved to 3 Harbour Road in Hamburg.")]}, config("t")
    )
    (fact,) = store.search(FACTS)
    assert fact.value["kind"] == "statement"
    assert "JSON only" in str(model.prompts[0][-1].content)


def test_an_item_that_is_no_fact_stops_nothing() -> None:
    store = InMemoryStore()
    store.put(FACTS, "odd", {"text": "x", "status": "current", "last_updated": "yesterday"})
    store.put(FACTS, "odder", {"text": "x", "status": "current", "source": "crm"})
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("recall", MemoryRecall())
    builder.add_node("remember", FactExtractor(None))
    builder.add_edge(START, "recall")
    builder.add_edge("recall", "remember")
    graph = builder.compile(store=store)
    state = graph.invoke({"messages": [HumanMessage("I love green tea.")]}, config("t"))
    assert state["recalled"] == []
    assert len(store.search(FACTS)) == 3


def test_another_version_reads_anew() -> None:
    store = InMemoryStore()
    message = said("I moved to 3 Harbour Road in Hamburg, and I like tea.", "05-01", id="m")
    for version, text in ((1, "The user likes tea."), (1, "The user moved."), (2, MOVED["text"])):
        model = ScriptedModel(str(facts_reply({"text": text, "message_ids": [1]}).content))
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
        builder.add_node("remember", FactExtractor(model, version=version))
        builder.add_edge(START, "remember")
        builder.compile(store=store).invoke({"messages": [message]}, config("t"))
    assert {f.value["text"] for f in store.search(FACTS)} == {"The user likes tea.", MOVED["text"]}


@pytest.mark.parametrize("model", [None, ScriptedModel(lambda _: facts_reply(MOVED))])
def test_a_store_that_fails_is_not_taken_for_a_model_that_does(model: Any) -> None:
    class Down(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            raise StoreError("the database is away")

    graph = graph_with(model, Down())
    message = HumanMessage("I moved to 3 Harbour Road in Hamburg.")
    with pytest.raises(StoreError, match="away"):
        graph.invoke({"messages": [message]}, config("t"))


@pytest.mark.parametrize("name", ["known_facts", "batch_chars", "version"])
def test_numbers_are_checked_when_the_node_is_built(name: str) -> None:
    for wrong in (0, -1, "3", True):
        with pytest.raises(ConfigError, match=name):
            FactExtractor(None, **{name: wrong})  # type: ignore[arg-type]
