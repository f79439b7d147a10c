"""What a newly stated fact does to the facts that are known. Pure.

What is decided here is decided by words, attributes and dates. How near two facts are in meaning
decides nothing: "likes coffee" and "hates coffee" are near.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from memkit.facts.model import SINGLE_VALUED, Fact
from memkit.facts.sameness import NEGATIONS, stem
from memkit.facts.timeline import latest
from memkit.words import STOP_WORDS, content_words

Action = Literal["add", "confirm", "supersede", "retract"]

# Words that say which attribute is meant, not which value it has.
_FRAME = {
    "home_address": "live living lived move moved moving relocate relocated settled stay address "
    "home house flat apartment place shipping delivery postal",
    "name": "name call called full first last",
    "job": "work working job new start started starting",
    "employer": "work working job employer company new start started starting join joined",
    "email": "e-mail email mail address new private",
    "phone": "phone number mobile cell new",
    "birthday": "birthday born",
    "language": "language speak speaking write writing prefer native",
}
# Nor do words that say when.
_WHEN = re.compile(
    r"january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|year|month|week|day|today|yesterday|ago|last|next"
    r"|since|until|till|\d{4}(?:-\d\d(?:-\d\d)?)?"
)


@dataclass(frozen=True)
class Change:
    """One decision about a proposed fact.

    Attributes:
        action: "add" a new fact, "confirm" a known one, "supersede" a known one by the new one, or
            "retract" a known one.
        fact: The new fact, or the known one as confirmed or retracted.
        previous: The other fact that changes along with it: the one that was superseded, or that
            holds again since its successor was retracted.
    """

    action: Action
    fact: Fact
    previous: Fact | None = None

    @property
    def facts(self) -> list[Fact]:
        """The facts to store."""
        return [self.fact] if self.previous is None else [self.previous, self.fact]


def same_statement(a: Fact, b: Fact) -> bool:
    """Return whether two facts say the same thing of the same subject, however it is worded.

    Meaning is not compared: "likes coffee" and "hates coffee" are close neighbours by meaning.
    """
    return (a.subject, a.words) == (b.subject, b.words)


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
    same = next((f for f in current if same_statement(f, new)), None)
    if same is not None:
        return _confirmed(same, new, at)
    is_past = new.valid_to is not None and new.valid_to <= at
    named = known.get(stated.supersedes or "")
    if (
        named in current
        and named is not None
        and (
            (named.kind == new.kind and _value(named) & _value(new)) or _same_attribute(named, new)
        )
        and not is_past
    ):
        return supersede(named, new, at)
    if NEGATIONS & set(new.words.split()):
        # What is denied is no value: "I do not live in Leipzig" is no address.
        new = new.changed(attribute=None)
    if new.attribute not in single_valued:
        return Change("add", new)
    # One that is to end anyway is not what a new value takes the place of.
    rivals = [f for f in current if _same_attribute(f, new) and f.valid_to is None]
    rival = max(rivals, key=_said, default=None)
    if rival is None or (new.valid_to is not None and not is_past):
        return Change("add", new)
    if is_past:
        over = _value(new) == _value(rival) and bool(_value(new))
        return supersede(rival, new, at) if over else Change("add", new)
    if _is_part(new, rival):
        return _confirmed(rival, new, at)
    if at < (latest((rival.last_confirmed, rival.last_updated)) or at):
        # Said earlier, heard later: it was true until the one that is known.
        until = rival.valid_from or rival.first_seen or rival.last_updated
        ended = new.changed(status="superseded", valid_to=until, superseded_by=rival.key)
        linked = None if rival.supersedes else rival.changed(supersedes=ended.key)
        return Change("add", ended, linked)
    return supersede(rival, new, at)


def _confirmed(known: Fact, new: Fact, at: datetime) -> Change:
    return Change(
        "confirm",
        known.changed(
            last_confirmed=latest((known.last_confirmed, at)),
            valid_from=known.valid_from or new.valid_from,
            valid_to=known.valid_to or new.valid_to,
        ),
    )


def supersede(old: Fact, new: Fact, at: datetime) -> Change:
    """Return the change by which a new fact takes the place of a known one.

    Args:
        old: The known one.
        new: The new one; its `valid_from`, else `at`, ends the known one.
        at: When it was said.
    """
    if new.valid_to is not None and new.valid_to <= at:
        until = new.valid_to
    else:
        until = new.valid_from or at
        new = new.changed(valid_from=until)
    # What begins in the future leaves the present one current until then.
    previous = old.changed(
        status="superseded" if until <= at else "current", valid_to=until, superseded_by=new.key
    )
    return Change("supersede", new.changed(supersedes=old.key), previous)


def _retraction(stated: Fact, known: dict[str, Fact], at: datetime) -> Change | None:
    current = [f for f in known.values() if f.status == "current" and f.subject == stated.subject]
    told = (
        [f for f in current if f.key == stated.supersedes]
        or [f for f in current if same_statement(f, stated)]
        or [
            f
            for f in current
            if _same_attribute(f, stated) and not _over(f, at) and _value(stated) <= _value(f)
        ]
    )
    if not told:
        return None
    fact = max(told, key=_said)
    return take_back(fact, known.values(), at, was_true_until=stated.valid_to)


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
        others: Among them the one that it superseded, which holds again if the fact never was true
            and nothing else has taken its place.
        at: When it is taken back.
        was_true_until: When it ended, None if it never was true.
    """
    if was_true_until is not None:
        return Change("retract", fact.changed(status="retracted", valid_to=was_true_until))
    since = fact.valid_from or fact.first_seen or fact.last_updated or at
    retracted = fact.changed(status="retracted", valid_to=since)
    before = next(
        (
            f
            for f in others
            if f.superseded_by == fact.key
            and f.status != "retracted"
            and not same_statement(f, fact)  # a copy that was merged into it
        ),
        None,
    )
    replaced = fact.status != "current" or any(
        f.status == "current" and _same_attribute(f, fact) and not _over(f, at)
        for f in others
        if f.key != fact.key
    )
    if before is None or replaced:
        return Change("retract", retracted)
    return Change(
        "retract", retracted, before.changed(status="current", valid_to=None, superseded_by=None)
    )


def _is_part(new: Fact, known: Fact) -> bool:
    """Return whether an address is the end of the known one; "York" is no part of "New York"."""
    lives = "i live "
    if new.attribute != "home_address" or not new.words.startswith(lives):
        return False
    where = new.words.removeprefix(lives)
    place = re.sub(r"^(?:in|at|on) ", "", where)
    by_comma = re.search(rf",\s*{re.escape(place)}\W*$", known.text, re.IGNORECASE)
    told = known.words.startswith(lives) and known.words.endswith(f" {where}")
    return told or by_comma is not None


def _same_attribute(a: Fact, b: Fact) -> bool:
    return a.attribute is not None and (a.subject, a.attribute) == (b.subject, b.attribute)


def _over(fact: Fact, at: datetime) -> bool:
    return fact.valid_to is not None and fact.valid_to <= at


def _said(fact: Fact) -> float:
    time = fact.last_updated
    return time.timestamp() if time else 0.0


def _value(fact: Fact) -> set[str]:
    """Return the words that tell the value of a fact's attribute."""
    frame = {stem(w) for w in _FRAME.get(fact.attribute or "", "").split()}
    about = {stem(w) for w in content_words(fact.subject)} | {"user"}
    said = {stem(w) for w in content_words(fact.text)} - frame - about - NEGATIONS - STOP_WORDS
    return {w for w in said if not _WHEN.fullmatch(w)}
