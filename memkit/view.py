"""One token budget for everything the model sees. Pure.

A view is laid out so that it grows at its end only: leading system messages, the summary, recent
turns; recalled facts stand right before the last human message, and all before them is a stable
prefix that a provider can cache.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from langchain_core.messages import (
    BaseMessage,
    HumanMessage,
    MessageLikeRepresentation,
    SystemMessage,
    ToolMessage,
)

from memkit import prompts
from memkit.errors import BudgetTooSmall, ConfigError
from memkit.messages import (
    after,
    leading_system,
    message_ids,
    orphans,
    turn_start_at,
    turn_starts,
)
from memkit.tokens import TokenCounter, as_messages

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
        ConfigError: A value is of the wrong type or out of range, or the reply, the tools and the
            parts that were given leave nothing of `max_tokens`.
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
        if isinstance(self.tools, str | bytes) or not isinstance(self.tools, Sequence):
            raise ConfigError(f"tools are a list of tools, got {self.tools!r}")
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
        left_out: "facts" if some or all that their share allows did not fit beside what must
            stay, and "summary" if it did not.
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
    cursor: Any = read("memory")
    for key in ("trim", "start_id"):
        cursor = cursor.get(key) if isinstance(cursor, Mapping) else None
    return build_view(
        read("messages") or [],
        budget,
        summary=read("summary"),
        recalled=read("recalled") or [],
        start_id=cursor,
    ).messages


def build_view(
    messages: Iterable[MessageLikeRepresentation],
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
        summary: `{"text", "through_id"}`; stands for every message up to and including that one.
        recalled: Memories, best first; as many as fit their share are shown.
        start_id: Where the last cut was; the view starts there again as long as it fits.

    Raises:
        BudgetTooSmall: What must stay does not fit, even without summary and facts.
        ConfigError: An argument cannot be used.
    """
    if not isinstance(budget, ContextBudget):
        raise ConfigError(f"budget is a ContextBudget like ContextBudget(4000), got {budget!r}")
    messages = as_messages(messages)
    summary = checked_summary(summary)
    ids = message_ids(messages)
    bad = orphans(messages)
    # A boundary that someone's edit left inside a turn shows that turn whole.
    covered = turn_start_at(messages, after(ids, summary["through_id"])) if summary else 0
    begin = max(covered, turn_start_at(messages, ids.index(start_id)) if start_id in ids else 0)
    facts = _facts_that_fit(recalled, budget)
    extras = _extras(summary, facts)
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
        # Facts can be recalled again, and the best come first; a summary cannot.
        part = "facts" if facts else "summary"
        facts, summary = facts[:-1], summary if facts else None
        if part not in left_out:
            left_out.append(part)
        extras = _extras(summary, facts)
        shown, tokens = _lay_out(messages, start, bad, extras, budget)
    if tokens > budget.high and budget.on_overflow == "shorten_tools":
        shown, shortened = _shorten_tools(shown, tokens - budget.high, budget)
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


def checked_summary(summary: object) -> Mapping[str, Any] | None:
    """Return the summary of a state; None for one that is unset or empty.

    Raises:
        ConfigError: It is not what RollingSummarizer writes.
    """
    if not summary:
        return None
    if (
        not isinstance(summary, Mapping)
        or not isinstance(summary.get("text"), str)
        or not isinstance(summary.get("through_id"), str)
    ):
        raise ConfigError(
            'a summary is a mapping {"text": "…", "through_id": id of the last message it covers}, '
            f"got {summary!r:.200}"
        )
    return summary


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
    lines: list[str] = []
    for item in recalled:
        line = _fact_line(item)
        if budget.count_one(_facts_message([*lines, line])) <= budget.recall_share:
            lines.append(line)
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
    """Halve the longest texts of tool results, one after the other, until `excess` is gone.

    Parts of a result that are no text, such as images, stay as they are.
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
    floor = 32  # characters: below this a result says nothing and shortening it gains nothing
    while excess > 0 and (cuttable := [place for place, n in keep.items() if n > floor]):
        place = max(cuttable, key=sizes.__getitem__)
        i, part = place
        original = originals[place]
        keep[place] = max(floor, keep[place] // 2)
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
