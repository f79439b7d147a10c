"""What is wrong with the facts of a person, as counts. Pure."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import combinations
from typing import Any

from memkit.facts.consolidation import told
from memkit.facts.gates import GROUNDED_SHARE
from memkit.facts.model import SINGLE_VALUED, Fact, to_utc
from memkit.facts.sameness import NEAR_SHARE, decisive, near_copies
from memkit.facts.staleness import StalenessPolicy
from memkit.words import roots

# A date that was worked out stands in no message as such, see `memkit.facts.dates.dated`.
_WORKED_OUT = re.compile(r"\(\d{4}(?:-\d\d){0,2}(?: to \d{4}(?:-\d\d){0,2})?\)")


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
    single_valued: Collection[str] = SINGLE_VALUED,
) -> Audit:
    """Count what is wrong with the facts of a person.

    Args:
        facts: All of them.
        now: The time.
        policy: Says which are stale.
        said: Returns the text of a message by thread and id, None if there is no such message. None
            leaves what needs it uncounted.
        single_valued: Attributes of which a person has one value at a time.

    Cost:
        Near-duplicates are looked for among facts that share three of their rarest words; 10,000
        facts take about a second.
    """
    policy = policy or StalenessPolicy()
    now = to_utc(now)
    current = [fact for fact in facts if fact.status == "current"]
    freshness = Counter(policy.freshness(fact, now) for fact in current)
    words = Counter(told(fact, fact.words) for fact in current)
    values = Counter(
        (fact.subject, fact.attribute)
        for fact in current
        if fact.attribute in single_valued and _holds(fact, now, policy)
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


def _holds(fact: Fact, now: datetime, policy: StalenessPolicy) -> bool:
    """Return whether a value holds now; one that is planned does not conflict."""
    begun = fact.valid_from is None or fact.valid_from <= now
    return begun and policy.freshness(fact, now) != "expired"


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
        rarest = sorted(set(words.split()), key=lambda word: (frequency[word], word))
        # Sets that have four fifths in common share three of these rarest words, and all decisive
        # ones (Wang, Li and Feng 2012, prefixes of adaptive length).
        shared = min(3, len(rarest))
        head = rarest[: len(rarest) - math.ceil(NEAR_SHARE * len(rarest) - 1e-9) + shared]
        sharp = frozenset(decisive(rarest))
        places = [(subject, sharp, some) for some in combinations(head, shared)]
        copies += any(near_copies(words, other) for place in places for other in shelves[place])
        for place in places:
            shelves[place].append(words)
    return copies
