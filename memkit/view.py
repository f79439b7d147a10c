"""What the model is to see, under one token budget. Pure.

A view is laid out so that it grows at its end only: leading system messages, the summary, recent
turns; recalled facts stand right before the last human message, and all before them is a stable
prefix that a provider can cache.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from langchain_core.messages import (
    BaseMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
)

from memkit import prompts
from memkit.budget import ContextBudget
from memkit.errors import BudgetTooSmall, ConfigError
from memkit.history import History
from memkit.messages import id_of
from memkit.summary import checked_summary, covered_until
from memkit.tool_results import shorten_tools
from memkit.window import Window, cleared_until, fit

SUMMARY_ID = "memkit-summary"
RECALLED_ID = "memkit-recalled"


@dataclass(frozen=True)
class View:
    """What the model is to see, and what was left out.

    Attributes:
        messages: The view.
        tokens: Its size, in tokens.
        cursor: What `build_view` needs on the next turn to start where this view does:
            `{"start_id", "start", "system", "cleared"}`, JSON-native.
        cut: Whether turns were dropped or results cleared in this call.
        orphaned: Ids of tool calls and results that were left out because they lack each other.
        set_aside: Ids of tool calls and results of earlier turns, where the budget does not keep
            tool traffic.
        cleared_results: What is shown in place of tool results that were cleared, by position.
        shortened: Ids of tool results that were shortened.
        left_out: "facts" if some or all of the recalled ones are not shown, "summary" if it is not.
        history: The messages that the view was made of.
        covered: The position before which the summary stands for the messages.
        start: The position from which turns are shown.
    """

    messages: list[BaseMessage]
    tokens: int
    cursor: dict[str, Any]
    cut: bool
    orphaned: list[str]
    set_aside: list[str]
    cleared_results: dict[int, BaseMessage]
    shortened: list[str]
    left_out: list[str]
    history: History = field(repr=False)
    covered: int = field(repr=False)
    start: int = field(repr=False)

    @property
    def cleared(self) -> list[str]:
        """Ids of tool results that are shown cleared."""
        return [id_of(self.history.messages, i) for i in sorted(self.cleared_results)]

    @property
    def dropped_count(self) -> int:
        """How many messages neither the view nor the summary holds."""
        kept = sum(self.covered <= i < self.start for i in self.history.systems)
        return max(0, self.start - self.covered) - kept

    @cached_property
    def dropped(self) -> list[str]:
        """Ids of messages that neither the view nor the summary holds."""
        return self.dropped_since(self.covered)

    def dropped_since(self, begin: int) -> list[str]:
        """Return ids of the messages from a position on that the view drops."""
        systems = set(self.history.systems)
        return [
            id_of(self.history.messages, i)
            for i in range(max(begin, self.covered), self.start)
            if i not in systems
        ]


def trim(messages: Iterable[MessageLikeRepresentation], budget: ContextBudget) -> list[BaseMessage]:
    """Return the system messages and the latest turns that fit the budget.

    Tool calls stay with all of their results, the latest human message and everything after it
    stays, nothing is reordered or mutated, and trimming the result again changes nothing.

    Args:
        messages: Messages, or what LangChain accepts for them.
        budget: How many tokens they may take.

    Raises:
        BudgetTooSmall: The system messages and the latest turn do not fit.
        ConfigError: They are no messages, or `budget` is no ContextBudget.

    Cost:
        A look at the class of each message; counted are those that are kept.
    """
    return build_view(messages, budget).messages


def context(state: Mapping[str, Any] | Any, budget: ContextBudget) -> list[BaseMessage]:
    """Return the view of a state: system, summary, recent turns and recalled facts.

    Args:
        state: A state with `messages` and, if there, `summary`, `recalled` and `memory`.
        budget: The one budget of all parts.

    Raises:
        BudgetTooSmall: The system messages and the latest turn do not fit.
        ConfigError: The state has no messages, its summary or memories are malformed, or `budget`
            is no ContextBudget.
    """
    read = state.get if isinstance(state, Mapping) else lambda key: getattr(state, key, None)
    if not isinstance(state, Mapping) and not hasattr(state, "messages"):
        raise ConfigError(f"a state is a mapping or an object with messages, got {state!r:.200}")
    memory = read("memory")
    entries = memory if isinstance(memory, Mapping) else {}
    return build_view(
        read("messages") or [],
        budget,
        summary=read("summary"),
        recalled=read("recalled") or [],
        cursor=entries.get("trim"),
        place=entries.get("summarize"),
    ).messages


def build_view(
    messages: Iterable[MessageLikeRepresentation],
    budget: ContextBudget,
    *,
    summary: Mapping[str, Any] | None = None,
    recalled: Sequence[Mapping[str, Any]] = (),
    cursor: Mapping[str, Any] | None = None,
    place: Mapping[str, Any] | None = None,
) -> View:
    """Build the view that `trim`, `context` and TokenTrimmer return.

    Args:
        messages: The whole history.
        budget: The one budget of all parts.
        summary: `{"text", "through_id"}`; stands for every message up to and including that one.
        recalled: Memories, best first; as many as fit their share are shown.
        cursor: `View.cursor` of the last turn; the view starts there again as long as it fits.
        place: `memory["summarize"]`, which finds `through_id` again if its message is gone.

    Raises:
        BudgetTooSmall: What must stay does not fit, even without summary and facts.
        ConfigError: An argument cannot be used.

    Cost:
        Proportional to the view, not to the history, where a cursor is given and still holds.
    """
    if not isinstance(budget, ContextBudget):
        raise ConfigError(f"budget is a ContextBudget like ContextBudget(4000), got {budget!r}")
    cursor = cursor if isinstance(cursor, Mapping) else {}
    summary = checked_summary(summary)
    history = History.read(messages, cursor)
    covered = covered_until(history.messages, summary, place or {})
    begin = max(covered, history.start)
    facts = _facts_that_fit(recalled, budget)
    left_out = ["facts"] if len(facts) < len(recalled) else []
    extras = _extras(summary, facts)
    fixed = budget.fixed([*(history.messages[i] for i in history.systems), *extras])
    clear = cleared_until(history.messages, cursor)
    found = fit(history, budget, begin=begin, fixed=fixed, clear=clear)
    if found.cut and history.offset:
        # A cut is rare, and a good time to look at all of the history again.
        by_id = {**cursor, "start": None}
        return build_view(
            messages, budget, summary=summary, recalled=recalled, cursor=by_id, place=place
        )
    window, start = found.window, found.start

    shown, tokens = _lay_out(history, window, start, extras, fixed=fixed, budget=budget)
    while tokens > budget.high and (later := _next_turn(history, start)):
        # Only for a counter whose parts do not add up to the whole.
        start = later
        shown, tokens = _lay_out(history, window, start, extras, fixed=fixed, budget=budget)
    while tokens > budget.high and extras:
        # Facts can be recalled again, and the best come first; a summary cannot.
        part = "facts" if facts else "summary"
        facts, summary = facts[:-1], summary if facts else None
        if part not in left_out:
            left_out.append(part)
        extras = _extras(summary, facts)
        fixed = budget.fixed([*(history.messages[i] for i in history.systems), *extras])
        shown, tokens = _lay_out(history, window, start, extras, fixed=fixed, budget=budget)
    shortened: list[str] = []
    if tokens > budget.high and budget.on_overflow == "shorten_tools":
        shown, shortened = shorten_tools(shown, tokens - budget.high, budget)
        tokens = budget.count(shown)
    if tokens > budget.high:
        raise BudgetTooSmall(
            f"the system messages and the latest turn take {tokens} tokens, but the budget leaves "
            f"{budget.high} (max_tokens={budget.max_tokens}, reserve_reply={budget.reserve_reply}, "
            f"tools={budget.tool_tokens}). Raise max_tokens, or shorten the system message"
            + (
                ', or pass on_overflow="shorten_tools" where long tool results are the cause.'
                if budget.on_overflow == "raise"
                else " or the latest turn; shorter tool results were not enough."
            )
        )

    def ids(positions: Iterable[int]) -> list[str]:
        return [id_of(history.messages, i) for i in sorted(positions) if i >= start]

    bounds = {tool: i for tool, i in found.clear.items() if i > start}
    return View(
        messages=shown,
        tokens=tokens,
        cursor={
            **history.cursor_at(start),
            "cleared": {tool: id_of(history.messages, i - 1) for tool, i in bounds.items()},
        },
        cut=found.cut,
        orphaned=ids(window.orphaned),
        set_aside=ids(window.set_aside),
        cleared_results={i: m for i in window.cleared if i >= start and (m := window.changes[i])},
        shortened=shortened,
        left_out=left_out,
        history=history,
        covered=covered,
        start=start,
    )


def _extras(summary: Mapping[str, Any] | None, facts: Sequence[str]) -> list[BaseMessage]:
    """Return the summary message and the facts message, each only if it has something to say."""
    extras: list[BaseMessage] = []
    if summary and summary["text"].strip():
        extras.append(
            SystemMessage(prompts.fill("summary_in_view", summary=summary["text"]), id=SUMMARY_ID)
        )
    if facts:
        extras.append(_facts_message(facts))
    return extras


def _facts_message(facts: Sequence[str]) -> BaseMessage:
    return HumanMessage(prompts.fill("recalled_in_view", facts="\n".join(facts)), id=RECALLED_ID)


def _facts_that_fit(recalled: Sequence[Mapping[str, Any]], budget: ContextBudget) -> list[str]:
    """Return the lines of the memories that their share has room for, best first."""
    if not recalled:
        return []
    lines: list[str] = []
    left = budget.recall_share - budget.count_one(_facts_message([]))
    for line in map(_fact_line, recalled):
        tokens = budget.count_text(line) + 1
        if tokens <= left:
            lines.append(line)
            left -= tokens
    # The parts of a text may take less than the whole.
    while lines and budget.count_one(_facts_message(lines)) > budget.recall_share:
        lines.pop()
    return lines


def _fact_line(item: Mapping[str, Any]) -> str:
    if not isinstance(item, Mapping) or "text" not in item:
        raise ConfigError(f'a recalled memory is a mapping with "text", got {item!r:.200}')
    # One line each, so that a remembered text cannot pose as a further entry or a heading.
    text = " ".join(str(item["text"]).split())
    updated = item.get("last_updated")
    day = str(updated)[:10] if updated else "date unknown"
    note = {
        "stale": ", may be outdated: confirm before relying on it",
        "expired": ", expired",
    }.get(str(item.get("freshness")), "")
    return f"- ({day}{note}) {text}"


def _next_turn(history: History, position: int) -> int | None:
    """Return the start of the turn behind a position, or None if it lies in the last."""
    last = history.turn_before(len(history.messages), position)
    while last > position and (before := history.turn_before(last, position)) > position:
        last = before
    return last if last > position else None


def _lay_out(
    history: History,
    window: Window,
    start: int,
    extras: Sequence[BaseMessage],
    *,
    fixed: int,
    budget: ContextBudget,
) -> tuple[list[BaseMessage], int]:
    """Return the messages of a view in their order, and their tokens."""
    messages, systems = history.messages, history.systems
    head = next((n for n, i in enumerate(systems) if n != i), len(systems))
    shown = messages[:head]
    shown += [m for m in extras if m.id != RECALLED_ID]
    shown += [messages[i] for i in systems[head:] if i < start]
    start = max(start, head)
    beside = history.turn_before(len(messages), start) if start < len(messages) else start
    if start == len(messages) or history.role(beside) != "human":
        beside = len(messages)

    def turns(begin: int, end: int) -> list[BaseMessage]:
        if not window.changes:
            return messages[begin:end]
        changed = (window.changes.get(i, messages[i]) for i in range(begin, end))
        return [m for m in changed if m is not None]

    shown += turns(start, beside)
    shown += [m for m in extras if m.id == RECALLED_ID]
    shown += turns(beside, len(messages))
    if budget.counter is not None:
        return shown, budget.count(shown)
    tokens = fixed + sum(window.sizes[max(start - window.reached, 0) :])
    return shown, tokens if shown else 0
