"""The graph of the README, as the tests build it."""

from collections.abc import Callable
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langgraph.graph import END, START, StateGraph

from memkit import (
    ContextBudget,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    RollingSummarizer,
    StaleFactCheck,
    StalenessPolicy,
    TokenTrimmer,
    TurnRecorder,
)

BUDGET = ContextBudget(320, summary_tokens=60, recall_tokens=110)
POLICY = StalenessPolicy(default="90d", kinds={"address": "30d", "name": "10y"})


def reply(state: Any) -> dict[str, Any]:
    """Acknowledge the last message of the view."""
    view = state["llm_input_messages"] if isinstance(state, dict) else state.llm_input_messages
    return {"messages": [AIMessage(f"Noted: {view[-1].content}"[:60])]}


def memory_graph(
    state: Any = MemoryState,
    *,
    budget: ContextBudget = BUDGET,
    model: Any = None,
    respond: Callable[..., Any] = reply,
    turns: bool = True,
) -> StateGraph[Any, Any, Any, Any]:
    """START -> recall -> verify -> summarize -> trim -> respond -> remember -> record -> END."""
    nodes: list[tuple[str, Any]] = [
        ("recall", MemoryRecall(limit=8, sources=("facts", "turns") if turns else ("facts",))),
        ("verify", StaleFactCheck(POLICY)),
        ("summarize", RollingSummarizer(model, budget)),
        ("trim", TokenTrimmer(budget)),
        ("respond", respond),
        ("remember", FactExtractor(model)),
    ]
    if turns:
        nodes.append(("record", TurnRecorder()))
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(state)
    previous = START
    for name, node in nodes:
        builder.add_node(name, node)
        builder.add_edge(previous, name)
        previous = name
    builder.add_edge(previous, END)
    return builder


def said(text: str, day: str, **more: Any) -> HumanMessage:
    """A human message of a day in 2026, "05-01"."""
    return HumanMessage(text, additional_kwargs={"timestamp": f"2026-{day}T12:00:00+00:00"}, **more)


def config(thread: str, user: str = "ann@example.com") -> Any:
    """The config of a call."""
    return {"configurable": {"thread_id": thread, "user_id": user}}
