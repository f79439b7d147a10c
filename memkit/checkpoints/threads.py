"""Which threads one call goes through, page by page."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from memkit.checkpoints.backend import Backend
from memkit.effects import Body
from memkit.errors import ConfigError

Progress: TypeAlias = Callable[[int, int], None]
"""Is told how many threads are done, and how many there were when the call began."""

_PAGE = 100


def asked(thread_ids: Iterable[str] | None) -> list[str] | None:
    """Return the ids of the threads that are asked for, each once; None for all."""
    if isinstance(thread_ids, str):
        raise ConfigError(f"thread_ids is a list of ids, got the string {thread_ids!r}")
    return None if thread_ids is None else list(dict.fromkeys(map(str, thread_ids)))


class Threads:
    """The threads of a saver, or those that are asked for."""

    def __init__(self, tables: Backend, thread_ids: list[str] | None) -> None:
        self._tables = tables
        self._ids = thread_ids
        self._taken = 0
        self._after = ""

    def page(self) -> Body[list[str]]:
        """Return the next ones; an empty list at the end."""
        if self._ids is not None:
            page = self._ids[self._taken : self._taken + _PAGE]
            self._taken += len(page)
            return page
        script = partial(self._tables.threads, self._after, _PAGE)
        found: list[str] = yield self._tables.transaction(script, reading=True)
        if found:
            self._after = found[-1]
        return found

    def count(self) -> Body[int]:
        """Return how many there are; nothing but their ids is read."""
        if self._ids is not None:
            return len(self._ids)
        ahead = Threads(self._tables, None)
        count = 0
        while page := (yield from ahead.page()):
            count += len(page)
        return count
