"""Dialogues of two people whose facts are annotated: what is true of whom, and who says so."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from memkit.demo.conversations import Conversation, Line, Session, load_locomo
from memkit.errors import ConfigError

_ID = re.compile(r"D(\d+):(\d+)")


@dataclass(frozen=True, slots=True)
class Observation:
    """An annotated fact.

    Attributes:
        speaker: Whom it is about.
        text: One sentence in the third person.
        evidence: Ids of the lines that say so.
    """

    speaker: str
    text: str
    evidence: frozenset[str]


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation and what is to be known after it."""

    conversation: Conversation
    observations: tuple[Observation, ...]

    @property
    def lines(self) -> list[Line]:
        """Everything that was said, in its order."""
        return [line for session in self.conversation.sessions for line in session.lines]

    def first_sessions(self, count: int) -> "Dialogue":
        """Return the first sessions with the observations that they bear out."""
        kept = self.conversation.sessions[:count]
        said = {line.id for session in kept for line in session.lines}
        return Dialogue(
            _conversation(self.conversation.id, kept),
            tuple(seen for seen in self.observations if seen.evidence <= said),
        )


def load_dialogues(path: Path) -> list[Dialogue]:
    """Return the dialogues of a LoCoMo file with their `observation` entries.

    Evidence that names no line of its dialogue is left out, and an observation without any other.
    Lines lose the blanks around them, of which some systems show the model more than others.

    Raises:
        ConfigError: The file is not in LoCoMo's form, or has no observations.
    """
    conversations = load_locomo(path)
    raw = json.loads(path.read_text(encoding="utf-8"))
    dialogues = [
        Dialogue(_stripped(conversation), tuple(_observations(entry, conversation, path)))
        for conversation, entry in zip(conversations, raw, strict=True)
    ]
    if not any(dialogue.observations for dialogue in dialogues):
        raise ConfigError(f"{path} has no observations whose evidence is a line of it")
    return dialogues


def _stripped(conversation: Conversation) -> Conversation:
    sessions = tuple(
        replace(
            session,
            lines=tuple(replace(line, text=line.text.strip()) for line in session.lines),
        )
        for session in conversation.sessions
    )
    return replace(conversation, sessions=sessions)


def _observations(entry: Any, conversation: Conversation, path: Path) -> list[Observation]:
    known = {line.id for session in conversation.sessions for line in session.lines}
    found = []
    sessions = entry.get("observation")
    try:
        for session in sessions.values():
            for speaker, facts in session.items():
                for text, evidence in facts:
                    # One id, several in a text, or a list of them.
                    named = {f"D{int(a)}:{int(b)}" for a, b in _ID.findall(str(evidence))}
                    if text.strip() and named & known:
                        found.append(Observation(speaker, text.strip(), frozenset(named & known)))
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(
            f"{path}: the `observation` of {conversation.id!r} is not LoCoMo's: "
            '{"session_1_observation": {speaker: [[text, "D1:3"], ...]}, ...}'
        ) from None
    return found


# -- a small one of our own --------------------------------------------------------------------

# Who says it, what, and what is then known of them.
_Said = tuple[str, str, str]
_TALK: tuple[tuple[_Said, ...], ...] = (
    (
        ("Ute", "Hi Ben! How was your week?", ""),
        ("Ben", "Busy! I work as a nurse at the Linden clinic now.", "Ben works as a nurse."),
        ("Ute", "Congratulations! Do you like it there?", ""),
        ("Ben", "Yes, thanks for asking.", ""),
        ("Ute", "My parrot is called Captain Flint.", "Ute's parrot is called Captain Flint."),
        ("Ben", "Ha, what a name!", ""),
        ("Ute", "I moved to Bremen in March.", "Ute moved to Bremen in March."),
        ("Ben", "If I had a garden I would grow beans.", ""),
        ("Ute", "I am allergic to peanuts.", "Ute is allergic to peanuts."),
        ("Ben", "Good to know before we cook.", ""),
    ),
    (
        ("Ben", "I collect stamps from Iceland.", "Ben collects stamps from Iceland."),
        ("Ute", "How many are there in your album?", ""),
        ("Ben", "Four hundred so far.", "Ben owns four hundred stamps."),
        ("Ute", "I sing in a choir every Tuesday.", "Ute sings in a choir every Tuesday."),
        ("Ben", "Lovely weather today, isn't it?", ""),
        ("Ute", "It is.", ""),
        ("Ben", "My sister Karla lives in Oslo.", "Ben's sister Karla lives in Oslo."),
        ("Ute", "Shall we visit her one day?", ""),
    ),
    (
        ("Ute", "As I said, I am allergic to peanuts.", "Ute is allergic to peanuts."),
        ("Ben", "I remember, no peanuts.", ""),
        ("Ute", "I bought a red bicycle yesterday.", "Ute bought a red bicycle."),
        ("Ben", "Nice! Is it fast?", ""),
        ("Ben", "I hate coffee, tea is what I drink.", "Ben drinks tea and hates coffee."),
        ("Ute", "Then tea it is.", ""),
    ),
)
_START = datetime.fromisoformat("2026-05-01T09:00:00+00:00")


def small_dialogue() -> Dialogue:
    """Return a short dialogue with small talk, a question, a wish and a fact that is told twice."""
    sessions, seen = [], []
    for n, talk in enumerate(_TALK, 1):
        started = _START + timedelta(weeks=n)
        lines = []
        for i, (speaker, text, known) in enumerate(talk, 1):
            line = f"D{n}:{i}"
            at = (started + timedelta(minutes=i)).isoformat()
            lines.append(Line(line, speaker, False, text, at))
            if known:
                seen.append(Observation(speaker, known, frozenset({line})))
        sessions.append(Session(f"s{n}", started.isoformat(), tuple(lines)))
    return Dialogue(_conversation("small", tuple(sessions)), tuple(seen))


def _conversation(name: str, sessions: tuple[Session, ...]) -> Conversation:
    return Conversation(
        id=name,
        title=" and ".join(sorted(_speakers(sessions))),
        two_people=True,
        system=None,
        sessions=sessions,
        questions=(),
        asked_at=sessions[-1].lines[-1].said_at,
    )


def _speakers(sessions: tuple[Session, ...]) -> set[str]:
    return {line.speaker for session in sessions for line in session.lines if line.speaker}


def by_speaker(observations: tuple[Observation, ...]) -> Mapping[str, list[Observation]]:
    """Return the observations about each person."""
    found: dict[str, list[Observation]] = {}
    for seen in observations:
        found.setdefault(seen.speaker, []).append(seen)
    return found
