"""Searches that see what stands around what they find."""

import asyncio
from math import log
from typing import Any

import pytest
from langgraph.store.base import PutOp

from memkit.effects import ThreadHits, ThreadSearch
from memkit.errors import ConfigError
from memkit.store import SemanticStore, indexes, threads
from memkit.store.search import Reach
from tests.conftest import Server
from tests.fakes import HashEmbeddings
from tests.integration.test_store_tenants import without_tenant

ANN = ("users", "ann", "turns")
BOB = ("users", "bob", "turns")
TURNS = 30


def turns(where: tuple[str, ...] = ANN, **texts: str) -> list[PutOp]:
    """Return two threads of turns; `t3="..."` is what is said in thread t at position 3."""
    return [
        PutOp(
            where,
            f"{thread}{n}",
            {
                "text": texts.get(f"{thread}{n}", f"filler number {n} of {thread}"),
                "thread_id": thread,
                "position": n,
            },
        )
        for thread in "tu"
        for n in range(TURNS)
    ]


def ask(store: SemanticStore, words: str, where: tuple[str, ...] = ANN, **more: Any) -> ThreadHits:
    op = ThreadSearch(where, more.pop("query", ""), words, **more)
    found: Any = store.batch([op])[0]
    assert isinstance(found, ThreadHits)
    return found


def places(found: ThreadHits) -> list[str]:
    return sorted(hit.item().key for hit in found.hits)


@pytest.fixture
def filled(store: SemanticStore) -> SemanticStore:
    store.batch(turns(t10="I saw a zebra", u0="the zebra was striped", u29="striped"))
    store.batch(turns(BOB, t5="Bob saw a zebra"))
    return store


def test_what_is_found_comes_with_what_stands_around_it(filled: SemanticStore) -> None:
    found = ask(filled, "zebra", around=2)
    assert places(found) == ["t10", "t11", "t12", "t8", "t9", "u0", "u1", "u2"]
    bits = {hit.item().key: hit.found for hit in found.hits}
    assert [key for key, found_ in bits.items() if found_] == ["t10", "u0"]
    assert places(ask(filled, "zebra", around=0)) == ["t10", "u0"]
    assert ask(filled, "giraffe").hits == []


def test_each_word_has_a_bit_and_a_rarity(filled: SemanticStore) -> None:
    found = ask(filled, "Was the zebra striped?", around=0)
    by_key = {hit.item().key: hit.found for hit in found.hits}
    assert by_key == {"t10": 0b01, "u0": 0b11, "u29": 0b10}
    idf = log(1 + (2 * TURNS - 2 + 0.5) / 2.5)
    assert found.rarity == pytest.approx([idf, idf])


def test_the_nearest_are_candidates_with_their_cosine(filled: SemanticStore) -> None:
    (first, *_) = filled.search(ANN, query="I saw a zebra", mode="vector", limit=1)
    found = ask(filled, "", query="I saw a zebra", candidates=1, around=1)
    assert places(found) == ["t10", "t11", "t9"]
    cosines = {hit.item().key: hit.cosine for hit in found.hits}
    assert cosines["t10"] == pytest.approx(first.score, abs=1e-3)
    assert None not in cosines.values()
    assert found.rarity == []


def test_an_item_says_all_that_a_search_gives_but_a_score(filled: SemanticStore) -> None:
    hit = next(hit for hit in ask(filled, "zebra").hits if hit.found)
    item = hit.item()
    assert item.score is None
    assert item.value == hit.value == filled.get(ANN, item.key).value  # type: ignore[union-attr]
    assert item.namespace == ANN


def test_items_without_a_place_stand_alone(store: SemanticStore) -> None:
    odd: tuple[dict[str, Any], ...] = (
        {},
        {"thread_id": "t"},
        {"position": 1},
        {"thread_id": 7, "position": 1},
    )
    odd += ({"thread_id": "t", "position": True}, {"thread_id": "t", "position": 1.5})
    odd += ({"thread_id": "t", "position": 2**70}, {"thread_id": "\0", "position": -3})
    store.batch(
        [PutOp(ANN, str(n), {"text": "zebra" if n == 3 else "x", **v}) for n, v in enumerate(odd)]
    )
    assert places(ask(store, "zebra", around=16)) == ["3"]
    assert len(ask(store, "x", candidates=9).hits) == len(odd) - 1


def test_the_place_changes_with_the_item(filled: SemanticStore) -> None:
    moved = {"text": "I saw a zebra", "thread_id": "u", "position": 15}
    filled.put(ANN, "t10", moved)
    assert places(ask(filled, "zebra", around=1)) == ["t10", "u0", "u1", "u14", "u15", "u16"]
    filled.put(ANN, "t10", {"text": "I saw a zebra"})
    assert places(ask(filled, "zebra", around=1)) == ["t10", "u0", "u1"]


def test_an_item_of_several_texts_has_the_words_of_all(store: SemanticStore) -> None:
    value = {"text": "zebra", "more": "lion", "thread_id": "t", "position": 0}
    store.put(ANN, "k", value, index=["text", "more"])
    (hit,) = ask(store, "zebra lion", query="lion").hits
    assert hit.found == 0b11
    (best,) = store.search(ANN, query="lion", mode="vector")
    assert hit.cosine == pytest.approx(best.score, abs=1e-3)


def test_what_has_expired_is_not_found(store: SemanticStore) -> None:
    for n, ttl in enumerate((None, 0.0005, None)):
        value = {"text": f"zebra {n}", "thread_id": "t", "position": n}
        store.put(ANN, str(n), value, ttl=ttl)
    asyncio.run(asyncio.sleep(0.05))
    assert places(ask(store, "zebra")) == ["0", "2"]


def test_beside_other_operations_and_async(filled: SemanticStore) -> None:
    op = ThreadSearch(ANN, "", "zebra", around=0)
    ops: list[Any] = [PutOp(ANN, "new", {"text": "zebra"}), op, ThreadSearch(BOB, "", "zebra")]
    results: list[Any] = asyncio.run(filled.abatch(ops))
    got, found, other = results
    assert got is None
    assert places(found) == ["t10", "u0"]  # reads come first
    assert {hit.item().namespace for hit in other.hits} == {BOB}


def test_without_embeddings_the_words_find(dsn: str) -> None:
    with SemanticStore.open(dsn, search_mode="text") as store:
        store.setup()
        store.batch(turns(t10="I saw a zebra"))
        found = ask(store, "zebra", query="zebra", around=1)
        assert places(found) == ["t10", "t11", "t9"]
        assert {hit.cosine for hit in found.hits} == {None}


def test_a_store_that_indexes_nothing_finds_nothing(dsn: str) -> None:
    with SemanticStore.from_conn_string(dsn) as store:
        store.setup()
        store.put(ANN, "k", {"text": "zebra"})
        assert ask(store, "zebra") == ThreadHits([], [])


@pytest.mark.parametrize("wrong", [{"around": -1}, {"candidates": 1.5}])
def test_numbers_that_make_no_sense_are_refused(store: SemanticStore, wrong: Any) -> None:
    with pytest.raises(ConfigError):
        ask(store, "zebra", **wrong)


def test_below_row_level_security(role: str) -> None:
    with SemanticStore.open(role, embed=HashEmbeddings()) as store:
        store.batch([*turns(t10="I saw a zebra"), *turns(BOB, t5="a zebra")])
        assert places(ask(store, "zebra", around=1)) == ["t10", "t11", "t9"]
        assert places(ask(store, "zebra", ("users",), around=0)) == ["t10", "t5"]


def test_by_an_index_the_same_is_found(
    dsn: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "_BELIEVED_S", 0.0)
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)
    with SemanticStore.open(dsn, embed=HashEmbeddings()) as store:
        store.setup()
        store.batch(turns(t10="I saw a zebra", u0="the zebra was striped", u29="striped"))
        store.batch(turns(BOB, t5="Bob saw a zebra"))

        def all_of_it() -> list[Any]:
            return [
                sorted((hit.item().key, round(hit.cosine or 0, 5), hit.found) for hit in found.hits)
                for where in (ANN, ANN[:2], ("users",))
                for found in (
                    ask(store, "zebra", where, query="I saw a zebra", candidates=2, around=2),
                    ask(store, "zebra striped", where, candidates=50, around=3),
                )
            ]

        before = all_of_it()
        monkeypatch.setattr(indexes, "PAYS_FROM", 50)
        assert {built.scope for built in store.build_indexes()} >= {"users.ann", ""}
        assert all_of_it() == before


@pytest.mark.parametrize("labels", [ANN, ANN[:2]])
def test_every_statement_names_its_tenant(labels: tuple[str, ...]) -> None:
    from memkit.store.vectors import VectorSpace

    for reach in (None, Reach(9_000, 5)):
        for space in (VectorSpace(64), None):
            statement = threads.around(
                ThreadSearch(labels, "q", "q"),
                space=space,
                vector=None,
                language="english",
                reach=reach,
            )
            assert without_tenant(statement.sql) == []
