"""A PostgresStore is brought along whole: values, vectors, times, and from wherever it stopped."""

import json
import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.store.base import PutOp
from langgraph.store.postgres import PostgresStore

from memkit import SemanticStore
from memkit.cli import main
from memkit.errors import ConfigError, DimensionMismatch, MigrationError, StoreError
from memkit.store import transfer
from memkit.store.transfer import ImportReport, import_postgres_store
from tests.fakes import HashEmbeddings

ROOT = Path(__file__).parents[2]
DIMS = 32
ANN = ("users", "ann@example%2Ecom", "facts")
VALUES: dict[tuple[tuple[str, ...], str], dict[str, Any]] = {
    (ANN, "tea"): {"text": "Ann drinks green tea.", "n": 1, "deep": {"list": [1, 2.5, None, True]}},
    (ANN, "car"): {"text": "Ann drives a red car."},
    (ANN, "none"): {"title": "without a text"},
    (ANN, "odd: ключ/鍵 %s '\\ \ue000"): {
        "text": "private use: \ue000 and 漢字 🎈",
        "\ue000": 1e-7,
    },
    (("a_b", "%", "100%", " x "), "k"): {"text": "Labels like patterns."},
    (("solo",), "k"): {"text": "One label.", "n": 12345678901234567890123},
    (("users", "ann@example%2Ecom", "facts", "deeper", "still"), "k"): {"text": "Five labels."},
    (("langgraph-like", "ключ"), "k"): {"text": ["not", "a", "string"]},
}


class OtherModel(HashEmbeddings):
    """The same length, but nothing in common."""

    def _embed(self, text: str) -> list[float]:
        return [float(math.sin(97 * n + len(text))) for n in range(self.dims)]


def index(embed: HashEmbeddings, *fields: str, **more: Any) -> Any:
    return {"embed": embed, "dims": embed.dims, "fields": list(fields or ["text"]), **more}


@pytest.fixture
def source(server: Any) -> Iterator[str]:
    """A database with a PostgresStore and `VALUES` in it."""
    dsn = server.create()
    fill(dsn, index(HashEmbeddings()))
    yield dsn
    server.drop(dsn)


def fill(dsn: str, how: Any, values: Any = None) -> None:
    with PostgresStore.from_conn_string(dsn, index=how) as old:
        old.setup()
        puts = [PutOp(namespace, key, value) for (namespace, key), value in VALUES.items()]
        old.batch(puts if values is None else [PutOp(ANN, k, v) for k, v in values.items()])


def rows(dsn: str, sql: str) -> list[Any]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql.encode()).fetchall()


def tables(dsn: str) -> tuple[Any, Any, Any]:
    """All that an import writes."""
    return (
        rows(dsn, "SELECT *, value::text FROM memkit_items ORDER BY namespace, key"),
        rows(
            dsn,
            "SELECT namespace, key, path, text, embedding::text FROM memkit_passages"
            " ORDER BY namespace, key, path",
        ),
        rows(dsn, "SELECT * FROM memkit_meta ORDER BY name"),
    )


def vectors(dsn: str) -> list[Any]:
    found = rows(dsn, "SELECT embedding::text FROM memkit_passages ORDER BY namespace, key, path")
    return [vector and json.loads(vector) for (vector,) in found]


def test_what_the_source_gives_the_target_gives(source: str, store: SemanticStore) -> None:
    embed: Any = store.embeddings
    embed.document_calls.clear()
    report = import_postgres_store(source, store, batch_size=3)
    # The one text is JSON for a list: as PostgresStore indexed it.
    assert report == ImportReport(read=8, written=8, vectors_copied=7, total=8)
    assert [len(call) for call in embed.document_calls] == [3]  # the samples
    with PostgresStore.from_conn_string(source, index=index(HashEmbeddings())) as old:
        for (namespace, key), value in VALUES.items():
            ours, theirs = store.get(namespace, key), old.get(namespace, key)
            assert ours is not None
            assert theirs is not None
            assert ours.dict() == theirs.dict()
            assert ours.value == value
        namespaces = old.list_namespaces()
        assert sorted(store.list_namespaces()) == sorted(namespaces)
        for query in ("green tea", "a red car", "labels"):
            by_vector = store.search((), query=query, mode="vector", limit=7)
            theirs_found = old.search((), query=query, limit=7)
            assert [(h.namespace, h.key) for h in by_vector] == [
                (h.namespace, h.key) for h in theirs_found
            ]
            assert [h.score for h in by_vector] == pytest.approx(
                [h.score for h in theirs_found],
                abs=2e-3,  # ours are of half precision
            )
    assert store.search(ANN, query="drives", mode="text")[0].key == "car"


@pytest.mark.parametrize("kind", ["vector", "halfvec"])
def test_vectors_are_the_sources_own(
    fresh_dsn: Callable[[], AbstractContextManager[str]], empty_dsn: str, kind: str
) -> None:
    embed = HashEmbeddings()
    how = index(embed, ann_index_config={"kind": "hnsw", "vector_type": kind})
    fill(empty_dsn, how)
    # Numbers that no embedding gave: a copy, not a likeness.
    changed = rows(
        empty_dsn,
        "UPDATE store_vectors SET embedding = (SELECT array_agg(x + 1/1024.0 ORDER BY n) FROM "
        f"unnest(embedding::real[]) WITH ORDINALITY AS u (x, n))::{kind} "
        "RETURNING embedding::halfvec::text",
    )
    expected = sorted(json.loads(vector) for (vector,) in changed)
    with fresh_dsn() as dsn, SemanticStore.open(dsn, embed=embed, dims=DIMS) as store:
        assert import_postgres_store(empty_dsn, store).vectors_copied == len(expected)
        assert sorted(vectors(dsn)) == expected


def test_times_to_live(source: str, store: SemanticStore, dsn: str) -> None:
    with PostgresStore.from_conn_string(source, ttl={"refresh_on_read": False}) as old:
        old.put(ANN, "long", {"text": "long"}, ttl=90)
        old.put(ANN, "short", {"text": "short"}, ttl=0.4)  # kept as ttl_minutes = 0
        old.put(ANN, "over", {"text": "over"}, ttl=1)
    rows(source, "UPDATE store SET expires_at = now() WHERE key = 'over' RETURNING 1")
    report = import_postgres_store(source, store)
    assert (report.read, report.written, report.expired) == (11, 10, 1)
    columns = "key, created_at, updated_at, expires_at"
    where = "WHERE key IN ('long', 'short', 'over') ORDER BY key"
    theirs = rows(source, f"SELECT {columns} FROM store {where}")
    ours = rows(dsn, f"SELECT {columns} FROM memkit_items {where}")
    assert ours == [row for row in theirs if row[0] != "over"]
    ttl = dict(rows(dsn, "SELECT key, ttl_minutes FROM memkit_items"))
    assert ttl["long"] == 90
    assert ttl["short"] == pytest.approx(0.4)
    assert ttl["tea"] is None
    assert store.get(ANN, "short") is not None  # a read starts it anew, and does not end it
    assert store.get(ANN, "short") is not None


def test_a_second_run_writes_and_embeds_nothing(
    source: str, store: SemanticStore, dsn: str
) -> None:
    embed: Any = store.embeddings
    import_postgres_store(source, store)
    before = tables(dsn)
    embed.document_calls.clear()
    for overwrite in (False, True):
        report = import_postgres_store(source, store, overwrite=overwrite, batch_size=2)
        assert (report.written, report.skipped, report.vectors_copied) == (0, 8, 0)
        assert tables(dsn) == before
    assert sum(map(len, embed.document_calls)) <= 3  # samples of the one that overwrites


def test_what_is_there_stays_unless_asked(source: str, store: SemanticStore, dsn: str) -> None:
    store.put(ANN, "tea", {"text": "Ours."})
    store.put(ANN, "mine", {"text": "Only here."})
    store.put(ANN, "car", {"text": "Expired."}, ttl=1)
    rows(dsn, "UPDATE memkit_items SET expires_at = now() WHERE key = 'car' RETURNING 1")
    report = import_postgres_store(source, store)
    assert (report.written, report.skipped) == (7, 1)
    assert found(store, "tea") == {"text": "Ours."}
    assert found(store, "car") == {"text": "Ann drives a red car."}  # what had expired is none
    assert [hit.key for hit in store.search(ANN, query="expired", mode="text")] == []
    report = import_postgres_store(source, store, overwrite=True)
    assert (report.written, report.skipped) == (1, 7)
    assert found(store, "tea") == VALUES[ANN, "tea"]
    assert [hit.key for hit in store.search(ANN, query="ours", mode="text")] == []
    assert found(store, "mine") == {"text": "Only here."}


def found(store: SemanticStore, key: str) -> Any:
    item = store.get(ANN, key)
    return item and item.value


def test_a_vector_that_was_left_behind_is_not_copied(source: str, store: SemanticStore) -> None:
    embed: Any = store.embeddings
    with PostgresStore.from_conn_string(source, index=index(HashEmbeddings())) as old:
        old.put(ANN, "tea", {"text": "Ann drinks beer."}, index=False)
    embed.document_calls.clear()
    report = import_postgres_store(source, store)
    assert (report.vectors_copied, report.texts_embedded) == (6, 1)
    assert embed.document_calls[-1] == ["Ann drinks beer."]
    (best, *_) = store.search(ANN, query="Ann drinks beer.", mode="vector")
    assert best.key == "tea"
    assert best.score == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize(
    ("value", "theirs", "ours", "copied"),
    [
        # One model, other paths to the same texts.
        ({"text": "a", "more": {"text": "b"}}, ["more.text", "text"], ["text", "more.text"], 2),
        ({"parts": ["a", "b", "c"]}, ["parts[*]"], ["parts[*]"], 3),
        ({"parts": ["a", "b", "c"]}, ["parts[*]"], ["parts[1]"], 1),
        ({"parts": ["a"]}, ["parts[*]"], ["parts[0]"], 1),
        ({"a": "x", "b": "y"}, ["{a,b}"], ["b", "a"], 2),
        ({"text": "a", "n": 1.5}, ["$"], ["$"], 1),
        ({"text": "a"}, ["$"], ["text"], 0),
        # jsonb puts "b" before "aa": the ordinals of a wildcard are not what they were.
        ({"m": {"aa": "one", "b": "two"}}, ["m.*"], ["m.*"], 0),
        ({"m": {"aa": "one"}}, ["m.*"], ["m.*"], 1),
        # "parts[*].0" is the first of two texts, or the only text under "0": nobody can tell.
        ({"parts": [{"0": "a"}, {"1": "b"}]}, ["parts[*].0"], ["parts[*]"], 0),
        ({"parts": [{"0": "a"}, {"1": "b"}]}, ["parts[*].0"], ["parts[*].0"], 0),
    ],
)
def test_a_vector_goes_with_its_text(
    dsn: str, value: Any, theirs: list[str], ours: list[str], copied: int
) -> None:
    embed = HashEmbeddings()
    fill(dsn, index(embed, *theirs), {"k": value})  # and into the same database
    with SemanticStore.open(dsn, embed=embed, dims=DIMS, fields=ours) as store:
        report = import_postgres_store(dsn, store)
        texts = rows(dsn, "SELECT text FROM memkit_passages ORDER BY namespace, key, path")
        assert not report.other_embeddings
        assert report.vectors_copied == copied
        assert report.texts_embedded == len(texts) - copied
        for (text,), vector in zip(texts, vectors(dsn), strict=True):
            assert vector == pytest.approx(embed.embed_query(text), abs=1e-3)


def test_other_dims_are_embedded_anew(source: str, dsn: str) -> None:
    embed = HashEmbeddings(8)
    with SemanticStore.open(dsn, embed=embed, dims=8) as store:
        report = import_postgres_store(source, store)
        assert (report.vectors_copied, report.texts_embedded) == (0, 7)
        assert {len(vector) for vector in vectors(dsn)} == {8}


def test_vectors_of_another_model_are_embedded_anew(source: str, dsn: str) -> None:
    with SemanticStore.open(dsn, embed=OtherModel(), dims=DIMS) as store:
        report = import_postgres_store(source, store, batch_size=3)
        assert report.other_embeddings
        assert (report.vectors_copied, report.texts_embedded) == (0, 7)
        (best, *_) = store.search(ANN, query="Ann drives a red car.", mode="vector")
        assert best.score == pytest.approx(1, abs=2e-3)


def test_without_embeddings_vectors_are_copied_or_refused(
    source: str, dsn: str, fresh_dsn: Callable[[], AbstractContextManager[str]]
) -> None:
    with PostgresStore.from_conn_string(source) as old:
        old.put(ANN, "bare", {"text": "Put without an index."})
    with SemanticStore.open(dsn, search_mode="text") as store:
        report = import_postgres_store(source, store)
        assert (report.vectors_copied, report.texts_without_vector) == (7, 1)
        assert store.stored_dims() == DIMS
    # With embeddings, and asked to overwrite, only what lacks a vector is written again.
    with SemanticStore.open(dsn, embed=HashEmbeddings(), dims=DIMS) as store:
        report = import_postgres_store(source, store, overwrite=True)
        assert (report.written, report.texts_embedded) == (1, 1)
        assert None not in vectors(dsn)
    with fresh_dsn() as other:
        with SemanticStore.open(other, embed=HashEmbeddings(8), dims=8) as store:
            store.put(ANN, "k", {"text": "of 8"})
        before = tables(other)
        with SemanticStore.open(other, search_mode="text") as store:
            with pytest.raises(DimensionMismatch, match=r"32 dimensions, those of .* 8"):
                import_postgres_store(source, store)
            assert tables(other) == before
            report = import_postgres_store(source, store, vectors=False)
            assert (report.written, report.texts_without_vector) == (9, 8)
    with fresh_dsn() as other, SemanticStore.from_conn_string(other) as store:
        assert import_postgres_store(source, store) == ImportReport(read=9, written=9, total=9)


def test_a_dry_run_copies_nothing_and_counts_the_same(
    source: str, store: SemanticStore, dsn: str
) -> None:
    with PostgresStore.from_conn_string(source) as old:
        old.put(ANN, "bare", {"text": "Put without an index."})
    store.put(ANN, "tea", {"text": "Ours."})
    before = tables(dsn)
    told = import_postgres_store(source, store, dry_run=True)
    assert tables(dsn) == before
    assert told == import_postgres_store(source, store)
    assert (told.read, told.written, told.skipped, told.texts_embedded) == (9, 8, 1, 1)


def test_dots_in_labels_are_read_as_postgres_store_reads_them(
    source: str, store: SemanticStore
) -> None:
    """Early versions took labels with dots in `batch`; all that is left of them is the prefix."""
    rows(
        source,
        "INSERT INTO store (prefix, key, value, created_at, updated_at) VALUES"
        " ('users.ann@example.com.facts', 'k', '{}', NULL, NULL), ('a..b', 'k', '{}', now(), NULL),"
        " ('', '', '{}', now(), now()), ('a', 'list', '[1]', now(), now()) RETURNING 1",
    )
    report = import_postgres_store(source, store, batch_size=1)
    assert (report.read, report.written, report.refused) == (12, 9, 3)
    namespace = ("users", "ann@example", "com", "facts")
    assert store.get(namespace, "k") is not None
    assert [hit.namespace for hit in store.search(("users", "ann@example"))] == [namespace]


def test_a_store_from_before_vectors_and_times_to_live(empty_dsn: str, dsn: str) -> None:
    with psycopg.connect(empty_dsn) as connection:
        connection.execute(PostgresStore.MIGRATIONS[0].encode())
        connection.execute("INSERT INTO store VALUES ('a.b', 'k', '{\"text\": \"old\"}')")
    with SemanticStore.open(dsn, embed=HashEmbeddings(), dims=DIMS) as store:
        report = import_postgres_store(empty_dsn, store)
        assert report == ImportReport(read=1, written=1, texts_embedded=1, total=1)
        assert store.search(("a", "b"), query="old")[0].value == {"text": "old"}


def test_vectors_of_bits_are_embedded_anew(source: str, store: SemanticStore) -> None:
    with psycopg.connect(source, autocommit=True) as connection:
        connection.execute("DROP INDEX store_vectors_embedding_idx")
        connection.execute(
            "ALTER TABLE store_vectors ALTER COLUMN embedding TYPE bit(32)"
            " USING binary_quantize(embedding)"
        )
    report = import_postgres_store(source, store)
    assert (report.vectors_copied, report.texts_embedded) == (0, 7)


def test_wrong_sources_are_one_clear_error(
    source: str, store: SemanticStore, empty_dsn: str
) -> None:
    with pytest.raises(ConfigError, match="no table `store`; give the address that PostgresStore"):
        import_postgres_store(empty_dsn, store)
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute("CREATE TABLE store (city text)")
    with pytest.raises(ConfigError, match="a table `store` that is not a PostgresStore's"):
        import_postgres_store(empty_dsn, store)
    with pytest.raises(StoreError, match="not a PostgreSQL connection string"):
        import_postgres_store("postgresql://u:p/w@h:5432/x", store)
    with pytest.raises(ConfigError, match="batch_size"):
        import_postgres_store(source, store, batch_size=0)
    with (
        SemanticStore.open(empty_dsn, search_mode="text") as bare,
        pytest.raises(MigrationError, match="setup"),
    ):
        import_postgres_store(source, bare)


def test_failing_embeddings_leave_what_was_copied(source: str, dsn: str) -> None:
    class Failing(HashEmbeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            if any("red car" in text for text in texts):
                return [[math.nan] * self.dims for _ in texts]
            return super().embed_documents(texts)

    rows(source, "DELETE FROM store_vectors RETURNING 1")
    with (
        SemanticStore.open(dsn, embed=Failing(), dims=DIMS) as store,
        pytest.raises(StoreError, match="NaN"),
    ):
        import_postgres_store(source, store, batch_size=1)
    copied = len(tables(dsn)[0])
    assert 0 < copied < 8
    assert len(tables(dsn)[1]) == copied  # each with its passage
    with SemanticStore.open(dsn, embed=HashEmbeddings(), dims=DIMS) as store:
        report = import_postgres_store(source, store)
        assert (report.skipped, report.written) == (copied, 8 - copied)


KILLED = """
import json, sys
from itertools import count
import psycopg
from memkit import SemanticStore
from memkit.store.transfer import import_postgres_store
from tests.crash import STEP, forked, kill_at
from tests.fakes import HashEmbeddings

source, dsn, overwrite = sys.argv[1], sys.argv[2], sys.argv[3] == "overwrite"

def copy():
    with SemanticStore.open(dsn, embed=HashEmbeddings(), dims=32) as store:
        import_postgres_store(source, store, batch_size=3, overwrite=overwrite)

def look(sql):
    with psycopg.connect(dsn) as connection:
        return connection.execute(sql).fetchall()

ITEMS = "SELECT *, value::text FROM memkit_items ORDER BY namespace, key"
PASSAGES = ("SELECT namespace, key, path, text, embedding::text FROM memkit_passages"
            " ORDER BY namespace, key, path")
told = []
for point in count(1, STEP):
    look("DELETE FROM memkit_items RETURNING 1")
    killed = forked(lambda: (kill_at(point), copy()))
    torn = look("SELECT i.key FROM memkit_items i WHERE value ? 'text' AND NOT EXISTS ("
        "SELECT FROM memkit_passages p WHERE p.namespace = i.namespace AND p.key = i.key)")
    left = len(look(ITEMS))
    forked(copy)
    told.append([killed, left, torn, repr((look(ITEMS), look(PASSAGES)))])
    if not killed:
        break
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["add", "overwrite"])
def test_killed_at_any_point_it_goes_on_to_the_same_tables(source: str, dsn: str, how: str) -> None:
    with PostgresStore.from_conn_string(source) as old:
        old.put(ANN, "bare", {"text": "Put without an index."}, ttl=60)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, source, dsn, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *runs, last = json.loads(done.stdout)
    assert [killed for killed, *_ in runs] == [signal.SIGKILL] * len(runs)
    assert last[0] == 0
    assert {left for _, left, *_ in runs} == {0, 3, 6, 9}  # before, between and after the batches
    for point, (_, _, torn, end) in enumerate(runs, 1):
        assert torn == [], f"the {point}. kill"
        assert end == last[3], f"the {point}. kill"  # versions too: nothing was copied twice


def test_items_that_are_put_meanwhile_stay(
    source: str, store: SemanticStore, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = transfer._count

    def late(*args: Any, **more: Any) -> None:
        count(*args, **more)
        for namespace, key in VALUES:  # after the look at what is there, and before the writing
            store.put(namespace, key, {"text": "put meanwhile"})

    monkeypatch.setattr(transfer, "_count", late)
    report = import_postgres_store(source, store, batch_size=4)
    assert (report.written, report.skipped) == (0, 8)
    items, passages, _ = tables(dsn)
    assert {row[3]["text"] for row in items} == {"put meanwhile"}
    assert {row[3] for row in passages} == {"put meanwhile"}


def test_the_command(
    source: str, dsn: str, empty_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["store", "import", source, "--to", dsn]
    assert main([*command, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "read": 8,
        "total": 8,
        "written": 8,
        "skipped": 0,
        "expired": 0,
        "refused": 0,
        "vectors_copied": 7,
        "texts_embedded": 0,
        "texts_without_vector": 0,
        "other_embeddings": False,
        "dry_run": True,
    }
    assert tables(dsn)[0] == []
    assert main([*command, "--fields", "title", "text", "--batch-size", "2"]) == 0
    told = capsys.readouterr().out
    assert "        8 written\n" in told
    assert "        7 vectors copied\n" in told
    assert "1 texts have no vector: --embed NAME --overwrite makes them" in told
    assert main(command) == 0
    assert "        8 there already\n" in capsys.readouterr().out
    assert main([*command, "--embed", "local"]) == 1
    assert "384" in capsys.readouterr().err  # the target holds vectors of 32 by now
    assert main(["store", "import", empty_dsn, "--to", dsn]) == 1
    assert "no table `store`" in capsys.readouterr().err
    assert main([*command, "--batch-size", "0"]) == 1
    assert "--batch-size" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*command, "--embed", "local", "--search-mode", "text"])


def test_the_command_into_a_database_without_tables(
    source: str, empty_dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["store", "import", source, "--to", empty_dsn]
    assert main([*command, "--dry-run"]) == 1
    assert "setup" in capsys.readouterr().err
    assert main([*command, "--search-mode", "text", "--fields", "nothing"]) == 0
    assert "no item has a text under nothing" in capsys.readouterr().out
    assert main([*command, "--search-mode", "text", "--overwrite"]) == 0
    assert set(vectors(empty_dsn)) == {None}


def test_ctrl_c_says_that_nothing_is_lost(
    source: str, dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    command = ["store", "import", source, "--to", dsn, "--batch-size", "3"]
    with monkeypatch.context() as patched:
        patched.setattr("memkit.store.transfer._count", interrupted)
        assert main(command) == 130
    assert "the same command goes on" in capsys.readouterr().err
    assert main(command) == 0
    assert len(tables(dsn)[0]) == 8


def test_times_of_half_a_store(source: str, store: SemanticStore) -> None:
    """An item that was put twice keeps both of its times."""
    rows(source, "UPDATE store SET created_at = created_at - interval '1 day' RETURNING 1")
    import_postgres_store(source, store)
    item = store.get(ANN, "tea")
    assert item is not None
    assert timedelta(days=1) <= item.updated_at - item.created_at < timedelta(days=1, seconds=60)


def test_an_item_that_is_put_again_while_it_is_read_takes_no_vector_of_another_text(
    source: str, store: SemanticStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = transfer._known

    def late(*args: Any) -> Any:
        with PostgresStore.from_conn_string(source, index=index(HashEmbeddings())) as old:
            old.put(ANN, "tea", {"text": "Ann drinks beer."})
        return known(*args)

    monkeypatch.setattr(transfer, "_known", late)
    report = import_postgres_store(source, store)
    assert (report.vectors_copied, report.texts_embedded) == (6, 1)
    (best, *_) = store.search(ANN, query="Ann drinks green tea.", mode="vector")
    assert best.value["text"] == "Ann drinks green tea."  # what was read, with a vector of its own
    assert best.score == pytest.approx(1, abs=2e-3)
