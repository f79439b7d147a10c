"""Asking a chat model for facts: by JSON schema, by tool call where it lacks that, or in text."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langchain_core.runnables import RunnableConfig
from langgraph.errors import GraphBubbleUp

from memkit.effects import AskModel, Body
from memkit.errors import kind_of
from memkit.facts.ask import Reply, Schemas, UnreadableReply, in_text, read_reply

_METHODS = ("json_schema", "function_calling", "text")
# What says that this request is no good, not that the model cannot be reached just now.
_REFUSED = frozenset((400, 413, 422))


class NoReply(Exception):
    """A model gave no list of facts.

    Attributes:
        is_refusal: Whether it did answer, or refused these messages, so that asking the same again
            may never do.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(kind_of(error))
        refused = getattr(error, "status_code", None) in _REFUSED
        self.is_refusal = refused or isinstance(error, UnreadableReply)


class StructuredModel:
    """A chat model that is asked for facts, and what it was found to lack.

    Args:
        model: The chat model.
        schemas: The kinds with fields of their own.
    """

    def __init__(self, model: Any, schemas: Schemas) -> None:
        self.model = model
        self.schemas = schemas
        self._lacking: set[str] = set()

    def ask(self, prompt: Sequence[BaseMessage], config: RunnableConfig) -> Body[Reply]:
        """Return the answer to a prompt.

        Raises:
            NoReply: There is none that can be read.
        """
        try:
            return (yield from self._ask(prompt, config))
        except GraphBubbleUp:
            raise
        except Exception as error:  # whatever a model client raises, the turn goes on
            raise NoReply(error) from error

    def _ask(self, prompt: Sequence[BaseMessage], config: RunnableConfig) -> Body[Reply]:
        config = {**config, "tags": [*(config.get("tags") or []), "nostream"]}
        lacking: set[str] = set()
        for method in _METHODS:
            if method in self._lacking:
                continue
            try:
                answer = yield AskModel(*self._form(method, prompt), config)
            except Exception as error:
                if method == "text" or not _lacks_schemas(error):
                    raise
                lacking.add(method)
                continue
            if isinstance(answer, dict) and "raw" in answer:
                answer = answer.get("parsed") or answer["raw"]
            try:
                reply = read_reply(answer)
            except UnreadableReply:
                if method == "function_calling":
                    # Small models call no tool; the next turn asks for text.
                    self._lacking |= {*lacking, method}
                raise
            # What failed is known to be lacking once something else has worked.
            self._lacking |= lacking
            return reply
        raise AssertionError  # pragma: no cover - "text" returns or raises

    def _form(self, method: str, prompt: Sequence[BaseMessage]) -> tuple[Any, list[BaseMessage]]:
        if method == "text":
            return self.model, [*prompt, in_text(self.schemas)]
        structured = self.model.with_structured_output(
            self.schemas.reply, method=method, include_raw=True
        )
        return structured, list(prompt)


def _lacks_schemas(error: Exception) -> bool:
    """Return whether a model, or the server behind it, cannot answer by a JSON schema."""
    if getattr(error, "status_code", None) in (400, 404, 422):
        return True
    return isinstance(error, NotImplementedError | ValueError | TypeError | AttributeError)
