"""What stays of a thread, and why."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from langgraph.checkpoint.base.id import uuid6

from memkit.checkpoints.policy import (
    CARRIER,
    Blob,
    Retention,
    SavedCheckpoint,
    Thread,
    abandoned_writes,
    decide,
    order_of_removal,
    unreferenced,
)
from memkit.checkpoints.times import moment, time_of_id

NOW = datetime(2026, 11, 23, tzinfo=UTC)
DAY = timedelta(days=1)


def saved(number: int, *, ns: str = "", days: float = 0, **more: Any) -> SavedCheckpoint:
    """A checkpoint that continues the one numbered before it, so many days old."""
    more.setdefault("parent", f"{number - 1:03}" if number else None)
    return SavedCheckpoint(ns=ns, id=f"{number:03}", at=NOW - days * DAY, **more)


def chain(length: int, *, ns: str = "", **more: Any) -> list[SavedCheckpoint]:
    return [saved(number, ns=ns, **more) for number in range(length)]


def stays(
    checkpoints: Iterable[SavedCheckpoint], *, blobs: Iterable[Blob] = (), **asked: Any
) -> dict[str, str]:
    """Run the policy, and return what stays by namespace and id."""
    found = decide(Thread(checkpoints), Retention(**asked), NOW, list(blobs))
    return {f"{ns}/{i}": reason for (ns, i), reason in sorted(found.items())}


def test_the_last_stay_per_namespace() -> None:
    two = [*chain(4), *chain(3, ns="kept")]
    assert stays(two, keep_last=2) == {
        "/002": "last",
        "/003": "last",
        "kept/001": "last",
        "kept/002": "last",
    }


def test_only_what_is_beyond_the_last_and_older_goes() -> None:
    aged = [saved(number, days=50 - 10 * number) for number in range(5)]
    assert stays(aged, keep_last=1, older_than=25 * DAY) == {
        "/003": "young",
        "/004": "last",
    }
    assert stays(aged, keep_last=4, older_than=25 * DAY).keys() == {"/001", "/002", "/003", "/004"}


def test_what_has_no_age_is_young() -> None:
    timeless = SavedCheckpoint("", "000")
    assert stays([timeless, saved(1)], older_than=DAY)["/000"] == "young"


def test_only_what_has_the_metadata_goes() -> None:
    mixed = [saved(n, metadata={"source": "loop" if n % 2 else "input"}) for n in range(4)]
    assert stays(mixed, metadata={"source": "loop"}) == {
        "/000": "unmatched",
        "/002": "unmatched",
        "/003": "last",
    }


@pytest.mark.parametrize("how", ["metadata", "argument"])
def test_pinned_ones_stay(how: str) -> None:
    thread = chain(4)
    if how == "metadata":
        thread[1] = saved(1, metadata={"pinned": True})
    pinned = frozenset({"001"}) if how == "argument" else frozenset()
    assert stays(thread, pinned=pinned) == {"/001": "pinned", "/003": "last"}


def test_the_end_of_a_branch_with_pending_writes_stays() -> None:
    fork = SavedCheckpoint("", "0015", parent="001", writes=2)
    consumed = saved(1, writes=2)
    assert stays([saved(0), consumed, fork, saved(2), saved(3)]) == {
        "/0015": "pending",
        "/003": "last",
    }


def call(number: int, owner: str, **more: Any) -> SavedCheckpoint:
    return saved(number, ns=f"child:{owner}", metadata={"parents": {"": owner}}, **more)


def test_a_call_goes_with_the_checkpoint_that_made_it() -> None:
    thread = [*chain(3), call(10, "001", writes=1), call(11, "002"), call(12, "002")]
    assert stays(thread) == {"/002": "last", "child:002/012": "last"}


def test_a_call_of_a_kept_checkpoint_keeps_its_last() -> None:
    thread = [*chain(3), call(10, "000"), call(11, "000", parent="010")]
    assert stays(thread, pinned=frozenset({"000"})) == {
        "/000": "pinned",
        "/002": "last",
        "child:000/011": "last",
    }


def test_a_call_in_a_call_goes_with_both() -> None:
    inner = SavedCheckpoint(
        "child:001|grandchild:010", "020", metadata={"parents": {"": "001", "child:001": "010"}}
    )
    assert stays([*chain(3), call(10, "001"), inner]) == {"/002": "last"}
    kept = stays([*chain(2), call(10, "001"), inner])
    assert kept.keys() == {"/001", "child:001/010", "child:001|grandchild:010/020"}


def test_a_pinned_call_keeps_the_checkpoint_that_made_it() -> None:
    thread = [*chain(3), call(10, "001")]
    assert stays(thread, pinned=frozenset({"010"})) == {
        "/001": "subgraph",
        "/002": "last",
        "child:001/010": "pinned",
    }


def test_a_call_that_runs_before_its_caller_is_saved_stays() -> None:
    assert stays([*chain(3), call(10, "003")])["child:003/010"] == "running"


def test_a_call_whose_caller_was_never_saved_goes() -> None:
    assert stays([saved(0), saved(2), call(10, "001")]) == {"/002": "last"}


def test_a_subgraph_that_keeps_its_state_keeps_what_it_was_at_kept_checkpoints() -> None:
    inner = [SavedCheckpoint("kept", f"{n:03}5") for n in range(4)]
    assert stays([*chain(5), *inner], pinned=frozenset({"002"})) == {
        "/002": "pinned",
        "/004": "last",
        "kept/0015": "subgraph",
        "kept/0035": "last",
    }


def test_an_old_format_keeps_a_parent_that_sends() -> None:
    sends = [saved(0), saved(1), saved(2, writes=1, sends=True)]
    assert stays([*sends, saved(3, v=3)]) == {"/002": "replay", "/003": "last"}
    assert stays([*sends, saved(3, v=4)]) == {"/003": "last"}
    assert stays([*chain(3, v=1), saved(3, v=1)]) == {"/003": "last"}


def test_a_carrier_stays_only_for_the_one_behind_it() -> None:
    carrier = SavedCheckpoint("", "0", metadata={CARRIER: True}, writes=3)
    thread = [carrier, saved(1, parent="0"), saved(2)]
    assert stays(thread, keep_last=5) == {"/0": "replay", "/001": "last", "/002": "last"}
    assert stays(thread, keep_last=1) == {"/002": "last"}


def sized(number: int, **more: Any) -> SavedCheckpoint:
    return saved(number, bytes=10, versions={"messages": number}, **more)


def test_a_budget_lets_the_oldest_go_until_the_thread_fits() -> None:
    thread = [sized(number) for number in range(5)]
    blobs = [Blob("", "messages", number, 100) for number in range(5)]
    assert stays(thread, blobs=blobs, max_bytes=330) == {
        "/002": "budget",
        "/003": "budget",
        "/004": "last",
    }
    assert len(stays(thread, blobs=blobs, max_bytes=550)) == 5
    assert stays(thread, blobs=blobs, max_bytes=0) == {"/004": "last"}


def test_a_value_counts_until_its_last_user_goes() -> None:
    thread = [saved(n, bytes=10, versions={"messages": 1}) for n in range(4)]
    # The value stays with the last one whatever goes, so all that may go does.
    assert stays(thread, blobs=[Blob("", "messages", 1, 100)], max_bytes=115) == {"/003": "last"}


def test_values_of_others_and_of_what_is_being_saved_stay() -> None:
    going = [saved(0, versions={"messages": "01.5", "summary": "01.1"})]
    kept = [saved(1, versions={"messages": "02.3", "summary": "01.1"})]
    shared, freed, left_over = (
        Blob("", "summary", "01.1", 1),
        Blob("", "messages", "01.5", 1),
        Blob("", "messages", "01.9", 1),
    )
    coming = Blob("", "messages", "03.1", 1)
    blobs = [shared, freed, left_over, coming]
    assert unreferenced(kept, going, blobs, everything=False) == [freed]
    assert unreferenced(kept, going, blobs, everything=True) == [freed, left_over]


def test_values_of_a_first_checkpoint_that_is_being_saved_stay() -> None:
    stub, coming = SavedCheckpoint("", "000"), Blob("", "messages", "01.1", 1)
    assert unreferenced([stub], [], [coming], everything=True) == []
    assert unreferenced([stub], [], [Blob("gone", *coming[1:])], everything=True)


def test_a_dead_branch_may_hold_newer_values_than_what_stays() -> None:
    branch = [saved(1, versions={"messages": "09.1"})]
    kept = [saved(2, parent="000", versions={"messages": "02.1"})]
    newer = Blob("", "messages", "09.1", 1)
    assert unreferenced(kept, branch, [newer], everything=False) == [newer]


def test_dead_branches_go_first_and_ancestors_from_the_newest_down() -> None:
    branch = SavedCheckpoint("", "0005", parent="000")
    thread = Thread([*chain(4), branch, call(10, "001")])
    order = [c.id for c in order_of_removal(thread, {("", "003")})]
    assert order == ["010", "0005", "002", "001", "000"]


def test_writes_of_an_id_that_is_just_being_saved_stay() -> None:
    old, between, fresh, coming = (str(uuid6(clock_seq=1)) for _ in range(4))
    thread = Thread([SavedCheckpoint("", between), SavedCheckpoint("", fresh)])
    keys = [("", i) for i in (old, coming)]
    now = datetime.now(UTC)
    assert abandoned_writes(thread, thread.by_key, keys, now) == [("", old)]
    # Between two that stay, an id may be of a run beside; a minute later it is of none.
    thread = Thread([SavedCheckpoint("", old), SavedCheckpoint("", fresh)])
    assert abandoned_writes(thread, thread.by_key, [("", between)], now) == []
    later = now + 2 * timedelta(minutes=1)
    assert abandoned_writes(thread, thread.by_key, [("", between)], later) == [("", between)]


def test_the_time_in_an_id_is_that_of_its_making() -> None:
    before = datetime.now(UTC)
    made = time_of_id(str(uuid6(clock_seq=3)))
    assert made is not None
    assert abs(made - before) < timedelta(seconds=5)


@pytest.mark.parametrize("no_time", ["mine", str(UUID(int=5, version=4))])
def test_other_ids_have_no_time(no_time: str) -> None:
    assert time_of_id(no_time) is None
    assert moment(None, no_time) is None


def test_the_time_stamp_comes_first() -> None:
    assert moment("2024-05-04T06:32:42.235444+00:00", "mine") == datetime(
        2024, 5, 4, 6, 32, 42, 235444, tzinfo=UTC
    )
    assert moment("2024-05-04T06:32:42Z", "mine") == datetime(2024, 5, 4, 6, 32, 42, tzinfo=UTC)
    assert moment("someday", "mine") is None
