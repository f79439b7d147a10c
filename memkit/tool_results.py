"""Ways to make tool traffic smaller in a view: cleared, left out or shortened. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from memkit.budget import ContextBudget
from memkit.messages import text_of

CLEARED = "[cleared to fit the token budget; id of the tool call: {}]"
SHORTENED = "\n[… shortened by {} characters to fit the token budget]"

ANY_TOOL = "*"
_FLOOR = 32  # characters: below this a result says nothing and shortening it gains nothing


def find_result(tool_call_id: str, messages: Sequence[BaseMessage]) -> ToolMessage | None:
    """Return the result of a tool call as it stands in a history, or None if it is not there."""
    for message in reversed(messages):
        if isinstance(message, ToolMessage) and message.tool_call_id == tool_call_id:
            return message
    return None


def is_cleared(message: ToolMessage) -> bool:
    """Return whether a result was cleared in place."""
    return message.content == CLEARED.format(message.tool_call_id)


def cleared(message: ToolMessage) -> ToolMessage:
    """Return a copy of a result with a visible mark in place of its content."""
    return message.model_copy(update={"content": CLEARED.format(message.tool_call_id)})


def as_spoken(message: BaseMessage) -> BaseMessage | None:
    """Return what the assistant said beside its tool calls; None if nothing, or for a result."""
    text = text_of(message).strip()
    if not isinstance(message, AIMessage) or not text:
        return None
    return AIMessage(text, id=message.id, name=message.name)


def tool_names(messages: Sequence[BaseMessage]) -> dict[int, str]:
    """Return the tool of each result by its position, from its own name or that of its call."""
    called: dict[str, str] = {}
    names: dict[int, str] = {}
    for i, message in enumerate(messages):
        if isinstance(message, AIMessage):
            calls = [*message.tool_calls, *message.invalid_tool_calls]
            called |= {call["id"] or "": call["name"] or "" for call in calls}
        elif isinstance(message, ToolMessage):
            names[i] = message.name or called.get(message.tool_call_id, "")
    return names


def clear_before(
    messages: Sequence[BaseMessage], rule: int | Mapping[str, int], begin: int
) -> dict[str, int]:
    """Return per tool the position before which its results are to be cleared.

    Args:
        messages: The whole history.
        rule: See `ContextBudget.clear_tool_results`.
        begin: Nothing before this position is shown anyway.

    Returns:
        Positions by the tool's name, `ANY_TOOL` for a rule that names none.
    """
    names = tool_names(messages[begin:])
    keep = rule if isinstance(rule, Mapping) else {ANY_TOOL: rule}
    bounds: dict[str, int] = {}
    for tool, number in keep.items():
        places = [begin + i for i, name in names.items() if tool in (ANY_TOOL, name)]
        if len(places) > number:
            bounds[tool] = places[len(places) - number - 1] + 1
    return bounds


def shorten_tools(
    shown: Sequence[BaseMessage], excess: int, budget: ContextBudget
) -> tuple[list[BaseMessage], list[str]]:
    """Halve the longest texts of tool results, one after the other, until `excess` is gone.

    Parts of a result that are no text, such as images, stay as they are.

    Returns:
        The messages, and the ids of those that were shortened.
    """
    result = list(shown)
    originals = {
        (i, part): text
        for i, message in enumerate(result)
        if isinstance(message, ToolMessage)
        for part, text in _texts(message).items()
    }
    keep = {place: len(text) for place, text in originals.items()}
    sizes = {place: budget.count_text(text) for place, text in originals.items()}
    while excess > 0 and (cuttable := [place for place, n in keep.items() if n > _FLOOR]):
        place = max(cuttable, key=sizes.__getitem__)
        i, part = place
        original = originals[place]
        keep[place] = max(_FLOOR, keep[place] // 2)
        text = original[: keep[place]] + SHORTENED.format(len(original) - keep[place])
        sizes[place] = budget.count_text(text)
        shorter = _with_text(result[i], part, text)
        saved = budget.count_one(result[i]) - budget.count_one(shorter)
        if saved > 0:
            result[i] = shorter
            excess -= saved
    touched = [m.id or "" for m, before in zip(result, shown, strict=True) if m is not before]
    return result, touched


def _texts(message: BaseMessage) -> dict[int | None, str]:
    """Return the texts of a message by the position of their part; None: the whole content."""
    if isinstance(message.content, str):
        return {None: message.content}
    found: dict[int | None, str] = {}
    for i, part in enumerate(message.content):
        text = part.get("text") if isinstance(part, dict) else part
        if isinstance(text, str):
            found[i] = text
    return found


def _with_text(message: BaseMessage, part: int | None, text: str) -> BaseMessage:
    """Return a copy of a message with one of its texts replaced."""
    if part is None:
        return message.model_copy(update={"content": text})
    content: list[Any] = list(message.content)
    old = content[part]
    content[part] = {**old, "text": text} if isinstance(old, dict) else text
    return message.model_copy(update={"content": content})
