"""kill -9 while checkpoints are pruned: nothing that stays is hurt, and the next run ends it."""

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from memkit import checkpoints
from tests.conftest import Server
from tests.savers import orphans, sync_saver
from tests.threads import config, states, tree

KILLS = int(os.environ.get("MEMKIT_KILLS", "2"))  # per saver and way


def prune(kind: str, place: str, event: int, with_graph: bool) -> tuple[int, str]:
    """Prune in another process, and return its signal and what it printed."""
    command = [sys.executable, "-m", "tests.prune_crash", kind, place, str(event)]
    done = subprocess.run(
        command + ["graph"] * with_graph, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode, done.stdout


@contextmanager
def copies(kind: str, tmp_path: Path, server: Server, told: Callable[[Any], None]) -> Iterator[Any]:
    """Tell a story once, and yield what makes copies of its database."""
    made: list[str] = []
    original = str(tmp_path / "original.db") if kind == "sqlite" else server.create()
    with sync_saver(kind, Path(original), original) as saver:
        told(saver)

    def copy() -> str:
        if kind == "sqlite":
            return shutil.copy(original, str(tmp_path / "copy.db"))
        name = psycopg.conninfo.conninfo_to_dict(original)["dbname"]
        made.append(server.create(str(name)))
        return made[-1]

    yield copy
    if kind == "postgres":
        for dsn in [*made, original]:
            server.drop(dsn)


@pytest.mark.slow
@pytest.mark.parametrize("with_graph", [True, False])
@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_kill_at_any_moment(kind: str, with_graph: bool, tmp_path: Path, server: Server) -> None:
    builder = tree(frequency=5, subgraph="call")
    before: dict[Any, Any] = {}

    def told(saver: Any) -> None:
        graph = builder.compile(checkpointer=saver)
        for _ in range(5):
            graph.invoke({"said": ["in"]}, config())
        before.update(states(graph, saver))

    with copies(kind, tmp_path, server, told) as copy:
        _, printed = prune(kind, copy(), 0, with_graph)
        every = range(1, int(printed) + 1)
        points = random.Random(7).sample(every, k=min(KILLS, len(every)))  # noqa: S311 - a test
        killed_between = 0
        for point in points:
            place = copy()
            assert prune(kind, place, point, with_graph)[0] == -signal.SIGKILL
            with sync_saver(kind, Path(place), place) as saver:
                graph = builder.compile(checkpointer=saver)
                # Whatever is still there, kept or not, is what it was.
                left = states(graph, saver)
                assert left == {key: before[key] for key in left}
                killed_between += len(left) < len(before)
                checkpoints.prune(saver, keep_last=2, grace_s=0)
                after = states(graph, saver)
                assert len([key for key in after if key[0] == ""]) == 2
                assert after == {key: before[key] for key in after}
                assert orphans(saver) == []
                graph.invoke({"said": ["in"]}, config())
                assert len(graph.get_state(config()).values["said"]) == 24
        assert killed_between, "no run was killed halfway: the points say nothing"
