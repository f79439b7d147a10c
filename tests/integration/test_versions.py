"""Compare-and-set in SemanticStore: versions, conflicts, many writers, and the migration to it."""

import asyncio
import copy
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from importlib import resources
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.store.base import (
    GetOp,
    InvalidNamespaceError,
    Item,
    PutOp,
    SearchItem,
    SearchOp,
)

from memkit.db import migrate as migrations
from memkit.effects import PutIf, StoreBatch, arun, run
from memkit.errors import ConfigError, MigrationError, StoreError, VersionConflict
from memkit.store import SemanticStore, VersionedItem, VersionedSearchItem

FACTS = ("users", "ann", "facts")
SHORT = 0.2 / 60  # minutes
OVER = 0.3  # seconds

Batch = Callable[[Sequence[Any]], list[Any]]


@pytest.fixture(params=["sync", "async"])
def batch(store: SemanticStore, request: pytest.FixtureRequest) -> Batch:
    """`store.batch` or `store.abatch`, to be called alike."""
    if request.param == "sync":
        return store.batch
    return lambda ops: asyncio.run(store.abatch(ops))


def put_if(key: str, version: int, value: dict[str, Any] | None, **how: Any) -> PutIf:
    return PutIf(PutOp(FACTS, key, value, **how), version)


def version(store: SemanticStore, key: str = "k") -> int | None:
    item = store.get(FACTS, key, refresh_ttl=False)
    if item is None:
        return None
    assert isinstance(item, VersionedItem)
    return item.version


def value(store: SemanticStore, key: str = "k") -> Any:
    item = store.get(FACTS, key, refresh_ttl=False)
    return item and item.value


# What a version is


def test_every_put_raises_the_version_by_one(store: SemanticStore, batch: Batch) -> None:
    for n in range(1, 4):
        store.put(FACTS, "k", {"n": n})
        assert version(store) == n
    batch([put_if("k", 3, {"n": 4}), PutOp(FACTS, "other", {})])
    assert (version(store), version(store, "other")) == (4, 1)
    store.delete(FACTS, "k")
    assert version(store) is None
    batch([put_if("k", 0, {"n": 1})])
    assert version(store) == 5  # goes on while its history is kept


def test_of_several_puts_in_a_batch_one_counts(store: SemanticStore) -> None:
    store.batch([PutOp(FACTS, "k", {"n": n}) for n in range(3)])
    assert version(store) == 1


def test_reads_do_not_raise_it(store: SemanticStore) -> None:
    store.put(FACTS, "k", {"text": "tea"}, ttl=5)
    for _ in range(2):
        store.get(FACTS, "k")
        store.search(FACTS, query="tea")
    assert version(store) == 1


def test_every_read_gives_the_version(store: SemanticStore, batch: Batch) -> None:
    store.put(FACTS, "k", {"text": "green tea"})
    store.put(FACTS, "k", {"text": "black tea"})
    found = batch([GetOp(FACTS, "k"), SearchOp(FACTS), SearchOp(FACTS, query="tea")])
    items = [found[0], *found[1], *found[2]]
    modes: list[Any] = ["hybrid", "vector", "text"]
    for mode in modes:
        items += store.search(FACTS, query="tea", mode=mode)
        items += asyncio.run(store.asearch(FACTS, query="tea", mode=mode))
    items.append(asyncio.run(store.aget(FACTS, "k")))
    assert [item.version for item in items] == [2] * 10
    assert {item.value["text"] for item in items} == {"black tea"}
    assert [item.score is None for item in items[1:9]] == [True] + [False] * 7


def test_items_are_langgraphs_in_all_else(store: SemanticStore) -> None:
    store.put(FACTS, "k", {"text": "tea"})
    item, (hit,) = store.get(FACTS, "k"), store.search(FACTS, query="tea")
    assert isinstance(item, VersionedItem)
    assert isinstance(hit, VersionedSearchItem)
    fields = {"value", "key", "namespace", "created_at", "updated_at"}
    plain = Item(**{name: getattr(item, name) for name in fields})
    scored = SearchItem(**{name: getattr(hit, name) for name in (*fields, "score")})
    assert item == plain
    assert plain == item
    assert hit == scored
    assert (hash(item), item.dict(), repr(item)) == (hash(plain), plain.dict(), repr(plain))
    assert (hash(hit), hit.dict(), repr(hit)) == (hash(scored), scored.dict(), repr(scored))
    copies: list[Callable[[Any], Any]] = [
        copy.copy,
        copy.deepcopy,
        lambda original: pickle.loads(pickle.dumps(original)),  # noqa: S301 - written just now
    ]
    for copied in (make(item) for make in copies):
        assert (type(copied), copied, copied.version) == (VersionedItem, item, 1)
    for copied in (make(hit) for make in copies):
        assert (type(copied), copied, copied.version) == (VersionedSearchItem, hit, 1)
        assert copied.score == hit.score


def test_an_item_in_a_checkpoint_stays_readable_in_strict_mode(store: SemanticStore) -> None:
    store.put(FACTS, "k", {"text": "tea"})
    item = store.get(FACTS, "k")
    strict = JsonPlusSerializer(allowed_msgpack_modules=None)
    restored = strict.loads_typed(strict.dumps_typed({"item": item}))["item"]
    assert type(restored) is Item
    assert restored == item


# What conflicts


def test_an_item_that_moved_on(store: SemanticStore, batch: Batch) -> None:
    store.put(FACTS, "k", {"n": 1})
    store.put(FACTS, "k", {"n": 2})
    with pytest.raises(VersionConflict) as caught:
        batch([put_if("k", 1, {"n": 3})])
    said = str(caught.value)
    assert type(caught.value) is VersionConflict
    assert caught.value.__cause__ is None
    assert "key 'k' in ('users', 'ann', 'facts') has version 2, but version 1 was" in said
    assert "Read again" in said
    assert (value(store), version(store)) == ({"n": 2}, 2)


@pytest.mark.parametrize("wanted", [1, 2, 2**62])
def test_an_item_that_is_not_there(store: SemanticStore, batch: Batch, wanted: int) -> None:
    with pytest.raises(VersionConflict, match=f"does not exist, but version {wanted} was"):
        batch([put_if("k", wanted, {"n": 1})])
    assert store.search(FACTS) == []


def test_an_item_that_should_not_be_there(store: SemanticStore, batch: Batch) -> None:
    batch([put_if("k", 0, {"n": 1})])
    with pytest.raises(VersionConflict, match=r"has version 1, but no such item \(if_version=0\)"):
        batch([put_if("k", 0, {"n": 2})])
    assert (value(store), version(store)) == ({"n": 1}, 1)


def test_a_delete_asks_for_the_version_too(store: SemanticStore, batch: Batch) -> None:
    store.put(FACTS, "k", {"text": "tea"})
    store.put(FACTS, "k", {"text": "tea"})
    with pytest.raises(VersionConflict, match="has version 2, but version 1"):
        batch([put_if("k", 1, None)])
    assert version(store) == 2
    batch([put_if("k", 2, None)])
    assert version(store) is None
    assert store.search(FACTS, query="tea", mode="text") == []
    with pytest.raises(VersionConflict, match="does not exist"):
        batch([put_if("k", 2, None)])


def test_a_put_or_delete_in_between_is_noticed(store: SemanticStore, batch: Batch) -> None:
    changes: list[Callable[[], None]] = [
        lambda: store.put(FACTS, "k", {"n": "in between"}),
        lambda: store.delete(FACTS, "k"),
    ]
    for change in changes:
        store.put(FACTS, "k", {"n": "before"})
        seen = version(store)
        assert seen
        change()
        after = value(store)
        with pytest.raises(VersionConflict):
            batch([put_if("k", seen, {"n": "late"})])
        assert value(store) == after


def test_an_expired_item_is_none(store: SemanticStore, batch: Batch, dsn: str) -> None:
    for key in ("put", "deleted", "anew"):
        store.put(FACTS, key, {"text": "old"}, ttl=SHORT)
    time.sleep(OVER)
    for op in (put_if("put", 1, {"text": "late"}), put_if("deleted", 1, None)):
        with pytest.raises(VersionConflict, match="does not exist, but version 1"):
            batch([op])
    batch([put_if("anew", 0, {"text": "new"})])
    item = store.get(FACTS, "anew")
    assert item is not None
    assert item.value == {"text": "new"}
    assert item.created_at == item.updated_at
    with psycopg.connect(dsn) as connection:
        lives = b"SELECT ttl_minutes, expires_at FROM memkit_items WHERE key = 'anew'"
        assert connection.execute(lives).fetchall() == [(None, None)]
    # Who read the expired item does not take the new one for it.
    with pytest.raises(VersionConflict):
        batch([put_if("anew", 1, {"text": "late"})])
    with pytest.raises(VersionConflict, match="no such item"):
        batch([put_if("anew", 0, {"text": "late"})])


def test_a_plain_put_of_an_expired_item_raises_its_version(store: SemanticStore) -> None:
    store.put(FACTS, "k", {"n": 1}, ttl=SHORT)
    time.sleep(OVER)
    store.put(FACTS, "k", {"n": 2})
    with pytest.raises(VersionConflict):
        store.put(FACTS, "k", {"n": 3}, if_version=1)
    assert value(store) == {"n": 2}


def test_a_put_sets_all_that_a_plain_put_sets(store: SemanticStore, dsn: str) -> None:
    rows = []
    for key, versions in (("plain", None), ("asked", (0, 1, 2))):
        puts = [({"text": "tea"}, 5.0), ({"text": "cake"}, None), ({"text": "a\x00b"}, 7.0)]
        for n, (content, ttl) in enumerate(puts):
            store.put(FACTS, key, content, ttl=ttl, if_version=versions and versions[n])
            time.sleep(0.01)
        with psycopg.connect(dsn) as connection:
            rows += connection.execute(
                b"SELECT value, ttl_minutes, version, created_at < updated_at,"
                b" round(extract(epoch FROM expires_at - updated_at)),"
                b" (SELECT array_agg((p.path, p.text, p.embedding::text)) FROM memkit_passages p"
                b"  WHERE p.key = i.key) FROM memkit_items i WHERE key = %s",
                (key,),
            ).fetchall()
    assert rows[0] == rows[1]
    assert rows[0][1:5] == (7.0, 3, True, 420)


# All or nothing


@pytest.mark.parametrize("wrong", ["a", "b", "absent", "gone"])
def test_one_conflict_rolls_the_whole_batch_back(
    store: SemanticStore, batch: Batch, wrong: str
) -> None:
    store.batch([PutOp(FACTS, key, {"text": "old"}) for key in ("a", "b", "gone", "dropped")])
    store.put(("users", "bob", "facts"), "k", {"text": "old"})
    right = {"a": 1, "b": 1, "absent": 0, "gone": 1}
    ops: list[Any] = [
        put_if(key, right[key] + (key == wrong), {"text": "new"}) for key in ("a", "b", "absent")
    ]
    ops += [
        PutIf(PutOp(("users", "bob", "facts"), "k", {"text": "new"}), 1),
        put_if("gone", right["gone"] + (wrong == "gone"), None),
        PutOp(FACTS, "plain", {"text": "new"}),
        PutOp(FACTS, "dropped", None),
    ]
    with pytest.raises(VersionConflict, match=f"key '{wrong}'"):
        batch(ops)
    found = {(item.namespace[1], item.key): item.value for item in store.search(("users",))}
    old = {("ann", key) for key in ("a", "b", "gone", "dropped")} | {("bob", "k")}
    assert found == {address: {"text": "old"} for address in old}
    assert store.search(("users",), query="new", mode="text") == []


def test_a_batch_of_many_kinds_is_written_whole(store: SemanticStore, batch: Batch) -> None:
    store.batch([PutOp(FACTS, key, {"text": "old"}) for key in ("a", "b", "gone", "dropped")])
    results = batch(
        [
            put_if("a", 1, {"text": "new"}),
            GetOp(FACTS, "a"),
            put_if("b", 1, {"text": "new"}, index=False),
            put_if("absent", 0, {"text": "new"}),
            put_if("gone", 1, None),
            PutIf(PutOp(("users", "bob", "facts"), "k", {"text": "new"}), 0),
            PutOp(FACTS, "plain", {"text": "new"}),
            PutOp(FACTS, "dropped", None),
            SearchOp(FACTS, query="new"),
        ]
    )
    assert [type(result).__name__ for result in results].count("NoneType") == 7
    assert results[1].value == {"text": "old"}  # reads see the state before
    found = {item.key: getattr(item, "version", 0) for item in store.search(("users",))}
    assert found == {"a": 2, "b": 2, "absent": 1, "k": 1, "plain": 1}
    by_words = store.search(("users",), query="new", mode="text")
    assert {item.key for item in by_words} == {"a", "absent", "k", "plain"}


def test_a_conflict_counts_the_others(store: SemanticStore, batch: Batch) -> None:
    with pytest.raises(VersionConflict, match=r"key 'a' .*\(and 2 more of the batch\)"):
        batch([put_if(key, 7, {}) for key in ("c", "b", "a")])


@pytest.mark.parametrize(
    "ops",
    [
        [put_if("k", 1, {"n": 2}), put_if("k", 1, {"n": 3})],
        [put_if("k", 1, {"n": 2}), PutOp(FACTS, "k", {"n": 3})],
        [PutOp(FACTS, "k", {"n": 3}), put_if("k", 1, {"n": 2})],
        [PutOp(FACTS, "k", None), put_if("k", 0, {"n": 2})],
    ],
)
def test_a_key_is_put_once_beside_its_version(
    store: SemanticStore, batch: Batch, ops: list[Any]
) -> None:
    store.put(FACTS, "k", {"n": 1})
    with pytest.raises(ConfigError, match=r"puts key 'k' in .* more than once, with if_version"):
        batch(ops)
    assert value(store) == {"n": 1}


@pytest.mark.parametrize(
    ("op", "error", "says"),
    [
        (put_if("k", -1, {}), ConfigError, "not -1"),
        (put_if("k", True, {}), ConfigError, "not True"),
        (put_if("k", "1", {}), ConfigError, "not '1'"),  # type: ignore[arg-type]
        (put_if("k", 0, None), ConfigError, "none to delete"),
        (put_if("k", 1, {"n": float("nan")}), StoreError, "JSON has not"),
        (PutIf(PutOp(("users", "a.b"), "k", {}), 0), InvalidNamespaceError, "a.b"),
        (PutIf(GetOp(FACTS, "k"), 0), ConfigError, "PutIf holds a PutOp, not GetOp"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_condition_is_one_clear_error(
    store: SemanticStore, batch: Batch, op: Any, error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        batch([PutOp(FACTS, "good", {}), op])
    assert store.search(FACTS) == []


# put and aput


def put_async(store: SemanticStore, *args: Any, **how: Any) -> None:
    asyncio.run(store.aput(*args, **how))


@pytest.mark.parametrize("put", [SemanticStore.put, put_async])
def test_put_takes_a_version(dsn: str, put: Callable[..., None]) -> None:
    ttl: Any = {"default_ttl": 5}
    with SemanticStore.open(dsn, search_mode="text", ttl=ttl) as store:
        put(store, FACTS, "k", {"text": "tea"}, if_version=0)
        put(store, FACTS, "k", {"text": "cake"}, ["other"], ttl=None, if_version=1)
        put(store, FACTS, "k2", {"text": "tea"}, if_version=None)
        with pytest.raises(VersionConflict, match="has version 2, but version 1"):
            put(store, FACTS, "k", {"text": "pie"}, if_version=1)
        assert store.search(FACTS, query="cake") == []
        assert value(store) == {"text": "cake"}
        with psycopg.connect(dsn) as connection:
            lives = b"SELECT ttl_minutes FROM memkit_items ORDER BY key"
            assert connection.execute(lives).fetchall() == [(None,), (5.0,)]
            put(store, FACTS, "k2", {"text": "tea"}, if_version=1)
            assert connection.execute(lives).fetchall() == [(None,), (5.0,)]
        put(store, FACTS, "k", None, if_version=2)
        assert version(store) is None
        wrong: list[Any] = [(), ("langgraph", "x"), ("users", "a.b"), ("users", "")]
        for namespace in wrong:
            with pytest.raises(InvalidNamespaceError):
                put(store, namespace, "k", {}, if_version=0)


def test_a_body_may_catch_the_conflict(store: SemanticStore) -> None:
    assert store.supports_versions

    def body() -> Any:
        try:
            yield StoreBatch(store, [put_if("k", 3, {})])
        except VersionConflict:
            return "conflict"

    assert run(body()) == "conflict"
    assert asyncio.run(arun(body())) == "conflict"


# Many writers


@contextmanager
def uncommitted(dsn: str, statement: str) -> Iterator[Callable[[], None]]:
    """Run a statement in a transaction that stays open until the yielded function is called."""
    with psycopg.connect(dsn) as connection:
        connection.execute(statement.encode())
        yield connection.commit


INSERTED = (
    "INSERT INTO memkit_items (tenant, namespace, key, value, created_at, updated_at)"
    " VALUES ('users.ann', 'users.ann.facts', 'k', '{\"n\": \"other\"}', now(), now())"
)
RAISED = 'UPDATE memkit_items SET value = \'{"n": "other"}\', version = version + 1'


@pytest.mark.parametrize(
    ("other", "op", "left"),
    [
        (RAISED, put_if("k", 1, {"n": "mine"}), {"n": "other"}),
        (RAISED, put_if("k", 1, None), {"n": "other"}),
        ("DELETE FROM memkit_items", put_if("k", 1, {"n": "mine"}), None),
        ("DELETE FROM memkit_items", put_if("k", 1, None), None),
        (INSERTED, put_if("k", 0, {"n": "mine"}), {"n": "other"}),
    ],
)
def test_a_writer_that_waited_checks_what_the_other_left(
    store: SemanticStore, dsn: str, other: str, op: PutIf, left: Any
) -> None:
    if op.if_version:
        store.put(FACTS, "k", {"n": "before"})
    with ThreadPoolExecutor(1) as thread, uncommitted(dsn, other) as commit:
        waiting = thread.submit(store.batch, [op])
        with psycopg.connect(dsn, autocommit=True) as watcher:
            deadline = time.monotonic() + 10
            locked = b"SELECT count(*) FROM pg_locks WHERE NOT granted"
            while watcher.execute(locked).fetchall() == [(0,)] and time.monotonic() < deadline:
                time.sleep(0.01)
        assert not waiting.done()
        commit()
        with pytest.raises(VersionConflict):
            waiting.result(timeout=10)
    assert value(store) == left


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` on threads that start together; return results, or the conflicts they met."""
    start = threading.Barrier(count)

    def begin(n: int) -> Any:
        start.wait(timeout=30)
        try:
            return work(n)
        except VersionConflict as conflict:
            return conflict

    with ThreadPoolExecutor(count) as threads:
        tasks: list[Future[Any]] = [threads.submit(begin, n) for n in range(count)]
        return [task.result(timeout=60) for task in tasks]


@pytest.mark.parametrize("extra", [0, 2])
def test_of_many_with_one_version_one_wins(store: SemanticStore, extra: int) -> None:
    for turn in range(10):
        present = turn % 2

        def write(n: int, key: str = f"k{turn}", present: int = present) -> int:
            more = [PutOp(FACTS, f"{key}-{each}", {"n": n}) for each in range(extra)]
            store.batch([put_if(key, present, {"n": n}), *more])
            return n

        if present:
            store.put(FACTS, f"k{turn}", {"n": "before"})
        results = at_once(6, write)
        (winner,) = [result for result in results if isinstance(result, int)]
        for key in (f"k{turn}", *(f"k{turn}-{each}" for each in range(extra))):
            assert value(store, key) == {"n": winner}
        assert version(store, f"k{turn}") == present + 1


@pytest.mark.parametrize("beside", [0, 1])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_no_increment_is_lost(store: SemanticStore, kind: str, beside: int) -> None:
    workers, increments = 6, 15

    def increment(worker: int, item: Any) -> list[Any]:
        counted = item.value["n"] if item else 0
        op = put_if("k", item.version if item else 0, {"n": counted + 1})
        return [op, *[PutOp(FACTS, f"of {worker}", {"n": counted}, index=False)] * beside]

    def count(worker: int) -> None:
        for _ in range(increments):
            while True:
                (item,) = store.batch([GetOp(FACTS, "k")])
                try:
                    store.batch(increment(worker, item))
                except VersionConflict:
                    continue
                break

    async def acount(worker: int) -> None:
        for _ in range(increments):
            while True:
                (item,) = await store.abatch([GetOp(FACTS, "k")])
                try:
                    await store.abatch(increment(worker, item))
                except VersionConflict:
                    continue
                break

    async def all_at_once() -> None:
        await asyncio.gather(*map(acount, range(workers)))

    if kind == "sync":
        assert at_once(workers, count) == [None] * workers
    else:
        asyncio.run(all_at_once())
    assert value(store) == {"n": workers * increments}
    assert version(store) == workers * increments


def test_no_plain_put_is_overwritten_unseen(store: SemanticStore) -> None:
    """Every value put, plainly or not, is seen by the conditional put that follows it."""
    store.put(FACTS, "k", {"n": 0, "after": 0})
    plain, asked, turns = 3, 3, 12

    def write(worker: int) -> list[int]:
        replaced = []
        for turn in range(turns):
            if worker < plain:
                store.put(FACTS, "k", {"by": worker, "turn": turn}, index=False)
                continue
            while True:
                item = store.get(FACTS, "k")
                assert isinstance(item, VersionedItem)
                try:
                    store.put(FACTS, "k", {"by": worker}, if_version=item.version)
                except VersionConflict:
                    continue
                replaced.append(item.version)
                break
        return replaced

    results = at_once(plain + asked, write)
    replaced = [one for result in results for one in result]
    assert len(set(replaced)) == len(replaced) == asked * turns  # each version by one writer
    assert version(store) == 1 + (plain + asked) * turns


def test_conflicts_are_not_tried_again(
    store: SemanticStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    execute = SemanticStore._execute

    def counted(self: SemanticStore, *args: Any) -> Any:
        calls.append(args)
        return execute(self, *args)

    monkeypatch.setattr(SemanticStore, "_execute", counted)
    with pytest.raises(VersionConflict):
        store.put(FACTS, "k", {}, if_version=1)
    assert len(calls) == 1


@pytest.mark.parametrize("level", [r"repeatable\ read", "serializable"])
def test_a_stricter_isolation_changes_nothing(dsn: str, level: str) -> None:
    options: Any = {"kwargs": {"options": f"-c default_transaction_isolation={level}"}}
    with SemanticStore.open(dsn, search_mode="text", pool_config=options) as store:
        store.put(FACTS, "k", {"n": 0})
        results = at_once(3, lambda n: store.put(FACTS, "k", {"n": n}, if_version=1))
        assert results.count(None) == 1
        assert version(store) == 2


# From the tables of before


@pytest.fixture
def old_dsn(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the first migration alone, and rows in it."""
    file = resources.files("memkit.db").joinpath("migrations", "0001_items.sql")
    first = migrations.Migration(1, "items", file.read_text(encoding="utf-8"))
    with psycopg.connect(empty_dsn, autocommit=True) as connection, monkeypatch.context() as patch:
        patch.setattr(migrations, "migrations", lambda: [first])
        assert migrations.migrate(connection) == [1]
        connection.execute(INSERTED.encode())
        connection.execute(
            b"INSERT INTO memkit_passages (tenant, namespace, key, path, text)"
            b" VALUES ('users.ann', 'users.ann.facts', 'k', 'text', 'green tea')"
        )
    return empty_dsn


def test_older_tables_ask_for_setup_and_keep_their_items(old_dsn: str) -> None:
    with SemanticStore.open(old_dsn, search_mode="text") as store:
        with pytest.raises(MigrationError, match=r"applied: 0002_versions, .*\); run setup\(\)"):
            store.get(FACTS, "k")
        with pytest.raises(MigrationError, match="0002_versions"):
            asyncio.run(store.aput(FACTS, "k", {}))
        store.setup()
        store.setup()
        assert (value(store), version(store)) == ({"n": "other"}, 1)
        assert [item.key for item in store.search(FACTS, query="tea")] == ["k"]
        store.put(FACTS, "k", {"n": 2}, if_version=1)
        assert (value(store), version(store)) == ({"n": 2}, 2)


def test_upgraded_tables_are_those_of_a_fresh_database(old_dsn: str, dsn: str) -> None:
    with SemanticStore.open(old_dsn, search_mode="text") as store:
        store.setup()
    columns = (
        b"SELECT table_name, ordinal_position, column_name, data_type, is_nullable, column_default"
        b" FROM information_schema.columns WHERE table_name LIKE 'memkit%' ORDER BY 1, 2"
    )
    found = []
    for each in (old_dsn, dsn):
        with psycopg.connect(each) as connection:
            found.append(connection.execute(columns).fetchall())
    assert found[0] == found[1]
    assert ("memkit_items", 9, "version", "bigint", "NO", "1") in found[0]
