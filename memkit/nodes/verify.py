"""StaleFactCheck: which of the recalled facts may be relied on."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, cast, get_args

from langgraph.store.base import GetOp, Op, PutOp
from langgraph.types import interrupt

from memkit.effects import Body, stable_key
from memkit.errors import ConfigError
from memkit.events import VerifyEvent
from memkit.factbook import FactBook
from memkit.facts import Fact, StalenessPolicy, duration
from memkit.facts.verification import Answer, Turn, UnreadableAnswer, question, read_answers, to_ask
from memkit.messages import id_of
from memkit.namespaces import FACTS_NAMESPACE, check_namespace
from memkit.nodes.base import (
    CHECKPOINTER,
    MemoryNode,
    Update,
    Visit,
    check_count,
    check_type,
    latest_of_person,
    utc_now,
)
from memkit.state import Recalled

OnStale = Literal["mark", "interrupt"]


class StaleFactCheck(MemoryNode):
    """Judges recalled facts by when the person last confirmed them, and has stale ones confirmed.

    An expired fact is left out. A stale one stays and is marked in the prompt. With "mark" the mark
    tells the model to confirm it with the person ("confirm before relying on it"); what the person
    then says is read by FactExtractor. With "interrupt" the graph stops, and the person (or your
    code) answers:

        result = graph.invoke(turn, config)
        result["__interrupt__"][0].value
        # {"memkit": "confirm_facts", "answers": "how to answer",
        #  "facts": [{"key": "…", "text": "…", "kind": "…", "last_confirmed": "…"}]}
        graph.invoke(Command(resume="confirm"), config)
        graph.invoke(Command(resume={"answers": {key: {"correct": "I live in Bonn."}}}), config)

    The answer is written to the store, and `recalled` shows the result in this very turn. One that
    cannot be read changes nothing, and the question comes again with a "problem".

    A fact is asked about once in `ask_again_after`, in whichever thread; until then it is marked as
    not yet confirmed. That it was asked about is noted in the store, beside the facts.

    Args:
        policy: How long each kind of fact stays fresh.
        on_stale: "mark" or "interrupt". Without a store "mark" asks in every turn.
        ask_again_after: How long a fact that was asked about is not asked about again, in the
            time of the conversation.
        max_questions: The most facts to ask about in one turn, best matches first.
        namespace: Where the facts are.
        recalled_key: The state key of the recalled memories.
        keep_expired: Leave expired ones in, marked.
        messages_key: See MemoryNode.
        memory_key: See MemoryNode.
        clock: See MemoryNode.

    State:
        Reads messages, recalled, memory; writes `recalled` and `memory["verify"]`, the counts.

    Events:
        VerifyEvent if a fact is stale or expired (memkit.events).

    Cost:
        Nothing without stale facts. With some, one `batch` of the store; one more to note a
        question, and up to three per answer.

    Raises:
        ConfigError: "interrupt" in a graph without a checkpointer, or a name of the namespace is
            not known at run time.
        StoreMissing: "interrupt" in a graph without a store.
        StoreError: The store failed, or others kept changing this person's facts.
    """

    def __init__(
        self,
        policy: StalenessPolicy | None = None,
        *,
        on_stale: OnStale = "mark",
        ask_again_after: str | timedelta = "30d",
        max_questions: int = 3,
        namespace: Sequence[str] = FACTS_NAMESPACE,
        recalled_key: str = "recalled",
        keep_expired: bool = False,
        messages_key: str = "messages",
        memory_key: str = "memory",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        super().__init__(messages_key=messages_key, memory_key=memory_key, clock=clock)
        self.policy = StalenessPolicy() if policy is None else policy
        check_type("policy", self.policy, StalenessPolicy)
        if on_stale not in get_args(OnStale):
            raise ConfigError(f'on_stale is "mark" or "interrupt", got {on_stale!r}')
        check_count("max_questions", max_questions)
        self.on_stale = on_stale
        self.ask_again_after = duration(ask_again_after)
        self.max_questions = max_questions
        self.namespace = check_namespace(namespace)
        check_type("recalled_key", recalled_key, str)
        self.recalled_key = recalled_key
        self.keep_expired = keep_expired

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.recalled_key, self.memory_key)

    def body(self, visit: Visit) -> Body[Update]:
        """Judge each fact, ask about stale ones, and carry out the answers."""
        turn = self._turn(visit)
        book = self._book(visit)
        judged = [self._judged(item, turn.now) for item in visit.read(self.recalled_key) or []]
        stale, expired = (
            [item["key"] for item in judged if item["freshness"] == word]
            for word in ("stale", "expired")
        )

        asked: list[str] = []
        answered: Counter[str] = Counter()
        answered_by = self.cursor(visit, "verify").get("answered_by")
        interrupts = self.on_stale == "interrupt"
        if book is not None:
            # A turn that comes by again, in a loop of tool calls, has had its answer.
            if not (interrupts and turn.by is not None and turn.by == answered_by):
                asked = yield from self._ask_about(book, judged, turn)
            if interrupts and asked:
                by_key = {item["key"]: item for item in judged}
                answers = self._answers([by_key[key] for key in asked])
                judged, answered = yield from self._settled(visit, book, judged, answers, turn)
                answered_by = turn.by
            for item in judged:
                if item["freshness"] == "stale":
                    item["ask"] = not interrupts and item["key"] in asked

        if stale or expired:
            visit.emit(
                VerifyEvent(
                    memkit="verify",
                    node=visit.place,
                    stale=stale,
                    expired=expired,
                    asked=asked,
                    answered=dict(answered),
                )
            )
        counts = Counter(item["freshness"] for item in judged)
        kept = [i for i in judged if self.keep_expired or i["freshness"] != "expired"]
        report: dict[str, Any] = {
            "checked_at": turn.now.isoformat(),
            **dict(sorted(counts.items())),
        }
        if answered_by is not None:
            report["answered_by"] = answered_by
        return {self.recalled_key: kept, **self.with_cursor(visit, "verify", report)}

    def _turn(self, visit: Visit) -> Turn:
        messages = self.messages(visit)
        last = latest_of_person(messages)
        by = None if last is None else id_of(messages, last)
        return Turn(visit.thread_id, by, self.now(messages))

    def _book(self, visit: Visit) -> FactBook | None:
        """Return the facts in the store, None where the graph has no store and needs none."""
        if self.on_stale == "mark" and (visit.runtime is None or visit.runtime.store is None):
            return None
        if self.on_stale == "interrupt":
            configurable = visit.config.get("configurable") or {}
            if visit.runtime is None or not configurable.get(CHECKPOINTER):
                raise ConfigError(
                    f'{visit.node}(on_stale="interrupt") waits for an answer, and this graph has '
                    "no checkpointer to wait in; compile it with "
                    'builder.compile(checkpointer=..., store=...), or use on_stale="mark"'
                )
        self.check_person(visit, self.messages(visit), self.namespace)
        return FactBook(visit.store, visit.namespace(self.namespace), clock=self.clock)

    def _judged(self, item: Mapping[str, Any], now: datetime) -> Recalled:
        found = cast("Recalled", {k: v for k, v in item.items() if k != "ask"})
        # A turn from which no fact was taken says what was said on its day, and does not age.
        if found["kind"] != "turn" and found["freshness"] != "expired":
            found["freshness"] = self.policy.freshness(found, now)
        return found

    def _ask_about(self, book: FactBook, judged: Sequence[Recalled], turn: Turn) -> Body[list[str]]:
        """Return the keys of the facts to ask about; that they are is noted first."""
        keys = [
            item["key"]
            for item in judged
            if item["source"] == "facts" and item["freshness"] != "fresh"
        ]
        if not keys:
            return []
        places = {key: stable_key("asked", key) for key in keys}
        reads: list[Op] = [GetOp(book.ledger, p, refresh_ttl=False) for p in places.values()]

        def decide(items: Sequence[Any]) -> tuple[list[PutOp], list[str]]:
            marks = {
                key: None if item is None else item.value
                for key, item in zip(places, items, strict=True)
            }
            asked = to_ask(
                judged, marks, turn, again_after=self.ask_again_after, limit=self.max_questions
            )
            puts = [
                PutOp(book.ledger, places[key], turn.mark(marks[key]), index=False)
                for key in asked
                if not turn.left(marks[key])
            ]
            return puts, asked

        return (yield from book.transaction(reads, decide))

    def _answers(self, facts: Sequence[Recalled]) -> dict[str, Answer]:
        """Interrupt until there is an answer that can be read, and return it by key.

        On a resume the node starts over, and LangGraph hands it the earlier answers in their order.
        """
        keys = [fact["key"] for fact in facts]
        problem = None
        while True:
            try:
                return read_answers(interrupt(question(facts, problem)), keys)
            except UnreadableAnswer as error:
                problem = str(error)

    def _settled(
        self,
        visit: Visit,
        book: FactBook,
        judged: Sequence[Recalled],
        answers: Mapping[str, Answer],
        turn: Turn,
    ) -> Body[tuple[list[Recalled], Counter[str]]]:
        """Carry out the answers; return what is recalled then, and how many of each there were."""
        source: dict[str, Any] = {
            "thread_id": visit.thread_id,
            "message_ids": [],
            "checkpoint_id": visit.checkpoint_id,
        }
        settled: dict[str, Recalled] = {}
        counts: Counter[str] = Counter()
        for item in judged:
            answer = answers.get(item["key"]) if item["source"] == "facts" else None
            if answer is None or answer.action == "skip":
                settled.setdefault(item["key"], item)
                counts.update(["skip"] if answer else [])
                continue
            outcome, fact = yield from _carry_out(book, item["key"], answer, turn.now, source)
            counts[outcome] += 1
            if fact is not None:
                settled[fact.key] = self._shown(item, fact, turn.now)
        return list(settled.values()), counts

    def _shown(self, item: Recalled, fact: Fact, now: datetime) -> Recalled:
        return {
            **item,
            "key": fact.key,
            "text": fact.text,
            "kind": fact.kind,
            "last_updated": fact.last_updated.isoformat() if fact.last_updated else None,
            "last_confirmed": fact.last_confirmed.isoformat() if fact.last_confirmed else None,
            "freshness": self.policy.freshness(fact, now),
            "message_ids": fact.message_ids,
            "thread_id": fact.source.get("thread_id"),
        }


def _carry_out(
    book: FactBook, key: str, answer: Answer, at: datetime, source: dict[str, Any]
) -> Body[tuple[str, Fact | None]]:
    """Do what the answer says; return what was done, and the fact that holds then.

    Done twice it does the same. A fact that others replaced or took back while the question was
    open is "gone"; only a correction then goes to the one that took its place.
    """
    fact: Fact | None = None
    try:
        if answer.action == "retract":
            yield from book.retracting([key], at)
            return "retract", None
        if answer.action == "confirm":
            (fact,) = yield from book.confirming([key], at)
        else:
            fact = yield from book.correcting(key, answer.text, at, source)
    except ConfigError:
        # The book holds no such fact any more, or it cannot be corrected since it is not current.
        fact = None
    if fact is not None and fact.status == "current":
        return answer.action, fact
    standing = yield from _standing(book, key)
    if standing is not None and fact is None and answer.action == "correct":
        return (yield from _carry_out(book, standing.key, answer, at, source))
    return "gone", standing


def _standing(book: FactBook, key: str) -> Body[Fact | None]:
    """Return the current fact at the end of what replaced a fact, None if there is none."""
    seen: set[str] = set()
    following: str | None = key
    while following is not None and following not in seen:
        seen.add(following)
        (fact,) = yield from book.getting([following])
        if fact is None or fact.status == "current":
            return fact
        following = fact.superseded_by
    return None
