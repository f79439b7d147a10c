"""Which turns of old conversations a question is about. Pure.

A turn is rarely found by itself: what it answers was said before it, and what it speaks of has its
name in the turn after. So a turn counts with the words and the meaning of those around it. Beside
that counts who said it, when, and whether it tells something at all. `TurnRanking` says how much.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from math import isfinite, log, sqrt
from typing import Any, NamedTuple

from langgraph.store.base import SearchItem

from memkit.effects import ThreadHit, ThreadHits, stable_key
from memkit.errors import ConfigError
from memkit.facts.dates import moments
from memkit.words import words

# What a nat counts in a score: about what it does in the hybrid score of SemanticStore, so that
# turns and facts can stand in one list.
_NAT = 0.02
# A span of time that is longer is no date: "in 2022", "last year".
_LONGEST_DATE = timedelta(days=100)
# People tell of a day for some days.
_TOLD_WITHIN = timedelta(days=3)
# Of a long message, the rarest words: else its many common ones decide.
_MOST_WORDS = 12

_ASKS_WHEN = re.compile(
    r"^\W*(?:(?:since|until|by|from|around) )?when\b(?! (?:i|you|we|he|she|they|it)\b)"
    r"|\bhow long\b|\b(?:what|which) (?:\w+ )?(?:date|day|week|month|year|time)\b",
    re.IGNORECASE,
)
_TELLS_TIME = re.compile(
    r"\b(?:for|in|over|past|last|next|about|around|been) (?:the |a |an )?(?:\w+ ){0,2}?"
    r"(?:day|week|month|year)s?\b|\b\d+ (?:day|week|month|year)s?\b|\b(?:19|20)\d\d\b|\bago\b",
    re.IGNORECASE,
)
_ASKS = re.compile(r"\?[\s\"'”’)]*(?:\[[^\]]*\]\s*)?\Z")  # a note in brackets may follow


@dataclass(frozen=True, slots=True)
class TurnRanking:
    """What counts in the ranking of turns; 0 switches a part off.

    The unit is that of an inverse document frequency, a nat: what one word of that rarity counts.

    Attributes:
        words: Times what the words of the question count that a turn or those around it have.
        reach: How many turns away a word of the question still counts for a turn.
        decay: What is left of it per turn of distance.
        meaning: What a cosine counts that is a standard deviation above those of the others.
        near: The weights of the cosines of the turn itself, of those next to it, and so on.
        speaker: That it was said by the person whom the question names.
        date: Times the rarity of the date that the question names: that it was said then or in the
            days after, or tells of then.
        when: That it tells of a time, where the question asks for one.
        question: That it ends with a question mark.

    Raises:
        ConfigError: A number makes no sense.

    Source:
        Chosen on the six conversations of the LoCoMo development file by `python -m benchmarks
        recall --ablation`; half or twice of any of them changes hit@10 by about a point.
    """

    words: float = 1.0
    reach: int = 4
    decay: float = 0.8
    meaning: float = 2.0
    near: tuple[float, ...] = (1.0, 2 / 3, 1 / 3)
    speaker: float = 4.0
    date: float = 4.0
    when: float = 4.0
    question: float = -2.0

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        for each in fields(self):
            value: Any = getattr(self, each.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or not isfinite(number):
                    raise ConfigError(f"TurnRanking: {each.name} is a number, got {value!r}")
        if not 0 <= self.reach <= 16 or self.reach != int(self.reach):
            raise ConfigError(f"TurnRanking: reach is from 0 to 16 turns, got {self.reach!r}")
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"TurnRanking: decay is from 0 to 1, got {self.decay!r}")
        if not self.near or self.near[0] <= 0 or min(self.near) < 0:
            raise ConfigError(f"TurnRanking: near are weights, the first above 0, got {self.near}")

    @property
    def around(self) -> int:
        """How many turns on each side of a turn count for it."""
        return max(int(self.reach), len(self.near) - 1)


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked for.

    Attributes:
        text: Without the names of those who speak: they say "I" of themselves.
        about: Of whom it asks, and how much it counts that a turn is theirs.
        dates: The dates it names, each from and until (exclusive).
        asks_when: Whether it asks for a time.
    """

    text: str
    about: Mapping[str, float] = field(default_factory=dict)
    dates: tuple[tuple[datetime, datetime], ...] = ()
    asks_when: bool = False

    @classmethod
    def read(cls, text: str, speakers: Iterable[str], asked_at: datetime) -> "Question":
        """Read a question.

        Args:
            text: The question.
            speakers: The names of those who said the turns.
            asked_at: What relative dates of the question are relative to.
        """
        named: list[tuple[int, str]] = []
        plain = text
        for name in speakers:
            pattern = re.compile(rf"\b{re.escape(name)}\b(?:['’]s\b)?\s*", re.IGNORECASE)
            if name and (match := pattern.search(text)):
                named.append((match.start(), name))
                plain = pattern.sub("", plain)
        named.sort()
        # Of one: what they said. Of several: rather what the first said, the one who does it.
        about = {named[0][1]: 1.0 if len(named) == 1 else 0.5} if named else {}
        dates = tuple(_dates(text, asked_at))
        return cls(plain if words(plain) else text, about, dates, bool(_ASKS_WHEN.search(text)))


class _Turn(NamedTuple):
    """A turn as the ranking sees it; without a place it stands by itself."""

    value: Mapping[str, Any]
    cosine: float | None
    found: int
    thread: str | None
    position: int

    @classmethod
    def of(cls, hit: ThreadHit) -> "_Turn":
        value, _, cosine, found = hit
        thread, position = value.get("thread_id"), value.get("position")
        if isinstance(thread, str) and isinstance(position, int):
            return cls(value, cosine, found, thread, position)
        return cls(value, cosine, found, None, 0)

    @property
    def text(self) -> str:
        return str(self.value.get("text", ""))

    @property
    def asks(self) -> bool:
        text = self.text
        return "?" in text and _ASKS.search(text) is not None

    @property
    def tells_time(self) -> bool:
        return bool(self.value.get("times")) or _TELLS_TIME.search(self.text) is not None

    def is_of(self, start: datetime, stop: datetime) -> bool:
        """Return whether it was said in a stretch of time or soon after, or tells of it."""
        said = _time(self.value.get("last_updated"))
        if said is not None and start <= said < stop + _TOLD_WITHIN:
            return True
        return any(begin < stop and start < end for begin, end in self._times)

    @property
    def _times(self) -> Iterator[tuple[datetime, datetime]]:
        times = self.value.get("times")
        for span in times if isinstance(times, list) else ():
            begin, end = map(_time, span) if _is_pair(span) else (None, None)
            if begin is not None and end is not None:
                yield begin, end


def _is_pair(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2


def _time(text: object) -> datetime | None:
    try:
        time = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return time if time.tzinfo else None


def turn_key(thread_id: str | None, message_id: str) -> str:
    """Return the key of the item that a turn is kept under."""
    return stable_key(thread_id, message_id)


def times_of(text: str, said_at: datetime) -> list[list[str]]:
    """Return the dates that a turn tells of, each as ISO 8601 from and until (exclusive).

    Args:
        text: What was said.
        said_at: When, with an offset.
    """
    return [[start.isoformat(), stop.isoformat()] for start, stop in _dates(text, said_at)]


def _dates(text: str, said_at: datetime) -> Iterator[tuple[datetime, datetime]]:
    for moment in moments(text, said_at):
        if moment.stop - moment.start <= _LONGEST_DATE:
            yield moment.start, moment.stop


def best(
    question: Question, found: ThreadHits, ranking: TurnRanking, limit: int
) -> list[SearchItem]:
    """Return the turns that a question is most likely about, best first, each with its score.

    Args:
        question: What is asked.
        found: Turns that may be, and what stands around them.
        ranking: What counts how much.
        limit: How many to return.
    """
    turns = [_Turn.of(hit) for hit in found.hits]
    scores = _scores(question, turns, found.rarity, ranking)
    # Of equals the later one.
    order = sorted(range(len(turns)), key=lambda n: (scores[n], turns[n].position), reverse=True)
    items = []
    for n in order[:limit]:
        item = found.hits[n].item()
        item.score = _NAT * scores[n]
        items.append(item)
    return items


def _scores(
    question: Question, turns: Sequence[_Turn], rarity: Sequence[float], ranking: TurnRanking
) -> list[float]:
    """Return the score of each turn, in nats."""
    around = _Around(turns, rarity, ranking)
    dates = []
    if ranking.date:
        for start, stop in question.dates:
            is_of = [turn.is_of(start, stop) for turn in turns]
            rarity_of_date = log(len(turns) / sum(is_of)) if any(is_of) else 0.0
            dates.append((is_of, ranking.date * rarity_of_date))
    scores = []
    for n, turn in enumerate(turns):
        score = around.score(n)
        if question.about and ranking.speaker:
            speaker = str(turn.value.get("speaker"))
            score += ranking.speaker * question.about.get(speaker, 0.0)
        if dates:
            score += max(weight if is_of[n] else 0.0 for is_of, weight in dates)
        if question.asks_when and ranking.when and turn.tells_time:
            score += ranking.when
        if ranking.question and turn.asks:
            score += ranking.question
        scores.append(score)
    return scores


class _Around:
    """What the words and the meaning of turns count, with those of the turns around each.

    Args:
        turns: All of them.
        rarity: Of word i.
        ranking: What counts how much.
    """

    def __init__(
        self, turns: Sequence[_Turn], rarity: Sequence[float], ranking: TurnRanking
    ) -> None:
        self._turns = turns
        self._threads: dict[str | None, dict[int, int]] = {}
        for n, turn in enumerate(turns):
            if turn.thread is not None:
                self._threads.setdefault(turn.thread, {})[turn.position] = n
        self._rarity = _rarest(turns, rarity)
        self._worth: dict[int, float] = {0: 0.0}
        self._meaning = _spread([turn.cosine for turn in turns])
        # Per distance: what is left of a word, and the weight of a cosine.
        fade = [ranking.decay**d if d <= ranking.reach else 0.0 for d in range(ranking.around + 1)]
        near = [*ranking.near, *[0.0] * len(fade)]
        self._steps = [(d, fade[d], near[d]) for d in range(1, len(fade))]
        self._own = ranking.near[0]
        self._words, self._weight = ranking.words, ranking.meaning

    def score(self, n: int) -> float:
        """Return what turn n has for it: a word of its own, or of the nearest that has it."""
        turn = self._turns[n]
        found = turn.found
        score = self._worth_of(found)
        total = weight = 0.0
        own = self._meaning[n]
        if own is not None:
            total, weight = self._own * own, self._own
        near_by = self._threads.get(turn.thread)
        for distance, fade, share in self._steps if near_by else ():
            new = 0
            for position in (turn.position - distance, turn.position + distance):
                m = near_by.get(position) if near_by else None
                if m is None:
                    continue
                new |= self._turns[m].found
                meaning = self._meaning[m]
                if share and meaning is not None:
                    total += share * meaning
                    weight += share
            new &= ~found
            if new and fade:
                score += fade * self._worth_of(new)
                found |= new
        return self._words * score + self._weight * (total / weight if weight else 0.0)

    def _worth_of(self, words: int) -> float:
        worth = self._worth.get(words)
        if worth is None:
            worth = self._worth[words] = sum(
                idf for bit, idf in self._rarity.items() if words & bit
            )
        return worth


def _rarest(turns: Sequence[_Turn], rarity: Sequence[float]) -> dict[int, float]:
    """Return the rarity of the rarest words that there are, by their bits."""
    present = 0
    for turn in turns:
        present |= turn.found
    by_bit = {1 << i: idf for i, idf in enumerate(rarity) if present >> i & 1}
    rarest = sorted(by_bit, key=lambda bit: -by_bit[bit])[:_MOST_WORDS]
    return {bit: by_bit[bit] for bit in rarest}


def _spread(cosines: Sequence[float | None]) -> list[float | None]:
    """Return how many standard deviations each is above their mean: embedders differ in scale."""
    known = [cosine for cosine in cosines if cosine is not None]
    if not known:
        return list(cosines)
    mean = sum(known) / len(known)
    deviation = sqrt(sum((one - mean) * (one - mean) for one in known) / len(known)) or 1.0
    return [None if cosine is None else (cosine - mean) / deviation for cosine in cosines]
