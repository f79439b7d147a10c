"""MemoryRecall: what is known that matters for this turn."""

import logging
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, Literal, TypeAlias

from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import BaseMessage
from langgraph.store.base import BaseStore, GetOp, SearchItem, SearchOp

from memkit.budget import ContextBudget
from memkit.effects import Body, Rerank, StoreBatch, StoreOp, ThreadSearch
from memkit.errors import ConfigError, kind_of
from memkit.events import RecallEvent
from memkit.facts import StalenessPolicy
from memkit.facts.model import to_utc
from memkit.messages import digest, id_of, position_of, text_of, turn_start_at
from memkit.namespaces import FACTS_NAMESPACE, TURNS_NAMESPACE, check_namespace
from memkit.nodes.base import (
    MemoryNode,
    Update,
    Visit,
    check_count,
    check_type,
    latest_of_person,
    said_by_person,
)
from memkit.ranking import Candidate, distinct, ranked
from memkit.secrets import redacted
from memkit.state import Recalled, Source
from memkit.summary import checked_summary, covered_until
from memkit.turns import Question, TurnRanking, credit, ranked_turns, turn_key
from memkit.view import facts_that_fit

_log = logging.getLogger(__name__)

# A question about what was: turns that tell what no longer holds, with their dates, are its answer.
_PAST = re.compile(
    r"\b(?:did|was|were|had|before|used to|previous(?:ly)?|former(?:ly)?|earlier|originally"
    r"|back then|in the past|my (?:old|last))\b",
    re.IGNORECASE,
)
# Times the limit: how many of each source are looked at. Some are left out as copies, as seen
# anyway or as expired, and their places go to the next best.
_LOOK_AT = 2
# Turns that may be what is asked for, by meaning, and as many by words.
_CANDIDATES = 50
# More than are wanted: who said it, and when, may lift what words and meaning rank lower.
_SPARE = 20
# Who speaks is read off this many turns, and believed so long, for so many users.
_LATEST = 50
_SPEAKERS_S = 300.0
_NAMESPACES = 1_000
# Of the turns that a fact was taken from so many, and so much of each, stay in the state.
_WORDS_OF = 3
_WORDS_CHARS = 400
_PLACE = "place"

_Part: TypeAlias = Literal["pinned", "facts", "turns", "ended"]


class MemoryRecall(MemoryNode):
    """Searches the store for what the latest human message is about.

    Current facts, and with `sources=("facts", "turns")` the turns as said, come back in one list,
    best first: nothing both as a turn and as a fact, and of near-copies the most recent one. What
    the model sees anyway, because it was said in this thread since the last cut, is left out.

    A turn is found by what was said around it, too (memkit/turns.py), and a fact comes with the
    words it was taken from. A `score` is by meaning and words, less up to .03 for age and up to .03
    for want of confidence (memkit/ranking.py); None where the store does not rank. A query holds no
    secrets and no notes that memkit or LangChain put into the history.

    Args:
        limit: The most memories to return, pinned ones included.
        window: How many human messages are searched for; the latest comes first.
        budget: What is returned fits its share for recall, and so is what a view of the same budget
            shows; longer memories make room for shorter ones. None: only `limit` bounds it.
        pinned: Attributes like ("name", "language") whose current facts always come first, in this
            order, whatever is asked, and also if they were just said. They count in `limit`.
        namespace: Where facts are.
        turns_namespace: Where TurnRecorder keeps turns.
        sources: "facts", "turns", or both.
        ranking: What counts in the ranking of turns; needs a SemanticStore, others rank by theirs.
        reranker: A cross-encoder or a model behind LangChain's interface, which puts the best twice
            `limit` memories into a better order. Where it fails they keep theirs.
        policy: Sets `freshness`; StaleFactCheck may judge again with its own.
        once_per_turn: Search only if there is a new human message, so that the steps of a tool loop
            share what was found.
        include_expired: Also return expired and superseded facts; what was taken back never.
        output_key: The state key to write.
        summary_key: The state key of the running summary, if the state has one.
        kwargs: See MemoryNode.

    State:
        Reads messages, summary, memory; writes `recalled`, and `memory["recall"]` if it is to
        search once per turn.

    Events:
        RecallEvent on every search, FailedEvent when the reranker failed (memkit.events).

    Cost:
        One `batch` of the store with one search per source and per pinned attribute, and with both
        sources one more search, for the facts that no longer hold, and another batch, for the words
        of the facts; with turns now and then one for who speaks. One embedding of the query; two
        with both sources, if it names who speaks.

    Raises:
        ConfigError: A name of the namespace is not known at run time, or with `once_per_turn` the
            turn was begun for another person.
        StoreMissing: The graph has no store.
    """

    def __init__(
        self,
        *,
        limit: int = 8,
        window: int = 1,
        budget: ContextBudget | None = None,
        pinned: Sequence[str] = (),
        namespace: Sequence[str] = FACTS_NAMESPACE,
        turns_namespace: Sequence[str] = TURNS_NAMESPACE,
        sources: Sequence[Source] = ("facts",),
        ranking: TurnRanking | None = None,
        reranker: BaseDocumentCompressor | None = None,
        policy: StalenessPolicy | None = None,
        once_per_turn: bool = False,
        include_expired: bool = False,
        output_key: str = "recalled",
        summary_key: str = "summary",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, number in (("limit", limit), ("window", window)):
            check_count(name, number)
        if budget is not None:
            check_type("budget", budget, ContextBudget)
        if not sources or set(sources) - {"facts", "turns"}:
            raise ConfigError(f'sources are "facts" and "turns", got {sources!r}')
        if not isinstance(pinned, list | tuple) or not all(isinstance(a, str) for a in pinned):
            raise ConfigError(f'pinned are attributes of facts like ("name",), got {pinned!r}')
        if pinned and "facts" not in sources:
            raise ConfigError(f'pinned facts are among the "facts", and sources are {sources!r}')
        self.limit = limit
        self.window = window
        self.budget = budget
        self.pinned = tuple(dict.fromkeys(pinned))
        self.sources = tuple(dict.fromkeys(sources))
        self.namespaces: dict[Source, tuple[str, ...]] = {
            "facts": check_namespace(namespace),
            "turns": check_namespace(turns_namespace),
        }
        self.ranking = TurnRanking() if ranking is None else ranking
        check_type("ranking", self.ranking, TurnRanking)
        if reranker is not None:
            check_type("reranker", reranker, BaseDocumentCompressor)
        self.reranker = reranker
        self._known_speakers: dict[tuple[str, ...], tuple[float, frozenset[str]]] = {}
        self.policy = StalenessPolicy() if policy is None else policy
        check_type("policy", self.policy, StalenessPolicy)
        check_type("once_per_turn", once_per_turn, bool)
        self.once_per_turn = once_per_turn
        self.include_expired = include_expired
        self.output_key = output_key
        self.summary_key = summary_key

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.output_key, *((self.memory_key,) if self.once_per_turn else ()))

    def body(self, visit: Visit) -> Body[Update]:
        """Search for what the latest turn is about, unless that was done."""
        messages = self.messages(visit)
        if not self.once_per_turn:
            return (yield from self._search(visit, messages))
        who = self.check_person(visit, messages, *self.namespaces.values())
        latest = latest_of_person(messages) or 0
        entry = (
            {"for": id_of(messages, latest), "digest": digest(messages[latest])} if messages else {}
        )
        before = self.cursor(visit, "recall")
        if entry and entry == {key: before.get(key) for key in entry}:
            return {}
        return {
            **(yield from self._search(visit, messages)),
            **self.with_cursor(visit, "recall", {**entry, "who": who}),
        }

    def _search(self, visit: Visit, messages: Sequence[BaseMessage]) -> Body[Update]:
        """Search each source in one round trip, and choose from what it finds."""
        began = time.perf_counter()
        asked = list(islice(filter(said_by_person, reversed(messages)), self.window))
        # What is searched for may go to an embedder outside.
        query = redacted("\n".join(filter(None, (text_of(m).strip() for m in asked)))).strip()
        seen = self._in_view(visit, messages)
        # Spare room for what is left out below.
        wanted = _LOOK_AT * self.limit + min(len(seen), 50)
        now = to_utc(self.now(asked[:1]))
        namespaces = {s: visit.namespace(self.namespaces[s]) for s in self.sources}
        question: Question | None = None
        if query and "turns" in namespaces and getattr(visit.store, "supports_threads", False):
            speakers = yield from self._speakers(visit.store, namespaces["turns"])
            question = Question.read(query, speakers, now)
        searches = self._searches(namespaces, query, question, wanted)
        if not searches:
            return self._recalled(visit, began, [])
        answers = yield StoreBatch(visit.store, [op for _, op in searches])
        found = self._found(searches, answers, query, question, wanted)

        def read(part: _Part) -> list[Candidate]:
            return list(self._read("turns" if part == "turns" else "facts", found[part], now))

        # The attributes in their order, of each the latest first.
        latest = sorted(read("pinned"), key=lambda one: one.said, reverse=True)
        pinned = [
            one
            for attribute in self.pinned
            for one in latest
            if one.item.get("attribute") == attribute and self._holds(one)
        ]
        current = [one for part in self.sources for one in read(part) if not one.was_taken_back]
        rest = self._unseen(ranked(current, read("ended")), visit.thread_id, seen)
        rest = yield from self._reranked(rest[: _LOOK_AT * self.limit], query, visit)
        chosen = self._fitting(one.item for one in distinct(rest, pinned=pinned))
        if "turns" in namespaces:
            chosen = yield from self._with_words(visit.store, namespaces["turns"], chosen)
        return self._recalled(visit, began, chosen)

    def _recalled(self, visit: Visit, began: float, chosen: list[Recalled]) -> Update:
        """Return the update, and tell how it went."""
        sources = Counter(item["source"] for item in chosen)
        freshness = Counter(item["freshness"] for item in chosen)
        visit.emit(
            RecallEvent(
                memkit="recall",
                node=visit.place,
                ms=round(1000 * (time.perf_counter() - began), 3),
                memories=len(chosen),
                facts=sources["facts"],
                turns=sources["turns"],
                stale=freshness["stale"],
                expired=freshness["expired"],
            )
        )
        return {self.output_key: chosen}

    def _searches(
        self,
        namespaces: Mapping[Source, tuple[str, ...]],
        query: str,
        question: Question | None,
        wanted: int,
    ) -> list[tuple[_Part, StoreOp]]:
        """Return what is asked of the store, and for which part of the result."""
        current = {"status": "current"}
        searches: list[tuple[_Part, StoreOp]] = [
            (
                "pinned",
                SearchOp(
                    namespaces["facts"], filter={**current, "attribute": each}, limit=self.limit
                ),
            )
            for each in self.pinned
        ]
        if not query:
            return searches
        if question is not None:
            # Both on one scale; which facts still hold is seen from what comes back.
            searches += [
                (source, self._search_around(source, namespace, question, wanted))
                for source, namespace in namespaces.items()
            ]
            return searches
        for source, namespace in namespaces.items():
            only = current if source == "facts" and not self.include_expired else None
            search = SearchOp(namespace, filter=only, limit=wanted, query=query)
            searches.append((source, search))
        if len(namespaces) > 1 and not _PAST.search(query):
            # A turn that tells what no longer holds is to be told by it.
            over = {"status": {"$ne": "current"}}
            search = SearchOp(namespaces["facts"], filter=over, limit=wanted, query=query)
            searches.append(("ended", search))
        return searches

    def _search_around(
        self, source: Source, namespace: tuple[str, ...], question: Question, wanted: int
    ) -> ThreadSearch:
        ranking, turns = self.ranking, source == "turns"
        return ThreadSearch(
            namespace,
            query=question.text,
            terms=question.text,
            limit=wanted + _SPARE,
            candidates=max(_CANDIDATES, self.limit),
            words=ranking.words,
            reach=ranking.reach if turns else 0,
            decay=ranking.decay,
            meaning=ranking.meaning,
            near=ranking.near if turns else (1.0,),
        )

    def _found(
        self,
        searches: Sequence[tuple[_Part, StoreOp]],
        answers: Sequence[Any],
        query: str,
        question: Question | None,
        wanted: int,
    ) -> dict[_Part, list[SearchItem]]:
        """Return the items of each part, with their scores."""
        found: dict[_Part, list[SearchItem]] = {"pinned": [], "facts": [], "turns": [], "ended": []}
        turns: list[SearchItem] = []
        for (part, op), answer in zip(searches, answers, strict=True):
            if question is None or not isinstance(op, ThreadSearch):
                found[part] += answer
                continue
            best = ranked_turns(question, answer, self.ranking)
            if part == "turns":
                turns = best
                found["turns"] = best[:wanted]
                continue
            holds = [self.include_expired or _is_current(item.value) for item in best]
            found["facts"] = [item for item, ok in zip(best, holds, strict=True) if ok][:wanted]
            if not _PAST.search(query):
                found["ended"] = [item for item in best if not _is_current(item.value)]
        credit(found["facts"], turns, self.ranking)
        return found

    def _speakers(self, store: BaseStore, namespace: tuple[str, ...]) -> Body[frozenset[str]]:
        """Return who speaks in the latest turns; asked again after some minutes."""
        known = self._known_speakers.get(namespace)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        (latest,) = yield StoreBatch(store, [SearchOp(namespace, limit=_LATEST)])
        names = (item.value.get("speaker") for item in latest)
        speakers = frozenset(name for name in names if isinstance(name, str))
        while len(self._known_speakers) >= _NAMESPACES:
            self._known_speakers.pop(next(iter(self._known_speakers)), None)
        self._known_speakers[namespace] = (time.monotonic() + _SPEAKERS_S, speakers)
        return speakers

    def _in_view(self, visit: Visit, messages: Sequence[BaseMessage]) -> set[str]:
        """Return ids of this thread's messages that the model sees as they were said."""
        start = position_of(messages, self.cursor(visit, "trim").get("start_id")) or 0
        summary = checked_summary(visit.read(self.summary_key))
        covered = covered_until(messages, summary, self.cursor(visit, "summarize"))
        covered = turn_start_at(messages, covered) if covered else 0
        return {id_of(messages, i) for i in range(max(covered, start), len(messages))}

    def _read(
        self, source: Source, items: Sequence[SearchItem], now: datetime
    ) -> Iterator[Candidate]:
        """Yield what was found, without items that hold something else."""
        for item in items:
            try:
                yield Candidate.of(source, item, self.policy, now)
            except ConfigError:
                _log.warning("left out %r of %s, which is no memory", item.key, item.namespace)

    def _unseen(
        self, best_first: Iterable[Candidate], thread_id: str | None, seen: set[str]
    ) -> list[Candidate]:
        """Return those that the model does not see anyway."""
        return [
            one
            for one in best_first
            if self._holds(one)
            and not (
                one.item["message_ids"]
                and one.item["thread_id"] == thread_id
                and seen.issuperset(one.item["message_ids"])
            )
        ]

    def _reranked(
        self, best_first: Sequence[Candidate], query: str, visit: Visit
    ) -> Body[list[Candidate]]:
        """Return memories in the order of the reranker; what it leaves out comes behind."""
        if self.reranker is None or not best_first or not query:
            return list(best_first)
        documents = [
            Document(one.item["text"], metadata={_PLACE: n}) for n, one in enumerate(best_first)
        ]
        try:
            kept = yield Rerank(self.reranker, documents, query)
        except Exception as error:  # noqa: BLE001 - whatever a service raises, the turn goes on
            _log.warning("memories keep their order, the reranker failed: %s", kind_of(error))
            visit.failed("reranker", kind_of(error))
            return list(best_first)
        places = dict.fromkeys(document.metadata[_PLACE] for document in kept)
        places |= dict.fromkeys(range(len(best_first)))
        return [best_first[n] for n in places]

    def _fitting(self, best_first: Iterable[Recalled]) -> list[Recalled]:
        chosen = list(best_first)
        if self.budget is None:
            return chosen[: self.limit]
        return facts_that_fit(chosen, self.budget, self.limit)

    def _with_words(
        self, store: BaseStore, namespace: tuple[str, ...], chosen: Sequence[Recalled]
    ) -> Body[list[Recalled]]:
        """Return memories, the facts among them with the turns that say so."""
        keys = {
            n: [turn_key(item["thread_id"], said) for said in item["message_ids"][:_WORDS_OF]]
            for n, item in enumerate(chosen)
            if item["source"] == "facts"
        }
        wanted = list(dict.fromkeys(key for each in keys.values() for key in each))
        if not wanted:
            return list(chosen)
        turns = yield StoreBatch(store, [GetOp(namespace, key) for key in wanted])
        texts = {
            key: str(turn.value.get("text", ""))[:_WORDS_CHARS]
            for key, turn in zip(wanted, turns, strict=True)
            if turn is not None
        }
        return [
            {**item, "said": [texts[key] for key in keys.get(n, ()) if key in texts]}
            if item["source"] == "facts"
            else item
            for n, item in enumerate(chosen)
        ]

    def _holds(self, one: Candidate) -> bool:
        return self.include_expired or one.item["freshness"] != "expired"


def _is_current(value: Mapping[str, Any]) -> bool:
    return bool(value.get("status", "current") == "current")
