"""Superseded versions: kept as the policy says, once each, and read as of a moment."""

import asyncio
import itertools
import pickle
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from langgraph.store.base import Item, PutOp

from memkit.effects import PutIf
from memkit.errors import ConfigError, VersionConflict
from memkit.store import Erased, SemanticStore
from memkit.store import versions as store_versions
from memkit.store.plan import Address, groups
from tests.fakes import HashEmbeddings

FACTS = ("users", "ann", "facts")
BOB = ("users", "bob", "facts")

Batch = Callable[[Sequence[Any]], list[Any]]
Read = Callable[..., Any]


@pytest.fixture(params=["sync", "async"])
def batch(store: SemanticStore, request: pytest.FixtureRequest) -> Batch:
    if request.param == "sync":
        return store.batch
    return lambda ops: asyncio.run(store.abatch(ops))


@pytest.fixture(params=["sync", "async"])
def read(store: SemanticStore, request: pytest.FixtureRequest) -> Read:
    """Calls a method of the store by name, or its async twin."""
    if request.param == "sync":
        return lambda name, *args, **more: getattr(store, name)(*args, **more)
    return lambda name, *args, **more: asyncio.run(getattr(store, "a" + name)(*args, **more))


def execute(dsn: str, statement: str, *params: Any) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode(), params or None)
        return cursor.fetchall() if cursor.description else []


def moment(dsn: str) -> datetime:
    ((now,),) = execute(dsn, "SELECT clock_timestamp()")
    assert isinstance(now, datetime)
    return now


def kept(store: SemanticStore, key: str = "k") -> list[tuple[int, Any]]:
    return [(item.version, item.value.get("n")) for item in store.history(FACTS, key)]


def age(dsn: str, days: float) -> None:
    execute(
        dsn,
        "UPDATE memkit_history SET ended_at = ended_at - make_interval(secs => %s * 86400),"
        " updated_at = updated_at - make_interval(secs => %s * 86400)",
        days,
        days,
    )


def rows(dsn: str) -> int:
    ((count,),) = execute(dsn, "SELECT count(*) FROM memkit_history")
    assert isinstance(count, int)
    return count


# What is kept


def test_history_is_newest_first_and_holds_the_current_one(
    store: SemanticStore, read: Read
) -> None:
    for n in range(1, 4):
        store.put(FACTS, "k", {"n": n})
    third, second, first = read("history", FACTS, "k")
    assert [(i.version, i.value) for i in (third, second, first)] == [
        (3, {"n": 3}),
        (2, {"n": 2}),
        (1, {"n": 1}),
    ]
    assert third.ended_at is None
    assert second.ended_at == third.updated_at
    assert first.ended_at == second.updated_at
    assert first.created_at == first.updated_at == third.created_at
    assert (first.namespace, first.key) == (FACTS, "k")
    assert [item.version for item in read("history", FACTS, "k", limit=2)] == [3, 2]
    assert read("history", FACTS, "k", limit=0) == []
    assert read("history", FACTS, "nothing") == []
    copy = pickle.loads(pickle.dumps(second))  # noqa: S301 - our own
    assert (copy, copy.version, copy.ended_at) == (second, 2, second.ended_at)
    assert isinstance(second, Item)


def test_every_way_of_writing_keeps_what_it_replaces(store: SemanticStore, batch: Batch) -> None:
    batch([PutOp(FACTS, "k", {"n": 1}), PutOp(BOB, "k", {"n": 1}), PutOp(FACTS, "l", {"n": 1})])
    batch([PutOp(FACTS, "k", {"n": 2}), PutOp(BOB, "k", {"n": 2})])
    batch([PutIf(PutOp(FACTS, "k", {"n": 3}), 2)])
    batch([PutIf(PutOp(FACTS, "k", None), 3), PutOp(FACTS, "l", None)])
    assert kept(store) == [(3, 3), (2, 2), (1, 1)]
    assert kept(store, "l") == [(1, 1)]
    assert [item.version for item in store.history(BOB, "k")] == [2, 1]
    assert all(item.ended_at is not None for item in store.history(FACTS, "k"))


def test_what_is_deleted_and_put_again_goes_on_counting(store: SemanticStore, batch: Batch) -> None:
    batch([PutOp(FACTS, "k", {"n": 1})])
    batch([PutOp(FACTS, "k", None)])
    batch([PutOp(FACTS, "k", {"n": 2}), PutOp(FACTS, "new", {"n": 1})])
    batch([PutIf(PutOp(FACTS, "k", None), 2)])
    batch([PutIf(PutOp(FACTS, "k", {"n": 3}), 0)])
    batch([PutIf(PutOp(FACTS, "k", {"n": 4}), 3)])
    assert kept(store) == [(4, 4), (3, 3), (2, 2), (1, 1)]
    assert kept(store, "new") == [(1, 1)]
    item = store.get(FACTS, "k")
    assert item is not None
    assert item.created_at == store.history(FACTS, "k")[1].created_at > item_ended(store, 2)


def item_ended(store: SemanticStore, version: int) -> datetime:
    (ended,) = [i.ended_at for i in store.history(FACTS, "k") if i.version == version]
    assert ended is not None
    return ended


def test_what_is_refused_keeps_nothing(store: SemanticStore, batch: Batch, dsn: str) -> None:
    store.put(FACTS, "k", {"n": 1})
    store.put(FACTS, "l", {"n": 1})
    with pytest.raises(VersionConflict):
        batch([PutIf(PutOp(FACTS, "k", {"n": 2}), 7), PutOp(FACTS, "l", {"n": 2})])
    batch([PutOp(FACTS, "missing", None)])
    assert rows(dsn) == 0


# As of a moment


def test_reads_as_of_a_moment(store: SemanticStore, read: Read, dsn: str) -> None:
    before = moment(dsn)
    store.put(FACTS, "k", {"n": 1, "kind": "a"})
    store.put(FACTS, "l", {"n": 9, "kind": "b"})
    one = moment(dsn)
    store.put(FACTS, "k", {"n": 2, "kind": "b"})
    store.put(BOB, "k", {"n": 3, "kind": "b"})
    two = moment(dsn)
    store.delete(FACTS, "k")
    gone = moment(dsn)

    def found(as_of: datetime, prefix: tuple[str, ...] = ("users",), **more: Any) -> list[Any]:
        hits = read("search", prefix, as_of=as_of, **more)
        return [(hit.namespace[1], hit.key, hit.value["n"], hit.version) for hit in hits]

    assert found(before) == []
    assert found(one) == [("ann", "l", 9, 1), ("ann", "k", 1, 1)]
    assert found(two) == [("bob", "k", 3, 1), ("ann", "k", 2, 2), ("ann", "l", 9, 1)]
    assert found(gone) == [("bob", "k", 3, 1), ("ann", "l", 9, 1)]
    assert found(gone + timedelta(days=1)) == found(gone)
    assert found(two, FACTS) == [("ann", "k", 2, 2), ("ann", "l", 9, 1)]
    assert found(two, limit=1, offset=1) == [("ann", "k", 2, 2)]
    assert found(one, filter={"kind": "a"}) == [("ann", "k", 1, 1)]
    assert found(two, filter={"kind": "a"}) == []
    assert found(two, filter={"n": {"$lt": 3}}) == [("ann", "k", 2, 2)]
    assert found(two, ()) == found(two)
    assert read("search", ("users",), as_of=two)[0].score is None

    for as_of, wanted in ((before, None), (one, 1), (two, 2), (gone, None)):
        item = read("get", FACTS, "k", as_of=as_of)
        assert (item and item.value["n"]) == wanted
    exactly = item_ended(store, 1)  # the moment of a put belongs to what it put
    assert read("get", FACTS, "k", as_of=exactly).version == 2
    elsewhere = exactly.astimezone(UTC) - timedelta(microseconds=1)
    assert read("get", FACTS, "k", as_of=elsewhere).version == 1


def test_a_moment_that_makes_no_sense_is_one_clear_error(
    store: SemanticStore, read: Read, dsn: str, fresh_dsn: Any
) -> None:
    now = moment(dsn)
    naive: Any
    for naive in (now.replace(tzinfo=None), "2026-11-23T00:00:00Z", 5):
        with pytest.raises(ConfigError, match="with a time zone"):
            read("get", FACTS, "k", as_of=naive)
        with pytest.raises(ConfigError, match="with a time zone"):
            read("search", FACTS, as_of=naive)
    with pytest.raises(ConfigError, match="no vectors or words are kept of old versions"):
        read("search", FACTS, query="tea", as_of=now)
    with pytest.raises(ConfigError, match=r"old versions are kept for 30 days"):
        read("get", FACTS, "k", as_of=now - timedelta(days=31))
    with pytest.raises(ConfigError, match="limit"):
        read("search", FACTS, limit=-1, as_of=now)
    with pytest.raises(ConfigError, match="limit"):
        read("history", FACTS, "k", limit=-1)
    with (
        SemanticStore.open(dsn, search_mode="text", history=None) as none,
        pytest.raises(ConfigError, match="keeps none"),
    ):
        none.get(FACTS, "k", as_of=now)


# The policy


@pytest.mark.parametrize(
    ("policy", "days"),
    [
        ("30d", 30),
        ("P30D", 30),
        (timedelta(days=30), 30),
        ("2w", 14),
        (True, None),
        ("1000y", None),
    ],
)
def test_versions_are_kept_for_so_long(dsn: str, policy: Any, days: float | None) -> None:
    with SemanticStore.open(dsn, search_mode="text", history=policy) as store:
        store.put(FACTS, "k", {"n": 1})
        store.put(FACTS, "k", {"n": 2})
        store.put(BOB, "k", {"n": 1})
        store.delete(BOB, "k")
        age(dsn, (days or 10_000) - 0.01)
        assert store.sweep_ttl() == 0
        assert kept(store) == [(2, 2), (1, 1)]
        age(dsn, 0.02)
        was = store.history(FACTS, "k")
        assert [item.version for item in was] == ([2] if days else [2, 1])
        store.put(FACTS, "k", {"n": 3})  # counts on, swept or not
        assert asyncio.run(store.asweep_ttl()) == 0  # no item has expired
        assert kept(store) == ([(3, 3), (2, 2)] if days else [(3, 3), (2, 2), (1, 1)])
        assert rows(dsn) == (1 if days else 3)
        store.put(BOB, "k", {"n": 2})
        assert store.history(BOB, "k")[0].version == (1 if days else 2)


def test_a_version_just_swept_is_hidden_before(dsn: str) -> None:
    with SemanticStore.open(dsn, search_mode="text", history=timedelta(seconds=1)) as store:
        store.put(FACTS, "k", {"n": 1})
        then = moment(dsn)
        store.put(FACTS, "k", {"n": 2})
        item = store.get(FACTS, "k", as_of=then)
        assert item is not None
        assert item.value == {"n": 1}
        time.sleep(1.1)
        assert kept(store) == [(2, 2)]
        with pytest.raises(ConfigError, match="is before"):
            store.get(FACTS, "k", as_of=then)


@pytest.mark.parametrize("policy", [False, None])
def test_no_history_is_no_history(dsn: str, policy: Any) -> None:
    with SemanticStore.from_conn_string(dsn, history=policy) as store:
        store.put(FACTS, "k", {"n": 1})
        store.put(FACTS, "k", {"n": 2})
        store.put(FACTS, "k", {"n": 3}, if_version=2)
        assert kept(store) == [(3, 3)]
        store.delete(FACTS, "k")
        store.put(FACTS, "k", {"n": 4})
        assert kept(store) == [(1, 4)]
    assert rows(dsn) == 0


@pytest.mark.parametrize("policy", ["a while", "-3d", timedelta(0), 30])
def test_a_policy_that_makes_no_sense_is_refused(dsn: str, policy: Any) -> None:
    with pytest.raises(ConfigError, match="duration"):
        SemanticStore.open(dsn, search_mode="text", history=policy)


def test_a_store_without_history_beside_one_with_it_stops_nobody(dsn: str) -> None:
    with (
        SemanticStore.open(dsn, search_mode="text") as store,
        SemanticStore.open(dsn, search_mode="text", history=False) as forgetful,
    ):
        store.put(FACTS, "k", {"n": 1})
        store.put(FACTS, "k", {"n": 2})
        forgetful.delete(FACTS, "k")
        forgetful.put(FACTS, "k", {"n": 3})
        store.put(FACTS, "k", {"n": 4})
        assert kept(store) == [(2, 4), (1, 3)]


def test_the_sweep_goes_in_small_steps_and_leaves_the_rest(store: SemanticStore, dsn: str) -> None:
    ops = [PutOp((f"t{n % 3}", "x"), f"k{n}", {"n": n}) for n in range(2500)]
    store.batch(ops)
    store.batch(ops)
    age(dsn, 31)
    store.batch(ops[:5])
    assert rows(dsn) == 2505
    assert store.sweep_ttl() == 0  # no item has expired
    assert rows(dsn) == 5


def test_the_sweeper_deletes_versions_without_any_time_to_live(
    store: SemanticStore, dsn: str
) -> None:
    store.put(FACTS, "k", {"n": 1})
    store.put(FACTS, "k", {"n": 2})
    age(dsn, 31)
    store.start_ttl_sweeper(0.05 / 60)
    deadline = time.monotonic() + 10
    while rows(dsn) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.stop_ttl_sweeper(5)
    assert rows(dsn) == 0


# Times to live


def test_what_expired_leaves_nothing(store: SemanticStore, batch: Batch, dsn: str) -> None:
    store.put(FACTS, "k", {"n": 1}, ttl=0.3 / 60)
    alive = moment(dsn)
    time.sleep(0.4)
    assert store.get(FACTS, "k", as_of=alive) is None
    batch([PutOp(FACTS, "k", {"n": 2})])
    assert kept(store) == [(2, 2)]
    assert store.get(FACTS, "k", as_of=alive) is None
    store.put(FACTS, "l", {"n": 1}, ttl=0.3 / 60)
    time.sleep(0.4)
    batch([PutOp(FACTS, "l", None)])
    assert rows(dsn) == 0


def test_a_version_with_a_time_to_live_is_kept_no_longer(store: SemanticStore, dsn: str) -> None:
    store.put(FACTS, "k", {"n": 1}, ttl=0.8 / 60)
    alive = moment(dsn)
    store.put(FACTS, "k", {"n": 2})
    assert kept(store) == [(2, 2), (1, 1)]
    item = store.get(FACTS, "k", as_of=alive)
    assert item is not None
    assert item.value == {"n": 1}
    time.sleep(0.9)
    assert kept(store) == [(2, 2)]
    assert store.get(FACTS, "k", as_of=alive) is None
    assert rows(dsn) == 1
    store.sweep_ttl()
    assert rows(dsn) == 0


# Many writers


def at_once(count: int, task: Callable[[int], Any]) -> list[Any]:
    barrier = threading.Barrier(count)

    def begin(n: int) -> Any:
        barrier.wait(timeout=20)
        return task(n)

    with ThreadPoolExecutor(count) as threads:
        return [
            each.result(timeout=120) for each in [threads.submit(begin, n) for n in range(count)]
        ]


def check_chain(store: SemanticStore, acknowledged: Sequence[Any], key: str = "k") -> None:
    """Assert that each value stands once, numbered from 1, and no moment has two of them."""
    found = store.history(FACTS, key)[::-1]
    assert sorted(item.value["n"] for item in found) == sorted(acknowledged)
    assert [item.version for item in found] == list(range(1, len(found) + 1))
    for item, following in itertools.pairwise(found):
        assert item.ended_at is not None
        assert item.updated_at <= item.ended_at <= following.updated_at


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("how", ["put", "put and delete", "if_version", "batches"])
def test_twenty_writers_lose_no_version(dsn: str, kind: str, how: str) -> None:
    writers, turns = 20, 6
    with SemanticStore.open(dsn, search_mode="text") as store:

        def call(name: str, *args: Any, **more: Any) -> Any:
            if kind == "sync":
                return getattr(store, name)(*args, **more)
            return asyncio.run(getattr(store, "a" + name)(*args, **more))

        def write(writer: int) -> list[int]:
            done = []
            for turn in range(turns):
                value = {"n": writer * turns + turn}
                if how == "if_version":
                    item = call("get", FACTS, "k")
                    try:
                        call("put", FACTS, "k", value, if_version=item.version if item else 0)
                    except VersionConflict:
                        continue
                elif how == "batches":
                    call("batch", [PutOp(FACTS, key, value) for key in ("l", "k", "a")])
                else:
                    call("put", FACTS, "k", value)
                done.append(value["n"])
                if how == "put and delete":
                    call("delete", FACTS, "k")
            return done

        acknowledged = [n for done in at_once(writers, write) for n in done]
        assert len(acknowledged) == writers * turns or how == "if_version"
        check_chain(store, acknowledged)
        if how == "batches":
            check_chain(store, acknowledged, "a")


@pytest.fixture
def rival(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose transaction stays open until it commits."""
    with psycopg.connect(dsn) as connection:
        yield connection


def waits(dsn: str) -> None:
    """Return once somebody waits for a lock."""
    for _ in range(200):
        ((count,),) = execute(dsn, "SELECT count(*) FROM pg_locks WHERE NOT granted")
        if count:
            return
        time.sleep(0.02)
    raise AssertionError("nobody waits")


_RIVAL_PUT = (
    b"INSERT INTO memkit_items (tenant, namespace, key, value, created_at, updated_at) VALUES"
    b" ('users.ann', 'users.ann.facts', 'k', '{\"n\": 1}', now(), now())"
)


def test_a_put_keeps_what_was_inserted_while_it_waited(
    store: SemanticStore, dsn: str, rival: psycopg.Connection[Any]
) -> None:
    rival.execute(_RIVAL_PUT)
    with ThreadPoolExecutor(1) as thread:
        put = thread.submit(store.put, FACTS, "k", {"n": 2})
        waits(dsn)
        rival.commit()
        put.result(timeout=20)
    check_chain(store, [1, 2])


def _one(rival: psycopg.Connection[Any], statement: str, **params: Any) -> None:
    """Run the statement of a put or delete of the key "k", but not its transaction."""
    [group] = groups([Address.of(FACTS, "k")], apart=False)
    rival.cursor().execute(*group.statement(statement, **params))


def test_a_put_counts_on_behind_a_delete_that_it_waited_for(
    store: SemanticStore, dsn: str, rival: psycopg.Connection[Any]
) -> None:
    store.put(FACTS, "k", {"n": 1})
    _one(rival, store_versions._DELETE)
    with ThreadPoolExecutor(1) as thread:
        put = thread.submit(store.put, FACTS, "k", {"n": 2})
        waits(dsn)
        rival.commit()
        put.result(timeout=20)
    check_chain(store, [1, 2])


def test_a_version_of_a_transaction_that_began_earlier_starts_no_sooner(
    store: SemanticStore, dsn: str, rival: psycopg.Connection[Any]
) -> None:
    store.put(FACTS, "k", {"n": 1})
    rival.execute("SELECT now()")  # its clock stands still from here
    store.put(FACTS, "k", {"n": 2})
    middle = moment(dsn)
    _one(rival, store_versions._PUT, values=['{"n": 3}'], ttls=[None])
    rival.commit()
    check_chain(store, [1, 2, 3])
    item = store.get(FACTS, "k", as_of=middle)
    assert item is not None
    assert item.value == {"n": 3}


@pytest.mark.parametrize("level", ["repeatable read", "serializable"])
def test_a_stricter_isolation_loses_nothing(dsn: str, level: str) -> None:
    config: Any = {
        "kwargs": {
            "options": f"-c default_transaction_isolation={level.replace(' ', chr(92) + ' ')}"
        }
    }
    with SemanticStore.open(dsn, search_mode="text", pool_config=config) as store:
        for n in range(4):
            store.put(FACTS, "k", {"n": n})
            if n % 2:
                store.delete(FACTS, "k")
        check_chain(store, range(4))


# The tables


def test_an_import_starts_an_items_history_anew(
    dsn: str, server: Any, fresh_dsn: Callable[[], AbstractContextManager[str]]
) -> None:
    from langgraph.store.postgres import PostgresStore

    from memkit.store.transfer import import_postgres_store

    source = server.create()
    with PostgresStore.from_conn_string(source) as old:
        old.setup()
        old.put(FACTS, "k", {"n": 10})
        old.put(FACTS, "l", {"n": 10})
    with SemanticStore.open(dsn, search_mode="text") as store:
        for key in ("k", "l", "other"):
            store.put(FACTS, key, {"n": 1})
            store.put(FACTS, key, {"n": 2})
        store.delete(FACTS, "l")
        import_postgres_store(source, store, overwrite=True)
        assert kept(store) == [(3, 10)]
        assert kept(store, "l") == [(1, 10)]
        assert kept(store, "other") == [(2, 2), (1, 1)]
        now = datetime.now(UTC) + timedelta(seconds=1)
        assert len(store.search(FACTS, as_of=now)) == 3
    server.drop(source)


def test_keeping_versions_costs_no_further_statement(
    store: SemanticStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as without history: a new item is numbered, an old one's passages are replaced."""
    counted: list[int] = []
    execute = psycopg.Cursor.execute

    def counting(self: Any, *args: Any, **more: Any) -> Any:
        counted[-1] += threading.current_thread() is threading.main_thread()  # the pool has others
        return execute(self, *args, **more)

    store.put(FACTS, "warm", {"n": 0})
    monkeypatch.setattr(psycopg.Cursor, "execute", counting)
    for op in (
        PutOp(FACTS, "k", {"text": "tea"}),
        PutOp(FACTS, "k", {"text": "car"}),
        PutOp(FACTS, "k", None),
    ):
        counted.append(0)
        store.batch([op])
    fresh, overwritten, deleted = counted
    # Which looks for no vectors, replaces no passages and indexes none.
    assert fresh == overwritten == deleted + 3


def test_vectors_of_old_versions_are_gone(dsn: str, embeddings: HashEmbeddings) -> None:
    with SemanticStore.open(dsn, embed=embeddings, dims=embeddings.dims) as store:
        store.put(FACTS, "k", {"text": "green tea"})
        store.put(FACTS, "k", {"text": "red car"})
        assert store.search(FACTS, query="green tea", mode="text") == []
        ((count,),) = execute(dsn, "SELECT count(*) FROM memkit_passages")
        assert count == 1


def test_what_is_erased_was_never_there(dsn: str, embeddings: HashEmbeddings) -> None:
    ann, annabel = ("users", "ann"), ("users", "annabel")
    with SemanticStore.open(dsn, embed=embeddings, dims=embeddings.dims) as store:
        for user in (ann, annabel):
            for n in range(2):
                store.put((*user, "facts"), "k", {"text": f"green tea {n}"})
                store.put((*user, "facts"), "gone", {"text": f"red car {n}"})
            store.put((*user, "turns", "old"), "t", {"text": "hello"}, ttl=0.001 / 60)
            store.delete((*user, "facts"), "gone")
        store.batch([PutOp((*ann, "many"), str(n), {"n": n}) for n in range(1500)])
        time.sleep(0.1)
        everything = Erased(items=1502, passages=2, versions=3)
        assert store.erase(ann, dry_run=True) == everything
        assert store.erase((*ann, "turns")) == Erased(items=1, passages=1)
        assert store.get((*ann, "facts"), "k") is not None
        assert asyncio.run(store.aerase(ann)) == Erased(items=1501, passages=1, versions=3)
        assert store.erase(ann) == Erased()
        assert store.history((*ann, "facts"), "gone") == []
        assert store.erase(annabel, dry_run=True) == Erased(items=2, passages=2, versions=3)
        for few in ((), ("users",)):
            with pytest.raises(ConfigError):
                store.erase(few)
    for table in ("items", "passages", "history"):
        found = execute(dsn, f"SELECT count(*) FROM memkit_{table} WHERE tenant = 'users.ann'")
        assert found == [(0,)]
