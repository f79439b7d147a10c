"""Whatever graphs run, are forked, interrupted and pruned: a copy of it is the same."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.postgres import PostgresSaver

from memkit import checkpoints
from tests.conftest import Server
from tests.property.test_prune import (
    FORKS,
    FUZZ,
    GRAPHS,
    PRUNES,
    QUIET,
    REPLAYS,
    RUNS,
    Story,
    memory,
    sqlite,
)
from tests.savers import rows
from tests.threads import config, seen, states


@pytest.fixture(scope="module")
def target(server: Server) -> Iterator[Any]:
    dsn = server.create()
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
        yield saver
    server.drop(dsn)


def prune(story: Story, policy: dict[str, Any], at: int) -> None:
    """Leave a thread in which there are carriers, snapshots, and gaps."""
    places = sorted(states(story.graph, story.saver))
    checkpoints.prune(
        story.saver,
        keep_last=policy["keep_last"],
        pinned=[places[pin % len(places)][1] for pin in (*policy["pins"], at)],
        graph=story.graph if policy["with_graph"] else None,
        grace_s=0,
    )


@pytest.mark.slow
@pytest.mark.parametrize("opened", [memory, sqlite])
@settings(max_examples=FUZZ or 25, **QUIET)
@given(
    shape=GRAPHS,
    before=st.lists(st.one_of(RUNS, RUNS, FORKS, REPLAYS, PRUNES), max_size=6),
    since=st.lists(st.one_of(RUNS, FORKS, REPLAYS), max_size=3),
)
def test_a_copy_is_the_same(
    target: Any, opened: Any, shape: dict[str, Any], before: list[Any], since: list[Any]
) -> None:
    target.delete_thread("t")
    with opened() as (saver, twin):
        story = Story(shape, saver, twin)
        moved = story.builder.compile(checkpointer=target)
        story.run("async", 1)
        for steps in (before, since):
            for name, *arguments in steps:
                if name == "prune":
                    prune(story, *arguments)
                else:
                    getattr(story, name)(*arguments)
            checkpoints.copy(saver, target)
            for name in ("checkpoints", "writes"):
                assert set(rows(saver)[name]) == set(rows(target)[name])
            assert states(moved, target) == states(story.graph, saver)
        assert checkpoints.copy(saver, target).copied == 0
        assert story.finish(moved, "sync") == story.finish(story.graph, "sync")
        assert seen(moved.get_state(config()))[:2] == seen(story.graph.get_state(config()))[:2]
