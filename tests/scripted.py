"""Chat models that say what a test tells them to."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from pydantic import PrivateAttr

Answer = Callable[[Sequence[BaseMessage]], AIMessage]


class ScriptedModel(BaseChatModel):
    """Answers with `answer(messages)` and keeps every prompt; an exception in it is raised."""

    _answer: Answer = PrivateAttr()
    _prompts: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def __init__(self, answer: Answer | str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._answer = (lambda _: AIMessage(answer)) if isinstance(answer, str) else answer

    @property
    def prompts(self) -> list[list[BaseMessage]]:
        return self._prompts

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        """Take tools as chat models do, so that it can be an agent's."""
        return self

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        self._prompts.append(list(messages))
        return ChatResult(generations=[ChatGeneration(message=self._answer(messages))])


def facts_reply(*facts: dict[str, Any]) -> AIMessage:
    """A reply that holds facts as JSON."""
    return AIMessage(json.dumps({"facts": list(facts)}))
