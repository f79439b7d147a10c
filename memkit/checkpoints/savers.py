"""Which savers are known, and what their tables are."""

import sys
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from memkit.checkpoints.backend import Backend
from memkit.checkpoints.memory import MemoryTables
from memkit.checkpoints.postgres import PostgresTables
from memkit.checkpoints.sqlite import SqliteTables
from memkit.errors import ConfigError

# The savers are other packages: whoever has an object of theirs has imported its module.
_SAVERS: tuple[tuple[str, str, Any, bool], ...] = (
    ("langgraph.checkpoint.postgres", "PostgresSaver", PostgresTables, False),
    ("langgraph.checkpoint.postgres.aio", "AsyncPostgresSaver", PostgresTables, True),
    ("langgraph.checkpoint.sqlite", "SqliteSaver", SqliteTables, False),
    ("langgraph.checkpoint.sqlite.aio", "AsyncSqliteSaver", SqliteTables, True),
)


def tables_of(saver: Any, *, asynchronous: bool, twin: str | None = None) -> Backend:
    """Return the tables of a saver; async ones are for functions that run on an event loop.

    Args:
        saver: Any checkpointer.
        asynchronous: Whether the caller runs on an event loop.
        twin: What a caller that does not is told to use.

    Raises:
        ConfigError: The saver is not known, or works on an event loop only.
    """
    if isinstance(saver, InMemorySaver):
        return MemoryTables(saver)
    for module, name, tables, needs_loop in _SAVERS:
        known = getattr(sys.modules.get(module), name, None)
        if known is not None and isinstance(saver, known):
            if needs_loop and not asynchronous:
                instead = f"await {twin}(...)" if twin else "the async form of this function"
                raise ConfigError(f"an {name} works on an event loop; use {instead}")
            backend: Backend = tables(saver, asynchronous=needs_loop)
            return backend
    raise ConfigError(
        f"checkpoints of a {type(saver).__name__} are not known to memkit; known are "
        "PostgresSaver, SqliteSaver, their async forms and InMemorySaver. Nothing was touched"
    )
