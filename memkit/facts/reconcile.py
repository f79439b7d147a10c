"""What a newly stated fact does to the facts that are known. Pure.

What is decided here is decided by words, attributes and dates. How near two facts are in meaning
decides nothing: "likes coffee" and "hates coffee" are near.
"""

from collections.abc import Collection, Sequence
from datetime import datetime

from memkit.facts.model import SINGLE_VALUED, Fact, same_statement
from memkit.facts.sameness import NEGATIONS
from memkit.facts.succession import Change, holding, succeed, supersede, take_back
from memkit.facts.timeline import latest
from memkit.facts.values import is_part, same_attribute, value_of


def reconcile(
    existing: Sequence[Fact],
    proposed: Sequence[Fact],
    now: datetime,
    *,
    single_valued: Collection[str] = SINGLE_VALUED,
) -> list[Change]:
    """Decide what becomes of each proposed fact, in their order.

    - A statement that is known is confirmed; so is one that repeats the end of the current address
      ("I live in Leipzig" of "I live at 14 Linden Street in Leipzig").
    - A new value of a single-valued attribute supersedes the current one, which stays readable with
      the end of its validity. Said out of order, the older of the two ends where the newer begins;
      said of the future, the current one holds until then.
    - One that names a known fact in `supersedes` supersedes it, if both are about the same subject
      and attribute, or of one kind and share a word that says something.
    - A fact about the past (`valid_to` is over) is added and ends no present one, unless it says
      that very value is over. One that is to end ("at the Hilton until Friday") stands beside the
      present one.
    - One with status "retracted" takes back the known fact that it names in `supersedes`, that says
      the same, or whose attribute it has and whose words hold its own. With `valid_to` the fact was
      true until then; without, it never was, and what it had superseded holds again. Where there is
      no such fact, nothing changes.
    - Everything else is added: allergies accumulate.

    Args:
        existing: Facts that may be touched, with those that a retraction may bring back.
        proposed: Facts as stated, with `key` and the time of the statement in `last_updated`.
        now: Stands in for a statement without a time.
        single_valued: Attributes of which a person has one value at a time.

    Returns:
        One change per proposed fact, but for retractions of nothing.
    """
    known = {fact.key: fact for fact in existing}
    changes: list[Change] = []
    for stated in proposed:
        at = stated.last_updated or now
        change = (
            _retraction(stated, known, at)
            if stated.status == "retracted"
            else _statement(stated, known, at, single_valued)
        )
        if change is not None:
            known.update((fact.key, fact) for fact in change.facts)
            changes.append(change)
    return changes


def _statement(  # noqa: PLR0911 - one line per rule
    stated: Fact, known: dict[str, Fact], at: datetime, single_valued: Collection[str]
) -> Change:
    new = stated.changed(
        first_seen=stated.first_seen or at,
        last_updated=at,
        last_confirmed=stated.last_confirmed or at,
        supersedes=None,
    )
    current = [f for f in known.values() if f.status == "current" and f.subject == new.subject]
    is_past = _over(new, at)
    said = [f for f in current if same_statement(f, new) and (is_past or not _over(f, at))]
    if said:
        return _confirmed(said[0], new, at)
    named = known.get(stated.supersedes or "")
    if named in current and named is not None and not is_past and _is_replaced(named, new):
        return supersede(named, new, at)
    if NEGATIONS & set(new.words.split()):
        # What is denied is no value: "I do not live in Leipzig" is no address.
        new = new.changed(attribute=None)
    if new.attribute not in single_valued:
        return Change("add", new)
    rivals = [f for f in current if same_attribute(f, new)]
    present = holding(rivals, at)
    if new.valid_to is not None:
        if present is None or not value_of(new) or value_of(new) != value_of(present):
            return Change("add", new)  # what is over, or to end anyway, ends no other
        return supersede(present, new, at) if is_past else _confirmed(present, new, at)
    if present is not None and is_part(new, present):
        return _confirmed(present, new, at)
    return succeed(new, rivals, at)


def _is_replaced(named: Fact, new: Fact) -> bool:
    """Return whether what a fact is said to replace speaks of the same."""
    of_a_kind = named.kind == new.kind and value_of(named) & value_of(new)
    return bool(of_a_kind) or same_attribute(named, new)


def _confirmed(known: Fact, new: Fact, at: datetime) -> Change:
    return Change(
        "confirm",
        known.changed(
            last_confirmed=latest((known.last_confirmed, at)),
            valid_from=known.valid_from or new.valid_from,
            valid_to=known.valid_to or new.valid_to,
        ),
    )


def _retraction(stated: Fact, known: dict[str, Fact], at: datetime) -> Change | None:
    current = [f for f in known.values() if f.status == "current" and f.subject == stated.subject]
    told = (
        [f for f in current if f.key == stated.supersedes]
        or [f for f in current if same_statement(f, stated)]
        or [
            f
            for f in current
            if same_attribute(f, stated) and not _over(f, at) and value_of(stated) <= value_of(f)
        ]
    )
    if not told:
        return None
    fact = max(told, key=_said)
    return take_back(fact, known.values(), at, was_true_until=stated.valid_to)


def _over(fact: Fact, at: datetime) -> bool:
    return fact.valid_to is not None and fact.valid_to <= at


def _said(fact: Fact) -> float:
    time = fact.last_updated
    return time.timestamp() if time else 0.0
