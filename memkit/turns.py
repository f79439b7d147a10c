"""Which turns of old conversations a question is about. Pure.

A turn is rarely found by itself: what it answers was said before it, and what it speaks of has its
name in the turn after. So a turn counts with the words and the meaning of those around it, which
the store adds up (`ThreadSearch`). Beside that counts who said it, when, and whether it tells
something at all. `TurnRanking` says how much.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from math import isfinite, log
from typing import Any, NamedTuple

from langgraph.store.base import SearchItem

from memkit.effects import stable_key
from memkit.errors import ConfigError
from memkit.facts.dates import moments
from memkit.words import STOP_WORDS, words

# What a nat counts in a score: about what it does in the hybrid score of SemanticStore, so that
# turns and facts can stand in one list.
_NAT = 0.02
# A span of time that is longer is no date: "in 2022", "last year".
_LONGEST_DATE = timedelta(days=100)
_FAR = 16
# People tell of a day for some days.
_TOLD_WITHIN = timedelta(days=3)

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
        fact: That a fact was taken from it, which then stands in its place.

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
    fact: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what is no number."""
        for each in fields(self):
            value: Any = getattr(self, each.name)
            for number in value if isinstance(value, tuple) else (value,):
                if not isinstance(number, int | float) or not isfinite(number):
                    raise ConfigError(f"TurnRanking: {each.name} is a number, got {value!r}")
        if not isinstance(self.reach, int) or not 0 <= self.reach <= _FAR:
            raise ConfigError(f"TurnRanking: reach is from 0 to {_FAR} turns, got {self.reach!r}")
        if not 0 <= self.decay <= 1:
            raise ConfigError(f"TurnRanking: decay is from 0 to 1, got {self.decay!r}")
        if not 0 < len(self.near) <= _FAR + 1 or self.near[0] <= 0 or min(self.near) < 0:
            raise ConfigError(f"TurnRanking: near are weights, the first above 0, got {self.near}")


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
            # Someone may be called Will: then "will" is no name.
            case = re.NOFLAG if name.lower() in STOP_WORDS else re.IGNORECASE
            pattern = re.compile(rf"\b{re.escape(name)}\b(?:['’]s\b)?\s*", case)
            if name and (match := pattern.search(text)):
                named.append((match.start(), name))
                plain = pattern.sub("", plain)
        named.sort()
        # Of one: what they said. Of several: rather what the first said, the one who does it.
        about = {named[0][1]: 1.0 if len(named) == 1 else 0.5} if named else {}
        dates = tuple(_dates(text, asked_at))
        return cls(plain if words(plain) else text, about, dates, bool(_ASKS_WHEN.search(text)))


class _Turn(NamedTuple):
    """What a turn says, as the ranking reads it."""

    value: Mapping[str, Any]

    @property
    def text(self) -> str:
        return str(self.value.get("text", ""))

    @property
    def speaker(self) -> str:
        return str(self.value.get("speaker", self.value.get("subject")))

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


def ranked_turns(
    question: Question, found: Sequence[SearchItem], ranking: TurnRanking
) -> list[SearchItem]:
    """Return turns by how likely it is that a question is about them, the likeliest first.

    Args:
        question: What is asked.
        found: What a ThreadSearch found, with scores by words and meaning in nats; the scores
            become final ones.
        ranking: What counts how much.
    """
    turns = [_Turn(item.value) for item in found]
    scores = [item.score or 0.0 for item in found]
    if question.about and ranking.speaker:
        shares = (question.about.get(turn.speaker, 0.0) for turn in turns)
        scores = [s + ranking.speaker * share for s, share in zip(scores, shares, strict=True)]
    best_date = [0.0] * len(turns)
    for start, stop in question.dates if ranking.date else ():
        is_of = [turn.is_of(start, stop) for turn in turns]
        weight = ranking.date * log(len(turns) / sum(is_of)) if any(is_of) else 0.0
        best_date = [max(b, weight * on) for b, on in zip(best_date, is_of, strict=True)]
    scores = [score + date for score, date in zip(scores, best_date, strict=True)]
    if question.asks_when and ranking.when:
        scores = [s + ranking.when * t.tells_time for s, t in zip(scores, turns, strict=True)]
    if ranking.question:
        scores = [s + ranking.question * t.asks for s, t in zip(scores, turns, strict=True)]
    for item, score in zip(found, scores, strict=True):
        item.score = _NAT * score
    return sorted(found, key=lambda item: item.score or 0.0, reverse=True)


def credit(facts: Sequence[SearchItem], turns: Sequence[SearchItem], ranking: TurnRanking) -> None:
    """Give each fact at least the score of the best of the turns it was taken from, and a bit more.

    A fact says what its turn says, but stands alone: that was found by all that was said around.
    The score of a fact none of whose turns was found stays.

    Args:
        facts: What gets other scores.
        turns: Ranked.
        ranking: What counts how much.
    """
    by_place: dict[tuple[Any, Any], float] = {}
    for turn in turns if facts else ():
        for place in _places(turn.value):
            by_place.setdefault(place, turn.score or 0.0)  # the best comes first
    for fact in facts:
        scores = [by_place[place] for place in _places(fact.value) if place in by_place]
        if scores:
            fact.score = max(*scores, fact.score or 0.0) + _NAT * ranking.fact


def _places(value: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return thread and message of what a value was taken from."""
    source = value.get("source")
    ids = source.get("message_ids") if isinstance(source, Mapping) else None
    thread = source.get("thread_id") if isinstance(source, Mapping) else None
    if not isinstance(ids, list) or not isinstance(thread, str):
        return []
    return [(thread, said) for said in ids if isinstance(said, str)]
