"""Facts with a model: the question put to it, and what of its answer is believed. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from pydantic import BaseModel, Field, ValidationError

from memkit import prompts
from memkit.messages import speaker_of, text_of
from memkit.words import content_words

GROUNDED_SHARE = 0.6
"""Share of a fact's content words that must stand in the messages it cites. Small models invent
facts; at this share most inventions go and few true facts do (measured with 0.5-1.5B models)."""


class ProposedFact(BaseModel):
    """One fact as the model states it."""

    text: str = Field(description="One plain sentence in the third person.")
    kind: str = Field(default="statement", description="One word, e.g. address or preference.")
    attribute: str | None = Field(default=None, description="Only if single-valued.")
    message_ids: list[str] = Field(description="Ids of the messages that state it.")


class ProposedFacts(BaseModel):
    """All facts that the new messages state."""

    facts: list[ProposedFact]


class UnreadableReply(Exception):
    """A model's reply that does not hold a list of facts."""


def question(messages: Sequence[tuple[str, BaseMessage]], user: str) -> list[BaseMessage]:
    """Return the prompt for messages given with their ids; tool traffic is left out."""
    lines = [
        f"[{i}] {speaker_of(m)}: {text_of(m)}"
        for i, (_, m) in enumerate(messages, 1)
        if text_of(m).strip()
    ]
    return [
        SystemMessage(prompts.fill("extract", user=user)),
        HumanMessage("Messages:\n" + "\n".join(lines)),
    ]


def read_reply(reply: Any) -> list[ProposedFact]:
    """Return the facts of a reply: parsed output, or a message whose text holds the JSON.

    Raises:
        UnreadableReply: There is no such JSON in it.
    """
    if isinstance(reply, ProposedFacts):
        return reply.facts
    text = text_of(reply) if isinstance(reply, BaseMessage) else reply
    try:
        if isinstance(text, Mapping):
            return ProposedFacts.model_validate(text).facts
        match = re.search(r"[\[{].*[\]}]", str(text), re.DOTALL)
        data = json.loads(match[0]) if match else None
        return ProposedFacts.model_validate(
            {"facts": data} if isinstance(data, list) else data
        ).facts
    except (ValidationError, ValueError, TypeError) as error:
        raise UnreadableReply(f"no list of facts in {str(text)[:120]!r}") from error


def grounded(
    fact: ProposedFact, cited: Sequence[BaseMessage], share: float = GROUNDED_SHARE
) -> bool:
    """Return whether a fact stands in the human messages that it cites."""
    said: set[str] = set()
    for message in cited:
        if isinstance(message, HumanMessage):
            said |= content_words(text_of(message)) | content_words(speaker_of(message))
    meant = content_words(fact.text)
    return bool(meant) and len(meant & said) >= share * len(meant)
