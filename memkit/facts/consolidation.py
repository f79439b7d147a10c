"""Keeping facts few: merging near-duplicates, and dropping what is long over. Pure."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from memkit.errors import ConfigError
from memkit.facts.model import SINGLE_VALUED, Fact, to_utc
from memkit.facts.staleness import StalenessPolicy, duration
from memkit.facts.timeline import latest

_SOURCES = 16  # message ids that a merged fact keeps
# Between two ways of saying the same no more than this may differ; each pattern has its one form.
# Elsewhere a small word is all the difference: "moved in" and "on", "nuts and milk" and "nut milk".
_LIVE = r"\b(live|lived|living|stay|stayed|staying)"
_STREET = r"(?:street|road|avenue|lane|square|st|rd|ave)\b"
_FORMS = (
    (re.compile(rf"{_LIVE} (?:in|at)\b"), r"\1 at"),
    (re.compile(rf"{_LIVE} on(?= (?:(?!in |on |at )\S+ ){{1,4}}{_STREET})"), r"\1 at"),
    (re.compile(rf"({_STREET}) in\b"), r"\1"),
    (re.compile(r"\b(all|both) of\b"), r"\1"),
)
_PAIR = re.compile(r"(i (?:like|love|enjoy|hate|speak|play)) (\S+) and (\S+)")
# What is no word and yet says something: "C++", "$5", "-5", "1.5", an emoji.
_SIGN = re.compile(r"[^\w\s.,;:!?'\"’‘“”`()\[\]…–—-]|(?<!\w)-(?=\d)|(?<=\d)[.,:-](?=\d)")


@dataclass(frozen=True)
class Consolidation:
    """What a consolidation changes.

    Attributes:
        changed: Facts as they are to be stored from now on.
        deleted: Keys of facts to delete.
        merged: How many near-duplicates were superseded by the fact that they repeat.
        expired: How many of the deleted had ended longer ago than `keep_ended`.
        over_cap: How many of the deleted were beyond the cap of their kind.
    """

    changed: list[Fact] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    merged: int = 0
    expired: int = 0
    over_cap: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The counts, JSON-native."""
        return {"merged": self.merged, "expired": self.expired, "over_cap": self.over_cap}


def consolidate(
    facts: Iterable[Fact],
    now: datetime,
    *,
    max_per_kind: int = 200,
    keep_ended: str | timedelta = "365d",
    policy: StalenessPolicy | None = None,
) -> Consolidation:
    """Decide how to keep the facts of a person few.

    Of near-duplicates about one subject the oldest stays, with the latest confirmation and the
    sources of all of one thread; the others are superseded by it and stay readable. Near-duplicates
    are equal in words, signs and numbers, attribute, dates and data, but for "in" or "at" behind
    "live" and the like; every doubt keeps both. What ended longer ago than `keep_ended`
    (superseded, retracted, over, expired by the policy) is deleted. So are, of the current facts of
    one subject and kind beyond `max_per_kind`, those that were least recently confirmed; facts with
    a single-valued attribute (an address, a name) are not counted and stay. Links to deleted facts
    go too. Done again, it changes nothing.

    Args:
        facts: All facts of the person.
        now: The time.
        max_per_kind: The cap.
        keep_ended: "365d", or a `timedelta`.
        policy: Says which facts are expired; None: the default, by which none is for its age.

    Raises:
        ConfigError: The cap is below 1, or the duration cannot be read.
    """
    if max_per_kind < 1:
        raise ConfigError(f"max_per_kind must be at least 1, got {max_per_kind!r}")
    policy = policy or StalenessPolicy()
    now = to_utc(now)
    oldest = now - duration(keep_ended)
    before = {fact.key: fact for fact in facts}
    after = dict(before)
    merged = _merge(after, now, policy)
    over_cap = _beyond_cap(after.values(), max_per_kind, now, policy)
    for key in over_cap:
        del after[key]
    # Last, since a successor that goes vouches for nothing any more.
    ended = [fact for fact in after.values() if not _is_current(fact, now, policy)]
    expired = [fact.key for fact in ended if _ended_before(fact, oldest, after)]
    for key in expired:
        del after[key]
    for key, fact in after.items():
        links = {
            name: None
            for name in ("supersedes", "superseded_by")
            if getattr(fact, name) in before and getattr(fact, name) not in after
        }
        if links:
            after[key] = fact.changed(**links)
    return Consolidation(
        changed=[fact for key, fact in after.items() if fact != before[key]],
        deleted=[*expired, *over_cap],
        merged=merged,
        expired=len(expired),
        over_cap=len(over_cap),
    )


def _is_current(fact: Fact, now: datetime, policy: StalenessPolicy) -> bool:
    return policy.freshness(fact, now) != "expired"


def _ended_before(fact: Fact, day: datetime, facts: Mapping[str, Fact]) -> bool:
    # A retracted fact ends where it begins, and "I moved two years ago" ends one in the past; what
    # counts is when somebody last spoke of it.
    successor = facts.get(fact.superseded_by or "")
    told = successor.last_updated if successor else None
    last = latest((fact.valid_to, fact.last_confirmed, fact.last_updated, told))
    return last is not None and last < day


def _merge(facts: dict[str, Fact], now: datetime, policy: StalenessPolicy) -> int:
    """Let the oldest of near-duplicates supersede the others; return how many."""
    groups: dict[Any, list[Fact]] = defaultdict(list)
    for fact in facts.values():
        if _is_current(fact, now, policy):
            groups[_same(fact)].append(fact)
    merged = 0
    for group in groups.values():
        if len(group) < 2:
            continue
        first, *copies = sorted(group, key=_age)
        for copy in copies:
            facts[copy.key] = copy.changed(
                status="superseded",
                valid_to=copy.valid_to or now,
                superseded_by=first.key,
            )
        # `supersedes` stays: what stands there holds again once the fact is retracted, and a copy
        # of it must not.
        facts[first.key] = first.changed(
            first_seen=min((f.first_seen for f in group if f.first_seen), default=None),
            last_confirmed=latest([f.last_confirmed for f in group]),
            confidence=max(f.confidence for f in group),
            source=_source([first, *copies]),
        )
        merged += len(copies)
    return merged


def _source(group: Sequence[Fact]) -> Mapping[str, Any]:
    """Return the first source, with what else was said in its thread."""
    source = next((f.source for f in group if f.message_ids), group[0].source)
    ids = dict.fromkeys(
        i
        for f in group
        if f.source.get("thread_id") == source.get("thread_id")
        for i in f.message_ids
    )
    return {**source, "message_ids": list(ids)[:_SOURCES]} if ids else source


def _same(fact: Fact) -> Any:
    """Return what two facts share that say the same."""
    said = fact.words
    for pattern, form in _FORMS:
        said = pattern.sub(form, said)
    if pair := _PAIR.fullmatch(said):
        said = " ".join((pair[1], *sorted(pair.groups()[1:])))
    data = json.dumps(dict(fact.data), sort_keys=True, default=str)
    return (*told(fact, said), fact.attribute, fact.valid_from, fact.valid_to, data)


def told(fact: Fact, said: str) -> tuple[Any, ...]:
    """Return what makes two facts duplicates: of whom they say what, with which signs."""
    return fact.subject, said, tuple(_SIGN.findall(fact.text))


def _beyond_cap(
    facts: Iterable[Fact], cap: int, now: datetime, policy: StalenessPolicy
) -> list[str]:
    kinds: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    for fact in facts:
        if fact.attribute not in SINGLE_VALUED and _is_current(fact, now, policy):
            kinds[fact.subject, fact.kind].append(fact)
    return [
        fact.key
        for group in kinds.values()
        for fact in sorted(group, key=_confirmed, reverse=True)[cap:]
    ]


def _age(fact: Fact) -> tuple[float, str]:
    said = fact.first_seen or fact.last_updated
    return (said.timestamp() if said else 0.0, fact.key)


def _confirmed(fact: Fact) -> tuple[float, str]:
    time = latest((fact.last_confirmed, fact.last_updated))
    return (time.timestamp() if time else 0.0, fact.key)
