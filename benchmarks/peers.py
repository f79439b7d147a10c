"""Other ways to fit a conversation into a budget, each as a session of one conversation.

LangMem's SummarizationNode and LangChain's SummarizationMiddleware have their defaults, and where
no model is given one that answers at once with a fixed summary.
"""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Protocol

from langchain_core.language_models import BaseChatModel
from langchain_core.language_models.fake_chat_models import FakeListChatModel
from langchain_core.messages import BaseMessage, trim_messages
from langgraph.runtime import Runtime
from pydantic import Field

from memkit.errors import ConfigError

LANGMEM, MIDDLEWARE = "LangMem node", "LangChain middleware"

SUMMARY = "The customer asked about orders, parcels and invoices; all was answered so far."

Session = Callable[[list[BaseMessage]], Sequence[BaseMessage]]
"""One conversation with a system: takes the whole history and returns what the model would see.

What it carries from turn to turn it replaces and never changes, so that a shallow copy of a session
goes on by itself.
"""


class InstantModel(FakeListChatModel):
    """Answers at once with the same text, and counts how often it is asked."""

    responses: list[str] = Field(default=[SUMMARY])
    calls: int = 0

    def _call(self, *args: Any, **kwargs: Any) -> str:
        self.calls += 1
        return super()._call(*args, **kwargs)


class Peer(Protocol):
    """Begins a conversation at a budget in tokens."""

    def __call__(self, max_tokens: int, model: BaseChatModel | None = None) -> Session:
        """Return the session; without a model it gets one that answers with SUMMARY."""


class LangMemNode:
    """LangMem's SummarizationNode, its context fed back."""

    def __init__(self, max_tokens: int, model: BaseChatModel | None = None) -> None:
        self._node = import_module("langmem.short_term").SummarizationNode(
            model=model or InstantModel(), max_tokens=max_tokens
        )
        self._context: Any = {}

    def __call__(self, history: list[BaseMessage]) -> Sequence[BaseMessage]:
        """Return the messages behind the node."""
        update = self._node.invoke({"messages": history, "context": self._context})
        self._context = update.get("context", self._context)
        return update["summarized_messages"]  # type: ignore[no-any-return]


class LangChainMiddleware:
    """LangChain's SummarizationMiddleware, which rewrites the history itself."""

    def __init__(self, max_tokens: int, model: BaseChatModel | None = None) -> None:
        self._middleware = import_module("langchain.agents.middleware").SummarizationMiddleware(
            model or InstantModel(), trigger=("tokens", max_tokens)
        )
        self._kept: list[BaseMessage] = []
        self._seen = 0

    def __call__(self, history: list[BaseMessage]) -> Sequence[BaseMessage]:
        """Return the history as it is rewritten."""
        self._kept = [*self._kept, *history[self._seen :]]
        self._seen = len(history)
        update = self._middleware.before_model({"messages": self._kept}, Runtime())
        if update is not None:
            self._kept = update["messages"][1:]  # behind the message that removes all others
        return list(self._kept)


def last_tokens(counter: Any, max_tokens: int, *, start_on: str | None = None) -> Session:
    """Return a session of langchain-core's `trim_messages`, which keeps nothing between turns."""

    def view(history: list[BaseMessage]) -> Sequence[BaseMessage]:
        return trim_messages(
            history,
            max_tokens=max_tokens,
            token_counter=counter,
            strategy="last",
            include_system=True,
            start_on=start_on,
        )

    return view


def installed_peers(*, quick: bool) -> dict[str, Peer]:
    """Return the two summarizers by name.

    Args:
        quick: Leave out one that is not installed, and say so.

    Raises:
        ConfigError: One is not installed.
    """
    found: dict[str, Peer] = {}
    summarizers: dict[str, Peer] = {LANGMEM: LangMemNode, MIDDLEWARE: LangChainMiddleware}
    for name, peer in summarizers.items():
        try:
            peer(4_000)
        except ModuleNotFoundError as error:
            if not quick:
                raise ConfigError(
                    f"{error.name} is not installed: pip install 'memkit[bench]', or pass --quick "
                    "to leave it out"
                ) from None
            print(f"--quick: without {name}: {error.name} is not installed", file=sys.stderr)
        else:
            found[name] = peer
    return found
