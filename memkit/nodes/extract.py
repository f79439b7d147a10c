"""FactExtractor: what the person stated becomes dated facts."""

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.store.base import GetOp, Op, PutOp, SearchOp
from pydantic import BaseModel

from memkit.effects import Body, StoreBatch, stable_key
from memkit.errors import ConfigError
from memkit.events import ExtractEvent
from memkit.factbook import FactBook
from memkit.facts import Change, reconcile
from memkit.facts.ask import Said, Schemas, extraction_prompt
from memkit.facts.gates import GATES, check_gates
from memkit.facts.proposals import Origin, Proposals, from_reply, from_statements
from memkit.messages import digest, id_of, said_at, text_of
from memkit.namespaces import FACTS_NAMESPACE, check_namespace
from memkit.nodes.base import (
    MemoryNode,
    Update,
    Visit,
    check_count,
    entry_of,
    resolve_model,
    said_by_person,
    said_by_someone,
)
from memkit.nodes.structured import NoReply, StructuredModel
from memkit.secrets import redacted

_log = logging.getLogger(__name__)

_TRIES = 3  # of a single message that the model refuses
_QUERY_CHARS = 2_000  # of the new messages; what is searched for is their subject


class FactExtractor(MemoryNode):
    """Takes down the facts of the messages behind its cursor, each message once.

    A statement that is known is confirmed; a new value of a single-valued attribute supersedes the
    old one, which stays readable; what the person takes back is retracted; everything else is
    added (`memkit.facts.reconcile`). Before that a proposal has to pass the gates
    (`memkit.facts.gates`).

    That a message was read is written to the store together with its facts. On SemanticStore both
    or neither are there, whatever is retried, replayed, submitted twice, killed or served by two
    workers at once, and a second reply of a model to the same messages changes nothing. On any
    other BaseStore the same holds one after the other; two workers at the very same moment can both
    write, under keys that are the same for the same messages.

    A model call that fails, or a reply that cannot be read, leaves cursor and store as they were;
    the next turn tries again. Of messages that the model refuses (it answers with something else,
    or with an error about them) it is then shown half as many, until one is left; that one is
    passed over after three refusals.

    A message that was edited under its id is read again, if it is one of the last few; what its
    former words said stays known until the new ones supersede it, or you retract it.

    Args:
        model: A chat model, a name for `init_chat_model`, or None to keep the person's own
            first-person statements (see memkit.facts.rules for what that misses).
        namespace: Where facts are kept.
        schemas: Pydantic classes of your own; each is a kind whose facts carry its fields in
            `data`, see memkit.facts.ask.Schemas. Needs a model.
        gates: Those that are used, by default all: "own", "grounded", "asserted", "instructions",
            "secrets". Without a model the statements are chosen so that the first four hold anyway.
        known_facts: The most known facts shown to the model, those nearest to the new messages.
        batch_chars: The most characters of messages in one model call; the rest waits for the
            next visit.
        version: Part of what "read once" means: with another one, messages that a checkpoint or a
            caller brings back are read anew, by another model, say.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `memory["extract"]`, with another namespace than the usual
        one `memory["extract:<namespace>"]`.

    Events:
        ExtractEvent when messages of persons were read, FailedEvent when the model gave no facts
        (memkit.events).

    Cost:
        With a model one call per visit that has new human messages. Of the store one `batch` to
        read what may be touched and one to write, and with a model one more to read before it is
        asked; one more where no checkpoint says what was read, and more if others change the same
        person's facts at that moment.

    Raises:
        ConfigError: A name of the namespace is not known at run time, or the turn was begun for
            another person.
        StoreMissing: The graph has no store.
        StoreError: The store failed, or others kept changing this person's facts
            (VersionConflict); nothing was written, and the next turn tries again.
    """

    def __init__(
        self,
        model: BaseChatModel | str | None = None,
        *,
        namespace: Sequence[str] = FACTS_NAMESPACE,
        schemas: Sequence[type[BaseModel]] = (),
        gates: Collection[str] = GATES,
        known_facts: int = 10,
        batch_chars: int = 16_000,
        version: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, value in (
            ("known_facts", known_facts),
            ("batch_chars", batch_chars),
            ("version", version),
        ):
            check_count(name, value)
        self.model = resolve_model(model)
        self.namespace = check_namespace(namespace)
        self.schemas = Schemas(schemas)
        if schemas and self.model is None:
            raise ConfigError("the fields of schemas are filled in by a model; pass one")
        self.gates = check_gates(gates)
        self.known_facts = known_facts
        self.batch_chars = batch_chars
        self.version = version
        self._asks = StructuredModel(self.model, self.schemas)
        self.entry = entry_of("extract", self.namespace, FACTS_NAMESPACE)

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.memory_key,)

    def body(self, visit: Visit) -> Body[Update]:
        """Propose facts, look up what they touch, write what changes."""
        messages = self.messages(visit)
        begin = self.unread(visit, self.entry, messages)
        if begin == len(messages):
            return {}
        self.check_person(visit, messages, self.namespace)
        book = FactBook(visit.store, visit.namespace(self.namespace), clock=self.clock)
        if not self.cursor(visit, self.entry):
            begin = yield from self._first_unread(visit, book, messages)
        end = len(messages) if self.model is None else self._one_call(visit, messages, begin)
        said = [self._said(messages, i) for i in range(begin, end) if said_by_someone(messages[i])]
        done = self.read_through(visit, self.entry, messages, end)
        if not any(each.citable for each in said):
            return done
        origin = Origin(visit.thread_id, visit.checkpoint_id, self.version)
        if self.model is None:
            before = self._last_person(messages, begin)
            proposals = from_statements(said, origin, before=before, gates=self.gates)
        else:
            try:
                proposals = yield from self._asked(visit, book, said, origin)
            except NoReply as failure:
                return self._after(failure, visit, said, done)
        changes = yield from self._write(book, proposals, origin, self.now(messages))
        counts = Counter(change.action for change in changes)
        visit.emit(
            ExtractEvent(
                memkit="extract",
                node=visit.place,
                messages=sum(each.citable for each in said),
                accepted=len(proposals.facts),
                add=counts["add"],
                confirm=counts["confirm"],
                supersede=counts["supersede"],
                retract=counts["retract"],
                refused={gate: n for gate, n in proposals.refused.items() if n},
            )
        )
        return done

    def _first_unread(
        self, visit: Visit, book: FactBook, messages: Sequence[BaseMessage]
    ) -> Body[int]:
        """Return the position of the first message that the store does not say is read.

        Where no checkpoint says it: a graph without one would begin with the first on every turn.
        """
        people = [n for n, message in enumerate(messages) if said_by_person(message)]
        if len(people) < 2:
            return 0
        origin = Origin(visit.thread_id, visit.checkpoint_id, self.version)
        said = [self._said(messages, n) for n in people]
        marks = yield StoreBatch(book.store, self._marks(book, said, origin))
        unread = (n for n, mark in zip(people, marks, strict=True) if mark is None)
        # What stands before it, an assistant's question above all, says what it is about.
        first = next(unread, len(messages))
        return max((n + 1 for n in people if n < first), default=0)

    def _said(self, messages: Sequence[BaseMessage], i: int) -> Said:
        message = messages[i]
        return Said(
            id=id_of(messages, i),
            message=message,
            at=said_at(message) or self.now(messages),
            citable=isinstance(message, HumanMessage),
            answers=i > 0 and text_of(messages[i - 1]).rstrip().endswith("?"),
        )

    def _last_person(self, messages: Sequence[BaseMessage], end: int) -> Said | None:
        """Return the last message of a person before a position."""
        for i in range(end - 1, -1, -1):
            if said_by_person(messages[i]):
                return self._said(messages, i)
        return None

    def _one_call(self, visit: Visit, messages: Sequence[BaseMessage], begin: int) -> int:
        """Return where the messages of one model call end: at least one, the rest on later turns.

        After an outage the backlog so never outgrows the model's window; after a refusal they are
        fewer, to find the one that is refused.
        """
        most = self.cursor(visit, self.entry).get("most", len(messages))
        size = people = 0
        for i in range(begin, len(messages)):
            size += len(text_of(messages[i]))
            people += said_by_person(messages[i])
            if i > begin and (size > self.batch_chars or people > most):
                return i
        return len(messages)

    def _after(self, failure: NoReply, visit: Visit, said: Sequence[Said], done: Update) -> Update:
        """Return the update after a call that gave nothing: the next turn tries again.

        Of messages that the model refuses it then reads half as many, and passes over a single one
        that it refused time and again.
        """
        cursor = self.cursor(visit, self.entry)
        people = sum(each.citable for each in said)
        refusals = cursor.get("refusals", 0) + 1 if failure.is_refusal and people == 1 else 0
        if refusals == _TRIES:
            _log.warning("passed over a message that the model refused: %s", failure)
            visit.failed("extraction", str(failure), passed_over=1)
            return done
        _log.warning("no facts were taken down, the next turn tries again: %s", failure)
        visit.failed("extraction", str(failure))
        again = {**cursor, "failures": cursor.get("failures", 0) + 1, "refusals": refusals}
        if failure.is_refusal and people > 1:
            again["most"] = max(1, people // 2)
        return self.with_cursor(visit, self.entry, again)

    def _asked(
        self, visit: Visit, book: FactBook, said: Sequence[Said], origin: Origin
    ) -> Body[Proposals]:
        """Ask the model about the messages that were not read yet.

        Raises:
            NoReply: It gave no list of facts.
        """
        humans = [each for each in said if each.citable]
        query = redacted("\n".join(text_of(each.message) for each in humans))[-_QUERY_CHARS:]
        near = SearchOp(
            book.namespace,
            {"status": "current"},
            self.known_facts,
            query=query.strip() or None,
            refresh_ttl=False,
        )
        *marks, items = yield StoreBatch(book.store, [*self._marks(book, humans, origin), near])
        read = {each.id for each, mark in zip(humans, marks, strict=True) if mark is not None}
        said = [each for each in said if each.id not in read]
        if not any(each.citable for each in said):
            return Proposals()
        known = book.facts_of(items)
        prompt = extraction_prompt(said, user="the user", known=known, schemas=self.schemas)
        reply = yield from self._asks.ask(prompt, visit.config)
        return from_reply(reply, said, known, origin, schemas=self.schemas, gates=self.gates)

    def _write(
        self, book: FactBook, proposals: Proposals, origin: Origin, now: datetime
    ) -> Body[list[Change]]:
        """Reconcile what is proposed with what is known; write it with the marks of its messages.

        Of a message that was read meanwhile nothing is written again.
        """
        if not proposals.read:
            return []
        stated = proposals.facts
        marks = self._marks(book, proposals.read, origin)
        own = book.gets([fact.key for fact in stated])
        named = book.gets(sorted({fact.supersedes for fact in stated if fact.supersedes}))
        ahead = len(marks) + len(own)

        def beside(answers: Sequence[Any]) -> list[Op]:
            """Return how to read what holds again once its successor is taken back."""
            taken_back = any(fact.status == "retracted" for fact in stated)
            return book.neighbours(book.found(answers[ahead:])) if taken_back else []

        def decide(answers: Sequence[Any]) -> tuple[list[PutOp], list[Change]]:
            unread = [each for each, mark in zip(proposals.read, answers, strict=False) if not mark]
            written = [
                fact.key for fact, item in zip(stated, answers[len(marks) :], strict=False) if item
            ]
            ids = {each.id for each in unread}
            fresh = [
                f for f in stated if f.key not in written and not ids.isdisjoint(f.message_ids)
            ]
            changes = reconcile(
                book.found(answers[ahead:]),
                fresh,
                now,
                single_valued=self.schemas.single_valued,
            )
            # The last form of each.
            facts = {fact.key: fact for change in changes for fact in change.facts}
            puts = [book.put_of(fact) for fact in facts.values()]
            for each, mark in zip(proposals.read, marks, strict=True):
                if each.id in ids:
                    note = {"message_id": each.id, "said_at": each.at.isoformat()}
                    puts.append(PutOp(mark.namespace, mark.key, note, index=False))
            return puts, changes

        reads = [*marks, *own, *named, *book.touched(stated)]
        return (yield from book.transaction(reads, decide, then=beside))

    def _marks(self, book: FactBook, said: Sequence[Said], origin: Origin) -> list[GetOp]:
        """Return the reads of the notes that messages, as they read now, were read."""
        keys = [
            stable_key("read", self.version, origin.thread_id, each.id, digest(each.message))
            for each in said
        ]
        return [GetOp(book.ledger, key, refresh_ttl=False) for key in keys]
