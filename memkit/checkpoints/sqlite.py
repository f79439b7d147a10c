"""Checkpoints in SQLite: the two tables of SqliteSaver and AsyncSqliteSaver.

A checkpoint's row holds all its values, so a row is read whole only where a value is asked for.
"""

import json
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import ormsgpack
from langgraph.checkpoint.serde.types import TASKS

from memkit.checkpoints.backend import (
    AsyncExecute,
    ChannelFacts,
    Contents,
    Execute,
    Script,
    Sizes,
    Statement,
    StoredWrite,
    Tally,
    ThreadSize,
    Transaction,
    ValueKey,
    Whole,
    grouped,
    loaded,
)
from memkit.checkpoints.packed import joined, json_text, split
from memkit.checkpoints.policy import Blob, Key, SavedCheckpoint
from memkit.checkpoints.times import moment
from memkit.effects import Effect

_THREADS = """
SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id > ? ORDER BY thread_id LIMIT ?
"""
# Rows and bytes of each thread: the length of a value is known without reading it.
_SIZES = """
WITH asked AS (SELECT value AS thread_id FROM json_each(?1)),
counted AS (
    SELECT thread_id, 1 AS head, count(*) AS rows,
           coalesce(sum(length(checkpoint) + coalesce(length(metadata), 0)), 0) AS bytes
    FROM checkpoints WHERE ?1 IS NULL OR thread_id IN asked GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 0, count(*), coalesce(sum(length(value)), 0)
    FROM writes WHERE ?1 IS NULL OR thread_id IN asked GROUP BY thread_id
)
"""
_TABLE_SIZES = (
    _SIZES
    + """
SELECT coalesce(sum(rows) FILTER (WHERE head), 0), coalesce(sum(bytes) FILTER (WHERE head), 0),
       coalesce(sum(rows) FILTER (WHERE NOT head), 0),
       coalesce(sum(bytes) FILTER (WHERE NOT head), 0), count(DISTINCT thread_id)
FROM counted
"""
)
_LARGEST = (
    _SIZES
    + """
SELECT thread_id, coalesce(sum(rows) FILTER (WHERE head), 0), sum(rows), sum(bytes)
FROM counted GROUP BY thread_id ORDER BY sum(bytes) DESC, thread_id LIMIT ?2
"""
)
_PAGES = """
SELECT (SELECT page_count FROM pragma_page_count) * page_size,
       (SELECT freelist_count FROM pragma_freelist_count) * page_size
FROM pragma_page_size
"""
_CHECKPOINTS = """
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id, metadata, type,
       substr(checkpoint, 1, 80), length(checkpoint) + coalesce(length(metadata), 0)
FROM checkpoints WHERE thread_id = ?
"""
_CHECKPOINT = """
SELECT type, checkpoint FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_WHOLE = """
SELECT type, checkpoint, metadata, parent_checkpoint_id FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_PUT_WHOLE = """
INSERT OR IGNORE INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata)
VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_WRITES_PER_CHECKPOINT = """
SELECT checkpoint_ns, checkpoint_id, count(*), sum(length(value)), max(channel = ?)
FROM writes WHERE thread_id = ? GROUP BY checkpoint_ns, checkpoint_id
"""
_WRITES = """
SELECT task_path, task_id, idx, channel, type, value FROM writes
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_PUT_CHECKPOINT = """
UPDATE checkpoints SET type = ?, checkpoint = ?
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_PUT_WRITE = """
INSERT OR REPLACE INTO writes
    (thread_id, checkpoint_ns, checkpoint_id, task_path, task_id, idx, channel, type, value)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_RELINK = """
UPDATE checkpoints SET parent_checkpoint_id = ?
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_REMOVE = """
DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_REMOVE_WRITES = """
DELETE FROM writes WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""
_REMOVE_THREAD = (
    "DELETE FROM writes WHERE thread_id = ?",
    "DELETE FROM checkpoints WHERE thread_id = ?",
)
_ADD_CHECKPOINT = """
INSERT OR REPLACE INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, type, checkpoint, metadata)
VALUES (?, ?, ?, ?, ?, ?)
"""

# How a checkpoint begins as msgpack: a map, its "v", then its "ts" as a short string.
_HEAD = re.compile(
    rb"\A(?:[\x80-\x8f]|\xde..)\xa1v([\x00-\x7f])\xa2ts(?:[\xa0-\xbf]|\xd9.)"
    rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d))",
    re.DOTALL,
)


class SqliteTables:
    """The tables of a SqliteSaver or AsyncSqliteSaver, on its own connection."""

    inline = True
    advice = (
        "SQLite uses the room again for what comes; VACUUM gives it back to the disk, and locks "
        "the database while it copies it."
    )

    def __init__(self, saver: Any, *, asynchronous: bool) -> None:
        self.saver = saver
        self.name = type(saver).__name__
        self.asynchronous = asynchronous

    def transaction(self, script: Callable[[], Script[Any]], *, reading: bool = False) -> Effect:
        """Return the effect that runs a script in one transaction."""
        # One that is to write says so at once: if it had read first, and another process had
        # written since, it could not go on.
        begin = "BEGIN" if reading else "BEGIN IMMEDIATE"
        if self.asynchronous:
            return Transaction(script, None, lambda: self._abegin(begin))
        return Transaction(script, lambda: self._begin(begin))

    @contextmanager
    def _begin(self, begin: str) -> Iterator[Execute]:
        with self.saver.cursor() as cursor:
            cursor.execute(begin)
            try:
                yield lambda statement: _fetched(cursor, statement)
            except BaseException:
                cursor.execute("ROLLBACK")
                raise
            cursor.execute("COMMIT")

    @asynccontextmanager
    async def _abegin(self, begin: str) -> AsyncIterator[AsyncExecute]:
        await self.saver.setup()
        async with self.saver.lock, self.saver.conn.cursor() as cursor:

            async def execute(statement: Statement) -> list[Any]:
                if statement.many:
                    await cursor.executemany(statement.sql, statement.params)
                else:
                    await cursor.execute(statement.sql, statement.params)
                return list(await cursor.fetchall()) if statement.fetch else []

            await cursor.execute(begin)
            try:
                yield execute
            except BaseException:
                await cursor.execute("ROLLBACK")
                raise
            await cursor.execute("COMMIT")

    def threads(self, after: str, limit: int) -> Script[list[str]]:
        """Return the ids of the next threads, ascending."""
        rows = yield Statement(_THREADS, (after, limit))
        return [row[0] for row in rows]

    def sizes(self, largest: int, thread_ids: Sequence[str] | None) -> Script[Sizes]:
        """Count rows and bytes, of these threads or of all."""
        asked = None if thread_ids is None else json.dumps(list(thread_ids))
        totals = yield Statement(_TABLE_SIZES, (asked,))
        rows, size, writes, written, threads = totals[0]
        found = yield Statement(_LARGEST, (asked, largest))
        pages = yield Statement(_PAGES)
        return Sizes(
            {"checkpoints": Tally(rows, size), "writes": Tally(writes, written), "blobs": Tally()},
            dict(zip(("database", "free in it"), pages[0], strict=True)),
            threads,
            [ThreadSize(*row) for row in found],
        )

    def contents(self, thread_id: str) -> Script[Contents]:
        """Read what is stored of a thread; the transaction shuts out other prunings."""
        rows = yield Statement(_CHECKPOINTS, (thread_id,))
        counted = yield Statement(_WRITES_PER_CHECKPOINT, (TASKS, thread_id))
        writes = {(ns, i): Tally(count, size or 0) for ns, i, count, size, _ in counted}
        sending = {(ns, i) for ns, i, _, _, sends in counted if sends}
        checkpoints = []
        for ns, checkpoint_id, parent, metadata, kind, head, size in rows:
            tally = writes.pop((ns, checkpoint_id), Tally())
            begins = _HEAD.match(head) if kind == "msgpack" else None
            if begins:
                v, ts = begins[1][0], begins[2].decode()
            else:
                whole = yield from self._load(thread_id, ns, checkpoint_id)
                v, ts = int(whole.get("v", 4)), whole.get("ts")
            checkpoints.append(
                SavedCheckpoint(
                    ns=ns,
                    id=checkpoint_id,
                    parent=parent,
                    at=moment(ts, checkpoint_id),
                    metadata=json.loads(metadata) if metadata else {},
                    v=v,
                    bytes=size,
                    writes=tally.rows,
                    write_bytes=tally.bytes,
                    sends=(ns, checkpoint_id) in sending,
                )
            )
        return Contents(checkpoints, writes)

    def _load(
        self, thread_id: str, ns: str, checkpoint_id: str, *, to_write: bool = False
    ) -> Script[dict[str, Any]]:
        rows = yield Statement(_CHECKPOINT, (thread_id, ns, checkpoint_id))
        row: Any = tuple(rows[0])
        checkpoint: dict[str, Any] = (
            loaded(self.saver, row) if to_write else self.saver.serde.loads_typed(row)
        )
        return checkpoint

    def _outline(self, thread_id: str, ns: str, checkpoint_id: str) -> Script[dict[str, Any]]:
        """Read a checkpoint in which objects may be missing, and their names are not.

        A snapshot is one object of many messages, and making them is most of the work.
        """
        [(kind, stored)] = yield Statement(_CHECKPOINT, (thread_id, ns, checkpoint_id))
        if kind == "msgpack":
            outline: dict[str, Any] = ormsgpack.unpackb(
                stored, ext_hook=_no_object, option=ormsgpack.OPT_NON_STR_KEYS
            )
        else:
            outline = self.saver.serde.loads_typed((kind, stored))
        return outline

    def channels(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str]
    ) -> Script[dict[str, ChannelFacts]]:
        """Return per checkpoint what is known of these channels."""
        found = {}
        for checkpoint_id in ids:
            checkpoint = yield from self._outline(thread_id, ns, checkpoint_id)
            versions = checkpoint["channel_versions"]
            found[checkpoint_id] = ChannelFacts(
                {name: versions[name] for name in names if name in versions},
                frozenset(names).intersection(checkpoint.get("channel_values") or {}),
            )
        return found

    def values(
        self, thread_id: str, ns: str, checkpoint_id: str, names: Collection[str]
    ) -> Script[dict[str, Any]]:
        """Return the values that are stored at a checkpoint."""
        checkpoint = yield from self._load(thread_id, ns, checkpoint_id, to_write=True)
        return {name: checkpoint["channel_values"][name] for name in names}

    def writes(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str] | None
    ) -> Script[dict[str, list[StoredWrite]]]:
        """Return per checkpoint its writes to these channels (None: to all), in their order."""
        found = []
        for checkpoint_id in ids:
            rows = yield Statement(_WRITES, (thread_id, ns, checkpoint_id))
            found += [(checkpoint_id, StoredWrite(*row)) for row in rows]
        return grouped((i, write) for i, write in found if names is None or write.channel in names)

    def wholes(
        self, thread_id: str, ns: str, ids: Sequence[str], known: Collection[ValueKey]
    ) -> Script[list[Whole]]:
        """Read checkpoints with their values, but for those that are known."""
        found = []
        for checkpoint_id in ids:
            rows = yield Statement(_WHOLE, (thread_id, ns, checkpoint_id))
            for kind, stored, metadata, parent in rows:
                head, values = split(self.saver, (kind, stored), ns, known)
                described = json.loads(metadata) if metadata else {}
                found.append(Whole(ns, parent, head, described, values))
        return found

    def put_wholes(self, thread_id: str, wholes: Sequence[Whole]) -> Script[set[ValueKey]]:
        """Store checkpoints that are not there yet; what is there stays."""
        rows = [
            (
                thread_id,
                whole.ns,
                whole.id,
                whole.parent,
                *joined(self.saver, whole.head, whole.values),
                json_text(whole.metadata).encode(),
            )
            for whole in wholes
        ]
        yield Statement(_PUT_WHOLE, rows, fetch=False, many=True)
        return set()

    def put_values(
        self, thread_id: str, ns: str, checkpoint_id: str, values: Mapping[str, tuple[Any, Any]]
    ) -> Script[None]:
        """Store values at a checkpoint, in its row."""
        checkpoint = yield from self._load(thread_id, ns, checkpoint_id, to_write=True)
        checkpoint["channel_values"] = {
            **(checkpoint.get("channel_values") or {}),
            **{name: value for name, (_, value) in values.items()},
        }
        row = (*self.saver.serde.dumps_typed(checkpoint), thread_id, ns, checkpoint_id)
        yield Statement(_PUT_CHECKPOINT, row, fetch=False)

    def put_checkpoint(
        self, thread_id: str, ns: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> Script[None]:
        """Store a checkpoint that continues none and holds no values."""
        dumped = self.saver.serde.dumps_typed(dict(checkpoint))
        row = (thread_id, ns, checkpoint["id"], *dumped, json.dumps(metadata).encode())
        yield Statement(_ADD_CHECKPOINT, row, fetch=False)

    def put_writes(
        self, thread_id: str, ns: str, checkpoint_id: str, writes: Sequence[StoredWrite]
    ) -> Script[None]:
        """Add writes to a checkpoint."""
        rows = [(thread_id, ns, checkpoint_id, *write) for write in writes]
        yield Statement(_PUT_WRITE, rows, fetch=False, many=True)

    def relink(self, thread_id: str, parents: Mapping[Key, str | None]) -> Script[None]:
        """Let checkpoints continue others."""
        rows = [(parent, thread_id, *key) for key, parent in parents.items()]
        yield Statement(_RELINK, rows, fetch=False, many=True)

    def remove(self, thread_id: str, keys: Sequence[Key]) -> Script[None]:
        """Remove checkpoints with their writes."""
        yield from self.remove_writes(thread_id, keys)
        yield Statement(_REMOVE, [(thread_id, *key) for key in keys], fetch=False, many=True)

    def remove_writes(self, thread_id: str, keys: Sequence[Key]) -> Script[None]:
        """Remove the writes under these ids."""
        yield Statement(_REMOVE_WRITES, [(thread_id, *key) for key in keys], fetch=False, many=True)

    def remove_blobs(self, thread_id: str, blobs: Sequence[Blob]) -> Script[None]:
        """Remove values stored apart: there are none."""
        return
        yield thread_id, blobs  # type: ignore[unreachable] # makes it a script

    def remove_thread(self, thread_id: str, known: Collection[Key]) -> Script[None]:  # noqa: ARG002 - the transaction has shut out writers since it read them
        """Remove a thread of which these are all checkpoints."""
        for statement in _REMOVE_THREAD:
            yield Statement(statement, (thread_id,), fetch=False)


def _no_object(code: int, data: bytes) -> None:  # noqa: ARG001 - as ormsgpack calls it
    return None


def _fetched(cursor: Any, statement: Statement) -> list[Any]:
    if statement.many:
        cursor.executemany(statement.sql, statement.params)
    else:
        cursor.execute(statement.sql, statement.params)
    return cursor.fetchall() if statement.fetch else []
