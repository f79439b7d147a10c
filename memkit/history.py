"""A list of messages, and what has to be known of all of it. Pure.

A turn is to cost the same after ten thousand messages as after a hundred. So what was learned of
the beginning goes into a cursor, and is not looked at again.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
    ToolMessage,
)

from memkit.messages import id_of, position_of, turn_start_at
from memkit.tokens import as_messages

Role: TypeAlias = Literal["human", "ai", "tool", "system", "other", "foreign"]
_roles: dict[type[Any], Role] = {}


def _role(kind: type[Any]) -> Role:
    """Return what a class of messages is; remembered, since asking pydantic's classes is slow."""
    return _roles.get(kind) or _roles.setdefault(kind, _role_of(kind))


def _role_of(kind: type[Any]) -> Role:
    if issubclass(kind, HumanMessage):
        return "human"
    if issubclass(kind, AIMessage):
        return "ai"
    if issubclass(kind, ToolMessage):
        return "tool"
    if issubclass(kind, SystemMessage):
        return "system"
    return "other" if issubclass(kind, BaseMessage) else "foreign"


@dataclass(frozen=True, slots=True)
class History:
    """A list of messages, and what has to be known of all of it.

    Attributes:
        messages: The whole history.
        start: Where the last view started, 0 if there is none.
        systems: Positions of all system messages.
        kinds: The classes of the messages from `offset` on.
        offset: Where the survey began: at 0, or at `start` where a cursor tells of what is before.
    """

    messages: list[BaseMessage]
    start: int
    systems: list[int]
    kinds: list[type[BaseMessage]]
    offset: int

    @classmethod
    def read(
        cls,
        given: Iterable[MessageLikeRepresentation],
        cursor: Mapping[str, Any] | None = None,
        *,
        whole: bool = False,
    ) -> "History":
        """Survey a history: what is behind the cursor if that still holds, else all of it.

        A cursor holds as long as nothing before it is removed or inserted. If somebody rewrites the
        state so that the numbers of both are equal, a system message among them is only found when
        the view is cut the next time.

        Args:
            given: Messages, or what LangChain accepts for them.
            cursor: What `cursor_at` returned on an earlier turn.
            whole: Look at all of it even so.

        Raises:
            ConfigError: They are no messages.
        """
        cursor = cursor or {}
        messages: list[Any] = given if isinstance(given, list) else as_messages(given)
        start = None if whole else _still_there(messages, cursor)
        if start is not None:
            kinds = list(map(type, messages[start:]))
            systems = _systems(kinds, start)
            if systems is not None:
                return cls(messages, start, [*cursor["system"], *systems], kinds, start)
        kinds, systems = _survey(messages)
        if systems is None:
            messages = as_messages(messages)
            kinds, systems = _survey(messages)
        start = turn_start_at(messages, position_of(messages, cursor.get("start_id")) or 0)
        return cls(messages, start, systems or [], kinds, 0)

    def cursor_at(self, start: int) -> dict[str, Any]:
        """Return what `read` needs to go on from a position; {} for an empty history."""
        if start >= len(self.messages):
            return {}
        return {
            "start_id": id_of(self.messages, start),
            "start": start,
            "system": [i for i in self.systems if i < start],
        }

    def role(self, position: int) -> Role:
        """Return the role of a message at or behind `offset`."""
        return _role(self.kinds[position - self.offset])

    def turn_before(self, position: int, floor: int) -> int:
        """Return the last turn's start before a position; `floor` if there is none above it."""
        while position > floor:
            position -= 1
            if self.role(position) == "human":
                return position
        return floor

    def turn_after(self, position: int) -> int | None:
        """Return the next turn's start behind a position, None if it lies in the last turn."""
        later = range(position + 1, len(self.messages))
        return next((i for i in later if self.role(i) == "human"), None)


def _still_there(messages: Sequence[Any], cursor: Mapping[str, Any]) -> int | None:
    """Return the start that a cursor names if nothing before it was removed or inserted."""
    start, systems = cursor.get("start"), cursor.get("system")
    if type(start) is not int or not 0 <= start < len(messages) or not isinstance(systems, list):
        return None
    if not isinstance(messages[start], BaseMessage):
        return None
    if id_of(messages, start) != cursor.get("start_id"):
        return None
    known = all(
        type(i) is int and 0 <= i < start and isinstance(messages[i], SystemMessage)
        for i in systems
    )
    return start if known else None


def _systems(kinds: Sequence[type[Any]], offset: int) -> list[int] | None:
    """Return where system messages stand; None if one of the classes is no message's."""
    head = 0
    while head < len(kinds) and _role(kinds[head]) == "system":
        head += 1
    found = list(range(offset, offset + head))
    rest = kinds[head:]
    distinct: set[type[Any]] = set(rest)
    roles = {kind: _role(kind) for kind in distinct}
    if "foreign" in roles.values():
        return None
    if "system" in roles.values():
        found += [offset + head + i for i, kind in enumerate(rest) if roles[kind] == "system"]
    return found


# The long history that was surveyed last; one per process is kept alive. Comparing a list with it
# takes a look at each pointer, not at each object: a third of the time at ten thousand messages.
_LONG = 1_000
_last: tuple[list[Any], list[type[Any]], list[int]] = ([], [], [])


def _survey(messages: list[Any]) -> tuple[list[type[Any]], list[int] | None]:
    """Return the class of each message, and where system messages stand (None: no messages)."""
    global _last  # noqa: PLW0603 - one entry, replaced as a whole
    seen, kinds, systems = _last
    if not seen or len(messages) < len(seen) or not _same(messages, seen):
        seen, kinds, systems = [], [], []
    known = len(seen)
    if known == len(messages) > 0:
        return kinds, systems
    newer = list(map(type, messages[known:]))
    found = _systems(newer, known)
    if found is None:
        return newer, None
    kinds, systems = [*kinds, *newer], [*systems, *found]
    if len(newer) >= (_LONG // 10 if known else _LONG):
        _last = list(messages), kinds, systems
    return kinds, systems


def _same(messages: list[Any], seen: list[Any]) -> bool:
    """Return whether a list begins with the messages of another."""
    end = len(seen)
    # Other objects, as after a checkpoint, would be compared field by field.
    if any(messages[i] is not seen[i] for i in (0, end // 3, end // 2, end - 1)):
        return False
    try:
        return (messages if len(messages) == end else messages[:end]) == seen
    except Exception:  # noqa: BLE001 - an artifact in one of them may not be comparable
        return False
