"""Moving a store to other embeddings: online, resumable, and never a ranking across two models."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest
from langgraph.store.base import PutOp
from pgvector.psycopg import register_vector

from memkit.cli import main
from memkit.errors import ConfigError, DimensionMismatch, StoreError
from memkit.store import SemanticStore, indexes
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
                    store.put(FACTS, f"n{number}", {"text": f"other number {number}"})
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


def test_where_tenants_are_hidden(dsn: str) -> None:
    fill(dsn, old())
    with opened(dsn, old()) as store:
        store.setup(row_level_security=True)
    assert reembed(dsn, Named("new"), finish=True).embedded == 60
    check_moved(dsn, Named("new"))


def test_indexes_are_there_before_the_switch(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "PAYS_FROM", 500)
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)
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
