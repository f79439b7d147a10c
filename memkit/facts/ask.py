"""Facts with a model: the question put to it, and how its answer is read. Pure."""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from operator import or_
from typing import Annotated, Any

from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, create_model

from memkit import prompts
from memkit.errors import ConfigError
from memkit.facts.model import SINGLE_VALUED, Fact
from memkit.messages import speaker_of, text_of

_KINDS = (
    "name", "address", "contact", "job", "family", "allergy", "preference", "plan", "order",
    "statement",
)  # fmt: skip


def _ids(value: Any) -> Any:
    """Take numbers for ids, and one id for a list of one: models write both."""
    found = value if isinstance(value, list) else [value]
    return [str(i).strip("[]() ") for i in found]


def _text(value: Any) -> Any:
    """Take an empty text, or the word for one, for none; models fill every field."""
    if isinstance(value, str) and value.strip().lower() in {"", "null", "none", "n/a"}:
        return None
    return value


MaybeText = Annotated[str | None, BeforeValidator(_text)]
Ids = Annotated[list[str], BeforeValidator(_ids)]


class ProposedFact(BaseModel):
    """One fact as the model states it."""

    text: str = Field(description="One plain sentence in the third person.")
    kind: MaybeText = Field(default=None, description="One word, e.g. address or preference.")
    subject: MaybeText = Field(default=None, description="Whom it is about.")
    attribute: MaybeText = Field(default=None, description="Only if single-valued.")
    valid_from: MaybeText = Field(default=None, description="Since when it holds: an ISO date.")
    valid_to: MaybeText = Field(default=None, description="Until when it held: an ISO date.")
    message_ids: Ids = Field(description="Ids of the messages that state it.")
    replaces: MaybeText = Field(default=None, description="Id of the known fact it outdates.")


class Retraction(BaseModel):
    """A known fact that the person takes back."""

    known_id: str = Field(description="Id of the known fact.")
    message_ids: Ids = Field(description="Ids of the messages that take it back.")
    was_true: bool = Field(default=True, description="False if it never was true.")


class ProposedFacts(BaseModel):
    """All facts that the new messages state, and those that they take back."""

    facts: list[ProposedFact]
    retracted: list[Retraction] = []


class UnreadableReply(Exception):
    """A model's reply that does not hold a list of facts."""


@dataclass(frozen=True)
class Said:
    """A message of the batch.

    Attributes:
        id: Its id, see `memkit.messages.id_of`.
        message: The message.
        at: When it was said.
        citable: Whether a person said it, so that facts may cite it.
        answers: Whether it follows a question, and so need not say "I".
    """

    id: str
    message: BaseMessage
    at: datetime
    citable: bool
    answers: bool = False


class Schemas:
    """The kinds that users declare as pydantic classes: a fact of such a kind carries its fields.

    The name of a class in snake_case is the kind, its docstring tells the model what it is. With
    `single_valued: ClassVar[bool] = True` a new fact of the kind supersedes the current one.

    Args:
        classes: Pydantic models.

    Raises:
        ConfigError: One of them is no pydantic model, or two have one name.
    """

    def __init__(self, classes: Sequence[type[BaseModel]] = ()) -> None:
        for each in classes:
            if not isinstance(each, type) or not issubclass(each, BaseModel):
                raise ConfigError(f"a schema is a class derived from BaseModel, got {each!r}")
        self.by_kind = {_kind(each): each for each in classes}
        if len(self.by_kind) < len(classes):
            raise ConfigError(f"two schemas have one name: {[c.__name__ for c in classes]}")
        self.single_valued = SINGLE_VALUED | {
            kind for kind, each in self.by_kind.items() if getattr(each, "single_valued", False)
        }
        self.reply = self._reply().model_json_schema()

    def _reply(self) -> type[BaseModel]:
        if not self.by_kind:
            return ProposedFacts
        details = reduce(or_, self.by_kind.values(), None)
        asked = Field(default=None, description="The fields of the kind, where it has any.")
        fact = create_model(
            "ProposedFact", __base__=ProposedFact, details=(details, asked), __doc__="One fact."
        )
        return create_model(
            "ProposedFacts",
            __base__=ProposedFacts,
            __doc__=ProposedFacts.__doc__,
            facts=(list[fact], ...),  # type: ignore[valid-type]
        )

    def describe(self) -> str:
        """Return the kinds, and of those with fields what they are for."""
        told = [", ".join((*_KINDS[:-1], *self.by_kind)) + f" or {_KINDS[-1]}"]
        for kind, each in self.by_kind.items():
            doc = " ".join((each.__doc__ or "").split())
            fields = ", ".join(each.model_fields)
            told.append(f"  `{kind}`: {doc} Its `details` are {fields}.")
        return "\n".join(told)

    def details(self, kind: str, value: Any) -> dict[str, Any]:
        """Return the fields of a fact, checked by the class of its kind.

        Raises:
            ValidationError: They are not those of the class.
        """
        schema = self.by_kind.get(kind)
        if schema is None:
            return {}
        return schema.model_validate(value).model_dump(mode="json")


def _kind(schema: type[BaseModel]) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", schema.__name__).lower()


def extraction_prompt(
    said: Sequence[Said], *, user: str, known: Sequence[Fact] = (), schemas: Schemas | None = None
) -> list[BaseMessage]:
    """Return the prompt: the messages by number, with their dates, and known facts as K1, K2."""
    schemas = schemas or Schemas()
    parts = []
    if known:
        lines = [f"[K{n}] {_one_line(fact.text)}" for n, fact in enumerate(known, 1)]
        parts.append("Known facts:\n" + "\n".join(lines))
    lines = [
        f"[{n}] ({each.at:%Y-%m-%d, %A}) {speaker_of(each.message)}: {text_of(each.message)}"
        for n, each in enumerate(said, 1)
        if text_of(each.message).strip()
    ]
    parts.append("Messages:\n" + "\n".join(lines))
    system = prompts.fill(
        "extract",
        user=user,
        kinds=schemas.describe(),
        attributes=", ".join(sorted(schemas.single_valued)),
    )
    return [SystemMessage(system), HumanMessage("\n\n".join(parts))]


def _one_line(text: str) -> str:
    return " ".join(text.split())


def in_text(schemas: Schemas) -> BaseMessage:
    """Return the message that asks a model without structured output for JSON."""
    details = ', "details": {…} or null' if schemas.by_kind else ""
    return HumanMessage(
        'Answer with JSON only: {"facts": [{"text": …, "kind": …, "subject": …, '
        '"attribute": … or null, "valid_from": … or null, "valid_to": … or null, '
        f'"message_ids": […], "replaces": … or null{details}}}], '
        '"retracted": [{"known_id": …, "message_ids": […], "was_true": …}]}'
    )


@dataclass(frozen=True)
class Reply:
    """What a model answered: facts, their raw details, retractions, and how many made no sense."""

    facts: list[tuple[ProposedFact, Any]]
    retracted: list[Retraction]
    malformed: int


def read_reply(reply: Any) -> Reply:
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
            details = entry.get("details") if isinstance(entry, Mapping) else None
            facts.append((ProposedFact.model_validate(entry), details))
    retracted = []
    taken_back = data.get("retracted") if isinstance(data, Mapping) else None
    for entry in taken_back if isinstance(taken_back, list) else ():
        with suppress(ValidationError):
            retracted.append(Retraction.model_validate(entry))
    if entries and not facts:
        raise UnreadableReply(f"none of its entries is a fact: {str(entries)[:120]!r}")
    return Reply(facts, retracted, len(entries) - len(facts))


_THINKING = re.compile(r"<think>.*?</think>", re.DOTALL | re.IGNORECASE)


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


def cited(ids: Collection[str], said: Sequence[Said]) -> list[Said]:
    """Return the citable messages that a fact names by number or id, in their order.

    A number is the one that the prompt shows, also where messages have numbers for ids.
    """
    wanted = set(ids)
    return [
        each
        for n, each in enumerate(said, 1)
        if each.citable and ({str(n), "" if each.id.isdecimal() else each.id} & wanted)
    ]


def named(known_id: str | None, known: Sequence[Fact]) -> Fact | None:
    """Return the known fact that a model names as K1 or 1."""
    number = (known_id or "").strip("[]() Kk")
    if not number.isdecimal() or not 1 <= int(number) <= len(known):
        return None
    return known[int(number) - 1]
