"""Which texts of a value are indexed, under which path, and in which language."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from langgraph.store.base import get_text_at_path, tokenize_path

from memkit.errors import ConfigError
from memkit.store.values import words


@dataclass(frozen=True, slots=True)
class Languages:
    """The text search configurations of a server, and the one that a store takes by default."""

    default: str
    known: frozenset[str]

    def of(self, language: str | None) -> str:
        """Return the language of an item: the default where it names none that is known."""
        return language if language in self.known else self.default

    def checked(self, language: str | None) -> str:
        """Return the language that a search asks for.

        Raises:
            ConfigError: The server has no such configuration.
        """
        if language is not None and language not in self.known:
            msg = (
                f"the server knows no text search language {language!r}; it has "
                f"{', '.join(sorted(self.known))}"
            )
            raise ConfigError(msg)
        return language or self.default


def passages(value: Mapping[str, Any], fields: Sequence[str]) -> dict[str, str]:
    """Return the texts of a value by path: "text", or "text.0", "text.1" where there are several.

    Args:
        value: The item's value.
        fields: Paths as in LangGraph's IndexConfig; "$" is the whole value.
    """
    found: dict[str, str] = {}
    for field in fields:
        texts = get_text_at_path(value, field if field == "$" else tokenize_path(field))
        for i, text in enumerate(texts):
            found[words(f"{field}.{i}" if len(texts) > 1 else field)] = words(text)
    return found
