"""FactBook: reading and changing one person's facts, on any store, sync and async."""

import asyncio
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from threading import Thread
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.base import BaseStore, Op, Result
from langgraph.store.memory import InMemoryStore
from langgraph.store.postgres import PostgresStore

from memkit import SemanticStore
from memkit.effects import PutIf, arun, run
from memkit.errors import ConfigError, VersionConflict
from memkit.factbook import FactBook
from memkit.facts import Fact, history
from tests.fakes import HashEmbeddings

FACTS = ("users", "ann", "facts")
JAN, MAY = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 5, 1, tzinfo=UTC)
LEIPZIG = Fact(
    "I live in Leipzig.",
    kind="address",
    attribute="home_address",
    first_seen=JAN,
    last_updated=JAN,
    last_confirmed=JAN,
    key="leipzig",
)
TEA = Fact("I love green tea.", first_seen=JAN, last_updated=JAN, last_confirmed=JAN, key="tea")


@pytest.fixture(params=["InMemoryStore", "PostgresStore", "SemanticStore"])
def book(request: pytest.FixtureRequest) -> Iterator[FactBook]:
    stores: dict[str, Any] = {"InMemoryStore": InMemoryStore}
    if request.param == "SemanticStore":
        yield filled(request.getfixturevalue("store"))
    elif request.param == "PostgresStore":
        with PostgresStore.from_conn_string(request.getfixturevalue("empty_dsn")) as store:
            store.setup()
            yield filled(store)
    else:
        yield filled(stores[request.param]())


def filled(store: BaseStore) -> FactBook:
    book = FactBook(store, FACTS, clock=lambda: MAY)
    store.batch([book.put_of(LEIPZIG), book.put_of(TEA)])
    store.put(FACTS, "note", {"text": "", "status": "current"})  # no fact
    store.put(("users", "ann", "facts2"), "neighbour", TEA.to_value())
    store.put((*FACTS, "below"), "child", TEA.to_value())
    return book


def both(book: FactBook, name: str, *args: Any, mode: str, **kwargs: Any) -> Any:
    if mode == "sync":
        return getattr(book, name)(*args, **kwargs)
    return asyncio.run(getattr(book, f"a{name}")(*args, **kwargs))


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_facts_are_read_confirmed_corrected_and_retracted(book: FactBook, mode: str) -> None:
    def call(name: str, *args: Any, **kwargs: Any) -> Any:
        return both(book, name, *args, mode=mode, **kwargs)

    assert {f.key for f in call("all")} == {"leipzig", "tea"}
    assert call("get", "tea") == TEA
    assert call("get", "unknown") is None
    (confirmed,) = call("confirm", "tea")
    assert confirmed == TEA.changed(last_confirmed=MAY)
    kiel = call("correct", "leipzig", "I live in Kiel.")
    assert call("correct", "leipzig", "I live in Kiel.") == kiel  # once more changes nothing
    assert (kiel.attribute, kiel.supersedes) == ("home_address", "leipzig")
    assert [f.key for f in call("history", "leipzig")] == ["leipzig", kiel.key]
    assert [f.key for f in call("all", status="superseded")] == ["leipzig"]
    assert {f.text for f in call("all", as_of=JAN)} == {LEIPZIG.text, TEA.text}
    with pytest.raises(ConfigError, match="superseded"):
        call("correct", "leipzig", "I live in Bonn.")
    (still,) = call("confirm", "leipzig")
    assert still.status == "superseded"
    (taken,) = call("retract", kiel.key)
    assert taken.status == "retracted"
    assert call("retract", kiel.key) == [taken]
    assert call("get", "leipzig").status == "current"
    with pytest.raises(ConfigError, match="no fact"):
        call("retract", "tea", "unknown")
    assert call("get", "tea") == confirmed  # all or nothing


def test_a_correction_that_says_the_same_confirms(book: FactBook) -> None:
    assert book.correct("tea", "i love green tea").key == "tea"
    assert book.all(status="superseded") == []


def test_a_book_of_more_facts_than_a_page(book: FactBook) -> None:
    puts = [book.put_of(TEA.changed(text=f"I own {n} cups.", key=f"k{n}")) for n in range(1_200)]
    book.store.batch(puts)
    assert len(book.all()) == 1_202


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_who_comes_second_decides_on_what_the_first_one_wrote(
    store: SemanticStore, mode: str
) -> None:
    book = filled(store)
    seen = []

    def decide(items: list[Any]) -> Any:
        (fact,) = book.facts_of(items)
        seen.append(fact.confidence)
        if len(seen) == 1:  # somebody else is faster
            other = Thread(target=book.confirm, args=["tea"], kwargs={"at": MAY})
            other.start()
            other.join()
        return [book.put_of(fact.changed(confidence=0.5))], fact

    body = book.transaction(book.gets(["tea"]), decide)
    before = run(body) if mode == "sync" else asyncio.run(arun(body))
    assert len(seen) == 2
    assert before.last_confirmed == MAY
    after = book.get("tea")
    assert after is not None
    assert (after.last_confirmed, after.confidence) == (MAY, 0.5)


class Contested(InMemoryStore):
    """A store on which somebody else is always faster."""

    supports_versions = True
    attempts = 0

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        ops = list(ops)
        if any(isinstance(op, PutIf) for op in ops):
            self.attempts += 1
            raise VersionConflict
        return super().batch(ops)


def test_a_change_that_never_gets_through_is_an_error_in_the_end() -> None:
    store = Contested()
    book = filled(store)
    with pytest.raises(VersionConflict, match="try again"):
        book.confirm("tea")
    assert 10 < store.attempts < 1_000


def test_a_book_needs_a_namespace() -> None:
    with pytest.raises(ConfigError):
        FactBook(InMemoryStore(), ())


def test_what_did_not_change_is_not_written(store: SemanticStore) -> None:
    book = filled(store)
    embed = store.embeddings
    assert isinstance(embed, HashEmbeddings)
    book.confirm("tea", at=MAY)
    calls = len(embed.document_calls)
    book.confirm("tea", at=JAN)
    assert len(embed.document_calls) == calls


def test_a_correction_replaces_whatever_words_it_has() -> None:
    book = filled(InMemoryStore())
    new = book.correct("tea", "Coffee is what I drink.")
    assert {f.text: f.status for f in book.all() if f.key in {"tea", new.key}} == {
        TEA.text: "superseded",
        new.text: "current",
    }


@pytest.mark.parametrize("backwards", [False, True])
def test_what_is_taken_back_together_stays_taken_back(*, backwards: bool) -> None:
    book = filled(InMemoryStore())
    keys = ["leipzig", book.correct("leipzig", "I live in Kiel.").key]
    book.retract(*(reversed(keys) if backwards else keys))
    assert [f.key for f in book.all(status="current")] == ["tea"]
    again = book.correct("tea", "I love black tea.")
    book.retract(again)
    assert book.correct("tea", "I love black tea.", at=datetime(2026, 6, 1)).status == "current"  # noqa: DTZ001


def test_a_time_without_a_zone_is_utc() -> None:
    book = filled(InMemoryStore())
    (fact,) = book.confirm("tea", at=datetime(2026, 6, 1))  # noqa: DTZ001 - the case
    assert fact.last_confirmed == datetime(2026, 6, 1, tzinfo=UTC)
    assert [f.key for f in book.all()] == ["tea", "leipzig"]


def test_a_users_book_is_found_by_the_id_as_it_is() -> None:
    book = FactBook.of_user(InMemoryStore(), "ann@example.com")
    assert book.namespace == ("users", "ann@example%2Ecom", "facts")
    for wrong in ("users", ("users", "a.b"), ("users", "{user_id}")):
        with pytest.raises(ConfigError):
            FactBook(InMemoryStore(), wrong)


@given(
    st.lists(st.tuples(st.none() | st.integers(0, 7), st.none() | st.integers(0, 7)), max_size=8)
)
def test_a_history_is_read_link_by_link(links: list[tuple[int | None, int | None]]) -> None:
    def name(number: int | None) -> str | None:
        return None if number is None else f"k{number}"

    book = FactBook(InMemoryStore(), ("users", "ann", "facts"))
    facts = [
        Fact(f"I own {n}", key=f"k{n}", supersedes=name(before), superseded_by=name(after))
        for n, (before, after) in enumerate(links)
    ]
    book.store.batch([book.put_of(fact) for fact in facts])
    for number in range(8):
        assert book.history(f"k{number}") == history(book.all(), f"k{number}")
