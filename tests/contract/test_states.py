"""The nodes on every kind of state, and the errors for states and graphs that lack something."""

import asyncio
import operator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.store.memory import InMemoryStore
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from memkit import (
    ContextBudget,
    DeltaMemoryState,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    TokenTrimmer,
    TurnRecorder,
    add_memory,
)
from memkit.errors import BudgetTooSmall, ConfigError, StoreMissing
from memkit.state import merge_memory
from tests.fakes import HashEmbeddings
from tests.graphs import BUDGET, config, memory_graph


def memory_store() -> InMemoryStore:
    embed = HashEmbeddings()
    return InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})


class Appending(TypedDict):
    """Messages that can only be appended, and cursors without a reducer."""

    messages: Annotated[list[AnyMessage], operator.add]
    summary: dict[str, Any] | None
    recalled: list[dict[str, Any]]
    llm_input_messages: list[AnyMessage]
    memory: dict[str, Any]


class Delta(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]
    summary: dict[str, Any] | None
    recalled: list[dict[str, Any]]
    llm_input_messages: list[AnyMessage]
    memory: Annotated[dict[str, Any], merge_memory]


@dataclass
class Data:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)
    summary: dict[str, Any] | None = None
    recalled: list[dict[str, Any]] = field(default_factory=list)
    llm_input_messages: list[AnyMessage] = field(default_factory=list)
    memory: Annotated[dict[str, Any], merge_memory] = field(default_factory=dict)


class Model(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list)
    summary: dict[str, Any] | None = None
    recalled: list[dict[str, Any]] = Field(default_factory=list)
    llm_input_messages: list[AnyMessage] = Field(default_factory=list)
    memory: Annotated[dict[str, Any], merge_memory] = Field(default_factory=dict)


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
@pytest.mark.parametrize("state", [MemoryState, DeltaMemoryState, Appending, Delta, Data, Model])
def test_every_kind_of_state(state: Any) -> None:
    store = memory_store()
    graph = memory_graph(state).compile(checkpointer=InMemorySaver(), store=store)
    for n in range(12):
        text = f"I bought parcel number {n} in the shop, and it was blue."
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    values = graph.get_state(config("t")).values
    assert len(values["messages"]) == 24
    assert values["summary"]["text"]
    assert BUDGET.count(values["llm_input_messages"]) <= BUDGET.max_tokens
    # Each message was read once by each node, and none was left out.
    assert len(store.search(("users", "ann@example%2Ecom", "facts"), limit=100)) == 12
    assert len(store.search(("users", "ann@example%2Ecom", "turns"), limit=100)) == 24
    assert values["memory"]["extract"]["writes"] == 12


def one_node(node: Any, state: Any = MemoryState, **compiled: Any) -> Any:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    builder.add_node("node", node)
    builder.add_edge(START, "node")
    builder.add_edge("node", END)
    return builder.compile(**compiled)


HELLO = {"messages": [HumanMessage("I live at 14 Linden Street.")]}


@pytest.mark.parametrize("node", [MemoryRecall(), FactExtractor(None), TurnRecorder()])
def test_a_graph_without_a_store_is_a_clear_error(node: Any) -> None:
    with pytest.raises(StoreMissing, match=r"compile\(store=\.\.\.\)"):
        one_node(node).invoke(HELLO, config("t"))


@pytest.mark.parametrize("node", [MemoryRecall(), FactExtractor(None), TurnRecorder()])
def test_a_missing_user_id_is_named(node: Any) -> None:
    graph = one_node(node, store=memory_store())
    with pytest.raises(ConfigError, match="'user_id'"):
        graph.invoke(HELLO, {"configurable": {"thread_id": "t"}})


def test_a_namespace_is_filled_from_config_then_context_then_state() -> None:
    class State(MemoryState):
        user_id: str

    store = memory_store()
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State, context_schema=dict)
    builder.add_node("node", TurnRecorder())
    builder.add_edge(START, "node")
    graph: Any = builder.compile(store=store)
    told = {**HELLO, "user_id": "state"}
    graph.invoke(told)
    graph.invoke(told, context={"user_id": "context"})
    graph.invoke(told, {"configurable": {"user_id": "config"}}, context={"user_id": "context"})
    names = store.list_namespaces()
    assert names == [("users", who, "turns") for who in ("config", "context", "state")]


@pytest.mark.parametrize(
    ("node", "key"),
    [
        (MemoryRecall(), "recalled"),
        (TokenTrimmer(BUDGET), "llm_input_messages"),
        (TokenTrimmer(BUDGET, messages_key="chat"), "chat"),
        (FactExtractor(None), "memory"),
    ],
)
def test_a_state_that_lacks_a_key_is_an_error_and_not_silence(node: Any, key: str) -> None:
    graph = one_node(node, MessagesState, store=memory_store())
    with pytest.raises(ConfigError, match=f"'{key}'"):
        graph.invoke(HELLO, config("t"))


def test_a_budget_smaller_than_the_system_message_is_a_clear_error() -> None:
    messages = [SystemMessage("word " * 400), HumanMessage("hi")]
    with pytest.raises(BudgetTooSmall, match="Raise max_tokens"):
        one_node(TokenTrimmer(BUDGET)).invoke({"messages": messages}, config("t"))


@pytest.mark.parametrize(
    "arguments",
    [{"limit": 0}, {"sources": ()}, {"namespace": "users"}, {"once_per_turn": "yes"}],
)
def test_bad_arguments_fail_when_the_node_is_built(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        MemoryRecall(**arguments)


class Plain(TypedDict):
    messages: Annotated[list[AnyMessage], add_messages]


def test_add_memory_serves_a_node_that_knows_nothing_of_memkit() -> None:
    seen: list[list[AnyMessage]] = []

    def respond(state: Plain) -> dict[str, Any]:
        seen.append(list(state["messages"]))
        return {"messages": [AIMessage(f"Noted: {state['messages'][-1].content}"[:60])]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    builder.add_node("respond", respond)
    builder.add_edge(START, "respond")
    builder.add_edge("respond", END)
    budget = ContextBudget(200)
    add_memory(builder, around="respond", budget=budget, record_turns=True)
    store = memory_store()
    graph = builder.compile(checkpointer=InMemorySaver(), store=store)
    for n in range(10):
        text = f"I bought parcel number {n} in the shop, and it was blue."
        graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
    values = graph.get_state(config("t")).values
    assert len(values["messages"]) == 20
    assert all(budget.count(view) <= 200 for view in seen)
    assert seen[-1] == values["llm_input_messages"]
    assert len(store.search(("users", "ann@example%2Ecom", "facts"), limit=100)) == 10
    graph.invoke({"messages": [HumanMessage("parcel number 3?")]}, config("other"))
    assert "parcel number 3" in str(seen[-1][0].content)
    assert graph.get_state(config("other")).values["recalled"]


def test_add_memory_keeps_a_tool_loop_and_its_conditional_edges() -> None:
    def respond(state: Plain) -> dict[str, Any]:
        if state["messages"][-1].type == "tool":
            return {"messages": [AIMessage("done")]}
        call = {"name": "look", "args": {}, "id": "c1"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    def tools(state: Plain) -> dict[str, Any]:
        from langchain_core.messages import ToolMessage

        return {"messages": [ToolMessage("42", tool_call_id="c1")]}

    def route(state: Plain) -> str:
        last = state["messages"][-1]
        return "tools" if isinstance(last, AIMessage) and last.tool_calls else END

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    builder.add_node("respond", respond)
    builder.add_node("tools", tools)
    builder.add_edge(START, "respond")
    builder.add_conditional_edges("respond", route, ["tools", END])
    builder.add_edge("tools", "respond")
    add_memory(builder, around="respond", budget=BUDGET)
    graph = builder.compile(checkpointer=InMemorySaver(), store=memory_store())
    messages = graph.invoke({"messages": [HumanMessage("look it up")]}, config("t"))["messages"]
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]


def test_add_memory_names_what_is_wrong() -> None:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    builder.add_node("respond", lambda state: state)
    builder.add_edge(START, "respond")
    with pytest.raises(ConfigError, match="no node 'answer'"):
        add_memory(builder, around="answer", budget=BUDGET)
    add_memory(builder, around="respond", budget=BUDGET)
    with pytest.raises(ConfigError, match="wired twice"):
        add_memory(builder, around="respond", budget=BUDGET)


@pytest.mark.parametrize("how", ["subgraph", "whole list"])
def test_add_memory_never_lets_the_view_become_the_history(how: str) -> None:
    def chat(state: Plain) -> dict[str, Any]:
        reply = AIMessage("Noted.")
        return {"messages": [*state["messages"], reply] if how == "whole list" else [reply]}

    inner: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    inner.add_node("chat", chat)
    inner.add_edge(START, "chat")
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(Plain)
    builder.add_node("chat", inner.compile() if how == "subgraph" else chat)
    builder.add_edge(START, "chat")
    add_memory(builder, around="chat", budget=ContextBudget(260), record_turns=True)
    store = memory_store()
    graph = builder.compile(checkpointer=InMemorySaver(), store=store)
    for n in range(24):
        text = f"I bought parcel number {n} in the shop, and it was blue."
        graph.invoke({"messages": [HumanMessage(text)]}, config(f"t{n % 2}"))
    values = graph.get_state(config("t0")).values
    assert values["summary"]
    assert [m.type for m in values["messages"]] == ["human", "ai"] * 12
    facts = store.search(("users", "ann@example%2Ecom", "facts"), limit=100)
    assert len(facts) == 24


@pytest.mark.parametrize(
    "build",
    [
        lambda: MemoryRecall(namespace=("users", "{user-id}", "facts")),
        lambda: MemoryRecall(namespace=("langgraph", "{user_id}")),
        lambda: MemoryRecall(limit="8"),  # type: ignore[arg-type]
        lambda: MemoryRecall(policy={"default": "90d"}),  # type: ignore[arg-type]
        lambda: TokenTrimmer(None),  # type: ignore[arg-type]
        lambda: TokenTrimmer(BUDGET, messages_key=5),
        lambda: FactExtractor(5),  # type: ignore[arg-type]
        lambda: TurnRecorder(clock="now"),
    ],
)
def test_wrong_arguments_fail_when_the_node_is_built(build: Any) -> None:
    with pytest.raises(ConfigError):
        build()


@pytest.mark.parametrize("state", [MemoryState, DeltaMemoryState, Appending, Delta, Data, Model])
def test_add_memory_finds_its_keys_in_a_state_that_has_them(state: Any) -> None:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    builder.add_node("respond", lambda _: {"messages": [AIMessage("Noted.")]})
    builder.add_edge(START, "respond")
    add_memory(builder, around="respond", budget=BUDGET)
    graph = builder.compile(checkpointer=InMemorySaver(), store=memory_store())
    graph.invoke({"messages": [HumanMessage("I live in Kiel.")]}, config("t"))
    graph.invoke({"messages": [HumanMessage("Where do I live?")]}, config("u"))
    assert [one["text"] for one in graph.get_state(config("u")).values["recalled"]]


@pytest.mark.parametrize("mode", ["values", "messages"])
def test_streaming_gives_the_history_no_ids(mode: Any) -> None:
    """LangGraph gives ids, in place, to the messages that it streams."""
    store = memory_store()
    graph = memory_graph(Appending).compile(checkpointer=InMemorySaver(), store=store)
    for text in ("I live in Kiel.", "I have two cats."):
        list(graph.stream({"messages": [HumanMessage(text)]}, config("t"), stream_mode=mode))
    people = [m for m in graph.get_state(config("t")).values["messages"] if m.type == "human"]
    assert [m.id for m in people] == [None, None]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_turn_keeps_its_time_where_no_checkpoint_says_that_it_was_recorded(
    asynchronous: bool,
) -> None:
    days = [datetime(2026, 5, 1, tzinfo=UTC)]
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("record", TurnRecorder(clock=lambda: days[-1]))
    builder.add_edge(START, "record")
    store = InMemoryStore()
    graph = builder.compile(store=store)

    def say(*messages: AnyMessage) -> dict[str, Any]:
        days.append(days[-1] + timedelta(days=1))
        given: Any = {"messages": list(messages)}
        if asynchronous:
            asyncio.run(graph.ainvoke(given, config("t")))
        else:
            graph.invoke(given, config("t"))
        found = store.search(("users", "ann@example%2Ecom", "turns"))
        return {item.value["text"]: item.value for item in found}

    first = say(HumanMessage("I live in Kiel.", id="1"))
    then = say(HumanMessage("I live in Kiel.", id="1"), HumanMessage("And in Bonn.", id="2"))
    assert then["user: I live in Kiel."] == first["user: I live in Kiel."]
    assert [value["position"] for value in then.values()] == [0, 1]
    edited = say(HumanMessage("I live in Ulm.", id="1"), HumanMessage("And in Bonn.", id="2"))
    assert sorted(edited) == ["user: And in Bonn.", "user: I live in Ulm."]
