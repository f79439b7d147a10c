"""Erasing a person everywhere, and proving it; exporting what is kept of one."""

import asyncio
import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langchain_core.messages import HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore

from memkit import DeltaMemoryState, MemoryState, SemanticStore
from memkit.checkpoints.savers import tables_of
from memkit.errors import ConfigError
from memkit.privacy import aerase_user, aexport_user, erase_user, export_user
from tests.fakes import HashEmbeddings
from tests.graphs import memory_graph

ANN, BOB = "ann@example.com", "bob@example.com"
SAID = {
    ANN: ["I live at 14 Linden Street in Kiel.", "I am allergic to hazelnuts and to cats."],
    BOB: ["I live at 3 Harbour Road in Bremen.", "I collect stamps of Norway, all of them."],
}


def config(user: str, thread: str) -> Any:
    return {"configurable": {"user_id": user, "thread_id": thread}}


def talk(saver: Any, store: Any, state: Any = MemoryState) -> None:
    graph = memory_graph(state).compile(checkpointer=saver, store=store)
    for user, texts in SAID.items():
        for number, text in enumerate(texts):
            message = HumanMessage(text, id=f"{user}{number}")
            graph.invoke({"messages": [message]}, config(user, f"{user[:3]}-thread-{number}"))


@contextmanager
def store_of(kind: str, dsn: str) -> Iterator[Any]:
    embed = HashEmbeddings()
    if kind == "memory":
        yield InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    elif kind == "postgres":
        with PostgresStore.from_conn_string(dsn) as store:
            store.setup()
            yield store
    else:
        with SemanticStore.open(dsn, embed=embed, dims=embed.dims) as store:
            store.setup()
            yield store


@contextmanager
def saver_of(kind: str, dsn: str, path: Path) -> Iterator[Any]:
    with ExitStack() as stack:
        if kind == "memory":
            yield InMemorySaver()
        elif kind == "sqlite":
            yield stack.enter_context(SqliteSaver.from_conn_string(str(path / "checkpoints")))
        else:
            saver = stack.enter_context(PostgresSaver.from_conn_string(dsn))
            saver.setup()
            yield saver


@pytest.mark.parametrize("saver_kind", ["memory", "sqlite", "postgres"])
def test_threads_of_others_are_not_read(
    saver_kind: str, dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with saver_of(saver_kind, dsn, tmp_path) as saver:
        talk(saver, InMemoryStore())
        tables = tables_of(saver, asynchronous=False)
        read: list[str] = []
        contents = type(tables).contents

        def noted(self: Any, thread_id: str) -> Any:
            read.append(thread_id)
            return contents(self, thread_id)

        monkeypatch.setattr(type(tables), "contents", noted)
        threads = export_user(None, saver, ANN)["threads"]
        assert [thread["thread_id"] for thread in threads] == ["ann-thread-0", "ann-thread-1"]
        assert set(read) == {"ann-thread-0", "ann-thread-1"}


@pytest.mark.parametrize("state", [MemoryState, DeltaMemoryState])
@pytest.mark.parametrize("saver_kind", ["memory", "sqlite", "postgres"])
@pytest.mark.parametrize("store_kind", ["memory", "postgres", "semantic"])
def test_nothing_is_left_of_one_and_all_of_the_other(
    store_kind: str, saver_kind: str, state: Any, dsn: str, tmp_path: Path
) -> None:
    with store_of(store_kind, dsn) as store, saver_of(saver_kind, dsn, tmp_path) as saver:
        talk(saver, store, state)
        bobs = export_user(store, saver, BOB)
        would = erase_user(store, saver, ANN, dry_run=True)
        assert export_user(store, saver, ANN)["items"]
        did = erase_user(store, saver, ANN)
        assert did.is_complete, str(did)
        assert "nothing of it was found afterwards" in str(did)
        assert did.threads == would.threads == ("ann-thread-0", "ann-thread-1")
        assert did.items == would.items >= 4
        assert did.checkpoints == would.checkpoints
        assert did.checkpoints.rows >= 8
        assert did.checkpoints.bytes > 0
        assert did.writes.rows > 0
        gone = export_user(store, saver, ANN)
        assert gone["items"] == gone["threads"] == []
        left = export_user(store, saver, BOB)
        assert {**left, "exported_at": None} == {**bobs, "exported_at": None}
        again = erase_user(store, saver, ANN)
        assert again.is_complete
        assert (again.items, again.threads) == (0, ())
    assert_gone(dsn, tmp_path, "Linden Street", "hazelnuts", "ann@example", "ann-thread")
    assert "Harbour Road" in json.dumps(bobs)


def assert_gone(dsn: str, path: Path, *texts: str) -> None:
    """Look into every row of every table by other means than the search itself."""
    rows: list[str] = []
    with psycopg.connect(dsn) as connection:
        names = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        for (name,) in names.fetchall():
            found = connection.execute(f"SELECT t.*::text FROM {name} t".encode()).fetchall()
            rows += map(str, found)
    if (path / "checkpoints").exists():
        with sqlite3.connect(path / "checkpoints") as database:
            rows += database.iterdump()
    everything = "\n".join(rows)
    for text in texts:
        assert text not in everything
        assert text.encode().hex() not in everything.lower()


async def _both_async(saver: Any, store: Any) -> None:
    graph = memory_graph().compile(checkpointer=saver, store=store)
    for user, texts in SAID.items():
        await graph.ainvoke({"messages": [HumanMessage(texts[0])]}, config(user, user[:3] + "-one"))
    exported = await aexport_user(store, saver, ANN)
    assert "Linden" in json.dumps(exported)
    report = await aerase_user(store, saver, ANN)
    assert report.is_complete, str(report)
    assert report.threads == ("ann-one",)
    assert (await aexport_user(store, saver, ANN))["threads"] == []
    assert (await aexport_user(store, saver, BOB))["threads"]


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres", "aiosqlite", "aiopostgres"])
def test_on_an_event_loop(kind: str, dsn: str, tmp_path: Path) -> None:
    async def use() -> None:
        async with AsyncExitStack() as stack:
            store = stack.enter_context(store_of("semantic", dsn))
            saver: Any
            if kind == "aiosqlite":
                opened = AsyncSqliteSaver.from_conn_string(str(tmp_path / "checkpoints"))
                saver = await stack.enter_async_context(opened)
            elif kind == "aiopostgres":
                saver = await stack.enter_async_context(AsyncPostgresSaver.from_conn_string(dsn))
                await saver.setup()
            else:
                saver = stack.enter_context(saver_of(kind, dsn, tmp_path))
            if kind in {"sqlite", "postgres"}:  # these cannot run a graph here
                await asyncio.to_thread(talk, saver, store)
                report = await aerase_user(store, saver, ANN)
                assert report.is_complete, str(report)
                assert len(report.threads) == 2
            else:
                await _both_async(saver, store)

    asyncio.run(use())


def test_an_async_saver_is_refused_outside(dsn: str) -> None:
    async def opened() -> Any:
        async with AsyncPostgresSaver.from_conn_string(dsn) as saver:
            return saver

    saver = asyncio.run(opened())
    with pytest.raises(ConfigError, match="event loop"):
        erase_user(None, saver, ANN)


def test_what_is_shared_is_left_and_reported(dsn: str) -> None:
    saver = InMemorySaver()
    with store_of("semantic", dsn) as store:
        graph = memory_graph().compile(checkpointer=saver, store=store)
        for user in (ANN, BOB):
            graph.invoke({"messages": [HumanMessage(SAID[user][0])]}, config(user, "family"))
        graph.invoke({"messages": [HumanMessage(SAID[ANN][1])]}, config(ANN, "ann-alone"))
        store.put(("teams", "blue"), "note", {"text": f"{ANN} takes the minutes."})
        report = erase_user(store, saver, ANN)
        assert report.threads == ("ann-alone",)
        assert report.shared == ("family",)
        assert not report.is_complete
        places = {(trace.place, trace.what) for trace in report.traces}
        assert ("store: memkit_items.value", "user id") in places
        assert ("checkpointer: storage", "user id") in places
        assert "left, for it is others' too: thread 'family'" in str(report)
        assert "takes the minutes" in str(store.get(("teams", "blue"), "note"))
        # Asked for by name it goes all the same.
        store.delete(("teams", "blue"), "note")
        store.erase(("teams", "blue"))
        told = erase_user(store, saver, ANN, threads=["family"], user_key="nobody")
        assert told.threads == ("family",)


Rule = Callable[[str, Any], bool]


def test_threads_by_a_rule() -> None:
    saver = InMemorySaver()
    graph = memory_graph(turns=False).compile(checkpointer=saver, store=InMemoryStore())
    for thread in ("crm-17-a", "crm-17-b", "crm-18-a"):
        graph.invoke({"messages": [HumanMessage("hello")]}, config("service", thread))
    rule: Rule = lambda thread_id, metadata: thread_id.startswith("crm-17")  # noqa: E731
    report = erase_user(None, saver, "crm-17", threads=rule, user_key="none")
    assert report.threads == ("crm-17-a", "crm-17-b")
    assert set(saver.storage) == {"crm-18-a"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"user_id": ""}, "user id"),
        ({"store": None, "saver": None}, "a store, a checkpointer, or both"),
        ({"namespaces": [("users",)]}, "names the person"),
        ({"namespaces": [("users", "{team}")]}, "names the person"),
        ({"threads": "one"}, "not the string"),
        ({"saver": object()}, "object"),
    ],
)
def test_what_makes_no_sense_touches_nothing(arguments: dict[str, Any], message: str) -> None:
    store, saver = InMemoryStore(), InMemorySaver()
    talk(saver, store)
    before = str(saver.storage)
    asked = {"store": store, "saver": saver, "user_id": ANN, **arguments}
    with pytest.raises(ConfigError, match=message):
        erase_user(asked.pop("store"), asked.pop("saver"), asked.pop("user_id"), **asked)
    assert str(saver.storage) == before


def test_a_short_id_is_not_searched_for() -> None:
    saver, store = InMemorySaver(), InMemoryStore()
    memory_graph().compile(checkpointer=saver, store=store).invoke(
        {"messages": [HumanMessage(SAID[ANN][0])]}, config("7", "seven-1")
    )
    report = erase_user(store, saver, "7")
    assert report.unsearched == ("7",)
    assert report.traces == ()
    assert not report.is_complete


def test_an_export_is_json_and_has_what_was_replaced(dsn: str) -> None:
    saver = InMemorySaver()
    with store_of("semantic", dsn) as store:
        talk(saver, store, DeltaMemoryState)
        store.put(("users", "ann@example%2Ecom", "notes"), "n", {"text": "first"})
        store.put(("users", "ann@example%2Ecom", "notes"), "n", {"text": "second"})
        exported = json.loads(json.dumps(export_user(store, saver, ANN)))
    notes = [item for item in exported["items"] if item["namespace"][-1] == "notes"]
    assert [version["value"]["text"] for version in notes[0]["versions"]] == ["second", "first"]
    assert [thread["thread_id"] for thread in exported["threads"]] == [
        "ann-thread-0",
        "ann-thread-1",
    ]
    told = [message["data"]["content"] for message in exported["threads"][0]["messages"]]
    assert told[0] == SAID[ANN][0]
    assert len(told) >= 2
    assert exported["threads"][0]["state"]["memory"]
    assert BOB not in json.dumps(exported)


def test_killed_at_any_moment_and_done_by_the_next(empty_dsn: str) -> None:
    with PostgresSaver.from_conn_string(empty_dsn) as saver:
        saver.setup()
    with store_of("semantic", empty_dsn):
        pass
    command = [sys.executable, "-m", "tests.crash", "erase", empty_dsn]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    signals = json.loads(ended.stdout)
    assert len(signals) > 5
    assert set(signals[:-1]) == {9}
    assert signals[-1] == 0


@pytest.mark.parametrize("kind", ["memory", "sqlite", "postgres"])
def test_an_export_has_every_message_once(kind: str, dsn: str, tmp_path: Path) -> None:
    texts = ["I live at 14 Linden Street in Kiel.", "Thank you.", "Thank you."]
    with saver_of(kind, dsn, tmp_path) as saver:
        graph = memory_graph(MemoryState).compile(checkpointer=saver, store=InMemoryStore())
        for text in texts:  # without an id: it comes with the state
            state = graph.invoke({"messages": [HumanMessage(text)]}, config(ANN, "ann-thread"))
        (thread,) = export_user(None, saver, ANN)["threads"]
    ids = [message["data"]["id"] for message in thread["messages"]]
    assert ids == [message.id for message in state["messages"]]
    assert len(ids) == 6
