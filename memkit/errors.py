"""Every exception that memkit raises on purpose.

A message says what happened, with which value, and what to do next. The docstring of a class is
its message where none is given.
"""

import inspect
from typing import Any


class MemkitError(Exception):
    """Something in memkit went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


def kind_of(error: BaseException) -> str:
    """Return what an error is, without its message, which may quote what people said.

    Returns:
        The name of its class, and the HTTP status that a provider answered: "RateLimitError 429".
    """
    status = getattr(error, "status_code", None)
    name = type(error).__name__
    return f"{name} {status}" if isinstance(status, int) else name


class ConfigError(MemkitError, ValueError):
    """A setting, a state key or a data file is missing or cannot be used."""


class BudgetTooSmall(MemkitError, ValueError):
    """What must be kept (system messages, the latest turn) does not fit the token budget."""


class StoreMissing(MemkitError):
    """The graph has no store; compile it with builder.compile(store=...)."""


class StoreError(MemkitError):
    """The store could not do what was asked.

    Nothing of the batch was written, unless the message says that the connection broke while it
    committed: then all of it was, or nothing.
    """


class CommitUnknown(StoreError):
    """The connection broke while it committed: all was written, or nothing."""


class DimensionMismatch(StoreError):
    """The embeddings have another number of dimensions than the vectors in the store."""


class MigrationError(StoreError):
    """The tables of the store are missing, or differ from what this version of memkit expects."""


class VersionConflict(StoreError):
    """The item was changed by someone else since it was read."""


class PruneUnsafe(MemkitError):
    """Pruning would leave a thread that cannot be resumed; nothing of it was removed.

    `report` says what was done to the other threads.
    """

    def __init__(self, message: str | None = None, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class CopyFailed(MemkitError):
    """Some threads could not be copied, or did not read back the same.

    `report` says what was copied of the others.
    """

    def __init__(self, message: str | None = None, report: Any = None) -> None:
        super().__init__(message)
        self.report = report


class CopyConflict(CopyFailed):
    """The target has something else where a thread is to go; nothing of it was overwritten."""
