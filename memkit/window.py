"""Which part of a history fits a budget. Pure.

A history is read from its end, and only as far as the budget reaches.
"""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from memkit.budget import ContextBudget
from memkit.history import History
from memkit.messages import after, call_ids, orphans
from memkit.tool_traffic import as_spoken, clear_before, cleared, is_cleared, rule_for, tool_names

_FIRST_LOOK = 4  # messages that are counted to see how long they are


@dataclass(slots=True)
class Window:
    """The end of a history, as far as it was read, as a view would show it.

    Attributes:
        reached: The position it begins at.
        total: Its tokens, and those that were given as `fixed`.
        sizes: Tokens per message; 0 for those that are left out, and for system messages, which
            are part of `fixed`.
        changes: What is shown in place of a message, by position; None: nothing.
        orphaned: Positions of tool traffic that no provider accepts.
        set_aside: Positions of tool traffic of earlier turns, if the budget does not keep it.
        cleared: Positions of tool results that are shown cleared.
    """

    reached: int
    total: int
    sizes: list[int] = field(default_factory=list)
    changes: dict[int, BaseMessage | None] = field(default_factory=dict)
    orphaned: list[int] = field(default_factory=list)
    set_aside: list[int] = field(default_factory=list)
    cleared: list[int] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Fit:
    """How a history is made to fit a budget.

    Attributes:
        window: What of it was read.
        start: The position from which turns are shown.
        cut: Whether turns are dropped or results cleared that were not before.
        clear: Per tool the position before which its results are shown cleared.
        fixed: Tokens of what is shown besides.
        before: What all would take without a cut, as far as it was counted.
    """

    window: Window
    start: int
    cut: bool
    clear: Mapping[str, int]
    fixed: int
    before: int


def fit(
    history: History,
    budget: ContextBudget,
    *,
    begin: int,
    fixed: int,
    clear: Mapping[str, int],
    high: int,
    low: int,
) -> Fit:
    """Decide which turns are shown, and which tool results of them are cleared.

    Args:
        history: The history.
        budget: Counts, and says which tool results may be cleared.
        begin: The first message that may be shown.
        fixed: Tokens of what is shown besides: all system messages, summary, facts.
        clear: What was cleared on earlier turns.
        high: Above this many tokens results are cleared and turns dropped; the latest turn always
            stays,
        low: until there are at most so many.
    """
    low = min(low, high)
    rule = budget.clear_tool_results
    window = _read_window(
        history,
        budget,
        begin,
        fixed=fixed,
        high=high,
        low=low,
        clear=clear if rule is not None else {},
    )
    cut = window.reached > begin or window.total > high
    before = max(window.total, high + 1) if cut else window.total
    if cut and rule is not None:
        clear = clear_before(history.messages, budget.tool_rules, begin)
        # What clearing gains is to last for more than a turn.
        high = low
        window = _read_window(history, budget, begin, fixed=fixed, high=high, low=low, clear=clear)
    start = begin
    if window.reached > begin or window.total > high:
        start = _first_shown(history, window, fixed=fixed, low=low)
    return Fit(window, start, cut, clear if rule is not None else {}, fixed, before)


def cleared_until(messages: Sequence[BaseMessage], cursor: Mapping[str, Any]) -> dict[str, int]:
    """Return per tool the position before which a view showed results cleared."""
    last = cursor.get("cleared")
    if not isinstance(last, Mapping):
        return {}
    return {tool: after(messages, message_id) for tool, message_id in last.items()}


def _read_window(
    history: History,
    budget: ContextBudget,
    begin: int,
    *,
    fixed: int,
    high: int,
    low: int,
    clear: Mapping[str, int],
) -> Window:
    """Read a history from its end until `begin`, or until it is certain that `high` is exceeded.

    If all of it fits, it is read until `begin`; if not, no further than `low`, since the rest is
    dropped anyway. How many messages that are is guessed from the average so far.
    """
    end = len(history.messages)
    window = Window(end, fixed)
    latest = history.turn_before(end, begin)
    late = history.systems[bisect_left(history.systems, begin) :]
    parts: list[list[int]] = []
    may_all_fit = True
    # What a cursor points to most likely fits.
    step = end if history.offset else _FIRST_LOOK
    while window.reached > begin:
        start = max(window.reached - step, begin)
        if start > begin and history.role(start) != "human":
            start = history.turn_before(start, begin)
        chunk = history.messages[start : window.reached]
        if _has_tool_traffic(chunk):
            _change_tools(window, chunk, start, latest=latest, budget=budget, clear=clear)
            sizes = _shown_sizes(window, chunk, start, budget)
        else:
            sizes = budget.sizes(chunk)
        for i in late:
            if start <= i < window.reached:
                sizes[i - start] = 0
        parts.append(sizes)
        window.total += sum(sizes)
        window.reached = start
        if window.total > high:
            break
        if may_all_fit and window.total > low:
            if _surely_exceeds(history, window, begin=begin, high=high, least=budget.least):
                break
            may_all_fit = False
        if not history.offset:
            aim = low if may_all_fit else high
            average = (window.total - fixed) / (end - start) or 1
            step = max(2, int((aim - window.total) / average))
    for part in reversed(parts):
        window.sizes += part
    return window


def _first_shown(history: History, window: Window, *, fixed: int, low: int) -> int:
    """Return the start of the earliest turn from which the window takes at most `low`."""
    chosen = position = len(history.messages)
    total = fixed
    while position > window.reached:
        start = history.turn_before(position, window.reached)
        if history.role(start) != "human":
            break
        total += sum(window.sizes[start - window.reached : position - window.reached])
        if total > low and chosen < len(history.messages):
            break
        chosen = position = start
    # Without any turn there is nothing to drop.
    return chosen if chosen < len(history.messages) else window.reached


def _surely_exceeds(history: History, window: Window, *, begin: int, high: int, least: int) -> bool:
    """Return whether the human messages before the window alone take what is left."""
    if not least:
        return False
    wanted = (high - window.total) // least + 1
    start = max(begin, window.reached - 4 * wanted)
    before = history.kinds[start - history.offset : window.reached - history.offset]
    return before.count(HumanMessage) >= wanted


def _shown_sizes(
    window: Window, chunk: Sequence[BaseMessage], start: int, budget: ContextBudget
) -> list[int]:
    shown = [window.changes.get(i, message) for i, message in enumerate(chunk, start)]
    sizes = iter(budget.sizes([message for message in shown if message is not None]))
    return [0 if message is None else next(sizes) for message in shown]


def _has_tool_traffic(messages: Iterable[BaseMessage]) -> bool:
    for message in messages:
        kind = message.__class__
        if kind is HumanMessage:
            continue
        if kind is AIMessage or isinstance(message, AIMessage):
            fields = message.__dict__
            if fields["tool_calls"] or fields["invalid_tool_calls"]:
                return True
        elif isinstance(message, ToolMessage):
            return True
    return False


def _change_tools(
    window: Window,
    chunk: Sequence[BaseMessage],
    start: int,
    *,
    latest: int,
    budget: ContextBudget,
    clear: Mapping[str, int],
) -> None:
    """Note in a window what is shown in place of the tool traffic of some whole turns."""
    bad = orphans(chunk)
    names = tool_names(chunk) if clear else {}
    for i, message in enumerate(chunk):
        position = start + i
        result = isinstance(message, ToolMessage)
        if i in bad:
            window.changes[position] = None
            window.orphaned.append(position)
        elif not budget.keep_tool_traffic and position < latest and (result or call_ids(message)):
            window.changes[position] = as_spoken(message)
            window.set_aside.append(position)
        elif isinstance(message, ToolMessage) and position < clear.get(
            rule_for(names.get(i, ""), budget.tool_rules), 0
        ):
            if is_cleared(message):
                continue
            shorter = cleared(message)
            if budget.count_one(shorter) < budget.count_one(message):
                window.changes[position] = shorter
                window.cleared.append(position)
