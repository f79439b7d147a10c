"""What makes a turn the one that is asked for."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.base import SearchItem

from memkit.effects import ThreadHit, ThreadHits
from memkit.errors import ConfigError
from memkit.turns import Question, TurnRanking, credit, ranked_turns, times_of

MONDAY = datetime(2026, 6, 1, 12, tzinfo=UTC)
SPEAKERS = ("Ann", "Bob")
# As if each part were alone.
NOTHING = TurnRanking(reach=0, meaning=0, near=(1.0,), speaker=0, date=0, when=0, question=0)


def turn(
    position: int | None,
    text: str = "Well.",
    *,
    found: int = 0,
    cosine: float | None = 0.0,
    thread: str = "t",
    **more: Any,
) -> ThreadHit:
    value: dict[str, Any] = {"text": text, "speaker": "Ann", "last_updated": MONDAY.isoformat()}
    if position is not None:
        value |= {"thread_id": thread, "position": position}
    value |= more
    key = f"{thread}-{position}"
    return ThreadHit(
        value, lambda: SearchItem(("n",), key, value, MONDAY, MONDAY, None), cosine, found
    )


def best(
    question: Question, found: ThreadHits, ranking: TurnRanking, limit: int
) -> list[SearchItem]:
    return [turn.item for turn in ranked_turns(question, found, ranking)[:limit]]


def order(
    ranking: TurnRanking, *turns: ThreadHit, asked: Question | None = None, rarity: Any = (3.0, 5.0)
) -> list[Any]:
    found = best(asked or Question("?"), ThreadHits(turns, list(rarity)), ranking, 99)
    return [item.value.get("position") for item in found]


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


def test_the_rarer_word_counts_more() -> None:
    assert order(NOTHING, turn(0, found=0b01), turn(10, found=0b10), turn(20)) == [10, 0, 20]


def test_a_word_reaches_its_neighbours_and_fades() -> None:
    ranking = replace(NOTHING, reach=2, decay=0.5)
    turns = [turn(n, found=0b10 if n == 3 else 0) for n in range(7)]
    found = best(Question("?"), ThreadHits(turns, [3.0, 5.0]), ranking, 99)
    by_place = {item.value["position"]: round(50 * (item.score or 0), 3) for item in found}
    assert by_place == {0: 0, 1: 1.25, 2: 2.5, 3: 5, 4: 2.5, 5: 1.25, 6: 0}


def test_a_word_counts_once_from_wherever_it_is_nearest() -> None:
    ranking = replace(NOTHING, reach=4)
    alone = best(Question("?"), ThreadHits([turn(0, found=1)], [3.0]), ranking, 1)
    among = [turn(n, found=1) for n in range(5)]
    found = best(Question("?"), ThreadHits(among, [3.0]), ranking, 9)
    assert {item.score for item in found} == {alone[0].score}


def test_nothing_reaches_over_to_another_thread() -> None:
    ranking = replace(NOTHING, reach=4, meaning=2.0, near=(1.0, 1.0))
    turns = [turn(0, found=1, cosine=0.9), turn(1, thread="other", cosine=0.1), turn(None)]
    found = best(Question("?"), ThreadHits(turns, [3.0]), ranking, 9)
    by_itself = best(
        Question("?"),
        ThreadHits([turns[0], turn(9, thread="other", cosine=0.1), turns[2]], [3.0]),
        ranking,
        9,
    )
    assert [item.score for item in found] == [item.score for item in by_itself]


def test_meaning_is_that_of_the_turns_around_too() -> None:
    ranking = replace(NOTHING, meaning=2.0, near=(1.0, 0.5))
    near, far = (turn(0, cosine=0.6), turn(1, cosine=0.6)), (turn(10, cosine=0.6), turn(11))
    assert order(ranking, *near, *far)[2:] == [10, 11]
    assert set(order(ranking, *near, *far)[:2]) == {0, 1}


def test_the_scale_of_an_embedder_does_not_count() -> None:
    ranking = replace(NOTHING, meaning=2.0)
    cosines = (0.1, 0.7, 0.4)
    small = [turn(10 * n, found=n % 2, cosine=c) for n, c in enumerate(cosines)]
    large = [turn(10 * n, found=n % 2, cosine=100 * c - 7) for n, c in enumerate(cosines)]
    assert order(ranking, *small) == order(ranking, *large)


def test_who_is_asked_about_counts_but_is_no_filter() -> None:
    ranking = replace(NOTHING, speaker=4.0)
    asked = Question("?", about={"Bob": 1.0})
    turns = (turn(0), turn(10, speaker="Bob"), turn(20, found=0b10))
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
    turns = (turn(0), turn(10, found=1))
    found = best(asked, ThreadHits(turns, [1.0]), replace(NOTHING, date=4.0), 9)
    assert [round(50 * (item.score or 0), 6) for item in found] == [1.0, 0.0]


def test_asked_when_turns_that_tell_a_time_come_first() -> None:
    turns = (turn(0, "I went there."), turn(10, "I went there two years ago."), turn(20))
    ranking = replace(NOTHING, when=4.0)
    assert order(ranking, *turns, asked=Question("?", asks_when=True))[0] == 10
    assert order(ranking, *turns)[0] == 20  # of equals the later one


@pytest.mark.parametrize("text", ["Do you?", 'She said "do you?"', "Do you? [a photo of a dog]"])
def test_a_question_tells_little(text: str) -> None:
    turns = (turn(20, text), turn(10, "I do. Who? Me."))
    assert order(replace(NOTHING, question=-2.0), *turns) == [10, 20]


def test_of_a_long_message_the_rarest_words_that_there_are_count() -> None:
    rarity = [1.0] * 20 + [9.0, 8.0]
    common, rare = turn(0, found=(1 << 20) - 1), turn(10, found=1 << 20 | 1 << 21)
    assert order(NOTHING, common, rare, rarity=rarity) == [10, 0]


def test_a_fact_stands_in_the_place_of_its_best_turn() -> None:
    def source(*ids: str) -> dict[str, Any]:
        return {"source": {"thread_id": "t", "message_ids": list(ids)}}

    turns = ranked_turns(
        Question("?"),
        ThreadHits([turn(0, found=1, **source("a")), turn(9, **source("b"))], [3.0]),
        replace(NOTHING, fact=1.0),
    )

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
    credit(facts, turns, replace(NOTHING, fact=1.0))
    scores = [one.score and round(50 * one.score, 6) for one in facts]
    assert scores == [46.0, 46.0, 45.0, None, None, 4.0]


hits = st.lists(
    st.builds(
        turn,
        st.none() | st.integers(0, 6),
        st.sampled_from(["Well.", "Really?", "In May 2026."]),
        found=st.integers(0, 15),
        cosine=st.none() | st.floats(-1e9, 1e9) | st.sampled_from([float("nan"), float("inf")]),
        thread=st.sampled_from("tu"),
        speaker=st.sampled_from(["Ann", "Bob", None, 7]),
        times=st.sampled_from([None, [], [["x", 3]], times_of("On 24 May.", MONDAY)]),
        last_updated=st.sampled_from([None, "soon", MONDAY.isoformat(), "2026-06-01"]),
    ),
    max_size=12,
)


@given(hits, st.integers(0, 9), st.randoms(use_true_random=False))
def test_whatever_was_found_the_order_it_came_in_does_not_count(
    turns: list[ThreadHit], limit: int, shuffle: random.Random
) -> None:
    asked = Question.read("When was Ann there on 24 May?", SPEAKERS, MONDAY)
    rarity = [1.0, 2.0, 3.0, 4.0]
    found = best(asked, ThreadHits(turns, rarity), TurnRanking(), limit)
    assert len(found) == min(limit, len(turns))
    scores = [item.score or 0 for item in found]
    assert scores == sorted(scores, reverse=True)
    places = {(t.value.get("thread_id"), t.value.get("position")) for t in turns}
    if len(places) == len(turns):
        again = shuffle.sample(turns, len(turns))
        shuffled = best(asked, ThreadHits(again, rarity), TurnRanking(), limit)
        assert [item.score for item in shuffled] == pytest.approx(scores)


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
