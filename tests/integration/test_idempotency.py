"""Calls to the outside that are made once, however often a node runs."""

import operator
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import START, StateGraph
from langgraph.types import Command, RetryPolicy, Send, interrupt
from typing_extensions import TypedDict

from memkit import idempotency_key
from memkit.errors import ConfigError

THREAD: Any = {"configurable": {"thread_id": "t"}}


class State(TypedDict):
    keys: Annotated[list[str], operator.add]


class Service:
    """Counts what it did; a call with a key that it knows does nothing more."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}
        self.calls = 0

    def pay(self, key: str) -> None:
        self.calls += 1
        self.done.setdefault(key, len(self.done))


def graph(node: Any, saver: Any = None, **options: Any) -> Any:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    builder.add_node("node", node, **options)
    builder.add_edge(START, "node")
    return builder.compile(checkpointer=saver or InMemorySaver())


def test_a_retry_has_the_same_key_and_the_next_turn_another() -> None:
    service = Service()

    def node(state: State) -> dict[str, Any]:
        service.pay(idempotency_key())
        if service.calls % 3:
            raise ConnectionError("lost")
        return {}

    policy = RetryPolicy(initial_interval=0.0, max_attempts=3, jitter=False)
    flaky = graph(node, retry_policy=policy)
    for turn in (1, 2):
        flaky.invoke({"keys": []}, THREAD)
        assert (service.calls, len(service.done)) == (3 * turn, turn)


def test_an_interrupt_does_not_pay_twice() -> None:
    service = Service()

    def node(state: State) -> dict[str, Any]:
        service.pay(idempotency_key("fee"))
        answer = interrupt("go on?")
        service.pay(idempotency_key("price", answer))
        return {}

    asking = graph(node)
    asking.invoke({"keys": []}, THREAD)
    asking.invoke(Command(resume="yes"), THREAD)
    assert service.calls == 3
    assert len(service.done) == 2


def test_tasks_side_by_side_and_subgraphs_have_keys_of_their_own() -> None:
    def node(state: State) -> dict[str, Any]:
        return {"keys": [idempotency_key(), idempotency_key(1), idempotency_key("1", "")]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    builder.add_node("node", node)
    builder.add_node("inner", graph(node, saver=True))
    builder.add_conditional_edges(START, lambda _: [Send("node", {}), Send("node", {}), "inner"])
    keys = builder.compile(checkpointer=InMemorySaver()).invoke({"keys": []}, THREAD)["keys"]
    assert len(keys) == len(set(keys)) == 9


def test_outside_a_thread_it_says_so() -> None:
    with pytest.raises(ConfigError, match="checkpointer"):
        idempotency_key()
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
    builder.add_node("node", lambda _: {"keys": [idempotency_key()]})
    builder.add_edge(START, "node")
    with pytest.raises(ConfigError, match="checkpointer"):
        builder.compile().invoke({"keys": []})


def run(directory: Path, *, dies: bool) -> None:
    """Pay with a key in a graph of three nodes; the process may die right after the payment."""

    def pay(state: State) -> dict[str, Any]:
        with (directory / "calls").open("a") as calls:
            calls.write(idempotency_key("order") + "\n")
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"keys": ["paid"]}

    with SqliteSaver.from_conn_string(str(directory / "checkpoints")) as saver:
        builder: StateGraph[Any, Any, Any, Any] = StateGraph(State)
        builder.add_sequence(
            [("order", lambda _: {"keys": ["ordered"]}), ("pay", pay), ("send", lambda _: {})]
        )
        builder.add_edge(START, "order")
        resumable = builder.compile(checkpointer=saver)
        values: Any = None if saver.get(THREAD) else {"keys": []}
        resumable.invoke(values, THREAD, durability="sync")
        (directory / "keys").write_text(" ".join(resumable.get_state(THREAD).values["keys"]))


def test_a_killed_process_is_taken_up_by_another(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.integration.test_idempotency import run;"
        "run(Path(sys.argv[1]), dies=sys.argv[2] == 'dies')"
    )
    for dies in ("dies", "dies", ""):
        ended = subprocess.run([sys.executable, "-c", script, str(tmp_path), dies], check=False)
        assert ended.returncode == (-signal.SIGKILL if dies else 0)
    calls = (tmp_path / "calls").read_text().split()
    assert len(calls) == 3
    assert len(set(calls)) == 1
    assert (tmp_path / "keys").read_text() == "ordered paid"
