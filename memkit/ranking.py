"""Which of the memories that were found are worth their place: rank, tell once, no copies. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import isfinite
from typing import TypeAlias

from langgraph.store.base import SearchItem

from memkit.errors import ConfigError
from memkit.facts import Fact, StalenessPolicy
from memkit.facts.sameness import NEAR_SHARE, canonical, near_copies
from memkit.state import Freshness, Recalled, Source

Place: TypeAlias = tuple[str | None, str]  # thread and message

# What a memory loses at most for its age, and for want of confidence. The store's score, by meaning
# and words, runs over about 1, so these decide between memories that are about as near. Questions
# of LoCoMo ask for any time of a year; with these weights its evidence is among the first ten 634
# times of 856, without them 632 times, with an age weight of .05 and a half-life of 90 days 628.
RECENCY_WEIGHT = 0.03
CONFIDENCE_WEIGHT = 0.03
HALF_LIFE = timedelta(days=365)

_WORST_LAST: tuple[Freshness, ...] = ("fresh", "stale", "expired")
_LONG_AGO = datetime.min.replace(tzinfo=UTC)


@lru_cache(maxsize=4096)
def _words(text: str, subject: str) -> tuple[str, frozenset[str]]:
    """Return canonical words, also as a set; the same memories come back turn after turn."""
    said = canonical(text, subject)
    return said, frozenset(said.split())


@dataclass(frozen=True, slots=True)
class Candidate:
    """A memory that was found.

    Attributes:
        item: What the state will hold; its score is final.
        subject: Whom it is about; of a turn, who said it.
        said: When the person last stood by it; of a turn, when it was said.
        loss: What was taken off the store's score.
        was_taken_back: Whether the person retracted it.
    """

    item: Recalled
    subject: str
    said: datetime
    loss: float
    was_taken_back: bool = False

    @classmethod
    def of(
        cls, source: Source, found: SearchItem, policy: StalenessPolicy, now: datetime
    ) -> "Candidate":
        """Return what a search found, judged, and with its final score.

        That is the store's score, less up to RECENCY_WEIGHT for its age (half of it after
        HALF_LIFE) and up to CONFIDENCE_WEIGHT for want of confidence. What was confirmed today and
        is certain keeps the store's score.

        Args:
            source: Where it was found.
            found: The item, with the store's score, or None where the store does not rank.
            policy: Judges facts.
            now: In UTC.

        Raises:
            ConfigError: The item holds something else.
        """
        # A turn has the text, the dates and the source of a fact, and does not go stale.
        fact = Fact.from_value(found.key, found.value)
        subject = found.value.get("speaker", fact.subject) if source == "turns" else fact.subject
        thread, ids = fact.source.get("thread_id"), fact.source.get("message_ids") or []
        texts = [subject, *(ids if isinstance(ids, list) else [ids])]
        texts += [] if thread is None else [thread]
        if set(map(type, texts)) != {str} and not all(isinstance(text, str) for text in texts):
            raise ConfigError(
                f"the item {found.key!r} is not a memory: subject, thread and messages are "
                f"texts, got {texts!r:.200}"
            )
        said = fact.last_confirmed or fact.last_updated or _LONG_AGO
        recency = 0.5 ** max(0.0, (now - said) / HALF_LIFE)
        loss = RECENCY_WEIGHT * (1 - recency) + CONFIDENCE_WEIGHT * (1 - fact.confidence)
        ranks = found.score is not None and isfinite(found.score)
        item: Recalled = {
            "key": fact.key,
            "source": source,
            "text": fact.text,
            "kind": fact.kind,
            "last_updated": fact.last_updated.isoformat() if fact.last_updated else None,
            "last_confirmed": fact.last_confirmed.isoformat() if fact.last_confirmed else None,
            "freshness": policy.freshness(fact, now) if source == "facts" else "fresh",
            "score": float(found.score or 0) - loss if ranks else None,
            "message_ids": list(ids),
            "thread_id": thread,
            "attribute": fact.attribute,
        }
        return cls(item, subject, said, loss, fact.status == "retracted")

    @property
    def rank(self) -> tuple[float, float]:
        """What it is ranked by, descending; without a score by age and confidence alone."""
        score = self.item["score"]
        return (float("-inf") if score is None else score, -self.loss)


def ranked(found: Iterable[Candidate], ended: Iterable[Candidate] = ()) -> list[Candidate]:
    """Return what was found, best first, without saying a thing both as a turn and as a fact.

    Whichever of the two ranks higher stays. A turn that stays for a fact takes over what is known
    of the fact's age, so that old words are not fresher than the fact that was taken from them.

    Args:
        found: Facts and turns.
        ended: Facts that no longer hold, for the turns that told them.
    """
    best_first = sorted(found, key=lambda one: one.rank, reverse=True)
    facts_of: dict[Place, list[Recalled]] = {}
    for one in (*best_first, *ended):
        if one.item["source"] == "facts":
            for place in _places(one.item):
                facts_of.setdefault(place, []).append(one.item)
    kept: list[Candidate] = []
    told: dict[Source, set[Place]] = {"facts": set(), "turns": set()}
    for one in best_first:
        source, places = one.item["source"], _places(one.item)
        if places and places <= told["turns" if source == "facts" else "facts"]:
            continue
        told[source] |= places
        taken = [fact for place in places for fact in facts_of.get(place, [])]
        kept.append(_aged(one, taken) if source == "turns" and taken else one)
    return kept


def _aged(turn: Candidate, taken: Sequence[Recalled]) -> Candidate:
    """Return a turn with the age of the facts that were taken from it.

    It has gone when all of them have, and is stale if any of them is.
    """
    judged = sorted(taken, key=lambda fact: _WORST_LAST.index(fact["freshness"]))
    last = next((f for f in reversed(judged) if f["freshness"] != "expired"), judged[0])
    item: Recalled = {
        **turn.item,
        "kind": last["kind"],
        "attribute": last.get("attribute"),
        "last_confirmed": last["last_confirmed"],
        "freshness": last["freshness"],
    }
    return replace(turn, item=item)


def _places(item: Recalled) -> set[Place]:
    return {(item["thread_id"], message_id) for message_id in item["message_ids"]}


def distinct(best_first: Iterable[Candidate], pinned: Sequence[Candidate] = ()) -> list[Candidate]:
    """Return memories of which no two are near-copies, after those that are pinned.

    Two are near-copies that say the same of one subject, but for a word or two; a question never
    copies a statement, nor what has expired what holds. Of copies the most recent stays, at the
    place and with the score of the best: they say the same, and so matter as much. Nothing takes
    the place of a pinned one.

    Args:
        best_first: What was found.
        pinned: What comes first; of copies among them the first stays.
    """
    head: list[Candidate] = []
    told: dict[_Sort, list[_Said]] = {}
    for one in pinned:
        said = _Said.of(one)
        if not any(map(said.copies, told.get(said.sort, ()))):
            told.setdefault(said.sort, []).append(said)
            head.append(one)
    kept: dict[int, Candidate] = {}
    by_sort: dict[_Sort, dict[int, _Said]] = {}
    for place, one in enumerate(best_first):
        said = _Said.of(one)
        if any(map(said.copies, told.get(said.sort, ()))):
            continue
        others = by_sort.setdefault(said.sort, {})
        same = [i for i, other in others.items() if said.copies(other)]
        if not same:
            kept[place], others[place] = one, said
        elif all(one.said > kept[i].said for i in same):
            first, *rest = same
            item: Recalled = {**one.item, "score": kept[first].item["score"]}
            kept[first], others[first] = replace(one, item=item), said
            for i in rest:
                del kept[i], others[i]
    return [*head, *kept.values()]


_Sort: TypeAlias = tuple[str, bool, bool]
# A text of more words than that is compared word by word only where many begin alike.
_FEW = 4
_MANY = 0.6
_BEGINNING = 3


@dataclass(frozen=True, slots=True)
class _Said:
    """What a memory says, to be compared with others of its sort."""

    sort: _Sort
    subject: str
    text: str
    beginnings: frozenset[str]
    length: int

    @classmethod
    def of(cls, one: Candidate) -> "_Said":
        text, is_over = one.item["text"], one.item["freshness"] == "expired"
        beginnings = _beginnings(text)
        sort = (one.subject, "?" in text, is_over)
        return cls(sort, one.subject, text, beginnings, len(beginnings))

    def copies(self, other: "_Said") -> bool:
        """Return whether both say the same, but for a word or two."""
        # Nearly all differ by far, and these are the quicker looks.
        few = min(other.length, self.length)
        if few > _FEW and len(self.beginnings & other.beginnings) < _MANY * few:
            return False
        said, own = _words(self.text, self.subject)
        other_said, its = _words(other.text, other.subject)
        return len(own & its) >= NEAR_SHARE * len(own | its) and near_copies(said, other_said)


@lru_cache(maxsize=4096)
def _beginnings(text: str) -> frozenset[str]:
    """Return how the words of a text begin: that stays through plurals, persons and tenses."""
    return frozenset(word[:_BEGINNING] for word in text.lower().split())
