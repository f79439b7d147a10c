"""Values that follow each other: what a new one ends, and what holds again without it. Pure.

Of a single-valued attribute one value holds at a time, and one more may be planned: "I move to Kiel
in September" leaves the present home in its place until then.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

from memkit.facts.model import Fact, same_statement
from memkit.facts.timeline import latest
from memkit.facts.values import same_attribute, value_of

Action = Literal["add", "confirm", "supersede", "retract"]
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Change:
    """One decision about a proposed fact.

    Attributes:
        action: "add" a new fact, "confirm" a known one, "supersede" a known one by the new one, or
            "retract" a known one.
        fact: The new fact, or the known one as confirmed or retracted.
        previous: The other fact that changes along with it: the one that was superseded, or that
            holds again since its successor was retracted.
        also: What else changes: what was planned, or holds until then.
    """

    action: Action
    fact: Fact
    previous: Fact | None = None
    also: tuple[Fact, ...] = ()

    @property
    def facts(self) -> list[Fact]:
        """The facts to store."""
        return [*self.also, *([] if self.previous is None else [self.previous]), self.fact]


def succeed(new: Fact, rivals: Sequence[Fact], at: datetime) -> Change:
    """Return the change by which a value takes its place among the others of its attribute.

    A plan replaces an earlier plan, and ends the present value on its day. A value that holds now
    ends the present one, and is itself to end on the day of a plan, unless it is what was planned.
    One that was said before the present one and is heard of later was true until that.

    Args:
        new: The value, without an end.
        rivals: The current facts of the same subject and attribute.
        at: When it was said.
    """
    present, plans = holding(rivals, at), _planned(rivals, at)
    plan = plans[-1] if plans else None
    if new.valid_from is not None and new.valid_from > at:
        return _replanned(new, present, plans, at)
    if present is not None and at < _last_said(present):
        return _until(new, present)
    change = Change("add", new) if present is None else supersede(present, new, at)
    if plan is None:
        return change
    if value_of(plan) == value_of(new):
        return _fulfilled(change, plan)
    held = change.fact.changed(valid_to=plan.valid_from, superseded_by=plan.key)
    return replace(change, fact=held, also=(plan.changed(supersedes=new.key),))


def holding(rivals: Sequence[Fact], at: datetime) -> Fact | None:
    """Return the value that holds, among current facts of one attribute; no stay that is to end."""
    today = _today(rivals, at)
    begun = [f for f in rivals if _is_open(f, today) and not _is_ahead(f, today)]
    return max(begun, key=_last_said, default=None)


def supersede(old: Fact, new: Fact, at: datetime) -> Change:
    """Return the change by which a new fact takes the place of a known one.

    Args:
        old: The known one.
        new: The new one; its `valid_from`, else `at`, ends the known one.
        at: When it was said.
    """
    if new.valid_to is not None and new.valid_to <= at:
        until = new.valid_to
    elif new.valid_from is None and old.valid_from is not None and _is_ahead(old, at):
        until = old.valid_from  # of a plan that is put right, the day stays
        new = new.changed(valid_from=until)
    else:
        until = new.valid_from or at
        new = new.changed(valid_from=until)
    if new.valid_to is None and old.valid_to is not None and old.valid_to > until:
        # The new one is to end as the known one was: when a planned one begins.
        new = new.changed(valid_to=old.valid_to, superseded_by=old.superseded_by)
    # What begins in the future leaves the present one current until then.
    over = until <= at or until == old.valid_from
    previous = old.changed(
        status="superseded" if over else "current", valid_to=until, superseded_by=new.key
    )
    return Change("supersede", new.changed(supersedes=old.key), previous)


def take_back(
    fact: Fact,
    others: Collection[Fact],
    at: datetime,
    *,
    was_true_until: datetime | None = None,
) -> Change:
    """Return the change that retracts a fact.

    Args:
        fact: The fact.
        others: Among them its neighbours. If it never was true, the one that it superseded holds
            until its own successor begins, and without one again, unless another value holds.
        at: When it is taken back.
        was_true_until: When it ended, None if it never was true.
    """
    since = fact.valid_from or fact.first_seen or fact.last_updated or at
    called_off = was_true_until is not None and fact.valid_from is not None
    if was_true_until is not None and not (called_off and was_true_until < since):
        return Change("retract", fact.changed(status="retracted", valid_to=was_true_until))
    retracted = fact.changed(status="retracted", valid_to=since)
    left = [f for f in others if f.status != "retracted" and f.key != fact.key]
    # A copy that was merged into it is no value of its own.
    before = [f for f in left if f.superseded_by == fact.key and not same_statement(f, fact)]
    if not before:
        return Change("retract", retracted)
    previous = next((f for f in before if f.key == fact.supersedes), before[0])
    waiting = [f for f in before if f is not previous]
    successor = next((f for f in left if f.key == fact.superseded_by), None)
    if successor is not None:
        begins = successor.valid_from or successor.first_seen or at
        status = "superseded" if begins <= at else "current"
        over = previous.changed(status=status, valid_to=begins, superseded_by=successor.key)
        return Change("retract", retracted, over, (successor.changed(supersedes=previous.key),))
    taken = [f for f in left if same_attribute(f, fact) and f not in before]
    if fact.status != "current" or any(f.status == "current" and _is_open(f, at) for f in taken):
        return Change("retract", retracted)
    again = previous.changed(status="current", valid_to=None, superseded_by=None)
    # What was to end on the day of this plan ends on that of the plan before it.
    until = tuple(f.changed(valid_to=again.valid_from, superseded_by=again.key) for f in waiting)
    return Change("retract", retracted, again, until)


def _replanned(new: Fact, present: Fact | None, plans: Sequence[Fact], at: datetime) -> Change:
    """Return the change by which a plan replaces those before it."""
    if plans and at < _last_said(plans[-1]):
        never = new.changed(status="superseded", valid_to=new.valid_from)
        return Change("add", never.changed(superseded_by=plans[-1].key))
    changed = [_ended(plan, new) for plan in plans]
    if present is not None:
        changed.insert(0, present.changed(valid_to=new.valid_from, superseded_by=new.key))
    if not changed:
        return Change("add", new)
    *also, previous = changed
    return Change("supersede", new.changed(supersedes=previous.key), previous, tuple(also))


def _fulfilled(change: Change, plan: Fact) -> Change:
    """Return the change with a plan ended by the value that was planned."""
    ended = _ended(plan, change.fact)
    fact = change.fact.changed(valid_to=None, superseded_by=None)
    if change.previous is None:
        return Change("supersede", fact.changed(supersedes=plan.key), ended)
    return replace(change, fact=fact, also=(ended,))


def _ended(plan: Fact, new: Fact) -> Fact:
    """Return a plan that never came to hold."""
    return plan.changed(status="superseded", valid_to=plan.valid_from, superseded_by=new.key)


def _until(new: Fact, present: Fact) -> Change:
    """Return the change by which a value that was said earlier is heard of later."""
    until = present.valid_from or present.first_seen or present.last_updated
    over = new.changed(status="superseded", valid_to=until, superseded_by=present.key)
    linked = None if present.supersedes else present.changed(supersedes=over.key)
    return Change("add", over, linked)


def _planned(rivals: Sequence[Fact], at: datetime) -> list[Fact]:
    """Return the values that are planned, the one said last at the end."""
    today = _today(rivals, at)
    return sorted((f for f in rivals if _is_open(f, today) and _is_ahead(f, today)), key=_last_said)


def _today(rivals: Sequence[Fact], at: datetime) -> datetime:
    return max([at, *(f.last_updated for f in rivals if f.last_updated is not None)])


def _is_open(fact: Fact, at: datetime) -> bool:
    """Return whether a value has no end, or is to end only since another one follows."""
    return fact.valid_to is None or (fact.valid_to > at and fact.superseded_by is not None)


def _is_ahead(fact: Fact, at: datetime) -> bool:
    return fact.valid_from is not None and fact.valid_from > at


def _last_said(fact: Fact) -> datetime:
    return latest((fact.last_confirmed, fact.last_updated)) or _LONG_AGO
