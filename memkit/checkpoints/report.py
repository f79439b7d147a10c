"""What a pruning did, or would do."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from memkit.checkpoints.backend import NOTHING, Tally
from memkit.checkpoints.policy import Reason


class Refusal(NamedTuple):
    """A thread that was left as it is, and why."""

    thread_id: str
    why: str


@dataclass(frozen=True)
class PruneReport:
    """What a pruning did; with `dry_run`, what it would do.

    Attributes:
        saver: The class of the saver.
        dry_run: Whether nothing was changed.
        threads: How many threads were looked at.
        pruned: How many of them lost something.
        expired: How many of these went entirely.
        checkpoints: Checkpoints that went: rows and their bytes.
        writes: Writes that went.
        blobs: Values that went (Postgres and memory store them apart; SQLite has none).
        added: What DeltaChannels needed instead: snapshots, and writes moved to a carrier.
        kept: How many checkpoints stayed, by reason: among the "last", too "young", metadata
            "unmatched", "pinned", "pending" writes or an interrupt, a call still "running", needed
            by a kept "subgraph" or parent, for the "replay" of another, within the "budget".
        refused: Threads that cannot be pruned safely.
        advice: How the room that was won comes back.
    """

    saver: str
    dry_run: bool
    threads: int = 0
    pruned: int = 0
    expired: int = 0
    checkpoints: Tally = NOTHING
    writes: Tally = NOTHING
    blobs: Tally = NOTHING
    added: Tally = NOTHING
    kept: Mapping[Reason, int] = field(default_factory=dict)
    refused: tuple[Refusal, ...] = ()
    advice: str = ""

    @property
    def rows(self) -> int:
        """Rows that went, of all tables."""
        return self.checkpoints.rows + self.writes.rows + self.blobs.rows

    @property
    def bytes(self) -> int:
        """Bytes that went, of all tables."""
        return self.checkpoints.bytes + self.writes.bytes + self.blobs.bytes

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        tallies = {
            name: getattr(self, name) for name in ("checkpoints", "writes", "blobs", "added")
        }
        return {
            **asdict(self),
            **{name: tally._asdict() for name, tally in tallies.items()},
            "rows": self.rows,
            "bytes": self.bytes,
            "kept": dict(self.kept),
            "refused": [thread._asdict() for thread in self.refused],
        }

    def __str__(self) -> str:
        would = "would go" if self.dry_run else "went"
        kept = ", ".join(f"{count} {reason}" for reason, count in sorted(self.kept.items()))
        expired = f" ({self.expired} entirely)" if self.expired else ""
        lines = [
            f"{self.saver}: {self.pruned} of {self.threads} threads{expired}; {self.rows} rows, "
            f"{self.bytes} bytes {would}: {self.checkpoints.rows} checkpoints, "
            f"{self.writes.rows} writes, {self.blobs.rows} values",
            f"stay: {kept or 'none'}",
        ]
        if self.added.rows:
            lines.append(
                f"added for DeltaChannels: {self.added.rows} rows, {self.added.bytes} bytes"
            )
        lines += [f"refused: {thread_id}: {why}" for thread_id, why in self.refused]
        return "\n".join([*lines, self.advice] if self.rows else lines)
