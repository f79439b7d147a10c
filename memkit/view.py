"""What the model is to see, under one token budget. Pure.

A view is laid out so that it grows at its end only: leading system messages, the summary, recent
turns; recalled facts stand right before the last human message, and all before them is a stable
prefix that a provider can cache.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

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
from memkit.messages import id_of, turn_start_at
from memkit.summary import checked_summary, covered_until
from memkit.tool_traffic import shorten_tools
from memkit.window import Fit, Window, cleared_until, fit

SUMMARY_ID = "memkit-summary"
RECALLED_ID = "memkit-recalled"

Memory = TypeVar("Memory", bound=Mapping[str, Any])


@dataclass(frozen=True)
class View:
    """What the model is to see, and what was left out.

    Attributes:
        messages: The view.
        tokens: Its size, in tokens.
        tokens_before: What it would take without the cut of this call, as far as that was counted.
        cursor: What `build_view` needs on the next turn to start where this view does:
            `{"start_id", "start", "system", "cleared"}`, JSON-native.
        cut: Whether turns were dropped or results cleared in this call.
        orphaned: Ids of tool calls and results that were left out because they lack each other.
        set_aside: Ids of tool calls and results of earlier turns, where the budget does not keep
            tool traffic.
        cleared: What is shown in place of tool results that were cleared, by position.
        shortened: Ids of tool results that were shortened.
        left_out: "facts" if some or all of the recalled ones are not shown, "summary" if it is not.
        history: The messages that the view was made of.
        covered: The position before which the summary stands for the messages.
        start: The position from which turns are shown.
    """

    messages: list[BaseMessage]
    tokens: int
    tokens_before: int
    cursor: dict[str, Any]
    cut: bool
    orphaned: list[str]
    set_aside: list[str]
    cleared: dict[int, BaseMessage]
    shortened: list[str]
    left_out: list[str]
    history: History = field(repr=False)
    covered: int = field(repr=False)
    start: int = field(repr=False)

    @property
    def dropped_count(self) -> int:
        """How many messages neither the view nor the summary holds."""
        kept = sum(self.covered <= i < self.start for i in self.history.systems)
        return max(0, self.start - self.covered - kept)

    def turns_since(self, begin: int) -> int:
        """Return how many turns from a position on neither the view nor the summary holds."""
        dropped = range(max(begin, self.covered), self.start)
        return sum(self.history.role(i) == "human" for i in dropped)

    def dropped_since(self, begin: int) -> list[str]:
        """Return ids of messages from a position on that neither the view nor the summary holds."""
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
        A look at the class of each message; counted are those that fit, and a few more.
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
    return build_view(
        read("messages") or [],
        budget,
        summary=read("summary"),
        recalled=read("recalled") or [],
        memory=memory if isinstance(memory, Mapping) else None,
    ).messages


def build_view(
    messages: Iterable[MessageLikeRepresentation],
    budget: ContextBudget,
    *,
    summary: Mapping[str, Any] | None = None,
    recalled: Sequence[Mapping[str, Any]] = (),
    memory: Mapping[str, Any] | None = None,
) -> View:
    """Build the view that `trim`, `context` and TokenTrimmer return.

    Args:
        messages: The whole history.
        budget: The one budget of all parts.
        summary: `{"text", "through_id"}`; stands for every message up to and including that one.
        recalled: Memories, best first; as many as fit their share are shown.
        memory: The cursors of a state. With `{"trim": View.cursor}` of the last turn the view
            starts there again as long as it fits; `"summarize"` finds the place up to which the
            summary goes if its message is gone.

    Raises:
        BudgetTooSmall: What must stay does not fit, even without summary and facts.
        ConfigError: An argument cannot be used.

    Cost:
        Proportional to the view, not to the history, where a cursor is given and still holds,
        except on a turn on which the view is cut.
    """
    if not isinstance(budget, ContextBudget):
        raise ConfigError(f"budget is a ContextBudget like ContextBudget(4000), got {budget!r}")
    cursor = _entry(memory, "trim")
    history = History.read(messages, cursor)
    summary = checked_summary(summary)
    covered = covered_until(history.messages, summary, _entry(memory, "summarize"))
    notes = Notes.of(summary, recalled, budget)
    left_out = ["facts"] if len(notes.facts) < len(recalled) else []
    # A boundary that someone's edit left inside a turn shows that turn whole.
    begin = max(turn_start_at(history.messages, covered) if covered else 0, history.start)
    found = fit_view(history, budget, notes, begin=begin, cursor=cursor)
    before = found.before
    if found.cut and history.offset:
        # A cut is rare, and a good time to look at all of the history again.
        history = History.read(messages, cursor, whole=True)
        found = fit_view(history, budget, notes, begin=begin, cursor=cursor)
    window, start, fixed = found.window, found.start, found.fixed

    shown, tokens = _lay_out(history, window, start, notes, fixed=fixed, budget=budget)
    while tokens > budget.high and (later := history.turn_after(start)) is not None:
        # Only for a counter whose parts do not add up to the whole.
        start = later
        shown, tokens = _lay_out(history, window, start, notes, fixed=fixed, budget=budget)
    while tokens > budget.high and (notes.facts or notes.summary):
        # Facts can be recalled again, and the best come first; a summary cannot.
        part = "facts" if notes.facts else "summary"
        (notes.facts or notes.summary).pop()
        if part not in left_out:
            left_out.append(part)
        fixed = _fixed(history, budget, notes)
        shown, tokens = _lay_out(history, window, start, notes, fixed=fixed, budget=budget)
    shortened: list[str] = []
    if tokens > budget.high and budget.on_overflow == "shorten_tools":
        shown, shortened = shorten_tools(shown, tokens - budget.high, budget)
        tokens = budget.count(shown)
    if tokens > budget.high:
        raise _too_small(budget, tokens)

    def ids(positions: Iterable[int]) -> list[str]:
        return [id_of(history.messages, i) for i in sorted(positions) if i >= start]

    bounds = {tool: i for tool, i in found.clear.items() if i > start}
    return View(
        messages=shown,
        tokens=tokens,
        tokens_before=before,
        cursor={
            **history.cursor_at(start),
            "cleared": {tool: id_of(history.messages, i - 1) for tool, i in bounds.items()},
        },
        cut=found.cut,
        orphaned=ids(window.orphaned),
        set_aside=ids(window.set_aside),
        cleared={i: m for i in window.cleared if i >= start and (m := window.changes[i])},
        shortened=shortened,
        left_out=left_out,
        history=history,
        covered=covered,
        start=start,
    )


def _entry(memory: Mapping[str, Any] | None, node: str) -> Mapping[str, Any]:
    entry = memory.get(node) if isinstance(memory, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def _too_small(budget: ContextBudget, tokens: int) -> BudgetTooSmall:
    return BudgetTooSmall(
        f"the system messages and the latest turn take {tokens} tokens, but the budget leaves "
        f"{budget.high} (max_tokens={budget.max_tokens}, reserve_reply={budget.reserve_reply}, "
        f"tools={budget.tool_tokens}). Raise max_tokens, or shorten the system message"
        + (
            ', or pass on_overflow="shorten_tools" where long tool results are the cause.'
            if budget.on_overflow == "raise"
            else " or the latest turn; shorter tool results were not enough."
        )
    )


@dataclass(slots=True)
class Notes:
    """What stands in a view beside the messages: the summary's message, and lines of facts."""

    summary: list[BaseMessage]
    facts: list[str]

    @classmethod
    def of(
        cls,
        summary: Mapping[str, Any] | None,
        recalled: Sequence[Mapping[str, Any]],
        budget: ContextBudget,
    ) -> "Notes":
        """Return a summary that has something to say, and the facts that their share holds."""
        head: list[BaseMessage] = []
        if summary and (text := summary["text"].strip()):
            said = prompts.fill("summary_in_view", summary=text)
            head.append(SystemMessage(said, id=SUMMARY_ID))
        return cls(head, [_fact_line(item) for item in facts_that_fit(recalled, budget)])

    @property
    def facts_messages(self) -> list[BaseMessage]:
        """The message of the facts, if there are any."""
        return [_facts_message(self.facts)] if self.facts else []


def fit_view(
    history: History,
    budget: ContextBudget,
    notes: Notes,
    *,
    begin: int,
    cursor: Mapping[str, Any],
    high: int | None = None,
) -> Fit:
    """Decide which turns a view shows; RollingSummarizer folds those that it would drop.

    Args:
        history: The history.
        budget: The one budget of all parts.
        notes: What stands beside the messages.
        begin: The first message that may be shown.
        cursor: `View.cursor` of the last turn.
        high: Another limit in place of `budget.high`.
    """
    return fit(
        history,
        budget,
        begin=begin,
        fixed=_fixed(history, budget, notes),
        clear=cleared_until(history.messages, cursor),
        high=budget.high if high is None else high,
        low=budget.low,
    )


def _fixed(history: History, budget: ContextBudget, notes: Notes) -> int:
    return budget.fixed(
        [*(history.messages[i] for i in history.systems), *notes.summary, *notes.facts_messages]
    )


def _facts_message(facts: Sequence[str]) -> BaseMessage:
    return HumanMessage(prompts.fill("recalled_in_view", facts="\n".join(facts)), id=RECALLED_ID)


def facts_that_fit(
    recalled: Sequence[Memory], budget: ContextBudget, limit: int | None = None
) -> list[Memory]:
    """Return the memories that a view shows: those that their share has room for, in their order.

    Args:
        recalled: Memories, best first; one that is too long is passed over for a shorter one.
        budget: The one budget of all parts.
        limit: The most to return.
    """
    if not recalled:
        return []
    shown: list[Memory] = []
    lines: list[str] = []
    left = budget.recall_limit - budget.count_one(_facts_message([]))
    for item in recalled:
        if len(lines) == limit:
            break
        line = _fact_line(item)
        tokens = budget.count_text(line) + 1
        if tokens <= left:
            shown.append(item)
            lines.append(line)
            left -= tokens
    # The parts of a text may take less than the whole.
    while lines and budget.count_one(_facts_message(lines)) > budget.recall_limit:
        lines.pop()
    return shown[: len(lines)]


def _fact_line(item: Mapping[str, Any]) -> str:
    if not isinstance(item, Mapping) or "text" not in item:
        raise ConfigError(f'a recalled memory is a mapping with "text", got {item!r:.200}')
    # One line each, so that a remembered text cannot pose as a further entry or a heading.
    text = " ".join(str(item["text"]).split())
    # The day the person last stood by it: a confirmation leaves last_updated as it is.
    stated = item.get("last_confirmed") or item.get("last_updated")
    day = str(stated)[:10] if stated else "date unknown"
    to_do = ": confirm before relying on it" if item.get("ask", True) else ", not yet confirmed"
    note = {
        "stale": f", may be outdated{to_do}",
        "expired": ", expired",
    }.get(str(item.get("freshness")), "")
    return f"- ({day}{note}) {text}"


def _lay_out(
    history: History,
    window: Window,
    start: int,
    notes: Notes,
    *,
    fixed: int,
    budget: ContextBudget,
) -> tuple[list[BaseMessage], int]:
    """Return the messages of a view in their order, and their tokens."""
    messages, systems = history.messages, history.systems
    head = next((n for n, i in enumerate(systems) if n != i), len(systems))
    begin = max(start, head)
    latest = len(messages)
    if begin < latest and history.role(found := history.turn_before(latest, begin)) == "human":
        latest = found

    def turns(begin: int, end: int) -> list[BaseMessage]:
        if not window.changes:
            return messages[begin:end]
        changed = (window.changes.get(i, messages[i]) for i in range(begin, end))
        return [m for m in changed if m is not None]

    shown = [
        *messages[:head],
        *notes.summary,
        *(messages[i] for i in systems[head:] if i < begin),
        *turns(begin, latest),
        *notes.facts_messages,
        *turns(latest, len(messages)),
    ]
    if budget.counter is not None:
        return shown, budget.count(shown)
    sizes = window.sizes[max(start - window.reached, 0) :]
    return shown, fixed + sum(sizes) if shown else 0
