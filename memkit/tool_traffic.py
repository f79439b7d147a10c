"""Ways to make tool traffic smaller in a view: cleared, left out or shortened. Pure."""

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from memkit.budget import ContextBudget
from memkit.messages import text_of

CLEARED = "[cleared to fit the token budget; id of the tool call: {}]"
SHORTENED = "\n[… shortened by {} characters to fit the token budget]"

ANY_TOOL = "*"
_MARK = "memkit"  # in `additional_kwargs`: the wording may change
_FLOOR = 32  # characters: below this a result says nothing and shortening it gains nothing


def find_result(tool_call_id: str, messages: Sequence[BaseMessage]) -> ToolMessage | None:
    """Return the result of a tool call as it stands in a history, or None if it is not there."""
    for message in reversed(messages):
        if isinstance(message, ToolMessage) and message.tool_call_id == tool_call_id:
            return message
    return None


def is_cleared(message: ToolMessage) -> bool:
    """Return whether a result was cleared in place."""
    return message.additional_kwargs.get(_MARK) == "cleared"


def cleared(message: ToolMessage) -> ToolMessage:
    """Return a copy of a result with a visible mark in place of its content."""
    return message.model_copy(
        update={
            "content": CLEARED.format(message.tool_call_id),
            "additional_kwargs": {**message.additional_kwargs, _MARK: "cleared"},
        }
    )


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


def rule_for(tool: str, rules: Mapping[str, int]) -> str:
    """Return the name under which `rules` speak of a tool."""
    return tool if tool in rules else ANY_TOOL


def clear_before(
    messages: Sequence[BaseMessage], rules: Mapping[str, int], begin: int
) -> dict[str, int]:
    """Return per rule the position before which the results it speaks of are to be cleared.

    Args:
        messages: The whole history.
        rules: See `ContextBudget.tool_rules`.
        begin: Nothing before this position is shown anyway.
    """
    places: dict[str, list[int]] = {}
    for i, tool in tool_names(messages[begin:]).items():
        places.setdefault(rule_for(tool, rules), []).append(begin + i)
    return {
        rule: found[len(found) - rules[rule] - 1] + 1
        for rule, found in places.items()
        if rule in rules and len(found) > rules[rule]
    }


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
    longest = [(-sizes[place], n) for n, place in enumerate(originals) if keep[place] > _FLOOR]
    heapify(longest)
    places = list(originals)
    while excess > 0 and longest:
        _, n = heappop(longest)
        i, part = place = places[n]
        original = originals[place]
        keep[place] = max(_FLOOR, keep[place] // 2)
        text = original[: keep[place]] + SHORTENED.format(len(original) - keep[place])
        if keep[place] > _FLOOR:
            heappush(longest, (-budget.count_text(text), n))
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
