"""What checkpoints take, and how that grows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from math import log
from typing import Any

from memkit.checkpoints.backend import Backend, Contents, Sizes, Tally, ThreadSize
from memkit.checkpoints.policy import SavedCheckpoint, references
from memkit.checkpoints.savers import tables_of
from memkit.checkpoints.threads import asked
from memkit.effects import Body, arun, run
from memkit.errors import ConfigError

_ENOUGH_TURNS = 4


@dataclass(frozen=True)
class Growth:
    """How threads grow, measured on the largest ones that are still whole.

    A turn is one run. What the k-th turn of a thread adds, is modelled as `steps_per_turn` rows of
    a fixed size, and copies of a state that every turn has made larger by `history_bytes`. SQLite
    stores a copy with each step; Postgres and memory store one for each update of the channel.

    Attributes:
        exponent: Bytes grow as turns to the power of this: 1 is linear, 2 is the square. The
            slope of log(bytes) over log(turns), by least squares.
        threads: How many threads were measured.
        turns: The turns of the longest.
        steps_per_turn: Checkpoints that a turn makes, those of subgraphs too.
        copies_per_turn: How many copies of the growing state a turn stores.
        row_bytes: What a checkpoint takes beside the growing state.
        write_bytes: What the writes of a checkpoint take.
        turn_bytes: What the values stored apart take per turn, beside the growing state.
        history_bytes: By how much every turn makes each later copy of the state larger.
    """

    exponent: float
    threads: int
    turns: int
    steps_per_turn: float
    copies_per_turn: float
    row_bytes: float
    write_bytes: float
    turn_bytes: float
    history_bytes: float

    @property
    def inline(self) -> bool:
        """Whether each checkpoint holds its values itself."""
        return self.copies_per_turn == self.steps_per_turn


@dataclass(frozen=True)
class CheckpointReport:
    """What the checkpoints of a saver take.

    Attributes:
        saver: The class of the saver.
        tables: Rows and bytes of what they hold: "checkpoints", "writes" and "blobs", which are
            the values that Postgres and memory store apart (SQLite has none).
        disk: What files take with indexes and free room, where the database tells it: by table in
            Postgres, "database" and "free in it" in SQLite.
        threads: How many threads there are.
        largest: The largest of them.
        growth: How they grow; None where no thread has enough turns.
    """

    saver: str
    tables: Mapping[str, Tally]
    disk: Mapping[str, int] = field(default_factory=dict)
    threads: int = 0
    largest: tuple[ThreadSize, ...] = ()
    growth: Growth | None = None

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    @property
    def bytes(self) -> int:
        """Bytes of all tables."""
        return sum(table.bytes for table in self.tables.values())

    @property
    def bytes_per_step(self) -> float:
        """Bytes of all tables per checkpoint; 0 where there is none."""
        steps = self.tables["checkpoints"].rows
        return self.bytes / steps if steps else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "saver": self.saver,
            "rows": self.rows,
            "bytes": self.bytes,
            "bytes_per_step": self.bytes_per_step,
            "tables": {name: table._asdict() for name, table in self.tables.items()},
            "disk": dict(self.disk),
            "threads": self.threads,
            "largest": [thread._asdict() for thread in self.largest],
            "growth": None if self.growth is None else asdict(self.growth),
        }

    def __str__(self) -> str:
        tables = ", ".join(
            f"{name} {table.rows} rows {readable(table.bytes)}"
            for name, table in self.tables.items()
        )
        lines = [
            f"{self.saver}: {self.threads} threads, {self.rows} rows, {readable(self.bytes)}, "
            f"{readable(self.bytes_per_step)} per step",
            f"of these: {tables}",
        ]
        if self.disk:
            files = ", ".join(f"{name} {readable(size)}" for name, size in self.disk.items())
            lines.append(f"on disk: {files}")
        lines += [
            f"large: {thread.thread_id}: {thread.checkpoints} checkpoints, {thread.rows} rows, "
            f"{readable(thread.bytes)}"
            for thread in self.largest
        ]
        if self.growth is None:
            lines.append(f"growth: not known, no whole thread has {_ENOUGH_TURNS} turns")
        else:
            grown = self.growth
            lines.append(
                f"growth: with turns to the power of {grown.exponent:.2f} ({grown.threads} threads "
                f"of up to {grown.turns} turns, {grown.steps_per_turn:.1f} steps each; a turn adds "
                f"{readable(grown.history_bytes)} to every later copy of the state, of which a "
                f"turn stores {grown.copies_per_turn:.1f})"
            )
        return "\n".join(lines)


def readable(size: float) -> str:
    """Return a number of bytes in its unit: 1.5 kB, of 1000 bytes each."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def report(
    saver: Any, *, largest: int = 10, thread_ids: Iterable[str] | None = None
) -> CheckpointReport:
    """Say what checkpoints take: by table, by thread, and how it grows from turn to turn.

    Args:
        saver: A PostgresSaver, SqliteSaver or InMemorySaver; for the async ones see `areport`.
        largest: How many of the largest threads are named, and measured for the growth.
        thread_ids: Which threads to look at; all by default.

    Returns:
        A report; `str()` of it is to be read, `as_dict()` is for JSON.

    Raises:
        ConfigError: The saver is not known, or an argument makes no sense.

    Cost: One scan that counts rows and sizes inside the database and reads no value, and of each of
        the largest threads the metadata of its checkpoints.
    """
    tables = tables_of(saver, asynchronous=False, twin="areport")
    return run(_body(tables, largest, asked(thread_ids)))


async def areport(
    saver: Any, *, largest: int = 10, thread_ids: Iterable[str] | None = None
) -> CheckpointReport:
    """Do what `report` does without blocking the event loop; it takes async savers too."""
    tables = tables_of(saver, asynchronous=True)
    return await arun(_body(tables, largest, asked(thread_ids)))


def _body(tables: Backend, largest: int, thread_ids: list[str] | None) -> Body[CheckpointReport]:
    if largest < 0:
        raise ConfigError(f"largest is at least 0, got {largest}")
    sizes: Sizes = yield tables.transaction(
        partial(tables.sizes, largest, thread_ids), reading=True
    )
    measured = []
    for thread in sizes.largest:
        contents = yield tables.transaction(
            partial(tables.contents, thread.thread_id), reading=True
        )
        measured.append(ThreadTurns.of(contents))
    return CheckpointReport(
        saver=tables.name,
        tables=sizes.tables,
        disk=sizes.disk,
        threads=sizes.threads,
        largest=tuple(sizes.largest),
        growth=growth(measured),
    )


@dataclass(frozen=True)
class ThreadTurns:
    """What each turn of a thread added.

    Attributes:
        whole: Whether nothing of it was pruned.
        steps: How many checkpoints it has.
        rows: Bytes of checkpoints, per turn.
        writes: Bytes of writes, per turn.
        values: Bytes of values stored apart, per turn.
        copies: How many values of the channel that takes most were stored.
    """

    whole: bool
    steps: int
    rows: Sequence[int]
    writes: Sequence[int]
    values: Sequence[int]
    copies: int

    @property
    def turns(self) -> int:
        """How many turns it has."""
        return len(self.rows)

    @property
    def totals(self) -> list[int]:
        """Bytes of all, per turn."""
        return [sum(parts) for parts in zip(self.rows, self.writes, self.values, strict=True)]

    @classmethod
    def of(cls, contents: Contents) -> "ThreadTurns":
        """Count what each turn is the first to store."""
        left = {blob.key: blob.bytes for blob in contents.blobs}
        by_channel: Counter[tuple[str, str]] = Counter()
        for ns, channel, _, size in contents.blobs:
            by_channel[ns, channel] += size
        most = max(by_channel, key=lambda channel: by_channel[channel], default=None)
        by_key = {checkpoint.key: checkpoint for checkpoint in contents.checkpoints}
        rows: list[int] = []
        writes: list[int] = []
        values: list[int] = []
        for checkpoint in sorted(contents.checkpoints, key=lambda c: (c.id, c.ns)):
            if not rows or starts_turn(checkpoint, by_key.get(("", checkpoint.parent or ""))):
                for per_turn in (rows, writes, values):
                    per_turn.append(0)
            rows[-1] += checkpoint.bytes
            writes[-1] += checkpoint.write_bytes
            values[-1] += sum(left.pop(key, 0) for key in references(checkpoint))
        copies = sum((blob.ns, blob.channel) == most and blob.bytes > 0 for blob in contents.blobs)
        steps = len(contents.checkpoints)
        return cls(is_whole(contents.checkpoints), steps, rows, writes, values, copies)


def starts_turn(checkpoint: SavedCheckpoint, parent: SavedCheckpoint | None) -> bool:
    """Say whether a run begins with a checkpoint.

    It does with the one that holds its input. With durability "exit" there is none, but the number
    of the step then makes a jump.
    """
    if checkpoint.ns or checkpoint.is_carrier:
        return False
    if checkpoint.metadata.get("source") == "input" or parent is None:
        return True
    step, before = checkpoint.metadata.get("step"), parent.metadata.get("step")
    return isinstance(step, int) and isinstance(before, int) and step > before + 1


def is_whole(checkpoints: Sequence[SavedCheckpoint]) -> bool:
    """Say whether a thread still has its first checkpoint, as far as that can be told."""
    root = [c for c in checkpoints if not c.ns]
    if any(c.is_carrier for c in root):
        return False
    inputs = [c for c in root if c.metadata.get("source") == "input"]
    return not inputs or any(c.metadata.get("step") == -1 for c in inputs)


def growth(threads: Iterable[ThreadTurns]) -> Growth | None:
    """Fit how threads grow; None where none has enough turns."""
    fit = [thread for thread in threads if thread.whole and thread.turns >= _ENOUGH_TURNS]
    if not fit:
        return None
    turns = sum(thread.turns for thread in fit)
    steps = sum(thread.steps for thread in fit)
    inline = not any(sum(thread.values) for thread in fit)
    copies = steps if inline else sum(thread.copies for thread in fit)
    fixed, slope = _line(
        [
            (turn, added)
            for thread in fit
            for turn, added in enumerate(thread.rows if inline else thread.values, start=1)
        ]
    )
    rows = fixed * turns if inline else sum(sum(thread.rows) for thread in fit)
    return Growth(
        exponent=_exponent(fit),
        threads=len(fit),
        turns=max(thread.turns for thread in fit),
        steps_per_turn=steps / turns,
        copies_per_turn=copies / turns,
        row_bytes=rows / steps,
        write_bytes=sum(sum(thread.writes) for thread in fit) / steps,
        turn_bytes=0.0 if inline else fixed,
        history_bytes=slope * turns / copies,
    )


def _line(points: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return what a turn adds at first and by how much more each: both at least 0."""
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    if slope <= 0:
        return mean_y, 0.0
    fixed = mean_y - slope * mean_x
    if fixed >= 0:
        return fixed, slope
    return 0.0, sum(x * y for x, y in points) / sum(x * x for x, _ in points)


def _exponent(threads: Sequence[ThreadTurns]) -> float:
    """Return the slope of log(bytes so far) over log(turns), common to all threads."""
    above = below = 0.0
    for thread in threads:
        total = 0
        points = []
        for turn, added in enumerate(thread.totals, start=1):
            total += added
            points.append((log(turn), log(max(total, 1))))
        mean_x = sum(x for x, _ in points) / len(points)
        mean_y = sum(y for _, y in points) / len(points)
        above += sum((x - mean_x) * (y - mean_y) for x, y in points)
        below += sum((x - mean_x) ** 2 for x, _ in points)
    return above / below
