"""Memory in every kind of graph that LangGraph has, sync and async."""

import asyncio
import json
import operator
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint, task
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import add_messages
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command, Send, interrupt
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from memkit import (
    ContextBudget,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    TurnRecorder,
    add_memory,
    context,
)
from memkit.errors import ConfigError
from memkit.factbook import FactBook
from memkit.facts import abandoned
from tests.graphs import config

BUDGET = ContextBudget(400)
ANN = "ann@example.com"
both = pytest.mark.parametrize("how", ["sync", "async"])


class Plain(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


@dataclass
class Data:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)


class Model(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list)


def read(state: Any) -> list[AnyMessage]:
    messages: list[AnyMessage] = state["messages"] if isinstance(state, dict) else state.messages
    return messages


class Chat:
    """A node that answers, and keeps what it was shown."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def __call__(self, state: Any) -> dict[str, Any]:
        self.prompts.append("\n".join(str(m.content) for m in read(state)))
        return {"messages": [AIMessage("Noted.")]}


def chat_graph(chat: Any, state: Any = Plain, **options: Any) -> StateGraph[Any, Any, Any, Any]:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state, **options)
    builder.add_node("chat", chat)
    builder.add_edge(START, "chat")
    builder.add_edge("chat", END)
    return builder


def with_memory(chat: Callable[..., Any], state: Any = Plain, **options: Any) -> Any:
    return add_memory(chat_graph(chat, state, **options), around="chat", budget=BUDGET)


def compiled(builder: Any) -> Any:
    return builder.compile(checkpointer=InMemorySaver(), store=InMemoryStore())


def invoke(graph: Any, asked: Any, to: Any, how: str, **more: Any) -> Any:
    turn = {"messages": [HumanMessage(asked)]} if isinstance(asked, str) else asked
    if how == "sync":
        return graph.invoke(turn, to, **more)
    return asyncio.run(graph.ainvoke(turn, to, **more))


def facts(graph: Any, user: str = ANN) -> list[str]:
    return [f.text for f in FactBook.of_user(graph.store, user).all(status="current")]


@both
@pytest.mark.parametrize("state", [Plain, Data, Model])
def test_any_state(state: Any, how: str) -> None:
    chat = Chat()
    graph = compiled(with_memory(chat, state))
    invoke(graph, "I live in Kiel.", config("t1"), how)
    invoke(graph, "Where do I live?", config("t2"), how)
    assert "I live in Kiel." in chat.prompts[1]
    assert facts(graph) == ["I live in Kiel."]


# The functional API


@both
def test_functional(how: str) -> None:
    """Nodes are runnables over a state that the function itself carries along."""
    recall, extract = MemoryRecall(), FactExtractor(None)
    shown: list[str] = []

    @task
    def answer(prompt: list[Any]) -> AIMessage:
        shown.append("\n".join(str(m.content) for m in prompt))
        return AIMessage("Noted.")

    def merged(said: str, previous: Any) -> dict[str, Any]:
        before = previous or {"messages": [], "memory": {}}
        return {**before, "messages": [*before["messages"], HumanMessage(said)]}

    if how == "sync":

        @entrypoint(checkpointer=InMemorySaver(), store=InMemoryStore())
        def chat(said: str, *, previous: Any = None) -> Any:
            state = merged(said, previous)
            state |= recall.invoke(state)
            state["messages"].append(answer(context(state, BUDGET)).result())
            state |= extract.invoke(state)
            return entrypoint.final(value=state["messages"][-1].content, save=state)
    else:

        @entrypoint(checkpointer=InMemorySaver(), store=InMemoryStore())
        async def chat(said: str, *, previous: Any = None) -> Any:
            state = merged(said, previous)
            state |= await recall.ainvoke(state)
            state["messages"].append(await answer(context(state, BUDGET)))
            state |= await extract.ainvoke(state)
            return entrypoint.final(value=state["messages"][-1].content, save=state)

    def ask(said: str, thread: str) -> Any:
        if how == "sync":
            return chat.invoke(said, config(thread))
        return asyncio.run(chat.ainvoke(said, config(thread)))

    assert ask("I live in Kiel.", "t1") == "Noted."
    ask("I have two cats.", "t1")
    ask("Where do I live?", "t2")
    assert "I live in Kiel." in shown[2]
    assert sorted(facts(chat)) == ["I have two cats.", "I live in Kiel."]


# Subgraphs


@both
@pytest.mark.parametrize("saver", [None, True, False])
@pytest.mark.parametrize("place", ["inside", "around", "both"])
def test_subgraphs(place: str, saver: Any, how: str) -> None:
    chat = Chat()
    inner = with_memory(chat) if place != "around" else chat_graph(chat)
    outer = chat_graph(inner.compile(checkpointer=saver))
    if saver and place != "inside":
        # Its own history would take in every view, and outgrow the budget.
        with pytest.raises(ConfigError, match="checkpointer=True"):
            add_memory(outer, around="chat", budget=BUDGET)
        return
    graph = compiled(
        add_memory(outer, around="chat", budget=BUDGET) if place != "inside" else outer
    )
    for n in range(3):
        invoke(graph, f"I own {n + 2} green umbrellas.", config("t1"), how)
    invoke(graph, "What do I own?", config("t2"), how)
    assert "I own 2 green umbrellas." in chat.prompts[-1]
    assert len(facts(graph)) == 3
    messages = graph.get_state(config("t1")).values["messages"]
    assert [m.type for m in messages] == ["human", "ai"] * 3


# Send


@both
def test_a_fan_out_of_extractors_loses_and_doubles_nothing(how: str) -> None:
    """Several branches read the same messages at once; their cursors are merged."""

    class Fan(MemoryState):
        seen: Annotated[list[str], operator.add]

    class Part(MemoryState):
        number: int

    extract = FactExtractor(None)
    recall = MemoryRecall(output_key="recalled")

    def work(state: Any) -> dict[str, Any]:
        return {"seen": [f"{state['number']}: {len(state['messages'])}"]}

    def fan(state: Any) -> list[Send]:
        sent = [Send("extract", {**state, "number": n}) for n in range(3)]
        return [*sent, *(Send("work", {**state, "number": n}) for n in range(3))]

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Fan)
    builder.add_node("recall", recall)
    builder.add_node("extract", extract, input_schema=Part)
    builder.add_node("work", work, input_schema=Part)
    builder.add_edge(START, "recall")
    builder.add_conditional_edges("recall", fan, ["extract", "work"])
    graph = compiled(builder)
    invoke(graph, "I live in Kiel. I have two cats.", config("t"), how)
    done = invoke(graph, "I like tea.", config("t"), how)
    assert sorted(facts(graph)) == ["I have two cats.", "I like tea.", "I live in Kiel."]
    assert len(done["seen"]) == 6
    assert done["memory"]["extract"]["through_id"] == done["messages"][-1].id


@both
def test_a_send_to_the_wrapped_node_is_served_a_view(how: str) -> None:
    """It goes past the memory nodes; what is recalled for the thread is shown all the same."""
    chat = Chat()
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    builder.add_node("plan", lambda _: {})
    builder.add_node("chat", chat)
    builder.add_edge(START, "plan")

    def fan(state: Any) -> list[Send]:
        return [Send("chat", {"messages": state["messages"] * 40}) for _ in range(2)]

    builder.add_conditional_edges("plan", fan, ["chat"])
    builder.add_edge("chat", END)
    graph = compiled(add_memory(builder, around="chat", budget=BUDGET))
    invoke(graph, "I own seven green umbrellas, and they are all broken.", config("t"), how)
    assert len(chat.prompts) == 2
    assert all(BUDGET.count([HumanMessage(prompt)]) <= BUDGET.max_tokens for prompt in chat.prompts)
    assert len(facts(graph)) == 1


# Interrupts, streams, context


@both
def test_a_stop_in_the_middle_of_the_wrapped_node(how: str) -> None:
    answers: list[Any] = []

    def chat(state: Any) -> dict[str, Any]:
        answers.append(interrupt("go on?"))
        return {"messages": [AIMessage("Noted.")]}

    graph = compiled(with_memory(chat))
    stopped = invoke(graph, "I live in Kiel.", config("t"), how)
    assert stopped["__interrupt__"][0].value == "go on?"
    assert facts(graph) == []
    done = invoke(graph, Command(resume="yes"), config("t"), how)
    assert answers == ["yes"]
    assert [m.content for m in done["messages"]] == ["I live in Kiel.", "Noted."]
    assert facts(graph) == ["I live in Kiel."]


MODES = ("values", "updates", "messages", "custom", "debug", "checkpoints", "tasks")


@both
def test_all_stream_modes(how: str) -> None:
    graph = compiled(chat_graph(with_memory(Chat()).compile()))
    turn = {"messages": [HumanMessage("I live in Kiel.")]}
    options: dict[str, Any] = {"stream_mode": list(MODES), "subgraphs": True}

    async def streamed() -> list[Any]:
        return [each async for each in graph.astream(turn, config("t"), **options)]

    chunks = (
        list(graph.stream(turn, config("t"), **options))
        if how == "sync"
        else asyncio.run(streamed())
    )
    seen: dict[str, list[Any]] = {mode: [] for mode in MODES}
    for _, mode, chunk in chunks:
        seen[mode].append(chunk)
    assert all(seen[mode] for mode in MODES)
    nodes = {name for update in seen["updates"] for name in update}
    assert {"memory_recall", "memory_trim", "chat", "memory_remember"} <= nodes
    assert {"extract"} <= {event["memkit"] for event in seen["custom"]}
    # What memkit writes is no message of the assistant.
    assert {str(message.content) for message, _ in seen["messages"]} <= {"Noted."}
    json.dumps(seen["custom"])


@both
def test_the_user_may_come_from_the_runtime_context(how: str) -> None:
    @dataclass
    class Who:
        user_id: str

    def chat(state: Any, runtime: Runtime[Who]) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Noted, {runtime.context.user_id}.")]}

    graph = compiled(with_memory(chat, context_schema=Who))
    to: Any = {"configurable": {"thread_id": "t"}}
    done = invoke(graph, "I live in Kiel.", to, how, context=Who("carl"))
    assert done["messages"][-1].content == "Noted, carl."
    assert facts(graph, "carl") == ["I live in Kiel."]


# Time travel


def at(snapshot: Any) -> Any:
    """The config of a run from a checkpoint; LangGraph's own names no user."""
    return {"configurable": {**snapshot.config["configurable"], "user_id": ANN}}


@both
def test_a_fork_goes_on_from_where_it_left(how: str) -> None:
    chat = Chat()
    graph = compiled(with_memory(chat))
    invoke(graph, "I live in Kiel.", config("t"), how)
    end = graph.get_state(config("t"))
    invoke(graph, "I like tea.", config("t"), how)
    fork = invoke(graph, "I have two cats.", at(end), how)
    assert [m.content for m in fork["messages"]] == [
        "I live in Kiel.",
        "Noted.",
        "I have two cats.",
        "Noted.",
    ]
    values = graph.get_state(config("t")).values
    assert values["memory"]["extract"]["through_id"] == values["messages"][-1].id
    assert sorted(facts(graph)) == ["I have two cats.", "I like tea.", "I live in Kiel."]
    # What only the abandoned branch said can be found and taken back.
    book = FactBook.of_user(graph.store, ANN)
    history = list(graph.get_state_history(config("t")))
    assert [fact.text for fact in abandoned(book.all(), history)] == ["I like tea."]


@both
def test_a_replay_writes_nothing_twice(how: str) -> None:
    graph = compiled(with_memory(Chat()))
    # Without an id of its own it would be another message whenever LangGraph takes it in anew.
    turn = {"messages": [HumanMessage("I live in Kiel.", id="m1")]}
    invoke(graph, turn, config("t"), how)
    before = FactBook.of_user(graph.store, ANN).all()
    for snapshot in list(graph.get_state_history(config("t"))):
        invoke(graph, None, at(snapshot), how)
    assert FactBook.of_user(graph.store, ANN).all() == before


@both
def test_an_edit_of_the_state_is_read_again(how: str) -> None:
    graph = compiled(with_memory(Chat()))
    invoke(graph, "I live in Kiel.", config("t"), how)
    said = graph.get_state(config("t")).values["messages"][0]
    graph.update_state(config("t"), {"messages": [HumanMessage("I live in Bonn.", id=said.id)]})
    invoke(graph, "Hello again.", config("t"), how)
    assert facts(graph) == ["I live in Bonn."]


def test_under_the_strict_serializer() -> None:
    """LANGGRAPH_STRICT_MSGPACK is read when LangGraph is imported, so in a process of its own."""
    code = """
import warnings
warnings.simplefilter("error")
from langgraph.checkpoint.serde.event_hooks import register_serde_event_listener
blocked = []
register_serde_event_listener(lambda event: "blocked" in event["kind"] and blocked.append(event))
from tests.contract.test_every_graph import *
builder = add_memory(chat_graph(Chat()), around="chat", budget=BUDGET, record_turns=True)
graph = compiled(builder)
for n in range(30):
    told = f"I own {n + 2} green umbrellas, and they stand in the hall."
    invoke(graph, told, config("t"), "sync")
state = graph.get_state(config("t")).values
assert state["summary"] and state["recalled"] is not None and not blocked, blocked
print("fine")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "LANGGRAPH_STRICT_MSGPACK": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "fine\n", done.stderr


def test_the_recorder_and_recall_share_a_fan_in() -> None:
    """Nodes of memkit side by side, joined by a waiting edge."""
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("extract", FactExtractor(None))
    builder.add_node("record", TurnRecorder())
    builder.add_node("end", lambda _: {})
    builder.add_edge(START, "extract")
    builder.add_edge(START, "record")
    builder.add_edge(["extract", "record"], "end")
    graph = compiled(builder)
    invoke(graph, "I live in Kiel.", config("t"), "sync")
    memory = graph.get_state(config("t")).values["memory"]
    assert {"extract", "record"} <= set(memory)
