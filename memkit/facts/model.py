"""A fact: one plain sentence about a person, with its dates and where it was said."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, get_args

from memkit.errors import ConfigError
from memkit.facts.sameness import canonical

Status = Literal["current", "superseded", "retracted"]
_STATUSES = get_args(Status)
_TEXTS = ("text", "kind", "subject", "attribute", "key")
_TIMES = ("first_seen", "last_updated", "last_confirmed", "valid_from", "valid_to")

SINGLE_VALUED = frozenset(
    {
        "home_address", "name", "job", "employer", "email", "phone", "birthday", "language",
        "marital_status",
    }
)  # fmt: skip
"""Attributes of which a person has one value at a time: a new one ends the old one."""


def to_utc(value: datetime | str) -> datetime:
    """Return a time in UTC; a string is ISO 8601, and one without an offset is taken as UTC.

    Raises:
        ConfigError: It is not a time.
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ConfigError(f"not an ISO 8601 time: {value!r}") from None
    if not isinstance(value, datetime):
        raise ConfigError(f"a time is a datetime or an ISO 8601 string, got {value!r}")
    try:
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except OverflowError:
        raise ConfigError(f"the time {value!r} is out of range in UTC") from None


def as_utc(value: datetime | str | None) -> datetime | None:
    """Return what `to_utc` does, and None for None."""
    return None if value is None else to_utc(value)


@dataclass(frozen=True)
class Fact:
    """What a person stated, and when.

    Attributes:
        text: One plain sentence.
        kind: One word: address, job, preference, statement, ...
        subject: Whom it is about: a speaker's name, or "user".
        attribute: What of the subject it tells, where that has a name ("home_address").
        confidence: From 0 to 1.
        status: "current", "superseded" (by a later fact) or "retracted" (by the person).
        first_seen: When it was first said.
        last_updated: When what it says was last changed.
        last_confirmed: When the person last said it again or confirmed it; never moved by a read.
        valid_from: Since when it holds, where known.
        valid_to: Until when it held, where known.
        supersedes: Key of the fact that it replaced.
        superseded_by: Key of the fact that replaced it.
        source: `{"thread_id", "message_ids", "checkpoint_id"}`.
        data: The fields of a schema of your own, JSON-native.
        key: Key of the store item.

    Times may be given as `datetime` or ISO 8601 strings; they are kept as `datetime` in UTC.
    """

    text: str
    kind: str = "statement"
    subject: str = "user"
    attribute: str | None = None
    confidence: float = 1.0
    status: Status = "current"
    first_seen: datetime | None = None
    last_updated: datetime | None = None
    last_confirmed: datetime | None = None
    valid_from: datetime | None = None
    valid_to: datetime | None = None
    supersedes: str | None = None
    superseded_by: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Any] = field(default_factory=dict)
    key: str = ""

    def __post_init__(self) -> None:
        attribute = "" if self.attribute is None else self.attribute
        texts = (self.text, self.kind, self.subject, attribute, self.key)
        if set(map(type, texts)) != {str}:  # the quick look, for recall makes many
            for name, text in zip(_TEXTS, texts, strict=True):
                if not isinstance(text, str):
                    raise ConfigError(f"{name} of a fact is a text, got {text!r}")
        if not self.text.strip():
            raise ConfigError("a fact needs a text")
        if not 0 <= self.confidence <= 1:
            raise ConfigError(f"confidence is from 0 to 1, got {self.confidence!r}")
        if self.status not in _STATUSES:
            raise ConfigError(f"status is one of {_STATUSES}, got {self.status!r}")
        for name, mapping in (("source", self.source), ("data", self.data)):
            if type(mapping) is not dict and not isinstance(mapping, Mapping):
                raise ConfigError(f"{name} is a mapping, got {mapping!r}")
        for name in _TIMES:
            if (time := getattr(self, name)) is not None:
                object.__setattr__(self, name, to_utc(time))

    @cached_property
    def words(self) -> str:
        """What the text says, in canonical words: equal for two ways of saying it."""
        return canonical(self.text, self.subject)

    @property
    def message_ids(self) -> list[str]:
        """Ids of the messages that say so."""
        return list(self.source.get("message_ids") or [])

    def to_value(self) -> dict[str, Any]:
        """Return the value of the store item, JSON-native, with times as ISO 8601 in UTC."""
        value = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "key"}
        for name in _TIMES:
            value[name] = value[name].isoformat() if value[name] else None
        value["source"], value["data"] = dict(self.source), dict(self.data)
        # What a statement is found by, however it is worded.
        value["words"] = self.words
        return value

    @classmethod
    def from_value(cls, key: str, value: Mapping[str, Any]) -> "Fact":
        """Return the fact that a store item holds; unknown fields of the value are left aside.

        Raises:
            ConfigError: The value is not that of a fact.
        """
        try:
            return cls(key=key, **{k: v for k, v in value.items() if k in _STORED})
        except (TypeError, AttributeError, ValueError) as error:
            raise ConfigError(f"the item {key!r} is not a fact: {error}") from error

    def changed(self, **changes: Any) -> "Fact":
        """Return a copy with some fields changed."""
        return replace(self, **changes)


_STORED = frozenset(f.name for f in fields(Fact)) - {"key"}


def same_statement(a: Fact, b: Fact) -> bool:
    """Return whether two facts say the same thing of the same subject, however it is worded.

    Meaning is not compared: "likes coffee" and "hates coffee" are close neighbours by meaning.
    """
    return (a.subject, a.words) == (b.subject, b.words)
