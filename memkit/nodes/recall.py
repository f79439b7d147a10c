"""MemoryRecall: what is known that matters for this turn."""

import logging
from collections.abc import Sequence
from datetime import datetime
from typing import Any, TypeAlias

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.store.base import SearchItem, SearchOp

from memkit.effects import Body, StoreBatch
from memkit.errors import ConfigError
from memkit.facts import Fact, StalenessPolicy
from memkit.messages import id_of, position_of, text_of, turn_start_at
from memkit.nodes.base import (
    FACTS_NAMESPACE,
    TURNS_NAMESPACE,
    MemoryNode,
    Update,
    Visit,
    check_namespace,
    check_type,
)
from memkit.state import Freshness, Recalled, Source
from memkit.summary import checked_summary, covered_until

_log = logging.getLogger(__name__)

Place: TypeAlias = tuple[str | None, str]  # thread and message
_WORST_LAST: tuple[Freshness, ...] = ("fresh", "stale", "expired")


class MemoryRecall(MemoryNode):
    """Searches the store for what the latest human message is about.

    Current facts, and with `sources=("facts", "turns")` the turns as said, come back in one list,
    best first, and nothing both as a turn and as a fact. What the model sees anyway, because it was
    said in this thread since the last cut, is left out.

    Args:
        limit: The most memories to return.
        namespace: Where facts are.
        turns_namespace: Where TurnRecorder keeps turns.
        sources: "facts", "turns", or both.
        policy: Sets `freshness`; StaleFactCheck may judge again with its own.
        include_expired: Also return expired and superseded facts.
        output_key: The state key to write.
        summary_key: The state key of the running summary, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, memory; writes `recalled`.

    Cost:
        One `batch` of the store with one search per source; one embedding of the query.

    Raises:
        ConfigError: A name of the namespace is not known at run time.
        StoreMissing: The graph has no store.
    """

    def __init__(
        self,
        *,
        limit: int = 8,
        namespace: Sequence[str] = FACTS_NAMESPACE,
        turns_namespace: Sequence[str] = TURNS_NAMESPACE,
        sources: Sequence[Source] = ("facts",),
        policy: StalenessPolicy | None = None,
        include_expired: bool = False,
        output_key: str = "recalled",
        summary_key: str = "summary",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("limit", limit, int)
        if limit < 1:
            raise ConfigError(f"limit must be at least 1, got {limit!r}")
        if not sources or set(sources) - {"facts", "turns"}:
            raise ConfigError(f'sources are "facts" and "turns", got {sources!r}')
        self.limit = limit
        self.sources = tuple(dict.fromkeys(sources))
        self.namespaces: dict[Source, tuple[str, ...]] = {
            "facts": check_namespace(namespace),
            "turns": check_namespace(turns_namespace),
        }
        self.policy = StalenessPolicy() if policy is None else policy
        check_type("policy", self.policy, StalenessPolicy)
        self.include_expired = include_expired
        self.output_key = output_key
        self.summary_key = summary_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.output_key,)

    def body(self, visit: Visit) -> Body[Update]:
        """Search each source in one round trip, and merge what it finds."""
        messages = self.messages(visit)
        query = next(
            (text_of(m) for m in reversed(messages) if isinstance(m, HumanMessage)), ""
        ).strip()
        store = visit.store
        namespaces = {s: visit.namespace(self.namespaces[s]) for s in self.sources}
        if not query:
            return {self.output_key: []}
        seen = self._in_view(visit, messages)
        # Spare room for what is left out below.
        wanted = 2 * self.limit + min(len(seen), 50)
        ops = [
            SearchOp(namespace, filter=self._filter(source), limit=wanted, query=query)
            for source, namespace in namespaces.items()
        ]
        answers = yield StoreBatch(store, ops)
        now = self.now(messages)
        found = []
        for source, items in zip(self.sources, answers, strict=True):
            for item in items:
                try:
                    found.append(self._recalled(source, item, now))
                except ConfigError as error:
                    _log.warning("left out an item of %s: %s", item.namespace, error)
        return {self.output_key: self._select(found, visit.thread_id, seen)}

    def _filter(self, source: Source) -> dict[str, Any] | None:
        return {"status": "current"} if source == "facts" and not self.include_expired else None

    def _in_view(self, visit: Visit, messages: Sequence[BaseMessage]) -> set[str]:
        """Return ids of this thread's messages that the model sees as they were said."""
        start = position_of(messages, self.cursor(visit, "trim").get("start_id")) or 0
        summary = checked_summary(visit.read(self.summary_key))
        covered = covered_until(messages, summary, self.cursor(visit, "summarize"))
        covered = turn_start_at(messages, covered) if covered else 0
        return {id_of(messages, i) for i in range(max(covered, start), len(messages))}

    def _recalled(self, source: Source, item: SearchItem, now: datetime) -> Recalled:
        # A turn has the text, the dates and the source of a fact, and does not age.
        fact = Fact.from_value(item.key, item.value)
        return {
            "key": item.key,
            "source": source,
            "text": fact.text,
            "kind": fact.kind,
            "last_updated": fact.last_updated.isoformat() if fact.last_updated else None,
            "last_confirmed": fact.last_confirmed.isoformat() if fact.last_confirmed else None,
            "freshness": self.policy.freshness(fact, now) if source == "facts" else "fresh",
            "score": item.score,
            "message_ids": fact.message_ids,
            "thread_id": fact.source.get("thread_id"),
        }

    def _select(
        self, found: Sequence[Recalled], thread_id: str | None, seen: set[str]
    ) -> list[Recalled]:
        """Return the best that the model does not see anyway, without the expired."""
        chosen = [
            item
            for item in _once_each(found)
            if (self.include_expired or item["freshness"] != "expired")
            and not (
                item["message_ids"]
                and item["thread_id"] == thread_id
                and seen.issuperset(item["message_ids"])
            )
        ]
        return chosen[: self.limit]


def _once_each(found: Sequence[Recalled]) -> list[Recalled]:
    """Return what was found, best first, without saying a thing both as a turn and as a fact.

    Whichever of the two ranks higher stays. A turn that stays for a fact takes over what is known
    of the fact's age, so that old words are not fresher than the fact that was taken from them.
    """
    facts_of: dict[Place, list[Recalled]] = {}
    for item in found:
        if item["source"] == "facts":
            for place in _places(item):
                facts_of.setdefault(place, []).append(item)
    kept: list[Recalled] = []
    told: dict[Source, set[Place]] = {"facts": set(), "turns": set()}
    for item in sorted(found, key=_score, reverse=True):
        places = _places(item)
        other: Source = "turns" if item["source"] == "facts" else "facts"
        if places and places <= told[other]:
            continue
        told[item["source"]] |= places
        taken = [fact for place in places for fact in facts_of.get(place, [])]
        if item["source"] == "turns" and taken:
            # A turn has gone when all that was taken from it has, and is stale if any of it is.
            judged = sorted(taken, key=lambda fact: _WORST_LAST.index(fact["freshness"]))
            last = next((f for f in reversed(judged) if f["freshness"] != "expired"), judged[0])
            item = {  # noqa: PLW2901 - the same memory, with its age
                **item,
                "kind": last["kind"],
                "last_confirmed": last["last_confirmed"],
                "freshness": last["freshness"],
            }
        kept.append(item)
    return kept


def _places(item: Recalled) -> set[Place]:
    return {(item["thread_id"], message_id) for message_id in item["message_ids"]}


def _score(item: Recalled) -> float:
    return float("-inf") if item["score"] is None else item["score"]
