"""Reading a list of messages: ids, times, texts, valid tool traffic, turns. Pure.

A *turn* is a human message and everything up to the next one. A *tool group* is an AI message with
tool calls and all of their results; it is kept or dropped as a whole.
"""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    ToolMessage,
)

_RECENT = 8  # ids kept beside a cursor, in case its message is removed

TIMESTAMP = "timestamp"
"""Key of `additional_kwargs` that holds when a message was said, ISO 8601 with an offset."""


def id_of(messages: Sequence[BaseMessage], position: int) -> str:
    """Return the id of a message: its own, or position and content digest where it has none.

    A state that appends with `operator.add` assigns no ids; since nothing can be removed from such
    a state either, the position is stable.
    """
    return messages[position].id or f"{position}:{digest(messages[position])}"


def message_ids(messages: Sequence[BaseMessage]) -> list[str]:
    """Return the id of every message, see `id_of`."""
    return [id_of(messages, i) for i in range(len(messages))]


def position_of(messages: Sequence[BaseMessage], message_id: object) -> int | None:
    """Return where the message with this id stands, or None if it is not (or no longer) there.

    Cost: as many steps as there are messages behind it; cursors are near the end.
    """
    if not isinstance(message_id, str):
        return None
    place = message_id.partition(":")[0]
    if place.isdecimal() and len(place) < 10:
        position = int(place)
        if position < len(messages) and id_of(messages, position) == message_id:
            return position
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].id == message_id:
            return position
    return None


def digest(message: BaseMessage) -> str:
    """Return a digest of what a message says: an edited message is another one."""
    said = f"{message.type}\0{message.content}"
    return hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def said_at(message: BaseMessage) -> datetime | None:
    """Return when the message was said, in UTC, or None if it does not say.

    Args:
        message: Its time is `additional_kwargs["timestamp"]`, a `datetime` or an ISO 8601 string;
            one without an offset is taken as UTC. What cannot be read counts as absent, since a
            message from outside must not stop a conversation.
    """
    value = message.additional_kwargs.get(TIMESTAMP)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        return None


def now_of(messages: Sequence[BaseMessage], clock: datetime) -> datetime:
    """Return the time of the latest human message, or `clock` where it does not say.

    A conversation that is replayed months later is so judged as of the day it took place.
    """
    for message in reversed(messages):
        if isinstance(message, HumanMessage):
            return said_at(message) or clock
    return clock


def text_of(message: BaseMessage) -> str:
    """Return the text of a message: its content, or the text parts of it joined by newlines."""
    if isinstance(message.content, str):
        return message.content
    parts = (
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        for part in message.content
    )
    return "\n".join(part for part in parts if isinstance(part, str) and part)


def speaker_of(message: BaseMessage) -> str:
    """Return who speaks: the message's name, else its role ("user", "assistant", ...)."""
    if message.name:
        return message.name
    return {"human": "user", "ai": "assistant"}.get(message.type, message.type)


def call_ids(message: BaseMessage) -> list[str]:
    """Return the ids of all tool calls of a message, those with unreadable arguments included."""
    if not isinstance(message, AIMessage):
        return []
    return [c["id"] or "" for c in (*message.tool_calls, *message.invalid_tool_calls)]


def orphans(messages: Sequence[BaseMessage]) -> set[int]:
    """Return the positions of tool traffic that no provider accepts.

    These are results that do not stand right behind their call, a second result for one call,
    calls that lack a result, together with the results they do have, and calls that share an id,
    with all of their results.
    """
    bad: set[int] = set()
    open_call: int | None = None
    waiting: set[str] = set()
    results: list[int] = []

    def close() -> None:
        if open_call is not None and waiting:
            bad.update((open_call, *results))

    for i, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            if message.tool_call_id in waiting:
                waiting.discard(message.tool_call_id)
                results.append(i)
            else:
                bad.add(i)
        else:
            close()
            calls = call_ids(message)
            waiting = set(calls)
            if len(waiting) < len(calls):
                bad.add(i)
                waiting = set()  # no result can be told to belong to one of the calls
            open_call, results = (i if waiting else None), []
    close()
    return bad


def turn_starts(messages: Sequence[BaseMessage], begin: int = 0) -> list[int]:
    """Return the positions from `begin` on at which a history may be cut: the human messages."""
    return [i for i in range(begin, len(messages)) if isinstance(messages[i], HumanMessage)]


def turn_start_at(messages: Sequence[BaseMessage], position: int) -> int:
    """Return where the turn begins that `position` lies in; 0 before the first human message."""
    for i in range(min(position, len(messages) - 1), -1, -1):
        if isinstance(messages[i], HumanMessage):
            return i
    return 0


def after(messages: Sequence[BaseMessage], cursor: object, recent: object = None) -> int:
    """Return the position behind the message with the id `cursor`, or 0 if it is not there.

    Args:
        messages: The whole history.
        cursor: The id of the last message before the position.
        recent: What `ids_before` returned, in case that message was removed.
    """
    for message_id in [cursor, *(reversed(recent) if isinstance(recent, list) else ())]:
        position = position_of(messages, message_id)
        if position is not None:
            return position + 1
    return 0


def ids_before(messages: Sequence[BaseMessage], end: int) -> list[str]:
    """Return ids of a few messages before the last one before `end`."""
    return [id_of(messages, i) for i in range(max(0, end - 1 - _RECENT), end - 1)]


def edited_before(
    messages: Sequence[BaseMessage], end: int, ids: Sequence[Any], digests: Sequence[str]
) -> int:
    """Return the position of the first of some messages that says something else now, or `end`.

    Args:
        messages: The whole history.
        end: Where to stop.
        ids: Ids of messages before `end`.
        digests: What `digest` gave for each.
    """
    known = dict(zip(ids, digests, strict=False))
    for i in range(max(0, end - len(known)), end):
        before = known.get(id_of(messages, i))
        if isinstance(messages[i], HumanMessage) and before not in (None, digest(messages[i])):
            return i
    return end
