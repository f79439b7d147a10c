"""Killed at any moment, and raced by others, an extraction leaves each fact once, on Postgres."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langgraph.checkpoint.postgres import PostgresSaver

from memkit import SemanticStore
from memkit.factbook import FactBook
from tests.crash import TURNS, WORDS, WORKERS

ROOT = Path(__file__).parents[2]


def crash(what: str, dsn: str) -> Any:
    with PostgresSaver.from_conn_string(dsn) as saver:
        saver.setup()
    with SemanticStore.open(dsn, search_mode="text") as store:
        store.setup()
    done = subprocess.run(
        [sys.executable, "-m", "tests.crash", what, dsn],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_killed_at_any_point_a_turn_leaves_the_facts_of_one_reply(empty_dsn: str) -> None:
    runs = crash("points", empty_dsn)
    assert [run["killed"] for run in runs[:-1]] == [signal.SIGKILL] * (len(runs) - 1)
    assert runs[-1]["killed"] == 0
    assert len(runs) > 8  # statements, effects and checkpoints of the turn, before and after
    whole = [
        sorted([f"The user lives in Hamburg, {word}.", f"The user has three cats, {word}."])
        for word in WORDS
    ]
    for point, run in enumerate(runs, 1):
        assert run["facts"] in whole, f"the {point}. kill"


@pytest.mark.slow
def test_eight_workers_on_one_user_leave_one_address_and_lose_nothing(empty_dsn: str) -> None:
    assert crash("race", empty_dsn) == [0] * WORKERS
    with SemanticStore.open(empty_dsn, search_mode="text") as store:
        facts = FactBook(store, ("users", "ann@example%2Ecom", "facts")).all()
        marks = store.search(("users", "ann@example%2Ecom", "ledger_facts"), limit=1_000)
    addresses = [f for f in facts if f.attribute == "home_address"]
    teas = [f.text for f in facts if "tea" in f.text]
    (nuts,) = [f for f in facts if "nuts" in f.text]
    assert nuts.status == "current"
    assert [f.status for f in addresses].count("current") == 1
    assert len(addresses) == len({f.text for f in addresses}) == WORKERS * TURNS
    assert sorted(teas) == sorted(set(teas))
    assert len(teas) == WORKERS * TURNS
    # Each address but the last names its successor, and nobody was overwritten.
    assert len([f for f in addresses if f.superseded_by]) == WORKERS * TURNS - 1
    assert len(marks) == WORKERS * TURNS + 1  # one per message, and the revision
