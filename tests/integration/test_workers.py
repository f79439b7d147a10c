"""Three worker processes in turn serve one user's thread on Postgres."""

import json
import subprocess
import sys
from pathlib import Path

from langgraph.checkpoint.postgres import PostgresSaver

from memkit import SemanticStore
from tests.graphs import BUDGET, config, memory_graph

ROOT = Path(__file__).parents[2]


def test_three_workers_in_turn_serve_one_thread(empty_dsn: str) -> None:
    with PostgresSaver.from_conn_string(empty_dsn) as saver:
        saver.setup()  # LangGraph's own set-up is not safe from several processes at once
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.worker", empty_dsn],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    turns = 12
    try:
        for n in range(turns):
            worker = workers[n % 3]
            assert worker.stdin is not None
            assert worker.stdout is not None
            text = f"I bought parcel number {n} in the shop, and it was blue."
            worker.stdin.write(json.dumps({"id": f"m{n}", "text": text}) + "\n")
            worker.stdin.flush()
            # Each worker sees what the others did.
            assert json.loads(worker.stdout.readline()) == {"messages": 2 * (n + 1)}
    finally:
        for worker in workers:
            worker.communicate(timeout=60)
    assert [worker.returncode for worker in workers] == [0, 0, 0]

    with (
        PostgresSaver.from_conn_string(empty_dsn) as saver,
        SemanticStore.open(empty_dsn, search_mode="text") as store,
    ):
        graph = memory_graph().compile(checkpointer=saver, store=store)
        values = graph.get_state(config("shared")).values
        assert [m.id for m in values["messages"][::2]] == [f"m{n}" for n in range(turns)]
        assert values["summary"]["text"]
        assert BUDGET.count(values["llm_input_messages"]) <= BUDGET.max_tokens
        for kind, count in (("facts", turns), ("turns", 2 * turns)):
            items = store.search(("users", "ann@example%2Ecom", kind), limit=100)
            assert len(items) == count
