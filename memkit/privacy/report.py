"""What an erasure did, and what it left."""

from dataclasses import dataclass, field
from typing import NamedTuple

from memkit.checkpoints.backend import Tally


class Trace(NamedTuple):
    """A place where something of a person still stands.

    Attributes:
        place: "store" or "checkpointer", and the table and column, or the namespace.
        rows: How many rows or items hold it.
        what: What was found: "user id", "thread id" or "text".
        text: The text itself.
    """

    place: str
    rows: int
    what: str
    text: str


@dataclass(frozen=True, slots=True)
class ErasureReport:
    """What was erased of a person; with `dry_run`, what would be.

    Attributes:
        user_id: The person.
        dry_run: Whether nothing was changed.
        items: Items of the store.
        passages: Indexed texts of theirs, each with its vector.
        versions: Superseded versions of items.
        threads: Ids of the threads.
        checkpoints: Their checkpoints: rows and bytes.
        writes: Their writes.
        blobs: Their values, where the checkpointer stores these apart.
        shared: Threads that other people's ids stand in too; they are left as they are.
        traces: Where the person's id, the threads' ids or some of the texts still stand afterwards:
            in namespaces of others, in shared threads, in tables of other programs.
        unsearched: What was not looked for: too short to be told from other text.
    """

    user_id: str
    dry_run: bool
    items: int = 0
    passages: int = 0
    versions: int = 0
    threads: tuple[str, ...] = ()
    checkpoints: Tally = field(default_factory=Tally)
    writes: Tally = field(default_factory=Tally)
    blobs: Tally = field(default_factory=Tally)
    shared: tuple[str, ...] = ()
    traces: tuple[Trace, ...] = ()
    unsearched: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether it is done and nothing of the person was found afterwards."""
        return not (self.dry_run or self.shared or self.traces or self.unsearched)

    def __str__(self) -> str:
        would = "would go" if self.dry_run else "went"
        lines = [
            f"{self.user_id}: {self.items} items with {self.passages} indexed texts and "
            f"{self.versions} old versions, {len(self.threads)} threads with "
            f"{self.checkpoints.rows} checkpoints, {self.writes.rows} writes and "
            f"{self.blobs.rows} values {would}"
        ]
        lines += [f"left, for it is others' too: thread {thread!r}" for thread in self.shared]
        lines += [f"still there: {t.what} {t.text!r} in {t.rows} of {t.place}" for t in self.traces]
        lines += [f"not searched for, being too short: {text!r}" for text in self.unsearched]
        if self.is_complete:
            lines.append("nothing of it was found afterwards")
        return "\n".join(lines)
