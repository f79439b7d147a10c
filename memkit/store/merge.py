"""Many small calls of one event loop, run as few batches.

A call starts at once while a connection is free. Those that would wait for one are run together as
soon as one is: a thousand puts in one `gather` are a few transactions. What a call means stays: if
the batch of several fails, each runs alone, and none fails for another's sake.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

from langgraph.store.base import GetOp, Op, PutOp, Result

from memkit.effects import StoreOp
from memkit.errors import CommitUnknown

_MOST_OPS = 1000  # of a batch: more take a second, for which others of the same namespace wait

Run = Callable[[Sequence[Op]], Awaitable[list[Result]]]


@dataclass(eq=False, slots=True)
class _Call:
    ops: Sequence[Op]
    answer: asyncio.Future[list[Result]]

    @property
    def written(self) -> set[tuple[tuple[str, ...], str]]:
        return {(op.namespace, op.key) for op in self.ops if isinstance(op, PutOp)}


@dataclass(eq=False, slots=True)
class _Loop:
    """The calls of one event loop."""

    running: int = 0
    waiting: deque[_Call] = field(default_factory=deque)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


class Merger:
    """Runs calls alone while there are few, and those that wait together.

    Args:
        run: Runs a batch.
        at_once: How many batches run at the same time.
    """

    def __init__(self, run: Run, at_once: int) -> None:
        self._run = run
        self._at_once = at_once
        self._loops: WeakKeyDictionary[asyncio.AbstractEventLoop, _Loop] = WeakKeyDictionary()

    async def __call__(self, ops: Sequence[Op]) -> list[Result]:
        """Run gets and puts, beside those of other calls or together with them."""
        loop = asyncio.get_running_loop()
        calls = self._loops.setdefault(loop, _Loop())
        if calls.running < self._at_once:
            calls.running += 1
            try:
                return await self._run(ops)
            finally:
                self._go_on(calls)
        call = _Call(ops, loop.create_future())
        calls.waiting.append(call)
        return await call.answer

    def _go_on(self, calls: _Loop) -> None:
        """Let those that wait have the place of a batch that has ended."""
        calls.running -= 1
        if together := _taken(calls.waiting):
            calls.running += 1
            task = asyncio.get_running_loop().create_task(self._run_all(together, calls))
            calls.tasks.add(task)  # the loop itself holds tasks weakly
            task.add_done_callback(calls.tasks.discard)

    async def _run_all(self, together: Sequence[_Call], calls: _Loop) -> None:
        try:
            await self._answer(together)
        finally:
            self._go_on(calls)

    async def _answer(self, together: Sequence[_Call]) -> None:
        try:
            results = await self._run([op for call in together for op in call.ops])
        except Exception as error:  # noqa: BLE001 - handed to those who asked
            # What may have been written is not written again unasked.
            if len(together) == 1 or isinstance(error, CommitUnknown):
                for call in together:
                    if not call.answer.done():
                        call.answer.set_exception(error)
            else:
                for call in together:
                    await self._answer([call])
            return
        start = 0
        for call in together:
            if not call.answer.done():
                call.answer.set_result(results[start : start + len(call.ops)])
            start += len(call.ops)


def can_merge(ops: Sequence[StoreOp]) -> bool:
    """Return whether a call may be run together with others: few gets and puts of any version."""
    return len(ops) < _MOST_OPS and all(isinstance(op, GetOp | PutOp) for op in ops)


def _taken(waiting: deque[_Call]) -> list[_Call]:
    """Take calls for one batch from the queue: as they came, and no key put twice."""
    taken: list[_Call] = []
    size, written = 0, set[tuple[tuple[str, ...], str]]()
    while waiting and size + len(waiting[0].ops) <= _MOST_OPS:
        call = waiting[0]
        if not call.answer.done():  # cancelled
            if not written.isdisjoint(puts := call.written):
                break
            written |= puts
            size += len(call.ops)
            taken.append(call)
        waiting.popleft()
    return taken
