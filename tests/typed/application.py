"""An application on memkit's public API, with the types that its author sees."""

from collections.abc import Sequence
from datetime import datetime
from typing import assert_type

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import RunnableConfig
from langgraph.graph import StateGraph
from langgraph.store.base import Item, SearchItem
from langgraph.store.memory import InMemoryStore

from memkit import (
    ContextBudget,
    FactBook,
    FactConsolidator,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    RollingSummarizer,
    SemanticStore,
    StaleFactCheck,
    StalenessPolicy,
    TokenTrimmer,
    TurnRecorder,
    add_memory,
    afind_tool_result,
    context,
    count_tokens,
    find_tool_result,
    idempotency_key,
    trim,
)
from memkit.errors import BudgetTooSmall, ConfigError, MemkitError, StoreError
from memkit.events import ExtractEvent, MemkitEvent, TrimEvent
from memkit.facts import Fact
from memkit.state import Recalled, Summary

BUDGET = ContextBudget(4_000, reserve_reply=500, clear_tool_results={"search": 1})


def respond(state: MemoryState) -> dict[str, list[BaseMessage]]:
    """Answer to the view; the keys of the state have types."""
    view = state["llm_input_messages"]
    summary: Summary | None = state["summary"]
    recalled: list[Recalled] = state["recalled"]
    freshness = [memory["freshness"] for memory in recalled]
    said = f"{len(view)} {summary['text'] if summary else ''} {freshness}"
    return {"messages": [AIMessage(said)]}


def nodes(embedded: bool = False) -> list[object]:
    """Build every node with arguments of the right types."""
    policy = StalenessPolicy(default="90d", kinds={"address": "30d"})
    return [
        MemoryRecall(limit=8, sources=("facts", "turns"), pinned=("name",), budget=BUDGET),
        StaleFactCheck(policy, on_stale="interrupt" if embedded else "mark"),
        RollingSummarizer(None, BUDGET, style="text"),
        TokenTrimmer(BUDGET, destructive=True),
        FactExtractor(None),
        TurnRecorder(),
        FactConsolidator(policy=policy, every="1d"),
    ]


def wired() -> None:
    """Wire an existing graph."""
    builder: StateGraph[MemoryState, None, MemoryState, MemoryState] = StateGraph(MemoryState)
    builder.add_node("respond", respond)  # pyright: ignore[reportUnknownMemberType] - LangGraph's
    builder.set_entry_point("respond")
    add_memory(builder, around="respond", budget=BUDGET, record_turns=True)


def pure(history: list[BaseMessage], state: MemoryState) -> None:
    """Call the functions that need no graph."""
    assert_type(trim(history, BUDGET), list[BaseMessage])
    assert_type(context(state, BUDGET), list[BaseMessage])
    assert_type(count_tokens([HumanMessage("hi")]), int)
    assert_type(idempotency_key("refund", "order-7"), str)


async def results(history: Sequence[BaseMessage], config: RunnableConfig) -> list[str | None]:
    """Find tool results, sync and async."""
    store = InMemoryStore()
    one = find_tool_result("call-1", history, store=store, config=config)
    two = await afind_tool_result("call-1", history, store=store, config=config)
    return [found.name if found else None for found in (one, two)]


def facts_of(store: SemanticStore, user_id: str, now: datetime) -> list[str]:
    """Read and change facts."""
    book = FactBook.of_user(store, user_id)
    current = book.all(status="current", as_of=now)
    assert_type(current, list[Fact])
    assert_type(book.get("key"), Fact | None)
    assert_type(book.confirm(*current, at=now), list[Fact])
    assert_type(book.correct("key", "I live in Bonn."), Fact)
    return [fact.text for fact in book.history("key")]


async def stored(dsn: str) -> None:
    """Use the store as both kinds of context manager."""
    with SemanticStore.open(dsn, search_mode="text") as store:
        store.setup()
        store.put(("users", "ann"), "key", {"text": "tea"}, if_version=1)
        assert_type(store.search(("users", "ann"), query="tea", mode="text"), list[SearchItem])
    async with SemanticStore.open(dsn, search_mode="text") as store:
        assert_type(await store.aget(("users", "ann"), "key"), Item | None)


def shown(events: Sequence[MemkitEvent]) -> list[str]:
    """Tell events apart by their kind."""
    lines: list[str] = []
    for event in events:
        if event["memkit"] == "trim":
            assert_type(event, TrimEvent)
            lines.append(f"{event['tokens_before']} -> {event['tokens']}")
        elif event["memkit"] == "extract":
            assert_type(event, ExtractEvent)
            lines.append(f"{event['add']} {event['refused'].get('own', 0)}")
    return lines


def guarded(history: list[BaseMessage]) -> str:
    """Catch what memkit raises."""
    try:
        return str(trim(history, BUDGET)[-1].text)
    except (BudgetTooSmall, ConfigError) as error:
        return str(error)
    except StoreError:
        raise
    except MemkitError as error:
        return str(error)
