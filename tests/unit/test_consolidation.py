"""Keeping facts few, and counting what is wrong with them."""

import time
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.memory import InMemoryStore

from memkit import FactBook, StalenessPolicy
from memkit.errors import ConfigError
from memkit.facts import Fact, audit, consolidate
from memkit.facts.sameness import near_copies

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def fact(text: str, at: datetime = MARCH, key: str = "", **more: Any) -> Fact:
    values: dict[str, Any] = {"first_seen": at, "last_updated": at, "last_confirmed": at, **more}
    return Fact(text, key=key or text, **values)


def source(*ids: str, thread: str = "t") -> dict[str, Any]:
    return {"thread_id": thread, "message_ids": list(ids)}


def after(facts: list[Fact], **limits: Any) -> dict[str, Fact]:
    consolidation = consolidate(facts, NOW, **limits)
    kept = {f.key: f for f in facts} | {f.key: f for f in consolidation.changed}
    return {key: f for key, f in kept.items() if key not in consolidation.deleted}


def test_near_duplicates_become_one_and_stay_readable() -> None:
    facts = [
        fact("I live near 14 Linden Street in Leipzig", MARCH, "a", source=source("m1")),
        fact("I live near 14 Linden Street, Leipzig", MAY, "b", source=source("m2")),
        fact("I live near 14 Linden Street in Leipzig", NOW, "c", source=source("x", thread="u")),
    ]
    consolidation = consolidate(facts, NOW)
    assert (consolidation.merged, consolidation.deleted) == (2, [])
    kept = after(facts)
    assert kept["a"].status == "current"
    assert (kept["a"].first_seen, kept["a"].last_confirmed) == (MARCH, NOW)
    assert kept["a"].message_ids == ["m1", "m2"]
    for key in "bc":
        assert (kept[key].status, kept[key].superseded_by) == ("superseded", "a")


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("I flew from Rome to Paris", "I flew from Paris to Rome"),
        ("I had a picnic with Anna in the park", "I had a picnic with Carol in the park"),
        ("I have 2 cats", "I have 3 cats"),
        ("I like tea", "I do not like tea"),
        ("I was a nurse", "I am a nurse"),
        ("I love my dog", "My dog loves me"),
        ("I am ill", "My dog is ill"),
        ("I like coffee", "I like coffee less than tea"),
        ("I am allergic to nuts and milk", "I am allergic to nut milk"),
        ("I moved in with Anna", "I moved on with Anna"),
        ("I believe in my son", "I believe my son"),
        ("I love dogs", "I love my dog"),
        ("I work on Python", "I work in Python"),
        ("I looked at the house", "I looked in the house"),
        ("I live on pasta", "I live in pasta"),
        ("I heard of Anna", "I heard Anna"),
        ("I love green tea and coffee", "I love green coffee and tea"),
        ("I was married and divorced", "I was divorced and married"),
        ("I like C++", "I like C#"),
        ("I like C", "I like C++"),
        ("I earn $500", "I earn €500"),
        ("It was -5 degrees when I left", "It was 5 degrees when I left"),
        ("I have 1.5 cats", "I have 1 5 cats"),
        ("😀", "😡"),
        ("我喜欢咖啡", "我讨厌咖啡"),
    ],
)
def test_what_differs_in_meaning_is_never_merged(a: str, b: str) -> None:
    assert consolidate([fact(a), fact(b)], NOW).merged == 0


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("I like tea", "I really like the tea!"),
        ("I live in Kiel", "I live at Kiel"),
        ("I live at 3 Harbour Road in Kiel", "I live on 3 Harbour Road, Kiel"),
        ("All of my cats are black", "All my cats are black"),
        ("I speak German and English", "I speak English and German"),
        ("I am 1.80 m tall", "I'm 1.80 m tall."),
    ],
)
def test_what_says_the_same_is_merged_whichever_was_first(a: str, b: str) -> None:
    for first, second in ((a, b), (b, a)):
        kept = after([fact(first, MARCH), fact(second, MAY)])
        assert (kept[first].status, kept[second].superseded_by) == ("current", first)


def test_a_merged_fact_has_a_source_if_any_of_its_copies_had_one() -> None:
    facts = [
        fact("I like tea", MARCH, "a", first_seen=None),
        fact("I like the tea", MAY, "b", source={**source("m2", "m1"), "checkpoint_id": "c"}),
        fact("I like tea", NOW, "c", source=source(*(f"n{i}" for i in range(40)))),
    ]
    merged = after(facts)["a"]
    assert merged.message_ids == ["m2", "m1", *(f"n{i}" for i in range(14))]
    assert (merged.source["checkpoint_id"], merged.first_seen) == ("c", MAY)


def test_a_copy_does_not_come_back_when_the_merged_fact_is_retracted() -> None:
    store = InMemoryStore()
    book = FactBook(store, ("users", "ann", "facts"))
    store.batch([book.put_of(fact(t, key=t)) for t in ("I like tea", "I like the tea")])
    assert book.consolidate(at=NOW).merged == 1
    (current,) = book.all(status="current")
    book.retract(current.key)
    assert book.all(status="current") == []
    assert {f.key for f in book.history(current.key)} == {"I like tea", "I like the tea"}


def test_people_attributes_intervals_and_data_are_kept_apart() -> None:
    facts = [
        fact("I like tea", key="e", data={"sort": "green"}),
        fact("I like tea", key="a"),
        fact("I like tea", key="b", subject="Bob"),
        fact("I like tea", key="c", attribute="name"),
        fact("I like tea", key="d", valid_to=NOW + timedelta(days=9)),
    ]
    assert consolidate(facts, NOW).merged == 0


def test_what_ended_long_ago_goes_and_links_to_it_too() -> None:
    old = NOW - timedelta(days=400)
    facts = [
        fact("I lived in Bonn", old, "gone", status="superseded", valid_to=old, superseded_by="b"),
        fact("I live in Kiel", old, "b", supersedes="gone", last_confirmed=MAY),
        fact("I lived in Rome", MARCH, "recent", status="superseded", valid_to=MAY),
        fact("I joked", old, "joke", status="retracted", valid_to=old),
        fact("I am away", old, "past", valid_to=old),
        fact("I like tea", old, "old but current"),
    ]
    kept = after(facts)
    assert set(kept) == {"b", "recent", "old but current"}
    assert kept["b"].supersedes is None
    assert set(after(facts, keep_ended="30d")) == {"b", "old but current"}
    # A time without a zone is in UTC.
    assert consolidate(facts, NOW.replace(tzinfo=None)) == consolidate(facts, NOW)
    expiring = StalenessPolicy(expire_after="90d")
    assert "old but current" not in after(facts, policy=expiring)


def test_what_was_only_now_found_to_be_over_stays_readable() -> None:
    long_ago = NOW - timedelta(days=900)
    moved = {"status": "superseded", "valid_to": long_ago, "superseded_by": "kiel"}
    facts = [
        fact("I live in Bonn", long_ago, "bonn", **moved),
        fact("I moved to Kiel", NOW - timedelta(days=1), "kiel", valid_from=long_ago),
    ]
    assert set(after(facts)) == {"bonn", "kiel"}
    later = consolidate(facts, NOW + timedelta(days=365))
    assert later.deleted == ["bonn"]


def test_a_cap_drops_the_least_recently_confirmed_of_a_kind_but_no_address() -> None:
    facts = [
        fact(f"I like thing {n}", MARCH + timedelta(days=n), f"k{n}", kind="preference")
        for n in range(10)
    ]
    facts.append(fact("I live in Kiel", MARCH, "home", kind="preference", attribute="home_address"))
    facts.append(fact("I own a boat", MARCH, "boat", kind="statement"))
    # It has many values, so that it has to be held to the cap as well.
    facts.append(fact("I like jazz", MARCH, "jazz", kind="preference", attribute="taste"))
    consolidation = consolidate(facts, NOW, max_per_kind=4)
    assert consolidation.over_cap == 7
    assert set(after(facts, max_per_kind=4)) == {"k6", "k7", "k8", "k9", "home", "boat"}


@pytest.mark.parametrize("limits", [{"max_per_kind": 0}, {"keep_ended": "soon"}])
def test_limits_that_make_no_sense(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        consolidate([], NOW, **limits)


TEXTS = [
    "I like tea",
    "I like the tea",
    "I live in Kiel",
    "I live at Kiel",
    "I own 2 cups",
    "I love tea and gin",
    "I love gin and tea",
    "My cup",
]
some_facts = st.lists(
    st.builds(
        lambda text, days, n, status, end, link, more: fact(
            text,
            NOW - timedelta(days=days),
            f"k{n}",
            status=status,
            valid_to=NOW + timedelta(days=end) if end else None,
            superseded_by=f"k{link}" if link else None,
            source=source(f"m{n}", thread=f"t{n % 3}") if n % 4 else {},
            **more,
        ),
        st.sampled_from(TEXTS),
        st.integers(0, 900),
        st.integers(0, 30),
        st.sampled_from(["current", "superseded", "retracted"]),
        st.sampled_from([None, -500, -5, 5]),
        st.none() | st.integers(0, 30),
        st.sampled_from(
            [
                {},
                {"attribute": "home_address"},
                {"attribute": "taste", "kind": "preference"},
                {"supersedes": "k3", "confidence": 0.5},
                {"first_seen": None, "last_confirmed": None, "last_updated": None},
                {"last_confirmed": NOW},
            ]
        ),
    ),
    max_size=14,
    unique_by=lambda f: f.key,
)


@given(some_facts)
def test_consolidating_again_changes_nothing_and_no_link_dangles_to_what_went(
    facts: list[Fact],
) -> None:
    kept = after(facts, max_per_kind=3)
    again = consolidate([*kept.values()][::-1], NOW, max_per_kind=3)
    assert (again.changed, again.deleted) == ([], [])
    gone = {f.key for f in facts} - set(kept)
    assert not [f for f in kept.values() if {f.supersedes, f.superseded_by} & gone]
    assert all(f.key in kept for f in facts if f.attribute == "home_address" and holds(f))


@given(some_facts)
def test_without_a_cap_all_that_holds_is_still_said(facts: list[Fact]) -> None:
    kept = after(facts)
    for each in filter(holds, facts):
        copy = kept[each.key]
        said = copy if copy.status == "current" else kept[copy.superseded_by or ""]
        assert (said.status, said.subject, said.attribute) == ("current", "user", each.attribute)
        small = {"in", "at"}
        assert set(said.words.split()) - small == set(each.words.split()) - small


def holds(each: Fact) -> bool:
    return each.status == "current" and (each.valid_to is None or each.valid_to > NOW)


@given(
    st.lists(
        st.lists(st.sampled_from(["ab", "cd", "ef", "gh", "kl", "mn", "not", "7"]), max_size=12),
        max_size=12,
    )
)
def test_near_copies_are_found_as_if_each_were_compared_with_all(said: list[list[str]]) -> None:
    facts = [fact(" ".join(["zz", *each]), key=str(n)) for n, each in enumerate(said)]
    copies = sum(
        any(near_copies(each.words, other.words) for other in facts[:n])
        for n, each in enumerate(facts)
    )
    assert audit(facts, NOW).near_duplicates == copies


def test_an_audit_counts_what_is_wrong() -> None:
    texts = {("t", "m1"): "I like tea in the morning.", ("t", "m2"): "I own a boat."}
    facts = [
        fact("I like tea in the morning", MAY, "a", source=source("m1")),
        fact("I like tea in the morning!", MAY, "duplicate", source=source("m1")),
        fact("I like tea in a morning sun", MAY, "near", source=source("m1")),
        fact("I have three castles", MAY, "ungrounded", source=source("m2")),
        fact("I fly", MAY, "orphaned", source=source("gone")),
        fact("I swim", MAY, "no source"),
        fact("I live in Kiel", MAY, "home", attribute="home_address", source=source("m1")),
        fact("I live in Bonn", MAY, "home 2", attribute="home_address", source=source("m1")),
        fact("I row", MARCH - timedelta(days=90), "stale", source=source("m2")),
        fact("I sat", MARCH, "over", valid_to=MAY, source=source("m2")),
        fact("I dug", MARCH, "superseded", status="superseded"),
    ]
    found = audit(facts, NOW, said=lambda thread, message: texts.get((str(thread), message)))
    assert (found.facts, found.current) == (11, 10)
    assert (found.duplicates, found.conflicting, found.expired) == (1, 1, 1)
    assert found.near_duplicates == 2
    assert found.stale == 1
    assert found.orphaned == 2
    assert found.ungrounded == 5
    assert found.rates["duplicates"] == 0.1
    # The date that was worked out is none of its words.
    dated = fact("I moved (2026-05-04 to 2026-05-10)", source=source("m3"))
    moved = audit([dated], NOW, said=lambda *_: "I moved last week")
    assert (moved.ungrounded, moved.orphaned) == (0, 0)
    unknown = audit(facts, NOW)
    assert (unknown.orphaned, unknown.ungrounded) == (None, None)
    assert unknown.rates["orphaned"] is None
    assert set(audit([], NOW).rates.values()) == {0.0, None}


@pytest.mark.parametrize("shape", ["numbered", "few words"])
def test_ten_thousand_facts_are_a_matter_of_seconds(shape: str) -> None:
    if shape == "numbered":
        texts = [f"I bought thing {n} in shop {n % 97} for Mia" for n in range(10_000)]
    else:
        pick = Random(1)  # noqa: S311 - the same texts in every run
        vocabulary = [f"w{a}{b}" for a in "abcdefghij" for b in "klmnopqrst"]
        texts = [" ".join(["zz", *pick.sample(vocabulary, 6)]) for _ in range(10_000)]
    facts = [fact(text, key=str(n)) for n, text in enumerate(texts)]
    start = time.perf_counter()
    found = audit(facts, NOW)
    consolidation = consolidate(facts, NOW, max_per_kind=10_000)
    assert found.near_duplicates < 100
    assert consolidation.merged == found.duplicates
    # Each with each took minutes; the slack is for busy machines.
    assert time.perf_counter() - start < 30
