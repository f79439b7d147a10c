"""Stale facts: which to ask the person about, and how to read the answer. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias

from memkit.facts.model import as_utc
from memkit.secrets import find_secrets
from memkit.state import Recalled

Action: TypeAlias = Literal["confirm", "correct", "retract", "skip"]

# Questions that may still wait for an answer while other threads, a period later, ask again.
_EARLIER = 8
_WORDS: tuple[Action, ...] = ("confirm", "retract", "skip")
HOW_TO_ANSWER = (
    '"confirm", "retract" or "skip" for all of them, or one answer per key: {"answers": {key: '
    '"confirm" | "retract" | "skip" | {"correct": "what is true instead"}}}. For a single fact '
    '{"correct": "..."} will do. A key that is left out is skipped.'
)


@dataclass(frozen=True)
class Turn:
    """The turn in which a question is put.

    Attributes:
        thread_id: Its thread.
        by: Id of its human message.
        now: Its time, that of the conversation.
    """

    thread_id: str | None
    by: str | None
    now: datetime

    def mark(self, before: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the note that a fact was asked about in this turn, and in those before."""
        earlier = [] if before is None else [*before.get("earlier", []), _place(before)]
        return {
            "at": self.now.isoformat(),
            "thread_id": self.thread_id,
            "by": self.by,
            "earlier": earlier[-_EARLIER:],
        }

    def left(self, mark: Mapping[str, Any] | None) -> bool:
        """Return whether the fact of a mark was asked about in this turn."""
        return mark is not None and [self.thread_id, self.by] in [
            _place(mark),
            *mark.get("earlier", []),
        ]


def _place(mark: Mapping[str, Any]) -> list[Any]:
    return [mark.get("thread_id"), mark.get("by")]


@dataclass(frozen=True)
class Answer:
    """What the person says of one fact; `text` is what is true instead, of "correct"."""

    action: Action
    text: str = ""


class UnreadableAnswer(ValueError):
    """An answer does not say what to do; the message tells the person what is wrong with it."""


def to_ask(
    judged: Sequence[Recalled],
    marks: Mapping[str, Mapping[str, Any] | None],
    turn: Turn,
    *,
    again_after: timedelta,
    limit: int,
) -> list[str]:
    """Return the keys of the facts to ask about in a turn, what matters most first.

    A turn that runs once more asks what it asked before, whatever its clock and its limit say now:
    an answer that waits belongs to that question.

    Args:
        judged: What was recalled.
        marks: By key, the note of when a fact was last asked about.
        turn: The turn.
        again_after: How long after a question the fact is not asked about, in any thread.
        limit: The most questions of a turn.
    """
    facts = [f for f in judged if f["source"] == "facts" and f["freshness"] != "fresh"]
    facts.sort(key=_score, reverse=True)
    asked = [f["key"] for f in facts if turn.left(marks.get(f["key"]))]
    if asked:
        return asked
    due = [
        f["key"]
        for f in facts
        if f["freshness"] == "stale" and _is_due(marks.get(f["key"]), turn.now, again_after)
    ]
    return due[:limit]


def _score(item: Recalled) -> float:
    return float("-inf") if item["score"] is None else item["score"]


def _is_due(mark: Mapping[str, Any] | None, now: datetime, again_after: timedelta) -> bool:
    at = None if mark is None else as_utc(mark.get("at"))
    # A conversation that lies before the question, in another thread, does not ask either.
    return at is None or now - at >= again_after


def question(facts: Sequence[Recalled], problem: str | None = None) -> dict[str, Any]:
    """Return what the person is shown, JSON-native.

    Args:
        facts: The facts in question.
        problem: What was wrong with the last answer.
    """
    names = ("key", "text", "kind", "last_confirmed")
    return {
        "memkit": "confirm_facts",
        "facts": [{name: fact.get(name) for name in names} for fact in facts],
        "answers": HOW_TO_ANSWER,
        **({"problem": problem} if problem else {}),
    }


def read_answers(reply: Any, keys: Sequence[str]) -> dict[str, Answer]:
    """Return what is to become of each fact; of those that are not named, nothing.

    Args:
        reply: As `HOW_TO_ANSWER` says; the answers per key may also come bare.
        keys: The keys of the facts in question.

    Raises:
        UnreadableAnswer: It does not say.
    """
    if isinstance(reply, Mapping) and set(reply) == {"answers"}:
        reply = reply["answers"]
    if isinstance(reply, str) or (isinstance(reply, Mapping) and set(reply) == {"correct"}):
        answer = _read_one(reply)
        if answer.action == "correct" and len(keys) > 1:
            raise UnreadableAnswer(
                f"There are {len(keys)} facts, and the correction does not say of which. "
                f"The answer is {HOW_TO_ANSWER}"
            )
        return dict.fromkeys(keys, answer)
    if not isinstance(reply, Mapping):
        raise UnreadableAnswer(f"{reply!r:.100} is no answer. The answer is {HOW_TO_ANSWER}")
    if unknown := [key for key in reply if key not in keys]:
        raise UnreadableAnswer(
            f"There is no question about {unknown[0]!r:.100}; the keys are {list(keys)}."
        )
    return {key: _read_one(reply[key]) if key in reply else Answer("skip") for key in keys}


def _read_one(reply: Any) -> Answer:
    if isinstance(reply, str):
        for word in _WORDS:
            if reply.strip().lower() == word:
                return Answer(word)
    elif isinstance(reply, Mapping) and set(reply) == {"correct"}:
        text = reply["correct"]
        if not isinstance(text, str) or not text.strip():
            raise UnreadableAnswer('A correction says what is true instead: {"correct": "..."}.')
        if find_secrets(text):
            raise UnreadableAnswer(
                "The correction holds a password, a key or a card number, which is not kept. "
                "Say it without."
            )
        return Answer("correct", text.strip())
    raise UnreadableAnswer(f"{reply!r:.100} is no answer. The answer is {HOW_TO_ANSWER}")
