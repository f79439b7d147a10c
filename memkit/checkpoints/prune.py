"""Remove checkpoints that nothing needs any more, beside live traffic."""

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from memkit.checkpoints.backend import NOTHING, Backend, InUse, Pause, Script, Tally
from memkit.checkpoints.delta import History, Specs, carrier_for, path_of, specs_of, stored_form
from memkit.checkpoints.policy import (
    CARRIER,
    FORMAT,
    Blob,
    Key,
    Reason,
    Retention,
    SavedCheckpoint,
    Thread,
    abandoned_writes,
    decide,
    has_expired,
    nearest,
    order_of_removal,
    unreferenced,
)
from memkit.checkpoints.report import PruneReport, Refusal
from memkit.checkpoints.savers import tables_of
from memkit.checkpoints.threads import Progress, Threads, asked
from memkit.effects import Body, arun, run
from memkit.errors import ConfigError, PruneUnsafe
from memkit.facts.staleness import duration

_LONGEST_REST_S = 1.0
_ATTEMPTS = 5  # to remove a thread that others use


def prune(
    saver: Any,
    *,
    keep_last: int | None = None,
    older_than: str | timedelta | None = None,
    max_bytes: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    thread_ttl: str | timedelta | None = None,
    thread_ids: Iterable[str] | None = None,
    pinned: Iterable[str] = (),
    graph: Any = None,
    dry_run: bool = False,
    batch_rows: int = 500,
    grace_s: float = 1.0,
    rest: float = 4.0,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> PruneReport:
    """Remove the checkpoints of threads that are superfluous by all that is asked for.

    A checkpoint goes when it is beyond the last `keep_last` of its thread and namespace AND older
    than `older_than` AND has the `metadata` AND its thread takes more than `max_bytes`, the oldest
    first. It stays all the same when it is pinned (its metadata has a true "pinned", or its id is
    in `pinned`), when it is the end of a branch with pending writes or an interrupt, or when one
    that stays needs it. The calls of subgraphs go with the checkpoint that made them. The state,
    the next nodes and the tasks of everything that stays are what they were, and every thread can
    be resumed.

    It works in transactions of some `batch_rows` rows, rests between them in proportion to what
    they took, and can be killed at any moment; what is left goes the next time. Runs that continue
    a thread meanwhile lose nothing. Only a run that is just starting from an old checkpoint while
    that goes may find it gone.

    With `thread_ttl`, a thread in which nothing has happened for so long goes entirely, also when
    it waits for an answer: unless something in it is pinned, or its last checkpoint has other
    `metadata`. A run that stores something in it up to the last moment keeps it.

    DeltaChannels: what stays gets the value of the channel stored with it, where its `graph` is
    given; otherwise the writes it is made of move to an empty checkpoint in front of it, marked by
    "memkit_carrier" in its metadata, at the cost of one row and these writes.

    Args:
        saver: A PostgresSaver, SqliteSaver or InMemorySaver; for the async ones see `aprune`.
        keep_last: How many stay per thread and namespace, at least 1, which is the default.
        older_than: An age: "30d", "12h", or a timedelta.
        max_bytes: What a thread may take, all its rows and values together.
        metadata: Names and values that the metadata of what goes has: {"source": "loop"}.
        thread_ttl: How old the last checkpoint of a thread is when all of the thread goes.
        thread_ids: Which threads; all by default.
        pinned: Ids of checkpoints that stay.
        graph: The compiled graph of these threads, or several, for their DeltaChannels' reducers.
        dry_run: Change nothing, and report what would go.
        batch_rows: About how many rows one transaction removes.
        grace_s: How long those who are just reading a DeltaChannel have to end, in seconds.
        rest: How many times as long as a transaction took to pause before the next one. The slower
            a busy database is, the more it is left alone; 0 where nobody else uses it.
        now: What ages are measured from; the clock by default.
        progress: Called after each thread with how many are done, and how many there are.

    Returns:
        A report with rows and bytes, what stays and why, and refused threads.

    Raises:
        ConfigError: The saver is not known, nothing is asked for, or an argument makes no sense;
            nothing was touched.
        PruneUnsafe: Some threads cannot be pruned safely. The others were pruned; the report is
            the `report` of the error.

    Cost: Per thread and batch one transaction with a handful of statements.
    """
    backend = tables_of(_as_compiled(saver, graph), asynchronous=False, twin="aprune")
    job = _Job.of(
        backend,
        keep_last=keep_last,
        older_than=older_than,
        max_bytes=max_bytes,
        metadata=metadata,
        thread_ttl=thread_ttl,
        pinned=pinned,
        graph=graph,
        dry_run=dry_run,
        batch_rows=batch_rows,
        grace_s=grace_s,
        rest=rest,
        now=now,
    )
    return run(job.body(asked(thread_ids), progress))


async def aprune(
    saver: Any,
    *,
    keep_last: int | None = None,
    older_than: str | timedelta | None = None,
    max_bytes: int | None = None,
    metadata: Mapping[str, Any] | None = None,
    thread_ttl: str | timedelta | None = None,
    thread_ids: Iterable[str] | None = None,
    pinned: Iterable[str] = (),
    graph: Any = None,
    dry_run: bool = False,
    batch_rows: int = 500,
    grace_s: float = 1.0,
    rest: float = 4.0,
    now: datetime | None = None,
    progress: Progress | None = None,
) -> PruneReport:
    """Do what `prune` does without blocking the event loop; it takes async savers too."""
    backend = tables_of(_as_compiled(saver, graph), asynchronous=True, twin="aprune")
    job = _Job.of(
        backend,
        keep_last=keep_last,
        older_than=older_than,
        max_bytes=max_bytes,
        metadata=metadata,
        thread_ttl=thread_ttl,
        pinned=pinned,
        graph=graph,
        dry_run=dry_run,
        batch_rows=batch_rows,
        grace_s=grace_s,
        rest=rest,
        now=now,
    )
    return await arun(job.body(asked(thread_ids), progress))


def _graphs(graph: Any) -> list[Any]:
    if graph is None:
        return []
    return list(graph) if isinstance(graph, Sequence) else [graph]


def _as_compiled(saver: Any, graph: Any) -> Any:
    """Return the saver as a graph was compiled with it, which may read its classes strictly."""
    for compiled in _graphs(graph):
        own = getattr(compiled, "checkpointer", None)
        if type(own) is type(saver) and all(
            getattr(own, name, None) is getattr(saver, name, None) for name in ("conn", "storage")
        ):
            return own
    return saver


@dataclass(frozen=True)
class _Plan:
    """What is to go from one thread, in this order, and how many stay for which reason."""

    order: tuple[Key, ...] = ()
    kept: Mapping[Reason, int] = field(default_factory=dict)

    @property
    def keys(self) -> frozenset[Key]:
        return frozenset(self.order)


@dataclass(frozen=True)
class _Read:
    """What a transaction has read of a thread."""

    thread: Thread
    history: History
    orphan_writes: Mapping[Key, Tally]
    blobs: Sequence[Blob]


@dataclass
class _Outcome:
    """What one transaction did."""

    plan: _Plan | None = None
    wait: bool = False
    done: bool = False
    checkpoints: Tally = NOTHING
    writes: Tally = NOTHING
    blobs: Tally = NOTHING
    added: Tally = NOTHING
    expired: bool = False


@dataclass
class _Totals:
    checkpoints: Tally = NOTHING
    writes: Tally = NOTHING
    blobs: Tally = NOTHING
    added: Tally = NOTHING
    kept: Counter[Reason] = field(default_factory=Counter)
    refused: list[Refusal] = field(default_factory=list)
    looked_at: int = 0
    done: int = 0
    took_s: float = 0.0  # the last transaction
    touched: set[str] = field(default_factory=set)
    expired: int = 0

    def add(self, thread_id: str, outcome: _Outcome) -> None:
        self.checkpoints = self.checkpoints.plus(*outcome.checkpoints)
        self.writes = self.writes.plus(*outcome.writes)
        self.blobs = self.blobs.plus(*outcome.blobs)
        self.added = self.added.plus(*outcome.added)
        if outcome.done and outcome.plan is not None:
            self.kept.update(outcome.plan.kept)
        if outcome.checkpoints.rows or outcome.writes.rows or outcome.blobs.rows:
            self.touched.add(thread_id)
        self.expired += outcome.expired


@dataclass(frozen=True)
class _Job:
    """One call of prune."""

    tables: Backend
    retention: Retention
    specs: Specs
    dry_run: bool
    batch_rows: int
    grace_s: float
    rest: float
    now: datetime

    @classmethod
    def of(
        cls,
        tables: Backend,
        *,
        keep_last: int | None,
        older_than: str | timedelta | None,
        max_bytes: int | None,
        metadata: Mapping[str, Any] | None,
        thread_ttl: str | timedelta | None,
        pinned: Iterable[str],
        graph: Any,
        dry_run: bool,
        batch_rows: int,
        grace_s: float,
        rest: float,
        now: datetime | None,
    ) -> "_Job":
        """Check the arguments, before anything is touched."""
        by_checkpoint = (keep_last, older_than, max_bytes)
        if by_checkpoint == (None, None, None) and metadata is None and thread_ttl is None:
            raise ConfigError(
                "say what goes: keep_last=, older_than=, max_bytes=, metadata= or thread_ttl= must "
                "be given"
            )
        if by_checkpoint == (None, None, None) and thread_ttl is not None:
            keep_last = sys.maxsize  # only whole threads are asked for
        if keep_last is not None and keep_last < 1:
            raise ConfigError(
                f"keep_last is at least 1, got {keep_last}; a thread without a checkpoint cannot "
                "be resumed, and saver.delete_thread() removes it"
            )
        if max_bytes is not None and max_bytes < 0:
            raise ConfigError(f"max_bytes is at least 0, got {max_bytes}")
        if batch_rows < 1 or grace_s < 0 or rest < 0:
            raise ConfigError(
                "batch_rows is at least 1, grace_s and rest at least 0, got "
                f"{batch_rows}, {grace_s} and {rest}"
            )
        if isinstance(pinned, str):
            raise ConfigError(f"pinned is a list of checkpoint ids, got the string {pinned!r}")
        if now is not None and now.tzinfo is None:
            raise ConfigError(f"now needs a time zone, got {now.isoformat()}")
        return cls(
            tables=tables,
            retention=Retention(
                keep_last=1 if keep_last is None else keep_last,
                older_than=None if older_than is None else duration(older_than),
                max_bytes=max_bytes,
                metadata=metadata,
                pinned=frozenset(pinned),
                thread_ttl=None if thread_ttl is None else duration(thread_ttl),
            ),
            specs=specs_of(_graphs(graph)),
            dry_run=dry_run,
            batch_rows=batch_rows,
            grace_s=grace_s,
            rest=rest,
            now=now or datetime.now(UTC),
        )

    def body(
        self, thread_ids: list[str] | None, progress: Progress | None = None
    ) -> Body[PruneReport]:
        """Prune page by page of threads."""
        totals = _Totals()
        threads = Threads(self.tables, thread_ids)
        count = 0 if progress is None else (yield from threads.count())
        while page := (yield from threads.page()):
            totals.looked_at += len(page)
            yield from self._prune_page(page, totals, count, progress)
        report = PruneReport(
            saver=self.tables.name,
            dry_run=self.dry_run,
            threads=totals.looked_at,
            pruned=len(totals.touched),
            expired=totals.expired,
            checkpoints=totals.checkpoints,
            writes=totals.writes,
            blobs=totals.blobs,
            added=totals.added,
            kept=dict(totals.kept),
            refused=tuple(totals.refused),
            advice=self.tables.advice,
        )
        if report.refused:
            first = report.refused[0]
            raise PruneUnsafe(
                f"{len(report.refused)} of {report.threads} threads were refused, the others "
                f"pruned; the first: {first.why}",
                report=report,
            )
        return report

    def _transaction(self, script: Any) -> Body[Any]:
        return (yield self.tables.transaction(script, reading=self.dry_run))

    def _prune_page(
        self, page: Sequence[str], totals: _Totals, count: int, progress: Progress | None
    ) -> Body[None]:
        """Give all threads of a page what they need first, so that they share the wait."""
        work: dict[str, _Plan | None] = dict.fromkeys(page)
        while work:
            waiting: dict[str, _Plan | None] = {}
            for thread_id, plan in work.items():
                try:
                    outcome = yield from self._prune_thread(thread_id, plan, totals)
                except PruneUnsafe as error:
                    totals.refused.append(Refusal(thread_id, str(error)))
                else:
                    if outcome.wait:
                        waiting[thread_id] = outcome.plan
                        continue
                totals.done += 1
                if progress is not None:
                    progress(totals.done, max(count, totals.done))
            if waiting:
                yield Pause(self.grace_s)
            work = waiting

    def _prune_thread(self, thread_id: str, plan: _Plan | None, totals: _Totals) -> Body[_Outcome]:
        attempts = _ATTEMPTS if self.retention.thread_ttl is not None else 0
        while True:
            # Here and not behind it: after the last one there is nothing to rest for.
            yield Pause(min(self.rest * totals.took_s, _LONGEST_REST_S))
            began = time.monotonic()
            script = partial(self._step, thread_id, plan, may_expire=attempts > 0)
            try:
                outcome: _Outcome = yield from self._transaction(script)
            except InUse:
                attempts -= 1
                continue
            finally:
                totals.took_s = time.monotonic() - began
            totals.add(thread_id, outcome)
            if outcome.done or outcome.wait:
                return outcome
            plan = outcome.plan

    def _step(self, thread_id: str, plan: _Plan | None, *, may_expire: bool) -> Script[_Outcome]:
        """Do as much as fits one transaction.

        Args:
            thread_id: Whose checkpoints.
            plan: What is to go, where that is decided; it was prepared a moment ago.
            may_expire: Whether the thread may go entirely.
        """
        contents = yield from self.tables.contents(thread_id)
        thread = Thread(contents.checkpoints)
        history = History(self.tables, thread_id, thread, self.specs)
        read = _Read(thread, history, contents.orphan_writes, contents.blobs)
        outcome = _Outcome()
        if may_expire and has_expired(thread, self.retention, self.now):
            yield from self._expire(read, outcome)
            return outcome
        if plan is None:
            orphans = sum(tally.bytes for tally in contents.orphan_writes.values())
            stays = decide(thread, self.retention, self.now, contents.blobs, orphans)
            order = tuple(c.key for c in order_of_removal(thread, stays))
            plan = _Plan(order, Counter(stays.values()))
            yield from self._prepare(history, plan, outcome)
        outcome.plan = plan
        if self.dry_run:
            going = [thread.by_key[key] for key in plan.order]
            yield from self._remove(read, going, outcome, last=True)
            outcome.done = True
        elif not outcome.wait:
            yield from self._remove_batch(read, plan, outcome)
        return outcome

    def _expire(self, read: _Read, outcome: _Outcome) -> Script[None]:
        """Remove all of a thread."""
        for checkpoint in read.thread.all:
            outcome.checkpoints = outcome.checkpoints.plus(1, checkpoint.bytes)
            outcome.writes = outcome.writes.plus(checkpoint.writes, checkpoint.write_bytes)
        for tally in read.orphan_writes.values():
            outcome.writes = outcome.writes.plus(*tally)
        outcome.blobs = outcome.blobs.plus(len(read.blobs), sum(blob.bytes for blob in read.blobs))
        outcome.expired = outcome.done = True
        if not self.dry_run:
            yield from self.tables.remove_thread(read.history.thread_id, read.thread.by_key)

    def _edges(self, thread: Thread, going: frozenset[Key]) -> Iterator[SavedCheckpoint]:
        """Yield what stays of which the parent goes, or is gone."""
        for checkpoint in thread.all:
            parent = (checkpoint.ns, checkpoint.parent or "")
            if (
                checkpoint.key not in going
                and checkpoint.parent is not None
                and (parent in going or parent not in thread.by_key)
            ):
                yield checkpoint

    def _prepare(self, history: History, plan: _Plan, outcome: _Outcome) -> Script[None]:
        """Store what DeltaChannels will need when the plan is carried out."""
        thread_id, thread = history.thread_id, history.thread
        planned: set[tuple[str, str, str]] = set()
        for edge in self._edges(thread, plan.keys):
            missing = yield from history.missing(edge)
            known = missing & self.specs.get(path_of(edge.ns), {}).keys()
            if known:
                values = yield from history.snapshot(edge, known)
                if self.dry_run and not self.tables.inline:
                    # A value stored apart serves all that have its version, and is put once.
                    keys = {name: (edge.ns, name, str(values[name][0])) for name in values}
                    values = {n: value for n, value in values.items() if keys[n] not in planned}
                    planned.update(keys.values())
                dumps = self.tables.saver.serde.dumps_typed
                size = sum(len(dumps(value)[1]) for _, value in values.values())
                outcome.added = outcome.added.plus(len(values), size)
                if not self.dry_run:
                    yield from self.tables.put_values(thread_id, edge.ns, edge.id, values)
            if missing - known:
                writes = yield from history.carried(edge, missing - known)
                carrier = carrier_for(thread_id, edge)
                size = sum(len(write.value) for write in writes)
                outcome.added = outcome.added.plus(1 + len(writes), size)
                if not self.dry_run:
                    yield from self._put(thread_id, carrier)
                    yield from self.tables.put_writes(thread_id, edge.ns, carrier.id, writes)
                    yield from self.tables.relink(thread_id, {edge.key: carrier.id})
            outcome.wait = outcome.wait or bool(missing and not self.dry_run)

    def _put(self, thread_id: str, carrier: SavedCheckpoint) -> Script[None]:
        form = stored_form(carrier)
        yield from self.tables.put_checkpoint(thread_id, carrier.ns, form, carrier.metadata)

    def _remove_batch(self, read: _Read, plan: _Plan, outcome: _Outcome) -> Script[None]:
        """Remove the next of what is planned, unless somebody has come to need it."""
        thread = read.thread
        going = [thread.by_key[key] for key in plan.order if key in thread.by_key]
        batch: list[SavedCheckpoint] = []
        rows = 0
        for checkpoint in going:
            if batch and rows + 1 + checkpoint.writes > self.batch_rows:
                break
            batch.append(checkpoint)
            rows += 1 + checkpoint.writes
        for edge in self._edges(thread, plan.keys):
            if (edge.ns, edge.parent or "") in thread.by_key and (
                yield from read.history.missing(edge)
            ):
                # A run has since continued a checkpoint that was to go: decide anew.
                outcome.plan = None
                return
        outcome.done = len(batch) == len(going)
        yield from self._remove(read, batch, outcome, last=outcome.done)

    def _remove(
        self, read: _Read, batch: Sequence[SavedCheckpoint], outcome: _Outcome, *, last: bool
    ) -> Script[None]:
        """Remove checkpoints with all that is theirs alone; with the last, what is nobody's."""
        thread, thread_id = read.thread, read.history.thread_id
        keys = {checkpoint.key for checkpoint in batch}
        left = [checkpoint for checkpoint in thread.all if checkpoint.key not in keys]
        freed = unreferenced(left, batch, read.blobs, everything=last)
        lost: list[Key] = []
        if last:
            now = datetime.now(UTC)
            lost = abandoned_writes(thread, [c.key for c in left], read.orphan_writes, now)
        for checkpoint in batch:
            outcome.checkpoints = outcome.checkpoints.plus(1, checkpoint.bytes)
            outcome.writes = outcome.writes.plus(checkpoint.writes, checkpoint.write_bytes)
        for key in lost:
            outcome.writes = outcome.writes.plus(*read.orphan_writes[key])
        outcome.blobs = outcome.blobs.plus(len(freed), sum(blob.bytes for blob in freed))
        if self.dry_run:
            return
        parents: dict[Key, str | None] = {}
        for checkpoint in left:
            if (checkpoint.ns, checkpoint.parent or "") in keys:
                ancestor = nearest(thread, checkpoint, lambda key: key not in keys)
                if checkpoint.v < FORMAT:
                    ancestor = None  # else what that one sent would be sent again
                parents[checkpoint.key] = None if ancestor is None else ancestor.id
            replaced = thread.by_key.get((checkpoint.ns, str(checkpoint.metadata.get(CARRIER))))
            if replaced is not None and replaced.key in keys:
                ancestor = nearest(thread, replaced, lambda key: key not in keys)
                stands_for = {CARRIER: True if ancestor is None else ancestor.id}
                metadata = {**checkpoint.metadata, **stands_for}
                yield from self._put(thread_id, replace(checkpoint, metadata=metadata))
        if parents:
            yield from self.tables.relink(thread_id, parents)
        if keys:
            yield from self.tables.remove(thread_id, [c.key for c in batch])
        if lost:
            yield from self.tables.remove_writes(thread_id, lost)
        if freed:
            yield from self.tables.remove_blobs(thread_id, freed)
