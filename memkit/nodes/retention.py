"""Retention: the last node of a graph, which prunes the thread that it runs in."""

import asyncio
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from langgraph.checkpoint.memory import InMemorySaver

from memkit.checkpoints import aprune, prune
from memkit.checkpoints.report import PruneReport
from memkit.effects import Body
from memkit.errors import ConfigError, kind_of
from memkit.events import RetainEvent
from memkit.facts.staleness import duration
from memkit.nodes.base import CHECKPOINTER, MemoryNode, Update, Visit, check_count

_log = logging.getLogger(__name__)

_THREADS = 10_000  # of which is remembered how many turns ago they were pruned


@dataclass(frozen=True, slots=True)
class Pruning:
    """Prune by a saver of either kind; `what` goes to `prune`."""

    saver: Any
    what: Mapping[str, Any]

    def run(self) -> PruneReport:
        """Prune; an async saver does it on the loop it was opened on, as LangGraph uses it too."""
        loop = getattr(self.saver, "loop", None)
        if loop is None or isinstance(self.saver, InMemorySaver):
            return prune(self.saver, **self.what)
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is loop:
            raise ConfigError(
                f"an {type(self.saver).__name__} cannot be waited for on its own event loop; "
                "call the graph by ainvoke or astream"
            )
        return asyncio.run_coroutine_threadsafe(aprune(self.saver, **self.what), loop).result()

    async def arun(self) -> PruneReport:
        """Prune without blocking the event loop."""
        return await aprune(self.saver, **self.what)


class Retention(MemoryNode):
    """Prunes its own thread at the end of a turn, see `checkpoints.prune`.

    It uses the checkpointer of the running graph, any of those that `prune` knows; in a graph
    without one it does nothing. A pruning that fails is a warning in the log and an event, never an
    error of the turn. A run that was started from a checkpoint by its id keeps that one.

    Args:
        keep_last: How many checkpoints stay per namespace.
        older_than: An age; what is younger stays as well.
        every: Prune on the first turn of a thread that this process sees, then on every so many-th.
        graph: The compiled graph, or a function that returns it, for graphs with DeltaChannels:
            `Retention(graph=lambda: graph)`. Without it the writes that make up their values are
            carried along, which takes more room.
        grace_s: How long who is just reading a DeltaChannel has to end, in seconds. Such a turn
            takes so much longer.
        saver: The checkpointer, where it is not to be that of the running graph.

    State:
        Reads and writes nothing, and asks for no state key.

    Events:
        RetainEvent when something went, FailedEvent when that failed (memkit.events).

    Raises:
        ConfigError: An argument makes no sense.

    Cost: On one of `every` turns one transaction, or two with DeltaChannels, over what the thread
    has gathered since.
    """

    def __init__(
        self,
        *,
        keep_last: int = 5,
        older_than: str | timedelta | None = None,
        every: int = 5,
        graph: Any = None,
        grace_s: float = 0.1,
        saver: Any = None,
    ) -> None:
        super().__init__()
        check_count("keep_last", keep_last)
        check_count("every", every)
        if older_than is not None:
            duration(older_than)
        if grace_s < 0:
            raise ConfigError(f"grace_s is at least 0, got {grace_s}")
        self.keep_last = keep_last
        self.older_than = older_than
        self.every = every
        self.graph = graph
        self.grace_s = grace_s
        self.saver = saver
        self._turns: OrderedDict[str, int] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes: none."""
        return ()

    def _check_channels(self, read: Callable[[str, bool], Any]) -> None:
        """Ask for nothing: it serves any graph."""

    def body(self, visit: Visit) -> Body[Update]:
        """Prune, where it is this turn's."""
        configurable = visit.config.get("configurable") or {}
        saver = self.saver if self.saver is not None else configurable.get(CHECKPOINTER)
        thread_id = visit.thread_id
        if saver is None or thread_id is None or not self._is_due(thread_id):
            return {}
        try:
            report: PruneReport = yield Pruning(saver, self._what(visit, thread_id))
        except Exception as error:  # noqa: BLE001 - whatever it is, the person has their answer
            _log.warning("thread %r was not pruned: %s", thread_id, error)
            visit.failed("retention", kind_of(error))
            return {}
        if report.rows:
            visit.emit(
                RetainEvent(
                    memkit="retain",
                    node=visit.place,
                    checkpoints=report.checkpoints.rows,
                    rows=report.rows,
                    bytes=report.bytes,
                )
            )
        return {}

    def _what(self, visit: Visit, thread_id: str) -> dict[str, Any]:
        # By durability="exit" such a run has stored nothing yet, and will store what continues it.
        start = (visit.config.get("metadata") or {}).get("checkpoint_id")
        compiled = hasattr(self.graph, "get_state") or not callable(self.graph)
        return {
            "keep_last": self.keep_last,
            "older_than": self.older_than,
            "thread_ids": [thread_id],
            "pinned": [str(start)] if start else [],
            "graph": self.graph if compiled else self.graph(),
            "grace_s": self.grace_s,
            "rest": 0,
        }

    def _is_due(self, thread_id: str) -> bool:
        with self._lock:
            turns = self._turns.pop(thread_id, 0)
            self._turns[thread_id] = (turns + 1) % self.every
            if len(self._turns) > _THREADS:
                self._turns.popitem(last=False)
        return turns == 0
