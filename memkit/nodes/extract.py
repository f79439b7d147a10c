"""FactExtractor: what the person stated becomes dated facts."""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage, HumanMessage
from langgraph.errors import GraphBubbleUp
from langgraph.store.base import GetOp, Op, PutOp, SearchOp

from memkit.effects import AskModel, Body, StoreBatch
from memkit.errors import ConfigError
from memkit.facts import SINGLE_VALUED, Change, Fact, reconcile
from memkit.facts.ask import (
    ProposedFact,
    ProposedFacts,
    grounded,
    question,
    read_reply,
)
from memkit.facts.rules import statements
from memkit.messages import id_of, said_at, speaker_of, text_of
from memkit.nodes.base import (
    FACTS_NAMESPACE,
    MemoryNode,
    Update,
    Visit,
    check_namespace,
    check_type,
    resolve_model,
    write,
)
from memkit.nodes.record import memory_key, said_by_someone

_log = logging.getLogger(__name__)


class FactExtractor(MemoryNode):
    """Takes down the facts of the messages behind its cursor.

    A statement that is known is confirmed, a new value of a single-valued attribute supersedes the
    old one, which stays readable. The key of a fact is made of the thread and the messages that
    state it, so that a retry or a replay finds it written and does nothing. A model call that fails
    or cannot be read leaves cursor and store as they were; the next turn tries again.

    Args:
        model: A chat model, a name for `init_chat_model`, or None to keep the person's own
            first-person statements (see memkit.facts.rules for what that misses).
        namespace: Where facts are kept.
        batch_chars: The most characters of messages in one model call; the rest waits for the
            next visit.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `memory["extract"]`.

    Events:
        `{"memkit": "FactExtractor", "add", "confirm", "supersede", "ungrounded"}`, counts, and
        `{…, "failed": reason}`.

    Cost:
        With a model one call per visit that has new human messages. Two `batch` calls of the
        store: one to read what may be touched, one to write.

    Raises:
        ConfigError: A name of the namespace is not known at run time.
        StoreMissing: The graph has no store.
    """

    def __init__(
        self,
        model: BaseChatModel | str | None = None,
        *,
        namespace: Sequence[str] = FACTS_NAMESPACE,
        batch_chars: int = 16_000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_type("batch_chars", batch_chars, int)
        self.batch_chars = batch_chars
        self.model = resolve_model(model)
        self.namespace = check_namespace(namespace)

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.memory_key,)

    def body(self, visit: Visit) -> Body[Update]:
        """Propose facts, look up what they touch, write what changes."""
        messages = self.messages(visit)
        begin = self.unread(visit, "extract", messages)
        if begin == len(messages):
            return {}
        store = visit.store
        namespace = visit.namespace(self.namespace)
        end = len(messages) if self.model is None else self._one_call(messages, begin)
        new = [
            (id_of(messages, i), messages[i])
            for i in range(begin, end)
            if said_by_someone(messages[i])
        ]
        done = self.read_through(visit, "extract", messages, end)
        if not any(isinstance(m, HumanMessage) for _, m in new):
            return done
        counts: Counter[str] = Counter()
        if self.model is None:
            proposed = self._stated(visit, new, messages)
        else:
            try:
                proposed = yield from self._asked(visit, new, messages, counts)
            except GraphBubbleUp:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a model client raises, the turn goes on
                _log.warning("no facts were taken down, the next turn tries again: %s", error)
                visit.emit(failed=str(error))
                cursor = self.cursor(visit, "extract")
                failures = cursor.get("failures", 0) + 1
                return self.with_cursor(visit, "extract", {**cursor, "failures": failures})
        if not proposed:
            return done
        written, existing = yield from self._known(store, namespace, proposed)
        fresh = [fact for fact in proposed if fact.key not in written]
        changes = reconcile(existing, fresh, self.now(messages))
        ops = [
            PutOp(namespace, fact.key, fact.to_value(), index=["text"])
            for fact in _to_write(changes)
        ]
        yield from write(store, ops)
        counts.update(change.action for change in changes)
        visit.emit(**{k: counts[k] for k in ("add", "confirm", "supersede", "ungrounded")})
        return done

    def _one_call(self, messages: Sequence[BaseMessage], begin: int) -> int:
        """Return where the messages of one model call end: at least one, the rest on later turns.

        After an outage the backlog so never outgrows the model's window.
        """
        size = 0
        for i in range(begin, len(messages)):
            size += len(text_of(messages[i]))
            if size > self.batch_chars and i > begin:
                return i
        return len(messages)

    def _stated(
        self,
        visit: Visit,
        new: Sequence[tuple[str, BaseMessage]],
        messages: Sequence[BaseMessage],
    ) -> list[Fact]:
        """Return the first-person statements of the human messages."""
        facts = []
        for message_id, message in new:
            if not isinstance(message, HumanMessage):
                continue
            for n, said in enumerate(statements(text_of(message))):
                facts.append(
                    self._fact(
                        visit,
                        [(message_id, message)],
                        messages,
                        n,
                        # In a room of several people a sentence with "I" needs its speaker.
                        text=f"{message.name}: {said.text}" if message.name else said.text,
                        kind=said.kind,
                        attribute=said.attribute,
                    )
                )
        return facts

    def _asked(
        self,
        visit: Visit,
        new: Sequence[tuple[str, BaseMessage]],
        messages: Sequence[BaseMessage],
        counts: Counter[str],
    ) -> Body[list[Fact]]:
        """Return the facts that the model names and the messages bear out."""
        prompt = question(new, user="the user")
        reply = yield from self._ask(visit, prompt)
        by_number = {str(i): pair for i, pair in enumerate(new, 1)}
        by_id = dict(new)
        facts = []
        seen: Counter[tuple[str, ...]] = Counter()
        for proposal in reply:
            cited = [
                by_number.get(i.strip("[] ")) or (i, by_id[i])
                for i in proposal.message_ids
                if i.strip("[] ") in by_number or i in by_id
            ]
            cited = [(i, m) for i, m in cited if isinstance(m, HumanMessage)]
            if not grounded(proposal, [m for _, m in cited]):
                counts["ungrounded"] += 1
                continue
            n = seen[key := tuple(i for i, _ in cited)]
            seen[key] += 1
            attribute = (proposal.attribute or "").strip().lower().replace(" ", "_")
            facts.append(
                self._fact(
                    visit,
                    cited,
                    messages,
                    n,
                    text=proposal.text.strip(),
                    kind=(proposal.kind or "").strip().lower() or "statement",
                    attribute=attribute if attribute in SINGLE_VALUED else None,
                )
            )
        return facts

    def _ask(self, visit: Visit, prompt: list[BaseMessage]) -> Body[list[ProposedFact]]:
        """Ask for JSON by schema; read the text tolerantly where a model cannot do that."""
        config = {**visit.config, "tags": [*(visit.config.get("tags") or []), "nostream"]}
        try:
            structured = self.model.with_structured_output(
                ProposedFacts.model_json_schema(), method="json_schema", include_raw=True
            )
            answer = yield AskModel(structured, prompt, config)  # type: ignore[arg-type]
        except Exception as error:
            if not _lacks_schemas(error):
                raise
            schema = HumanMessage(
                "Answer with JSON only: "
                '{"facts": [{"text": …, "kind": …, "attribute": … or null, "message_ids": […]}]}'
            )
            answer = yield AskModel(self.model, [*prompt, schema], config)  # type: ignore[arg-type]
        if isinstance(answer, dict) and "raw" in answer:
            answer = answer.get("parsed") or answer["raw"]
        return read_reply(answer)

    def _fact(
        self,
        visit: Visit,
        cited: Sequence[tuple[str, BaseMessage]],
        messages: Sequence[BaseMessage],
        n: int,
        **what: Any,
    ) -> Fact:
        last = cited[-1][1]
        at = said_at(last) or self.now(messages)
        ids = [i for i, _ in cited]
        return Fact(
            **what,
            subject=speaker_of(last),
            first_seen=at,
            last_updated=at,
            last_confirmed=at,
            source={
                "thread_id": visit.thread_id,
                "message_ids": ids,
                "checkpoint_id": visit.checkpoint_id,
            },
            key=memory_key(visit.thread_id, *ids, n),
        )

    def _known(
        self, store: Any, namespace: tuple[str, ...], proposed: Sequence[Fact]
    ) -> Body[tuple[set[str], list[Fact]]]:
        """Return the keys that are written already, and the current facts that may be touched."""
        attributes = {(f.subject, f.attribute) for f in proposed if f.attribute}
        texts = {(f.subject, f.words) for f in proposed}
        ops: list[Op] = [GetOp(namespace, f.key, refresh_ttl=False) for f in proposed]
        for field, wanted in (("attribute", attributes), ("words", texts)):
            for subject, value in sorted(wanted):
                for status in ("current", "superseded"):
                    match = {"status": status, "subject": subject, field: value}
                    ops.append(SearchOp(namespace, filter=match, limit=50, refresh_ttl=False))
        answers = yield StoreBatch(store, ops)
        written = {item.key for item in answers[: len(proposed)] if item is not None}
        existing: dict[str, Fact] = {}
        for item in (item for items in answers[len(proposed) :] for item in items):
            try:
                existing[item.key] = Fact.from_value(item.key, item.value)
            except ConfigError as error:
                _log.warning("left out an item of %s: %s", item.namespace, error)
        for fact in existing.values():
            written.update(fact.source.get("confirmed_by") or ())
        return written, list(existing.values())


def _lacks_schemas(error: Exception) -> bool:
    """Return whether a model, or the server behind it, cannot answer by a JSON schema."""
    if getattr(error, "status_code", None) in (400, 404, 422):
        return True
    return isinstance(error, NotImplementedError | ValueError | TypeError | AttributeError)


def _to_write(changes: Sequence[Change]) -> list[Fact]:
    """Return the facts to store, the last form of each."""
    facts: dict[str, Fact] = {}
    for change in changes:
        for fact in (change.previous, change.fact):
            if fact is not None:
                facts[fact.key] = fact
    return list(facts.values())
