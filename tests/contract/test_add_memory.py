"""add_memory around every kind of node and way into it; each on sync and async."""

import asyncio
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableLambda
from langgraph.cache.memory import InMemoryCache
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages
from langgraph.managed import RemainingSteps
from langgraph.store.memory import InMemoryStore
from langgraph.types import (
    CachePolicy,
    Command,
    Overwrite,
    RetryPolicy,
    Send,
    StreamWriter,
    interrupt,
)
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from memkit import ContextBudget, add_memory
from memkit.errors import ConfigError
from memkit.view import RECALLED_ID, SUMMARY_ID
from tests.graphs import BUDGET, config

FACTS = ("users", "ann@example%2Ecom", "facts")
FACT = "I live at 14 Linden Street in Leipzig."
BEFORE = ["memory_recall", "memory_verify", "memory_summarize", "memory_trim"]
Build = StateGraph[Any, Any, Any, Any]
MODES = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])


def seen_by(views: list[list[AnyMessage]]) -> Any:
    """A node that keeps what it was served."""

    def respond(state: Any) -> dict[str, Any]:
        messages = state["messages"] if isinstance(state, dict) else state.messages
        views.append(list(messages))
        return {"messages": [AIMessage("Noted.")]}

    return respond


def run(graph: Any, given: Any, where: Any, asynchronous: bool) -> Any:
    return asyncio.run(graph.ainvoke(given, where)) if asynchronous else graph.invoke(given, where)


def say(text: str) -> dict[str, Any]:
    return {"messages": [HumanMessage(text)]}


def steps(graph: Any, given: Any, where: Any, asynchronous: bool) -> list[str]:
    """Run a graph and return the names of its nodes in the order of their updates."""

    async def collect() -> list[Any]:
        return [u async for u in graph.astream(given, where, stream_mode="updates")]

    updates = (
        asyncio.run(collect())
        if asynchronous
        else list(graph.stream(given, where, stream_mode="updates"))
    )
    return [name for update in updates for name in update]


def check(build: Build, views: Sequence[Sequence[AnyMessage]], asynchronous: bool) -> Any:
    """Two tickets: on the second, a new thread, the node sees the fact of the first, once each."""
    add_memory(build, around="respond", budget=ContextBudget(400))
    store = InMemoryStore()
    graph = build.compile(checkpointer=InMemorySaver(), store=store)
    ran = steps(graph, say(FACT), config("first"), asynchronous)
    assert [name for name in ran if name in {*BEFORE, "respond"}] == [*BEFORE, "respond"]
    assert "memory_remember" in ran
    run(graph, say("Where do I live?"), config("second"), asynchronous)
    assert len(views) == 2
    assert FACT in str(views[-1][0].content)
    assert [item.value["text"] for item in store.search(FACTS)] == [FACT]
    return graph


def started(state: Any = MessagesState) -> Build:
    build: Build = StateGraph(state)
    build.add_edge(START, "respond")
    return build


def by_entry(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    build.add_node("respond", respond)
    build.set_entry_point("respond")
    build.set_finish_point("respond")
    return build


def by_conditional_entry(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    build.add_node("respond", respond)
    build.set_conditional_entry_point(lambda state: "respond")
    return build


def by_sequence(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    build.add_sequence([("load", lambda state: {}), ("respond", respond), ("end", lambda s: {})])
    build.add_edge(START, "load")
    return build


def by_waiting_edge(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    for name in ("a", "b"):
        build.add_node(name, lambda state: {})
        build.add_edge(START, name)
    build.add_node("respond", respond)
    build.add_edge(["a", "b"], "respond")
    build.add_edge(["respond"], END)
    return build


def by_path_without_a_map(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    build.add_node("load", lambda state: {})
    build.add_node("other", lambda state: {})
    build.add_node("respond", respond)
    build.add_edge(START, "load")
    build.add_conditional_edges("load", lambda state: ["respond", "other"])
    return build


def by_declared_command(respond: Any) -> Build:
    def load(state: MessagesState) -> Command[Literal["respond"]]:
        return Command(goto="respond")

    build: Build = StateGraph(MessagesState)
    build.add_node("load", load)
    build.add_node("respond", respond)
    build.add_edge(START, "load")
    return build


def by_command(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    build.add_node("load", lambda state: [Command(goto=["respond"])])
    build.add_node("respond", respond)
    build.add_edge(START, "load")
    return build


def by_command_of_a_subgraph(respond: Any) -> Build:
    inner: Build = StateGraph(MessagesState)
    inner.add_node("hand", lambda state: Command(goto="respond", graph=Command.PARENT))
    inner.add_edge(START, "hand")
    build: Build = StateGraph(MessagesState)
    build.add_node("load", inner.compile(), destinations={"respond": "handed over"})
    build.add_node("respond", respond)
    build.add_edge(START, "load")
    return build


def deferred(respond: Any) -> Build:
    build: Build = StateGraph(MessagesState)
    for name in ("short", "long", "longer"):
        build.add_node(name, lambda state: {})
    build.add_node("respond", respond, defer=True)
    build.add_edge(START, "short")
    build.add_edge(START, "long")
    build.add_edge("long", "longer")
    build.add_edge("short", "respond")
    build.add_edge("longer", "respond")
    return build


def retried(respond: Any) -> Build:
    tries: list[Any] = []

    def failing(state: MessagesState) -> Any:
        tries.append(state)
        if len(tries) % 2:
            raise ConnectionError
        return respond(state)

    build = started()
    policy = RetryPolicy(max_attempts=2, initial_interval=0.001, jitter=False)
    build.add_node("respond", failing, retry_policy=policy)
    return build


def with_input_schema(respond: Any) -> Build:
    class Narrow(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    class Wide(Narrow):
        remaining_steps: RemainingSteps
        tickets: Annotated[list[str], operator.add]

    build = started(Wide)
    build.add_node("respond", respond, input_schema=Narrow)
    return build


def a_runnable(respond: Any) -> Build:
    build = started()
    build.add_node("respond", RunnableLambda(respond) | RunnableLambda(lambda update: update))
    return build


def a_subgraph(respond: Any) -> Build:
    inner: Build = StateGraph(MessagesState)
    inner.add_node("inner", respond)
    inner.add_edge(START, "inner")
    build = started()
    build.add_node("respond", inner.compile())
    return build


@dataclass
class Data:
    messages: Annotated[list[AnyMessage], add_messages] = field(default_factory=list)


class Model(BaseModel):
    messages: Annotated[list[AnyMessage], add_messages] = Field(default_factory=list)


def in_a_dataclass(respond: Any) -> Build:
    build = started(Data)
    build.add_node("respond", respond)
    build.add_conditional_edges(
        "respond", lambda state: "end" if state.messages else "", {"end": END}
    )
    return build


def in_a_model(respond: Any) -> Build:
    build = started(Model)
    build.add_node("respond", respond)
    build.add_conditional_edges(
        "respond", lambda state: "end" if state.messages else "", {"end": END}
    )
    return build


@MODES
@pytest.mark.parametrize(
    "wired",
    [
        by_entry,
        by_conditional_entry,
        by_sequence,
        by_waiting_edge,
        by_path_without_a_map,
        by_declared_command,
        by_command,
        by_command_of_a_subgraph,
        deferred,
        retried,
        with_input_schema,
        a_runnable,
        a_subgraph,
        in_a_dataclass,
        in_a_model,
    ],
)
def test_every_way_into_a_node_goes_through_memory(wired: Any, asynchronous: bool) -> None:
    views: list[list[AnyMessage]] = []
    check(wired(seen_by(views)), views, asynchronous)


@pytest.mark.parametrize("wired", [by_entry, by_declared_command, by_command_of_a_subgraph])
def test_the_drawing_shows_memory(wired: Any) -> None:
    build = wired(seen_by([]))
    add_memory(build, around="respond", budget=BUDGET)
    drawn = build.compile().get_graph().draw_mermaid()
    for start, end in [("memory_recall", "memory_verify"), ("memory_trim", "respond")]:
        assert f"{start} --> {end}" in drawn
    assert "respond --> memory_remember" in drawn
    into = [line for line in drawn.splitlines() if line.strip().endswith("> respond;")]
    assert [line.split()[0] for line in into] == ["memory_trim"]


def test_a_subgraph_that_is_wrapped_is_still_found() -> None:
    def ask(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(interrupt("May I?"))]}

    build = a_subgraph(ask)
    add_memory(build, around="respond", budget=BUDGET)
    graph = build.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    assert [name for name, _ in graph.get_subgraphs()] == ["respond"]
    graph.invoke(say(FACT), config("t"))
    (task,) = graph.get_state(config("t"), subgraphs=True).tasks
    assert task.state.next == ("inner",)  # type: ignore[union-attr]
    assert graph.invoke(Command(resume="yes"), config("t"))["messages"][-1].content == "yes"


def test_an_async_node_keeps_its_time_limit_and_a_sync_one_is_refused() -> None:
    async def respond(state: MessagesState) -> Any:
        return seen_by(views)(state)

    views: list[list[AnyMessage]] = []
    build = started()
    build.add_node("respond", respond, timeout=5.0)
    check(build, views, asynchronous=True)
    build = started()
    build.add_node("respond", seen_by(views), timeout=5.0)
    add_memory(build, around="respond", budget=BUDGET)
    with pytest.raises(ValueError, match="only supported for async"):
        build.compile()


@MODES
def test_a_tool_loop_searches_once_per_human_message(asynchronous: bool) -> None:
    searches: list[Any] = []

    class Counting(InMemoryStore):
        def batch(self, ops: Any) -> Any:
            ops = list(ops)
            searches.extend(op.query for op in ops if getattr(op, "query", None))
            return super().batch(ops)

        async def abatch(self, ops: Any) -> Any:
            return self.batch(ops)

    views: list[list[AnyMessage]] = []

    def respond(state: MessagesState) -> dict[str, Any]:
        views.append(list(state["messages"]))
        done = sum(m.type == "tool" for m in state["messages"])
        if done % 3 == 0 and state["messages"][-1].type == "tool":
            return {"messages": [AIMessage("Done.")]}
        call = {"name": "look", "args": {}, "id": f"c{len(views)}"}
        return {"messages": [AIMessage("", tool_calls=[call])]}

    def tools(state: MessagesState) -> dict[str, Any]:
        (call,) = state["messages"][-1].tool_calls  # type: ignore[union-attr]
        return {"messages": [ToolMessage("42", tool_call_id=call["id"])]}

    def route(state: MessagesState) -> str:
        return "tools" if getattr(state["messages"][-1], "tool_calls", None) else END

    build = started()
    build.add_node("respond", respond)
    build.add_node("tools", tools)
    build.add_conditional_edges("respond", route)
    build.add_edge("tools", "respond")
    add_memory(build, around="respond", budget=ContextBudget(500))
    graph = build.compile(checkpointer=InMemorySaver(), store=Counting())
    run(graph, say("Where do I live?"), config("t"), asynchronous)
    assert searches == ["Where do I live?"]
    assert [view[-1].type for view in views] == ["human", "tool", "tool", "tool"]
    run(graph, say("And what do I drink?"), config("t"), asynchronous)
    assert searches == ["Where do I live?", "And what do I drink?"]


@MODES
def test_a_jump_to_itself_goes_through_memory(asynchronous: bool) -> None:
    def respond(state: MessagesState) -> Any:
        reply = {"messages": [AIMessage("Noted.")]}
        return Command(goto="respond", update=reply) if len(state["messages"]) < 3 else reply

    build = started()
    build.add_node("respond", respond)
    add_memory(build, around="respond", budget=BUDGET)
    graph = build.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    ran = steps(graph, say("Hello"), config("t"), asynchronous)
    assert ran.count("respond") == 3
    assert ran.count("memory_trim") == 3


@MODES
def test_a_tool_loop_of_commands(asynchronous: bool) -> None:
    def respond(state: MessagesState, writer: StreamWriter) -> Command[Literal["tools", "__end__"]]:
        writer({"served": len(state["messages"])})
        if state["messages"][-1].type == "tool":
            return Command(goto="__end__", update={"messages": [AIMessage("Done.")]})
        call = {"name": "look", "args": {}, "id": "c"}
        return Command(goto="tools", update={"messages": [AIMessage("", tool_calls=[call])]})

    def tools(state: MessagesState) -> Command[Literal["respond"]]:
        result = ToolMessage("42", tool_call_id="c")
        return Command(goto="respond", update={"messages": [result]})

    build = started()
    build.add_node("respond", respond)
    build.add_node("tools", tools)
    add_memory(build, around="respond", budget=BUDGET, record_turns=True)
    store = InMemoryStore()
    graph = build.compile(checkpointer=InMemorySaver(), store=store)
    ran = steps(graph, say(FACT), config("t"), asynchronous)
    assert ran.count("respond") == ran.count("memory_trim") == 2
    messages = graph.get_state(config("t")).values["messages"]
    assert [m.type for m in messages] == ["human", "ai", "tool", "ai"]
    assert len(store.search(FACTS)) == 1
    assert len(store.search(("users", "ann@example%2Ecom", "turns"))) == 2


@MODES
def test_a_send_is_served_a_view_of_what_it_carries(asynchronous: bool) -> None:
    views: list[Any] = []

    def respond(state: Any) -> dict[str, Any]:
        views.append(state)
        return {"messages": [AIMessage("Noted.")]}

    def fan_out(state: MessagesState) -> list[Send]:
        long = [AIMessage(f"On lunch number {n} we agreed.", id=f"l{n}") for n in range(60)]
        return [
            Send("respond", {"messages": [*long, HumanMessage("Where do I live?")], "n": 1}),
            Send("respond", {"messages": [("user", "Linden or Harbour?")], "n": 2}),
            Send("respond", "what it is"),
        ]

    build: Build = StateGraph(MessagesState)
    build.add_node("respond", respond)
    build.add_conditional_edges(START, fan_out, ["respond"])
    budget = ContextBudget(300)
    add_memory(build, around="respond", budget=budget)
    store = InMemoryStore()
    store.put(FACTS, "f", {"text": FACT, "kind": "address", "status": "current"})
    graph = build.compile(checkpointer=InMemorySaver(), store=store)
    ran = steps(graph, say("I have three cats."), config("t"), asynchronous)
    assert ran.count("respond") == 3
    assert ran.count("memory_remember") == 1
    (first,), (second,) = (
        [v for v in views if isinstance(v, dict) and v["n"] == n] for n in (1, 2)
    )
    assert budget.count(first["messages"]) <= 300
    for state in (first, second):
        assert any(FACT in str(m.content) for m in state["messages"])
    assert "what it is" in views
    # What stands in the thread is extracted once; what a Send alone carries was not said in it.
    assert len(store.search(FACTS)) == 2


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        (lambda b: b.compile(), "before compile"),
        (lambda b: b.add_node("memory_trim", lambda s: s), "wired twice"),
    ],
)
def test_what_cannot_be_wrapped_is_a_clear_error(wrong: Any, match: str) -> None:
    build = by_entry(seen_by([]))
    changed = wrong(build)
    edges = set(build.edges)
    with pytest.raises(ConfigError, match=match):
        add_memory(build if changed is None else changed, around="respond", budget=BUDGET)
    assert build.edges == edges


def test_a_node_that_reads_no_messages_is_an_error() -> None:
    class Ticket(TypedDict):
        ticket: str

    class State(MessagesState):
        ticket: str

    build = started(State)
    build.add_node("respond", lambda state: {}, input_schema=Ticket)
    with pytest.raises(ConfigError, match="'respond' has no key 'messages' in its schema Ticket"):
        add_memory(build, around="respond", budget=BUDGET)
    build = started(Ticket)
    build.add_node("respond", lambda state: {})
    with pytest.raises(ConfigError, match="the state has no key 'messages'"):
        add_memory(build, around="respond", budget=BUDGET)


def test_a_cached_answer_would_be_anothers() -> None:
    build = started()
    build.add_node("respond", seen_by([]), cache_policy=CachePolicy())
    with pytest.raises(ConfigError, match="key_func"):
        add_memory(build, around="respond", budget=BUDGET)
    views: list[list[AnyMessage]] = []
    build = started()
    policy: Any = CachePolicy(key_func=lambda state: str(state["messages"][-1].content))
    build.add_node("respond", seen_by(views), cache_policy=policy)
    add_memory(build, around="respond", budget=BUDGET)
    graph = build.compile(store=InMemoryStore(), cache=InMemoryCache())
    for thread in ("t", "u"):
        graph.invoke(say("Hello"), config(thread))
    assert len(views) == 1


@MODES
def test_memories_may_live_elsewhere(asynchronous: bool) -> None:
    views: list[list[AnyMessage]] = []
    build = StateGraph(MessagesState)
    build.add_node("respond", seen_by(views))
    build.add_edge(START, "respond")
    add_memory(
        build,
        around="respond",
        budget=BUDGET,
        record_turns=True,
        namespace=("shops", "{user_id}", "known"),
        turns_namespace=("shops", "{user_id}", "said"),
    )
    store = InMemoryStore()
    graph = build.compile(store=store)
    run(graph, say(FACT), config("first"), asynchronous)
    run(graph, say("Where do I live?"), config("second"), asynchronous)
    assert FACT in str(views[-1][0].content)
    places = {space[:3] for space in store.list_namespaces()}
    ann = ("shops", "ann@example%2Ecom")
    assert places == {
        (*ann, "known"),
        (*ann, "said"),
        (*ann, "ledger_known"),
    }


@dataclass
class Said:
    """An update that is no dict."""

    messages: Any = None


def shown_and_more(state: Any) -> list[Any]:
    return [*state["messages"], AIMessage("Noted.")]


NOTES = (SUMMARY_ID, RECALLED_ID)
ANSWERS: dict[str, Any] = {
    "dict": lambda s: {"messages": shown_and_more(s)},
    "command": lambda s: Command(update={"messages": shown_and_more(s)}),
    "pairs": lambda s: Command(update=[("messages", shown_and_more(s))]),
    "commands": lambda s: [Command(update={"messages": shown_and_more(s)})],
    "commands and dicts": lambda s: [Command(goto=END), {"messages": shown_and_more(s)}],
    "object": lambda s: Said(shown_and_more(s)),
    "object in a command": lambda s: Command(update=Said(shown_and_more(s))),
    "replaced": lambda s: {"messages": [RemoveMessage(REMOVE_ALL_MESSAGES), *shown_and_more(s)]},
    "overwritten": lambda s: {"messages": Overwrite(shown_and_more(s))},
    "overwritten in JSON": lambda s: {"messages": {"__overwrite__": shown_and_more(s)}},
    "one message": lambda s: {"messages": AIMessage("Noted.")},
    "notes removed": lambda s: {
        "messages": [*(RemoveMessage(i) for i in NOTES), *shown_and_more(s)]
    },
}


@MODES
@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("shortened", [True, False], ids=["shortened", "with notes"])
def test_the_view_never_becomes_the_history(
    shortened: bool, answer: Any, asynchronous: bool
) -> None:
    """Whatever a node returns of what it was shown: cut, with notes, with a result shortened."""
    views: list[list[AnyMessage]] = []

    def respond(state: Any) -> Any:
        views.append(state["messages"])
        return answer(state)

    budget = ContextBudget(350, on_overflow="shorten_tools")
    build = started()
    build.add_node("respond", respond)
    add_memory(build, around="respond", budget=budget)
    graph = build.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    run(graph, say(FACT), config("other"), asynchronous)
    long = "A long result. " * 200
    turns: list[AnyMessage] = [
        *(HumanMessage(f"On lunch number {n} we agreed, and on its wine.") for n in range(30)),
        HumanMessage("Where do I live?"),
    ]
    if shortened:
        call = {"name": "look", "args": {}, "id": "c"}
        turns += [AIMessage("", tool_calls=[call]), ToolMessage(long, tool_call_id="c")]
    values = run(graph, {"messages": turns}, config("t"), asynchronous)
    shown = views[-1]
    assert budget.count(shown) <= 350
    assert len(shown) < len(turns)
    if shortened:
        assert long not in [m.content for m in shown]
    else:
        assert {m.id for m in shown} >= set(NOTES)
    kept = values["messages"]
    assert [m.content for m in kept] == [*(m.content for m in turns), "Noted."]


@MODES
def test_a_node_may_cut_and_edit_the_history(asynchronous: bool) -> None:
    def respond(state: MessagesState) -> dict[str, Any]:
        edited = state["messages"][-1].model_copy(update={"content": "Edited."})
        last = [RemoveMessage(REMOVE_ALL_MESSAGES), SystemMessage("Be kind."), edited]
        return {"messages": [*last, AIMessage("Noted.")]}

    build = started()
    build.add_node("respond", respond)
    add_memory(build, around="respond", budget=BUDGET)
    graph = build.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    for text in ("Hello", "And again"):
        values = run(graph, say(text), config("t"), asynchronous)
    assert [m.content for m in values["messages"]] == ["Be kind.", "Edited.", "Noted."]


@MODES
def test_a_state_without_a_reducer_keeps_its_history(asynchronous: bool) -> None:
    class Plain(TypedDict):
        messages: list[AnyMessage]

    build = started(Plain)
    build.add_node("listen", lambda state: {})
    build.add_node("respond", lambda state: {"messages": shown_and_more(state)})
    add_memory(build, around="respond", budget=ContextBudget(200))
    graph = build.compile(store=InMemoryStore())
    history = [HumanMessage(f"On lunch number {n} we agreed.", id=str(n)) for n in range(40)]
    values = run(graph, {"messages": history}, config("t"), asynchronous)
    assert [m.content for m in values["messages"]] == [*(m.content for m in history), "Noted."]


@MODES
@pytest.mark.parametrize("raised", [True, False], ids=["from a subgraph", "from the node"])
def test_a_hand_over_takes_no_notes_along(raised: bool, asynchronous: bool) -> None:
    """An agent hands over to one of the graph around it, with all that it was shown."""

    def hand(state: MessagesState) -> Command[Any]:
        handed = {"messages": [*state["messages"], AIMessage("Over to Bob.")]}
        return Command(goto="bob", graph=Command.PARENT, update=handed)

    inner = started()
    inner.add_node("respond", hand)
    outer = started()
    if not raised:
        add_memory(inner, around="respond", budget=ContextBudget(300))
    outer.add_node("respond", inner.compile())
    outer.add_node("bob", lambda state: {"messages": [AIMessage("Bob here.")]})
    if raised:
        add_memory(outer, around="respond", budget=ContextBudget(300))
    store = InMemoryStore()
    store.put(FACTS, "f", {"text": FACT, "kind": "address", "status": "current"})
    graph = outer.compile(checkpointer=InMemorySaver(), store=store)
    said = [HumanMessage(f"On lunch number {n} we agreed.") for n in range(30)]
    values = run(
        graph, {"messages": [*said, HumanMessage("Where do I live?")]}, config("t"), asynchronous
    )
    kept = [m.content for m in values["messages"]]
    assert kept[-3:] == ["Where do I live?", "Over to Bob.", "Bob here."]
    assert len(kept) == 33
    assert not set(NOTES) & {m.id for m in values["messages"]}


@MODES
def test_a_default_cache_leaves_memory_alone(asynchronous: bool) -> None:
    """Neither set before nor after may one user get what another was answered."""
    for before in (True, False):
        views: list[list[AnyMessage]] = []
        build = started()
        build.add_node("respond", seen_by(views))
        if before:
            build.set_node_defaults(cache_policy=CachePolicy())
        add_memory(build, around="respond", budget=BUDGET)
        if not before:
            build.set_node_defaults(cache_policy=CachePolicy())
        graph = build.compile(store=InMemoryStore(), cache=InMemoryCache())
        for user in ("ann", "bob"):
            where = {"configurable": {"thread_id": user, "user_id": user}}
            run(graph, {"messages": [HumanMessage("Hello", id="1")]}, where, asynchronous)
        assert len(views) == 2


def test_keys_of_the_graphs_own_are_left_alone() -> None:
    class State(MessagesState):
        summary: str
        memory: dict[str, str]

    def respond(state: State) -> dict[str, Any]:
        views.append(state["messages"])
        return {"messages": [AIMessage("Noted.")], "summary": f"{len(state['messages'])} seen"}

    views: list[list[AnyMessage]] = []
    build = started(State)
    build.add_node("respond", respond)
    for name in ("summary", "memory"):
        other: dict[str, Any] = (
            {"memory_key": "cursors"} if name == "summary" else {"summary_key": "notes"}
        )
        with pytest.raises(ConfigError, match=f"key '{name}' of its own"):
            add_memory(build, around="respond", budget=ContextBudget(300), **other)
    with pytest.raises(ConfigError, match="for one thing"):
        add_memory(build, around="respond", budget=BUDGET, summary_key="x", memory_key="x")
    add_memory(
        build,
        around="respond",
        budget=ContextBudget(300),
        summary_key="notes",
        recalled_key="found",
        memory_key="cursors",
    )
    graph = build.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    graph.invoke({**say(FACT), "memory": {"mine": "yes"}}, config("t"))
    for n in range(30):
        graph.invoke(say(f"And what of lunch number {n}, and of its wine?"), config("t"))
    graph.invoke(say("Where do I live?"), config("t"))
    values = graph.get_state(config("t")).values
    assert values["summary"].endswith("seen")
    assert values["memory"] == {"mine": "yes"}
    assert values["notes"]["text"]
    assert [one["text"] for one in values["found"]] == [FACT]
    assert {"trim", "extract", "recall"} <= set(values["cursors"])
    assert {m.id for m in views[-1]} >= set(NOTES)


def test_a_state_that_is_no_class_is_an_error() -> None:
    build: Build = StateGraph(Annotated[list[AnyMessage], add_messages])  # type: ignore[arg-type]
    build.add_node("respond", lambda messages: [AIMessage("Noted.")])
    build.add_edge(START, "respond")
    with pytest.raises(ConfigError, match="no room for what memkit keeps"):
        add_memory(build, around="respond", budget=BUDGET)


@MODES
def test_branches_of_unequal_length_both_lead_in(asynchronous: bool) -> None:
    build = started()
    for name in ("long", "longer"):
        build.add_node(name, lambda state: {"messages": [HumanMessage("And more.")]})
    build.add_node("respond", seen_by([]))
    build.add_edge(START, "long")
    build.add_edge("long", "longer")
    build.add_edge("longer", "respond")
    add_memory(build, around="respond", budget=BUDGET, record_turns=True)
    graph = build.compile(checkpointer=InMemorySaver(), store=InMemoryStore())
    ran = steps(graph, say(FACT), config("t"), asynchronous)
    assert ran.count("respond") == 2


@MODES
def test_the_messages_stream_has_the_answer_alone(asynchronous: bool) -> None:
    build = started()
    build.add_node("respond", lambda state: {"messages": [AIMessage("Noted.")]})
    add_memory(build, around="respond", budget=ContextBudget(300), record_turns=True)
    store = InMemoryStore()
    graph = build.compile(checkpointer=InMemorySaver(), store=store)

    async def collect(given: Any) -> list[Any]:
        return [e async for e in graph.astream(given, config("t"), stream_mode="messages")]

    def streamed(given: Any) -> list[Any]:
        if asynchronous:
            return asyncio.run(collect(given))
        return list(graph.stream(given, config("t"), stream_mode="messages"))

    streamed({"messages": [HumanMessage(f"On lunch {n} we agreed.") for n in range(60)]})
    streamed(say(FACT))
    events = streamed(say("Where do I live?"))
    assert graph.get_state(config("t")).values["recalled"]
    assert [(m.content, meta["langgraph_node"]) for m, meta in events] == [("Noted.", "respond")]


@MODES
def test_a_send_may_leave_out_who_it_is_about(asynchronous: bool) -> None:
    """The user is named in the state alone, which a Send carries no part of."""

    class State(MessagesState):
        user_id: str

    class Part(TypedDict):
        messages: Annotated[list[AnyMessage], add_messages]

    views: list[list[AnyMessage]] = []
    build = StateGraph(State)
    build.add_node("respond", seen_by(views), input_schema=Part)
    build.add_conditional_edges(
        START,
        lambda state: [Send("respond", {"messages": [HumanMessage("Where do I live?")]})],
        ["respond"],
    )
    add_memory(build, around="respond", budget=BUDGET)
    store = InMemoryStore()
    store.put(FACTS, "f", {"text": FACT, "kind": "address", "status": "current"})
    graph = build.compile(checkpointer=InMemorySaver(), store=store)
    where = {"configurable": {"thread_id": "t"}}
    run(graph, {**say("Hello"), "user_id": "ann@example.com"}, where, asynchronous)
    assert any(FACT in str(m.content) for m in views[0])


@MODES
@pytest.mark.parametrize("record", [True, False])
def test_a_turn_is_not_finished_as_another_person(record: bool, asynchronous: bool) -> None:
    def respond(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(interrupt("May I?"))]}

    build = started()
    build.add_node("respond", respond)
    add_memory(build, around="respond", budget=BUDGET, record_turns=record)
    store = InMemoryStore()
    graph = build.compile(checkpointer=InMemorySaver(), store=store)
    run(graph, say(FACT), config("t"), asynchronous)
    with pytest.raises(ConfigError, match="begun with another 'user_id'"):
        run(graph, Command(resume="Approved."), config("t", "boss"), asynchronous)
    assert store.search(("users", "boss")) == []
    values = run(graph, None, config("t"), asynchronous)
    assert [m.content for m in values["messages"]] == [FACT, "Approved."]
    assert [item.value["text"] for item in store.search(FACTS)] == [FACT]
    # A thread of several persons is another thing: each turn has its own.
    run(graph, say("I have two cats."), config("t", "boss"), asynchronous)
    run(graph, Command(resume="Noted."), config("t", "boss"), asynchronous)
    (item,) = store.search(("users", "boss", "facts"))
    assert item.value["text"] == "I have two cats."
