"""Moving a store to other embeddings: online, resumable, and never a ranking across two models."""

import itertools
import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from langgraph.store.base import PutOp
from pgvector.psycopg import register_vector
from psycopg.conninfo import make_conninfo

from memkit.cli import main
from memkit.errors import ConfigError, DimensionMismatch, StoreError
from memkit.store import SemanticStore, indexes, meta
from memkit.store import reembed as module
from memkit.store.reembed import Move, abandon, reembed
from tests.fakes import HashEmbeddings

FACTS = ("users", "ann", "facts")
OLD_DIMS, NEW_DIMS = 16, 24


class Named(HashEmbeddings):
    """Embeddings that name their model; of equal length they still differ."""

    def __init__(self, model: str, dims: int = NEW_DIMS) -> None:
        super().__init__(dims)
        self.model = model
        self.broken_at: int | None = None

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        if self.broken_at is not None and len(self.document_calls) >= self.broken_at:
            raise ConnectionError("the embeddings are away")
        return super().embed_documents(texts)

    def _embed(self, text: str) -> list[float]:
        return super()._embed(f"{self.model} {text}")


def old() -> Named:
    return Named("old", OLD_DIMS)


@contextmanager
def opened(dsn: str, embed: Named, **kwargs: Any) -> Iterator[SemanticStore]:
    with SemanticStore.open(dsn, embed=embed, dims=embed.dims, **kwargs) as store:
        store.setup()
        yield store


def fill(dsn: str, embed: Named, count: int = 60) -> None:
    with opened(dsn, embed) as store:
        store.batch([PutOp(FACTS, f"k{n}", {"text": f"fact number {n}"}) for n in range(count)])


def rows(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        register_vector(connection)
        return connection.execute(statement.encode()).fetchall()


def check_moved(dsn: str, embed: Named, column: str = "embedding_2") -> None:
    """Every passage has the vector of its text."""
    found = rows(dsn, f"SELECT text, {column}::vector FROM memkit_passages")
    assert found
    for text, vector in found:
        assert vector is not None, text
        assert np.allclose(vector.to_numpy(), embed._embed(text), atol=1e-2), text


def finds(store: SemanticStore, number: int) -> bool:
    [first] = store.search(FACTS, query=f"fact number {number}", limit=1)
    return bool(first.value["text"] == f"fact number {number}")


@pytest.mark.parametrize(
    "new",
    [Named("new"), Named("new", OLD_DIMS), Named("old", NEW_DIMS)],
    ids=["both", "of another model", "of another length"],
)
def test_a_move_and_its_end(dsn: str, new: Named) -> None:
    fill(dsn, old())
    with opened(dsn, old()) as before:
        assert finds(before, 7)
        move = reembed(dsn, new, batch_size=25)
        assert move == Move(new.model, "embedding_2", 60, 60, is_switched=True)
        check_moved(dsn, new)
        assert [len(call) for call in new.document_calls] == [25, 25, 10]
        with opened(dsn, new) as after:
            assert finds(after, 7)
            assert finds(before, 7)  # with its own vectors, for now
            before.put(FACTS, "late", {"text": "fact number 100"})
            after.put(FACTS, "k7", {"text": "fact number 101"})
            assert finds(after, 101)
            # Found by its words until it has a vector.
            assert finds(after, 100)
            again = reembed(dsn, new, finish=True)
            assert (again.missing, again.embedded, again.dropped) == (1, 1, ("embedding",))
            check_moved(dsn, new)
            for use in (
                lambda: before.search(FACTS, query="fact"),
                lambda: before.put(FACTS, "x", {"text": "fact"}),
            ):
                with pytest.raises(DimensionMismatch, match="moved to other embeddings"):
                    use()
            assert before.get(FACTS, "k8") is not None
            assert before.get(FACTS, "x") is None
            assert finds(after, 100)
    with pytest.raises(DimensionMismatch, match="memkit store reembed"), opened(dsn, old()):
        pass
    assert reembed(dsn, new).embedded == 0


def test_of_another_precision(dsn: str) -> None:
    fill(dsn, old())
    move = reembed(dsn, old(), vector_type="vector", finish=True)
    assert move.embedded == 60
    assert rows(dsn, "SELECT pg_typeof(embedding_2)::text FROM memkit_passages LIMIT 1") == [
        ("vector",)
    ]
    index: Any = {"embed": old(), "dims": OLD_DIMS, "fields": ["text"]}
    index["ann_index_config"] = {"vector_type": "vector"}
    with SemanticStore(dsn, index=index) as store:
        assert finds(store, 7)


def test_three_moves_in_a_row(dsn: str) -> None:
    fill(dsn, old())
    for number in (2, 3, 4):
        new = Named(f"model {number}", 8 * number)
        reembed(dsn, new, finish=True)
        check_moved(dsn, new, f"embedding_{number}" if number == 2 else _only_column(dsn))
        with opened(dsn, new) as store:
            assert finds(store, number)


def _only_column(dsn: str) -> str:
    [[name]] = rows(
        dsn,
        "SELECT attname::text FROM pg_attribute WHERE NOT attisdropped AND attname ~ '^embedding'"
        " AND attrelid = 'memkit_passages'::regclass",
    )
    return str(name)


def test_searches_and_writes_go_on_meanwhile(dsn: str) -> None:
    fill(dsn, old(), 300)
    new, failed = Named("new"), list[BaseException]()
    done = threading.Event()

    def use(store: SemanticStore, what: str) -> None:
        try:
            number = 0
            while not done.is_set():
                number = (number + 7) % 300
                if what == "read":
                    assert finds(store, number)
                else:
                    store.put(FACTS, f"k{number}", {"text": f"fact number {number}"})
                    store.put(FACTS, f"n{number % 50}", {"text": f"other number {number}"})
        except BaseException as error:
            failed.append(error)
            raise

    with opened(dsn, old()) as store:
        threads = [threading.Thread(target=use, args=(store, what)) for what in ("read", "write")]
        for thread in threads:
            thread.start()
        move = reembed(dsn, new, batch_size=20)
        done.set()
        for thread in threads:
            thread.join()
    assert not failed
    assert move.embedded >= 300
    reembed(dsn, new, finish=True)
    check_moved(dsn, new)


def test_what_fails_midway_goes_on_where_it_was(dsn: str) -> None:
    fill(dsn, old())
    new = Named("new")
    new.broken_at = 2
    with pytest.raises(ConnectionError, match="away"):
        reembed(dsn, new, batch_size=10)
    with opened(dsn, old()) as store:
        assert finds(store, 7)
    with pytest.raises(DimensionMismatch), opened(dsn, new):
        pass
    new.broken_at = None
    assert reembed(dsn, new, batch_size=10) == Move("new", "embedding_2", 40, 40, is_switched=True)
    check_moved(dsn, new)
    told = [text for call in new.document_calls for text in call]
    assert len(told) == len(set(told)) == 60


KILLED = """
import os, signal, sys
from memkit.store.reembed import reembed
from tests.integration.test_store_reembed import Named

class Dying(Named):
    def embed_documents(self, texts):
        if len(self.document_calls) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().embed_documents(texts)

reembed(sys.argv[1], Dying("new"), batch_size=10)
"""


def test_killed_and_taken_up_again(dsn: str) -> None:
    fill(dsn, old())
    missing = 60
    for calls in (0, 1, 2, 2):
        killed = subprocess.run([sys.executable, "-c", KILLED, dsn, str(calls)], check=False)
        assert killed.returncode == -9
        [[left]] = rows(dsn, "SELECT count(*) FROM memkit_passages WHERE embedding_2 IS NULL")
        missing -= 10 * calls
        assert left == missing
    assert reembed(dsn, Named("new")).embedded == 10
    check_moved(dsn, Named("new"))


def test_another_target_is_refused_until_the_move_is_given_up(dsn: str) -> None:
    fill(dsn, old())
    new, other = Named("new"), Named("other")
    new.broken_at = 1
    with pytest.raises(ConnectionError):
        reembed(dsn, new, batch_size=10)
    with pytest.raises(ConfigError, match="'new' with 24 dimensions as halfvec is under way"):
        reembed(dsn, other)
    assert abandon(dsn)
    assert not abandon(dsn)
    with opened(dsn, old()) as store:
        assert finds(store, 7)
    assert reembed(dsn, other).embedded == 60
    assert not abandon(dsn)
    check_moved(dsn, other)


def test_one_process_moves_at_a_time(dsn: str) -> None:
    fill(dsn, old())

    class Nested(Named):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            with pytest.raises(StoreError, match="another process is moving"):
                reembed(dsn, Named("new"))
            return super().embed_documents(texts)

    assert reembed(dsn, Nested("new")).embedded == 60


def test_embeddings_without_a_name_need_one(dsn: str) -> None:
    fill(dsn, old(), 3)
    with pytest.raises(ConfigError, match="pass model="):
        reembed(dsn, HashEmbeddings())
    with pytest.raises(ConfigError, match="batch_size"):
        reembed(dsn, old(), batch_size=0)
    assert reembed(dsn, HashEmbeddings(), model="hash").embedded == 3


def test_an_empty_store_and_one_without_vectors(dsn: str) -> None:
    assert reembed(dsn, Named("new")) == Move("new", "embedding_2", 0, is_switched=True)
    with SemanticStore.open(dsn, search_mode="text") as store:
        store.put(FACTS, "k", {"text": "fact number 7"})
    assert reembed(dsn, Named("newer", 8), finish=True).embedded == 1
    with opened(dsn, Named("newer", 8)) as moved:
        assert finds(moved, 7)


def test_where_tenants_are_hidden(dsn: str, role: str, large_from_500: None) -> None:
    fill(role, old(), 600)
    with opened(role, old()) as store:
        store.setup(row_level_security=True)
        assert [built.passages for built in store.build_indexes()] == [600, 600]
    assert reembed(role, Named("new"), finish=True).embedded == 600
    check_moved(dsn, Named("new"))
    assert rows(dsn, "SELECT passages FROM memkit_indexes") == [(600,), (600,)]


def test_a_role_that_only_reads_goes_along(dsn: str, large_from_500: None) -> None:
    fill(dsn, old())
    reembed(dsn, Named("new"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE ROLE memkit_reader LOGIN")
        connection.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO memkit_reader")
        try:
            reader = make_conninfo(dsn, user="memkit_reader")
            with SemanticStore.open(reader, embed=Named("new"), dims=NEW_DIMS) as store:
                assert finds(store, 7)
        finally:
            connection.execute("DROP OWNED BY memkit_reader")
            connection.execute("DROP ROLE memkit_reader")


def test_texts_that_change_while_they_are_embedded(dsn: str) -> None:
    fill(dsn, old(), 30)
    with opened(dsn, old()) as store:

        class Meddling(Named):
            def embed_documents(self, texts: list[str]) -> list[list[float]]:
                if not self.document_calls:
                    store.put(FACTS, "k3", {"text": "fact number 103"})
                    store.delete(FACTS, "k4")
                return super().embed_documents(texts)

        new = Meddling("new")
        move = reembed(dsn, new, batch_size=40)
        assert (move.missing, move.embedded) == (30, 29)
        check_moved(dsn, Named("new"))
        told = [text for call in new.document_calls for text in call]
        assert len(told) == len(set(told)) == 31  # one for nothing: it changed meanwhile
        assert finds(store, 103)


def test_who_opens_a_store_at_the_switch_gets_one_model(
    fresh_dsn: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of equal length: what is read before and after the switch does not fit together."""
    ask = meta._rows
    ways = set[str]()
    for switch_at in range(6):
        with fresh_dsn() as dsn, monkeypatch.context() as patch:
            fill(dsn, Named("old", NEW_DIMS), 3)
            asked = itertools.count()

            def rows_of(connection: Any, *args: Any, dsn: str = dsn, at: int = switch_at) -> Any:
                if "memkit_meta" in args[0] and next(asked) == at:  # noqa: B023 - used at once
                    reembed(dsn, Named("new", NEW_DIMS))
                return ask(connection, *args)

            with SemanticStore.open(dsn, embed=Named("old", NEW_DIMS), dims=NEW_DIMS) as store:
                patch.setattr(meta, "_rows", rows_of)
                try:
                    store.get(FACTS, "k1")
                except DimensionMismatch:
                    ways.add("refused")
                else:
                    assert store._space is not None
                    ways.add(store._space.name)
    assert ways == {"refused", "embedding"}


def test_who_does_not_fit_leaves_no_name(dsn: str) -> None:
    with SemanticStore.open(dsn, embed=HashEmbeddings(OLD_DIMS)) as store:
        store.put(FACTS, "k7", {"text": "fact number 7"})
    with pytest.raises(DimensionMismatch), opened(dsn, Named("new")):
        pass
    with opened(dsn, old()) as store:
        assert finds(store, 7)


def test_vectors_stay_in_their_rows(dsn: str) -> None:
    storage = (
        "SELECT attstorage::text FROM pg_attribute WHERE NOT attisdropped"
        " AND attname ~ '^embedding' AND attrelid = 'memkit_passages'::regclass"
    )
    reembed(dsn, Named("new"))
    assert rows(dsn, storage) == [("m",), ("m",)]
    with opened(dsn, Named("new")) as store:
        assert store._space is not None
        with psycopg.connect(dsn, autocommit=True) as connection:
            meta.set_column_type(connection, replace(store._space, type="vector"))
    assert rows(dsn, storage) == [("m",), ("m",)]


def test_vectors_keep_their_precision(dsn: str) -> None:
    index: Any = {"embed": old(), "dims": OLD_DIMS, "fields": ["text"]}
    index["ann_index_config"] = {"vector_type": "vector"}
    with SemanticStore(dsn, index=index) as store:
        store.setup()
        store.put(FACTS, "k7", {"text": "fact number 7"})
    reembed(dsn, Named("new"))
    reembed(dsn, Named("new"), finish=True)
    assert rows(dsn, "SELECT pg_typeof(embedding_2)::text FROM memkit_passages") == [("vector",)]
    new = Named("newer")
    new.broken_at = 0
    with pytest.raises(ConnectionError):
        reembed(dsn, new, vector_type="halfvec")
    new.broken_at = None
    reembed(dsn, new)  # goes on as it began
    assert rows(dsn, "SELECT pg_typeof(embedding_3)::text FROM memkit_passages") == [("halfvec",)]


def test_the_old_ones_are_not_finished_while_a_move_is_under_way(dsn: str) -> None:
    fill(dsn, old())
    new = Named("new")
    new.broken_at = 1
    with pytest.raises(ConnectionError):
        reembed(dsn, new, batch_size=10)
    with pytest.raises(ConfigError, match="'new' with 24 dimensions as halfvec is under way"):
        reembed(dsn, old(), finish=True)
    new.broken_at = None
    assert reembed(dsn, new).embedded == 50


def test_giving_up_that_was_cut_off(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(dsn, old())
    new = Named("new")
    new.broken_at = 1
    with pytest.raises(ConnectionError):
        reembed(dsn, new, batch_size=10)
    with monkeypatch.context() as patch:
        patch.setattr(meta, "put", _cut_off)
        with pytest.raises(KeyboardInterrupt):
            abandon(dsn)
    new.broken_at = None
    assert reembed(dsn, new).embedded == 50


def _cut_off(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_table_that_is_held_for_long(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ATTEMPTS", 2)
    fill(dsn, old())
    with psycopg.connect(dsn) as other, opened(dsn, old()) as store:
        other.execute("SELECT FROM memkit_passages LIMIT 1")
        with pytest.raises(StoreError, match="pg_stat_activity"):
            reembed(dsn, Named("new"))
        assert finds(store, 7)
        other.rollback()
        new = Named("new")
        new.broken_at = 0
        with pytest.raises(ConnectionError):
            reembed(dsn, new)
        other.execute("SELECT FROM memkit_passages LIMIT 1 FOR UPDATE")
        with pytest.raises(StoreError, match="pg_stat_activity"):
            reembed(dsn, Named("new"))
        other.rollback()
        assert reembed(dsn, Named("new")).embedded == 60


def test_nothing_waits_for_who_moves(dsn: str) -> None:
    """Neither vacuum nor an index that is built online waits for a snapshot."""
    fill(dsn, old())
    snapshots = []

    class Looking(Named):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            snapshots.extend(
                rows(
                    dsn,
                    "SELECT state, backend_xmin::text FROM pg_stat_activity"
                    " WHERE datname = current_database() AND pid <> pg_backend_pid()",
                )
            )
            return super().embed_documents(texts)

    reembed(dsn, Looking("new"))
    assert sorted(snapshots) == [("idle", None), ("idle in transaction", None)]


@pytest.fixture
def large_from_500(monkeypatch: pytest.MonkeyPatch) -> None:
    """Indexes pay early, and are built when that is asked for."""
    monkeypatch.setattr(indexes, "PAYS_FROM", 500)
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)


INDEXES = "SELECT indexname::text FROM pg_indexes WHERE indexname ~ '^memkit_(near|words|terms)_'"


def test_indexes_that_were_cut_off_go_too(
    dsn: str, large_from_500: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(dsn, old(), 600)
    with opened(dsn, old()) as store:
        store.build_indexes()
    before = sorted(rows(dsn, INDEXES))
    monkeypatch.setattr(indexes._Builder, "_create_near", _cut_off)
    with pytest.raises(KeyboardInterrupt):
        reembed(dsn, Named("new"))
    assert len(rows(dsn, INDEXES)) > len(before)
    assert abandon(dsn)
    assert sorted(rows(dsn, INDEXES)) == before


KILLED_WHILE_BUILDING = """
import os, signal, sys
from memkit.store import indexes
from memkit.store.reembed import reembed
from tests.integration.test_store_reembed import Named

indexes.PAYS_FROM = 500
indexes._Builder._create_near = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
reembed(sys.argv[1], Named("new"))
"""


def test_killed_while_building_indexes(dsn: str, large_from_500: None) -> None:
    fill(dsn, old(), 600)
    with opened(dsn, old()) as store:
        store.build_indexes()
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_BUILDING, dsn], check=False)
    assert killed.returncode == -9
    move = reembed(dsn, Named("new"), finish=True)
    assert (move.missing, move.embedded) == (0, 0)
    assert rows(dsn, "SELECT vectors FROM memkit_indexes") == [("embedding_2",), ("embedding_2",)]


def test_a_move_waits_for_who_builds_indexes(dsn: str, large_from_500: None) -> None:
    fill(dsn, old(), 600)
    with opened(dsn, old()) as store:
        store.build_indexes()
    with psycopg.connect(dsn, autocommit=True) as other, ThreadPoolExecutor(1) as threads:
        embedded = threading.Event()

        def seen(move: Move) -> None:
            if move.embedded == 600:
                embedded.set()

        with indexes._turn(other) as is_ours:
            assert is_ours
            moving = threads.submit(reembed, dsn, Named("new"), progress=seen)
            assert embedded.wait(30)
            with pytest.raises(TimeoutError):
                moving.result(0.5)
        assert moving.result(30).is_switched
    assert len(rows(dsn, "SELECT FROM memkit_indexes WHERE vectors = 'embedding_2'")) == 2


def test_indexes_serve_the_distance_of_those_before(dsn: str, large_from_500: None) -> None:
    index: Any = {"embed": old(), "dims": OLD_DIMS, "fields": ["text"], "distance_type": "l2"}
    with SemanticStore(dsn, index=index, search_mode="vector") as store:
        store.setup()
        store.batch([PutOp(FACTS, f"k{n}", {"text": f"fact number {n}"}) for n in range(600)])
        store.build_indexes()
    reembed(dsn, Named("new"), finish=True)
    near = rows(dsn, "SELECT indexdef FROM pg_indexes WHERE indexname ~ '^memkit_near_'")
    assert near
    assert all("halfvec_l2_ops" in definition for (definition,) in near)


def test_who_did_without_indexes_goes_on_so(dsn: str, large_from_500: None) -> None:
    fill(dsn, old(), 600)
    reembed(dsn, Named("new"))
    assert rows(dsn, INDEXES) == []


def test_indexes_are_there_before_the_switch(dsn: str, large_from_500: None) -> None:
    fill(dsn, old(), 600)
    with opened(dsn, old()) as before:
        assert before.build_indexes()
        assert finds(before, 7)
        reembed(dsn, Named("new"))
        scopes = "SELECT scope, vectors FROM memkit_indexes ORDER BY 1, 2"
        both = [(scope, f"embedding{n}") for scope in ("", "users.ann") for n in ("", "_2")]
        assert rows(dsn, scopes) == both
        with opened(dsn, Named("new")) as after:
            assert finds(before, 7)
            assert finds(after, 7)
            assert after.build_indexes() == []
    reembed(dsn, Named("new"), finish=True)
    assert rows(dsn, scopes) == both[1::2]
    names = "SELECT count(*) FROM pg_indexes WHERE indexname ~ '^memkit_(near|words|terms)_'"
    assert rows(dsn, names)[0][0] in {4, 5, 6}  # of vectors only where they find enough
    with opened(dsn, Named("new")) as after:
        assert finds(after, 7)


def test_the_command(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    fill(dsn, old(), 5)

    def told(*arguments: str, code: int = 0) -> str:
        assert main(["store", "reembed", "--dsn", dsn, *arguments]) == code
        out, err = capsys.readouterr()
        return err if code else out

    move = json.loads(told("--embed", "local", "--json"))
    assert (move["embedded"], move["is_switched"], move["dropped"]) == (5, True, [])
    assert "say --finish" in told("--embed", "local")
    assert "the old vectors are gone" in told("--embed", "local", "--finish")
    assert "no move is under way" in told("--abandon")
    assert "--embed" in told(code=1)
