"""Facts: what is kept, what supersedes what, and when they are stale."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from memkit import StalenessPolicy
from memkit.errors import ConfigError
from memkit.facts import Fact, duration, reconcile
from memkit.facts.ask import ProposedFact, UnreadableReply, grounded, read_reply
from memkit.facts.rules import statements

MARCH = datetime(2026, 3, 1, tzinfo=UTC)
MAY = datetime(2026, 5, 1, tzinfo=UTC)


def address(text: str, at: datetime, key: str) -> Fact:
    return Fact(text, kind="address", attribute="home_address", last_updated=at, key=key)


def test_a_new_address_supersedes_the_old_one_which_stays_readable() -> None:
    old = address("I live at 14 Linden Street", MARCH, "old")
    (change,) = reconcile([old], [address("I moved to 3 Harbour Road", MAY, "new")], MAY)
    assert change.action == "supersede"
    assert change.fact.supersedes == "old"
    assert change.fact.valid_from == MAY
    assert change.previous is not None
    assert (change.previous.status, change.previous.valid_to) == ("superseded", MAY)
    assert change.previous.text == old.text


def test_what_is_said_again_is_confirmed_not_doubled() -> None:
    old = address("I live at 14 Linden Street", MARCH, "old")
    (change,) = reconcile([old], [address("i live at 14 linden street!", MAY, "new")], MAY)
    assert change.action == "confirm"
    assert (change.fact.key, change.fact.last_confirmed) == ("old", MAY)


def test_an_older_statement_that_is_heard_later_does_not_win() -> None:
    new = address("I live at 3 Harbour Road", MAY, "new")
    (change,) = reconcile([new], [address("I live at 14 Linden Street", MARCH, "old")], MAY)
    assert change.action == "add"
    assert (change.fact.status, change.fact.valid_to) == ("superseded", MAY)


def test_allergies_accumulate_and_near_opposites_stay_apart() -> None:
    facts = [
        Fact("I am allergic to nuts", kind="allergy", key="a"),
        Fact("I am allergic to wasps", kind="allergy", key="b"),
        Fact("I like coffee", kind="preference", key="c"),
        Fact("I hate coffee", kind="preference", key="d"),
    ]
    assert [c.action for c in reconcile([], facts, MAY)] == ["add"] * 4


def test_two_addresses_in_one_batch_leave_one_current() -> None:
    first, second = address("I live in A", MARCH, "a"), address("I live in B", MAY, "b")
    changes = reconcile([], [first, second], MAY)
    assert [c.action for c in changes] == ["add", "supersede"]
    assert changes[1].previous is not None
    assert changes[1].previous.key == "a"


def test_a_fact_survives_the_way_through_the_store() -> None:
    fact = Fact("x y", last_updated=MARCH, source={"message_ids": ["m"]}, key="k")
    value = fact.to_value()
    assert value["last_updated"] == "2026-03-01T00:00:00+00:00"
    assert Fact.from_value("k", {**value, "unknown": 1}) == fact
    assert Fact.from_value("k", {**value, "last_updated": "2026-03-01T02:00:00+02:00"}) == fact


def test_freshness_follows_the_last_confirmation() -> None:
    policy = StalenessPolicy(default="90d", kinds={"address": "30d"}, expire_after="1y")
    fact = Fact("I live in A", kind="address", last_updated=MARCH, last_confirmed=MARCH)
    assert policy.freshness(fact, MARCH + timedelta(days=30)) == "fresh"
    assert policy.freshness(fact, MARCH + timedelta(days=31)) == "stale"
    assert policy.freshness(fact.to_value(), MARCH + timedelta(days=31)) == "stale"
    assert policy.freshness(fact.changed(kind="job"), MARCH + timedelta(days=31)) == "fresh"
    assert policy.freshness(fact, MARCH + timedelta(days=400)) == "expired"
    confirmed = fact.changed(last_confirmed=MAY)
    assert policy.freshness(confirmed, MAY + timedelta(days=1)) == "fresh"
    assert policy.freshness(fact.changed(valid_to=MARCH), MAY) == "expired"
    assert policy.freshness(fact.changed(status="superseded"), MARCH) == "expired"
    # A time without a zone is UTC.
    assert policy.freshness(fact, datetime(2026, 3, 31)) == "fresh"  # noqa: DTZ001 - the case


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "0d", "3 months"])
def test_a_duration_that_cannot_be_read_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError):
        duration(text)
    with pytest.raises(ConfigError):
        StalenessPolicy(default=text)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I live at 14 Linden Street, Leipzig.", [("address", "home_address")]),
        ("Hello! I just moved to 3 Harbour Road in Kiel. Bye!", [("address", "home_address")]),
        ("My name is Ann Keller and I work as a nurse.", [("name", "name")]),
        ("I am allergic to peanuts.", [("allergy", None)]),
        ("Please note: I prefer e-mail over phone calls.", [("preference", None)]),
        ("My daughter Mia starts school in August.", [("family", None)]),
        ("I finished the marathon on Sunday.", [("statement", None)]),
        ("Where do I find my invoice?", []),
        ("Can I change my address.", []),
        ("If I lived in Berlin, would it be faster?", []),
        ("Maybe I will move next year.", []),
        ("The parcel is late.", []),
        ("I'm fine, thanks.", []),
        ("", []),
    ],
)
def test_first_person_statements_are_kept(text: str, kept: list[tuple[str, str | None]]) -> None:
    assert [(s.kind, s.attribute) for s in statements(text)] == kept


def test_a_models_facts_must_stand_in_what_was_said() -> None:
    said = [HumanMessage("I moved to 3 Harbour Road in Hamburg last week")]
    true = ProposedFact(text="The user moved to 3 Harbour Road in Hamburg.", message_ids=["1"])
    invented = ProposedFact(text="The user owns a boat and two dogs.", message_ids=["1"])
    assert grounded(true, said)
    assert not grounded(invented, said)
    assert not grounded(true, [AIMessage("You moved to 3 Harbour Road in Hamburg")])
    assert not grounded(true, [])


def test_replies_are_read_tolerantly_and_rubbish_is_an_error() -> None:
    one = '{"text": "The user likes tea.", "message_ids": ["1"]}'
    for reply in (
        AIMessage(f'Sure:\n```json\n{{"facts": [{one}]}}\n```'),
        AIMessage(f"[{one}]"),
        {"facts": [{"text": "The user likes tea.", "message_ids": ["1"]}]},
    ):
        assert [f.text for f in read_reply(reply)] == ["The user likes tea."]
    for bad in (AIMessage(""), AIMessage("no facts"), AIMessage('{"facts": [{"text": 1}]}'), None):
        with pytest.raises(UnreadableReply):
            read_reply(bad)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kinds": None},
        {"kinds": ["address"]},
        {"kinds": {1: "30d"}},
        {"kinds": {"address": 30}},
        {"default": 5},
        {"default": None},
        {"default": "99999999999999d"},
        {"default": "9" * 400 + "s"},
        {"expire_after": 5},
    ],
)
def test_a_staleness_policy_is_checked_when_built(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"a duration|kinds"):
        StalenessPolicy(**arguments)
