"""Relative dates of a sentence, resolved against the time at which it was said. Pure.

A memory that says "last week" is wrong a week later. What is found, English only:

- yesterday, today, tonight, last night, this morning, tomorrow, the day before yesterday
- last, this (past, coming), next week, month, year, weekend, weekday, month name, season
- N days, weeks, months, years ago or from now; "in N days" in a sentence that looks ahead
- weekdays, days of a month; months and years behind a preposition; "May last year", ISO dates
- "since", "until", "from ... to ...", "between ... and ...", "starting ..." before any of these

How they are read, where a language leaves it open:

- A week begins on Monday. "Last Friday" is the latest Friday before the day, "next Friday" that of
  the next calendar week, "this Friday" that of the present one. "Two weeks ago" is a calendar week.
- "Last May" and "last summer" are over; seasons are those of the north (winter: from December).
- A month, weekday or day of a month without a year or week is the latest one that has begun, or the
  next one where the sentence looks ahead ("will", "next", "we are flying"), or behind an "until" in
  one that does not speak of the past ("I am away until Friday").
- "Until May" holds to the end of May, but not beyond the statement if it speaks of the past.

What is left alone: vague times ("a few weeks ago", "over a year ago"), spans ("for two years", "the
last month"), what recurs ("every Friday", a birthday without a year), names that are no month
("may", "march", "I asked April"), and dates like 5/6/2025.

Source of the choice: dateparser 1.5 knows neither weekends, seasons nor "since May", gives moments
instead of spans, takes "may" for a date, and needs 5 ms a sentence, measured.
"""

import re
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property
from itertools import pairwise
from typing import Literal

from dateutil.relativedelta import relativedelta, weekday

Role = Literal["at", "since", "until", "from", "near"]
_Span = tuple[datetime, datetime]
_Tense = Literal["ahead", "past", "none"]


@dataclass(frozen=True)
class Moment:
    """A stretch of time that a sentence names.

    Attributes:
        begin: Where its words begin in the text, without the preposition.
        end: Where they end.
        start: When the stretch begins, in UTC.
        stop: When it is over (exclusive), in UTC.
        role: What the sentence says of it: something took place "at" it or "near" it (before,
            after, by), or holds "since" it, "until" it, or "from" it on to another one.
        relative: Whether the words alone do not give the date.
    """

    begin: int
    end: int
    start: datetime
    stop: datetime
    role: Role = "at"
    relative: bool = True


def moments(text: str, said_at: datetime) -> list[Moment]:
    """Return the times that a text names, in order.

    Args:
        text: What was said.
        said_at: When; its offset tells where days begin, and without one it is UTC. A phrase that
            `dated` has seen to stands for the date in its brackets, whatever `said_at` is.

    Cost: linear; about 0.1 ms for a message of a chat.
    """
    return [moment for moment, _ in _found(text, _zoned(said_at))]


def dated(text: str, said_at: datetime) -> str:
    """Return the text with the date behind each relative phrase, in brackets.

    "I moved last week" becomes "I moved last week (2026-05-04 to 2026-05-10)". Dates that are
    absolute, and phrases that are followed by such a bracket, stay as they are.
    """
    said = _zoned(said_at)
    parts, done = [], 0
    for moment, _ in _found(text, said):
        if moment.relative and not _BRACKET.match(text, moment.end):
            start, stop = (t.astimezone(said.tzinfo) for t in (moment.start, moment.stop))
            parts += [text[done : moment.end], f" ({_written(start, stop)})"]
            done = moment.end
    return "".join([*parts, text[done:]])


def interval(text: str, said_at: datetime) -> tuple[datetime | None, datetime | None]:
    """Return since when and until when (exclusive) a statement holds, as far as it says so, in UTC.

    "Since", "from" and "starting" give the first, "until" and the end of "from ... to ..." the
    second. A change with a date ("I moved last week", "I am starting there in June") holds since
    the beginning of that date.
    """
    said = _zoned(said_at)
    since = until = None
    changes: list[Moment] = []
    for moment, sentence in _found(text, said):
        if moment.role in {"since", "from"}:
            since = since or moment.start
        elif moment.role == "until":
            # "I lived there until this month": it is over.
            is_over = sentence.tense == "past" and moment.start <= said < moment.stop
            until = said.astimezone(UTC) if is_over else moment.stop
        elif moment.role == "at" and sentence.tells_a_change:
            changes.append(moment)
    if since is None and until is None and changes:
        # Of "This year I moved last week" the week.
        since = min(changes, key=lambda moment: moment.stop - moment.start).start
    if since is not None and until is not None and until <= since:
        since = None
    return since, until


def read_date(value: str | None, said_at: datetime) -> datetime | None:
    """Return the time that a model wrote, in UTC; None if it cannot be read.

    Args:
        value: ISO 8601, "2026", "2026-05", or a phrase ("last week": when that began).
        said_at: When it was said.
    """
    if not isinstance(value, str):
        return None
    said = _zoned(said_at)
    try:
        time = datetime.fromisoformat(value.strip())
        return (time if time.tzinfo else time.replace(tzinfo=said.tzinfo)).astimezone(UTC)
    except (ValueError, OverflowError):
        found = moments(f"in {value}", said)  # a month needs its preposition
    if not found:
        return None
    return found[0].stop if found[0].role == "until" else found[0].start


# What stands around a phrase, looked for right before it, in its clause or in its sentence.

_NEAR = 60  # characters before a phrase that are looked at
_STRETCH = r"(?:\s+(?:the\s+)?(?:early|late|mid|(?:end|beginning|start)\s+of|about|around))?"
_ROLES: dict[str, Role] = {
    "since": "since", "until": "until", "till": "until", "through": "until", "starting": "from",
    "beginning": "from", "before": "near", "after": "near", "by": "near",
}  # fmt: skip
_LEAD = re.compile(
    rf"(?i)\b(?P<word>(?:starting|beginning)(?:\s+(?:in|on|from))?|from|between|{'|'.join(_ROLES)}"
    rf"|in|on|at|during|of|around){_STRETCH}(?:\s+on)?\s+(?P<the>the\s+)?$"
)
_SENTENCE_END = re.compile(r"(?i)[.!?;](?=\s|$)|\n|,?\s(?:but|though|although)\s")
_CLAUSE_END = re.compile(_SENTENCE_END.pattern + r"|,\s|\s(?:and|so|because|then|when)\s")
_AHEAD = re.compile(
    r"(?i)\b(?:will|shall|won['’]t|(?<!was )(?<!were )going\s+to|gonna|next|upcoming|tomorrow|soon"
    r"|plan(?:s|ning)?|planned\s+for|hop(?:e|ing)\s+to|wants?\s+to|about\s+to|due(?!\s+to)|booked"
    r"|can['’]t\s+wait|look(?:ing)?\s+forward|scheduled|starts|begins|ends|leaves|arrives|expires"
    r"|works\s+for|(?:how|what)\s+about|let['’]s|see\s+you|invit(?:e|ing)"
    r"|sounds?\s+(?:good|great|fine))\b|\w['’]ll\b"
)
_PAST = re.compile(
    r"(?i)\b(?:was|were|did|had|went|got|came|took|made|saw|met|left|began|found|lost|told|said"
    r"|gave|bought|won|ran|ate|held|read|became|built|spent|taught|felt|kept|knew|sold|broke|drove"
    r"|flew|wrote|\w{2,}(?<!ne)(?<!fe)ed)\b"
)
_PROGRESSIVE = re.compile(
    r"(?i)(?:\b(?:am|is|are)|['’](?:m|re|s))(?:\s+(?:all|both|also|finally|now|just|not))?\s+"
    r"(?!(?:amaz|interest|excit|bor|charm|stunn|inspir|challeng|no|some|any|every)(?:th)?ing\b)"
    r"[a-z]{2,}ing\b"
)
_RECURS = re.compile(
    r"(?i)\b(?:birthdays?|born|anniversar(?:y|ies)|every|each\s+year|annual(?:ly)?|yearly|usually)\b"
)
_CHANGES = re.compile(
    r"(?i)\b(?:(?:mov(?!i)|moving|relocat|start(?!up)|join(?!t)|switch|chang|leav|retir|graduat)\w*|left"
    r"|beg[aiu]n(?:s|ning)?|bec[ao]m\w+|stop\w*|quit(?:s|ting)?|got|getting|bought|adopt(?:ed|ing)|married|hired"
    r"|divorced|broke\s+up|opened|founded|launched|signed\s+up|promoted|diagnosed)\b"
)


@dataclass
class _Piece:
    """A sentence or a clause, and what its words look at."""

    text: str

    @cached_property
    def tense(self) -> _Tense:
        if _AHEAD.search(self.text):
            return "ahead"
        if _PAST.search(self.text):
            return "past"
        return "ahead" if _PROGRESSIVE.search(self.text) else "none"

    @cached_property
    def recurs(self) -> bool:
        return _RECURS.search(self.text) is not None

    @cached_property
    def tells_a_change(self) -> bool:
        return _CHANGES.search(self.text) is not None


class _Pieces:
    """A text in pieces, of which each is read once, however many phrases it holds."""

    def __init__(self, text: str, end: re.Pattern[str]) -> None:
        self.starts = [0, *(match.start() for match in end.finditer(text))]
        self.pieces = [_Piece(text[a:b]) for a, b in pairwise([*self.starts, len(text)])]

    def at(self, position: int) -> _Piece:
        return self.pieces[bisect_right(self.starts, position) - 1]


@dataclass(frozen=True)
class _Context:
    """What a phrase is read by: `preposition` stands right before it, `before` a bit more."""

    said: datetime
    before: str
    role: Role
    preposition: str
    tense: _Tense
    recurs: bool


def _found(text: str, said: datetime) -> list[tuple[Moment, _Piece]]:
    """Return the moments in order, each with its sentence."""
    matches = list(_PHRASE.finditer(text))
    if not matches:
        return []
    sentences, clauses = _Pieces(text, _SENTENCE_END), _Pieces(text, _CLAUSE_END)
    found: list[tuple[Moment, _Piece]] = []
    opener: re.Match[str] | None = None  # of the range that the next phrase may close
    for match in matches:
        sentence = sentences.at(match.start())
        before = text[max(0, match.start() - _NEAR) : match.start()]
        closes = opener is not None and opener.end() == match.start()
        role, preposition = _lead(before, match["to"], closes=closes)
        tense = _tense(preposition, clauses.at(match.start()), sentence)
        context = _Context(said, before, role, preposition, tense, sentence.recurs)
        moment = _read(match, context)
        if moment is not None:
            is_late = closes and moment.start <= found[-1][0].start
            if opener and is_late and _MONTH_FIRST.match(opener["words"]):
                # "From March to May 2025" is read by its end.
                end = moment.start.astimezone(said.tzinfo)
                earlier = _read(opener, replace(context, said=end, role="from", tense="past"))
                found[-1] = (earlier or found[-1][0], sentence)
            found.append((moment, sentence))
        opener = match if moment is not None and preposition == "from" else None
    return found


def _lead(before: str, to: str | None, *, closes: bool) -> tuple[Role, str]:
    """Return the role of a phrase, and the preposition unless an article follows it."""
    if closes:
        return "until", "to"
    lead = _LEAD.search(before)
    if lead is None:
        return "at", ""
    word = lead["word"].lower().split()[0]
    if word in {"from", "between"}:
        is_range = to is not None and (word == "between") == (to.lower() == "and")
        return ("from", "from") if is_range else ("at", "")
    return _ROLES.get(word, "at"), "" if lead["the"] else word


def _tense(preposition: str, clause: _Piece, sentence: _Piece) -> _Tense:
    """Return what the clause looks at, or else the sentence."""
    if preposition == "since":
        return "past"
    tense = sentence.tense if clause.tense == "none" else clause.tense
    is_to_come = tense == "none" and _ROLES.get(preposition) == "until"
    return "ahead" if is_to_come else tense


def _read(phrase: re.Match[str], context: _Context) -> Moment | None:
    """Return the moment of a phrase, or None if it is not one, or out of a calendar's range."""
    words, said = phrase["words"], context.said
    match, unless, read = next(
        (match, unless, read)
        for pattern, unless, read in _TABLE
        if (match := pattern.fullmatch(words))
    )
    if unless is not None and unless.search(context.before):
        return None
    try:
        span = read(match, context)
        if span is not None and phrase["first"]:
            first, last = phrase["first"], phrase["last"] or phrase["first"]
            span = _span(first, said)[0], _span(last, said)[1]
        if span is None or span[0] >= span[1]:
            return None
        start, stop = (time.astimezone(UTC) for time in span)
    except (ValueError, OverflowError):
        return None
    relative = re.search(_YEAR, words) is None
    return Moment(phrase.start(), phrase.end("phrase"), start, stop, context.role, relative)


# Readers. Each takes a match and its context and returns the span, None if it is no time.


def _date(match: re.Match[str], context: _Context) -> _Span | None:
    is_led = context.preposition not in {"", "at", "of", "around"}
    return _span(match[0], context.said) if "-" in match[0] or is_led else None


def _named_day(match: re.Match[str], context: _Context) -> _Span:
    words = match[0].lower().split()
    step = {"yesterday": -1, "night": -1, "tomorrow": 1}.get(words[-1], 0)
    return _unit("day", 2 * step if "day" in words else step, context.said)


def _counted(match: re.Match[str], context: _Context) -> _Span | None:
    way, words = match["way"].lower(), match["n"].lower().split()
    if way == "in" and context.tense != "ahead":
        return None
    n = 2 if "couple" in words else _NUMBERS.get(words[0]) or int(words[0])
    return _unit(match["unit"], -n if way == "ago" else n, context.said)


def _unit_beside(match: re.Match[str], context: _Context) -> _Span:
    unit, step, said = match["unit"].lower(), _step(match["which"]), context.said
    span = _unit(unit, step, said)
    # On a Monday "this weekend was great" is about the one that is over.
    is_over = unit == "weekend" and step == 0 and said < span[0] and context.tense == "past"
    return _unit(unit, -1, said) if is_over else span


def _month_beside(match: re.Match[str], context: _Context) -> _Span:
    """Read "last May" and "this summer"."""
    said, step = context.said, _step(match["which"])
    years = range(said.year - 2, said.year + 3)
    spans = [_month_span(match["month"], None, year, said) for year in years]
    if step < 0:
        return max(span for span in spans if span[1] <= said)
    if step > 0:
        return min(span for span in spans if span[0] > said)
    return next((span for span in spans if span[0] <= said < span[1]), spans[2])


def _month(match: re.Match[str], context: _Context) -> _Span | None:
    """Read a month, a day of one, or a season: of its year, or the one that is meant."""
    name, day, said = match["month"], match.groupdict().get("day"), context.said
    if match["year"]:
        which = match["year"].split()[0]
        year = int(which) if which.isdecimal() else said.year + _step(which)
        return _month_span(name, day, year, said)
    is_led = day or (context.preposition and name.lower() not in _SEASONS)
    if context.recurs or not is_led:
        return None
    is_ahead = context.tense == "ahead"
    for years in range(9):  # 29 February
        try:
            span = _month_span(name, day, said.year + (years if is_ahead else -years), said)
        except ValueError:
            continue
        if span[1] > _unit("day", 0, said)[0] if is_ahead else span[0] <= said:
            return span
    return None


def _weekday(match: re.Match[str], context: _Context) -> _Span:
    is_ahead, today = context.tense == "ahead", _unit("day", 0, context.said)[0]
    which = match.groupdict().get("which") or ("coming" if is_ahead else "last")
    which = which.lower().split()[-1]
    day = [name[:3] for name in _DAYS].index(match["day"][:3].capitalize())
    start = today + timedelta(days=day - today.weekday())  # of this calendar week
    if which == "next":
        start += timedelta(days=7)
    elif which in {"last", "past"}:
        start = today + relativedelta(days=-1, weekday=weekday(day)(-1))
    elif which == "coming" or (is_ahead and start < today):
        start = today + relativedelta(days=1, weekday=weekday(day)(1))
    return start, start + timedelta(days=1)


# The calendar

_MONTHS = "january february march april may june july august september october november december"
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_COUNT = "a two three four five six seven eight nine ten eleven twelve"
_NUMBERS = {word: n for n, word in enumerate(_COUNT.split(), start=1)}
_NUMBERS |= {"an": 1, "one": 1, "fifteen": 15, "twenty": 20, "thirty": 30}


def _zoned(time: datetime) -> datetime:
    """Return a time with a plain offset, UTC where it has none."""
    offset = time.utcoffset()
    return time.replace(tzinfo=UTC if offset is None else timezone(offset))


def _step(which: str) -> int:
    return {"last": -1, "past": -1, "next": 1}.get(which.lower().split()[-1], 0)


def _unit(unit: str, step: int, said: datetime) -> _Span:
    """Return the day, week, weekend, month or year that is `step` of them away."""
    today = said.replace(hour=0, minute=0, second=0, microsecond=0)
    monday = today - timedelta(days=today.weekday())
    if unit == "weekend":
        return monday + timedelta(days=7 * step + 5), monday + timedelta(days=7 * step + 7)
    start, length = {
        "day": (today, relativedelta(days=1)),
        "week": (monday, relativedelta(days=7)),
        "month": (today.replace(day=1), relativedelta(months=1)),
        "year": (today.replace(day=1, month=1), relativedelta(years=1)),
    }[unit.lower().removesuffix("s")]
    return start + step * length, start + (step + 1) * length


def _month_span(name: str, day: str | None, year: int, said: datetime) -> _Span:
    """Return a month, a day of one, or a season, of a year."""
    season = _SEASONS.get(name.lower())
    month = season or [each[:3] for each in _MONTHS.split()].index(name[:3].lower()) + 1
    start = datetime(year, month, int(day or 1), tzinfo=said.tzinfo)
    length = relativedelta(days=1) if day else relativedelta(months=3 if season else 1)
    return start, start + length


def _span(value: str, said: datetime) -> _Span:
    """Return what "2026", "2026-05" or "2026-05-11" stands for."""
    numbers = [int(part) for part in value.split("-")]
    year, month, day = (*numbers, 1, 1)[:3]
    start = datetime(year, month, day, tzinfo=said.tzinfo)
    return start, start + relativedelta(**{("years", "months", "days")[len(numbers) - 1]: 1})


def _written(start: datetime, stop: datetime) -> str:
    """Return a span as "2026", "2026-05", "2026-05-11" or two of these."""
    if start.day == stop.day == 1:
        length = len("2026") if start.month == stop.month == 1 else len("2026-05")
    else:
        length = len("2026-05-11")
    first, last = (t.isoformat()[:length] for t in (start, stop - timedelta(days=1)))
    return first if first == last else f"{first} to {last}"


# The table: what a phrase looks like, what may not stand before it, and how it is read.

_YEAR = r"(?:19|20)\d\d"
_YEAR_BESIDE = r"(?i:last|this|next)\s+(?i:year)"
_OF_YEAR = rf"(?:(?:,|\s+of)?\s+(?P<year>{_YEAR}|{_YEAR_BESIDE}))?"
_MONTH = (  # "may" and "march" are also verbs
    rf"(?i:{_MONTHS.replace(' ', '|')})(?<!may)(?<!march)"
    r"|(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\b\.?"
)
_MONTH_OR_SEASON = rf"(?P<month>{_MONTH}|(?i:{'|'.join(_SEASONS)}))"
_DAY = r"(?P<day>3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?"
_MONTH_FIRST = re.compile(rf"(?:{_DAY}(?:\s+of)?\s+)?(?:{_MONTH})")
_WEEKDAY = rf"(?i:{'|'.join(_DAYS)})"
_SHORT_DAY = r"(?:Mon|Tues?|Wed|Thu(?:rs)?|Fri|Sat|Sun)\b"
_WHICH = r"(?P<which>(?i:last|next|this(?:\s+(?:past|coming))?))\s+"
_UNIT = r"(?i:day|week|month|year)s?"
_NUMBER = rf"(?:\d{{1,3}}|(?i:(?:a\s+)?couple(?:\s+of)?|{'|'.join(_NUMBERS)}))"
_COUNTED = rf"(?P<n>{_NUMBER})\s+(?P<unit>{_UNIT})"
_NAMED_DAY = (
    r"(?i:(?:(?:the\s+)?day\s+before\s+)?yesterday|(?:(?:the\s+)?day\s+after\s+)?tomorrow"
    r"|last\s+night|today|tonight|this\s+(?:morning|afternoon|evening))(?!['’]s\s+world\b)"
)
_NOT_NIGHTS = (
    r"(?!\s+(?:night|morning|afternoon|evening)s\b|,?\s+(?:of\s+)?(?:last|this|next)\s+week\b"
    rf"|\s+(?:to|through|until)\s+{_WEEKDAY})"
)
_NOT_STEPS = r"(?!\s+(?:words|steps|people|dollars|euros|miles|pages|points|times)\b)"
_ONE_OF_MANY = re.compile(
    r"(?i)\b(?:the|my|our|your|his|her|their|its|an?|very|every|each|most|any|some|usually|always|Good"
    r"|Black|Ash|Easter|Palm|Cyber)(?:\s+other)?\s+$"
)
_ONE_OF_MANY_DAYS = re.compile(_ONE_OF_MANY.pattern + rf"|{_WEEKDAY}\s+(?:to|through|until)\s+$")
_VAGUE = re.compile(
    r"(?i)(?:\b(?:half|over|(?:more|less)\s+than|at\s+least|twenty|thirty|forty|fifty|hundred"
    rf"|{_NUMBER}\s+(?:or|to)|{_UNIT}\s+and)|\d\s*[-–])\s+$"
)
_LIKE = re.compile(r"(?i)\blike\s+(?:(?:it\s+was|just|only)\s+)?$")
_Reader = Callable[[re.Match[str], _Context], _Span | None]
_ROWS: tuple[tuple[str, re.Pattern[str] | None, _Reader], ...] = (
    (rf"{_YEAR}-(?:1[0-2]|0[1-9])(?:-(?:3[01]|[12]\d|0[1-9]))?|{_YEAR}{_NOT_STEPS}", None, _date),
    (rf"{_DAY}(?:\s+of)?\s+(?P<month>{_MONTH}){_OF_YEAR}", None, _month),
    (rf"(?P<month>{_MONTH})\s+{_DAY}(?!\d|:|\s?[ap]\.?m\b|%){_OF_YEAR}", None, _month),
    (rf"(?P<year>{_YEAR_BESIDE}),?\s+in\s+(?P<month>{_MONTH})", None, _month),
    (rf"{_MONTH_OR_SEASON}{_OF_YEAR}", None, _month),
    (_NAMED_DAY, _LIKE, _named_day),
    (rf"{_WHICH}(?P<unit>(?i:weekend|week|month|year))(?!\s+of\b)", _ONE_OF_MANY, _unit_beside),
    (rf"{_WHICH}{_MONTH_OR_SEASON}(?!\s+of\b)", _ONE_OF_MANY, _month_beside),
    (rf"{_WHICH}(?P<day>{_WEEKDAY}|{_SHORT_DAY})", _ONE_OF_MANY, _weekday),
    (rf"(?P<day>{_WEEKDAY}){_NOT_NIGHTS}", _ONE_OF_MANY_DAYS, _weekday),
    (rf"{_COUNTED}\s+(?P<way>(?i:ago|from\s+now))", _VAGUE, _counted),
    (rf"(?P<way>(?i:in))\s+{_COUNTED}(?:['’]?\s+time)?", None, _counted),
)
_TABLE = [(re.compile(pattern), unless, read) for pattern, unless, read in _ROWS]
_DATES = r"\s*\((?P<first>\d{4}(?:-\d\d){0,2})(?: to (?P<last>\d{4}(?:-\d\d){0,2}))?\)"
_BRACKET = re.compile(_DATES)
_PHRASE = re.compile(
    r"(?<![\w.,/:+$€£'’-])(?P<phrase>(?P<words>"
    + "|".join(re.sub(r"\?P<\w+>", "?:", row) for row, _, _ in _ROWS)
    + rf")(?:['’]s)?)(?![\w/]|[-–]\w|[.,]\d)(?:{_DATES})?"
    + rf"(?:\s+(?P<to>to|until|till|through|and){_STRETCH}\s+)?"
)
