"""Relative dates of a sentence, resolved against the time at which it was said. Pure.

A memory that says "last week" is wrong a week later. What is found, English only:

- days: yesterday, today, tonight, last night, this morning, tomorrow, the day before yesterday
- last, this, next (and "this past") week, month, year, weekend, weekday, month name, season
- N days, weeks, months, years ago, with N in digits or words; "in N days" where the sentence looks
  ahead; "in N days' time" and "N days from now"
- months behind a preposition, days of a month, capitalized weekdays, years behind a preposition,
  seasons with a year, ISO dates
- "since", "until", "from ... to ...", "between ... and ...", "starting ..." before any of these

How they are read, where a language leaves it open:

- A week begins on Monday. "Last Friday" is the latest Friday before the day; "next Friday" that of
  the next calendar week, "this Friday" that of the present one. "Two weeks ago" is a calendar week,
  "two months ago" a month, as people mean them.
- "Last May" and "last summer" are the latest ones that are over; seasons are those of the north, by
  months (winter: December to February).
- A month, weekday or day of a month without a year or week is the latest one that has begun, or the
  next one where the sentence looks ahead ("will", "next", "planning", "we are flying"). "Until" is
  the next one too in a sentence about the present ("I am away until Friday").
- "Until May" holds to the end of May, but not beyond the statement if it speaks of the past.

What is left alone: vague times ("a few weeks ago", "over a year ago", "recently"), spans ("for two
years", "the last month"), what recurs ("every Friday", "in the summer", a birthday without a year),
month names that are no month ("may", "march", "I asked April"), and dates like 5/6/2025.

The arithmetic is dateutil's, the search a small grammar. Source of that choice: dateparser 1.5
knows neither weekends, seasons nor "since May", gives moments instead of spans, takes "may" for a
date, and needs 5 ms a sentence and 0.3 s to import, measured.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from functools import cached_property
from typing import Literal

from dateutil.relativedelta import relativedelta

Role = Literal["at", "since", "until", "from"]


@dataclass(frozen=True)
class Moment:
    """A stretch of time that a sentence names.

    Attributes:
        phrase: The words, without the preposition: "last week".
        begin: Where they begin in the text.
        end: Where they end.
        start: When the stretch begins, in UTC.
        stop: When it is over (exclusive), in UTC.
        role: What the sentence says of it: something took place "at" it, or holds "since" it,
            "until" it, or "from" it on to another one.
        relative: Whether the words alone do not give the date.
    """

    phrase: str
    begin: int
    end: int
    start: datetime
    stop: datetime
    role: Role = "at"
    relative: bool = True


_MONTHS = ("january", "february", "march", "april", "may", "june", "july", "august", "september",
           "october", "november", "december")  # fmt: skip
_DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_SHORT_DAYS = tuple(day[:3] for day in _DAYS)
_SEASONS = {"spring": 3, "summer": 6, "autumn": 9, "fall": 9, "winter": 12}
_NUMBERS = {
    word: n
    for n, word in enumerate(
        ("a", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
         "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
         "nineteen", "twenty"), start=1)
} | {"an": 1, "one": 1, "thirty": 30, "forty": 40, "fifty": 50,
     "couple": 2, "couple of": 2, "a couple": 2, "a couple of": 2}  # fmt: skip
_NAMED_DAYS = {
    "day before yesterday": -2, "last night": -1, "yesterday": -1, "today": 0, "tonight": 0,
    "this morning": 0, "this afternoon": 0, "this evening": 0, "tomorrow": 1,
    "day after tomorrow": 2,
}  # fmt: skip

# Names of months as they are written as such: "may" and "march" are also verbs, "sun" is no day.
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December"
    r"|Jan\b\.?|Feb\b\.?|Mar\b\.?|Apr\b\.?|Jun\b\.?|Jul\b\.?|Aug\b\.?|Sept?\b\.?|Oct\b\.?|Nov\b\.?"
    r"|Dec\b\.?|january|february|april|june|july|august|september|october|november|december)"
)
_ANY_MONTH = rf"(?:{_MONTH}|march|may)"
_DAY = rf"(?:(?i:{'|'.join(_DAYS)}))"
_WORDS = "|".join(sorted(_NUMBERS, key=len, reverse=True)).replace(" ", r"\s+")
_NUMBER = rf"(?:\d{{1,3}}|(?i:{_WORDS}))"
_UNIT = r"(?i:day|week|month|year)s?"
_YEAR = r"(?:19|20)\d\d"
_NTH = r"(?:3[01]|[12]\d|0?[1-9])"

_PHRASE = re.compile(
    rf"""(?<![\w.,/:+$€£'’-])(?:
      (?P<iso>{_YEAR}-(?:1[0-2]|0[1-9])-(?:3[01]|[12]\d|0[1-9]))(?:T[\d:.]+(?:Z|[+-][\d:]+)?)?
    | (?P<iso_month>{_YEAR}-(?:1[0-2]|0[1-9]))
    | (?P<day>{_NTH})(?:st|nd|rd|th)?(?:\s+of)?\s+(?P<day_month>{_MONTH})
        (?:,?\s+(?P<day_year>{_YEAR}))?
    | (?P<month_day>{_MONTH})\s+(?P<day2>{_NTH})(?:st|nd|rd|th)?(?!\d|:|\s?[ap]\.?m\b|%)
        (?:,?\s+(?P<day2_year>{_YEAR}))?
    | (?P<dated_month>{_ANY_MONTH})(?:\s+of)?,?\s+(?P<month_year>{_YEAR})
    | (?P<named>(?i:(?:the\s+)?day\s+before\s+yesterday|(?:the\s+)?day\s+after\s+tomorrow
        |last\s+night|yesterday|today|tonight|tomorrow|this\s+(?:morning|afternoon|evening)))
    | (?P<back>(?i:week|month|year|weekend))\s+before\s+last
    | (?P<which>(?i:last|next|this(?:\s+(?:past|coming))?))\s+
        (?P<what>(?i:weekend|week|month|year|spring|summer|autumn|fall|winter)|{_DAY}
          |(?:Mon|Tues?|Wed|Thu(?:rs)?|Fri|Sat|Sun)\b\.?|{_MONTH})
    | (?P<ago>{_NUMBER})\s+(?P<ago_unit>{_UNIT})\s+(?i:ago)
    | (?P<ahead>{_NUMBER})\s+(?P<ahead_unit>{_UNIT})\s+(?i:from\s+now)
    | (?i:in)\s+(?P<within>{_NUMBER})\s+(?P<within_unit>{_UNIT})(?P<time>['’]?\s+time)?
    | (?P<season>(?i:spring|summer|autumn|fall|winter))(?:\s+(?:of|in))?\s+(?P<season_year>{_YEAR})
    | (?P<weekday>{"|".join(d.capitalize() for d in _DAYS)})
    | (?P<month>{_MONTH})
    | (?P<year>{_YEAR})
    )(?:['’]s)?(?![\w/]|[-–]\w|[.,]\d)""",
    re.VERBOSE,
)

# What stands right before a phrase.
_STRETCH = r"(?:\s+(?:the\s+)?(?:early|late|mid|end\s+of|beginning\s+of|start\s+of|about|around))?"
_BEFORE = re.compile(
    rf"""\b(?:(?P<since>since)|(?P<until>until|till|['’]?til|through)
      |(?P<onward>(?:starting|beginning|effective|as\s+of)(?:\s+(?:in|on|from))?)
      |(?P<at>in|on|at|during|by|around|before|after))
      {_STRETCH}(?:\s+on)?\s+(?P<the>the\s+)?(?:mid-)?$""",
    re.VERBOSE | re.IGNORECASE,
)
_TO = re.compile(rf"\s*(?:to|until|till|through|and|[-–]){_STRETCH}\s*", re.IGNORECASE)
_RANGE = re.compile(rf"\b(?:from|between){_STRETCH}\s+$", re.IGNORECASE)
_RECURS = re.compile(
    r"\b(?:every|each|most|any|some|usually|always)(?:\s+other)?\s+$", re.IGNORECASE
)
_NOT_LAST = re.compile(
    r"\b(?:the|my|our|your|his|her|their|its|a|an|very|every|each)\s+$", re.IGNORECASE
)
_VAGUE = re.compile(
    rf"(?:\b(?:half|over|(?:more|less)\s+than|at\s+least|twenty|thirty|forty|fifty|hundred"
    rf"|{_NUMBER}\s+(?:or|to)|{_UNIT}\s+and)|\d\s*[-–])\s+$",
    re.IGNORECASE,
)
_LOOSE = re.compile(rf"\b(?:before|after|by){_STRETCH}\s+$", re.IGNORECASE)
_HOLIDAY = re.compile(r"\b(?:Black|Good|Ash|Easter|Palm|Cyber|Super|Casual|Holy)\s+$")
_ANNUAL = re.compile(
    r"\b(?:birthdays?|born|anniversar(?:y|ies)|every|each\s+year|annual(?:ly)?|yearly|usually)\b",
    re.IGNORECASE,
)
_PLURAL = re.compile(r"\s+(?:nights|mornings|afternoons|evenings)\b", re.IGNORECASE)
_SOCIETY = re.compile(r"\s+(?:world|society|age|youth|standards|economy)\b", re.IGNORECASE)
_FIGURE = re.compile(r"\blike\s+(?:it\s+was\s+)?(?:just\s+|only\s+)?$", re.IGNORECASE)
_NOT_A_YEAR = re.compile(
    r"\s+(?:words|steps|people|dollars|euros|pounds|miles|km|meters|metres|calories|pieces|pages"
    r"|points|units|times|items|copies|square|hours|kg|feet|others)\b",
    re.IGNORECASE,
)
_ABSOLUTE = r"\d{4}(?:-\d\d(?:-\d\d)?)?"
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d|\d{8}T")
_IN_A_WEEK = re.compile(r",?\s+(?:of\s+)?(?:last|this|next)\s+week\b", re.IGNORECASE)
_OTHER_DAY = re.compile(rf"\s*(?:to|through|till|until|[-–])\s*{_DAY}\b")
_DAY_TO = re.compile(rf"{_DAY}\s*(?:to|through|till|until|[-–])\s*$")
_BRACKET = re.compile(rf"\s*\((?P<start>{_ABSOLUTE})(?: to (?P<stop>{_ABSOLUTE}))?\)")

# What a sentence looks at.
_CLAUSE_END = re.compile(r",\s|\s(?:and|so|because|then|when)\s", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)|\n|,?\s(?:but|though|although)\s", re.IGNORECASE)
_AHEAD = re.compile(
    r"\b(?:will|shall|won['’]t|(?<!was )(?<!were )going\s+to|gonna|next|upcoming|tomorrow"
    r"|plan(?:s|ning)?|planned\s+for|hop(?:e|ing)\s+to|can['’]t\s+wait|look(?:ing)?\s+forward|soon|about\s+to|due(?!\s+to)"
    r"|booked|scheduled|starts|begins|leaves|arrives|expires|ends|takes\s+place"
    r"|(?:how|what)\s+about|let['’]s|see\s+you|invit(?:e|ing)|want(?:s)?\s+to"
    r"|works\s+for|sounds?\s+(?:good|great|fine))\b|\w['’]ll\b",
    re.IGNORECASE,
)
_PAST = re.compile(
    r"\b(?:was|were|did|had|went|got|came|took|made|saw|met|left|began|found|lost|told|said|gave|bought"
    r"|won|ran|ate|held|read|became|built|spent|taught|felt|kept|knew|sold|broke|drove|flew|wrote"
    r"|\w{2,}(?<!ne)(?<!fe)ed)\b",
    re.IGNORECASE,
)
_PROGRESSIVE = re.compile(
    r"(?:\b(?:am|is|are)|['’](?:m|re|s))(?:\s+(?:all|both|also|finally|now|just|not))?\s+"
    r"(?!(?:amaz|interest|excit|bor|charm|stunn|inspir|challeng|confus|annoy|noth|someth|anyth|everyth)ing\b)"
    r"[a-z]{2,}ing\b",
    re.IGNORECASE,
)
_PRESENT = re.compile(
    r"\b(?:am|is|are|have\s+to|has\s+to|stay|must|can|be|please)\b|['’](?:m|re)\b", re.IGNORECASE
)
_CHANGES = re.compile(
    r"\b(?:mov(?:e|es|ed|ing)|relocat\w+|start(?:s|ed|ing)?|beg[aiu]n(?:s|ning)?|join(?:s|ed|ing)?"
    r"|switch(?:es|ed|ing)?|chang(?:e|es|ed|ing)|bec(?:a|o)m(?:e|es|ing)|got|getting|bought|adopt(?:ed|ing)"
    r"|quit(?:s|ting)?|left|leav(?:e|es|ing)|stop(?:s|ped|ping)?|retir\w+|graduat\w+|married|divorced"
    r"|broke\s+up|opened|founded|launched|signed\s+up|hired|promoted|diagnosed)\b",
    re.IGNORECASE,
)


def moments(text: str, said_at: datetime) -> list[Moment]:
    """Return the times that a text names, in order.

    Args:
        text: What was said.
        said_at: When; its offset tells where days begin, and without one it is UTC. A phrase that
            `dated` has seen to stands for the date in its brackets, whatever `said_at` is.

    Cost: well under a millisecond for a message of a chat.
    """
    return [hit.moment for hit in _found(text, _zoned(said_at))]


def dated(text: str, said_at: datetime) -> str:
    """Return the text with the date behind each relative phrase, in brackets.

    "I moved last week" becomes "I moved last week (2026-05-04 to 2026-05-10)". Dates that are
    absolute, and phrases that are followed by such a bracket, stay as they are.
    """
    said = _zoned(said_at)
    parts, done = [], 0
    for hit in _found(text, said):
        moment = hit.moment
        if moment.relative and not hit.is_dated:
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
    since = until = None
    changed: Moment | None = None
    said = _zoned(said_at)
    for hit in _found(text, said):
        moment = hit.moment
        if moment.role in {"since", "from"}:
            since = since or moment.start
        elif moment.role == "until":
            until = moment.stop
            # "I lived there until this month": it is over.
            if moment.start <= said < moment.stop and hit.sentence.is_past:
                until = said.astimezone(UTC)
        elif hit.sentence.tells_a_change and not _LOOSE.search(
            text[max(0, moment.begin - _NEAR) : moment.begin]
        ):
            # Of "last year in May" the month.
            changed = min(changed or moment, moment, key=lambda m: m.stop - m.start)
    if since is None and until is None and changed is not None:
        since = changed.start
    if since is not None and until is not None and until <= since:
        since = None
    return since, until


def read_date(value: str | None, said_at: datetime) -> datetime | None:
    """Return the time that a model wrote, in UTC; None if it cannot be read.

    Args:
        value: ISO 8601, "2026", "2026-05", or a phrase ("last week": when that began).
        said_at: When it was said.
    """
    if not isinstance(value, str) or not value.strip():
        return None
    value, said = value.strip(), _zoned(said_at)
    try:
        if re.fullmatch(_ABSOLUTE, value):
            return _span(value, said)[0].astimezone(UTC)
        if _ISO_TIME.match(value):
            time = datetime.fromisoformat(value)
            return (time if time.tzinfo else time.replace(tzinfo=said.tzinfo)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    for words in (value, f"in {value}"):  # a month needs its preposition
        for moment in moments(words, said_at):
            return moment.stop if moment.role == "until" else moment.start
    return None


# Search

_Span = tuple[datetime, datetime]
_NEAR = 60  # characters before and behind a phrase that are looked at


@dataclass
class _Piece:
    """A sentence or a clause, and what its words look at."""

    text: str

    @cached_property
    def is_past(self) -> bool:
        return _PAST.search(self.text) is not None

    @cached_property
    def is_present(self) -> bool:
        return _PRESENT.search(self.text) is not None

    @cached_property
    def looks_ahead(self) -> bool:
        if _AHEAD.search(self.text):
            return True
        return not self.is_past and _PROGRESSIVE.search(self.text) is not None

    @cached_property
    def recurs(self) -> bool:
        return _ANNUAL.search(self.text) is not None

    @cached_property
    def tells_a_change(self) -> bool:
        return _CHANGES.search(self.text) is not None


@dataclass(frozen=True)
class _Hit:
    """A moment, its sentence, and whether a bracket with its date follows."""

    moment: Moment
    sentence: _Piece
    is_dated: bool


@dataclass(frozen=True)
class _Context:
    """What a phrase is read by: the time of the statement, and what stands around it.

    `before` and `behind` are the text next to it, `lead` the preposition; `year` is one that is
    named next to it ("in May last year"), `latest` the end of a range that it opens.
    """

    said: datetime
    before: str
    behind: str
    lead: re.Match[str] | None
    role: Role
    sentence: _Piece
    clause: _Piece
    year: int | None
    latest: datetime | None

    @property
    def looks_ahead(self) -> bool:
        """Whether a month or weekday is one that is to come."""
        if self.role == "since":
            return False
        for piece in (self.clause, self.sentence):
            if piece.looks_ahead or piece.is_past:
                return piece.looks_ahead
        return self.role == "until" and self.sentence.is_present


class _Cuts:
    """A text in pieces, each found and read once."""

    def __init__(self, text: str, ends: re.Pattern[str]) -> None:
        self.text = text
        self.cuts = [0, *(match.start() for match in ends.finditer(text)), len(text)]
        self.pieces: dict[tuple[int, int], _Piece] = {}

    def around(self, begin: int, end: int) -> "_Piece":
        """Return the piece that holds these characters."""
        left = self.cuts[bisect_right(self.cuts, begin, hi=len(self.cuts) - 1) - 1]
        right = self.cuts[bisect_left(self.cuts, end, lo=1)]
        if (left, right) not in self.pieces:
            self.pieces[left, right] = _Piece(self.text[left:right])
        return self.pieces[left, right]


def _found(text: str, said: datetime) -> list[_Hit]:
    matches, ends = _phrases(text)
    if not matches:
        return []
    sentences, clauses = _Cuts(text, _SENTENCE_END), _Cuts(text, _CLAUSE_END)
    nears = [text[max(0, m.start() - _NEAR) : m.start()] for m in matches]
    # What stands between a phrase and the next one; the last has none.
    gaps = [text[end : m.start()] for end, m in zip(ends, matches[1:], strict=False)] + ["."]
    opens = [
        _TO.fullmatch(gap) is not None and _RANGE.search(near) is not None
        for gap, near in zip(gaps, nears, strict=True)
    ]
    hits: list[_Hit] = []
    latest: datetime | None = None  # where the range ends whose beginning comes next
    # From the back: "from March to May 2025" is read by its end.
    for i in range(len(matches) - 1, -1, -1):
        match = matches[i]
        sentence = sentences.around(match.start(), match.end())
        clause = clauses.around(match.start(), match.end())
        lead = _BEFORE.search(nears[i])
        context = _Context(
            said=said,
            before=nears[i],
            behind=text[ends[i] : ends[i] + _NEAR],
            lead=lead,
            role=_role(lead, opens=latest is not None, closes=i > 0 and opens[i - 1]),
            sentence=sentence,
            clause=min(clause, sentence, key=lambda piece: len(piece.text)),
            year=_year_beside(matches, gaps, i, said),
            latest=latest,
        )
        hit = _read(match, context, is_dated=ends[i] > match.end())
        if hit is not None:
            hits.append(hit)
        latest = hit.moment.start if hit is not None and i > 0 and opens[i - 1] else None
    return hits[::-1]


def _phrases(text: str) -> tuple[list[re.Match[str]], list[int]]:
    """Return what looks like a time, and where each ends with the bracket behind it."""
    matches: list[re.Match[str]] = []
    ends: list[int] = []
    for match in _PHRASE.finditer(text):
        if not ends or match.start() >= ends[-1]:
            bracket = _BRACKET.match(text, match.end())
            matches.append(match)
            ends.append(bracket.end() if bracket else match.end())
    return matches, ends


def _role(lead: re.Match[str] | None, *, opens: bool, closes: bool) -> Role:
    if opens:
        return "from"
    if closes or (lead and lead["until"]):
        return "until"
    if lead and lead["since"]:
        return "since"
    return "from" if lead and lead["onward"] else "at"


def _year_beside(
    matches: list[re.Match[str]], gaps: list[str], i: int, said: datetime
) -> int | None:
    """Return the year of "in May last year" and "last year in May"."""
    beside = []
    if i + 1 < len(matches) and re.fullmatch(r",?\s+(?:of\s+)?", gaps[i]):
        beside.append(matches[i + 1])
    if i and re.fullmatch(r",?\s+(?:in|on)\s+", gaps[i - 1]):
        beside.append(matches[i - 1])
    for match in beside:
        if match["which"] and match["what"].lower() == "year":
            return said.year + _STEPS[match["which"].lower().split()[-1]]
    return None


def _read(match: re.Match[str], context: _Context, *, is_dated: bool) -> _Hit | None:
    """Return the moment of a phrase, or None if it is not one, or out of a calendar's range."""
    name = next(name for name in _READERS if match[name])
    try:
        span = _READERS[name](match, context)
        if span is not None and is_dated:
            bracket = _BRACKET.match(match.string, match.end())
            span = _bracketed(bracket, context.said) if bracket else span
        if span is None or span[0] >= span[1]:
            return None
        start, stop = (time.astimezone(UTC) for time in span)
    except (ValueError, OverflowError):
        return None
    years = match["day_year"] or match["day2_year"]
    moment = Moment(
        match[0],
        match.start(),
        match.end(),
        start,
        stop,
        context.role,
        relative=name not in _ABSOLUTE_KINDS and not years,
    )
    return _Hit(moment, context.sentence, is_dated)


# Reading. Each takes a match and its context and returns the span, None if it is no time.


def _iso(match: re.Match[str], context: _Context) -> _Span | None:
    return _span(match["iso"] or match["iso_month"], context.said)


def _day(match: re.Match[str], context: _Context) -> _Span | None:
    month = _month_of(match["day_month"] or match["month_day"])
    day = int(match["day"] or match["day2"])
    year = match["day_year"] or match["day2_year"] or context.year
    if year:
        return _stretch(datetime(int(year), month, day, tzinfo=context.said.tzinfo), days=1)
    if context.sentence.recurs:
        return None
    return _nearest(month, day, context, relativedelta(days=1))


def _dated_month(match: re.Match[str], context: _Context) -> _Span | None:
    month = _month_of(match["dated_month"])
    return _stretch(_first(context.said, int(match["month_year"]), month), months=1)


def _month(match: re.Match[str], context: _Context) -> _Span | None:
    month = _month_of(match["month"])
    if context.year and (context.lead is None or not context.lead["the"]):
        return _stretch(_first(context.said, context.year, month), months=1)
    led = context.lead is not None and not context.lead["the"]
    if not (led or context.latest or context.role == "until") or context.sentence.recurs:
        return None
    return _nearest(month, 1, context, relativedelta(months=1))


def _year(match: re.Match[str], context: _Context) -> _Span | None:
    lead = context.lead
    led = lead is not None and not lead["the"]
    if lead is not None and lead["at"] and lead["at"].lower() in {"at", "of", "around"}:
        led = False
    if not (led or context.latest or context.role == "until"):
        return None
    if _NOT_A_YEAR.match(context.behind):
        return None
    return _stretch(_first(context.said, int(match["year"])), years=1)


def _named(match: re.Match[str], context: _Context) -> _Span | None:
    words = " ".join(match["named"].lower().split()).removeprefix("the ")
    if _SOCIETY.match(context.behind) or _FIGURE.search(context.before):
        return None
    return _stretch(_midnight(context.said) + relativedelta(days=_NAMED_DAYS[words]), days=1)


def _before_last(match: re.Match[str], context: _Context) -> _Span | None:
    return _unit(match["back"], -2, context.said)


def _counted(match: re.Match[str], context: _Context) -> _Span | None:
    number = match["ago"] or match["ahead"] or match["within"]
    unit = match["ago_unit"] or match["ahead_unit"] or match["within_unit"]
    if match["within"] and not (match["time"] or context.looks_ahead):
        return None
    if not match["within"] and _VAGUE.search(context.before):
        return None
    n = int(number) if number.isdecimal() else _NUMBERS[" ".join(number.lower().split())]
    return _unit(unit, -n if match["ago"] else n, context.said)


def _which(  # noqa: PLR0911 - one line per unit
    match: re.Match[str], context: _Context
) -> _Span | None:
    which = match["which"].lower().split()[-1]  # last, past, this, next or coming
    what = match["what"].lower()
    step, said = _STEPS[which], context.said
    if which in {"last", "next"} and _NOT_LAST.search(context.before):
        return None
    if re.match(r"\s+of\b(?!\s+(?:19|20)\d\d)", context.behind):
        return None  # "last week of school"
    if what not in _UNITS and what[:3] in _SHORT_DAYS:
        return _this_weekday(_SHORT_DAYS.index(what[:3]), which, context)
    if what in _SEASONS:
        return _season(what, step, said)
    if what == "weekend" and which == "this":
        span = _unit(what, 0, said)
        # On a Monday "this weekend was great" is about the one that is over.
        is_over = said < span[0] and context.sentence.is_past and not context.looks_ahead
        return _unit(what, -1, said) if is_over else span
    if what in _UNITS:
        return _unit(what, step, said)
    start = _first(said, said.year, _month_of(what))
    present = _first(said, said.year, said.month)
    if step and not (start < present if step < 0 else start > present):
        start += relativedelta(years=step)
    return _stretch(start, months=1)


def _weekday(match: re.Match[str], context: _Context) -> _Span | None:
    if (
        _RECURS.search(context.before)
        or _HOLIDAY.search(context.before)
        or _PLURAL.match(context.behind)
        or _IN_A_WEEK.match(context.behind)
        or (context.lead is not None and context.lead["the"])
        or context.latest is not None
        or _OTHER_DAY.match(context.behind)
        or _DAY_TO.search(context.before)
    ):
        return None
    day = _DAYS.index(match["weekday"].lower())
    return _this_weekday(day, "coming" if context.looks_ahead else "last", context)


def _season_of(match: re.Match[str], context: _Context) -> _Span | None:
    start = _first(context.said, int(match["season_year"]), _SEASONS[match["season"].lower()])
    return _stretch(start, months=3)


# The calendar

_UNITS = frozenset(("day", "week", "weekend", "month", "year"))
_STEPS = {"last": -1, "past": -1, "this": 0, "next": 1, "coming": 1}


def _zoned(time: datetime) -> datetime:
    """Return a time with a plain offset, UTC where it has none."""
    offset = time.utcoffset()
    return time.replace(tzinfo=UTC if offset is None else timezone(offset))


def _midnight(time: datetime) -> datetime:
    return time.replace(hour=0, minute=0, second=0, microsecond=0)


def _first(said: datetime, year: int, month: int = 1) -> datetime:
    return datetime(year, month, 1, tzinfo=said.tzinfo)


def _stretch(start: datetime, *, days: int = 0, months: int = 0, years: int = 0) -> _Span:
    return start, start + relativedelta(days=days, months=months, years=years)


def _unit(unit: str, step: int, said: datetime) -> _Span:
    """Return the day, week, weekend, month or year that is `step` of them away."""
    unit, today = unit.lower().removesuffix("s"), _midnight(said)
    if unit == "day":
        return _stretch(today + timedelta(days=step), days=1)
    if unit == "month":
        return _stretch(today.replace(day=1) + relativedelta(months=step), months=1)
    if unit == "year":
        return _stretch(today.replace(day=1, month=1) + relativedelta(years=step), years=1)
    monday = today + timedelta(days=7 * step - today.weekday())
    return (
        _stretch(monday + timedelta(days=5), days=2)
        if unit == "weekend"
        else _stretch(monday, days=7)
    )


def _this_weekday(day: int, which: str, context: _Context) -> _Span:
    today = _midnight(context.said)
    present = today + timedelta(days=day - today.weekday())  # of this calendar week
    if which in {"last", "past"}:
        start = present if present < today else present - timedelta(days=7)
    elif which == "next":
        start = present + timedelta(days=7)
    elif which == "coming" or (present < today and context.looks_ahead):
        start = present if present > today else present + timedelta(days=7)
    else:
        start = present
    return _stretch(start, days=1)


def _season(name: str, step: int, said: datetime) -> _Span:
    years = range(said.year - 2, said.year + 3)
    spans = [_stretch(_first(said, year, _SEASONS[name]), months=3) for year in years]
    if step < 0:
        return next(span for span in reversed(spans) if span[1] <= said)
    if step > 0:
        return next(span for span in spans if span[0] > said)
    return next((span for span in spans if span[0] <= said < span[1]), spans[2])


def _nearest(month: int, day: int, context: _Context, length: relativedelta) -> _Span | None:
    """Return the latest such date that has begun, or the next one that is not over."""
    said = context.latest or _midnight(context.said)
    said = said.astimezone(context.said.tzinfo)
    step = 1 if context.latest is None and context.looks_ahead else -1
    for years in range(9):  # 29 February
        try:
            start = datetime(said.year + step * years, month, day, tzinfo=said.tzinfo)
        except ValueError:
            continue
        if start + length > said if step > 0 else start <= said:
            return start, start + length
    return None


def _month_of(name: str) -> int:
    short = name.lower()[:3]
    return next(n for n, month in enumerate(_MONTHS, start=1) if month.startswith(short))


def _span(value: str, said: datetime) -> _Span:
    """Return what "2026", "2026-05" or "2026-05-11" stands for."""
    numbers = [int(part) for part in value.split("-")]
    year, month, day = (*numbers, 1, 1)[:3]
    start = datetime(year, month, day, tzinfo=said.tzinfo)
    return _stretch(start, **{("years", "months", "days")[len(numbers) - 1]: 1})


def _bracketed(bracket: re.Match[str], said: datetime) -> _Span:
    start, stop = _span(bracket["start"], said)
    return start, _span(bracket["stop"], said)[1] if bracket["stop"] else stop


def _written(start: datetime, stop: datetime) -> str:
    """Return a span as "2026", "2026-05", "2026-05-11" or two of these."""
    first, last = start.date().isoformat(), (stop - timedelta(days=1)).date().isoformat()
    if start.day == stop.day == 1:
        if start.month == stop.month == 1:
            first, last = first[:4], last[:4]
        else:
            first, last = first[:7], last[:7]
    return first if first == last else f"{first} to {last}"


_READERS: dict[str, Callable[[re.Match[str], _Context], _Span | None]] = {
    "iso": _iso,
    "iso_month": _iso,
    "day": _day,
    "month_day": _day,
    "dated_month": _dated_month,
    "named": _named,
    "back": _before_last,
    "which": _which,
    "ago": _counted,
    "ahead": _counted,
    "within": _counted,
    "season": _season_of,
    "weekday": _weekday,
    "month": _month,
    "year": _year,
}
_ABSOLUTE_KINDS = frozenset(("iso", "iso_month", "dated_month", "season", "year"))
