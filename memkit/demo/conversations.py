"""The conversations that the demo replays: the shipped support story, or a file of LoCoMo."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError

LOCOMO = (
    "a LoCoMo file: a JSON list of conversations, each with `conversation` (speaker_a, speaker_b, "
    "session_1, session_1_date_time, ...) and `qa`"
)
ASKED_CATEGORIES = {1: "multi-hop", 2: "temporal", 4: "single-hop"}
"""The categories of LoCoMo that are asked: 3 needs outside knowledge, 5 has no answer."""

_EVIDENCE = re.compile(r"D(\d+):(\d+)")
_LINE_SPACING = timedelta(minutes=1)  # sessions carry a date, lines do not


@dataclass(frozen=True, slots=True)
class Line:
    """One message as it was said.

    Attributes:
        id: Unique in its conversation; it becomes the id of the message.
        speaker: A person's name, or None where roles say it all.
        by_assistant: Whether the assistant said it (never between two people).
        text: What was said.
        said_at: ISO 8601 with an offset.
    """

    id: str
    speaker: str | None
    by_assistant: bool
    text: str
    said_at: str


@dataclass(frozen=True, slots=True)
class Session:
    """What was said in one sitting."""

    id: str
    started_at: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """A question about a conversation, with the ids of the lines that hold its answer."""

    id: str
    text: str
    answer: str
    evidence: tuple[str, ...]
    category: int | str | None = None


@dataclass(frozen=True, slots=True)
class Conversation:
    """Sessions of one customer, or of two people, and questions about them.

    Attributes:
        id: Serves as `user_id` and begins every `thread_id`.
        title: One line for the screen.
        two_people: Whether both speakers are people, so that nobody is the assistant.
        system: The system message each thread begins with.
        sessions: In the order of their dates.
        questions: Those that have evidence in the conversation.
        asked_at: When the questions are asked: after everything was said.
        left_out: Questions of the asked categories without any usable evidence.
        bad_evidence: Evidence entries that name no line of the conversation.
    """

    id: str
    title: str
    two_people: bool
    system: str | None
    sessions: tuple[Session, ...]
    questions: tuple[Question, ...]
    asked_at: str
    left_out: int = 0
    bad_evidence: int = 0


def load_story() -> Conversation:
    """Return the conversation that is shipped with memkit: a customer and a shop's support."""
    raw = json.loads(
        resources.files("memkit.demo").joinpath("story.json").read_text(encoding="utf-8")
    )
    name = raw["id"]
    sessions = tuple(
        Session(
            id=session["id"],
            started_at=session["started_at"],
            lines=tuple(
                Line(
                    id=f"{name}/{line['id']}",
                    speaker=None,
                    by_assistant=line["speaker"] == "assistant",
                    text=line["text"],
                    said_at=_after(datetime.fromisoformat(session["started_at"]), n),
                )
                for n, line in enumerate(session["lines"])
            ),
        )
        for session in raw["sessions"]
    )
    questions = tuple(
        Question(
            id=f"{name}/questions/{n}",
            text=item["question"],
            answer=item["answer"],
            evidence=tuple(f"{name}/{line}" for line in item["evidence"]),
        )
        for n, item in enumerate(raw["questions"]["items"], 1)
    )
    return Conversation(
        id=name,
        title=raw["title"],
        two_people=False,
        system=raw["system"],
        sessions=sessions,
        questions=questions,
        asked_at=raw["questions"]["asked_at"],
    )


def load_locomo(path: str | Path) -> list[Conversation]:
    """Return the conversations of a file in LoCoMo's form.

    A line with a picture gets its caption appended, as `[shares a photo: ...]`. Sessions are dated
    in UTC; lines follow each other by a minute, since the file dates only sessions.

    Raises:
        ConfigError: The file is missing, is no JSON, or does not have this form.

    Source:
        Maharana et al., "Evaluating Very Long-Term Conversational Memory of LLM Agents", 2024.
    """
    path = Path(path)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file; expected {LOCOMO}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a directory; expected {LOCOMO}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; expected {LOCOMO}") from None
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error}); expected {LOCOMO}") from None
    try:
        return _conversations(raw)
    except _FormError as error:
        raise ConfigError(f"{path}: {error}; expected {LOCOMO}") from None


class _FormError(Exception):
    """What about the data is not in LoCoMo's form."""


def _conversations(raw: Any) -> list[Conversation]:
    if not isinstance(raw, list):
        raise _FormError(f"the top level is {_kind(raw)}")
    if not raw:
        raise _FormError("it holds no conversation")
    found = [_conversation(entry, n) for n, entry in enumerate(raw, 1)]
    names = [conversation.id for conversation in found]
    for name in names:
        if names.count(name) > 1:
            raise _FormError(f"two conversations have the sample_id {name!r}")
    return found


def _conversation(entry: Any, number: int) -> Conversation:
    where = f"entry {number}"
    if not isinstance(entry, Mapping):
        raise _FormError(f"{where} is {_kind(entry)}")
    said = _get(entry, "conversation", Mapping, where)
    name = str(entry.get("sample_id") or f"conversation-{number}")
    where = f"conversation {name!r}"
    speakers = [_get(said, key, str, where) for key in ("speaker_a", "speaker_b")]
    numbers = sorted(
        int(match[1]) for key in said if (match := re.fullmatch(r"session_(\d+)", str(key)))
    )
    sessions = tuple(session for n in numbers if (session := _session(said, n, where)).lines)
    if not sessions:
        raise _FormError(f"{where} has no session")
    ids = [line.id for session in sessions for line in session.lines]
    known = set(ids)
    if len(known) < len(ids):
        double = next(i for i in ids if ids.count(i) > 1)
        raise _FormError(f"{where} has two lines with the dia_id {double!r}")
    questions, left_out, bad = _questions(_get(entry, "qa", list, where), known, name, where)
    last = datetime.fromisoformat(sessions[-1].lines[-1].said_at)
    return Conversation(
        id=name,
        title=f"{speakers[0]} and {speakers[1]}",
        two_people=True,
        system=None,
        sessions=sessions,
        questions=questions,
        asked_at=(last + timedelta(days=1)).isoformat(),
        left_out=left_out,
        bad_evidence=bad,
    )


def _session(said: Mapping[str, Any], number: int, where: str) -> Session:
    lines = _get(said, f"session_{number}", list, where)
    if not lines:
        return Session(f"s{number}", "", ())
    started = _date(_get(said, f"session_{number}_date_time", str, where), where)
    return Session(
        id=f"s{number}",
        started_at=started.isoformat(),
        lines=tuple(
            _line(line, started, n, f"{where}, session_{number}, line {n + 1}")
            for n, line in enumerate(lines)
        ),
    )


def _line(line: Any, started: datetime, n: int, where: str) -> Line:
    if not isinstance(line, Mapping):
        raise _FormError(f"{where} is {_kind(line)}")
    text = _get(line, "text", str, where)
    caption = line.get("blip_caption")
    if caption:
        text = f"{text} [shares a photo: {caption}]".lstrip()
    dia_id = _get(line, "dia_id", str, where)
    match = _EVIDENCE.search(dia_id)
    if not match:
        raise _FormError(f'{where} has the dia_id {dia_id!r}, not one like "D1:3"')
    return Line(
        id=_normal(match),
        speaker=_get(line, "speaker", str, where),
        by_assistant=False,
        text=text,
        said_at=_after(started, n),
    )


def _questions(
    entries: Sequence[Any], known: set[str], name: str, where: str
) -> tuple[tuple[Question, ...], int, int]:
    """Return the questions with evidence, how many have none, and how many entries are bad."""
    questions: list[Question] = []
    left_out = bad = 0
    for n, entry in enumerate(entries, 1):
        if not isinstance(entry, Mapping):
            raise _FormError(f"{where}, question {n} is {_kind(entry)}")
        category = entry.get("category")
        if not isinstance(category, int) or category not in ASKED_CATEGORIES:
            continue
        evidence: list[str] = []
        for item in _get(entry, "evidence", list, f"{where}, question {n}"):
            # One entry may name several lines ("D8:6; D9:17") or pad a number ("D30:05").
            named = [_normal(match) for match in _EVIDENCE.finditer(str(item))]
            usable = [line for line in named if line in known]
            evidence.extend(usable)
            bad += len(usable) < max(1, len(named))
        if not evidence:
            left_out += 1
            continue
        questions.append(
            Question(
                id=f"{name}/questions/{n}",
                text=_get(entry, "question", str, f"{where}, question {n}"),
                answer=str(entry.get("answer", "")),
                evidence=tuple(dict.fromkeys(evidence)),
                category=category,
            )
        )
    return tuple(questions), left_out, bad


def _normal(match: re.Match[str]) -> str:
    return f"D{int(match[1])}:{int(match[2])}"


def _date(text: str, where: str) -> datetime:
    """Return the time of a text like "1:56 pm on 8 May, 2023", taken as UTC."""
    try:
        return datetime.strptime(text.strip(), "%I:%M %p on %d %B, %Y").replace(tzinfo=UTC)
    except ValueError:
        raise _FormError(
            f'{where} has the date {text!r}, not one like "1:56 pm on 8 May, 2023"'
        ) from None


def _after(started: datetime, lines: int) -> str:
    return (started + lines * _LINE_SPACING).isoformat()


def _get(mapping: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    if key not in mapping:
        raise _FormError(f"{where} has no {key!r}")
    value = mapping[key]
    if not isinstance(value, kind):
        raise _FormError(f"{where} has {_kind(value)} as {key!r}")
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    return names.get(type(value), "null" if value is None else "a number")
