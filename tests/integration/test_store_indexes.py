"""Indexes of what has grown large: what they find, when they are built, and that they are used."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest
from langchain_core.embeddings import Embeddings
from langgraph.store.base import PutOp, SearchOp
from pgvector.psycopg import register_vector

from memkit.effects import ThreadSearch
from memkit.errors import ConfigError, DimensionMismatch
from memkit.store import SemanticStore, indexes, threads
from memkit.store.indexes import Built, settings
from memkit.store.plan import SearchMode
from memkit.store.search import Boosts, Reach, ranked
from memkit.store.vectors import VectorSpace

BIG = ("users", "big")
DIMS = 64
ITEMS = 1_500


class Drawn(Embeddings):
    """Vectors drawn once per text: around a few directions, or in any."""

    def __init__(self, dims: int = DIMS, *, topics: int = 0) -> None:
        self._rng = np.random.default_rng(7)
        self._topics = self._rng.standard_normal((topics, dims)) if topics else None
        self._known: dict[str, list[float]] = {}
        self.dims = dims
        self.embedded = 0

    def embed_query(self, text: str) -> list[float]:
        if text not in self._known:
            vector = self._rng.standard_normal(self.dims)
            if self._topics is not None:
                vector = self._topics[len(self._known) % len(self._topics)] * 2 + vector * 0.8
            self._known[text] = (vector / np.linalg.norm(vector)).tolist()
        return self._known[text]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        self.embedded += len(texts)
        return [self.embed_query(text) for text in texts]


@pytest.fixture(autouse=True)
def pays_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if everything were ten times as large, and each process looked at once what there is."""
    monkeypatch.setattr(indexes, "PAYS_FROM", 1_000)
    monkeypatch.setattr(indexes, "_BELIEVED_S", 0.0)


Open = Callable[..., SemanticStore]


@pytest.fixture
def opened(dsn: str) -> Iterator[Open]:
    stores = []

    def open_(embeddings: Embeddings | None = None, **index: Any) -> SemanticStore:
        embeddings = embeddings or Drawn()
        mode = index.pop("search_mode", "vector")
        config: Any = {"dims": getattr(embeddings, "dims", DIMS), "embed": embeddings, **index}
        config["fields"] = ["text"]
        store = SemanticStore.from_conn_string(dsn, index=config, search_mode=mode)
        stores.append(store)
        store.setup()
        return store

    yield open_
    for store in stores:
        store.close()


def fill(store: SemanticStore, count: int = ITEMS, *, start: int = 0) -> None:
    """Put items of one large tenant, and of ten small ones beside it."""
    kinds = ("rare", *["plain"] * 49)
    puts = [
        PutOp(
            (*BIG, "facts" if n % 3 else "turns"),
            str(n),
            {"text": f"word{n % 40} says item {n}", "kind": kinds[n % 50], "n": n},
        )
        for n in range(start, start + count)
    ]
    puts += [
        PutOp(("users", f"small{n % 10}", "facts"), str(n), {"text": f"small {n}", "n": n})
        for n in range(start, start + 100)
    ]
    store.batch(puts)


def keys(items: Any) -> list[str]:
    return [item.key for item in items]


def execute(dsn: str, statement: str) -> list[Any]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


def names(dsn: str) -> list[str]:
    rows = execute(
        dsn,
        "SELECT indexrelid::regclass::text FROM pg_index"
        " WHERE indrelid = 'memkit_passages'::regclass AND NOT indisprimary ORDER BY 1",
    )
    return [name for (name,) in rows if name != "memkit_passages_by_position"]


SHAPES: list[dict[str, Any]] = [
    {},
    {"distance_type": "l2"},
    {"distance_type": "inner_product", "ann_index_config": {"vector_type": "vector"}},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("topics", [0, 30])
def test_an_index_finds_what_looking_at_all_finds(
    opened: Open, topics: int, shape: dict[str, Any]
) -> None:
    embeddings = Drawn(topics=topics)
    store = opened(embeddings, **shape)
    fill(store)
    config = {**shape, "ann_index_config": {**shape.get("ann_index_config", {}), "kind": "flat"}}
    exact = opened(embeddings, **config)
    built = store.build_indexes()
    assert [b.scope for b in built] == ["users.big", ""]
    assert all(b.probes is None or (b.recall or 0) >= 0.99 for b in built)
    assert topics == 0 or all(b.probes is not None for b in built)
    for prefix in (BIG, (*BIG, "facts"), ("users",), ()):
        for wanted in (None, {"kind": "rare"}, {"n": {"$gt": 700}}, {"kind": {"$eq": "plain"}}):
            found = 0
            for n in range(10):
                asked: dict[str, Any] = {"query": f"question {n}", "filter": wanted}
                known = keys(exact.search(prefix, **asked))
                near = keys(store.search(prefix, **asked))
                assert len(near) == len(known) == 10
                found += len(set(near) & set(known))
            assert found >= 95, (prefix, wanted)


@pytest.mark.parametrize("mode", ["hybrid", "text"])
def test_words_by_index_rank_as_without(opened: Open, mode: Any) -> None:
    embeddings = Drawn(topics=30)
    store = opened(embeddings, search_mode="hybrid")
    fill(store)
    exact = opened(embeddings, search_mode="hybrid", ann_index_config={"kind": "flat"})
    store.build_indexes()
    for prefix in (BIG, ("users",)):
        for query in ("word7 item 47", "what says word3?", "small 17", "'\\ & | !"):
            known = exact.search(prefix, query=query, mode=mode)
            near = store.search(prefix, query=query, mode=mode)
            assert len(set(keys(near)) & set(keys(known))) >= 0.9 * len(known), query
            assert len(near) == len(known)


def test_as_many_as_there_are_whatever_the_filter_and_page(opened: Open, dsn: str) -> None:
    store = opened(Drawn(topics=30))
    fill(store)
    store.build_indexes()
    few = {"n": {"$lt": 7}}
    assert len(store.search(BIG, query="x", filter=few)) == 7
    assert len(store.search(BIG, query="x", filter={"kind": "rare"}, limit=100)) == 30
    assert store.search(BIG, query="x", filter={"kind": "none"}) == []
    assert len(store.search(BIG, query="x", limit=2_000)) == ITEMS
    pages = [keys(store.search(BIG, query="x", limit=100, offset=o)) for o in (0, 100, 1_450)]
    assert [len(page) for page in pages] == [100, 100, 50]
    execute(dsn, "UPDATE memkit_items SET expires_at = now() WHERE value->>'kind' = 'plain'")
    assert len(store.search(BIG, query="x", limit=30)) == 30
    assert len(store.search(BIG, query="x", limit=31)) == 30


def test_what_is_written_later_is_found(opened: Open) -> None:
    embeddings = Drawn(topics=30)
    store = opened(embeddings)
    fill(store)
    store.build_indexes()
    store.put((*BIG, "facts"), "new", {"text": "the very same question"})
    assert keys(store.search(BIG, query="the very same question", limit=1)) == ["new"]
    store.put((*BIG, "facts"), "new", {"text": "something else"})
    assert keys(store.search(BIG, query="the very same question", limit=1)) != ["new"]
    store.delete((*BIG, "facts"), "new")
    assert "new" not in keys(store.search(BIG, query="something else", limit=50))


def test_slow_searches_lead_to_indexes(
    opened: Open, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_SLOW_S", 0.0)
    flat = opened(Drawn(topics=30), ann_index_config={"kind": "flat"})
    fill(flat)
    flat.search(BIG, query="x")
    store = opened(Drawn(topics=30))
    store.search(("users", "small1"), query="x")
    store.search(BIG, query="x")
    deadline = time.monotonic() + 30
    while not execute(dsn, "SELECT scope FROM memkit_indexes"):
        assert time.monotonic() < deadline, "no index was built"
        time.sleep(0.05)
    assert execute(dsn, "SELECT scope FROM memkit_indexes") == [("users.big",)]
    assert len(store.search(BIG, query="x")) == 10


def test_indexes_follow_the_size(opened: Open, dsn: str) -> None:
    store = opened(Drawn(topics=30))
    fill(store, 900)
    assert [b.scope for b in store.build_indexes()] == [""]  # with those of others it is enough
    fill(store, 300, start=900)
    assert [b.scope for b in store.build_indexes()] == ["users.big"]
    assert store.build_indexes() == []
    before = names(dsn)
    assert len(before) == 6
    fill(store, 4_000, start=1_200)
    assert {b.scope for b in store.build_indexes()} == {"", "users.big"}
    assert len(names(dsn)) == 6
    assert not set(names(dsn)) & set(before)
    store.batch([PutOp((*BIG, "facts"), str(n), None) for n in range(5_200)])
    store.batch([PutOp((*BIG, "turns"), str(n), None) for n in range(5_200)])
    assert store.build_indexes() == []
    assert names(dsn) == []


def test_one_process_builds_at_a_time(opened: Open, dsn: str) -> None:
    stores = [opened(Drawn(topics=30)) for _ in range(3)]
    fill(stores[0])
    built: list[Built] = []
    threads = [
        threading.Thread(target=lambda store=store: built.extend(store.build_indexes()))
        for store in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(b.scope for b in built) == ["", "users.big"]
    assert len(names(dsn)) == 6


def test_a_build_that_was_cut_off_leaves_searches_right_and_is_made_up_for(
    opened: Open, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(Drawn(topics=30))
    fill(store)
    create = indexes._Builder._create

    def cut_off(builder: Any, method: str, *rest: Any) -> str:
        if method == "ivfflat":
            builder._connection.close()
        return create(builder, method, *rest)

    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)  # no search builds beside this
    monkeypatch.setattr(indexes, "_ASK_AGAIN_S", 0.05)
    with monkeypatch.context() as patch:
        patch.setattr(indexes._Builder, "_create", cut_off)
        with pytest.raises(Exception, match="closed"):
            store.build_indexes()
    assert len(store.search(BIG, query="x")) == 10
    built = store._indexes.build(wait=True)  # as soon as the server has noticed
    assert {b.scope for b in built} == {"", "users.big"}
    assert len(names(dsn)) == 6


def test_a_build_that_failed_may_be_repeated_at_once(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(Drawn(topics=30))
    fill(store)
    with monkeypatch.context() as patch:
        patch.setattr(indexes._Builder, "_fathom", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.build_indexes()
    assert {b.scope for b in store.build_indexes()} == {"", "users.big"}


def test_closing_ends_a_build(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(Drawn(topics=30))
    fill(store)
    began = threading.Event()

    def slow(builder: Any, *_: Any) -> Any:
        began.set()
        time.sleep(0.5)  # the first cancel comes between two statements
        builder._execute("SELECT pg_sleep(60)")

    monkeypatch.setattr(indexes, "_SLOW_S", 0.0)
    monkeypatch.setattr(indexes._Builder, "_fathom", slow)
    store.search(BIG, query="x")
    assert began.wait(30)
    start = time.monotonic()
    store.close()
    assert time.monotonic() - start < 20


# What the planner makes of it


@contextmanager
def plans(dsn: str) -> Iterator[Callable[..., str]]:
    space = VectorSpace(DIMS)
    with psycopg.connect(dsn, autocommit=True) as connection:
        register_vector(connection)
        connection.execute("ANALYZE")

        def plan(
            prefix: tuple[str, ...],
            reach: Reach | None = None,
            mode: SearchMode = "vector",
            **kwargs: Any,
        ) -> str:
            op = SearchOp(prefix, query="word1", limit=10, **kwargs)
            vector = space.encode([1.0] * DIMS, "")
            first = ranked(op, mode, space=space, vector=vector, language="english", reach=reach)[0]
            with connection.transaction():
                if reach is not None:
                    connection.execute(settings(reach).encode())
                rows = connection.execute(
                    b"EXPLAIN " + first.sql.encode(), first.params, prepare=False
                ).fetchall()
            return "\n".join(line for (line,) in rows)

        yield plan


def test_plans(opened: Open, dsn: str) -> None:
    store = opened(Drawn(topics=30))
    fill(store, 6_000)
    store.build_indexes()
    rows = execute(dsn, "SELECT scope, passages, probes FROM memkit_indexes")
    reach = {scope: Reach(passages, probes) for scope, passages, probes in rows}
    with plans(dsn) as plan:
        large = plan(BIG, reach["users.big"])
        below = plan((*BIG, "facts"), reach["users.big"])
        filtered = plan(BIG, reach["users.big"], filter={"kind": "rare"})
        both = plan((*BIG, "facts"), reach["users.big"], filter={"kind": "rare"})
        tree = plan(("users",), reach[""])
        small = plan(("users", "small1"))
        modes: list[SearchMode] = ["hybrid", "text"]
        by_words = {mode: plan(BIG, reach["users.big"], mode) for mode in modes}
        tree_by_words = {mode: plan(("users",), reach[""], mode) for mode in modes}
        small_by_words = {mode: plan(("users", "small1"), None, mode) for mode in modes}
    digest = "memkit_near_" + indexes._Builder(None, "users.big", None)._digest  # type: ignore[arg-type]
    assert digest in large
    assert digest in below
    assert digest.replace("near", "terms") in filtered
    assert digest.replace("near", "terms") in both
    assert "BitmapAnd" not in both
    assert "memkit_near_all" in tree
    assert "memkit_passages_pkey" in small
    assert digest in by_words["hybrid"]
    assert "memkit_near_all" in tree_by_words["hybrid"]
    for mode in modes:
        assert digest.replace("near", "words") in by_words[mode]
        assert "memkit_words_all" in tree_by_words[mode]
        assert "memkit_passages_pkey" in small_by_words[mode]
        for plan_ in (by_words[mode], tree_by_words[mode], small_by_words[mode]):
            assert "Seq Scan" not in plan_
            assert "memkit_items_pkey" in plan_
    for plan_ in (large, below, filtered, both, tree, small):
        assert "Seq Scan on memkit_passages" not in plan_
        assert plan_ is tree or "memkit_items_pkey" in plan_


def test_plans_of_searches_in_threads(opened: Open, dsn: str) -> None:
    store = opened(Drawn(topics=30), search_mode="hybrid")
    puts = [
        PutOp(
            BIG,
            str(n),
            {"text": f"word{n % 40} says {n}", "thread_id": f"t{n // 50}", "position": n % 50},
        )
        for n in range(6_000)
    ]
    store.batch([*puts, *(PutOp(("users", "small"), str(n), {"text": "x"}) for n in range(50))])
    store.build_indexes()
    rows = execute(dsn, "SELECT scope, passages, probes FROM memkit_indexes")
    reach = {scope: Reach(passages, probes) for scope, passages, probes in rows}
    space = VectorSpace(DIMS)
    found = {}
    with psycopg.connect(dsn, autocommit=True) as connection:
        register_vector(connection)
        connection.execute("ANALYZE")
        for prefix, scope in ((BIG, "users.big"), (("users",), ""), (("users", "small"), None)):
            first = threads.around(
                ThreadSearch(prefix, "word1", "word1"),
                space=space,
                vector=space.encode([1.0] * DIMS, ""),
                language="english",
                reach=None if scope is None else reach[scope],
            )
            with connection.transaction():
                if scope is not None:
                    connection.execute(settings(reach[scope]).encode())
                lines = connection.execute(
                    b"EXPLAIN " + first.sql.encode(), first.params, prepare=False
                ).fetchall()
            found[scope] = "\n".join(line for (line,) in lines)
    digest = indexes._Builder(None, "users.big", None)._digest  # type: ignore[arg-type]
    for scope, own in (("users.big", digest), ("", "all")):
        assert f"memkit_near_{own}" in found[scope]
        assert f"memkit_words_{own}" in found[scope]
        assert "memkit_passages_by_position" in found[scope]
    assert "memkit_passages_pkey" in found[None]
    for plan_ in found.values():
        assert "Seq Scan" not in plan_
        assert "memkit_items_pkey" in plan_


# What fits together


@pytest.mark.parametrize(
    ("dims", "config", "near"),
    [
        (64, {}, True),
        (4_000, {}, True),
        (4_001, {}, False),
        (2_000, {"vector_type": "vector"}, True),
        (2_001, {"vector_type": "vector"}, False),
    ],
)
def test_lengths_and_precisions(
    opened: Open, monkeypatch: pytest.MonkeyPatch, dims: int, config: dict[str, Any], near: bool
) -> None:
    monkeypatch.setattr(indexes, "PAYS_FROM", 120)
    store = opened(Drawn(dims, topics=10), ann_index_config=config)
    store.batch([PutOp((*BIG, "facts"), str(n), {"text": f"text {n}"}) for n in range(120)])
    [big, tree] = store.build_indexes()
    assert (big.recall is not None) == (tree.recall is not None) == near
    assert store.search(BIG, query="text 7", limit=1)[0].key == "7"


@pytest.mark.parametrize("dims", [0, -1, 16_001, "64", None])
def test_a_length_that_nothing_stores(dsn: str, dims: Any) -> None:
    with pytest.raises(ConfigError, match="from 1 to 16,000"):
        SemanticStore.from_conn_string(dsn, index={"dims": dims, "embed": Drawn()})


def test_full_precision_on_request_keeps_every_bit(opened: Open, dsn: str) -> None:
    store = opened(Drawn(), ann_index_config={"vector_type": "vector"})
    store.put((*BIG, "facts"), "a", {"text": "tea"})
    [[stored]] = execute(dsn, "SELECT embedding::text FROM memkit_passages")
    vector = np.fromstring(stored.strip("[]"), sep=",", dtype=np.float32)
    assert np.array_equal(vector, np.asarray(Drawn().embed_query("tea"), dtype=np.float32))
    with pytest.raises(ConfigError, match="'vector_type': 'vector'"):
        opened(Drawn())
    with pytest.raises(ConfigError, match="one of halfvec, vector"):
        opened(Drawn(), ann_index_config={"vector_type": "bit"})


def test_another_model_of_the_same_length_is_refused(opened: Open) -> None:
    first, second = Drawn(), Drawn()
    first.model, second.model = "small", "other"  # type: ignore[attr-defined]
    opened(first).put((*BIG, "facts"), "a", {"text": "tea"})
    opened(first).search(BIG, query="tea")
    with pytest.raises(DimensionMismatch, match=r"made by 'small'.*'other'"):
        opened(second)


# Languages


def test_words_are_stemmed_in_the_language_of_store_and_item(opened: Open) -> None:
    store = opened(Drawn(), search_mode="hybrid", language="german", language_field="lang")
    store.put((*BIG, "facts"), "de", {"text": "Sie mag Katzen."})
    store.put((*BIG, "facts"), "en", {"text": "She likes ponies.", "lang": "english"})
    store.put((*BIG, "facts"), "odd", {"text": "Der Hunde wegen.", "lang": "klingon"})
    assert keys(store.search(BIG, query="Katze", mode="text")) == ["de"]
    assert keys(store.search(BIG, query="pony", mode="text", language="english")) == ["en"]
    assert keys(store.search(BIG, query="Hund", mode="text")) == ["odd"]
    with pytest.raises(ConfigError, match=r"'klingon'.*english"):
        store.search(BIG, query="x", mode="text", language="klingon")
    with pytest.raises(ConfigError, match=r"'klingon'.*german"):
        opened(Drawn(), language="klingon")


# Embedding once


def test_a_text_that_stands_there_is_not_embedded_again(opened: Open, dsn: str) -> None:
    embeddings = Drawn()
    store = opened(embeddings)
    where = (*BIG, "facts")
    store.put(where, "a", {"text": "tea", "n": 1})
    before = execute(dsn, "SELECT embedding::text FROM memkit_passages")
    store.batch([PutOp(where, "a", {"text": "tea", "n": 2}), PutOp(where, "b", {"text": "new"})])
    assert embeddings.embedded == 2
    assert before[0] in execute(dsn, "SELECT embedding::text FROM memkit_passages")
    assert keys(store.search(BIG, query="tea", filter={"n": 2})) == ["a"]
    assert store.search(BIG, query="tea", filter={"n": 1}) == []
    store.put(where, "a", {"text": "coffee"})
    store.put(where, "a", {"text": "tea"})
    assert embeddings.embedded == 4


# What counts besides


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_recency_and_importance_decide_between_what_is_as_near(
    opened: Open, dsn: str, mode: Any
) -> None:
    where = (*BIG, "facts")
    plain = opened(Drawn(), search_mode="hybrid")
    puts = [
        PutOp(where, str(n), {"text": "green tea", "importance": {1: 0.9, 2: "x", 3: 7}.get(n)})
        for n in range(30)
    ]
    plain.batch([*puts, PutOp(where, "far", {"text": "a red car", "importance": 1})])
    for n in range(30):
        execute(
            dsn,
            f"UPDATE memkit_items SET updated_at = now() - interval '{n} days' WHERE key = '{n}'",
        )
    recent = opened(Drawn(), search_mode="hybrid", boosts=Boosts(recency=0.2, half_life_days=10))
    found = recent.search(BIG, query="green tea", mode=mode, limit=3)
    assert keys(found) == ["0", "1", "2"]
    assert [found[0].score, found[2].score] == pytest.approx([1.2, 1 + 0.2 * 0.5**0.2], abs=2e-3)
    both = Boosts(recency=0.001, importance=0.2)
    important = opened(Drawn(), search_mode="hybrid", boosts=both)
    # The best by meaning and words are looked at, four times as many as wanted.
    assert keys(important.search(BIG, query="green tea", mode=mode, limit=8))[:3] == ["3", "1", "0"]


@pytest.mark.parametrize("wrong", [{"recency": -1}, {"importance": "a"}, {"half_life_days": 0}])
def test_boosts_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        Boosts(**wrong)
