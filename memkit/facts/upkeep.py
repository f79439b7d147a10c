"""Keeping facts few: merging near-duplicates, dropping what is long over, and an audit. Pure."""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from itertools import combinations
from typing import Any

from memkit.errors import ConfigError
from memkit.facts.gates import GROUNDED_SHARE
from memkit.facts.model import SINGLE_VALUED, Fact, to_utc
from memkit.facts.sameness import NEAR_SHARE, decisive, near_copies
from memkit.facts.staleness import StalenessPolicy, duration
from memkit.facts.timeline import latest
from memkit.words import roots

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
# A date that was worked out stands in no message as such, see `memkit.facts.dates.dated`.
_WORKED_OUT = re.compile(r"\(\d{4}(?:-\d\d){0,2}(?: to \d{4}(?:-\d\d){0,2})?\)")


@dataclass(frozen=True)
class Upkeep:
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
) -> Upkeep:
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
    return Upkeep(
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
    return (*_told(fact, said), fact.attribute, fact.valid_from, fact.valid_to, data)


def _told(fact: Fact, said: str) -> tuple[Any, ...]:
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


@dataclass(frozen=True)
class Audit:
    """What is wrong with the facts of a person; counts are of current facts.

    Attributes:
        facts: All facts, ended ones included.
        current: Those that are current.
        duplicates: Those that say what another one says.
        near_duplicates: Those that share four fifths of their words with another one, duplicates
            included; `consolidate` merges only those of which it is sure.
        conflicting: Those beyond the first value of a single-valued attribute.
        stale: Those that were not confirmed for too long.
        expired: Those that are over though nothing superseded them.
        orphaned: Those whose messages cannot be found; None if there was nowhere to look.
        ungrounded: Those whose messages do not hold 60 % of their words; None likewise.
    """

    facts: int
    current: int
    duplicates: int
    near_duplicates: int
    conflicting: int
    stale: int
    expired: int
    orphaned: int | None
    ungrounded: int | None

    @property
    def rates(self) -> dict[str, float | None]:
        """Each count as a share of the current facts, from 0 to 1."""
        counts = asdict(self)
        return {
            name: None if count is None else round(count / self.current, 4) if self.current else 0.0
            for name, count in counts.items()
            if name not in {"facts", "current"}
        }


def audit(
    facts: Sequence[Fact],
    now: datetime,
    *,
    policy: StalenessPolicy | None = None,
    said: Callable[[str | None, str], str | None] | None = None,
) -> Audit:
    """Count what is wrong with the facts of a person.

    Args:
        facts: All of them.
        now: The time.
        policy: Says which are stale.
        said: Returns the text of a message by thread and id, None if there is no such message. None
            leaves what needs it uncounted.

    Cost:
        Near-duplicates are looked for among facts that share three of their rarest words; 10,000
        facts take about a second.
    """
    policy = policy or StalenessPolicy()
    now = to_utc(now)
    current = [fact for fact in facts if fact.status == "current"]
    freshness = Counter(policy.freshness(fact, now) for fact in current)
    words = Counter(_told(fact, fact.words) for fact in current)
    values = Counter(
        (fact.subject, fact.attribute)
        for fact in current
        if fact.attribute in SINGLE_VALUED and policy.freshness(fact, now) != "expired"
    )
    orphaned = ungrounded = None
    if said is not None:
        sources = [[said(f.source.get("thread_id"), i) for i in f.message_ids] for f in current]
        orphaned = sum(not texts or None in texts for texts in sources)
        ungrounded = sum(
            bool(texts) and None not in texts and not _stands_in(fact, texts)
            for fact, texts in zip(current, sources, strict=True)
        )
    return Audit(
        facts=len(facts),
        current=len(current),
        duplicates=sum(n - 1 for n in words.values()),
        near_duplicates=_near_duplicates(current),
        conflicting=sum(n - 1 for n in values.values()),
        stale=freshness["stale"],
        expired=freshness["expired"],
        orphaned=orphaned,
        ungrounded=ungrounded,
    )


def _stands_in(fact: Fact, texts: Sequence[str | None]) -> bool:
    meant = roots(_WORKED_OUT.sub(" ", fact.text)) - roots(fact.subject) - {"user"}
    held = set().union(*(roots(text or "") for text in texts))
    return len(meant & held) >= GROUNDED_SHARE * len(meant)


def _near_duplicates(facts: Sequence[Fact]) -> int:
    """Return how many facts are near copies of an earlier one of the same subject."""
    statements = [(fact.subject, fact.words) for fact in facts]
    frequency = Counter(word for _, words in set(statements) for word in set(words.split()))
    shelves: dict[Any, list[str]] = defaultdict(list)
    seen: set[tuple[str, str]] = set()
    copies = 0
    for subject, words in statements:
        if (subject, words) in seen:
            copies += 1
            continue
        seen.add((subject, words))
        told = sorted(set(words.split()), key=lambda word: (frequency[word], word))
        # Sets that have four fifths in common share three of these rarest words, and all decisive
        # ones (Wang, Li and Feng 2012, prefixes of adaptive length).
        shared = min(3, len(told))
        head = told[: len(told) - math.ceil(NEAR_SHARE * len(told) - 1e-9) + shared]
        sharp = frozenset(decisive(told))
        places = [(subject, sharp, some) for some in combinations(head, shared)]
        copies += any(near_copies(words, other) for place in places for other in shelves[place])
        for place in places:
            shelves[place].append(words)
    return copies
