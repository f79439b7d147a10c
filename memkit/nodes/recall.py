"""MemoryRecall: what is known that matters for this turn."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.store.base import SearchItem, SearchOp

from memkit.effects import Body, StoreBatch
from memkit.errors import ConfigError
from memkit.facts import StalenessPolicy
from memkit.messages import message_ids, text_of
from memkit.nodes.base import (
    FACTS_NAMESPACE,
    TURNS_NAMESPACE,
    MemoryNode,
    Update,
    Visit,
    check_namespace,
)
from memkit.state import Recalled, Source


class MemoryRecall(MemoryNode):
    """Searches the store for what the latest human message is about.

    Current facts, and with `sources=("facts", "turns")` the turns as said, come back in one list,
    best first. A fact takes the place of the turn it was taken from. What the model sees anyway,
    because it was said in this thread since the last cut, is left out.

    Args:
        limit: The most memories to return.
        namespace: Where facts are.
        turns_namespace: Where TurnRecorder keeps turns.
        sources: "facts", "turns", or both.
        policy: Sets `freshness`; StaleFactCheck may judge again with its own.
        include_expired: Also return expired and superseded facts.
        output_key: The state key to write.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `recalled`.

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
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
        self.policy = policy or StalenessPolicy()
        self.include_expired = include_expired
        self.output_key = output_key

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
        found = [
            self._recalled(source, item, now)
            for source, items in zip(self.sources, answers, strict=True)
            for item in items
            if "text" in item.value
        ]
        return {self.output_key: self._select(found, visit.thread_id, seen)}

    def _filter(self, source: Source) -> dict[str, Any] | None:
        return {"status": "current"} if source == "facts" and not self.include_expired else None

    def _in_view(self, visit: Visit, messages: Sequence[BaseMessage]) -> set[str]:
        """Return ids of this thread's messages since the last cut; the model sees those anyway."""
        ids = message_ids(messages)
        start = self.cursor(visit, "trim").get("start_id")
        return set(ids[ids.index(start) if start in ids else 0 :])

    def _recalled(self, source: Source, item: SearchItem, now: datetime) -> Recalled:
        value = item.value
        origin: Mapping[str, Any] = value.get("source") or {}
        return {
            "key": item.key,
            "source": source,
            "text": value["text"],
            "kind": value.get("kind") or ("turn" if source == "turns" else "statement"),
            "last_updated": value.get("last_updated"),
            "last_confirmed": value.get("last_confirmed"),
            "freshness": self.policy.freshness(value, now) if source == "facts" else "fresh",
            "score": item.score,
            "message_ids": list(origin.get("message_ids") or []),
            "thread_id": origin.get("thread_id"),
        }

    def _select(
        self, found: Sequence[Recalled], thread_id: str | None, seen: set[str]
    ) -> list[Recalled]:
        """Return the best that the model does not see anyway, without the expired."""
        chosen = [
            item
            for item in _facts_for_turns(found)
            if (self.include_expired or item["freshness"] != "expired")
            and not (
                item["message_ids"]
                and item["thread_id"] == thread_id
                and seen.issuperset(item["message_ids"])
            )
        ]
        return sorted(chosen, key=_score, reverse=True)[: self.limit]


def _facts_for_turns(found: Sequence[Recalled]) -> list[Recalled]:
    """Return what was found, each turn replaced by the best fact that was taken from it.

    A fact knows when it was last confirmed and is marked when stale; the turn it came from would
    say the same without that.
    """
    turns = {_said(item): _score(item) for item in found if item["source"] == "turns"}
    facts = sorted((i for i in found if i["source"] == "facts"), key=_score, reverse=True)
    replaced: set[tuple[str | None, str]] = set()
    kept: list[Recalled] = []
    for fact in facts:
        places = {(fact["thread_id"], i) for i in fact["message_ids"]}
        scores = [turns[place] for place in places - replaced if place in turns]
        replaced |= places
        best = max([_score(fact), *scores])
        kept.append({**fact, "score": best} if best > _score(fact) else fact)
    kept += [i for i in found if i["source"] == "turns" and _said(i) not in replaced]
    return kept


def _said(turn: Recalled) -> tuple[str | None, str]:
    return turn["thread_id"], turn["message_ids"][0] if turn["message_ids"] else turn["key"]


def _score(item: Recalled) -> float:
    return float("-inf") if item["score"] is None else item["score"]
