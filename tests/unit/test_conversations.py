"""Loading conversations: the shipped story, and files in LoCoMo's form (samples written here)."""

import copy
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from memkit.demo.conversations import load_locomo, load_story
from memkit.errors import ConfigError
from memkit.facts.rules import statements

SAMPLE: list[dict[str, Any]] = [
    {
        "sample_id": "talk-1",
        "conversation": {
            "speaker_a": "Ute",
            "speaker_b": "Ben",
            "session_2_date_time": "12:05 am on 1 March, 2024",
            "session_2": [
                {"speaker": "Ben", "dia_id": "D2:1", "text": "I sold the boat yesterday."},
                {
                    "speaker": "Ute",
                    "dia_id": "D2:2",
                    "text": "Look at this.",
                    "blip_caption": "a red kite over a beach",
                },
            ],
            "session_1_date_time": "1:56 pm on 8 May, 2023",
            "session_1": [
                {"speaker": "Ute", "dia_id": "D1:1", "text": "I bought a kite."},
                {"speaker": "Ben", "dia_id": "D1:2", "text": "I own a boat."},
                {"speaker": "Ute", "dia_id": "D1:03", "text": "Nice."},
            ],
            "session_3_date_time": "9:00 am on 2 March, 2024",
        },
        "qa": [
            {"question": "Toy?", "answer": "kite", "evidence": ["D1:1"], "category": 4},
            {"question": "When?", "answer": 2024, "evidence": ["D2:1; D1:2"], "category": 2},
            {"question": "Padded?", "answer": "a", "evidence": ["D01:03"], "category": 1},
            {"question": "Half?", "answer": "b", "evidence": ["D", "D2:2"], "category": 1},
            {"question": "Gone?", "answer": "c", "evidence": ["D9:9"], "category": 4},
            {"question": "None?", "answer": "d", "evidence": [], "category": 4},
            {"question": "World?", "answer": "e", "evidence": ["D1:1"], "category": 3},
            {"question": "Trick?", "evidence": ["D1:1"], "category": 5},
        ],
    }
]


def write(path: Path, data: Any) -> Path:
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_locomo_is_read_in_order_of_sessions_with_dates_in_utc(tmp_path: Path) -> None:
    (talk,) = load_locomo(write(tmp_path / "data.json", SAMPLE))
    assert (talk.id, talk.title, talk.two_people) == ("talk-1", "Ute and Ben", True)
    assert [session.id for session in talk.sessions] == ["s1", "s2"]
    assert [session.started_at for session in talk.sessions] == [
        "2023-05-08T13:56:00+00:00",
        "2024-03-01T00:05:00+00:00",
    ]
    first = talk.sessions[0].lines
    assert [line.id for line in first] == ["D1:1", "D1:2", "D1:3"]
    assert [line.speaker for line in first] == ["Ute", "Ben", "Ute"]
    assert first[0].said_at < first[1].said_at < first[2].said_at
    assert talk.asked_at > talk.sessions[-1].lines[-1].said_at


def test_a_picture_is_told_by_its_caption(tmp_path: Path) -> None:
    (talk,) = load_locomo(write(tmp_path / "data.json", SAMPLE))
    assert talk.sessions[1].lines[1].text == (
        "Look at this. [shares a photo: a red kite over a beach]"
    )


def test_evidence_is_read_as_far_as_possible_and_the_rest_is_counted(tmp_path: Path) -> None:
    (talk,) = load_locomo(write(tmp_path / "data.json", SAMPLE))
    assert {q.text: q.evidence for q in talk.questions} == {
        "Toy?": ("D1:1",),
        "When?": ("D2:1", "D1:2"),
        "Padded?": ("D1:3",),
        "Half?": ("D2:2",),
    }
    assert {q.category for q in talk.questions} == {1, 2, 4}
    assert talk.questions[1].answer == "2024"
    assert talk.left_out == 2
    assert talk.bad_evidence == 2


def changed(*path: Any, to: Any) -> Any:
    data = copy.deepcopy(SAMPLE)
    place: Any = data
    for step in path[:-1]:
        place = place[step]
    if to is ...:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return data


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ({"conversation": {}}, "the top level is an object"),
        ("text", "the top level is a string"),
        (None, "the top level is null"),
        ([], "it holds no conversation"),
        ([1], "entry 1 is a number"),
        (changed(0, "conversation", to=...), "entry 1 has no 'conversation'"),
        (changed(0, "qa", to=...), "has no 'qa'"),
        (changed(0, "qa", to={}), "has an object as 'qa'"),
        (changed(0, "qa", 0, "evidence", to="D1:1"), "question 1 has a string as 'evidence'"),
        (changed(0, "conversation", "speaker_a", to=...), "has no 'speaker_a'"),
        (changed(0, "conversation", "session_1_date_time", to=...), "no 'session_1_date_time'"),
        (changed(0, "conversation", "session_1_date_time", to="May"), "has the date 'May'"),
        (changed(0, "conversation", "session_1", 0, to="hello"), "line 1 is a string"),
        (changed(0, "conversation", "session_1", 1, "text", to=...), "line 2 has no 'text'"),
        (changed(0, "conversation", "session_1", 1, "dia_id", to="x"), "has the dia_id 'x'"),
        (changed(0, "conversation", "session_1", 1, "dia_id", to="D1:1"), "two lines with"),
        (
            changed(0, "conversation", to={"speaker_a": "Ute", "speaker_b": "Ben"}),
            "has no session",
        ),
        (SAMPLE * 2, "two conversations have the sample_id 'talk-1'"),
    ],
)
def test_what_is_not_locomo_is_refused_with_the_reason(
    tmp_path: Path, data: Any, problem: str
) -> None:
    path = write(tmp_path / "data.json", data)
    with pytest.raises(ConfigError) as caught:
        load_locomo(path)
    message = str(caught.value)
    assert str(path) in message
    assert problem in message
    assert "expected a LoCoMo file" in message


@pytest.mark.parametrize("content", [b"", b"{", b"name,age\n", b"\xff\xfe\x00", b"[" * 100_000])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(f"{path} is not JSON")):
        load_locomo(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        load_locomo(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="is a directory"):
        load_locomo(tmp_path)


def test_the_story_holds_what_its_questions_ask() -> None:
    story = load_story()
    lines = {line.id: line for session in story.sessions for line in session.lines}
    assert 6 <= len(story.sessions) <= 7
    assert len(lines) == sum(len(session.lines) for session in story.sessions)
    assert len(story.questions) >= 8
    said: dict[str, str] = {}
    for question in story.questions:
        assert question.evidence
        text = " ".join(lines[i].text for i in question.evidence)
        said[question.answer] = text
        words = re.findall(r"[\w-]{3,}", question.answer.lower())
        held = [word for word in words if word in text.lower()]
        assert len(held) >= len(words) / 2, question
    # Every session starts with the customer, and every line is answered by the other side.
    for session in story.sessions:
        roles = [line.by_assistant for line in session.lines]
        assert roles == [n % 2 == 1 for n in range(len(roles))]
        assert 16 <= len(session.lines) <= 26
    times = [datetime.fromisoformat(line.said_at) for line in lines.values()]
    assert times == sorted(times)
    assert datetime.fromisoformat(story.asked_at) > times[-1]


def test_the_storys_address_is_stated_twice_so_that_the_first_goes_stale() -> None:
    story = load_story()
    addresses = [
        statement.text
        for session in story.sessions
        for line in session.lines
        if not line.by_assistant
        for statement in statements(line.text)
        if statement.attribute == "home_address"
    ]
    assert ["Linden Street" in addresses[0], "Harbour Lane" in addresses[-1]] == [True, True]
    assert len(addresses) == 2
