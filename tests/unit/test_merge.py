"""Merging: calls that wait for each other are run together, and keep what each of them means."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from langgraph.store.base import GetOp, Op, PutOp, Result, SearchOp

from memkit.effects import PutIf
from memkit.errors import CommitUnknown, StoreError
from memkit.store.merge import Merger, can_merge

ANN = ("users", "ann")


class Batches:
    """Runs batches once the gate is open; "bad" keys fail the batch that they are in."""

    def __init__(self, error: Exception | None = None) -> None:
        self.seen: list[list[str]] = []
        self.running = self.most_running = 0
        self.gate = asyncio.Event()
        self.error = error or StoreError("bad")

    async def run(self, ops: Sequence[Op]) -> list[Result]:
        keys = [op.key for op in ops if isinstance(op, GetOp | PutOp)]
        self.seen.append(keys)
        self.running += 1
        self.most_running = max(self.running, self.most_running)
        try:
            await self.gate.wait()
            if "bad" in keys:
                raise self.error
            answers: list[Any] = [
                key if isinstance(op, GetOp) else None for key, op in zip(keys, ops, strict=True)
            ]
            return answers
        finally:
            self.running -= 1


async def all_at_once(batches: Batches, calls: Sequence[Sequence[Op]], at_once: int = 1) -> Any:
    merger = Merger(batches.run, at_once)
    tasks = [asyncio.create_task(merger(call)) for call in calls]
    await asyncio.sleep(0)
    batches.gate.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


def get(key: str) -> list[Op]:
    return [GetOp(ANN, key)]


def put(key: str) -> list[Op]:
    return [PutOp(ANN, key, {})]


def test_what_waits_is_run_together_and_answered_apart() -> None:
    async def use() -> None:
        batches = Batches()
        calls = [get(str(n)) for n in range(50)] + [[*get("a"), *put("b"), *get("c")]]
        answers = await all_at_once(batches, calls, at_once=2)
        assert answers == [[str(n)] for n in range(50)] + [["a", None, "c"]]
        assert [len(keys) for keys in batches.seen] == [1, 1, 51]
        assert batches.most_running == 2

    asyncio.run(use())


def test_a_batch_has_a_bound() -> None:
    async def use() -> None:
        batches = Batches()
        await all_at_once(batches, [get(str(n)) for n in range(2501)])
        assert [len(keys) for keys in batches.seen] == [1, 1000, 1000, 500]

    asyncio.run(use())


def test_a_key_put_twice_is_written_twice_in_its_order() -> None:
    async def use() -> None:
        batches = Batches()
        await all_at_once(batches, [get("x"), put("k"), put("l"), put("k"), put("m")])
        assert batches.seen == [["x"], ["k", "l"], ["k", "m"]]

    asyncio.run(use())


def test_nobody_fails_for_anothers_sake() -> None:
    async def use() -> None:
        batches = Batches()
        answers = await all_at_once(batches, [get("x"), put("a"), put("bad"), get("c")])
        assert [type(answer) for answer in answers] == [list, list, StoreError, list]
        assert batches.seen == [["x"], ["a", "bad", "c"], ["a"], ["bad"], ["c"]]

    asyncio.run(use())


def test_what_may_have_been_written_is_not_written_again() -> None:
    async def use() -> None:
        batches = Batches(CommitUnknown())
        answers = await all_at_once(batches, [get("x"), put("a"), put("bad")])
        assert [type(answer) for answer in answers] == [list, CommitUnknown, CommitUnknown]
        assert batches.seen == [["x"], ["a", "bad"]]

    asyncio.run(use())


def test_a_cancelled_call_is_left_out_and_holds_nobody_up() -> None:
    async def use() -> None:
        batches = Batches()
        merger = Merger(batches.run, 1)
        tasks = [asyncio.create_task(merger(put(key))) for key in "abc"]
        await asyncio.sleep(0)
        tasks[0].cancel()  # runs
        tasks[1].cancel()  # waits
        await asyncio.sleep(0)
        batches.gate.set()
        assert await tasks[2] == [None]
        assert batches.seen == [["a"], ["c"]]
        assert [task.cancelled() for task in tasks] == [True, True, False]
        assert await merger(get("d")) == ["d"]

    asyncio.run(use())


@pytest.mark.parametrize(
    "op", [SearchOp(ANN), PutIf(PutOp(ANN, "k", {}), 1)], ids=["search", "put_if"]
)
def test_searches_and_puts_of_a_version_run_alone(op: Any) -> None:
    assert can_merge([GetOp(ANN, "k"), PutOp(ANN, "k", {})])
    assert not can_merge([GetOp(ANN, "k"), op])
    assert not can_merge(get("k") * 1000)
