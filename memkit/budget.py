"""ContextBudget: how many tokens the model may be sent, and what each part may take. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from operator import index
from typing import Any, Literal

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableBinding

from memkit.errors import ConfigError
from memkit.tokens import PER_MESSAGE, PER_REPLY, Recent, TokenCounter, identity

MessageCounter = Callable[[list[BaseMessage]], int]


@dataclass(frozen=True)
class ContextBudget:
    """How many tokens the model may be sent, and what each part may take of them.

    Args:
        max_tokens: The prompt and the reserved reply together, in tokens of `model`. None: the
            `max_input_tokens` of the profile of `model`, which is then a chat model.
        reserve_reply: Tokens kept free for the reply.
        summary_tokens: The most a summary may take; default a quarter of `max_tokens`, or of what
            reserve and tools leave of it.
        recall_tokens: The most recalled facts may take; the same default.
        low_water: Once a view exceeds the budget it is cut to this share of it, so that many
            turns pass until the next cut and the prompt can be cached in between. 1 keeps as much
            as fits: the plain form "the last N tokens", which moves the prompt's head each turn.
        tools: Tools that will be bound to the model; their schemas are counted. Those of a `model`
            with bound tools are known.
        model: Names the encoding to count with, or is the chat model itself, also one with bound
            tools.
        counter: A function from messages to tokens, used in place of the model's encoding. It is
            called with single messages too, and what it says of them is remembered.
        on_overflow: What to do when system messages and the latest turn alone do not fit:
            "raise" BudgetTooSmall, or "shorten_tools": shorten the longest tool results first,
            with a visible mark.
        clear_tool_results: Before turns are dropped, clear tool results in place, with a visible
            mark: all but the last N, or of each tool that a mapping names all but its last N, with
            "*" for all other tools. None: none.
        keep_tool_traffic: False shows the tool calls and results of the latest turn only; of
            earlier turns just what people and the assistant said.

    Raises:
        ConfigError: A value is of the wrong type or out of range, or the reply, the tools and the
            parts that were given leave nothing of `max_tokens`.

    Example:
        ContextBudget(8_000, reserve_reply=1_000, clear_tool_results={"search": 3})
    """

    max_tokens: int = None  # type: ignore[assignment]  # an int once built
    reserve_reply: int = field(default=0, kw_only=True)
    summary_tokens: int | None = field(default=None, kw_only=True)
    recall_tokens: int | None = field(default=None, kw_only=True)
    low_water: float = field(default=0.6, kw_only=True)
    tools: Sequence[Any] = field(default=(), kw_only=True)
    model: str | Runnable[Any, Any] = field(default="gpt-4o", kw_only=True)
    counter: MessageCounter | None = field(default=None, kw_only=True)
    on_overflow: Literal["raise", "shorten_tools"] = field(default="raise", kw_only=True)
    clear_tool_results: int | Mapping[str, int] | None = field(default=None, kw_only=True)
    keep_tool_traffic: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.tools, str | bytes) or not isinstance(self.tools, Sequence):
            raise ConfigError(f"tools are a list of tools, got {self.tools!r}")
        if not isinstance(self.model, str):
            self._resolve_model(self.model)
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
        if self.counter is not None and not callable(self.counter):
            raise ConfigError(f"counter is a function from messages to tokens: {self.counter!r}")
        if self.on_overflow not in ("raise", "shorten_tools"):
            raise ConfigError(
                f'on_overflow is "raise" or "shorten_tools", got {self.on_overflow!r}'
            )
        self._check_tool_rules()
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

    def _resolve_model(self, model: Any) -> None:
        """Put the name, the window and the bound tools of a chat model in place of it."""
        while not isinstance(model, BaseChatModel) and isinstance(model, Runnable):
            if isinstance(model, RunnableBinding) and not self.tools:
                object.__setattr__(self, "tools", tuple(model.kwargs.get("tools") or ()))
            # Bindings and retries name what they wrap `bound`, fallbacks `runnable`.
            model = getattr(model, "bound", None) or getattr(model, "runnable", None)
        if not isinstance(model, BaseChatModel):
            raise ConfigError(
                f"model names the encoding to count with, or is a chat model, got {self.model!r}"
            )
        name = getattr(model, "model_name", None) or getattr(model, "model", None)
        if self.max_tokens is None:
            profile = getattr(model, "profile", None) or {}  # type: ignore[unreachable]  # None, if not given
            window = profile.get("max_input_tokens")
            if window is None:
                raise ConfigError(
                    f"max_tokens is not given, and the profile of {name or type(model).__name__!r} "
                    "does not say how many tokens it takes"
                )
            object.__setattr__(self, "max_tokens", window)
        object.__setattr__(self, "model", name if isinstance(name, str) else "gpt-4o")

    def _check_tool_rules(self) -> None:
        rule = self.clear_tool_results
        kept = rule.items() if isinstance(rule, Mapping) else [("", rule)]
        for tool, number in kept if rule is not None else ():
            if type(number) is not int or number < 0 or not isinstance(tool, str):
                raise ConfigError(
                    "clear_tool_results is how many results to keep, or that per name of a tool "
                    f'like {{"search": 3}}, got {rule!r}'
                )
        if not isinstance(self.keep_tool_traffic, bool):
            raise ConfigError(f"keep_tool_traffic is a bool, got {self.keep_tool_traffic!r}")

    @cached_property
    def tool_rules(self) -> Mapping[str, int]:
        """How many results to keep, per name of a tool; "*" stands for those without a rule."""
        rule = self.clear_tool_results
        return rule if isinstance(rule, Mapping) else {} if rule is None else {"*": rule}

    @cached_property
    def tokens(self) -> TokenCounter:
        """The counter of the model's encoding."""
        assert isinstance(self.model, str)  # noqa: S101 - since __post_init__
        return TokenCounter.for_model(self.model)

    @cached_property
    def _own_counts(self) -> Recent:
        return Recent()

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy in another process starts from: no caches."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}

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
    def summary_limit(self) -> int:
        """The most tokens of a summary."""
        return self._quarter if self.summary_tokens is None else self.summary_tokens

    @property
    def recall_limit(self) -> int:
        """The most tokens of recalled facts."""
        return self._quarter if self.recall_tokens is None else self.recall_tokens

    @property
    def _quarter(self) -> int:
        # A large reserve leaves a prompt of which a quarter of max_tokens would be too much.
        return min(self.max_tokens, self.high) // 4

    @property
    def least(self) -> int:
        """The fewest tokens that any human message takes; 0 if that is not known."""
        return 0 if self.counter is not None else PER_MESSAGE + 1

    def count(self, messages: Sequence[BaseMessage]) -> int:
        """Return the tokens of messages sent as one prompt.

        Raises:
            ConfigError: The given counter returns something else than a number of tokens.
        """
        if self.counter is None:
            return self.tokens.messages(messages)
        counted = self.counter(list(messages))
        try:
            tokens = index(counted)
        except TypeError:
            tokens = -1
        if tokens < 0:
            raise ConfigError(f"counter is to return a number of tokens, and returned {counted!r}")
        return tokens

    def fixed(self, messages: Sequence[BaseMessage]) -> int:
        """Return the tokens of a prompt of these messages, to which the sizes of others add."""
        if self.counter is None:
            return sum(self.tokens.sizes(messages)) + PER_REPLY
        return self.count(messages) if messages else 0

    def sizes(self, messages: Sequence[BaseMessage]) -> list[int]:
        """Return what each message adds to a prompt."""
        if self.counter is None:
            return self.tokens.sizes(messages)
        return [self.count_one(message) for message in messages]

    def count_one(self, message: BaseMessage) -> int:
        """Return what one message adds to a prompt."""
        if self.counter is None:
            return self.tokens.message(message)
        key = identity(message)
        return self._own_counts.remember(key, message, lambda one: self.count([one]))

    def count_text(self, text: str) -> int:
        """Return the tokens of a text."""
        return self.tokens.text(text) if self.counter is None else self.count([HumanMessage(text)])
