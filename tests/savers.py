"""The five savers, and what the tests of checkpoints look at in them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.checkpoint.sqlite.aio import AsyncSqliteSaver

SYNC = ("memory", "sqlite", "postgres")
ASYNC = (*SYNC, "async sqlite", "async postgres")


@contextmanager
def sync_saver(kind: str, place: Path, dsn: str) -> Iterator[Any]:
    """Open a saver; `place` is where SQLite keeps its file."""
    if kind == "memory":
        yield InMemorySaver()
    elif kind == "sqlite":
        with SqliteSaver.from_conn_string(str(place)) as sqlite:
            sqlite.setup()
            yield sqlite
    else:
        with PostgresSaver.from_conn_string(dsn) as postgres:
            postgres.setup()
            yield postgres


@asynccontextmanager
async def async_saver(kind: str, place: Path, dsn: str) -> AsyncIterator[Any]:
    """Open a saver that runs on this event loop, or one that `aprune` takes as well."""
    if kind == "async sqlite":
        async with AsyncSqliteSaver.from_conn_string(str(place)) as sqlite:
            await sqlite.setup()
            yield sqlite
    elif kind == "async postgres":
        async with AsyncPostgresSaver.from_conn_string(dsn) as postgres:
            await postgres.setup()
            yield postgres
    else:
        with sync_saver(kind, place, dsn) as saver:
            yield saver


def rows(saver: Any) -> dict[str, list[tuple[Any, ...]]]:
    """Return the keys of all rows: "checkpoints", "writes" and "blobs"."""
    if isinstance(saver, InMemorySaver):
        return {
            "checkpoints": sorted(
                (thread, ns, i)
                for thread, spaces in saver.storage.items()
                for ns, stored in spaces.items()
                for i in stored
            ),
            "writes": sorted(
                (*place, *key) for place, stored in saver.writes.items() for key in stored
            ),
            "blobs": sorted(map(tuple, saver.blobs)),
        }
    key = "thread_id, checkpoint_ns, checkpoint_id"
    if isinstance(saver, SqliteSaver):
        with saver.cursor() as cursor:
            return {
                "checkpoints": sorted(cursor.execute(f"SELECT {key} FROM checkpoints")),
                "writes": sorted(cursor.execute(f"SELECT {key}, task_id, idx FROM writes")),
                "blobs": [],
            }
    queries = {
        "checkpoints": f"SELECT {key} FROM checkpoints",
        "writes": f"SELECT {key}, task_id, idx FROM checkpoint_writes",
        "blobs": "SELECT thread_id, checkpoint_ns, channel, version FROM checkpoint_blobs",
    }
    with saver._cursor() as cursor:
        return {
            name: sorted(tuple(row.values()) for row in cursor.execute(query).fetchall())
            for name, query in queries.items()
        }


def orphans(saver: Any) -> list[tuple[Any, ...]]:
    """Return the writes without a checkpoint and the values that no checkpoint refers to."""
    stored = rows(saver)
    there = set(stored["checkpoints"])
    used = {
        (
            found.config["configurable"]["thread_id"],
            found.config["configurable"]["checkpoint_ns"],
            channel,
            version,
        )
        for found in list(saver.list(None))
        for channel, version in found.checkpoint["channel_versions"].items()
    }
    lost = [write for write in stored["writes"] if write[:3] not in there]
    return lost + [blob for blob in stored["blobs"] if blob not in used]
