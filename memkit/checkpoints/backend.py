"""What pruning asks of a checkpointer, and what a transaction looks like to the logic inside it.

A script is a generator that yields statements and gets their rows sent back; a backend runs it in
one transaction, blocking or on the event loop. Scripts of a backend without SQL yield nothing.
"""

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from langgraph.checkpoint.base import writes_sort_key
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener

from memkit.checkpoints.policy import Blob, Key, SavedCheckpoint
from memkit.effects import Effect
from memkit.errors import PruneUnsafe

T = TypeVar("T")


class Statement(NamedTuple):
    """One statement; with `many`, `params` is a list of them and it runs once for each."""

    sql: str
    params: Sequence[Any] | Mapping[str, Any] = ()
    fetch: bool = True
    many: bool = False


Script: TypeAlias = Generator[Statement, list[Any], T]
Execute: TypeAlias = Callable[[Statement], list[Any]]
AsyncExecute: TypeAlias = Callable[[Statement], Awaitable[list[Any]]]


def drive(script: Script[T], execute: Execute) -> T:
    """Run a script to its end."""
    try:
        statement = next(script)
        while True:
            statement = script.send(execute(statement))
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class Transaction:
    """Run a script in one transaction: all of what it does is kept, or nothing.

    Attributes:
        script: Makes the script.
        begin: Opens a blocking transaction, and yields what executes a statement; or None.
        abegin: The same on the event loop; where it is None, a thread runs the blocking one.
    """

    script: Callable[[], Script[Any]]
    begin: Callable[[], AbstractContextManager[Execute]] | None
    abegin: Callable[[], AbstractAsyncContextManager[AsyncExecute]] | None = None

    def run(self) -> Any:
        """Commit what the script did, and return what it returns."""
        assert self.begin is not None  # noqa: S101 - prune has refused an async saver
        with self.begin() as execute:
            return drive(self.script(), execute)

    async def arun(self) -> Any:
        """Do the same without blocking the event loop."""
        if self.abegin is None:
            return await asyncio.to_thread(self.run)
        script = self.script()
        async with self.abegin() as execute:
            try:
                statement = next(script)
                while True:
                    statement = script.send(await execute(statement))
            except StopIteration as stop:
                return stop.value


@dataclass(frozen=True, slots=True)
class Pause:
    """Leave a moment to others, who may wait for the same lock."""

    seconds: float = 0.0

    def run(self) -> None:
        """Sleep."""
        time.sleep(self.seconds)

    async def arun(self) -> None:
        """Sleep without blocking the event loop."""
        await asyncio.sleep(self.seconds)


# Sorts behind the paths of tasks, "~__pregel_pull…", and what LangGraph stores at exit, "~~000…".
MOVED = "~~~"


class StoredWrite(NamedTuple):
    """A write as it is stored: its value is `type` and bytes."""

    task_path: str
    task_id: str
    idx: int
    channel: str
    type: str
    value: bytes

    @property
    def place(self) -> tuple[str, str, int]:
        """Where it comes among the writes of its checkpoint."""
        return writes_sort_key(self.task_path, self.task_id, self.idx)


@dataclass(frozen=True, slots=True)
class ChannelFacts:
    """Of a checkpoint: the channels that have a version, and those whose value is stored at it."""

    versions: Mapping[str, Any] = field(default_factory=dict)
    stored: frozenset[str] = frozenset()


class Tally(NamedTuple):
    """Rows, and the bytes of what they hold."""

    rows: int = 0
    bytes: int = 0

    def plus(self, rows: int, size: int) -> "Tally":
        """Return the sum."""
        return Tally(self.rows + rows, self.bytes + size)


NOTHING = Tally()


@dataclass(frozen=True, slots=True)
class Contents:
    """What is stored of one thread: its checkpoints, and writes under ids that have none.

    They are read in the opposite order, values first: what a writer stores with a checkpoint in
    between is then not taken for that of no checkpoint.
    """

    checkpoints: list[SavedCheckpoint]
    orphan_writes: dict[Key, Tally]
    blobs: list[Blob] = field(default_factory=list)


class ThreadSize(NamedTuple):
    """What one thread takes.

    Attributes:
        thread_id: Which thread.
        checkpoints: How many it has.
        rows: Of all tables.
        bytes: Of what they hold.
    """

    thread_id: str
    checkpoints: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a saver's tables take.

    Attributes:
        tables: Rows and bytes of what they hold: "checkpoints", "writes" and "blobs".
        disk: What the database says that its files take, by their name.
        threads: How many threads there are.
        largest: The largest of them, the largest first.
    """

    tables: Mapping[str, Tally]
    disk: Mapping[str, int]
    threads: int
    largest: Sequence[ThreadSize]


Typed: TypeAlias = tuple[str, bytes]
# A namespace, a channel, and the version of its value as text.
ValueKey: TypeAlias = tuple[str, str, str]


@dataclass(frozen=True, slots=True)
class Whole:
    """A checkpoint with all that it holds.

    Attributes:
        ns: Its namespace.
        parent: The id of the checkpoint it continues.
        head: What LangGraph keeps of it beside values.
        metadata: What is stored beside it.
        values: The values of its channels, each a type and bytes as its saver's serializer made
            them.
    """

    ns: str
    parent: str | None
    head: Mapping[str, Any]
    metadata: Mapping[str, Any]
    values: Mapping[str, Typed]

    @property
    def id(self) -> str:
        """Its id."""
        return str(self.head["id"])

    def value_key(self, channel: str) -> ValueKey:
        """Return the name of a value in tables that store it apart."""
        return self.ns, channel, str(self.head["channel_versions"].get(channel))


class InUse(Exception):
    """What a transaction was to remove is being used; nothing was changed."""


class Backend(Protocol):
    """The tables of one saver. Every method is a script, but for the properties and transaction."""

    @property
    def name(self) -> str:
        """The class of the saver."""

    @property
    def saver(self) -> Any:
        """The saver."""

    @property
    def asynchronous(self) -> bool:
        """Whether the saver is used on an event loop."""

    @property
    def inline(self) -> bool:
        """Whether each checkpoint holds its values itself."""

    @property
    def advice(self) -> str:
        """How the room that was won comes back."""

    def transaction(self, script: Callable[[], Script[Any]], *, reading: bool = False) -> Effect:
        """Return the effect that runs a script, all of it or nothing."""

    def threads(self, after: str, limit: int) -> Script[list[str]]:
        """Return the ids of the next threads, ascending."""

    def sizes(self, largest: int, thread_ids: Sequence[str] | None) -> Script[Sizes]:
        """Count rows and bytes, of these threads or of all."""

    def contents(self, thread_id: str) -> Script[Contents]:
        """Read what is stored of a thread, and shut out other prunings of it."""

    def channels(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str]
    ) -> Script[dict[str, ChannelFacts]]:
        """Return per checkpoint what is known of these channels."""

    def values(
        self, thread_id: str, ns: str, checkpoint_id: str, names: Collection[str]
    ) -> Script[dict[str, Any]]:
        """Return the values that are stored at a checkpoint."""

    def writes(
        self, thread_id: str, ns: str, ids: Sequence[str], names: Collection[str] | None
    ) -> Script[dict[str, list[StoredWrite]]]:
        """Return per checkpoint its writes to these channels (None: to all), in their order."""

    def wholes(
        self, thread_id: str, ns: str, ids: Sequence[str], known: Collection[ValueKey]
    ) -> Script[list[Whole]]:
        """Read checkpoints with their values, but for those that are known."""

    def put_wholes(self, thread_id: str, wholes: Sequence[Whole]) -> Script[set[ValueKey]]:
        """Store checkpoints that are not there yet; what is there stays.

        The values are as this saver's serializer would make them. Returns the keys of values that
        are stored apart, which need not be given again.
        """

    def put_values(
        self, thread_id: str, ns: str, checkpoint_id: str, values: Mapping[str, tuple[Any, Any]]
    ) -> Script[None]:
        """Store values at a checkpoint, each with the version of its channel."""

    def put_checkpoint(
        self, thread_id: str, ns: str, checkpoint: Mapping[str, Any], metadata: Mapping[str, Any]
    ) -> Script[None]:
        """Store a checkpoint that continues none and holds no values, or change its metadata."""

    def put_writes(
        self, thread_id: str, ns: str, checkpoint_id: str, writes: Sequence[StoredWrite]
    ) -> Script[None]:
        """Add writes to a checkpoint."""

    def relink(self, thread_id: str, parents: Mapping[Key, str | None]) -> Script[None]:
        """Let checkpoints continue others."""

    def remove(self, thread_id: str, keys: Sequence[Key]) -> Script[None]:
        """Remove checkpoints with their writes."""

    def remove_writes(self, thread_id: str, keys: Sequence[Key]) -> Script[None]:
        """Remove the writes under these ids."""

    def remove_blobs(self, thread_id: str, blobs: Sequence[Blob]) -> Script[None]:
        """Remove values stored apart."""

    def remove_thread(self, thread_id: str, known: Collection[Key]) -> Script[None]:
        """Remove a thread of which these are all checkpoints.

        Raises:
            InUse: It has others by now, or that cannot be told at the moment.
        """


def loaded(saver: Any, stored: tuple[str, bytes]) -> Any:
    """Read a value that is to be written again.

    Raises:
        PruneUnsafe: It holds a class that the saver's strict serializer replaces by plain data.
    """
    blocked: list[str] = []
    reader = threading.get_ident()

    def listen(event: SerdeEvent) -> None:
        if threading.get_ident() == reader and "blocked" in event["kind"]:
            blocked.append(f"{event['module']}.{event['name']}")

    stop_listening = register_serde_event_listener(listen)
    try:
        value = saver.serde.loads_typed(stored)
    finally:
        stop_listening()
    if blocked:
        raise PruneUnsafe(
            f"the thread holds a {blocked[0]}, which the strict serializer does not read; give the "
            "graph=, compiled with this checkpointer, or name the class in the serializer's "
            "allowed_msgpack_modules"
        )
    return value


def by_namespace(keys: Iterable[Key]) -> dict[str, list[str]]:
    """Return the ids of each namespace."""
    found: dict[str, list[str]] = {}
    for ns, checkpoint_id in keys:
        found.setdefault(ns, []).append(checkpoint_id)
    return found


def grouped(rows: Iterable[tuple[str, StoredWrite]]) -> dict[str, list[StoredWrite]]:
    """Return the writes of each checkpoint, in their order."""
    found: dict[str, list[StoredWrite]] = {}
    for checkpoint_id, write in rows:
        found.setdefault(checkpoint_id, []).append(write)
    for writes in found.values():
        writes.sort(key=lambda write: write.place)
    return found
