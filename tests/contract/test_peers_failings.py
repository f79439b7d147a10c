"""Failures that other summarizers are known for, each named by its issue: none of them here."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.outputs import ChatGenerationChunk
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from memkit import ContextBudget, MemoryState, RollingSummarizer, TokenTrimmer
from memkit.view import SUMMARY_ID
from tests.conversations import assert_valid
from tests.graphs import config
from tests.scripted import ScriptedModel

BUDGET = ContextBudget(400, summary_tokens=60)
RECORD = "Ann asks for random strings."


def chat(turns: int) -> list[AnyMessage]:
    return [
        m
        for n in range(turns)
        for m in (
            HumanMessage(f"This is my question number {n} about strings.", id=f"h{n}"),
            AIMessage(f"And this is the answer number {n} to that question.", id=f"a{n}"),
        )
    ]


def batch(results: int, size: int = 60) -> list[AnyMessage]:
    """A question, one AI message with parallel calls, and their results, the reply outstanding."""
    calls = [{"name": "rand", "args": {"n": n}, "id": f"c{n}"} for n in range(results)]
    return [
        HumanMessage("Generate long random strings.", id="ask"),
        AIMessage("", id="calls", tool_calls=calls),
        *(ToolMessage("qwxz " * size, tool_call_id=f"c{n}", id=f"r{n}") for n in range(results)),
    ]


def after_both(
    messages: Sequence[BaseMessage], model: ScriptedModel, budget: ContextBudget = BUDGET
) -> tuple[dict[str, Any], list[BaseMessage]]:
    state: dict[str, Any] = {"messages": list(messages)}
    state |= RollingSummarizer(model, budget).invoke(state)
    state |= TokenTrimmer(budget).invoke(state)
    return state, state["llm_input_messages"]


@pytest.mark.parametrize("results", [1, 2, 3])
def test_langmem_126_parallel_calls_are_not_torn_apart(results: int) -> None:
    budget = ContextBudget(500, summary_tokens=60, on_overflow="shorten_tools")
    _, view = after_both([*chat(8), *batch(results)], ScriptedModel(RECORD), budget)
    assert_valid(view)
    assert [m.id for m in view[-results - 2 :]] == [
        "ask",
        "calls",
        *(f"r{n}" for n in range(results)),
    ]


def test_langmem_111_the_question_stays_in_the_middle_of_a_turn() -> None:
    head = SystemMessage("You make strings.", id="s")
    state, view = after_both([head, *chat(8), *batch(1)], ScriptedModel(RECORD))
    assert state["summary"]["text"] == RECORD
    assert [m.id for m in view][-3:] == ["ask", "calls", "r0"]
    assert view[0] == head


def test_langmem_98_no_tool_message_comes_twice() -> None:
    for done in range(4):
        messages = [*chat(6), *batch(2, size=20), AIMessage("Done.", id="done"), *chat(done)]
        messages = [m.model_copy(update={"id": f"{m.id}-{i}"}) for i, m in enumerate(messages)]
        _, view = after_both([*messages, HumanMessage("And?", id="and")], ScriptedModel(RECORD))
        ids = [m.id for m in view]
        assert len(ids) == len(set(ids))
        assert_valid(view)


def test_langchain_38352_orphans_in_the_history_do_not_reach_the_model() -> None:
    lost = ToolMessage("of a call that is gone", tool_call_id="nobody", id="lost")
    _, view = after_both([*chat(9), lost, HumanMessage("And?", id="and")], ScriptedModel(RECORD))
    assert_valid(view)
    assert "lost" not in {m.id for m in view}


def test_langchain_39261_history_is_never_replaced_without_a_summary() -> None:
    model = ScriptedModel("Previous conversation was too long to summarize.")
    asked = len(model.prompts)
    state, _ = after_both([*chat(3), *batch(1, size=20)], model)
    assert state.get("summary") is None
    assert len(model.prompts) == asked
    # One giant message, longer than a call may be: it is read in pieces, not replaced.
    giant = HumanMessage("word " * 3_000, id="giant")
    node = RollingSummarizer(ScriptedModel(RECORD), BUDGET, window_tokens=1_500)
    update = node.invoke({"messages": [giant, AIMessage("Long.", id="l"), *chat(9)]})
    assert isinstance(node.model, ScriptedModel)
    read = "".join(str(prompt[-1].content) for prompt in node.model.prompts)
    assert read.count("word") == 3_000
    assert update["summary"]["text"] == RECORD


@pytest.mark.parametrize("mode", ["sync", "async"])
@pytest.mark.parametrize("failing", ["raises", "says"])
def test_langchain_38867_an_error_never_becomes_the_summary(mode: str, failing: str) -> None:
    def answer(_: Any) -> AIMessage:
        if failing == "raises":
            raise RuntimeError("429: quota exceeded")
        return AIMessage("Error generating summary: 429, quota exceeded")

    before = {"text": RECORD, "through_id": "a1", "tokens": 7, "updated_at": ""}
    node = RollingSummarizer(ScriptedModel(answer), BUDGET)
    state: Any = {"messages": chat(14), "summary": before}
    update = node.invoke(state) if mode == "sync" else asyncio.run(node.ainvoke(state))
    assert "summary" not in update
    assert update["memory"]["summarize"]["failures"] == 1


class Streaming(ScriptedModel):
    """Gives its answer word by word."""

    def __init__(self, answer: str) -> None:
        super().__init__(answer)

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        for word in str(self._answer(messages).content).split(" "):
            chunk = ChatGenerationChunk(message=AIMessageChunk(content=f"{word} "))
            if run_manager is not None:
                run_manager.on_llm_new_token(word, chunk=chunk)
            yield chunk


@pytest.mark.parametrize("asynchronous", [False, True])
def test_the_summary_does_not_leak_into_the_stream_of_the_reply(asynchronous: bool) -> None:
    """Reported of several middlewares; a phantom message appears in the user's window."""
    model = Streaming("They spoke of strings.")
    reply = Streaming("Here you are.")

    async def arespond(state: MemoryState) -> dict[str, Any]:
        return {"messages": [await reply.ainvoke(state["llm_input_messages"])]}

    def respond(state: MemoryState) -> dict[str, Any]:
        return {"messages": [reply.invoke(state["llm_input_messages"])]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("summarize", RollingSummarizer(model, BUDGET))
    builder.add_node("trim", TokenTrimmer(BUDGET))
    builder.add_node("respond", arespond if asynchronous else respond)
    for start, end in [
        (START, "summarize"),
        ("summarize", "trim"),
        ("trim", "respond"),
        ("respond", END),
    ]:
        builder.add_edge(start, end)
    app = builder.compile(checkpointer=InMemorySaver())
    given: Any = {"messages": [*chat(14), HumanMessage("And?", id="and")]}

    async def streamed() -> list[Any]:
        parts: AsyncIterator[Any] = app.astream(given, config("t"), stream_mode="messages")
        return [part async for part in parts]

    chunks: list[Any] = (
        asyncio.run(streamed())
        if asynchronous
        else list(app.stream(given, config("t"), stream_mode="messages"))
    )
    said = [chunk for chunk, meta in chunks if isinstance(chunk, AIMessageChunk)]
    assert {
        meta["langgraph_node"] for chunk, meta in chunks if isinstance(chunk, AIMessageChunk)
    } == {"respond"}
    assert "strings" not in "".join(str(chunk.content) for chunk in said)
    values = app.get_state(config("t")).values
    assert values["summary"]["text"] == "They spoke of strings."
    assert values["llm_input_messages"][0].id == SUMMARY_ID


def test_a_summary_is_never_summarized_as_if_a_person_had_said_it() -> None:
    model = ScriptedModel(RECORD)
    state: dict[str, Any] = {"messages": chat(14)}
    state |= RollingSummarizer(model, BUDGET).invoke(state)
    state |= {"messages": chat(40)}
    state |= RollingSummarizer(model, BUDGET).invoke(state)
    record, news = str(model.prompts[1][-1].content).split("New turns:")
    assert RECORD in record
    assert RECORD not in news
