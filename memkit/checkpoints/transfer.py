"""Copy threads from one saver to another, whole, and prove that they read back the same."""

import asyncio
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any

from langgraph.checkpoint.base import CheckpointTuple
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer
from langgraph.checkpoint.serde.types import TASKS

from memkit.checkpoints.backend import (
    Backend,
    Contents,
    Script,
    StoredWrite,
    Typed,
    ValueKey,
    Whole,
    by_namespace,
    loaded,
)
from memkit.checkpoints.delta import delta_names
from memkit.checkpoints.packed import is_plain
from memkit.checkpoints.policy import FORMAT, Key, Thread
from memkit.checkpoints.report import Refusal
from memkit.checkpoints.savers import tables_of
from memkit.checkpoints.threads import Progress, Threads, asked
from memkit.effects import Body, arun, run, stable_key
from memkit.errors import ConfigError, CopyConflict, CopyFailed, PruneUnsafe

_BATCH = 50
_ROUNDS = 4
_DIGITS = 8
_RENAMED = re.compile(r"~[0-9a-f]{8}\Z")
_WRITES = "the writes"
_GONE = "all"
_PLAIN = JsonPlusSerializer(pickle_fallback=True)


@dataclass(frozen=True)
class CopyReport:
    """What a copying did; with `dry_run`, what it would do.

    Attributes:
        source: The class of the saver that was read.
        target: The class of the other.
        dry_run: Whether nothing was changed.
        threads: How many threads were looked at.
        copied: How many of them got something.
        checkpoints: How many checkpoints were copied.
        writes: How many writes.
        same: How many checkpoints were there already, with all of their writes.
        compared: How many were read back from both savers and were the same, `same` ones too.
        only_in_target: How many checkpoints the target has that the source does not, in the
            threads of the source: those threads have gone on there, or were pruned in the source.
        refused: Threads that were not copied, or not to their end, and why.
    """

    source: str
    target: str
    dry_run: bool
    threads: int = 0
    copied: int = 0
    checkpoints: int = 0
    writes: int = 0
    same: int = 0
    compared: int = 0
    only_in_target: int = 0
    refused: tuple[Refusal, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "refused": [thread._asdict() for thread in self.refused]}

    def __str__(self) -> str:
        done = "would be copied" if self.dry_run else "copied"
        lines = [
            f"{self.source} to {self.target}: {self.copied} of {self.threads} threads, "
            f"{self.checkpoints} checkpoints and {self.writes} writes {done}; {self.same} were "
            f"there; {self.compared} read back the same from both"
        ]
        if self.only_in_target:
            lines.append(f"only in the target: {self.only_in_target} checkpoints")
        lines += [f"refused: {thread_id}: {why}" for thread_id, why in self.refused]
        return "\n".join(lines)


def copy(
    source: Any,
    target: Any,
    *,
    thread_ids: Iterable[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Copy threads to another saver, with their history and all that hangs on it.

    Every checkpoint keeps its id, its parent and its metadata; pending writes and interrupts,
    subgraphs, forks and what DeltaChannels are made of come along. Values move byte by byte where
    both savers use LangGraph's serializer, so their classes need not be importable; otherwise they
    are read by the one and written by the other, as from plain to encrypted.

    Older checkpoints come first, in transactions of some 50. Killed at any moment, it goes on when
    it is called again, and copies what is missing or has come since. At the end of a thread every
    checkpoint is read from both savers by `get_tuple`, and the whole of what its DeltaChannels are
    made of by `get_delta_channel_history`: state, metadata, parent and writes must be equal. What
    is not is removed again.

    Nothing in the target is overwritten, but for an answer or an error that LangGraph has since
    replaced in the source. A thread that has something else there under the same id, or that went
    on in both, is refused.

    Args:
        source: A PostgresSaver, SqliteSaver or InMemorySaver; for the async ones see `acopy`. It is
            only read, and may be in use.
        target: Another one, whose tables exist (`setup()`).
        thread_ids: Which threads; all by default.
        dry_run: Change nothing, compare what both have, and report what would be copied.
        progress: Called after each thread with how many are done, and how many there are.

    Returns:
        A report.

    Raises:
        ConfigError: A saver is not known or has no tables, or both are one.
        CopyConflict: Some threads are something else in the target. The others were copied; the
            report is the `report` of the error.
        CopyFailed: Some threads could not be copied for another reason; the same. Or a database
            failed: call it again, and it goes on.

    Cost: Every checkpoint of the source is read once to copy it, and with its whole state once from
        each saver to compare.
    """
    tables = [tables_of(saver, asynchronous=False, twin="acopy") for saver in (source, target)]
    return run(_Job.of(*tables, dry_run=dry_run).body(asked(thread_ids), progress))


async def acopy(
    source: Any,
    target: Any,
    *,
    thread_ids: Iterable[str] | None = None,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> CopyReport:
    """Do what `copy` does without blocking the event loop; it takes async savers too."""
    tables = [tables_of(saver, asynchronous=True) for saver in (source, target)]
    return await arun(_Job.of(*tables, dry_run=dry_run).body(asked(thread_ids), progress))


@dataclass(frozen=True, slots=True)
class Read:
    """Read a checkpoint as a graph would: by the saver's public functions."""

    tables: Backend
    config: Any

    def run(self) -> CheckpointTuple | None:
        """Return the checkpoint; None where there is none."""
        found: CheckpointTuple | None = self.tables.saver.get_tuple(self.config)
        return found

    async def arun(self) -> CheckpointTuple | None:
        """Do the same without blocking the event loop."""
        if not self.tables.asynchronous:
            return await asyncio.to_thread(self.run)
        found: CheckpointTuple | None = await self.tables.saver.aget_tuple(self.config)
        return found


@dataclass(frozen=True, slots=True)
class ReadHistory:
    """Read what DeltaChannels are made of, by the saver's public functions."""

    tables: Backend
    config: Any
    channels: Sequence[str]

    def run(self) -> Any:
        """Return per channel its seed and writes."""
        return self.tables.saver.get_delta_channel_history(
            config=self.config, channels=self.channels
        )

    async def arun(self) -> Any:
        """Do the same without blocking the event loop."""
        if not self.tables.asynchronous:
            return await asyncio.to_thread(self.run)
        return await self.tables.saver.aget_delta_channel_history(
            config=self.config, channels=self.channels
        )


@dataclass
class _Totals:
    threads: int = 0
    copied: int = 0
    checkpoints: int = 0
    writes: int = 0
    same: int = 0
    compared: int = 0
    only_in_target: int = 0
    refused: list[Refusal] = field(default_factory=list)
    conflicts: int = 0


@dataclass
class _ThreadCopy:
    """How far a thread is.

    Attributes:
        thread_id: Which thread.
        proven: Checkpoints that read the same from both.
        added: Checkpoints that this call has put into the target.
        stored: The keys of the values that the source has at some checkpoint.
        covered: Of checkpoints the DeltaChannels that were compared with those of later ones.
        unexpected: Values that only the target has at a checkpoint: their keys, and where.
    """

    thread_id: str
    proven: set[Key] = field(default_factory=set)
    added: set[Key] = field(default_factory=set)
    stored: set[ValueKey] = field(default_factory=set)
    covered: dict[Key, set[str]] = field(default_factory=dict)
    unexpected: dict[ValueKey, Key] = field(default_factory=dict)
    same: int = 0
    writes: int = 0


@dataclass(frozen=True)
class _Job:
    """One call of copy."""

    source: Backend
    target: Backend
    dry_run: bool
    recode: Callable[[Typed], Typed]

    @classmethod
    def of(cls, source: Backend, target: Backend, *, dry_run: bool) -> "_Job":
        """Check the arguments, before anything is touched."""
        if source.saver is target.saver:
            raise ConfigError("source and target are the same saver; there is nothing to copy")
        return cls(source, target, dry_run, _recoding(source.saver, target.saver))

    def body(self, thread_ids: list[str] | None, progress: Progress | None) -> Body[CopyReport]:
        """Copy page by page of threads."""
        for tables, which in ((self.source, "source"), (self.target, "target")):
            yield from _has_tables(tables, which)
        totals = _Totals()
        try:
            yield from self._all(thread_ids, totals, progress)
        except Exception as error:
            if _is_of_database(error):
                raise CopyFailed(
                    f"a database failed after {totals.threads} threads: {error}. Call it again, "
                    "and it goes on from there",
                    report=self._report(totals),
                ) from error
            raise
        report = self._report(totals)
        if report.refused:
            kind = CopyConflict if totals.conflicts else CopyFailed
            raise kind(
                f"{len(report.refused)} of {report.threads} threads were refused, the others "
                f"copied; the first: {report.refused[0].thread_id}: {report.refused[0].why}",
                report=report,
            )
        return report

    def _all(
        self, thread_ids: list[str] | None, totals: _Totals, progress: Progress | None
    ) -> Body[None]:
        threads = Threads(self.source, thread_ids)
        count = 0 if progress is None else (yield from threads.count())
        while page := (yield from threads.page()):
            for thread_id in page:
                yield from self._thread(thread_id, totals)
                if progress is not None:
                    progress(totals.threads, max(count, totals.threads))

    def _report(self, totals: _Totals) -> CopyReport:
        return CopyReport(
            source=self.source.name,
            target=self.target.name,
            dry_run=self.dry_run,
            threads=totals.threads,
            copied=totals.copied,
            checkpoints=totals.checkpoints,
            writes=totals.writes,
            same=totals.same,
            compared=totals.compared,
            only_in_target=totals.only_in_target,
            refused=tuple(totals.refused),
        )

    def _thread(self, thread_id: str, totals: _Totals) -> Body[None]:
        """Copy one thread; what hinders it is reported, and does not hinder the others."""
        totals.threads += 1
        state = _ThreadCopy(thread_id)
        try:
            yield from self._rounds(state, totals)
        except (CopyFailed, PruneUnsafe, NotImplementedError, TypeError, ValueError) as error:
            why = str(error) if isinstance(error, CopyFailed | PruneUnsafe) else repr(error)
            totals.refused.append(Refusal(thread_id, why))
            totals.conflicts += isinstance(error, CopyConflict)
            unproven = sorted(state.added - state.proven)
            if unproven:
                yield from _writing(self.target, partial(self.target.remove, thread_id, unproven))
                state.added -= set(unproven)
        totals.copied += bool(state.added or state.writes)
        totals.checkpoints += len(state.added)
        totals.writes += state.writes
        totals.same += state.same
        totals.compared += len(state.proven)

    def _rounds(self, state: _ThreadCopy, totals: _Totals) -> Body[None]:
        """Compare and copy what is missing, until all is the same; the source may be in use."""
        for number in range(_ROUNDS):
            source = yield from self._contents(self.source, state.thread_id)
            target = yield from self._contents(self.target, state.thread_id)
            if not (number or source.checkpoints or source.orphan_writes):
                raise CopyFailed("the source has nothing of it")
            keys = {checkpoint.key for checkpoint in source.checkpoints}
            there = {checkpoint.key for checkpoint in target.checkpoints}
            missing = _by_age(keys - there)
            _refuse_fork(keys, there)
            if not number:
                totals.only_in_target += len(there - keys)
            names = _delta_channels(source)
            late: dict[Key, list[StoredWrite]] = {}
            unlike: dict[Key, str] = {}
            for key in reversed(_by_age(keys & there - state.proven)):
                different = yield from self._compare(state, key, names.get(key[0], ()))
                if different == _WRITES:
                    late[key] = yield from self._lacking(state, key)
                elif different is not None:
                    unlike[key] = different
                if different is None or (different == _WRITES and not late[key]):
                    state.proven.add(key)
                    state.same += key not in state.added
            for key in sorted(source.orphan_writes):
                late[key] = yield from self._lacking(state, key)
            late = {key: writes for key, writes in late.items() if writes}
            if _GONE in unlike.values():
                continue  # somebody prunes: the next round tells what is left
            if not missing and not late:
                for key, different in unlike.items():
                    raise self._unlike(state, key, different)
                _refuse_unexpected(state)
                return
            if self.dry_run:
                state.added.update(missing)
                yield from self._count_writes(state, missing, late)
                return
            yield from self._put_late(state, late)
            yield from self._put_missing(state, keys, missing, target)
        raise CopyFailed(
            "the thread changed in the source again and again while it was copied; copy it when "
            "it is at rest"
        )

    def _contents(self, tables: Backend, thread_id: str) -> Body[Contents]:
        found: Contents = yield from _reading(tables, partial(tables.contents, thread_id))
        return found

    def _compare(self, state: _ThreadCopy, key: Key, names: Collection[str]) -> Body[str | None]:
        """Compare a checkpoint as both savers read it.

        Returns:
            What differs of that which writes change that are still to come; None if nothing does.

        Raises:
            CopyConflict: It was in the target before, and is another one.
            CopyFailed: It was just copied, and does not read back the same.
        """
        place = {"thread_id": state.thread_id, "checkpoint_ns": key[0], "checkpoint_id": key[1]}
        config = {"configurable": place}
        one: CheckpointTuple | None = yield Read(self.source, config)
        other: CheckpointTuple | None = yield Read(self.target, config)
        if one is None or other is None:
            return _GONE
        versions = one.checkpoint["channel_versions"]
        values, copied = one.checkpoint["channel_values"], other.checkpoint["channel_values"]
        state.stored.update((key[0], name, str(versions.get(name))) for name in values)
        state.unexpected.update(
            ((key[0], name, str(versions.get(name))), key)
            for name in copied.keys() - values.keys()
            if not _is_old_send(one, name)
        )
        if different := _difference(one, other):
            raise self._unlike(state, key, different)
        made = {name for name in names if name in versions} - values.keys() - copied.keys()
        unread = sorted(made - state.covered.get(key, set()))
        if unread:
            histories = yield ReadHistory(self.source, config, unread)
            histories_copied = yield ReadHistory(self.target, config, unread)
            for name in unread:
                if not _same_history(histories[name], histories_copied[name]):
                    return f"what the DeltaChannel {name!r} is made of"
        # What this one is made of, holds what the one that it continues is made of.
        state.covered.setdefault((key[0], _parent(one) or ""), set()).update(made)
        return None if _same_writes(one.pending_writes, other.pending_writes) else _WRITES

    def _unlike(self, state: _ThreadCopy, key: Key, what: str) -> CopyFailed:
        where = f"checkpoint {key[1]}" + (f" of {key[0]!r}" if key[0] else "")
        if key in state.added:
            return CopyFailed(
                f"{what} of {where} does not read back the same; it was removed again"
            )
        return CopyConflict(
            f"{what} of {where} is another one in the target, which was there before (or the "
            "thread was pruned in one of both since it was copied). Nothing was overwritten; to "
            "replace it, remove the thread from the target by delete_thread() and copy again"
        )

    def _lacking(self, state: _ThreadCopy, key: Key) -> Body[list[StoredWrite]]:
        """Return the writes of a checkpoint that the target does not have."""
        ns, checkpoint_id = key
        stored = []
        for tables in (self.source, self.target):
            script = partial(tables.writes, state.thread_id, ns, [checkpoint_id], None)
            found = yield from _reading(tables, script)
            stored.append({(w.task_id, w.idx): w for w in found.get(checkpoint_id, ())})
        ours, theirs = stored
        lacking = []
        for place, write in ours.items():
            other = theirs.get(place)
            if other is None:
                lacking.append(write)
            elif not self._same_write(write, other):
                # LangGraph itself replaces its own: an answer, an error, an interrupt.
                if place[1] >= 0 or theirs.keys() - ours.keys():
                    raise self._unlike(state, key, f"the write to {write.channel!r}")
                lacking.append(write)
        return lacking

    def _same_write(self, one: StoredWrite, other: StoredWrite) -> bool:
        if (one.channel, one.task_path) != (other.channel, other.task_path):
            return False
        if (one.type, one.value) == (other.type, other.value):
            return True
        return same(
            self.source.saver.serde.loads_typed((one.type, one.value)),
            self.target.saver.serde.loads_typed((other.type, other.value)),
        )

    def _count_writes(
        self, state: _ThreadCopy, missing: Sequence[Key], late: Mapping[Key, list[StoredWrite]]
    ) -> Body[None]:
        state.writes = sum(map(len, late.values()))
        for ns, ids in by_namespace(missing).items():
            script = partial(self.source.writes, state.thread_id, ns, ids, None)
            found = yield from _reading(self.source, script)
            state.writes += sum(map(len, found.values()))

    def _put_late(self, state: _ThreadCopy, late: Mapping[Key, list[StoredWrite]]) -> Body[None]:
        """Add writes to what is there already."""
        for (ns, checkpoint_id), writes in late.items():
            put = [self._recoded(write) for write in writes]
            script = partial(self.target.put_writes, state.thread_id, ns, checkpoint_id, put)
            yield from _writing(self.target, script)
            state.writes += len(put)

    def _put_missing(
        self, state: _ThreadCopy, keys: Collection[Key], missing: Sequence[Key], target: Contents
    ) -> Body[None]:
        """Copy what is missing, the oldest first."""
        known = {blob.key for blob in target.blobs if blob.bytes}
        if self.source.inline and not self.target.inline:
            # Which value of a version came first is told by those that are there already, too.
            apart = Apart()
            lacking = set(missing)
            for batch in _chunks(_by_age(keys), _BATCH):
                wholes = yield from self._wholes(state, batch, ())
                wholes = [apart.named(whole) for whole in wholes]
                yield from self._put(state, [w for w in wholes if (w.ns, w.id) in lacking])
        else:
            for batch in _chunks(missing, _BATCH):
                wholes = yield from self._wholes(state, batch, known)
                known |= yield from self._put(state, wholes)

    def _wholes(
        self, state: _ThreadCopy, batch: Sequence[Key], known: Collection[ValueKey]
    ) -> Body[list[Whole]]:
        """Read some checkpoints, in their order."""

        def read() -> Script[list[Whole]]:
            found = []
            for ns, ids in by_namespace(batch).items():
                found += yield from self.source.wholes(state.thread_id, ns, ids, known)
            return found

        found = yield from _reading(self.source, read)
        return sorted(found, key=lambda whole: (whole.id, whole.ns))

    def _put(self, state: _ThreadCopy, wholes: Sequence[Whole]) -> Body[set[ValueKey]]:
        """Copy checkpoints with their writes, all of them or none."""
        writes: dict[Key, list[StoredWrite]] = {}
        for ns, ids in by_namespace((whole.ns, whole.id) for whole in wholes).items():
            script = partial(self.source.writes, state.thread_id, ns, ids, None)
            found = yield from _reading(self.source, script)
            for checkpoint_id, stored in found.items():
                writes[ns, checkpoint_id] = [self._recoded(write) for write in stored]
        put = [
            replace(whole, values={n: self.recode(value) for n, value in whole.values.items()})
            for whole in wholes
        ]

        def write() -> Script[set[ValueKey]]:
            apart = yield from self.target.put_wholes(state.thread_id, put)
            for (ns, checkpoint_id), stored in writes.items():
                yield from self.target.put_writes(state.thread_id, ns, checkpoint_id, stored)
            return apart

        if not put:
            return set()
        apart: set[ValueKey] = yield from _writing(self.target, write)
        state.added.update((whole.ns, whole.id) for whole in put)
        state.writes += sum(map(len, writes.values()))
        return apart

    def _recoded(self, write: StoredWrite) -> StoredWrite:
        kind, value = self.recode((write.type, write.value))
        return write._replace(type=kind, value=value)


class Apart:
    """Gives values that are stored apart versions of their own.

    SQLite keeps a value in each checkpoint. With durability "async" LangGraph may store one a
    moment late, when a node has changed the object since: then a version has two values. Where
    values are stored by their version, the later one gets another name for it, which sorts like it.
    """

    def __init__(self) -> None:
        self.first: dict[ValueKey, str] = {}

    def named(self, whole: Whole) -> Whole:
        """Return a checkpoint in which each value has a version of its own."""
        names: dict[str, str] = {}
        for channel, value in whole.values.items():
            key = whole.value_key(channel)
            digest = stable_key(*value)[:_DIGITS]
            version = whole.head["channel_versions"].get(channel)
            if self.first.setdefault(key, digest) != digest and isinstance(version, str):
                names[channel] = f"{version}~{digest}"
        if not names:
            return whole
        head = dict(whole.head)
        head["channel_versions"] = {**head["channel_versions"], **names}
        head["versions_seen"] = {
            node: {
                channel: names[channel]
                if channel in names and version == whole.head["channel_versions"][channel]
                else version
                for channel, version in seen.items()
            }
            for node, seen in head["versions_seen"].items()
        }
        return replace(whole, head=head)


def _own_name(version: Any) -> Any:
    """Return a version as its source names it."""
    return _RENAMED.sub("", version) if isinstance(version, str) else version


def _by_age(keys: Iterable[Key]) -> list[Key]:
    return sorted(keys, key=lambda key: (key[1], key[0]))


def _recoding(source: Any, target: Any) -> Callable[[Typed], Typed]:
    """Return what makes a value of one saver one of another."""
    pickles = getattr(target.serde, "pickle_fallback", False)

    def unchanged(value: Typed) -> Typed:
        if value[0] == "pickle" and not pickles:
            raise CopyFailed(
                "the thread holds pickled values, which the target does not read; give it a "
                "JsonPlusSerializer(pickle_fallback=True)"
            )
        return value

    def written_anew(value: Typed) -> Typed:
        result: Typed = target.serde.dumps_typed(loaded(source, value))
        return result

    return unchanged if is_plain(source) and is_plain(target) else written_anew


def _has_tables(tables: Backend, which: str) -> Body[None]:
    try:
        yield from _reading(tables, partial(tables.threads, "", 1))
    except ConfigError as error:
        raise ConfigError(f"the {which}, a {tables.name}: {error}") from error


def _is_of_database(error: Exception) -> bool:
    """Say whether a driver raised an error; this module knows none of them."""
    return type(error).__module__.partition(".")[0] in ("psycopg", "psycopg_pool", "sqlite3")


def _refuse_fork(keys: Collection[Key], there: Collection[Key]) -> None:
    """Refuse a thread that went on in both savers: the later one would hide the other.

    Raises:
        CopyConflict: It did.
    """
    for ns in sorted({ns for ns, _ in keys}):
        ours = {i for n, i in keys if n == ns}
        theirs = {i for n, i in there if n == ns}
        last = max(ours & theirs, default="")
        if max(theirs - ours, default="") > last and max(ours - theirs, default="") > last:
            raise CopyConflict(
                f"the thread went on in both savers after {last or 'its start'}, or is another "
                "one in the target. Nothing of it was copied; to replace it, remove it from the "
                "target by delete_thread() and copy again"
            )


def _refuse_unexpected(state: _ThreadCopy) -> None:
    """Refuse values that the source has nowhere.

    A target that stores values apart shows one at all checkpoints that have its version; SQLite
    may store it at one of them alone.

    Raises:
        CopyConflict: There are some.
    """
    for value, (_, checkpoint_id) in state.unexpected.items():
        if value not in state.stored:
            raise CopyConflict(
                f"the target has a value of {value[1]!r} at checkpoint {checkpoint_id}, which the "
                "source has not. Nothing was overwritten"
            )


def _delta_channels(contents: Contents) -> dict[str, set[str]]:
    thread = Thread(contents.checkpoints)
    return {ns: delta_names(thread, ns, {}) for ns in thread.namespaces}


def _reading(tables: Backend, script: Callable[[], Script[Any]]) -> Body[Any]:
    return (yield tables.transaction(script, reading=True))


def _writing(tables: Backend, script: Callable[[], Script[Any]]) -> Body[Any]:
    return (yield tables.transaction(script))


def _is_old_send(checkpoint: CheckpointTuple, channel: str) -> bool:
    """Say whether Postgres alone shows a channel: up to format 3 it makes it of writes."""
    return channel == TASKS and checkpoint.checkpoint["v"] < FORMAT


def _difference(one: CheckpointTuple, other: CheckpointTuple) -> str | None:
    """Return what of two checkpoints is different; None if nothing is."""
    head, head_copied = _head(one), _head(other)
    for name in sorted(head.keys() | head_copied.keys()):
        if head.get(name) != head_copied.get(name):
            return f"the {name}"
    values, copied = one.checkpoint["channel_values"], other.checkpoint["channel_values"]
    for name, value in values.items():
        if _is_old_send(one, name):
            continue
        if name not in copied or not same(value, copied[name]):
            return f"the value of {name!r}"
    metadata, metadata_copied = dict(one.metadata), dict(other.metadata)
    if "writes" not in metadata_copied:
        metadata.pop("writes", None)
    if metadata != metadata_copied:
        return "the metadata"
    if _parent(one) != _parent(other):
        return "the parent"
    return None


def _head(found: CheckpointTuple) -> dict[str, Any]:
    head: dict[str, Any] = {**found.checkpoint}
    del head["channel_values"]
    head["channel_versions"] = {
        channel: _own_name(version)
        for channel, version in head["channel_versions"].items()
        if not _is_old_send(found, channel)
    }
    head["versions_seen"] = {
        node: {channel: _own_name(version) for channel, version in seen.items()}
        for node, seen in head["versions_seen"].items()
    }
    return head


def _parent(found: CheckpointTuple) -> str | None:
    if found.parent_config is None:
        return None
    parent: str = found.parent_config["configurable"]["checkpoint_id"]
    return parent


def _same_history(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return (
        ("seed" in one) == ("seed" in other)
        and same(one.get("seed"), other.get("seed"))
        and _same_writes(one["writes"], other["writes"])
    )


def _same_writes(one: Sequence[Any] | None, other: Sequence[Any] | None) -> bool:
    ours, theirs = one or (), other or ()
    return len(ours) == len(theirs) and all(
        a[:2] == b[:2] and same(a[2], b[2]) for a, b in zip(ours, theirs, strict=True)
    )


def same(one: Any, other: Any) -> bool:
    """Say whether two values are the same: equal, or made of the same bytes.

    Objects need not know equality, and arrays have none that is true or false.
    """
    if type(one) is not type(other):
        return False
    if _PLAIN.dumps_typed(one) == _PLAIN.dumps_typed(other):
        return True
    try:
        return bool(one == other)
    except ValueError:
        return False


def _chunks(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    for start in range(0, len(items), size):
        yield list(items[start : start + size])
