"""TokenTrimmer in graphs: constant cost, removal under every kind of channel, results kept."""

import asyncio
import operator
import pickle
from collections.abc import Sequence
from typing import Annotated, Any

import pytest
from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.tools import tool
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.message import _messages_delta_reducer, add_messages
from langgraph.runtime import Runtime
from langgraph.store.memory import InMemoryStore
from typing_extensions import TypedDict

from benchmarks.conversations import chat, conversation
from memkit import (
    ContextBudget,
    DeltaMemoryState,
    FactExtractor,
    MemoryState,
    RollingSummarizer,
    TokenTrimmer,
    TurnRecorder,
    afind_tool_result,
    find_tool_result,
)
from memkit.errors import BudgetTooSmall, ConfigError, StoreMissing
from memkit.state import merge_memory
from memkit.tool_traffic import CLEARED
from tests.conversations import assert_valid, model_calls
from tests.fakes import HashEmbeddings
from tests.graphs import config
from tests.scripted import ScriptedModel

BUDGET = ContextBudget(400)
pytestmark = pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")


class Delta(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(_messages_delta_reducer)]
    llm_input_messages: list[AnyMessage]
    memory: Annotated[dict[str, Any], merge_memory]


def append_only(left: list[AnyMessage], writes: Sequence[list[AnyMessage]]) -> list[AnyMessage]:
    return [*left, *(m for write in writes for m in write)]


class AppendingDelta(TypedDict):
    messages: Annotated[list[AnyMessage], DeltaChannel(append_only)]
    llm_input_messages: list[AnyMessage]
    memory: dict[str, Any]


class Plain(TypedDict):
    """Messages without a reducer: what a node returns is the new list."""

    messages: list[AnyMessage]
    llm_input_messages: list[AnyMessage]
    memory: dict[str, Any]


class Appending(TypedDict):
    messages: Annotated[list[AnyMessage], operator.add]
    llm_input_messages: list[AnyMessage]
    memory: dict[str, Any]


def trimming(
    state: Any, trimmer: TokenTrimmer, *behind: Any, before: Sequence[Any] = ()
) -> StateGraph[Any, Any, Any, Any]:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    previous = START
    for node in (*before, trimmer, *behind):
        name = type(node).__name__
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    builder.add_edge(previous, END)
    return builder


def merged(left: list[Any], right: list[Any]) -> list[Any]:
    both: Any = add_messages(left, right)
    return list(both)


def memory_store() -> InMemoryStore:
    embed = HashEmbeddings()
    return InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})


def tool_turn(n: int, text: str = "nothing found " * 10) -> list[AnyMessage]:
    call = {"name": "search", "args": {"q": f"{n}"}, "id": f"call-{n}"}
    return [
        HumanMessage(f"Look up number {n}, please.", id=f"h{n}"),
        AIMessage("", id=f"a{n}", tool_calls=[call]),
        ToolMessage(f"Result {n}: {text}", tool_call_id=f"call-{n}", id=f"r{n}"),
        AIMessage(f"Number {n} it is.", id=f"e{n}"),
    ]


# -- constant cost -----------------------------------------------------------------------------


class Watched(list[BaseMessage]):
    """A history that notes the first message that was looked at, but for some."""

    def __init__(self, messages: Sequence[BaseMessage], allowed: Sequence[int]) -> None:
        super().__init__(messages)
        self.allowed = allowed
        self.first = len(messages)

    def __getitem__(self, key: Any) -> Any:
        places = range(len(self))[key] if isinstance(key, slice) else [range(len(self))[key]]
        self.first = min([self.first, *(i for i in places if i not in self.allowed)])
        return super().__getitem__(key)

    def __iter__(self) -> Any:
        self.first = 0
        return super().__iter__()


@pytest.mark.parametrize("size", [300, 5_001])
def test_a_warm_turn_looks_at_the_view_and_not_at_what_lies_before_it(size: int) -> None:
    messages = chat(size)
    trimmer = TokenTrimmer(ContextBudget(4_000))
    state = trimmer.invoke({"messages": messages})
    for turn in range(3):
        messages = [*messages, HumanMessage(f"turn {turn}"), AIMessage("Yes.", id=f"yes-{turn}")]
        watched = Watched(messages, allowed=state["memory"]["trim"]["system"])
        view = len(state["llm_input_messages"])
        state = trimmer.invoke({"messages": watched, "memory": state["memory"]})
        assert len(state["llm_input_messages"]) == view + 2
        assert watched.first == len(messages) - (view + 2 - 1), "the system message comes first"


def test_the_entry_in_memory_does_not_grow() -> None:
    messages: list[BaseMessage] = []
    trimmer = TokenTrimmer(ContextBudget(1_500, clear_tool_results=2))
    memory: dict[str, Any] = {}
    sizes = []
    for n in range(120):
        messages += tool_turn(n)
        state = trimmer.invoke({"messages": list(messages), "memory": memory})
        memory = state["memory"]
        sizes.append(len(pickle.dumps(memory)))
    assert max(sizes[60:]) <= max(sizes[:60]) + 20


def test_counts_survive_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = trimming(MemoryState, TokenTrimmer(ContextBudget(20_000)))
    app = graph.compile(checkpointer=InMemorySaver())
    app.invoke({"messages": chat(200, seed=5)}, config("t"))
    counted: list[str] = []
    counter = BUDGET.tokens
    encode = counter._encode

    def noting(_: object, text: str) -> int:
        counted.append(text)
        return encode(text)

    monkeypatch.setattr(type(counter), "_encode", noting)
    app.invoke({"messages": [HumanMessage("Something that was never said.")]}, config("t"))
    assert counted == ["Something that was never said."]


# -- the report --------------------------------------------------------------------------------


def test_what_was_dropped_is_in_the_update_and_in_the_stream() -> None:
    app = trimming(MemoryState, TokenTrimmer(BUDGET)).compile(checkpointer=InMemorySaver())
    dropped: list[str] = []
    for n in range(12):
        streamed: Any = app.stream(
            {"messages": tool_turn(n)}, config("t"), stream_mode=["custom", "updates"]
        )
        for mode, chunk in streamed:
            if mode == "custom":
                assert chunk["memkit"] == "trim"
                dropped += chunk["dropped"]
            else:
                entry = chunk["TokenTrimmer"]["memory"]["trim"]
                report = entry["report"]
                shown = chunk["TokenTrimmer"]["llm_input_messages"]
    assert dropped
    assert len(dropped) == len(set(dropped)) == report["dropped"]
    messages = app.get_state(config("t")).values["messages"]
    assert [m.id for m in messages if m.id not in dropped] == [m.id for m in shown]
    assert entry["tokens"] == BUDGET.count(shown)


def test_orphans_in_the_input_are_reported() -> None:
    app = trimming(MemoryState, TokenTrimmer(BUDGET)).compile()
    lost = [HumanMessage("hi", id="h"), ToolMessage("?", tool_call_id="nobody", id="r")]
    events = list(app.stream({"messages": lost}, stream_mode="custom"))
    assert [event["orphaned"] for event in events] == [["r"]]


# -- taking messages out of the history --------------------------------------------------------

STATES = [MemoryState, DeltaMemoryState, Delta, AppendingDelta, Plain]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("state", STATES)
def test_a_destructive_trimmer_removes_what_it_drops(state: Any, asynchronous: bool) -> None:
    trimmer = TokenTrimmer(BUDGET, destructive=True, results_namespace=None)
    saver = InMemorySaver()
    app = trimming(state, trimmer).compile(checkpointer=saver)
    head = SystemMessage("You look things up.", id="s")
    held: list[AnyMessage] = []
    for n in range(12):
        new = [*([head] if n == 0 else []), *tool_turn(n)]
        # Without a reducer the caller passes on what is there.
        given = {"messages": [*held, *new] if state is Plain else new}
        values = (
            asyncio.run(app.ainvoke(given, config("t")))
            if asynchronous
            else app.invoke(given, config("t"))
        )
        held = values["messages"]
        assert [m.id for m in held] == [m.id for m in values["llm_input_messages"]]
        assert_valid(held)
        assert held[0] == head
        assert held[-1].id == f"e{n}"
        assert BUDGET.count(held) <= 400
    assert app.get_state(config("t")).values["messages"] == held


def test_the_view_is_the_same_whether_the_history_is_whole_or_not() -> None:
    for seed in range(25):
        messages = conversation(seed, turns=10)
        budget = ContextBudget(3_000)
        whole: dict[str, Any] = {"memory": {}}
        cut: dict[str, Any] = {"memory": {}}
        trimmer = TokenTrimmer(budget)
        removing = TokenTrimmer(budget, destructive=True, results_namespace=None)
        held: list[BaseMessage] = []
        done = 0
        for prefix in model_calls(messages):
            held = merged(held, prefix[done:])
            done = len(prefix)
            try:
                whole = trimmer.invoke({"messages": prefix, "memory": whole["memory"]})
            except BudgetTooSmall:
                break
            cut = removing.invoke({"messages": held, "memory": cut["memory"]})
            held = merged(held, cut.get("messages", []))
            assert cut["llm_input_messages"] == whole["llm_input_messages"]
            entry = cut["memory"]["trim"]
            assert held[entry["start"]].id == entry["start_id"]
            assert all(isinstance(held[i], SystemMessage) for i in entry["system"])


def test_a_state_that_can_only_grow_is_an_error_at_once_and_nothing_is_written() -> None:
    trimmer = TokenTrimmer(BUDGET, destructive=True, results_namespace=None)
    app = trimming(Appending, trimmer).compile(checkpointer=InMemorySaver())
    with pytest.raises(ConfigError, match=r"'messages' is reduced by add, which cannot remove"):
        app.invoke({"messages": [HumanMessage("hi")]}, config("t"))
    assert "llm_input_messages" not in app.get_state(config("t")).values


def test_messages_without_ids_are_not_removed() -> None:
    trimmer = TokenTrimmer(BUDGET, destructive=True, results_namespace=None)
    app = trimming(Plain, trimmer).compile(checkpointer=InMemorySaver())
    messages = [m for n in range(12) for m in tool_turn(n)]
    app.invoke({"messages": messages}, config("t"))
    # Of one that is kept, too: its place in the list would change.
    messages[-1] = messages[-1].model_copy(update={"id": None})
    with pytest.raises(ConfigError, match="one of them has none"):
        app.invoke({"messages": messages}, config("t"))


def test_what_is_not_yet_read_or_folded_waits() -> None:
    def away(_: Any) -> AIMessage:
        raise ConnectionError("no model today")

    store = memory_store()
    saver = InMemorySaver()
    trimmer = TokenTrimmer(BUDGET, destructive=True, results_namespace=None)

    def graph(model: ScriptedModel | None) -> Any:
        before = [RollingSummarizer(model, BUDGET)]
        behind = FactExtractor(None), TurnRecorder()
        builder = trimming(MemoryState, trimmer, *behind, before=before)
        return builder.compile(checkpointer=saver, store=store)

    for n in range(8):
        values = graph(ScriptedModel(away)).invoke({"messages": tool_turn(n)}, config("t"))
    assert [m.id for m in values["messages"]] == [m.id for n in range(8) for m in tool_turn(n)]
    assert BUDGET.count(values["llm_input_messages"]) <= 400

    # The same thread, with a summarizer that works again, after the turns that it waits.
    for n in range(8, 20):
        values = graph(None).invoke({"messages": tool_turn(n)}, config("t"))
        ids = [m.id for m in values["messages"]]
        assert len(ids) == len(set(ids))
    assert "h0" not in ids
    assert values["summary"]["through_id"] not in ids
    texts = store.search(("users", "ann@example%2Ecom", "turns"), limit=100)
    said = [m for n in range(20) for m in tool_turn(n) if m.id and m.id[0] in "he"]
    assert len(texts) == len(said), "every turn was recorded once"


# -- tool results that went --------------------------------------------------------------------


def test_a_result_is_found_again_by_the_id_of_its_call(tmp_path: Any) -> None:
    store = memory_store()
    budget = ContextBudget(400, clear_tool_results=1)
    with SqliteSaver.from_conn_string(str(tmp_path / "threads.db")) as saver:
        app = trimming(MemoryState, TokenTrimmer(budget, destructive=True)).compile(
            checkpointer=saver, store=store
        )
        for n in range(12):
            values = app.invoke({"messages": tool_turn(n)}, config("t"))
        values["messages"] = app.get_state(config("t")).values["messages"]
    held = {m.id for m in values["messages"]}
    assert "r0" not in held
    cleared = [m for m in values["messages"] if m.content == CLEARED.format(f"call-{m.id[1:]}")]
    assert cleared
    for n in range(12):
        (_, _, result, _) = tool_turn(n)
        found = find_tool_result(f"call-{n}", values["messages"], store=store, config=config("t"))
        later = asyncio.run(
            afind_tool_result(f"call-{n}", values["messages"], store=store, config=config("t"))
        )
        assert found == later == result
    assert find_tool_result("call-99", values["messages"], store=store, config=config("t")) is None
    # Of another thread, or another user, nothing is found.
    for other in (config("t2"), config("t", user="bob")):
        assert find_tool_result("call-0", values["messages"], store=store, config=other) is None


def test_a_view_without_tool_traffic_leaves_the_history_to_look_it_up() -> None:
    budget = ContextBudget(2_000, keep_tool_traffic=False)
    app = trimming(MemoryState, TokenTrimmer(budget)).compile(checkpointer=InMemorySaver())
    for n in range(4):
        values = app.invoke({"messages": tool_turn(n)}, config("t"))
    shown = [m.id for m in values["llm_input_messages"]]
    assert shown == ["h0", "e0", "h1", "e1", "h2", "e2", "h3", "a3", "r3", "e3"]

    @tool
    def earlier_result(tool_call_id: str) -> str:
        """Return the result of an earlier tool call."""
        found = find_tool_result(tool_call_id, values["messages"])
        return "There is none." if found is None else str(found.content)

    assert earlier_result.invoke({"tool_call_id": "call-1"}).startswith("Result 1: nothing")
    assert earlier_result.invoke({"tool_call_id": "call-7"}) == "There is none."


def test_results_have_somewhere_to_go_before_anything_is_removed() -> None:
    app = trimming(MemoryState, TokenTrimmer(BUDGET, destructive=True)).compile()
    with pytest.raises(StoreMissing, match="TokenTrimmer needs a store"):
        app.invoke({"messages": [HumanMessage("hi")]}, config("t"))
    app = trimming(MemoryState, TokenTrimmer(BUDGET, destructive=True)).compile(
        store=memory_store(), checkpointer=InMemorySaver()
    )
    with pytest.raises(ConfigError, match="user_id"):
        app.invoke({"messages": [HumanMessage("hi")]}, {"configurable": {"thread_id": "t"}})


class Refusing(InMemoryStore):
    def batch(self, ops: Any) -> Any:
        raise ConnectionError("the store is away")


def test_a_store_that_fails_leaves_the_history_as_it_was() -> None:
    saver = InMemorySaver()
    whole = trimming(MemoryState, TokenTrimmer(ContextBudget(10_000))).compile(checkpointer=saver)
    for n in range(12):
        whole.invoke({"messages": tool_turn(n)}, config("t"))
    app = trimming(MemoryState, TokenTrimmer(BUDGET, destructive=True)).compile(
        checkpointer=saver, store=Refusing()
    )
    app.invoke({"messages": tool_turn(12)}, config("t"))  # nothing goes on its first turn
    with pytest.raises(ConnectionError):
        app.invoke({"messages": tool_turn(13)}, config("t"))
    assert len(app.get_state(config("t")).values["messages"]) == 4 * 14
    # Run again with a store that answers, the turn ends as if nothing had happened.
    store = memory_store()
    app = trimming(MemoryState, TokenTrimmer(BUDGET, destructive=True)).compile(
        checkpointer=saver, store=store
    )
    values = app.invoke(None, config("t"))
    assert values["messages"][-1].id == "e13"
    assert find_tool_result("call-0", values["messages"], store=store, config=config("t"))


def test_removal_by_hand_and_by_the_trimmer_go_together() -> None:
    app = trimming(
        MemoryState, TokenTrimmer(BUDGET, destructive=True, results_namespace=None)
    ).compile(checkpointer=InMemorySaver())
    for n in range(9):
        app.invoke({"messages": tool_turn(n)}, config("t"))
    held = app.get_state(config("t")).values["messages"]
    first = next(m for m in held if isinstance(m, HumanMessage))
    app.update_state(config("t"), {"messages": [RemoveMessage(id=first.id or "")]})
    values = app.invoke({"messages": tool_turn(9)}, config("t"))
    assert_valid(values["messages"])
    assert values["messages"][-1].id == "e9"


# -- what was wrong once -----------------------------------------------------------------------


def test_cleared_results_stay_cleared_so_that_the_prompt_changes_at_cuts_only() -> None:
    def heads_changed(rule: Any) -> int:
        trimmer = TokenTrimmer(ContextBudget(2_000, clear_tool_results=rule))
        memory: dict[str, Any] = {}
        previous: list[BaseMessage] = []
        messages: list[BaseMessage] = []
        changed = 0
        for n in range(60):
            messages += tool_turn(n)
            state = trimmer.invoke({"messages": list(messages), "memory": memory})
            memory, view = state["memory"], state["llm_input_messages"]
            changed += view[: len(previous)] != previous
            previous = view
        return changed

    assert heads_changed(None) <= 8
    assert heads_changed(3) <= 12
    assert heads_changed({"search": 0}) <= 12


@pytest.mark.parametrize("down", [False, True])
def test_a_thread_that_memory_comes_to_late_loses_nothing(down: bool) -> None:
    def answer(_: Any) -> AIMessage:
        raise ConnectionError("no model today")

    saver, store = InMemorySaver(), memory_store()
    whole = trimming(MemoryState, TokenTrimmer(ContextBudget(10_000))).compile(checkpointer=saver)
    for n in range(12):
        whole.invoke({"messages": tool_turn(n)}, config("t"))
    trimmer = TokenTrimmer(BUDGET, destructive=True, results_namespace=None)
    extractor = FactExtractor(ScriptedModel(answer) if down else None)
    app = trimming(MemoryState, trimmer, extractor, TurnRecorder()).compile(
        checkpointer=saver, store=store
    )
    for n in range(12, 16):
        values = app.invoke({"messages": tool_turn(n)}, config("t"))
    recorded = store.search(("users", "ann@example%2Ecom", "turns"), limit=100)
    assert len(recorded) == 32
    held = [m.id for m in values["messages"]]
    assert ("h0" in held) == down, "what was not extracted waits"


def test_a_summarizer_behind_the_reply_is_waited_for() -> None:
    trimmer = TokenTrimmer(BUDGET, destructive=True, results_namespace=None)
    app = trimming(MemoryState, trimmer, RollingSummarizer(None, BUDGET)).compile(
        checkpointer=InMemorySaver()
    )
    for n in range(3):
        app.invoke(
            {"messages": [HumanMessage(f"My box number {n} is blue.", id=f"u{n}")]}, config("t")
        )
    app.invoke({"messages": [HumanMessage("word " * 360, id="long")]}, config("t"))
    values = app.invoke({"messages": [HumanMessage("And?", id="last")]}, config("t"))
    held = {m.id for m in values["messages"]}
    assert values["summary"]
    for n in range(3):
        assert f"u{n}" in held or f"box number {n}" in values["summary"]["text"]


def test_ids_of_calls_that_a_model_uses_again() -> None:
    store = memory_store()
    app = trimming(MemoryState, TokenTrimmer(BUDGET, destructive=True)).compile(
        checkpointer=InMemorySaver(), store=store
    )
    for n in range(10):
        human, call, result, reply = tool_turn(n)
        call = call.model_copy(
            update={"tool_calls": [{"name": "search", "args": {}, "id": "call_0"}]}
        )
        result = result.model_copy(update={"tool_call_id": "call_0"})
        values = app.invoke({"messages": [human, call, result, reply]}, config("t"))
    kept = store.search(("users", "ann@example%2Ecom", "tool_results"), limit=100)
    gone = {f"r{n}" for n in range(10)} - {m.id for m in values["messages"]}
    assert {item.key for item in kept} == gone
    assert len(gone) > 3


def test_the_namespace_of_results_may_come_from_the_runtime_context() -> None:
    store = memory_store()
    app = trimming(MemoryState, TokenTrimmer(BUDGET, destructive=True)).compile(
        checkpointer=InMemorySaver(), store=store
    )
    thread: Any = {"configurable": {"thread_id": "t"}}
    for n in range(12):
        values = app.invoke({"messages": tool_turn(n)}, thread, context={"user_id": "ann"})
    given: Any = {"store": store, "config": thread}
    runtime: Any = Runtime(context={"user_id": "ann"}, store=store)
    found = find_tool_result("call-0", values["messages"], runtime=runtime, **given)
    assert found == tool_turn(0)[2]
    with pytest.raises(ConfigError, match="user_id"):
        find_tool_result("call-0", values["messages"], **given)


def test_two_trimmers_of_a_graph_have_views_of_their_own() -> None:
    class Two(MemoryState):
        small: list[AnyMessage]

    small = TokenTrimmer(ContextBudget(300), output_key="small")
    builder = trimming(Two, TokenTrimmer(ContextBudget(4_000)))
    builder.add_node("small", small)
    builder.add_edge(START, "small")
    app = builder.compile(checkpointer=InMemorySaver())
    for n in range(10):
        values = app.invoke({"messages": tool_turn(n)}, config("t"))
    assert values["llm_input_messages"] == values["messages"]
    assert len(values["small"]) < 20


def test_the_same_words_twice_in_one_call_are_recorded_twice() -> None:
    store = memory_store()
    app = trimming(MemoryState, TokenTrimmer(BUDGET), FactExtractor(None), TurnRecorder()).compile(
        store=store, checkpointer=InMemorySaver()
    )
    said = ["I live in Leeds.", "ok", "I live in York.", "ok", "I live in Leeds."]
    app.invoke({"messages": [HumanMessage(text) for text in said]}, config("t"))
    user = ("users", "ann@example%2Ecom")
    recorded = store.search((*user, "turns"), limit=100)
    assert sorted(item.value["text"] for item in recorded) == sorted(f"user: {t}" for t in said)
    current = store.search((*user, "facts"), filter={"status": "current"}, limit=100)
    assert [item.value["text"] for item in current] == ["I live in Leeds."]


# -- a destructive summarizer --------------------------------------------------------------------


class DeltaSummary(Delta):
    summary: dict[str, Any] | None


class AppendingSummary(Appending):
    summary: dict[str, Any] | None


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("state", [MemoryState, DeltaMemoryState, DeltaSummary])
def test_a_destructive_summarizer_removes_what_it_has_folded(
    state: Any, asynchronous: bool
) -> None:
    store = memory_store()
    model = ScriptedModel("Numbers were looked up.")
    summarizer = RollingSummarizer(model, BUDGET, destructive=True)
    trimmer = TokenTrimmer(BUDGET)
    app = trimming(state, trimmer, before=[summarizer]).compile(
        checkpointer=InMemorySaver(), store=store
    )
    folded = 0
    for n in range(20):
        call: Any = {"messages": tool_turn(n)}
        values = (
            asyncio.run(app.ainvoke(call, config("t")))
            if asynchronous
            else app.invoke(call, config("t"))
        )
        held = [m.id for m in values["messages"]]
        folded = int(held[0][1:])
        assert held == [m.id for k in range(folded, n + 1) for m in tool_turn(k)]
        assert_valid(values["llm_input_messages"])
    assert folded > 10
    news = "".join(str(prompt[-1].content) for prompt in model.prompts)
    assert all(news.count(f"Number {k} it is.") == 1 for k in range(folded)), "each folded once"
    found = find_tool_result("call-0", values["messages"], store=store, config=config("t"))
    assert found == tool_turn(0)[2]


def test_a_destructive_summarizer_refuses_a_state_that_can_only_grow() -> None:
    node = RollingSummarizer(None, BUDGET, destructive=True, results_namespace=None)
    app = trimming(AppendingSummary, TokenTrimmer(BUDGET), before=[node]).compile()
    with pytest.raises(ConfigError, match="cannot remove messages"):
        app.invoke({"messages": [HumanMessage("hi")]}, config("t"))
    # As a view it works there.
    app = trimming(
        AppendingSummary, TokenTrimmer(BUDGET), before=[RollingSummarizer(None, BUDGET)]
    ).compile(checkpointer=InMemorySaver())
    for n in range(20):
        values = app.invoke({"messages": tool_turn(n)}, config("t"))
    assert values["summary"]["text"]
    assert len(values["messages"]) == 80


def test_summarizer_and_trimmer_may_both_be_destructive() -> None:
    store = memory_store()
    summarizer = RollingSummarizer(ScriptedModel("Numbers."), BUDGET, destructive=True)
    trimmer = TokenTrimmer(BUDGET, destructive=True)
    app = trimming(MemoryState, trimmer, TurnRecorder(), before=[summarizer]).compile(
        checkpointer=InMemorySaver(), store=store
    )
    for n in range(20):
        values = app.invoke({"messages": tool_turn(n)}, config("t"))
    user = ("users", "ann@example%2Ecom")
    assert len(store.search((*user, "turns"), limit=100)) == 40
    gone = {f"r{n}" for n in range(20)} - {m.id for m in values["messages"]}
    kept = store.search((*user, "tool_results"), limit=100)
    assert {item.key for item in kept} == gone
    assert len(gone) > 10
