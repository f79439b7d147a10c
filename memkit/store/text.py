"""Which texts of a value are indexed, and under which path."""

from collections.abc import Mapping, Sequence
from typing import Any

from langgraph.store.base import get_text_at_path, tokenize_path

from memkit.store.values import words


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
