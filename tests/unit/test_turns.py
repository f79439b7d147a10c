"""What makes a turn the one that is asked for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.base import SearchItem

from memkit.errors import ConfigError
from memkit.turns import Question, TurnRanking, credit, ranked_turns, times_of

MONDAY = datetime(2026, 6, 1, 12, tzinfo=UTC)
SPEAKERS = ("Ann", "Bob")
# As if each part were alone.
NOTHING = TurnRanking(speaker=0, date=0, when=0, question=0)


def turn(n: int, text: str = "Well.", *, score: float | None = 0.0, **more: Any) -> SearchItem:
    value: dict[str, Any] = {"text": text, "speaker": "Ann", "last_updated": MONDAY.isoformat()}
    return SearchItem(("n",), str(n), {**value, **more}, MONDAY, MONDAY, score)


def order(ranking: TurnRanking, *turns: SearchItem, asked: Question | None = None) -> list[int]:
    return [int(item.key) for item in ranked_turns(asked or Question("?"), turns, ranking)]


# What is read off a question


def test_names_of_those_who_speak_go_and_say_whom_it_is_about() -> None:
    read = Question.read("What did Bob's sister tell Ann about Carla?", SPEAKERS, MONDAY)
    assert read.text == "What did sister tell about Carla?"
    assert read.about == {"Bob": 0.5}
    assert Question.read("When did ANN go?", SPEAKERS, MONDAY).about == {"Ann": 1.0}
    assert Question.read("Annual report?", SPEAKERS, MONDAY) == Question("Annual report?")


def test_a_name_that_is_a_word_too_is_one_only_as_it_is_written() -> None:
    assert Question.read("What will I do?", ("Will",), MONDAY) == Question("What will I do?")
    assert Question.read("What did Will do?", ("Will",), MONDAY).about == {"Will": 1.0}


@pytest.mark.parametrize("text", ["Ann", "Ann?", "Bob, Ann!", ""])
def test_a_question_of_nothing_but_names_is_asked_as_it_is(text: str) -> None:
    assert Question.read(text, SPEAKERS, MONDAY).text == text


@given(st.text(), st.lists(st.text(max_size=5), max_size=4))
def test_any_text_and_any_names_can_be_read(text: str, names: list[str]) -> None:
    read = Question.read(text, names, MONDAY)
    assert set(read.about) <= set(names)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("When did she move?", True),
        ("Since when does he play?", True),
        ("How long have they known each other?", True),
        ("Which month was it?", True),
        ("What did she say when I called?", False),
        ("When I called, what did she say?", False),
        ("How much does it cost?", False),
    ],
)
def test_whether_a_time_is_asked_for(text: str, asks: bool) -> None:
    assert Question.read(text, (), MONDAY).asks_when is asks


def test_dates_of_a_question_are_relative_to_when_it_is_asked() -> None:
    asked = Question.read("Where was I last week?", (), MONDAY)
    assert asked.dates == ((datetime(2026, 5, 25, tzinfo=UTC), datetime(2026, 6, 1, tzinfo=UTC)),)
    assert Question.read("Where was I last year?", (), MONDAY).dates == ()  # no date: all of it


def test_the_dates_a_turn_tells_of_are_kept_as_text() -> None:
    assert times_of("We met yesterday.", MONDAY) == [
        ["2026-05-31T00:00:00+00:00", "2026-06-01T00:00:00+00:00"]
    ]
    assert times_of("We met.", MONDAY) == []


# What counts


def test_who_is_asked_about_counts_but_is_no_filter() -> None:
    ranking = replace(NOTHING, speaker=4.0)
    asked = Question("?", about={"Bob": 1.0})
    turns = (turn(0), turn(10, speaker="Bob"), turn(20, score=5.0))
    assert order(ranking, *turns, asked=asked) == [20, 10, 0]


@pytest.mark.parametrize(
    "more",
    [
        {"last_updated": (MONDAY - timedelta(days=9)).isoformat()},
        {"last_updated": (MONDAY - timedelta(days=6)).isoformat()},  # told some days later
        {"times": times_of("On 24 May.", MONDAY)},
    ],
)
def test_a_date_finds_what_was_said_then_or_tells_of_then(more: dict[str, Any]) -> None:
    asked = Question.read("What was on 23 and 24 May?", (), MONDAY)
    if "times" not in more:
        start = MONDAY - timedelta(days=9)
        asked = Question("?", dates=((start, start + timedelta(days=1)),))
    turns = (turn(0), turn(10, **more), turn(20), turn(30, times=["no date"], last_updated="no"))
    assert order(replace(NOTHING, date=4.0), *turns, asked=asked)[0] == 10


def test_a_date_on_which_everything_was_said_says_nothing() -> None:
    asked = Question("?", dates=((MONDAY - timedelta(days=1), MONDAY + timedelta(days=1)),))
    turns = (turn(0), turn(10, score=1.0))
    found = ranked_turns(asked, turns, replace(NOTHING, date=4.0))
    assert [round(50 * (item.score or 0), 6) for item in found] == [1.0, 0.0]


def test_asked_when_turns_that_tell_a_time_come_first() -> None:
    turns = (turn(0, "I went there."), turn(10, "I went there two years ago."), turn(20))
    ranking = replace(NOTHING, when=4.0)
    assert order(ranking, *turns, asked=Question("?", asks_when=True))[0] == 10
    assert order(NOTHING, *turns)[1:] == [0, 20]


@pytest.mark.parametrize("text", ["Do you?", 'She said "do you?"', "Do you? [a photo of a dog]"])
def test_a_question_tells_little(text: str) -> None:
    turns = (turn(20, text), turn(10, "I do. Who? Me."))
    assert order(replace(NOTHING, question=-2.0), *turns) == [10, 20]


def test_a_fact_stands_in_the_place_of_its_best_turn() -> None:
    def source(*ids: str) -> dict[str, Any]:
        return {"source": {"thread_id": "t", "message_ids": list(ids)}}

    given = [turn(0, score=3.0, **source("a")), turn(9, **source("b"))]
    turns = ranked_turns(Question("?"), given, NOTHING)

    def fact(score: float | None, **value: Any) -> SearchItem:
        return SearchItem(("n",), "k", value, MONDAY, MONDAY, score)

    facts = [
        fact(0.9, **source("b", "a")),
        fact(0.9, **source("b")),
        fact(0.9, **source("c")),
        fact(None, source={"thread_id": ["t"], "message_ids": [["a"], "a"]}),
        fact(None, source="a"),
        fact(None, **source("a")),
    ]
    credit(facts, turns, NOTHING)
    scores = [one.score and round(50 * one.score, 6) for one in facts]
    assert scores == [46.0, 46.0, 45.0, None, None, 4.0]


found = st.lists(
    st.builds(
        turn,
        st.integers(0, 99),
        st.sampled_from(["Well.", "Really?", "In May 2026.", "", "?"]),
        score=st.none() | st.floats(-9, 99),
        speaker=st.sampled_from(["Ann", "Bob", None, 7]),
        times=st.sampled_from([None, [], [["x", 3]], times_of("On 24 May.", MONDAY)]),
        last_updated=st.sampled_from([None, "soon", MONDAY.isoformat(), "2026-06-01"]),
    ),
    max_size=12,
)


@given(found)
def test_whatever_was_found_is_ranked(turns: list[SearchItem]) -> None:
    asked = Question.read("When was Ann there on 24 May?", SPEAKERS, MONDAY)
    best = ranked_turns(asked, turns, TurnRanking())
    assert sorted(item.key for item in best) == sorted(item.key for item in turns)
    scores = [item.score or 0.0 for item in best]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"reach": -1}, {"reach": 17}, {"reach": 1.5}, {"decay": 1.1}, {"decay": "x"}, {"near": ()},
        {"near": (0.0, 1.0)}, {"near": (1.0, -1.0)}, {"speaker": float("nan")}, {"date": None},
    ],
)  # fmt: skip
def test_a_ranking_that_makes_no_sense_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="TurnRanking"):
        TurnRanking(**wrong)
