"""SemanticStore on Postgres: the peers' known bugs by name, bad input, and many writers."""

import asyncio
import multiprocessing
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import psycopg
import pytest
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    ListNamespacesOp,
    MatchCondition,
    PutOp,
    SearchOp,
)
from psycopg.conninfo import make_conninfo

from memkit.db import migrate as migrations
from memkit.errors import ConfigError, DimensionMismatch, MigrationError, StoreError
from memkit.store import SemanticStore
from tests.fakes import HashEmbeddings

FACTS = ("users", "ann", "facts")


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


# What the peers get wrong


def test_langgraph_7684_orderings_compare_numbers(store: SemanticStore) -> None:
    for n in (9, 10, 100):
        store.put(FACTS, str(n), {"n": n})
    assert sorted(keys(store.search(FACTS, filter={"n": {"$gte": 10}}))) == ["10", "100"]
    assert keys(store.search(FACTS, filter={"n": {"$lt": 10}})) == ["9"]


def test_orderings_skip_what_is_no_number(store: SemanticStore) -> None:
    for n, value in enumerate([None, "abc", "", [1], {"a": 1}, "1e9999", "0x10", "nan", "1_0"]):
        store.put(FACTS, f"odd {n}", {"n": value})
    store.put(FACTS, "none", {})
    store.put(FACTS, "text", {"n": " 7.5 "})
    store.put(FACTS, "true", {"n": True})
    store.put(FACTS, "huge", {"n": 10**400})
    assert set(keys(store.search(FACTS, filter={"n": {"$gt": -1}}))) == {"text", "true", "huge"}
    assert keys(store.search(FACTS, filter={"n": {"$gt": 1, "$lt": float("inf")}})) == [
        "huge",
        "text",
    ]


def test_ne_matches_items_that_lack_the_field(store: SemanticStore) -> None:
    store.put(FACTS, "red", {"color": "red"})
    store.put(FACTS, "blue", {"color": "blue"})
    store.put(FACTS, "none", {})
    assert set(keys(store.search(FACTS, filter={"color": {"$ne": "red"}}))) == {"blue", "none"}


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_offset_loses_and_repeats_nothing(store: SemanticStore, mode: Any) -> None:
    ops = [PutOp(FACTS, f"k{n:02}", {"text": f"fact number {n}"}) for n in range(100)]
    store.batch([*ops, PutOp(FACTS, "bare", {"n": 1})])
    found: list[str] = []
    for offset in range(0, 120, 30):
        page = store.search(FACTS, query="fact number 7", limit=30, offset=offset, mode=mode)
        found += keys(page)
    assert len(found) == len(set(found)) == 101
    assert found[0] == "k07"
    assert found[-1] == "bare"


@pytest.mark.parametrize("value", [{"text": "green tea"}, {"other": "nothing indexed"}])
def test_a_put_replaces_the_vectors_of_before(store: SemanticStore, value: dict[str, Any]) -> None:
    store.put(FACTS, "k", {"text": "green tea"})
    assert store.search(FACTS, query="green tea", mode="vector")[0].score == pytest.approx(1)
    store.put(FACTS, "k", value, index=False if "text" in value else None)
    (hit,) = store.search(FACTS, query="green tea", mode="vector")
    assert hit.score is None
    assert store.search(FACTS, query="green tea", mode="text") == []


def test_a_ttl_of_less_than_a_minute_is_kept(store: SemanticStore, dsn: str) -> None:
    store.put(FACTS, "k", {"n": 1}, ttl=0.4)
    for _ in range(2):
        assert store.get(FACTS, "k") is not None
    ((ttl, seconds),) = execute(
        dsn, "SELECT ttl_minutes, extract(epoch FROM expires_at - now()) FROM memkit_items"
    )
    assert ttl == 0.4
    assert 20 < seconds <= 24


def test_expired_items_are_nowhere(store: SemanticStore) -> None:
    store.put(FACTS, "k", {"text": "green tea"}, ttl=0.3 / 60)
    store.put(("users", "bob", "facts"), "k", {"text": "green cake"})
    time.sleep(0.4)
    assert store.get(FACTS, "k") is None
    assert store.search(FACTS) == []
    for mode in ("hybrid", "vector", "text"):
        assert store.search(FACTS, query="green tea", mode=mode) == []
    assert store.list_namespaces() == [("users", "bob", "facts")]
    store.put(FACTS, "k", {"text": "back"})
    item = store.get(FACTS, "k")
    assert item is not None
    assert item.created_at == item.updated_at  # a new item, not the expired one


def test_reads_write_only_where_a_time_to_live_starts_anew(store: SemanticStore, dsn: str) -> None:
    store.put(FACTS, "plain", {"text": "tea"})
    store.put(FACTS, "long", {"text": "tea"}, ttl=60)
    store.put(FACTS, "short", {"text": "tea"}, ttl=0.05)
    time.sleep(0.1)  # more than 2 % of 3 seconds, and of an hour as good as nothing
    versions = "SELECT key, xmin::text FROM memkit_items ORDER BY key"
    before = dict(execute(dsn, versions))
    store.search(FACTS, query="tea", refresh_ttl=False)
    store.get(FACTS, "short", refresh_ttl=False)
    assert dict(execute(dsn, versions)) == before
    store.search(FACTS, query="tea")
    after = dict(execute(dsn, versions))
    assert [key for key in after if after[key] != before[key]] == ["short"]


def test_a_batch_of_20000_puts(dsn: str) -> None:
    with SemanticStore.open(dsn, search_mode="text") as store:
        store.batch([PutOp(FACTS, f"k{n}", {"text": f"word{n}"}) for n in range(20_000)])
        assert keys(store.search(FACTS, query="word12345")) == ["k12345"]


def test_one_embedding_call_for_texts_and_one_per_query(
    store: SemanticStore, embeddings: HashEmbeddings
) -> None:
    ops = [PutOp(FACTS, f"k{n}", {"text": f"text {n % 3}"}) for n in range(9)]
    store.batch([*ops, *[SearchOp(FACTS, query="tea")] * 3, SearchOp(FACTS, query="cake")])
    assert embeddings.document_calls == [["text 0", "text 1", "text 2"]]
    assert embeddings.query_calls == ["tea", "cake"]


def test_embedding_holds_no_connection(dsn: str, embeddings: HashEmbeddings) -> None:
    def embed(texts: Any) -> list[list[float]]:
        assert store.get(FACTS, "other") is None  # needs the only connection
        return embeddings.embed_documents(list(texts))

    with SemanticStore.open(dsn, embed=embed, dims=32, pool_config={"max_size": 1}) as store:
        store.put(FACTS, "k", {"text": "tea"})
        assert keys(store.search(FACTS, query="tea")) == ["k"]


# What a search finds


def test_hybrid_search_finds_a_rare_word_that_vectors_blur(dsn: str) -> None:
    def blurred(texts: Any) -> list[list[float]]:
        return [[1.0, len(text) / 1000] for text in texts]

    with SemanticStore.open(dsn, embed=blurred, dims=2) as store:
        for n in range(20):
            store.put(FACTS, f"k{n}", {"text": f"Ann talked about the weather on day {n}"})
        store.put(FACTS, "rare", {"text": "Ann talked about her ocarina"})
        hits = store.search(FACTS, query="Did Ann talk of an ocarina?", limit=3)
        assert hits[0].key == "rare"
        scores = [hit.score or 0 for hit in hits]
        assert 1 >= scores[0] > scores[1] + 0.3
        # By words alone: only what shares one, and the common ones count for little.
        words = store.search(FACTS, query="ocarina weather", mode="text", limit=30)
        assert words[0].key == "rare"
        assert len(words) == 21
        assert store.search(FACTS, query="the of", mode="text") == []


def test_vector_search_takes_the_best_passage_of_an_item(store: SemanticStore) -> None:
    store.put(FACTS, "two", {"parts": ["green tea", "red car"]}, index=["parts[*]"])
    store.put(FACTS, "one", {"text": "a red bicycle"})
    (first, second) = store.search(FACTS, query="red car", mode="vector")
    assert first.key == "two"
    assert first.score == pytest.approx(1)
    assert second.score is not None
    assert second.score < 1


@pytest.mark.parametrize("distance", ["cosine", "l2", "inner_product"])
def test_vector_scores_are_those_of_postgres_store(dsn: str, distance: Any) -> None:
    from langgraph.store.postgres import PostgresStore

    embeddings = HashEmbeddings(8)
    index: Any = {"embed": embeddings, "dims": 8, "fields": ["text"], "distance_type": distance}
    said = ["green tea", "tea and cake", "a red car", "car"]
    found = []
    ours_by_vector = partial(SemanticStore.from_conn_string, search_mode="vector")
    opened: Any
    for opened in (ours_by_vector, PostgresStore.from_conn_string):
        with opened(dsn, index=index) as store:
            store.setup()
            for text in said:
                store.put(FACTS, text, {"text": text})
            found.append([(hit.key, hit.score) for hit in store.search(FACTS, query="tea car")])
    ours, theirs = found
    assert [key for key, _ in ours] == [key for key, _ in theirs]
    # Of half precision, theirs of full.
    assert [score for _, score in ours] == pytest.approx([score for _, score in theirs], abs=2e-3)


def test_without_a_query_the_newest_come_first(store: SemanticStore) -> None:
    for key in ("a", "b", "c"):
        store.put(FACTS, key, {})
    store.put(FACTS, "a", {})
    assert keys(store.search(("users",))) == ["a", "c", "b"]


def test_a_store_without_an_index_ignores_queries(dsn: str) -> None:
    with SemanticStore.from_conn_string(dsn) as store:
        store.put(FACTS, "k", {"text": "tea"})
        (hit,) = store.search(FACTS, query="nothing like it")
        assert hit.score is None
        with pytest.raises(ConfigError, match="needs indexed texts"):
            store.search(FACTS, query="tea", mode="text")
    with SemanticStore.from_conn_string(dsn, search_mode="text") as store:
        store.put(FACTS, "k", {"text": "tea"})
        assert keys(store.search(FACTS, query="tea")) == ["k"]
        with pytest.raises(ConfigError, match="needs embeddings"):
            store.search(FACTS, query="tea", mode="vector")


# What must survive


def test_nul_and_any_script_survive(store: SemanticStore) -> None:
    namespace = ("users", "日本-ключ-😀", "a%_\\'\"")
    value = {"te\x00xt": "a\x00b\ue000", "text": "c\x00d \ud800", "big": [1e23, 2**70, 0.1, -0.0]}
    store.put(namespace, "k\x00", value)
    item = store.get(namespace, "k\x00")
    assert item is not None
    assert item.value == value
    (hit,) = store.search(namespace[:1], filter={"te\x00xt": "a\x00b\ue000", "big": value["big"]})
    assert (hit.namespace, hit.key, hit.value) == (namespace, "k\x00", value)
    assert keys(store.search(namespace, query="c\x00d")) == ["k\x00"]
    assert store.list_namespaces(suffix=namespace[1:]) == [namespace]


def test_labels_are_no_patterns(store: SemanticStore) -> None:
    for label in ("a_b", "axb", "a%", "ab", "a-"):
        store.put(("users", label), "k", {})
    assert [hit.namespace[1] for hit in store.search(("users", "a_b"))] == ["a_b"]
    assert store.search(("user",)) == []
    assert len(store.search(("users",))) == 5


def test_every_op_of_a_batch_is_checked(store: SemanticStore) -> None:
    wrong = ("users", "a.b")
    condition = MatchCondition("prefix", wrong)
    for op in (GetOp(wrong, "k"), PutOp(wrong, "k", {}), SearchOp(wrong)):
        with pytest.raises(InvalidNamespaceError):
            store.batch([PutOp(FACTS, "k", {}), op])
    with pytest.raises(InvalidNamespaceError):
        store.batch([PutOp(FACTS, "k", {}), ListNamespacesOp((condition,))])
    assert store.get(FACTS, "k") is None


@pytest.mark.parametrize(
    ("op", "error", "says"),
    [
        (PutOp(FACTS, "bad", {"n": float("nan")}), StoreError, "nan, which JSON has not"),
        (PutOp(FACTS, "bad", {"n": object()}), StoreError, "key 'bad'.*object"),
        (PutOp(FACTS, "bad", ["no", "mapping"]), ConfigError, "list; a store keeps mappings"),  # type: ignore[arg-type]
        (PutOp(FACTS, "bad", {}, ttl=-1), ConfigError, "ttl is a number of minutes above 0"),
        (PutOp(FACTS, "bad", {}, ttl=1e300), StoreError, "refused a statement"),
        (SearchOp(FACTS, limit=-1), ConfigError, "limit is -1"),
        (SearchOp(FACTS, offset=-1), ConfigError, "offset is -1"),
        (ListNamespacesOp(max_depth=-1), ConfigError, "max_depth is -1"),
        (SearchOp(FACTS, filter={"n": {"$near": 1}}), ConfigError, r"\$near"),
        (("get", "k"), ConfigError, "not tuple"),
    ],
)
def test_a_bad_op_is_one_clear_error_and_nothing_is_written(
    store: SemanticStore, op: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        store.batch([PutOp(FACTS, "good", {"text": "tea"}), op])
    with pytest.raises(error, match=says):
        asyncio.run(store.abatch([PutOp(FACTS, "good", {"text": "tea"}), op]))
    assert store.search(FACTS) == []


# The database


def test_a_wrong_address_is_one_clear_error_without_the_password() -> None:
    with pytest.raises(StoreError, match="not a PostgreSQL connection string") as caught:
        SemanticStore.open("postgres//ann:s3cret@host/db", search_mode="text")
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_an_unreachable_database_fails_fast() -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError, match=r"cannot reach database 'db' at 127\.0\.0\.1:9") as caught:
        SemanticStore.open("postgresql://ann:s3cret@127.0.0.1:9/db", search_mode="text")
    assert "s3cret" not in str(caught.value)
    assert time.monotonic() - begun < 5


def test_a_missing_database_is_named(dsn: str) -> None:
    with pytest.raises(StoreError, match="'nowhere'"):
        SemanticStore.open(make_conninfo(dsn, dbname="nowhere"), search_mode="text")


def test_a_lost_connection_is_replaced(store: SemanticStore, dsn: str) -> None:
    store.put(FACTS, "k", {"n": 1})
    execute(
        dsn,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()",
    )
    assert store.get(FACTS, "k") is not None


def test_a_busy_pool_says_so(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memkit.db.pool.CHECKOUT_TIMEOUT_S", 0.3)
    with (
        SemanticStore.open(dsn, search_mode="text", pool_config={"max_size": 1}) as store,
        ThreadPoolExecutor(1) as thread,
        psycopg.connect(dsn) as blocker,
    ):
        store.put(FACTS, "k", {"n": 1})
        blocker.execute("SELECT 1 FROM memkit_items FOR UPDATE")
        waiting = thread.submit(store.put, FACTS, "k", {"n": 2})
        time.sleep(0.1)
        with pytest.raises(StoreError, match="raise max_size in pool_config"):
            store.get(FACTS, "k")
        blocker.rollback()
        waiting.result(timeout=10)


def test_without_embeddings_open_says_what_to_pass(dsn: str) -> None:
    with pytest.raises(ConfigError, match="pass embed="):
        SemanticStore.open(dsn)
    with pytest.raises(ConfigError, match="search mode is one of"):
        SemanticStore.open(dsn, search_mode="fuzzy")  # type: ignore[arg-type]


def test_missing_tables_say_run_setup(empty_dsn: str) -> None:
    with SemanticStore.open(empty_dsn, search_mode="text") as store:
        for _ in range(2):
            with pytest.raises(MigrationError, match=r"run setup\(\)"):
                store.get(FACTS, "k")
        with pytest.raises(MigrationError, match=r"run setup\(\)"):
            asyncio.run(store.aput(FACTS, "k", {}))
        store.setup()
        assert store.get(FACTS, "k") is None
        execute(empty_dsn, "DROP TABLE memkit_items CASCADE")
        with pytest.raises(MigrationError, match=r"run setup\(\)"):
            store.get(FACTS, "k")


def test_other_dims_than_the_stored_vectors(dsn: str) -> None:
    with SemanticStore.open(dsn, embed=HashEmbeddings(8)) as store:  # measured
        store.setup()
        store.put(FACTS, "k", {"text": "tea"})
    with SemanticStore.open(dsn, embed=HashEmbeddings(16)) as store:
        with pytest.raises(DimensionMismatch, match=r"vectors of 8 dimensions.*have 16"):
            store.setup()
        with pytest.raises(DimensionMismatch, match=r"vectors of 8 dimensions.*have 16"):
            store.search(FACTS, query="tea")


def test_embeddings_of_another_length_than_dims(dsn: str) -> None:
    with SemanticStore.open(dsn, embed=HashEmbeddings(8), dims=16) as store:
        store.put(FACTS, "before", {"n": 1})
        with pytest.raises(DimensionMismatch, match=r"length 8.*dims=16"):
            store.batch([PutOp(FACTS, "a", {}), PutOp(FACTS, "b", {"text": "tea"})])
        assert keys(store.search(FACTS)) == ["before"]


@pytest.mark.parametrize(
    ("vectors", "says"), [([], "0 vectors for 1 texts"), ([[float("nan"), 1.0]], "NaN")]
)
def test_embeddings_that_fail_write_nothing(dsn: str, vectors: Any, says: str) -> None:
    with SemanticStore.open(dsn, embed=lambda _: vectors, dims=2) as store:
        with pytest.raises(StoreError, match=says):
            store.put(FACTS, "k", {"text": "tea"})
        assert store.get(FACTS, "k") is None


def test_a_vector_of_zeros_is_unrelated(dsn: str) -> None:
    zeros = {"nothing": [0.0, 0.0], "tea": [1.0, 0.0], "cake": [0.0, 1.0]}
    with SemanticStore.open(dsn, embed=lambda texts: [zeros[t] for t in texts], dims=2) as store:
        for text in zeros:
            store.put(FACTS, text, {"text": text})
        hits = store.search(FACTS, query="tea", mode="vector")
        assert [(hit.key, hit.score) for hit in hits] == [("tea", 1), ("cake", 0), ("nothing", 0)]
        assert {hit.score for hit in store.search(FACTS, query="nothing", mode="vector")} == {0.0}


def _set_up(dsn: str) -> None:
    with SemanticStore.open(dsn, embed=HashEmbeddings(8), dims=8) as store:
        store.setup()


def test_setup_from_many_processes_at_once(empty_dsn: str) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["memkit.store", "tests.fakes"])
    processes = [context.Process(target=_set_up, args=(empty_dsn,)) for _ in range(20)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout=60)
    assert [process.exitcode for process in processes] == [0] * 20
    applied = execute(empty_dsn, "SELECT count(*), max(number) FROM memkit_migrations")
    assert applied == [(len(migrations.migrations()), migrations.migrations()[-1].number)]
    _set_up(empty_dsn)


def test_a_changed_migration_is_an_error(dsn: str) -> None:
    execute(dsn, "UPDATE memkit_migrations SET sha256 = 'tampered' WHERE number = 1")
    with SemanticStore.open(dsn, search_mode="text") as store:
        calls: list[Callable[[], object]] = [store.setup, lambda: store.get(FACTS, "k")]
        for call in calls:
            with pytest.raises(MigrationError, match="0001_items was changed after"):
                call()


def test_a_newer_schema_is_an_error(dsn: str) -> None:
    execute(dsn, "INSERT INTO memkit_migrations VALUES (9999, 'future', 'x')")
    with (
        SemanticStore.open(dsn, search_mode="text") as store,
        pytest.raises(MigrationError, match="upgrade memkit"),
    ):
        store.setup()


def test_a_failed_migration_leaves_nothing(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = migrations.Migration(1, "bad", "CREATE TABLE half (a int); SELECT 1 / 0")
    monkeypatch.setattr(migrations, "migrations", lambda: [bad])
    with (
        SemanticStore.open(empty_dsn, search_mode="text") as store,
        pytest.raises(MigrationError, match="0001_bad failed and was rolled back: division by"),
    ):
        store.setup()
    assert execute(empty_dsn, "SELECT to_regclass('half')") == [(None,)]


def test_a_database_without_pgvector_is_one_clear_error(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = migrations.Migration(1, "items", "CREATE EXTENSION vector_that_is_not_there")
    monkeypatch.setattr(migrations, "migrations", lambda: [missing])
    with (
        SemanticStore.open(empty_dsn, search_mode="text") as store,
        pytest.raises(MigrationError, match="has no pgvector"),
    ):
        store.setup()


def test_writers_of_the_same_keys_do_not_deadlock(store: SemanticStore) -> None:
    names = [f"k{n}" for n in range(12)]

    def write(worker: int) -> None:
        for turn in range(15):
            mine = names[turn % 4 :] if worker % 2 else names[::-1]
            ops: list[Any] = [
                PutOp(FACTS, key, None if (turn + n + worker) % 5 == 0 else {"text": key}, ttl=5)
                for n, key in enumerate(mine)
            ]
            store.batch([*ops, SearchOp(("users",), query="k3"), GetOp(FACTS, "k1")])

    with ThreadPoolExecutor(6) as threads:
        for done in [threads.submit(write, worker) for worker in range(6)]:
            done.result(timeout=60)
    store.batch([PutOp(FACTS, key, {"text": key}) for key in names])
    assert sorted(keys(store.search(FACTS, limit=50))) == sorted(names)


# Async, and the end


def test_concurrent_async_calls_from_several_loops(store: SemanticStore) -> None:
    async def use(loop: int) -> int:
        puts = [store.aput(FACTS, f"{loop}-{n}", {"text": f"tea {n}"}) for n in range(20)]
        await asyncio.gather(*puts)
        hits = await store.asearch(FACTS, query="tea", filter={}, limit=100, mode="text")
        return sum(hit.key.startswith(f"{loop}-") for hit in hits)

    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda loop: asyncio.run(use(loop)), range(3))) == [20] * 3


def test_many_async_calls_are_few_transactions(dsn: str) -> None:
    async def use(store: SemanticStore) -> None:
        many = range(3000)
        long_key = random.Random(0).randbytes(6000).hex()  # noqa: S311 - a text that no compression shortens
        puts = [store.aput(FACTS, str(n), {"n": n}) for n in many]
        too_long = store.aput(FACTS, long_key, {})
        done = await asyncio.gather(*puts, too_long, return_exceptions=True)
        assert done[:-1] == [None for _ in many]
        assert isinstance(done[-1], StoreError)
        items = await asyncio.gather(*(store.aget(FACTS, str(n)) for n in many))
        assert [item.value["n"] for item in items if item] == list(many)

    def writers() -> int:
        return int(execute(dsn, "SELECT count(DISTINCT xmin::text) FROM memkit_items")[0][0])

    with SemanticStore.open(dsn, search_mode="text", pool_config={"max_size": 2}) as store:
        asyncio.run(use(store))
    # One of the batches held the key that the server refuses, and was run a call at a time.
    assert writers() < 2000


def test_async_calls_do_not_block_the_loop(store: SemanticStore, dsn: str) -> None:
    async def race() -> list[str]:
        order: list[str] = []

        async def put() -> None:
            await store.aput(FACTS, "k", {"n": 2})
            order.append("put")

        with psycopg.connect(dsn) as blocker:
            blocker.execute("SELECT 1 FROM memkit_items FOR UPDATE")
            task = asyncio.create_task(put())
            await asyncio.sleep(0.2)
            order.append("loop")
        await task
        return order

    store.put(FACTS, "k", {"n": 1})
    assert asyncio.run(race()) == ["loop", "put"]


def test_cancelling_leaks_no_connection(dsn: str) -> None:
    async def cancel(store: SemanticStore) -> None:
        cancelled = 0
        for _ in range(20):
            task = asyncio.create_task(store.aput(FACTS, "k", {"n": 1}))
            await asyncio.sleep(0.001)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            cancelled += task.cancelled()
        assert cancelled
        assert await store.aget(FACTS, "other") is None

    with SemanticStore.open(dsn, search_mode="text", pool_config={"max_size": 2}) as store:
        store.get(FACTS, "open the pool")
        asyncio.run(cancel(store))
        assert store.get(FACTS, "other") is None


def test_async_with_and_asetup(empty_dsn: str) -> None:
    async def use() -> None:
        async with SemanticStore.open(empty_dsn, embed=HashEmbeddings(8), dims=8) as store:
            await store.asetup()
            await store.aput(FACTS, "k", {"text": "tea"})
            assert keys(await store.asearch(FACTS, query="tea")) == ["k"]
            assert await store.asweep_ttl() == 0
        with pytest.raises(StoreError, match="closed"):
            await store.aget(FACTS, "k")

    asyncio.run(use())


def test_an_async_only_embedding_function(dsn: str) -> None:
    async def embed(texts: Any) -> list[list[float]]:
        return [[1.0, 0.0] for _ in texts]

    async def use() -> None:
        async with SemanticStore.open(dsn, embed=embed, dims=2) as store:
            await store.aput(FACTS, "k", {"text": "tea"})
            assert keys(await store.asearch(FACTS, query="tea", mode="vector")) == ["k"]

    asyncio.run(use())


def test_a_closed_store_says_so(store: SemanticStore) -> None:
    store.put(FACTS, "k", {})
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.get(FACTS, "k")


@pytest.fixture
def sweeping(dsn: str) -> Iterator[SemanticStore]:
    ttl: Any = {"default_ttl": 0.2 / 60, "sweep_interval_minutes": 0.1 / 60}
    with SemanticStore.open(dsn, search_mode="text", ttl=ttl) as store:
        yield store


def test_the_sweeper_deletes_what_expired(sweeping: SemanticStore, dsn: str) -> None:
    sweeper = sweeping.start_ttl_sweeper()
    assert sweeping.start_ttl_sweeper() is sweeper
    sweeping.put(FACTS, "short", {"text": "tea"})
    sweeping.put(FACTS, "long", {"text": "tea"}, ttl=5)
    deadline = time.monotonic() + 10
    while len(execute(dsn, "SELECT key FROM memkit_items")) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert execute(dsn, "SELECT key FROM memkit_passages") == [("long",)]
    assert sweeping.stop_ttl_sweeper(timeout=5)
    assert sweeper.done()
    assert "memkit-ttl-sweeper" not in {thread.name for thread in threading.enumerate()}


def test_a_sweep_takes_small_steps(sweeping: SemanticStore) -> None:
    sweeping.batch([PutOp(FACTS, str(n), {"n": n}, ttl=0.2 / 60) for n in range(2100)])
    time.sleep(0.3)
    assert sweeping.sweep_ttl() == 2100


def test_sweep_counts(sweeping: SemanticStore) -> None:
    for user in ("ann", "bob"):
        sweeping.put(("users", user), "k", {})
    time.sleep(0.3)
    assert sweeping.sweep_ttl() == 2
    assert sweeping.sweep_ttl() == 0


def test_two_databases_side_by_side(
    fresh_dsn: Callable[[], AbstractContextManager[str]], store: SemanticStore
) -> None:
    with fresh_dsn() as other_dsn, SemanticStore.open(other_dsn, search_mode="text") as other:
        other.put(FACTS, "k", {"n": 2})
        store.put(FACTS, "k", {"n": 1})
        item = other.get(FACTS, "k")
        assert item is not None
        assert item.value == {"n": 2}


@pytest.mark.parametrize(
    "dsn", ["postgresql://user:s3cr3t/x@localhost/db", "postgresql://user:s3c@r3t@localhost/db"]
)
def test_a_torn_password_is_never_printed(dsn: str) -> None:
    with pytest.raises(StoreError, match="percent-encoded") as caught:
        SemanticStore.open(dsn, search_mode="text")
    assert "r3t" not in str(caught.value)


def test_a_store_from_before_a_fork_is_refused_in_the_child(store: SemanticStore) -> None:
    store.put(("a", "b"), "k", {"text": "x"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking with threads, from 3.12
        child = os.fork()
    if child == 0:
        status = 1
        try:
            store.get(("a", "b"), "k")
        except StoreError as error:
            status = 0 if "before a fork" in str(error) else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert store.get(("a", "b"), "k") is not None
