"""FactConsolidator: keeps a person's facts few."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from memkit.effects import Body
from memkit.events import ConsolidateEvent
from memkit.factbook import FactBook
from memkit.facts import StalenessPolicy, duration
from memkit.namespaces import FACTS_NAMESPACE, check_namespace
from memkit.nodes.base import MemoryNode, Update, Visit, check_count, check_type


class FactConsolidator(MemoryNode):
    """Merges near-duplicates, drops what is long over, and holds each kind of fact to a cap.

    For the end of a thread, behind FactExtractor. It reads, decides and writes as one step beside
    whoever else writes, see FactBook. What it does is described at `memkit.facts.consolidate`.

    Args:
        namespace: Where facts are kept.
        max_per_kind: The most current facts of one subject and kind.
        keep_ended: How long facts stay readable that were superseded or retracted, or are over.
        policy: Says which facts are expired.
        every: Leave a thread's visits alone for this long after one, "1d" say, where the node
            stands at the end of every turn; None: at every visit.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `memory["consolidate"]`, the counts and the time.

    Events:
        ConsolidateEvent if any of its counts is not 0 (memkit.events).

    Cost:
        One `batch` that reads all facts of the person, one that writes what changes; one embedding
        per fact that is rewritten, none where nothing is to do.

    Raises:
        ConfigError: A name of the namespace is not known at run time.
        StoreMissing: The graph has no store.
        StoreError: The store failed, or others kept changing this person's facts.
    """

    def __init__(
        self,
        *,
        namespace: Sequence[str] = FACTS_NAMESPACE,
        max_per_kind: int = 200,
        keep_ended: str | timedelta = "365d",
        policy: StalenessPolicy | None = None,
        every: str | timedelta | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = check_namespace(namespace)
        check_count("max_per_kind", max_per_kind)
        self.max_per_kind = max_per_kind
        self.keep_ended = duration(keep_ended)
        self.policy = StalenessPolicy() if policy is None else policy
        check_type("policy", self.policy, StalenessPolicy)
        self.every = None if every is None else duration(every)

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.memory_key,)

    def body(self, visit: Visit) -> Body[Update]:
        """Read all facts, and write what changes."""
        now = self.now(self.messages(visit))
        last = self.cursor(visit, "consolidate").get("at")
        if self.every and last and now - datetime.fromisoformat(last) < self.every:
            return {}
        book = FactBook(visit.store, visit.namespace(self.namespace), clock=self.clock)
        consolidation = yield from book.consolidating(
            now, max_per_kind=self.max_per_kind, keep_ended=self.keep_ended, policy=self.policy
        )
        if any(consolidation.counts.values()):
            visit.emit(
                ConsolidateEvent(
                    memkit="consolidate",
                    node=visit.place,
                    merged=consolidation.merged,
                    expired=consolidation.expired,
                    over_cap=consolidation.over_cap,
                )
            )
        report = {"at": now.isoformat(), **consolidation.counts}
        return self.with_cursor(visit, "consolidate", report)
