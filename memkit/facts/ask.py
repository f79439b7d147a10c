"""Facts with a model: the question put to it, and what of its answer is believed. Pure."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from memkit import prompts
from memkit.messages import speaker_of, text_of
from memkit.words import content_words

GROUNDED_SHARE = 0.6
"""Share of a fact's content words that must stand in the messages it cites. Small models invent
facts; at this share most inventions go and few true facts do (measured with 0.5-1.5B models)."""


def _ids(value: Any) -> Any:
    """Take numbers for ids, and one id for a list of one: models write both."""
    return [str(i) for i in value] if isinstance(value, list) else [str(value)]


class ProposedFact(BaseModel):
    """One fact as the model states it."""

    text: str = Field(description="One plain sentence in the third person.")
    kind: str | None = Field(default=None, description="One word, e.g. address or preference.")
    attribute: str | None = Field(default=None, description="Only if single-valued.")
    message_ids: Annotated[list[str], BeforeValidator(_ids)] = Field(
        description="Ids of the messages that state it."
    )


_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


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
    data = _json_of(text_of(reply)) if isinstance(reply, BaseMessage) else reply
    entries = data.get("facts") if isinstance(data, Mapping) else data
    if not isinstance(entries, list):
        raise UnreadableReply(f"no list of facts in {str(reply)[:120]!r}")
    facts = []
    for entry in entries:
        with suppress(ValidationError):
            facts.append(ProposedFact.model_validate(entry))
    if entries and not facts:
        raise UnreadableReply(f"none of its entries is a fact: {str(entries)[:120]!r}")
    return facts


def _json_of(text: str) -> Any:
    """Return the first JSON in a text that may hold a list of facts, else None."""
    text = _THINKING.sub("", text)
    decoder = json.JSONDecoder()
    for bracket in re.finditer(r"[\[{]", text):
        with suppress(ValueError):
            data, _ = decoder.raw_decode(text, bracket.start())
            if isinstance(data, list) or "facts" in data:
                return data
    return None


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
