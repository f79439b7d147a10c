"""What a new statement does to known ones, and what held when."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import ConfigError
from memkit.facts import Fact, abandoned, as_of, history, reconcile
from memkit.facts.sameness import canonical, near_copies
from memkit.facts.succession import take_back

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)
JULY = datetime(2026, 7, 1, tzinfo=UTC)


def fact(text: str, at: datetime = MARCH, key: str = "", **more: Any) -> Fact:
    values: dict[str, Any] = {"first_seen": at, "last_updated": at, "last_confirmed": at, **more}
    return Fact(text, key=key or text, **values)


def address(text: str, at: datetime, key: str = "", **more: Any) -> Fact:
    return fact(text, at, key, kind="address", attribute="home_address", **more)


def after(existing: list[Fact], *proposed: Fact, now: datetime = JULY) -> dict[str, Fact]:
    """The facts by key once proposals were reconciled one after the other."""
    known = {f.key: f for f in existing}
    for change in reconcile(existing, proposed, now):
        known.update((f.key, f) for f in change.facts)
    return known


def actions(existing: list[Fact], *proposed: Fact) -> list[str]:
    return [change.action for change in reconcile(existing, proposed, JULY)]


def test_a_new_address_supersedes_the_old_one_and_both_are_linked() -> None:
    old = address("I live at 14 Linden Street", MARCH, "old")
    (change,) = reconcile([old], [address("I moved to 3 Harbour Road", MAY, "new")], MAY)
    assert change.action == "supersede"
    assert (change.fact.supersedes, change.fact.valid_from) == ("old", MAY)
    assert change.previous is not None
    assert change.previous.text == old.text
    assert (change.previous.status, change.previous.valid_to) == ("superseded", MAY)
    assert change.previous.superseded_by == "new"


def test_moving_house_twice_leaves_one_address_and_the_whole_history() -> None:
    known = after(
        [address("I live in Leipzig", MARCH, "a")],
        address("I moved to Kiel", MAY, "b"),
        address("I moved to Bonn", JULY, "c"),
    )
    assert [f.key for f in known.values() if f.status == "current"] == ["c"]
    for key in "abc":
        assert [f.key for f in history(known.values(), key)] == ["a", "b", "c"]
    assert history(known.values(), "unknown") == []
    days = (MARCH, MAY - timedelta(days=1), MAY, JULY)
    assert [[f.key for f in as_of(known.values(), day)] for day in days] == [
        ["a"],
        ["a"],
        ["b"],
        ["c"],
    ]


@pytest.mark.parametrize(
    "again",
    [
        "i live at 14 linden street!",
        "As I said, I still live at 14 Linden Street.",
        "The user lives at 14 Linden Street",
    ],
)
def test_what_is_said_again_is_confirmed_and_only_its_confirmation_moves(again: str) -> None:
    old = address("I live at 14 Linden Street", MARCH, "old")
    (change,) = reconcile([old], [address(again, MAY, "new")], MAY)
    assert (change.action, change.fact.key) == ("confirm", "old")
    assert change.fact.last_confirmed == MAY
    assert change.fact.last_updated == change.fact.first_seen == MARCH
    assert change.fact.text == old.text


@pytest.mark.parametrize(
    ("known", "said", "confirms"),
    [
        ("I live at 14 Linden Street in Leipzig", "I live in Leipzig", True),
        ("I live at 14 Linden Street, Leipzig", "I live in Leipzig", True),
        ("I live in York", "I moved to New York", False),
        ("I live in New York", "I live in York", False),
        ("I live at 14 Linden Street, Apartment 4", "I live at 4 Linden Street", False),
        ("I live at 5 Paris Street, Exeter", "I live in Paris", False),
    ],
)
def test_only_the_end_of_an_address_repeats_it(known: str, said: str, *, confirms: bool) -> None:
    assert actions([address(known, MARCH)], address(said, MAY)) == [
        "confirm" if confirms else "supersede"
    ]


def test_a_new_number_is_a_new_number() -> None:
    known = fact("My phone number is 555 2001", attribute="phone")
    new = fact("My new phone number is 555 2002", MAY, attribute="phone")
    assert actions([known], new) == ["supersede"]


def test_an_older_statement_that_is_heard_later_does_not_win() -> None:
    new = address("I live at 3 Harbour Road", MAY, "new")
    known = after([new], address("I live at 14 Linden Street", MARCH, "old"))
    assert known["new"].status == "current"
    assert (known["old"].status, known["old"].valid_to) == ("superseded", MAY)
    assert (known["old"].superseded_by, known["new"].supersedes) == ("new", "old")


def test_a_statement_between_first_word_and_confirmation_does_not_win_either() -> None:
    known = address("I live in Kiel", MARCH, "kiel", last_confirmed=JULY)
    found = after([known], address("I live in Bonn", MAY, "bonn"))
    assert (found["kiel"].status, found["bonn"].status) == ("current", "superseded")


def test_allergies_accumulate_and_near_opposites_stay_apart() -> None:
    facts = [
        fact("I am allergic to nuts", kind="allergy"),
        fact("I am allergic to wasps", kind="allergy"),
        fact("I am not allergic to cats", kind="allergy"),
        fact("I like coffee", kind="preference"),
        fact("I hate coffee", kind="preference"),
        fact("My sister likes coffee", kind="family"),
        fact("I flew from Rome to Paris"),
        fact("I flew from Paris to Rome"),
        fact("I have 2 cats"),
        fact("I have 3 cats"),
    ]
    assert actions([], *facts) == ["add"] * len(facts)


def test_two_addresses_in_one_batch_leave_one_current() -> None:
    known = after([], address("I live in Aachen", MARCH, "a"), address("I live in Bonn", MAY, "b"))
    assert (known["a"].status, known["b"].status) == ("superseded", "current")


def test_a_correction_in_the_same_breath_wins() -> None:
    known = after(
        [], address("I live at 14 Linden Street", MAY, "a"), address("I meant 41 Linden", MAY, "b")
    )
    assert (known["a"].status, known["b"].status) == ("superseded", "current")


def test_a_fact_about_the_past_gets_its_interval_and_ends_no_present_one() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    past = address("I lived in Berlin until February", MAY, "past", valid_to=MARCH)
    known = after([here], past)
    assert known["here"] == here
    assert (known["past"].status, known["past"].valid_to) == ("current", MARCH)
    before = MARCH - timedelta(days=30)
    assert [f.key for f in as_of(known.values(), before)] == ["past"]
    assert [f.key for f in as_of(known.values(), MAY)] == ["here"]


def test_that_the_known_value_is_over_ends_it() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    known = after([here], address("I lived in Hamburg until May", JULY, "past", valid_to=MAY))
    assert (known["here"].status, known["here"].valid_to) == ("superseded", MAY)


def test_what_begins_in_the_future_leaves_the_present_until_then() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    later = JULY + timedelta(days=60)
    known = after([here], address("I move to Kiel", JULY, "next", valid_from=later))
    assert (known["here"].status, known["here"].valid_to) == ("current", later)
    assert [f.key for f in as_of(known.values(), JULY)] == ["here"]
    assert [f.key for f in as_of(known.values(), later)] == ["next"]


def test_a_stay_that_is_to_end_stands_beside_the_home() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    stay = address("I live at the Hilton in Bonn until July", MAY, "stay", valid_to=JULY)
    known = after([here], stay)
    assert known["here"] == here
    assert [f.key for f in as_of(known.values(), JULY)] == ["here"]
    moved = after(list(known.values()), address("I moved to Kiel", MAY, "kiel"))
    assert (moved["here"].status, moved["stay"].status) == ("superseded", "current")


SEPTEMBER = JULY + timedelta(days=62)
OCTOBER = JULY + timedelta(days=92)


def held(known: dict[str, Fact], *days: datetime) -> list[list[str]]:
    return [[f.key for f in as_of(known.values(), day)] for day in days]


def test_a_plan_takes_the_place_of_an_earlier_plan() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    known = after([here], address("I move to Kiel", MAY, "kiel", valid_from=SEPTEMBER))
    known = after(list(known.values()), address("I move to Bonn", JULY, "bonn", valid_from=OCTOBER))
    assert held(known, JULY, SEPTEMBER, OCTOBER) == [["here"], ["here"], ["bonn"]]
    assert known["kiel"].status == "superseded"
    assert [f.key for f in history(known.values(), "here")] == ["here", "kiel", "bonn"]


def test_a_move_before_a_planned_one_ends_the_present_and_lasts_until_the_plan() -> None:
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I move to Kiel", MAY, "kiel", valid_from=SEPTEMBER),
        address("I moved to Bonn", JULY, "bonn"),
    )
    assert known["here"].status == "superseded"
    assert held(known, MAY, JULY, SEPTEMBER) == [["here"], ["bonn"], ["kiel"]]


def test_the_present_home_may_be_told_after_the_plan() -> None:
    known = after(
        [],
        address("I move to Kiel", MAY, "kiel", valid_from=SEPTEMBER),
        address("I live in Hamburg", JULY, "here"),
    )
    assert held(known, JULY, SEPTEMBER) == [["here"], ["kiel"]]


def test_a_plan_that_came_true_early_is_the_present() -> None:
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I move to Kiel", MAY, "plan", valid_from=SEPTEMBER),
        address("I moved to Kiel already, to stay", JULY, "kiel"),
    )
    assert held(known, JULY) == [["kiel"]]
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I will move to Kiel", MAY, "plan", valid_from=SEPTEMBER),
        address("I moved to Kiel", JULY, "kiel"),
    )
    assert held(known, JULY, OCTOBER) == [["kiel"], ["kiel"]]


@pytest.mark.parametrize("until", [None, JULY])
def test_a_plan_that_is_called_off_leaves_the_present_without_an_end(
    until: datetime | None,
) -> None:
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I move to Kiel", MAY, "kiel", valid_from=SEPTEMBER),
        retraction("I move to Kiel", supersedes="kiel", valid_to=until),
    )
    assert held(known, JULY, SEPTEMBER) == [["here"], ["here"]]
    assert (known["here"].valid_to, known["here"].superseded_by) == (None, None)


def test_a_plan_that_is_called_off_gives_way_to_the_one_before_it() -> None:
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I move to Kiel", MAY, "kiel", valid_from=SEPTEMBER),
        address("I move to Bonn", JULY, "bonn", valid_from=OCTOBER),
        retraction("That was a joke", supersedes="bonn"),
    )
    assert held(known, JULY, SEPTEMBER, OCTOBER) == [["here"], ["kiel"], ["kiel"]]


def test_a_plan_that_is_put_right_keeps_its_day() -> None:
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I move to Kiel", MAY, "kiel", valid_from=SEPTEMBER),
        address("I move to Bonn", MAY, "bonn", supersedes="kiel"),
    )
    assert held(known, JULY, SEPTEMBER) == [["here"], ["bonn"]]


def test_what_is_taken_back_from_the_middle_leaves_no_gap() -> None:
    known = after(
        [address("I live in Leipzig", MARCH, "a")],
        address("I moved to Mars", MAY, "b"),
        address("I moved to Bonn", JULY, "c"),
    )
    middle = take_back(known["b"], known.values(), JULY)
    known.update((f.key, f) for f in middle.facts)
    assert held(known, MAY, JULY) == [["a"], ["c"]]
    last = take_back(known["c"], known.values(), JULY)
    known.update((f.key, f) for f in last.facts)
    assert held(known, MAY, JULY) == [["a"], ["a"]]


def test_back_in_a_home_that_a_plan_had_ended() -> None:
    known = after(
        [address("I live in Hamburg", MARCH, "here")],
        address("I move to Kiel", MARCH, "kiel", valid_from=MAY),
        address("I live in Hamburg", JULY, "back"),
    )
    assert held(known, MARCH, MAY, JULY) == [["here"], ["kiel"], ["back"]]


def test_the_end_of_the_present_value_is_no_second_value() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    known = after([here], address("I live in Hamburg until September", JULY, valid_to=SEPTEMBER))
    assert held(known, JULY, SEPTEMBER) == [["here"], []]


def test_a_denied_value_is_no_value() -> None:
    here = address("I live in Hamburg", MARCH, "here")
    assert actions([here], address("I do not live in Berlin", MAY)) == ["add"]
    assert after([here], address("I do not live in Berlin", MAY))["here"] == here


def test_one_persons_address_does_not_touch_anothers() -> None:
    ann = address("Ann: I live in Hamburg", MARCH, "ann", subject="Ann")
    assert actions([ann], address("Bob: I live in Kiel", MAY, subject="Bob")) == ["add"]


def test_a_named_fact_is_superseded_only_where_both_speak_of_the_same() -> None:
    likes = fact("The user likes coffee", key="likes", kind="preference")
    hates = fact("The user hates coffee by now", MAY, kind="preference", supersedes="likes")
    boat = fact("The user has a boat", MAY, supersedes="likes")
    assert actions([likes], hates) == ["supersede"]
    assert actions([likes], boat) == ["add"]
    assert reconcile([likes], [boat], MAY)[0].fact.supersedes is None
    other = likes.changed(subject="Bob")
    assert actions([other], hates) == ["add"]


def retraction(text: str, **more: Any) -> Fact:
    return fact(text, MAY, "r", status="retracted", **more)


def test_a_retraction_takes_back_what_says_the_same_and_nothing_else() -> None:
    nuts, wasps = fact("I am allergic to nuts", key="n"), fact("I am allergic to wasps", key="w")
    known = after([nuts, wasps], retraction("I am allergic to nuts", valid_to=MAY))
    assert (known["n"].status, known["n"].valid_to) == ("retracted", MAY)
    assert known["w"] == wasps
    assert "r" not in known
    assert [f.key for f in as_of([known["n"]], MARCH)] == ["n"]
    assert as_of([known["n"]], MAY) == []
    assert reconcile([wasps], [retraction("I am allergic to nuts")], MAY) == []


def test_a_retracted_attribute_is_the_one_whose_value_is_named() -> None:
    here = address("I live at 3 Harbour Road in Hamburg", MARCH, "here")
    kwargs = {"kind": "address", "attribute": "home_address", "valid_to": MAY}
    assert reconcile([here], [retraction("I live in Leipzig", **kwargs)], MAY) == []
    known = after([here], retraction("I live in Hamburg", **kwargs))
    assert known["here"].status == "retracted"


def test_what_never_was_true_gives_back_what_it_had_superseded() -> None:
    known = after(
        [address("I live in Leipzig", MARCH, "old")],
        address("I moved to Mars", MAY, "new"),
        retraction("That was a joke", supersedes="new"),
    )
    assert (known["new"].status, known["old"].status) == ("retracted", "current")
    assert (known["old"].valid_to, known["old"].superseded_by) == (None, None)
    assert [f.key for f in as_of(known.values(), MAY)] == ["old"]


def test_facts_of_an_abandoned_branch_are_found() -> None:
    def checkpoint(own: str, parent: str | None) -> Any:
        place = {"thread_id": "t", "checkpoint_id": own}
        came_from = {"configurable": {"thread_id": "t", "checkpoint_id": parent}}
        return SimpleNamespace(
            config={"configurable": place}, parent_config=came_from if parent else None
        )

    line = [checkpoint("5", "2"), checkpoint("4", "3"), checkpoint("3", "2"), checkpoint("2", "1")]
    facts = [
        fact(f"from {place}", source={"thread_id": thread, "checkpoint_id": place})
        for thread, place in (("t", "2"), ("t", "3"), ("t", "4"), ("t", "0"), ("u", "3"))
    ]
    assert [f.text for f in abandoned(facts, line)] == ["from 3", "from 4"]
    assert abandoned(facts, []) == []


def test_a_fact_survives_the_way_through_the_store() -> None:
    stated = fact("x y", source={"message_ids": ["m"]}, data={"size": 3}, key="k")
    value = stated.to_value()
    assert value["last_updated"] == "2026-03-01T00:00:00+00:00"
    assert Fact.from_value("k", {**value, "unknown": 1}) == stated
    assert Fact.from_value("k", {**value, "last_updated": "2026-03-01T02:00:00+02:00"}) == stated
    broken: dict[str, Any]
    for broken in ({"text": ""}, {"source": "crm"}, {"data": []}, {"confidence": 2}):
        with pytest.raises(ConfigError):
            Fact.from_value("k", {**value, **broken})


def test_as_of_wants_a_time() -> None:
    with pytest.raises(ConfigError, match="time"):
        as_of([], "yesterday")


texts = st.sampled_from(
    [
        "I live in Leipzig",
        "I live at 14 Linden Street in Leipzig",
        "I moved to Kiel",
        "I do not live in Kiel",
        "I lived in Kiel",
    ]
)
times = st.integers(0, 400).map(lambda day: MARCH + timedelta(days=day))
statements = st.builds(
    lambda text, at, n, status, end, begin: address(
        text,
        at,
        f"{n}",
        status=status,
        valid_from=at + timedelta(days=begin) if begin and not end else None,
        valid_to=at + timedelta(days=end) if end else None,
    ),
    texts,
    times,
    st.integers(0, 10**6),
    st.sampled_from(["current", "current", "current", "retracted"]),
    st.sampled_from([None, None, -30, 30]),
    st.sampled_from([None, None, -30, 60]),
)


def is_value(f: Fact) -> bool:
    """No denial, and no stay or memory with an end of its own."""
    return "not" not in f.words.split() and (f.valid_to is None or f.superseded_by is not None)


@given(st.lists(statements, max_size=8, unique_by=lambda f: f.key))
def test_whatever_is_said_there_is_one_value_at_a_time(stated: list[Fact]) -> None:
    known = after([], *stated)
    for f in known.values():
        assert f.superseded_by is None or f.superseded_by in known
        assert f.supersedes is None or f.supersedes in known
    day = MARCH + timedelta(days=500)
    values = [f for f in as_of(known.values(), day) if f.status == "current" and is_value(f)]
    assert len(values) <= 1
    # Said again, in the same order, nothing is added.
    current = [f for f in known.values() if f.status == "current" and f.valid_to is None]
    again = [f.changed(key=f"again {f.key}") for f in current]
    assert all(c.action == "confirm" for c in reconcile(list(known.values()), again, JULY))


@given(st.lists(statements, max_size=8, unique_by=lambda f: f.key))
def test_said_in_the_order_of_time_each_day_has_one_value(stated: list[Fact]) -> None:
    # "I moved in March", said in May of what began after the present one, is a contradiction.
    plain = [f for f in stated if f.valid_from is None or f.valid_from > (f.last_updated or MARCH)]
    known = after([], *sorted(plain, key=lambda f: (f.last_updated, f.key)))
    for month in range(-2, 17):
        day = MARCH + timedelta(days=30 * month)
        values = [f for f in as_of(known.values(), day) if is_value(f)]
        assert len([f for f in values if f.status != "retracted"]) <= 1, day


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("I'm a nurse", "I am a nurse", True),
        ("I was a nurse", "I am a nurse", False),
        ("I can't eat nuts", "I cannot eat nuts", True),
        ("I don't eat nuts", "I eat nuts", False),
        ("By the way, I have two dogs", "I have two dogs", True),
        ("Ann loves Bob", "Bob loves Ann", False),
        ("The user's sister likes tea", "My sister likes tea", True),
        ("The user's sister likes tea", "The user likes tea", False),
        ("so", "well", False),
        ("I know C", "I know C++", False),
        ("It costs $5", "It costs €5", False),
        ("I weigh 1.5 stone", "I weigh 15 stone", False),
        ("I love tea", "I love tea 😊", True),
    ],
)
def test_a_statement_is_its_words_in_order(a: str, b: str, *, same: bool) -> None:
    assert (canonical(a) == canonical(b)) is same


@given(st.text(max_size=200), st.text(max_size=20))
def test_canonical_words_of_anything(text: str, subject: str) -> None:
    said = canonical(text, subject)
    assert near_copies(said, said)
    assert said == " ".join(said.split())


def test_near_copies_differ_in_no_number_and_no_negation() -> None:
    long = "i bought parcel number 3 in the shop and it was blue"
    assert near_copies(long, long.replace("blue", "green"))
    assert not near_copies(long, long.replace("3", "4"))
    assert not near_copies("i like tea in the morning", "i never like tea in the morning")
