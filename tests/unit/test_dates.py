"""Relative dates are resolved against the time at which they were said."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.facts.dates import Moment, dated, interval, moments, read_date

SAID = datetime(2026, 5, 12, 15, tzinfo=UTC)  # a Tuesday


def day(year: int, month: int = 1, number: int = 1) -> datetime:
    return datetime(year, month, number, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("I ran yesterday", "I ran yesterday (2026-05-11)"),
        ("I ran today and last night.", "I ran today (2026-05-12) and last night (2026-05-11)."),
        ("Today's lunch", "Today's (2026-05-12) lunch"),
        ("the day before yesterday", "the day before yesterday (2026-05-10)"),
        ("I moved last week", "I moved last week (2026-05-04 to 2026-05-10)"),
        ("this month, next year", "this month (2026-05), next year (2027)"),
        ("last weekend", "last weekend (2026-05-09 to 2026-05-10)"),
        ("this weekend was fun", "this weekend (2026-05-09 to 2026-05-10) was fun"),
        ("free this weekend", "free this weekend (2026-05-16 to 2026-05-17)"),
        ("last Friday", "last Friday (2026-05-08)"),
        ("last Tues.", "last Tues (2026-05-05)."),
        ("this Friday", "this Friday (2026-05-15)"),
        ("next Friday", "next Friday (2026-05-22)"),
        ("this coming Friday", "this coming Friday (2026-05-15)"),
        ("last May, this May", "last May (2025-05), this May (2026-05)"),
        ("next May", "next May (2027-05)"),
        ("last December, next December", "last December (2025-12), next December (2026-12)"),
        ("last summer", "last summer (2025-06 to 2025-08)"),
        ("last winter", "last winter (2025-12 to 2026-02)"),
        ("next spring", "next spring (2027-03 to 2027-05)"),
        ("3 days ago", "3 days ago (2026-05-09)"),
        ("Two weeks ago", "Two weeks ago (2026-04-27 to 2026-05-03)"),
        ("a couple of months ago", "a couple of months ago (2026-03)"),
        ("ten years ago", "ten years ago (2016)"),
        ("We will fly in 3 days", "We will fly in 3 days (2026-05-15)"),
        ("We will fly in two months' time", "We will fly in two months' time (2026-07)"),
        ("a week from now", "a week from now (2026-05-18 to 2026-05-24)"),
        # What has no year is the latest one, or the next one where the sentence looks ahead.
        ("I started in May", "I started in May (2026-05)"),
        ("I started in June", "I started in June (2025-06)"),
        ("I will start in June", "I will start in June (2026-06)"),
        ("I am moving in April", "I am moving in April (2027-04)"),
        ("I moved in early May", "I moved in early May (2026-05)"),
        ("I met him on Friday", "I met him on Friday (2026-05-08)"),
        ("i met him on friday", "i met him on friday (2026-05-08)"),
        (
            "I ran on Friday, and I will run today",
            "I ran on Friday (2026-05-08), and I will run today (2026-05-12)",
        ),
        ("I'm meeting him on Friday", "I'm meeting him on Friday (2026-05-15)"),
        ("How about Wednesday at 4?", "How about Wednesday (2026-05-13) at 4?"),
        (
            "I hurt my knee on Friday, but I will run again soon",
            "I hurt my knee on Friday (2026-05-08), but I will run again soon",
        ),
        ("We met on 3 May", "We met on 3 May (2026-05-03)"),
        ("We met on 20th of May", "We met on 20th of May (2025-05-20)"),
        ("We will meet on May 20th", "We will meet on May 20th (2026-05-20)"),
        ("It was on 29 February", "It was on 29 February (2024-02-29)"),
        ("I am away until Friday", "I am away until Friday (2026-05-15)"),
        ("I was away until Friday", "I was away until Friday (2026-05-08)"),
        ("I have worked there since June", "I have worked there since June (2025-06)"),
        ("It was in May last year", "It was in May last year (2025-05)"),
        ("last year in May", "last year in May (2025-05)"),
        ("from March to May 2025", "from March (2025-03) to May 2025"),
        ("from November to March", "from November (2025-11) to March (2026-03)"),
    ],
)
def test_relative_phrases_are_dated(text: str, expected: str) -> None:
    assert dated(text, SAID) == expected
    assert dated(expected, SAID) == expected
    later = SAID + timedelta(days=200)
    assert dated(expected, later) == expected
    relative = [(m.start, m.stop) for m in moments(text, SAID) if m.relative]
    assert [(m.start, m.stop) for m in moments(expected, later) if m.relative] == relative


@pytest.mark.parametrize(
    "text",
    [
        "I may march in the sun for a second",
        "May I ask April about the second one?",
        "I asked May and June",
        "the March on Washington",
        "I go there every Friday, on Friday nights and on Mondays",
        "I work from Monday to Friday",
        "Black Friday",
        "My birthday is on 3 May",
        "I was born in May",
        "I love to hike in the summer and in the fall",
        "the last week of school",
        "my last year of college",
        "in the last month",
        "over the next year",
        "over a year ago",
        "two or three weeks ago",
        "half a year ago",
        "a year and two months ago",
        "a few days ago",
        "1.5 years ago",
        "I read 5 books in 3 days",
        "for two years",
        "Cyberpunk 2077",
        "I walked 2000 steps in 2000 steps",
        "It feels like yesterday",
        "today's world",
        "version 2026.05.12, 5/6/2025 or 2026-02-31",
        "in 500 years ago",
        "since I was a child",
        "",
    ],
)
def test_what_only_looks_like_a_date_is_left_alone(text: str) -> None:
    assert dated(text, SAID) == text
    assert [m for m in moments(text, SAID) if m.relative] == []


@pytest.mark.parametrize(
    ("text", "start", "stop"),
    [
        ("in May 2025", day(2025, 5), day(2025, 6)),
        ("on 3 May 2025", day(2025, 5, 3), day(2025, 5, 4)),
        ("on May 3rd, 2025", day(2025, 5, 3), day(2025, 5, 4)),
        ("in 2019", day(2019), day(2020)),
        ("2025-05-03", day(2025, 5, 3), day(2025, 5, 4)),
        ("since 2025-05", day(2025, 5), day(2025, 6)),
        ("in the summer of 2022", day(2022, 6), day(2022, 9)),
    ],
)
def test_absolute_dates_are_found_and_stay(text: str, start: datetime, stop: datetime) -> None:
    (found,) = moments(text, SAID)
    assert (found.start, found.stop, found.relative) == (start, stop, False)
    assert dated(text, SAID) == text


def test_a_moment_tells_its_place_and_its_role() -> None:
    text = "I lived in Kiel from March to May, and in Ulm since last week."
    assert moments(text, SAID) == [
        Moment(21, 26, day(2026, 3), day(2026, 4), "from"),
        Moment(30, 33, day(2026, 5), day(2026, 6), "until"),
        Moment(52, 61, day(2026, 5, 4), day(2026, 5, 11), "since"),
    ]


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("I have lived here since 2019", day(2019), None),
        ("I lived there until last month", None, day(2026, 5)),
        ("I lived there until 2021", None, day(2022)),
        ("I lived there until this month", None, SAID),
        ("I am here until this month", None, day(2026, 6)),
        ("I lived there from 2019 to 2021", day(2019), day(2022)),
        ("I lived there between March and April", day(2026, 3), day(2026, 5)),
        ("I work there starting next week", day(2026, 5, 18), None),
        ("I started there last week", day(2026, 5, 4), None),
        ("I moved to Ulm in May last year", day(2025, 5), None),
        ("I am moving to Ulm next month", day(2026, 6), None),
        ("I moved before last year", None, None),
        ("I ran a marathon last week", None, None),
        ("I like tea", None, None),
    ],
)
def test_intervals(text: str, since: datetime | None, until: datetime | None) -> None:
    assert interval(text, SAID) == (since, until)
    assert interval(dated(text, SAID), SAID) == (since, until)


def test_days_begin_where_the_speaker_is() -> None:
    late = datetime(2026, 5, 12, 1, tzinfo=timezone(timedelta(hours=9)))  # 16:00 on the 11th in UTC
    assert dated("I ran yesterday", late) == "I ran yesterday (2026-05-11)"
    (found,) = moments("I ran yesterday", late)
    assert found.start == datetime(2026, 5, 10, 15, tzinfo=UTC)
    assert found.start.tzinfo is UTC
    assert dated("I ran yesterday", late.astimezone(UTC)) == "I ran yesterday (2026-05-10)"
    assert dated("I ran yesterday", SAID.replace(tzinfo=None)) == dated("I ran yesterday", SAID)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2026", day(2026)),
        ("2026-05", day(2026, 5)),
        (" 2026-05-03 ", day(2026, 5, 3)),
        ("2026-05-03T10:00:00", day(2026, 5, 3).replace(hour=10)),
        ("2026-05-03T10:00:00+02:00", day(2026, 5, 3).replace(hour=8)),
        ("last week", day(2026, 5, 4)),
        ("since May", day(2026, 5)),
        ("May 2025", day(2025, 5)),
        ("June", day(2025, 6)),
        ("3 May 2025", day(2025, 5, 3)),
        ("until last month", day(2026, 5)),
        ("2026-13", None),
        ("2026-02-31", None),
        ("0000", None),
        ("unknown", None),
        ("present", None),
        ("", None),
        (None, None),
    ],
)
def test_a_date_is_read_as_a_model_writes_it(value: str | None, expected: datetime | None) -> None:
    assert read_date(value, SAID) == expected


WORDS = st.sampled_from(
    [
        "\n",
        "2026-05-04 to 2026-05-10",
        *"""I moved will was am since until from to and between in on the this last next past coming
    week month year weekend May march 3 31st 29 of 2019 2026 999 two a couple days weeks years ago
    yesterday Today's Friday Monday fall summer before , . ! (2026-05) (2026-13) (2026-05-04 to
    2026-05-10) (9999-12-31) 2026-05-03 – every night's""".split(),  # noqa: SIM905 - or a line per word
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(WORDS, max_size=25).map(" ".join))
TIMES = st.datetimes(
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=9)), timezone(timedelta(hours=-11))])
)


@given(TEXTS, TIMES)
def test_any_text_at_any_time_is_read_and_dated_once(text: str, said_at: datetime) -> None:
    found = moments(text, said_at)
    for each, following in zip(found, [*found, None][1:], strict=True):
        assert 0 <= each.begin < each.end <= len(text)
        assert each.start < each.stop
        assert following is None or each.end <= following.begin
    once = dated(text, said_at)
    assert dated(once, said_at) == once
    since, until = interval(text, said_at)
    assert since is None or until is None or since < until
    read_date(text, said_at)
