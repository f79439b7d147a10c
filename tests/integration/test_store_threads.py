"""Searches that see what stands around what they find."""

import asyncio
from math import log
from typing import Any

import pytest
from langgraph.store.base import PutOp

from memkit.effects import ThreadSearch
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


def ask(
    store: SemanticStore, terms: str, where: tuple[str, ...] = ANN, *, query: str = "", **more: Any
) -> dict[str, float]:
    """Return what is found with its scores; with `near=` and `reach=` of those around."""
    alone = {"reach": 0, "near": (1.0,), "limit": 100, **more}
    found: Any = store.batch([ThreadSearch(where, query, terms, **alone)])[0]
    assert [item.score for item in found] == sorted((i.score for i in found), reverse=True)
    scores: dict[str, float] = {}
    for item in found:
        scores.setdefault(item.key, round(item.score, 5))  # of two tenants the better one
    return scores


@pytest.fixture
def filled(store: SemanticStore) -> SemanticStore:
    store.batch(turns(t10="I saw a zebra", u0="the zebra was striped", u29="striped"))
    store.batch(turns(BOB, t5="Bob saw a zebra"))
    return store


def rarity(seen: int, total: int = 2 * TURNS) -> float:
    return round(log(1 + (total - seen + 0.5) / (seen + 0.5)), 5)


def found_by(scores: dict[str, float]) -> dict[str, float]:
    return {key: score for key, score in scores.items() if score}


def test_a_word_counts_for_its_rarity(filled: SemanticStore) -> None:
    idf = rarity(2)
    assert found_by(ask(filled, "zebra")) == {"t10": idf, "u0": idf}
    both = found_by(ask(filled, "Was the zebra striped?"))
    assert both == {"t10": idf, "u0": pytest.approx(2 * idf, abs=1e-4), "u29": idf}
    assert found_by(ask(filled, "giraffe")) == {}
    half = ask(filled, "zebra", words=0.5)
    assert half["t10"] == pytest.approx(idf / 2, abs=1e-4)


def test_a_word_reaches_its_neighbours_and_fades(filled: SemanticStore) -> None:
    idf = rarity(2)
    scores = found_by(ask(filled, "zebra", reach=2, decay=0.5))
    assert scores == {
        "t10": idf,
        **dict.fromkeys(("t9", "t11"), pytest.approx(idf / 2, abs=1e-4)),
        **dict.fromkeys(("t8", "t12"), pytest.approx(idf / 4, abs=1e-4)),
        "u0": idf,
        "u1": pytest.approx(idf / 2, abs=1e-4),
        "u2": pytest.approx(idf / 4, abs=1e-4),
    }


def test_a_word_counts_once_from_wherever_it_is_nearest(store: SemanticStore) -> None:
    store.batch(turns(t3="a zebra", t4="one more zebra", t5="zebra again"))
    idf = rarity(3)
    scores = found_by(ask(store, "zebra", reach=4, decay=0.5))
    assert {scores[key] for key in ("t3", "t4", "t5")} == {idf}
    assert scores["t2"] == scores["t6"] == pytest.approx(idf / 2, abs=1e-4)


def test_a_gap_in_the_thread_keeps_its_distance(store: SemanticStore) -> None:
    store.batch(turns(t10="I saw a zebra"))
    for gone in ("t11", "t12", "t13"):
        store.delete(ANN, gone)
    scores = found_by(ask(store, "zebra", reach=4))
    assert set(scores) == {"t6", "t7", "t8", "t9", "t10"}


def test_meaning_counts_by_how_far_it_stands_out(filled: SemanticStore) -> None:
    scores = ask(filled, "", query="I saw a zebra", meaning=1.0)
    assert next(iter(scores)) == "t10"
    values = list(scores.values())
    mean = sum(values) / len(values)
    assert mean == pytest.approx(0, abs=1e-4)
    assert sum(v * v for v in values) / len(values) == pytest.approx(1, abs=1e-3)


def test_meaning_is_that_of_the_items_around_too(filled: SemanticStore) -> None:
    alone = ask(filled, "", query="I saw a zebra", meaning=1.0)
    around = ask(filled, "", query="I saw a zebra", meaning=1.0, near=(1.0, 0.5))
    expected = (alone["t10"] + 0.5 * alone["t9"] + 0.5 * alone["t11"]) / 2
    assert around["t10"] == pytest.approx(expected, abs=1e-3)
    assert around["u0"] == pytest.approx((alone["u0"] + 0.5 * alone["u1"]) / 1.5, abs=1e-3)


def test_no_more_than_asked_for(filled: SemanticStore) -> None:
    assert list(ask(filled, "striped zebra", limit=1)) == ["u0"]
    assert ask(filled, "striped zebra", limit=0) == {}


def test_an_item_says_all_that_a_search_gives(filled: SemanticStore) -> None:
    results: Any = filled.batch([ThreadSearch(ANN, "", "zebra", limit=1)])
    (item,) = results[0]
    assert item.value == filled.get(ANN, item.key).value  # type: ignore[union-attr]
    assert (item.namespace, item.version) == (ANN, 1)


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
    scores = ask(store, "zebra", reach=4)
    assert list(found_by(scores)) == ["3"]
    assert len(scores) == len(odd)


def test_the_place_changes_with_the_item(filled: SemanticStore) -> None:
    filled.put(ANN, "t10", {"text": "I saw a zebra", "thread_id": "u", "position": TURNS})
    assert set(found_by(ask(filled, "zebra", reach=1))) == {"t10", "u0", "u1", "u29"}
    filled.put(ANN, "t10", {"text": "I saw a zebra"})
    assert set(found_by(ask(filled, "zebra", reach=1))) == {"t10", "u0", "u1"}


def test_an_item_of_several_texts_has_the_words_of_all(store: SemanticStore) -> None:
    value = {"text": "zebra", "more": "lion", "thread_id": "t", "position": 0}
    store.put(ANN, "k", value, index=["text", "more"])
    assert ask(store, "zebra lion") == {"k": pytest.approx(2 * rarity(1, 1), abs=1e-4)}


def test_what_has_expired_is_not_found(store: SemanticStore) -> None:
    for n, ttl in enumerate((None, 0.0005, None)):
        value = {"text": f"zebra {n}", "thread_id": "t", "position": n}
        store.put(ANN, str(n), value, ttl=ttl)
    asyncio.run(asyncio.sleep(0.05))
    assert sorted(ask(store, "zebra")) == ["0", "2"]


def test_of_a_long_query_the_rarest_words_count(store: SemanticStore) -> None:
    common = " ".join(f"common{n}" for n in range(20))
    said: dict[str, Any] = {f"t{n}": common for n in range(20)}
    store.batch(turns(**said, u0="rare1 rare2"))
    scores = ask(store, f"{common} rare1 rare2")
    assert scores["u0"] == pytest.approx(2 * rarity(1), abs=1e-3)
    assert scores["t0"] == pytest.approx(10 * rarity(20), abs=1e-3)


def test_beside_other_operations_and_async(filled: SemanticStore) -> None:
    op = ThreadSearch(ANN, "", "zebra", limit=2, reach=0)
    ops: list[Any] = [PutOp(ANN, "new", {"text": "zebra"}), op, ThreadSearch(BOB, "", "zebra")]
    results: list[Any] = asyncio.run(filled.abatch(ops))
    got, found, other = results
    assert got is None
    assert {item.key for item in found} == {"t10", "u0"}  # reads come first
    assert {item.namespace for item in other} == {BOB}


def test_without_embeddings_the_words_find(dsn: str) -> None:
    with SemanticStore.open(dsn, search_mode="text") as store:
        store.setup()
        store.batch(turns(t10="I saw a zebra"))
        scores = found_by(ask(store, "zebra", query="zebra", reach=1))
        assert set(scores) == {"t10", "t11", "t9"}


def test_a_store_that_indexes_nothing_finds_nothing(dsn: str) -> None:
    with SemanticStore.from_conn_string(dsn) as store:
        store.setup()
        store.put(ANN, "k", {"text": "zebra"})
        assert ask(store, "zebra") == {}


@pytest.mark.parametrize("wrong", [{"reach": -1}, {"candidates": 1.5}, {"limit": None}])
def test_numbers_that_make_no_sense_are_refused(store: SemanticStore, wrong: Any) -> None:
    with pytest.raises(ConfigError):
        ask(store, "zebra", **wrong)


def test_below_row_level_security(role: str) -> None:
    with SemanticStore.open(role, embed=HashEmbeddings()) as store:
        store.batch([*turns(t10="I saw a zebra"), *turns(BOB, t5="a zebra")])
        assert set(found_by(ask(store, "zebra", reach=1))) == {"t10", "t11", "t9"}
        assert set(found_by(ask(store, "zebra", ("users",)))) == {"t10", "t5"}


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
                found_by(ask(store, "zebra striped", where, meaning=0.0, reach=3, candidates=50))
                for where in (ANN, ANN[:2], ("users",))
            ] + [
                list(ask(store, "zebra", where, query="I saw a zebra", candidates=5, limit=1))
                for where in (ANN, ANN[:2], ("users",))
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
