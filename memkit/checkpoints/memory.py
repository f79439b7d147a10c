"""Checkpoints in an InMemorySaver: three dictionaries."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from langgraph.checkpoint.serde.types import TASKS

from memkit.checkpoints.backend import (
    ChannelFacts,
    Contents,
    InUse,
    Script,
    Sizes,
    StoredWrite,
    Tally,
    ThreadSize,
    ValueKey,
    Whole,
    drive,
    grouped,
    loaded,
)
from memkit.checkpoints.policy import Blob, Key, SavedCheckpoint
from memkit.checkpoints.times import moment
from memkit.effects import Effect

P = ParamSpec("P")
T = TypeVar("T")


def script(function: Callable[P, T]) -> Callable[P, Script[T]]:
    """Make a script of a function that needs no statement."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Script[T]:
        return function(*args, **kwargs)
        yield  # type: ignore[unreachable] # makes it a script

    return wrapper


@dataclass(frozen=True, slots=True)
class Run:
    """Run a script; there is nothing to wait for."""

    script: Callable[[], Script[Any]]

    def run(self) -> Any:
        """Return what the script returns."""
        return drive(self.script(), _no_statement)

    async def arun(self) -> Any:
        """Return what the script returns."""
        return self.run()


def _no_statement(statement: object) -> list[Any]:
    raise AssertionError(f"memory takes no statement, got {statement!r}")


class MemoryTables:
    """The dictionaries of an InMemorySaver, whose layout this module alone knows.

    They are read by copying their items, which no other thread can interrupt.
    """

    name = "InMemorySaver"
    asynchronous = False
    inline = False
    advice = "Nothing to do: the memory is free."

    def __init__(self, saver: Any) -> None:
        self.saver = saver

    def transaction(self, script: Callable[[], Script[Any]], *, reading: bool = False) -> Effect:  # noqa: ARG002 - memory has no transactions
        """Return the effect that runs a script."""
        return Run(script)

    @script
    def threads(self, after: str, limit: int) -> list[str]:
        """Return the ids of the next threads, ascending."""
        return sorted(str(t) for t in list(self.saver.storage) if str(t) > after)[:limit]

    @script
    def sizes(self, largest: int, thread_ids: Sequence[str] | None) -> Sizes:
        """Count rows and bytes, of these threads or of all."""
        rows = [
            *(
                ("checkpoints", thread, len(checkpoint[1]) + len(metadata[1]))
                for thread, spaces in list(self.saver.storage.items())
                for stored in list(spaces.values())
                for checkpoint, metadata, _ in list(stored.values())
            ),
            *(
                ("writes", place[0], len(value[1]))
                for place, stored in list(self.saver.writes.items())
                for _, _, value, _ in list(stored.values())
            ),
            *(("blobs", key[0], len(value[1])) for key, value in list(self.saver.blobs.items())),
        ]
        tables = {"checkpoints": Tally(), "writes": Tally(), "blobs": Tally()}
        threads: dict[str, ThreadSize] = {}
        asked = None if thread_ids is None else frozenset(thread_ids)
        for table, thread, size in rows:
            if asked is not None and thread not in asked:
                continue
            tables[table] = tables[table].plus(1, size)
            _, checkpoints, count, total = threads.get(thread, (thread, 0, 0, 0))
            checkpoints += table == "checkpoints"
            threads[thread] = ThreadSize(thread, checkpoints, count + 1, total + size)
        ordered = sorted(threads.values(), key=lambda thread: (-thread.bytes, thread.thread_id))
        return Sizes(tables, {}, len(threads), ordered[:largest])

    @script
    def contents(self, thread_id: str) -> Contents:
        """Read what is stored of a thread."""
        blobs = [
            Blob(ns, channel, version, len(value[1]))
            for (thread, ns, channel, version), value in list(self.saver.blobs.items())
            if thread == thread_id
        ]
        writes = {
            (ns, checkpoint_id): Tally(
                len(found), sum(len(value[1]) for _, _, value, _ in list(found.values()))
            )
            for (thread, ns, checkpoint_id), found in list(self.saver.writes.items())
            if thread == thread_id and found
        }
        sending = {
            (ns, checkpoint_id)
            for (thread, ns, checkpoint_id), found in list(self.saver.writes.items())
            if thread == thread_id and any(w[1] == TASKS for w in list(found.values()))
        }
        checkpoints = []
        namespaces = self.saver.storage.get(thread_id) or {}
        for ns, stored in list(namespaces.items()):
            for checkpoint_id, (checkpoint, metadata, parent) in list(stored.items()):
                head = self.saver.serde.loads_typed(checkpoint)
                tally = writes.pop((ns, checkpoint_id), Tally())
                checkpoints.append(
                    SavedCheckpoint(
                        ns=ns,
                        id=checkpoint_id,
                        parent=parent,
                        at=moment(head.get("ts"), checkpoint_id),
                        metadata=self.saver.serde.loads_typed(metadata),
                        v=int(head.get("v", 4)),
                        bytes=len(checkpoint[1]) + len(metadata[1]),
                        writes=tally.rows,
                        write_bytes=tally.bytes,
                        sends=(ns, checkpoint_id) in sending,
                        versions=head.get("channel_versions", {}),
                    )
                )
        return Contents(checkpoints, writes, blobs)

    @script
    def channels(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str]
    ) -> dict[str, ChannelFacts]:
        """Return per checkpoint what is known of these channels."""
        found = {}
        for checkpoint_id in ids:
            versions = {
                name: version
                for name, version in self._versions(thread_id, ns, checkpoint_id).items()
                if name in names
            }
            stored = (
                name
                for name, version in versions.items()
                if self.saver.blobs.get((thread_id, ns, name, version), ("empty",))[0] != "empty"
            )
            found[checkpoint_id] = ChannelFacts(versions, frozenset(stored))
        return found

    def _versions(self, thread_id: str, ns: str, checkpoint_id: str) -> dict[str, Any]:
        checkpoint, _, _ = self.saver.storage[thread_id][ns][checkpoint_id]
        versions: dict[str, Any] = self.saver.serde.loads_typed(checkpoint)["channel_versions"]
        return versions

    @script
    def values(
        self, thread_id: str, ns: str, checkpoint_id: str, names: Collection[str]
    ) -> dict[str, Any]:
        """Return the values that are stored at a checkpoint."""
        versions = self._versions(thread_id, ns, checkpoint_id)
        return {
            name: loaded(self.saver, self.saver.blobs[thread_id, ns, name, versions[name]])
            for name in names
        }

    @script
    def writes(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str] | None
    ) -> dict[str, list[StoredWrite]]:
        """Return per checkpoint its writes to these channels (None: to all), in their order."""
        return grouped(
            (checkpoint_id, StoredWrite(path, task_id, idx, channel, *value))
            for checkpoint_id in ids
            for (task_id, idx), (_, channel, value, path) in list(
                self.saver.writes.get((thread_id, ns, checkpoint_id), {}).items()
            )
            if names is None or channel in names
        )

    @script
    def wholes(
        self, thread_id: str, ns: str, ids: Sequence[str], known: Collection[ValueKey]
    ) -> list[Whole]:
        """Read checkpoints with their values, but for those that are known."""
        found = []
        stored = self.saver.storage[thread_id][ns]
        for checkpoint_id in ids:
            if checkpoint_id not in stored:
                continue
            checkpoint, metadata, parent = stored[checkpoint_id]
            head = self.saver.serde.loads_typed(checkpoint)
            values = {}
            for channel, version in head["channel_versions"].items():
                value = self.saver.blobs.get((thread_id, ns, channel, version), ("empty", b""))
                if value[0] != "empty" and (ns, channel, str(version)) not in known:
                    values[channel] = value
            found.append(Whole(ns, parent, head, self.saver.serde.loads_typed(metadata), values))
        return found

    @script
    def put_wholes(self, thread_id: str, wholes: Sequence[Whole]) -> set[ValueKey]:
        """Store checkpoints that are not there yet; what is there stays."""
        dumps = self.saver.serde.dumps_typed
        apart = set()
        for whole in wholes:
            for channel, value in whole.values.items():
                version = whole.head["channel_versions"].get(channel)
                place = (thread_id, whole.ns, channel, version)
                if self.saver.blobs.get(place, ("empty", b""))[0] == "empty":
                    self.saver.blobs[place] = value
                apart.add(whole.value_key(channel))
            self.saver.storage[thread_id][whole.ns].setdefault(
                whole.id, (dumps(dict(whole.head)), dumps(dict(whole.metadata)), whole.parent)
            )
        return apart

    @script
    def put_values(
        self,
        thread_id: str,
        ns: str,
        checkpoint_id: str,  # noqa: ARG002 - it finds them by their versions
        values: Mapping[str, tuple[Any, Any]],
    ) -> None:
        """Store values at a checkpoint, each with the version of its channel."""
        for name, (version, value) in values.items():
            self.saver.blobs[thread_id, ns, name, version] = self.saver.serde.dumps_typed(value)

    @script
    def put_checkpoint(
        self, thread_id: str, ns: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> None:
        """Store a checkpoint that continues none and holds no values."""
        dumps = self.saver.serde.dumps_typed
        stored = {name: value for name, value in checkpoint.items() if name != "channel_values"}
        self.saver.storage[thread_id][ns][checkpoint["id"]] = (dumps(stored), dumps(metadata), None)

    @script
    def put_writes(
        self, thread_id: str, ns: str, checkpoint_id: str, writes: Sequence[StoredWrite]
    ) -> None:
        """Add writes to a checkpoint."""
        for write in writes:
            self.saver.writes[thread_id, ns, checkpoint_id][write.task_id, write.idx] = (
                write.task_id,
                write.channel,
                (write.type, write.value),
                write.task_path,
            )

    @script
    def relink(self, thread_id: str, parents: Mapping[Key, str | None]) -> None:
        """Let checkpoints continue others."""
        for (ns, checkpoint_id), parent in parents.items():
            stored = self.saver.storage[thread_id][ns]
            checkpoint, metadata, _ = stored[checkpoint_id]
            stored[checkpoint_id] = (checkpoint, metadata, parent)

    @script
    def remove(self, thread_id: str, keys: Sequence[Key]) -> None:
        """Remove checkpoints with their writes."""
        for ns, checkpoint_id in keys:
            namespaces = self.saver.storage[thread_id]
            namespaces[ns].pop(checkpoint_id, None)
            if ns and not namespaces[ns]:
                del namespaces[ns]
            self.saver.writes.pop((thread_id, ns, checkpoint_id), None)

    @script
    def remove_writes(self, thread_id: str, keys: Sequence[Key]) -> None:
        """Remove the writes under these ids."""
        for ns, checkpoint_id in keys:
            self.saver.writes.pop((thread_id, ns, checkpoint_id), None)

    @script
    def remove_blobs(self, thread_id: str, blobs: Sequence[Blob]) -> None:
        """Remove values stored apart."""
        for ns, channel, version, _ in blobs:
            self.saver.blobs.pop((thread_id, ns, channel, version), None)

    @script
    def remove_thread(self, thread_id: str, known: Collection[Key]) -> None:
        """Remove a thread of which these are all checkpoints."""
        spaces = self.saver.storage.get(thread_id) or {}
        if {(ns, i) for ns, stored in list(spaces.items()) for i in list(stored)} - set(known):
            raise InUse
        self.saver.delete_thread(thread_id)
