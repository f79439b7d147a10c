"""One suite over every store, every checkpointer, sync and async.

A person tells things in one thread and asks in another. Whatever the graph runs on, the same facts
are kept, the outdated one is not recalled, the view is within budget, and a replay adds nothing.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import AsyncPostgresStore, PostgresStore
from langgraph.types import StateSnapshot

from memkit import SemanticStore
from tests.fakes import HashEmbeddings
from tests.graphs import BUDGET, config, memory_graph, said

FACTS = ("users", "ann@example%2Ecom", "facts")
TOLD = [
    ("My name is Ann Keller.", "01-10"),
    ("I live at 14 Linden Street in Leipzig.", "01-10"),
    ("What do you sell?", "01-10"),
    ("I am allergic to peanuts.", "01-11"),
    ("I moved to 3 Harbour Road in Hamburg.", "05-01"),
    *((f"Thank you, parcel number {n} came in the morning.", "05-01") for n in range(8)),
]


def index() -> dict[str, Any]:
    embed = HashEmbeddings()
    return {"embed": embed, "dims": embed.dims, "fields": ["text"]}


def semantic(dsn: str) -> SemanticStore:
    return SemanticStore.from_conn_string(dsn, index=index())  # type: ignore[arg-type]


SYNC_STORES: dict[str, Callable[[ExitStack, str], Any]] = {
    "InMemoryStore": lambda stack, dsn: InMemoryStore(index=index()),  # type: ignore[arg-type]
    "PostgresStore": lambda stack, dsn: stack.enter_context(
        PostgresStore.from_conn_string(dsn, index=index())  # type: ignore[arg-type]
    ),
    "SemanticStore": lambda stack, dsn: stack.enter_context(semantic(dsn)),
}
SYNC_SAVERS: dict[str, Callable[[ExitStack, str], Any]] = {
    "InMemorySaver": lambda stack, dsn: InMemorySaver(),
    "SqliteSaver": lambda stack, dsn: stack.enter_context(SqliteSaver.from_conn_string(":memory:")),
    "PostgresSaver": lambda stack, dsn: stack.enter_context(PostgresSaver.from_conn_string(dsn)),
}


async def now(value: Any) -> Any:
    return value


ASYNC_STORES: dict[str, Callable[[AsyncExitStack, str], Awaitable[Any]]] = {
    "InMemoryStore": lambda stack, dsn: now(InMemoryStore(index=index())),  # type: ignore[arg-type]
    "AsyncPostgresStore": lambda stack, dsn: stack.enter_async_context(
        AsyncPostgresStore.from_conn_string(dsn, index=index())  # type: ignore[arg-type]
    ),
    "SemanticStore": lambda stack, dsn: stack.enter_async_context(semantic(dsn)),
}
ASYNC_SAVERS: dict[str, Callable[[AsyncExitStack, str], Awaitable[Any]]] = {
    "InMemorySaver": lambda stack, dsn: now(InMemorySaver()),
    "AsyncSqliteSaver": lambda stack, dsn: stack.enter_async_context(
        AsyncSqliteSaver.from_conn_string(":memory:")
    ),
    "AsyncPostgresSaver": lambda stack, dsn: stack.enter_async_context(
        AsyncPostgresSaver.from_conn_string(dsn)
    ),
}


def check_told(values: dict[str, Any], facts: list[Any]) -> None:
    assert BUDGET.count(values["llm_input_messages"]) <= BUDGET.max_tokens
    assert len(values["messages"]) == 2 * len(TOLD)
    assert values["summary"]["through_id"] in [m.id for m in values["messages"]]
    assert values["summary"]["tokens"] <= 60
    kept = {(f.value["text"], f.value["status"]) for f in facts}
    assert kept == {
        ("My name is Ann Keller.", "current"),
        ("I live at 14 Linden Street in Leipzig.", "superseded"),
        ("I am allergic to peanuts.", "current"),
        ("I moved to 3 Harbour Road in Hamburg.", "current"),
    }
    moved = next(f for f in facts if "Harbour" in f.value["text"])
    assert moved.value["last_updated"] == "2026-05-01T12:00:00+00:00"
    assert moved.value["source"]["thread_id"] == "told"
    assert moved.value["supersedes"] in {f.key for f in facts}


def check_asked(values: dict[str, Any]) -> None:
    recalled = {r["text"]: r for r in values["recalled"] if r["source"] == "facts"}
    assert "I live at 14 Linden Street in Leipzig." not in recalled
    assert recalled["I moved to 3 Harbour Road in Hamburg."]["freshness"] == "stale"
    assert recalled["My name is Ann Keller."]["freshness"] == "fresh"
    facts = values["llm_input_messages"][-2]
    assert "(2026-05-01, may be outdated: confirm before relying on it) I moved" in facts.content


def again(snapshot: StateSnapshot) -> Any:
    """The config that runs on from an earlier checkpoint."""
    return {"configurable": {**config("told")["configurable"], **snapshot.config["configurable"]}}


QUESTION = said("I moved to which road in Hamburg? My name is Ann Keller.", "06-15", id="q")


@pytest.mark.parametrize("saver", SYNC_SAVERS)
@pytest.mark.parametrize("store", SYNC_STORES)
def test_sync(store: str, saver: str, dsn: str) -> None:
    assert os.environ["LANGGRAPH_STRICT_MSGPACK"] == "true"
    with ExitStack() as stack:
        the_store = SYNC_STORES[store](stack, dsn)
        the_saver = SYNC_SAVERS[saver](stack, dsn)
        for part in (the_store, the_saver):
            getattr(part, "setup", lambda: None)()
        graph = memory_graph(turns=False).compile(checkpointer=the_saver, store=the_store)
        for n, (text, day) in enumerate(TOLD):
            graph.invoke({"messages": [said(text, day, id=f"m{n}")]}, config("told"))
        facts = the_store.search(FACTS)
        check_told(graph.get_state(config("told")).values, facts)

        # Going back to any checkpoint and running on from there writes nothing twice.
        before = {f.key: f.value for f in facts}
        history = list(graph.get_state_history(config("told")))
        for snapshot in [s for s in history if s.next == ("remember",)][:4]:
            graph.invoke(None, again(snapshot))
        assert {f.key: f.value for f in the_store.search(FACTS)} == before

        values: dict[str, Any] = {}
        for values in graph.stream(  # noqa: B007 - the last one is looked at
            {"messages": [QUESTION]}, config("asked"), stream_mode="values"
        ):
            pass
        check_asked(values)


@pytest.mark.parametrize("saver", ASYNC_SAVERS)
@pytest.mark.parametrize("store", ASYNC_STORES)
def test_async(store: str, saver: str, dsn: str) -> None:
    async def scenario() -> None:
        async with AsyncExitStack() as stack:
            the_store = await ASYNC_STORES[store](stack, dsn)
            the_saver = await ASYNC_SAVERS[saver](stack, dsn)
            for part in (the_store, the_saver):
                setup = getattr(part, "asetup", None) or getattr(part, "setup", None)
                if setup is not None:
                    await setup()
            graph = memory_graph(turns=False).compile(checkpointer=the_saver, store=the_store)
            for n, (text, day) in enumerate(TOLD):
                await graph.ainvoke({"messages": [said(text, day, id=f"m{n}")]}, config("told"))
            facts = await the_store.asearch(FACTS)
            check_told((await graph.aget_state(config("told"))).values, facts)
            before = {f.key: f.value for f in facts}
            history = [s async for s in graph.aget_state_history(config("told"))]
            for snapshot in [s for s in history if s.next == ("remember",)][:4]:
                await graph.ainvoke(None, again(snapshot))
            assert {f.key: f.value for f in await the_store.asearch(FACTS)} == before
            values: dict[str, Any] = {}
            async for values in graph.astream(  # noqa: B007 - the last one is looked at
                {"messages": [QUESTION]}, config("asked"), stream_mode="values"
            ):
                pass
            check_asked(values)

    asyncio.run(scenario())


def test_people_never_see_each_others_memories(dsn: str) -> None:
    with semantic(dsn) as store:
        store.setup()
        graph = memory_graph().compile(checkpointer=InMemorySaver(), store=store)
        users = ["ann@example.com", "ann@example%2Ecom", "ann", "a.nn", "{ann}", "{user_id}"]
        for n, user in enumerate(users):
            text = f"I live at {n} Linden Street."
            graph.invoke({"messages": [HumanMessage(text)]}, config(f"told-{n}", user))
        for n, user in enumerate(users):
            question = {"messages": [HumanMessage("Linden Street?")]}
            recalled = graph.invoke(question, config(f"asked-{n}", user))["recalled"]
            texts = {r["text"] for r in recalled if r["source"] == "facts"}
            assert texts <= {f"I live at {n} Linden Street."}
            assert recalled
