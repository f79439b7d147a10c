"""Checkpoints in Postgres: the three tables of PostgresSaver and AsyncPostgresSaver."""

import json
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from langgraph.checkpoint.serde.types import TASKS

from memkit.checkpoints.backend import (
    AsyncExecute,
    ChannelFacts,
    Contents,
    Execute,
    InUse,
    Script,
    Sizes,
    Statement,
    StoredWrite,
    Tally,
    ThreadSize,
    Transaction,
    ValueKey,
    Whole,
    by_namespace,
    grouped,
    loaded,
)
from memkit.checkpoints.packed import as_json, is_snapshot, json_text
from memkit.checkpoints.policy import Blob, Key, SavedCheckpoint
from memkit.checkpoints.times import moment
from memkit.effects import Effect
from memkit.errors import ConfigError

# An arbitrary number that keeps these advisory locks apart from those of others.
_LOCK_SEED = 20_261_123

_THREADS = """
SELECT DISTINCT thread_id FROM checkpoints WHERE thread_id > %s ORDER BY thread_id LIMIT %s
"""
# `pg_column_size` tells what a value takes without reading it.
_SIZES = """
WITH counted AS (
    SELECT thread_id, 'checkpoints' AS name, count(*) AS rows,
           coalesce(sum(pg_column_size(checkpoint) + pg_column_size(metadata)), 0) AS bytes
    FROM checkpoints WHERE %(ids)s::text[] IS NULL OR thread_id = ANY(%(ids)s::text[])
    GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 'writes', count(*), coalesce(sum(pg_column_size(blob)), 0)
    FROM checkpoint_writes WHERE %(ids)s::text[] IS NULL OR thread_id = ANY(%(ids)s::text[])
    GROUP BY thread_id
    UNION ALL
    SELECT thread_id, 'blobs', count(*), coalesce(sum(pg_column_size(blob)), 0)
    FROM checkpoint_blobs WHERE %(ids)s::text[] IS NULL OR thread_id = ANY(%(ids)s::text[])
    GROUP BY thread_id
), largest AS (
    SELECT thread_id, coalesce(sum(rows) FILTER (WHERE name = 'checkpoints'), 0) AS checkpoints,
           sum(rows) AS rows, sum(bytes) AS bytes
    FROM counted GROUP BY thread_id ORDER BY sum(bytes) DESC, thread_id LIMIT %(largest)s
)
SELECT 'table' AS kind, name, 0::bigint AS checkpoints, sum(rows)::bigint AS rows,
       sum(bytes)::bigint AS bytes
FROM counted GROUP BY name
UNION ALL SELECT 'thread', thread_id, checkpoints::bigint, rows::bigint, bytes::bigint FROM largest
UNION ALL SELECT 'threads', '', 0, count(DISTINCT thread_id), 0 FROM counted
"""
_DISK = """
SELECT name, pg_total_relation_size(to_regclass(name))::bigint AS bytes
FROM unnest(ARRAY['checkpoints', 'checkpoint_writes', 'checkpoint_blobs']) AS name
"""
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%s, %s))"
_CHECKPOINTS = """
SELECT checkpoint_ns, checkpoint_id, parent_checkpoint_id,
       checkpoint ->> 'ts' AS ts, checkpoint ->> 'v' AS v, metadata,
       checkpoint -> 'channel_versions' AS versions,
       (pg_column_size(checkpoint) + pg_column_size(metadata))::bigint AS bytes
FROM checkpoints WHERE thread_id = %s
"""
_WRITES_PER_CHECKPOINT = """
SELECT checkpoint_ns, checkpoint_id, count(*) AS rows, sum(pg_column_size(blob))::bigint AS bytes,
       bool_or(channel = %s) AS sends
FROM checkpoint_writes WHERE thread_id = %s GROUP BY checkpoint_ns, checkpoint_id
"""
_BLOBS = """
SELECT checkpoint_ns, channel, version, coalesce(pg_column_size(blob), 0)::bigint AS bytes
FROM checkpoint_blobs WHERE thread_id = %s
"""
# A value is at a checkpoint when there is a blob for its version, or when it is in the row itself.
_CHANNELS = """
SELECT c.checkpoint_id, v.key AS channel, v.value AS version,
       (c.checkpoint -> 'channel_values') ? v.key OR EXISTS (
           SELECT FROM checkpoint_blobs b
           WHERE b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
             AND b.channel = v.key AND b.version = v.value AND b.type <> 'empty'
       ) AS stored
FROM checkpoints c CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') v
WHERE c.thread_id = %s AND c.checkpoint_ns = %s AND c.checkpoint_id = ANY(%s) AND v.key = ANY(%s)
"""
_VALUES = """
SELECT v.key AS channel, b.type, b.blob, c.checkpoint -> 'channel_values' -> v.key AS inline
FROM checkpoints c CROSS JOIN LATERAL jsonb_each_text(c.checkpoint -> 'channel_versions') v
LEFT JOIN checkpoint_blobs b
  ON b.thread_id = c.thread_id AND b.checkpoint_ns = c.checkpoint_ns
 AND b.channel = v.key AND b.version = v.value AND b.type <> 'empty'
WHERE c.thread_id = %s AND c.checkpoint_ns = %s AND c.checkpoint_id = %s AND v.key = ANY(%s)
"""
_WRITES = """
SELECT checkpoint_id, task_path, task_id, idx, channel, type, blob FROM checkpoint_writes
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
  AND (%s::text[] IS NULL OR channel = ANY(%s::text[]))
"""
_WHOLES = """
SELECT parent_checkpoint_id, checkpoint, metadata FROM checkpoints
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s) ORDER BY checkpoint_id
"""
_STORED_VALUES = """
SELECT b.channel, b.version, b.type, b.blob
FROM unnest(%s::text[], %s::text[]) AS asked (channel, version)
JOIN checkpoint_blobs b
  ON b.thread_id = %s AND b.checkpoint_ns = %s
 AND b.channel = asked.channel AND b.version = asked.version AND b.type <> 'empty'
"""
_PUT_WHOLE = """
INSERT INTO checkpoints
    (thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata)
VALUES (%s, %s, %s, %s, %s::jsonb, %s::jsonb)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO NOTHING
"""
_PUT_BLOB = """
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (thread_id, checkpoint_ns, channel, version)
DO UPDATE SET type = EXCLUDED.type, blob = EXCLUDED.blob WHERE checkpoint_blobs.type = 'empty'
"""
# What LangGraph leaves in the row beside a snapshot.
_MARK = """
UPDATE checkpoints SET checkpoint = jsonb_set(
    checkpoint, '{channel_values}',
    coalesce(checkpoint -> 'channel_values', '{}') || jsonb_build_object(%s::text, true))
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s
"""
_PUT_WRITE = """
INSERT INTO checkpoint_writes
    (thread_id, checkpoint_ns, checkpoint_id, task_path, task_id, idx, channel, type, blob)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id, task_id, idx) DO UPDATE SET
    task_path = EXCLUDED.task_path, channel = EXCLUDED.channel,
    type = EXCLUDED.type, blob = EXCLUDED.blob
"""
_RELINK = """
UPDATE checkpoints SET parent_checkpoint_id = %s
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = %s
"""
_REMOVE = """
DELETE FROM checkpoints
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
"""
_REMOVE_WRITES = """
DELETE FROM checkpoint_writes
WHERE thread_id = %s AND checkpoint_ns = %s AND checkpoint_id = ANY(%s)
"""
_PUT_CHECKPOINT = """
INSERT INTO checkpoints (thread_id, checkpoint_ns, checkpoint_id, checkpoint, metadata)
VALUES (%s, %s, %s, %s::jsonb, %s::jsonb)
ON CONFLICT (thread_id, checkpoint_ns, checkpoint_id) DO UPDATE SET
    checkpoint = EXCLUDED.checkpoint, metadata = EXCLUDED.metadata
"""
_REMOVE_BLOBS = """
DELETE FROM checkpoint_blobs
WHERE thread_id = %s AND checkpoint_ns = %s AND channel = %s AND version = ANY(%s)
"""
# Savers know no lock on a thread. What somebody stores while it goes is looked for behind a lock on
# the table, at the very end, for as long as that look takes; who cannot have it soon gives way to
# the writers that queue behind it.
_EXPIRY_LOCK = "SELECT pg_advisory_xact_lock(%s)"
_SHUT_OUT_WRITERS = (
    "SET LOCAL lock_timeout = '100ms'",
    "LOCK TABLE checkpoints IN SHARE ROW EXCLUSIVE MODE",
)
_IS_LEFT = "SELECT EXISTS (SELECT FROM checkpoints WHERE thread_id = %s) AS is_left"
_REMOVE_REST = (
    "DELETE FROM checkpoint_writes WHERE thread_id = %s",
    "DELETE FROM checkpoint_blobs WHERE thread_id = %s",
)


class PostgresTables:
    """The tables of a PostgresSaver or AsyncPostgresSaver, on its own connection."""

    inline = False
    advice = (
        "Autovacuum makes the room usable again; VACUUM (ANALYZE) checkpoints, checkpoint_blobs, "
        "checkpoint_writes does so at once. The files shrink by VACUUM FULL, which locks the "
        "tables while it runs, or by pg_repack, which does not."
    )

    def __init__(self, saver: Any, *, asynchronous: bool) -> None:
        self.saver = saver
        self.name = type(saver).__name__
        self.asynchronous = asynchronous

    def transaction(self, script: Callable[[], Script[Any]], *, reading: bool = False) -> Effect:  # noqa: ARG002 - both are the same here
        """Return the effect that runs a script in one transaction."""
        if self.asynchronous:
            return Transaction(script, None, self._abegin)
        return Transaction(script, self._begin)

    # `_cursor` is private, and is all there is: it holds the saver's lock and takes a connection
    # from its pool. Statements are unprepared: a plan that knows its arrays looks rows up by key.
    @contextmanager
    def _begin(self) -> Iterator[Execute]:
        with self.saver._cursor() as cursor:
            if self.saver.pipe:
                self.saver.pipe.sync()  # else the transaction takes in what ran since the last one

            def execute(statement: Statement) -> list[Any]:
                if statement.many:
                    cursor.executemany(statement.sql, statement.params)
                else:
                    cursor.execute(statement.sql, statement.params, prepare=False)
                return list(cursor.fetchall()) if statement.fetch else []

            with _in_our_words(), cursor.connection.transaction():
                yield execute

    @asynccontextmanager
    async def _abegin(self) -> AsyncIterator[AsyncExecute]:
        async with self.saver._cursor() as cursor:
            if self.saver.pipe:
                await self.saver.pipe.sync()

            async def execute(statement: Statement) -> list[Any]:
                if statement.many:
                    await cursor.executemany(statement.sql, statement.params)
                else:
                    await cursor.execute(statement.sql, statement.params, prepare=False)
                return list(await cursor.fetchall()) if statement.fetch else []

            with _in_our_words():
                async with cursor.connection.transaction():
                    yield execute

    def threads(self, after: str, limit: int) -> Script[list[str]]:
        """Return the ids of the next threads, ascending."""
        rows = yield Statement(_THREADS, (after, limit))
        return [row["thread_id"] for row in rows]

    def sizes(self, largest: int, thread_ids: Sequence[str] | None) -> Script[Sizes]:
        """Count rows and bytes, of these threads or of all."""
        asked = None if thread_ids is None else list(thread_ids)
        found = yield Statement(_SIZES, {"ids": asked, "largest": largest})
        disk = yield Statement(_DISK)
        tables = {"checkpoints": Tally(), "writes": Tally(), "blobs": Tally()}
        threads = []
        count = 0
        for row in found:
            if row["kind"] == "table":
                tables[row["name"]] = Tally(row["rows"], row["bytes"])
            elif row["kind"] == "thread":
                size = row["checkpoints"], row["rows"], row["bytes"]
                threads.append(ThreadSize(row["name"], *size))
            else:
                count = row["rows"]
        threads.sort(key=lambda thread: (-thread.bytes, thread.thread_id))
        return Sizes(tables, {row["name"]: row["bytes"] for row in disk}, count, threads)

    def contents(self, thread_id: str) -> Script[Contents]:
        """Read what is stored of a thread, and shut out other prunings of it."""
        yield Statement(_LOCK, (thread_id, _LOCK_SEED), fetch=False)
        found = yield Statement(_BLOBS, (thread_id,))
        counted = yield Statement(_WRITES_PER_CHECKPOINT, (TASKS, thread_id))
        sending = {(row["checkpoint_ns"], row["checkpoint_id"]) for row in counted if row["sends"]}
        rows = yield Statement(_CHECKPOINTS, (thread_id,))
        blobs = [
            Blob(row["checkpoint_ns"], row["channel"], row["version"], row["bytes"])
            for row in found
        ]
        writes = {
            (row["checkpoint_ns"], row["checkpoint_id"]): Tally(row["rows"], row["bytes"])
            for row in counted
        }
        checkpoints = []
        for row in rows:
            tally = writes.pop((row["checkpoint_ns"], row["checkpoint_id"]), Tally())
            checkpoints.append(
                SavedCheckpoint(
                    ns=row["checkpoint_ns"],
                    id=row["checkpoint_id"],
                    parent=row["parent_checkpoint_id"],
                    at=moment(row["ts"], row["checkpoint_id"]),
                    metadata=row["metadata"],
                    v=int(row["v"] or 4),
                    bytes=row["bytes"],
                    writes=tally.rows,
                    write_bytes=tally.bytes,
                    sends=(row["checkpoint_ns"], row["checkpoint_id"]) in sending,
                    versions=row["versions"] or {},
                )
            )
        return Contents(checkpoints, writes, blobs)

    def channels(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str]
    ) -> Script[dict[str, ChannelFacts]]:
        """Return per checkpoint what is known of these channels."""
        rows = yield Statement(_CHANNELS, (thread_id, ns, list(ids), list(names)))
        versions: dict[str, dict[str, Any]] = {checkpoint_id: {} for checkpoint_id in ids}
        stored: dict[str, set[str]] = {checkpoint_id: set() for checkpoint_id in ids}
        for row in rows:
            versions[row["checkpoint_id"]][row["channel"]] = row["version"]
            if row["stored"]:
                stored[row["checkpoint_id"]].add(row["channel"])
        return {i: ChannelFacts(versions[i], frozenset(stored[i])) for i in ids}

    def values(
        self, thread_id: str, ns: str, checkpoint_id: str, names: Collection[str]
    ) -> Script[dict[str, Any]]:
        """Return the values that are stored at a checkpoint."""
        rows = yield Statement(_VALUES, (thread_id, ns, checkpoint_id, list(names)))
        return {
            row["channel"]: row["inline"]
            if row["type"] is None
            else loaded(self.saver, (row["type"], row["blob"]))
            for row in rows
        }

    def writes(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str] | None
    ) -> Script[dict[str, list[StoredWrite]]]:
        """Return per checkpoint its writes to these channels (None: to all), in their order."""
        asked = None if names is None else list(names)
        rows = yield Statement(_WRITES, (thread_id, ns, list(ids), asked, asked))
        return grouped(
            (
                row["checkpoint_id"],
                StoredWrite(
                    row["task_path"],
                    row["task_id"],
                    row["idx"],
                    row["channel"],
                    row["type"],
                    row["blob"],
                ),
            )
            for row in rows
        )

    def wholes(
        self, thread_id: str, ns: str, ids: Sequence[str], known: Collection[ValueKey]
    ) -> Script[list[Whole]]:
        """Read checkpoints with their values, but for those that are known."""
        rows = yield Statement(_WHOLES, (thread_id, ns, list(ids)))
        keys = {
            (channel, str(version))
            for row in rows
            for channel, version in row["checkpoint"]["channel_versions"].items()
            if (ns, channel, str(version)) not in known
        }
        asked = [channel for channel, _ in keys], [version for _, version in keys]
        found = yield Statement(_STORED_VALUES, (*asked, thread_id, ns))
        stored = {
            (row["channel"], row["version"]): (row["type"], row["blob"] or b"") for row in found
        }
        wholes = []
        for row in rows:
            head = dict(row["checkpoint"])
            # Beside a value that is stored apart there may be a mark, which is none.
            values = {
                channel: self.saver.serde.dumps_typed(value)
                for channel, value in (head.pop("channel_values", None) or {}).items()
                if (ns, channel, str(head["channel_versions"].get(channel))) not in known
            }
            for channel, version in head["channel_versions"].items():
                if (channel, str(version)) in stored:
                    values[channel] = stored[channel, str(version)]
            parent = row["parent_checkpoint_id"]
            wholes.append(Whole(ns, parent, head, row["metadata"], values))
        return wholes

    def put_wholes(self, thread_id: str, wholes: Sequence[Whole]) -> Script[set[ValueKey]]:
        """Store checkpoints that are not there yet; what is there stays.

        What `put` would have left in the row stays there, but only where JSON keeps it as it is.
        """
        blobs: dict[ValueKey, tuple[Any, ...]] = {}
        rows = []
        for whole in wholes:
            inline: dict[str, Any] = {}
            for channel, value in whole.values.items():
                key = whole.value_key(channel)
                fits, plain = as_json(value)
                if fits:
                    inline[channel] = plain
                    continue
                blobs[key] = (thread_id, *key, *value)
                if is_snapshot(self.saver, value):
                    inline[channel] = True
            head = json_text({**whole.head, "channel_values": inline})
            metadata = json_text(whole.metadata)
            rows.append((thread_id, whole.ns, whole.id, whole.parent, head, metadata))
        if blobs:
            yield Statement(_PUT_BLOB, list(blobs.values()), fetch=False, many=True)
        yield Statement(_PUT_WHOLE, rows, fetch=False, many=True)
        return set(blobs)

    def put_values(
        self, thread_id: str, ns: str, checkpoint_id: str, values: Mapping[str, tuple[Any, Any]]
    ) -> Script[None]:
        """Store values at a checkpoint, each with the version of its channel."""
        for name, (version, value) in values.items():
            blob = (thread_id, ns, name, version, *self.saver.serde.dumps_typed(value))
            yield Statement(_PUT_BLOB, blob, fetch=False)
            yield Statement(_MARK, (name, thread_id, ns, checkpoint_id), fetch=False)

    def put_checkpoint(
        self, thread_id: str, ns: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> Script[None]:
        """Store a checkpoint that continues none and holds no values."""
        row = (thread_id, ns, checkpoint["id"], json.dumps(checkpoint), json.dumps(metadata))
        yield Statement(_PUT_CHECKPOINT, row, fetch=False)

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
        for ns, ids in by_namespace(keys).items():
            yield Statement(_REMOVE, (thread_id, ns, ids), fetch=False)

    def remove_writes(self, thread_id: str, keys: Sequence[Key]) -> Script[None]:
        """Remove the writes under these ids."""
        for ns, ids in by_namespace(keys).items():
            yield Statement(_REMOVE_WRITES, (thread_id, ns, ids), fetch=False)

    def remove_blobs(self, thread_id: str, blobs: Sequence[Blob]) -> Script[None]:
        """Remove values stored apart."""
        versions: dict[Key, list[str]] = {}
        for ns, channel, version, _ in blobs:
            versions.setdefault((ns, channel), []).append(version)
        for (ns, channel), of_channel in versions.items():
            yield Statement(_REMOVE_BLOBS, (thread_id, ns, channel, of_channel), fetch=False)

    def remove_thread(self, thread_id: str, known: Collection[Key]) -> Script[None]:
        """Remove a thread of which these are all checkpoints."""
        yield Statement(_EXPIRY_LOCK, (_LOCK_SEED,), fetch=False)  # two at once would block another
        yield from self.remove(thread_id, list(known))
        for statement in _REMOVE_REST:
            yield Statement(statement, (thread_id,), fetch=False)
        for statement in _SHUT_OUT_WRITERS:
            yield Statement(statement, fetch=False)
        [row] = yield Statement(_IS_LEFT, (thread_id,))
        if row["is_left"]:
            raise InUse


@contextmanager
def _in_our_words() -> Iterator[None]:
    from psycopg.errors import LockNotAvailable, UndefinedTable

    try:
        yield
    except LockNotAvailable as error:
        raise InUse from error
    except UndefinedTable as error:
        raise ConfigError("the checkpointer has no tables yet: call its setup() first") from error
