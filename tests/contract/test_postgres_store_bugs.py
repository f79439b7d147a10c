"""Failures that PostgresStore is known for, each named by its issue: none of them here.

Some were reported of another store with the same code. Others are in `integration/test_store.py`.
"""

import asyncio
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
import pytest
from langgraph.store.base import PutOp

from memkit.store import SemanticStore, indexes
from tests.fakes import HashEmbeddings

FACTS = ("users", "ann", "facts")


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def passages(dsn: str) -> Iterator[SemanticStore]:
    """A store of items with a list of texts each, ranked by vectors alone."""
    index: Any = {"embed": HashEmbeddings(), "dims": 32, "fields": ["parts[*]"]}
    with SemanticStore.from_conn_string(dsn, index=index, search_mode="vector") as store:
        yield store


def test_langgraph_8977_an_item_of_many_passages_hides_no_other(passages: SemanticStore) -> None:
    passages.put(FACTS, "long", {"parts": ["green tea"] * 40})
    passages.put(FACTS, "short", {"parts": ["red car"]})
    hits = passages.search(FACTS, query="green tea", limit=2)
    assert [hit.key for hit in hits] == ["long", "short"]


def test_langgraph_8757_a_passage_that_is_gone_is_not_found(passages: SemanticStore) -> None:
    passages.put(FACTS, "k", {"parts": ["green tea", "red car"]})
    (hit,) = passages.search(FACTS, query="red car")
    assert hit.score == pytest.approx(1)
    passages.put(FACTS, "k", {"parts": ["green tea"]})
    (hit,) = passages.search(FACTS, query="red car")
    assert hit.score is not None
    assert hit.score < 0.5


def test_langgraph_6367_closing_leaves_no_task_behind(dsn: str) -> None:
    async def use() -> set[Any]:
        async with SemanticStore.from_conn_string(dsn) as store:
            await store.aput(FACTS, "k", {"n": 1})
            assert await store.aget(FACTS, "k") is not None
        await asyncio.sleep(0)
        return asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(use()) == set()


def test_langgraph_6693_a_store_outlives_the_loop_that_used_it(dsn: str) -> None:
    async def use(n: int) -> Any:
        await store.aput(FACTS, str(n), {"n": n})
        return await store.aget(FACTS, "0")

    with SemanticStore.from_conn_string(dsn) as store:
        for n in range(2):
            assert asyncio.run(asyncio.wait_for(use(n), 10)).value == {"n": 0}


def test_langgraph_6702_a_thread_that_waits_holds_up_no_other(dsn: str) -> None:
    read: list[Any] = []
    with (
        SemanticStore.from_conn_string(dsn, pool_config={"min_size": 2, "max_size": 4}) as store,
        psycopg.connect(dsn) as blocker,
    ):
        store.put(FACTS, "locked", {"n": 1})
        store.put(FACTS, "free", {"n": 1})
        blocker.execute("SELECT 1 FROM memkit_items WHERE key = 'locked' FOR UPDATE")
        writer = threading.Thread(target=store.put, args=(FACTS, "locked", {"n": 2}))
        writer.start()
        waiting = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        deadline = time.monotonic() + 10
        while execute(dsn, waiting) == [(0,)] and time.monotonic() < deadline:
            time.sleep(0.01)
        reader = threading.Thread(target=lambda: read.append(store.get(FACTS, "free")))
        reader.start()
        reader.join(10)
        found, is_writing = len(read), writer.is_alive()
        blocker.rollback()
        writer.join(10)
        reader.join(10)
    assert (found, is_writing) == (1, True)


def test_pgvector_259_nearer_items_of_others_do_not_empty_a_search(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(texts: Sequence[str]) -> list[list[float]]:
        vectors = []
        for text in texts:
            drawn = random.Random(text)  # noqa: S311 - no secret
            side = 1 if text.startswith("near") else -1
            vectors.append([side + drawn.gauss(0, 0.2), *(drawn.gauss(0, 0.2) for _ in range(7))])
        return vectors

    monkeypatch.setattr(indexes, "PAYS_FROM", 300)  # an index for each of the two, and for all
    index: Any = {"embed": embed, "dims": 8, "fields": ["text"]}
    with SemanticStore.from_conn_string(dsn, index=index, search_mode="vector") as store:
        store.batch([PutOp(("users", "crowd"), str(n), {"text": f"near {n}"}) for n in range(2000)])
        store.batch([PutOp(("users", "ann"), str(n), {"text": f"far {n}"}) for n in range(400)])
        assert store.build_indexes()
        execute(dsn, "ANALYZE")
        for limit in (2, 10):
            assert len(store.search(("users", "ann"), query="near 5", limit=limit)) == limit
            few = store.search(("users",), query="near 5", limit=limit, filter={"text": "far 5"})
            assert [hit.key for hit in few] == ["5"]
