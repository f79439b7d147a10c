"""Prunes a thread and dies at a given event; runs as a process of its own.

`python -m tests.prune_crash KIND PLACE EVENT [graph]`: an event is a statement, or for SQLite and
Postgres alike the moment before or after one. Prints how many events there were, if it lives.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

from memkit import checkpoints
from memkit.checkpoints import backend, postgres, sqlite
from tests.savers import sync_saver
from tests.threads import tree


def die_at(event: int) -> list[int]:
    """Let this process die at its n-th event."""
    events = [0]
    make = backend.Statement

    def statement(*args: Any, **kwargs: Any) -> backend.Statement:
        events[0] += 1
        if events[0] == event:
            os.kill(os.getpid(), signal.SIGKILL)
        return make(*args, **kwargs)

    for module in (postgres, sqlite):
        module.Statement = statement  # type: ignore[attr-defined]
    return events


def main(kind: str, place: str, event: int, with_graph: bool) -> None:
    with sync_saver(kind, Path(place), place) as saver:
        graph = tree(frequency=5, subgraph="call").compile()
        events = die_at(event)
        checkpoints.prune(
            saver, keep_last=2, batch_rows=15, grace_s=0, graph=graph if with_graph else None
        )
        sys.stdout.write(str(events[0]))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:] == ["graph"])
