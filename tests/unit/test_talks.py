"""Loading what recall and qa ask about: both forms of files, told by their content."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.talks import load_talks, spread, with_evidence
from memkit.errors import ConfigError
from tests.haystacks import HAYSTACKS


def written(path: Path, raw: Any) -> Path:
    path.write_text(json.dumps(raw))
    return path


def test_a_haystack_is_a_conversation_of_its_own(tmp_path: Path) -> None:
    first, unanswerable, number = load_talks(written(tmp_path / "a.json", HAYSTACKS))
    assert first.id == "q1"
    assert not first.two_people
    assert first.asked_at == "2023-06-01T09:30:00+00:00"
    assert [session.id for session in first.sessions] == ["s2", "s1"]  # by date
    said = [line for session in first.sessions for line in session.lines]
    assert [(line.id, line.by_assistant, line.text) for line in said] == [
        ("s2:1", False, "My parrot Flint can whistle."),
        ("s2:2", True, "Lovely!"),
        ("s1:1", False, "It rains."),
        ("s1:3", True, "Take an umbrella."),
    ]
    assert said[1].said_at == "2023-05-20T02:22:00+00:00"
    (question,) = first.questions
    assert (question.evidence, question.category) == (("s2:1",), "single-session-user")
    assert unanswerable.questions[0].evidence == ()
    assert number.questions[0].answer == "3"


def test_questions_without_evidence_are_left_out(tmp_path: Path) -> None:
    talks = with_evidence(load_talks(written(tmp_path / "a.json", HAYSTACKS)))
    assert [len(talk.questions) for talk in talks] == [1, 0, 0]


def change(**fields: Any) -> list[dict[str, Any]]:
    return [{**HAYSTACKS[0], **fields}]


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (change(question=None), "entry 0.question"),
        (change(haystack_dates=["2023/05/20 (Sat) 02:21"]), "2 sessions and 1 dates"),
        (change(haystack_dates=["May 2023"] * 2), "the date 'May 2023'"),
        (change(question_date="2023/15/20 (Sat) 02:21"), "month must be in 1..12"),
        (
            change(haystack_sessions=[[{"role": "tool", "content": ""}], []]),
            "'user' or 'assistant'",
        ),
        ([HAYSTACKS[0], "x"], "entry 1"),
        ([{"question": "?"}], "expected a LoCoMo file"),
        ([], "expected a LoCoMo file"),
    ],
)
def test_another_form_is_refused(raw: Any, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        load_talks(written(tmp_path / "a.json", raw))
    assert told in str(raised.value)


def test_what_is_no_json_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("once upon a time")
    with pytest.raises(ConfigError, match="is not JSON"):
        load_talks(tmp_path / "a.json")
    with pytest.raises(ConfigError, match="no such file"):
        load_talks(tmp_path / "b.json")


def test_the_story_and_a_part_of_its_questions() -> None:
    (story,) = load_talks(None)
    (part,) = spread([story], 3)
    assert len(part.questions) == 3
    places = [story.questions.index(question) for question in part.questions]
    assert places[0] == 0
    assert places == sorted(places)
    assert places[2] - places[0] > len(story.questions) / 2
    assert spread([story], 1_000) == [story]


def test_conversations_that_nothing_is_asked_about_are_not_loaded(tmp_path: Path) -> None:
    talks = load_talks(written(tmp_path / "a.json", HAYSTACKS))
    assert [talk.id for talk in spread(talks, 1)] == ["q1"]
    assert [talk.id for talk in spread(talks, 2)] == ["q1", "q2_abs"]
