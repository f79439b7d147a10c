"""What checkpoints will take: simple arithmetic on what was measured. Pure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from math import ceil
from typing import Any, Literal

from memkit.checkpoints.sizes import CheckpointReport, Growth, readable
from memkit.errors import ConfigError

Durability = Literal["sync", "async", "exit"]
Care = Literal["plain", "trimmed", "pruned", "both"]


@dataclass(frozen=True)
class Estimate:
    """What the threads of some users take in the end.

    Attributes:
        bytes: Per durability mode, and in it per care: "plain", "trimmed", "pruned", "both".
        rows: Checkpoints, in the same places.
        threads: How many threads there are in the end.
        turns: How many turns each has.
        steps: How many checkpoints a turn makes, per durability mode.
        assumed: What the figures rest on, to be read with them.
    """

    bytes: Mapping[Durability, Mapping[Care, int]]
    rows: Mapping[Durability, Mapping[Care, int]]
    threads: int
    turns: int
    steps: Mapping[Durability, int]
    assumed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {**asdict(self), "assumed": list(self.assumed)}

    def __str__(self) -> str:
        cares = list(self.bytes["sync"])
        lines = [
            f"{self.threads} threads of {self.turns} turns:",
            "durability" + "".join(f"{care:>12}" for care in cares) + f"{'checkpoints':>14}",
        ]
        for mode, sizes in self.bytes.items():
            cells = "".join(f"{readable(size):>12}" for size in sizes.values())
            lines.append(f"{mode:<10}{cells}{self.rows[mode]['plain']:>14}")
        return "\n".join([*lines, *(f"- {line}" for line in self.assumed)])


def estimate(
    measured: CheckpointReport | Growth,
    *,
    users: int,
    turns: int,
    nodes: int,
    days: int,
    thread_days: int = 1,
    keep_turns: int = 5,
    keep_last: int = 2,
) -> Estimate:
    """Say what checkpoints take after some days, from what was measured of a few threads.

    `estimate(report(saver), users=200, turns=15, nodes=6, days=90)`: 200 users have 15 turns a day
    each, in a graph of six nodes one after another, and begin a new thread every day. What a turn
    adds to the history, and how often the history changes in it, is taken from the measured
    threads; so is the saver, for SQLite stores every value with every checkpoint. Bytes are what
    the tables hold. Indexes and free room come on top: the `disk` of a report shows how much.

    "sync" and "async" store the same rows, at another moment: a checkpoint for the input, one for
    START, and one for each node. "exit" stores one per turn, and no writes; those of DeltaChannels
    it does store, which is not counted here. Measure under "sync" or "async".

    Args:
        measured: A report with its `growth`, or that growth.
        users: How many users.
        turns: Of each user on each day.
        nodes: How many nodes run in a turn, one after another.
        days: How many days.
        thread_days: After how many days a user begins a new thread.
        keep_turns: "trimmed": a destructive TokenTrimmer leaves this many turns in the history.
        keep_last: "pruned": `prune(keep_last=)` was called at the end.

    Raises:
        ConfigError: Nothing was measured, or an argument makes no sense.
    """
    growth = measured.growth if isinstance(measured, CheckpointReport) else measured
    if growth is None:
        raise ConfigError(
            "no thread is whole and has turns enough to measure its growth; run some turns with "
            "one, and report again"
        )
    given = {"users": users, "turns": turns, "nodes": nodes, "days": days}
    kept = {"thread_days": thread_days, "keep_turns": keep_turns, "keep_last": keep_last}
    for name, value in {**given, **kept}.items():
        if value < 1:
            raise ConfigError(f"{name} is at least 1, got {value}")
    threads = users * -(-days // thread_days)
    thread_turns = turns * min(thread_days, days)
    steps: dict[Durability, int] = {"sync": nodes + 2, "async": nodes + 2, "exit": 1}
    limits: dict[Care, tuple[int, int | None]] = {
        "plain": (thread_turns, None),
        "trimmed": (keep_turns, None),
        "pruned": (thread_turns, keep_last),
        "both": (keep_turns, keep_last),
    }
    # A checkpoint names every node and what each has seen; "exit" does not tell how many there are.
    measured_steps = growth.steps_per_turn
    names = steps["sync"] / measured_steps if measured_steps > 1 else 1.0
    growth = replace(growth, row_bytes=growth.row_bytes * names)
    sizes: dict[Durability, dict[Care, int]] = {}
    rows: dict[Durability, dict[Care, int]] = {}
    for mode, per_turn in steps.items():
        sizes[mode], rows[mode] = {}, {}
        for care, (held, last) in limits.items():
            size, count = _thread(growth, thread_turns, per_turn, held, last)
            sizes[mode][care] = round(threads * size)
            rows[mode][care] = threads * count
    exact = f"{growth.threads} threads of up to {growth.turns} turns were measured"
    return Estimate(
        bytes=sizes,
        rows=rows,
        threads=threads,
        turns=thread_turns,
        steps=steps,
        assumed=(
            f"{exact}: a turn adds {readable(growth.history_bytes)} to the state; a checkpoint "
            f"takes {readable(growth.row_bytes)} beside it, and its writes "
            f"{readable(growth.write_bytes)}",
            f"{users} users have {turns} turns a day for {days} days, and a new thread every "
            f"{thread_days} days; {nodes} nodes run one after another",
            f"trimmed: the history holds the last {keep_turns} turns; pruned: each thread keeps "
            f"its last {keep_last} checkpoints; both: both",
            f"a checkpoint grows with the nodes that it names, here {names:.2f} times as many "
            "steps as measured",
            "without indexes and free room; exit without the writes of DeltaChannels",
        ),
    )


def _thread(
    growth: Growth, turns: int, steps: int, held: int, last: int | None
) -> tuple[float, int]:
    """Return the bytes of a thread and its checkpoints.

    Args:
        growth: What was measured.
        turns: How many turns it has.
        steps: How many checkpoints a turn makes.
        held: How many turns its history holds at most.
        last: How many checkpoints are left of it; None for all.
    """
    copies = float(steps) if growth.inline else min(growth.copies_per_turn, float(steps))
    beside = growth.turn_bytes * copies / growth.copies_per_turn
    writes = growth.write_bytes if steps > 1 else 0.0
    if last is None:
        # What was trimmed at the end of a turn grows again in the next.
        highest = held + 1 if steps > 1 else held
        grown = sum(min(turn, highest) for turn in range(1, turns + 1))
        fixed = turns * (steps * (growth.row_bytes + writes) + beside)
        return fixed + copies * growth.history_bytes * grown, turns * steps
    left = min(last, turns * steps)
    # The last change of the history is the answer, near the end of a turn; so is most of what is
    # written. What was measured is the mean of a turn, half a turn before its end.
    values = left if growth.inline else min(left, 1 + ceil((left - 1) * copies / steps))
    size = left * growth.row_bytes + beside * left / steps
    size += values * growth.history_bytes * (min(turns, held) + 0.5)
    return size + (writes * max(growth.steps_per_turn, left) if left > 1 else 0.0), left
