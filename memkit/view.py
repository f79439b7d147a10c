"""One token budget for everything the model sees. Pure.

A view is laid out so that it grows at its end only: leading system messages, the summary, recent
turns; recalled facts stand right before the last human message, and all before them is a stable
prefix that a provider can cache.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from langchain_core.messages import (
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    convert_to_messages,
)

from memkit import prompts
from memkit.errors import BudgetTooSmall, ConfigError
from memkit.messages import (
    after,
    leading_system,
    message_ids,
    orphans,
    text_of,
    turn_start_at,
    turn_starts,
)
from memkit.tokens import TokenCounter

SUMMARY_ID = "memkit-summary"
RECALLED_ID = "memkit-recalled"
SHORTENED = "\n[… shortened by {} characters to fit the token budget]"

MessageCounter = Callable[[list[BaseMessage]], int]


@dataclass(frozen=True)
class ContextBudget:
    """How many tokens the model may be sent, and what each part may take of them.

    Args:
        max_tokens: The prompt and the reserved reply together, in tokens of `model`.
        reserve_reply: Tokens kept free for the reply.
        summary_tokens: The most a summary may take; default a quarter of `max_tokens`, or of what
            reserve and tools leave of it.
        recall_tokens: The most recalled facts may take; the same default.
        low_water: Once a view exceeds the budget it is cut to this share of it, so that many
            turns pass until the next cut.
        tools: Tools that will be bound to the model; their schemas are counted.
        model: Names the encoding to count with.
        counter: A function from messages to tokens, used in place of the model's encoding.
        on_overflow: What to do when system messages and the latest turn alone do not fit:
            "raise" BudgetTooSmall, or "shorten_tools": shorten the longest tool results first,
            with a visible mark.

    Raises:
        ConfigError: A value is out of range, or the parts exceed `max_tokens`.
    """

    max_tokens: int
    reserve_reply: int = field(default=0, kw_only=True)
    summary_tokens: int | None = field(default=None, kw_only=True)
    recall_tokens: int | None = field(default=None, kw_only=True)
    low_water: float = field(default=0.6, kw_only=True)
    tools: Sequence[Any] = field(default=(), kw_only=True)
    model: str = field(default="gpt-4o", kw_only=True)
    counter: MessageCounter | None = field(default=None, kw_only=True)
    on_overflow: Literal["raise", "shorten_tools"] = field(default="raise", kw_only=True)

    def __post_init__(self) -> None:
        if type(self.max_tokens) is not int or self.max_tokens <= 0:
            raise ConfigError(f"max_tokens must be a positive integer, got {self.max_tokens!r}")
        for name in ("reserve_reply", "summary_tokens", "recall_tokens"):
            value = getattr(self, name)
            if value is None and name != "reserve_reply":
                continue
            if type(value) is not int or not 0 <= value < self.max_tokens:
                raise ConfigError(
                    f"{name} is a whole number from 0 to below max_tokens, got {value!r}"
                )
        if type(self.low_water) not in (int, float) or not 0 < self.low_water <= 1:
            raise ConfigError(f"low_water is a share above 0 and up to 1, got {self.low_water!r}")
        if not isinstance(self.model, str):
            raise ConfigError(f"model names the encoding to count with, got {self.model!r}")
        if self.counter is not None and not callable(self.counter):
            raise ConfigError(f"counter is a function from messages to tokens: {self.counter!r}")
        if self.on_overflow not in ("raise", "shorten_tools"):
            raise ConfigError(
                f'on_overflow is "raise" or "shorten_tools", got {self.on_overflow!r}'
            )
        if self.high <= 0:
            raise ConfigError(
                f"reserve_reply={self.reserve_reply} and the tools' schemas ({self.tool_tokens} "
                f"tokens) leave nothing of max_tokens={self.max_tokens}"
            )
        if (self.summary_tokens or 0) + (self.recall_tokens or 0) >= self.high:
            raise ConfigError(
                f"summary_tokens={self.summary_tokens} and recall_tokens={self.recall_tokens} "
                f"leave nothing for the conversation of the {self.high} tokens of the prompt"
            )

    @cached_property
    def tokens(self) -> TokenCounter:
        """The counter of the model's encoding."""
        return TokenCounter.for_model(self.model)

    @cached_property
    def tool_tokens(self) -> int:
        """Tokens of the tools' schemas."""
        return self.tokens.tools(self.tools) if self.tools else 0

    @cached_property
    def high(self) -> int:
        """The most tokens the messages of a view may take."""
        return self.max_tokens - self.reserve_reply - self.tool_tokens

    @property
    def low(self) -> int:
        """The tokens a view is cut down to."""
        return int(self.high * self.low_water)

    @property
    def summary_share(self) -> int:
        """The most tokens of a summary."""
        return self._quarter if self.summary_tokens is None else self.summary_tokens

    @property
    def recall_share(self) -> int:
        """The most tokens of recalled facts."""
        return self._quarter if self.recall_tokens is None else self.recall_tokens

    @property
    def _quarter(self) -> int:
        # A large reserve leaves a prompt of which a quarter of max_tokens would be too much.
        return min(self.max_tokens, self.high) // 4

    def count(self, messages: Sequence[BaseMessage]) -> int:
        """Return the tokens of messages sent as one prompt."""
        if self.counter is not None:
            return self.counter(list(messages))
        return self.tokens.messages(messages)

    def count_one(self, message: BaseMessage) -> int:
        """Return what one message adds to a prompt."""
        if self.counter is not None:
            return self.counter([message])
        return self.tokens.message(message)

    def count_text(self, text: str) -> int:
        """Return the tokens of a text."""
        if self.counter is not None:
            return self.counter([HumanMessage(text)])
        return self.tokens.text(text)


@dataclass(frozen=True)
class View:
    """What the model is to see, and what was left out.

    Attributes:
        messages: The view.
        tokens: Its size, in tokens.
        start_id: Id of the first turn's message that is kept, or None if the view keeps all.
        dropped: Ids of messages that neither the view nor the summary holds.
        left_out: "facts" and "summary", if they did not fit beside what must stay.
        orphaned: Ids of tool calls and results that were left out because they lack each other.
        shortened: Ids of tool results that were shortened.
        cut: Whether the start moved in this call.
    """

    messages: list[BaseMessage]
    tokens: int
    start_id: str | None = None
    dropped: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    orphaned: list[str] = field(default_factory=list)
    shortened: list[str] = field(default_factory=list)
    cut: bool = False


def trim(messages: Sequence[BaseMessage], budget: ContextBudget) -> list[BaseMessage]:
    """Return the system messages and the latest turns that fit the budget.

    Tool calls stay with all of their results, the latest human message and everything after it
    stays, nothing is reordered or mutated, and trimming the result again changes nothing.

    Raises:
        BudgetTooSmall: The system messages and the latest turn do not fit.
    """
    if not isinstance(budget, ContextBudget):
        raise ConfigError(f"budget is a ContextBudget, got {budget!r}")
    return build_view(convert_to_messages(list(messages)), budget).messages


def context(state: Mapping[str, Any] | Any, budget: ContextBudget) -> list[BaseMessage]:
    """Return the view of a state: system, summary, recent turns and recalled facts.

    Args:
        state: A state with `messages` and, if there, `summary`, `recalled` and `memory`.
        budget: The one budget of all parts.

    Raises:
        BudgetTooSmall: The system messages and the latest turn do not fit.
    """
    read = state.get if isinstance(state, Mapping) else lambda key: getattr(state, key, None)
    return build_view(
        read("messages") or [],
        budget,
        summary=read("summary"),
        recalled=read("recalled") or [],
        start_id=((read("memory") or {}).get("trim") or {}).get("start_id"),
    ).messages


def build_view(
    messages: Sequence[BaseMessage],
    budget: ContextBudget,
    *,
    summary: Mapping[str, Any] | None = None,
    recalled: Sequence[Mapping[str, Any]] = (),
    start_id: str | None = None,
) -> View:
    """Build the view that `trim`, `context` and TokenTrimmer return.

    Args:
        messages: The whole history.
        budget: The one budget of all parts.
        summary: Stands for every message up to and including its `through_id`.
        recalled: Memories, best first; as many as fit their share are shown.
        start_id: Where the last cut was; the view starts there again as long as it fits.

    Raises:
        BudgetTooSmall: What must stay does not fit, even without summary and facts.
    """
    ids = message_ids(messages)
    bad = orphans(messages)
    # A boundary that someone's edit left inside a turn shows that turn whole.
    covered = turn_start_at(messages, after(ids, summary["through_id"])) if summary else 0
    begin = max(covered, turn_start_at(messages, ids.index(start_id)) if start_id in ids else 0)
    extras = _extras(summary, recalled, budget)
    start = find_start(messages, budget, begin=begin, extras=extras, bad=bad)

    shortened: list[str] = []
    left_out: list[str] = []
    shown, tokens = _lay_out(messages, start, bad, extras, budget)
    later = [i for i in turn_starts(messages) if i > start]
    while tokens > budget.high and later:
        # Only for a counter whose parts do not add up to the whole.
        start = later.pop(0)
        shown, tokens = _lay_out(messages, start, bad, extras, budget)
    while tokens > budget.high and extras:
        # Facts, which come last in `extras`, can be recalled again; a summary cannot.
        left_out.append("facts" if extras[-1].id == RECALLED_ID else "summary")
        extras = extras[:-1]
        shown, tokens = _lay_out(messages, start, bad, extras, budget)
    if tokens > budget.high and budget.on_overflow == "shorten_tools":
        shown, shortened = _shorten_tools(shown, tokens - budget.high, budget)
        tokens = budget.count(shown)
    if tokens > budget.high:
        raise BudgetTooSmall(
            f"the system messages and the latest turn take {tokens} tokens, but the budget leaves "
            f"{budget.high} (max_tokens={budget.max_tokens}, reserve_reply={budget.reserve_reply}, "
            f"tools={budget.tool_tokens}). Raise max_tokens, shorten the system message, or pass "
            'on_overflow="shorten_tools" where long tool results are the cause.'
        )
    gone = [
        ids[i]
        for i in range(covered, start)
        if i not in bad and not isinstance(messages[i], SystemMessage)
    ]
    return View(
        messages=shown,
        tokens=tokens,
        start_id=ids[start] if start > covered else None,
        dropped=gone,
        left_out=left_out,
        orphaned=[ids[i] for i in sorted(bad)],
        shortened=shortened,
        cut=start > begin,
    )


def find_start(
    messages: Sequence[BaseMessage],
    budget: ContextBudget,
    *,
    begin: int = 0,
    extras: Sequence[BaseMessage] = (),
    extra_tokens: int = 0,
    bad: set[int] | None = None,
) -> int:
    """Return the position from which messages are kept: `begin`, or a later turn.

    Args:
        messages: The whole history.
        budget: Above `budget.high` the view is cut down to `budget.low`.
        begin: Where the view starts if it fits.
        extras: Summary and facts that will stand in the view.
        extra_tokens: Tokens to keep free beside them.
        bad: Positions that are left out anyway.
    """
    bad = orphans(messages) if bad is None else bad
    always = [m for i, m in enumerate(messages) if isinstance(m, SystemMessage) and i not in bad]
    fixed = budget.count([*always, *extras]) + extra_tokens
    sizes = [
        0 if i in bad or isinstance(m, SystemMessage) else budget.count_one(m)
        for i, m in enumerate(messages[begin:], begin)
    ]
    total = fixed + sum(sizes)
    if total <= budget.high:
        return begin
    starts = [i for i in turn_starts(messages) if i >= begin]
    left = total
    position = begin
    for start in starts:
        left -= sum(sizes[position - begin : start - begin])
        position = start
        if left <= budget.low:
            return start
    return starts[-1] if starts else begin


def _extras(
    summary: Mapping[str, Any] | None,
    recalled: Sequence[Mapping[str, Any]],
    budget: ContextBudget,
) -> list[BaseMessage]:
    """Return the summary message and the facts message, each only if it has something to say."""
    extras: list[BaseMessage] = []
    if summary and summary["text"].strip():
        extras.append(
            SystemMessage(prompts.fill("summary_in_view", summary=summary["text"]), id=SUMMARY_ID)
        )
    lines: list[str] = []
    message = None
    for item in recalled:
        longer = HumanMessage(
            prompts.fill("recalled_in_view", facts="\n".join([*lines, _fact_line(item)])),
            id=RECALLED_ID,
        )
        if budget.count_one(longer) > budget.recall_share:
            continue
        lines.append(_fact_line(item))
        message = longer
    if message is not None:
        extras.append(message)
    return extras


def _fact_line(item: Mapping[str, Any]) -> str:
    # One line each, so that a remembered text cannot pose as a further entry or a heading.
    text = " ".join(str(item["text"]).split())
    day = (item.get("last_updated") or "date unknown")[:10]
    note = {"stale": ", may be outdated: confirm before relying on it", "expired": ", expired"}
    return f"- ({day}{note.get(item.get('freshness', 'fresh'), '')}) {text}"


def _lay_out(
    messages: Sequence[BaseMessage],
    start: int,
    bad: set[int],
    extras: Sequence[BaseMessage],
    budget: ContextBudget,
) -> tuple[list[BaseMessage], int]:
    """Return the messages of a view in their order, and their tokens."""
    head = leading_system(messages)
    facts = [m for m in extras if m.id == RECALLED_ID]
    shown = [*messages[:head], *(m for m in extras if m.id != RECALLED_ID)]
    humans = [i for i in turn_starts(messages) if i >= start]
    beside = humans[-1] if humans else len(messages)
    for i in range(head, len(messages)):
        if i == beside:
            shown.extend(facts)
        if i not in bad and (i >= start or isinstance(messages[i], SystemMessage)):
            shown.append(messages[i])
    if beside == len(messages):
        shown.extend(facts)
    return shown, budget.count(shown)


def _shorten_tools(
    shown: Sequence[BaseMessage], excess: int, budget: ContextBudget
) -> tuple[list[BaseMessage], list[str]]:
    """Halve the longest tool results, one after the other, until `excess` tokens are gone."""
    result = list(shown)
    originals = {i: text_of(m) for i, m in enumerate(result) if isinstance(m, ToolMessage)}
    keep = {i: len(text) for i, text in originals.items()}
    floor = 32  # characters: below this a result says nothing and shortening it gains nothing
    while excess > 0 and (cuttable := {i: n for i, n in keep.items() if n > floor}):
        i = max(cuttable, key=lambda k: budget.count_one(result[k]))
        before = budget.count_one(result[i])
        keep[i] = max(floor, keep[i] // 2)
        text = originals[i][: keep[i]] + SHORTENED.format(len(originals[i]) - keep[i])
        shorter = result[i].model_copy(update={"content": text})
        if budget.count_one(shorter) < before:
            result[i] = shorter
            excess -= before - budget.count_one(shorter)
    touched = [result[i].id or "" for i in originals if result[i] is not shown[i]]
    return result, touched
