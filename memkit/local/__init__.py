"""Postgres, embeddings and a chat model for a machine that has none of them (extra `local`).

Every part is imported on first use, and a missing package is a ConfigError that names the extra.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from memkit.local._embeddings import embeddings
    from memkit.local._llama import chat_model
    from memkit.local._postgres import postgres

__all__ = ["chat_model", "embeddings", "postgres"]

_HOMES = {"postgres": "_postgres", "embeddings": "_embeddings", "chat_model": "_llama"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
