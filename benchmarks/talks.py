"""Long conversations with questions and their evidence: files of LoCoMo and of LongMemEval."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter, ValidationError

from memkit.demo.conversations import Conversation, Line, Question, Session, load_locomo, load_story
from memkit.errors import ConfigError

UNANSWERABLE = "_abs"
"""What the id of a question ends with in LongMemEval if its haystack does not hold the answer."""

_LINE_SPACING = timedelta(minutes=1)  # sessions carry a date, lines do not
_DATE = re.compile(r"(\d{4})/(\d\d?)/(\d\d?) \(\w+\) (\d\d?):(\d\d)")


class _Turn(BaseModel):
    role: Literal["user", "assistant"]
    content: str
    has_answer: bool | None = None


class _Entry(BaseModel):
    question_id: str
    question_type: str
    question: str
    answer: str | int | float
    question_date: str
    haystack_dates: list[str]
    haystack_sessions: list[list[_Turn]]


_Entries = TypeAdapter(list[_Entry])


def load_talks(path: Path | None) -> list[Conversation]:
    """Return the conversations of a file, which its content tells the form of.

    Args:
        path: A file of LoCoMo or LongMemEval; None for the shipped story.

    Raises:
        ConfigError: The file cannot be read, or has neither form.
    """
    if path is None:
        return [load_story()]
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return load_locomo(path)  # says what is wrong with it
    if isinstance(raw, list) and raw and isinstance(raw[0], dict) and "haystack_sessions" in raw[0]:
        return _longmemeval(raw, path)
    return load_locomo(path)


def _longmemeval(raw: Any, path: Path) -> list[Conversation]:
    """Return the haystack of each question as a conversation of its own.

    Evidence are the turns marked `has_answer`; a turn is named by the places of its session and of
    itself, from 1. Turns without a text are left out. Days and hours are taken as UTC.

    Source:
        Wu et al., "LongMemEval: Benchmarking Chat Assistants on Long-Term Interactive Memory",
        2025.
    """
    try:
        entries = _Entries.validate_python(raw)
        return [_haystack(entry) for entry in entries]
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"{path} is not in the form of LongMemEval: entry {where}: {first['msg']}"
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is not in the form of LongMemEval: {error}") from None


def _haystack(entry: _Entry) -> Conversation:
    if len(entry.haystack_dates) != len(entry.haystack_sessions):
        raise ValueError(
            f"question {entry.question_id!r} has {len(entry.haystack_sessions)} sessions and "
            f"{len(entry.haystack_dates)} dates"
        )
    sessions: list[Session] = []
    evidence: list[str] = []
    for n, (turns, date) in enumerate(
        zip(entry.haystack_sessions, entry.haystack_dates, strict=True), 1
    ):
        started = _date(date)
        lines = []
        for m, turn in enumerate(turns, 1):
            if not turn.content.strip():
                continue
            name = f"s{n}:{m}"
            if turn.has_answer:
                evidence.append(name)
            at = (started + (m - 1) * _LINE_SPACING).isoformat()
            lines.append(Line(name, None, turn.role == "assistant", turn.content.strip(), at))
        if lines:
            sessions.append(Session(f"s{n}", started.isoformat(), tuple(lines)))
    question = Question(
        id=entry.question_id,
        text=entry.question,
        answer=str(entry.answer),
        evidence=() if entry.question_id.endswith(UNANSWERABLE) else tuple(evidence),
        category=entry.question_type,
    )
    return Conversation(
        id=entry.question_id,
        title=entry.question_id,
        two_people=False,
        system=None,
        sessions=tuple(sorted(sessions, key=lambda session: session.started_at)),
        questions=(question,),
        asked_at=_date(entry.question_date).isoformat(),
    )


def _date(text: str) -> datetime:
    """Return the time of a text like "2023/05/20 (Sat) 02:21"."""
    match = _DATE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'the date {text!r} is not one like "2023/05/20 (Sat) 02:21"')
    year, month, day, hour, minute = map(int, match.groups())
    return datetime(year, month, day, hour, minute, tzinfo=UTC)


def with_evidence(conversations: Sequence[Conversation]) -> list[Conversation]:
    """Return the conversations with those of their questions whose evidence is known."""
    return [
        replace(c, questions=tuple(q for q in c.questions if q.evidence)) for c in conversations
    ]


def spread(conversations: Sequence[Conversation], most: int) -> list[Conversation]:
    """Return so many of the questions, evenly spread, and the conversations they are about."""
    asked = [q.id for conversation in conversations for q in conversation.questions]
    step = max(1.0, len(asked) / most)
    kept = {asked[int(n * step)] for n in range(min(most, len(asked)))}
    parts = [
        replace(c, questions=tuple(q for q in c.questions if q.id in kept)) for c in conversations
    ]
    return [part for part in parts if part.questions]
