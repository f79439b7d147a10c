"""TurnRecorder: turns as they were said, as a second kind of memory."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.store.base import GetOp, PutOp

from memkit.effects import Body, StoreBatch, write
from memkit.events import RecordEvent
from memkit.messages import after, id_of, said_at, speaker_of, text_of
from memkit.namespaces import TURNS_NAMESPACE, check_namespace
from memkit.nodes.base import (
    MemoryNode,
    Update,
    Visit,
    check_type,
    entry_of,
    said_by_someone,
)
from memkit.secrets import redacted
from memkit.turns import times_of, turn_key


class TurnRecorder(MemoryNode):
    """Keeps every human and assistant message that has a text, with its speaker and time.

    Its `position` in the thread and the dates it tells of let MemoryRecall see what was said around
    it, and when. Writing is idempotent: the key of an item is made of thread and message id, so
    that a retry, a replay or a second worker writes the same item again.

    Args:
        namespace: Where turns are kept.
        redact: Keep "[card number]", "[password]" or "[key]" in place of what `memkit.secrets`
            finds, so that it reaches neither the store nor the embedder.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `memory["record"]`.

    Events:
        RecordEvent when turns were recorded (memkit.events).

    Cost:
        One `batch` of the store per call; one embedding per new message. Where no checkpoint says
        what was read, one more, to see what is there.
    """

    def __init__(
        self,
        *,
        namespace: Sequence[str] = TURNS_NAMESPACE,
        redact: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.namespace = check_namespace(namespace)
        check_type("redact", redact, bool)
        self.redact = redact
        self.entry = entry_of("record", self.namespace, TURNS_NAMESPACE)

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.memory_key,)

    def body(self, visit: Visit) -> Body[Update]:
        """Write the messages behind the cursor."""
        messages = self.messages(visit)
        begin = self.unread(visit, self.entry, messages)
        if begin == len(messages):
            return {}
        store = visit.store
        self.check_person(visit, messages, self.namespace)
        namespace = visit.namespace(self.namespace)
        puts, changed = [], 0
        position = self._position(visit, messages, begin)
        for i in range(begin, len(messages)):
            message = messages[i]
            if not _is_turn(message):
                continue
            text = text_of(message).strip()
            if self.redact:
                said, text = text, redacted(text)
                changed += said != text
            message_id = id_of(messages, i)
            at = said_at(message) or self.now(messages)
            value = {
                "text": f"{speaker_of(message)}: {text}".replace("\0", ""),  # Postgres keeps none
                "kind": "turn",
                "speaker": speaker_of(message),
                "last_updated": at.isoformat(),
                "source": {"thread_id": visit.thread_id, "message_ids": [message_id]},
                "thread_id": visit.thread_id,
                "position": position,
                "times": times_of(text, at),
            }
            position += 1
            puts.append(
                PutOp(namespace, turn_key(visit.thread_id, message_id), value, index=["text"])
            )
        if puts and not self.cursor(visit, self.entry):
            # Recorded before, without a checkpoint that says so: it keeps the time of then.
            reads = [GetOp(put.namespace, put.key, refresh_ttl=False) for put in puts]
            known = yield StoreBatch(store, reads)
            puts = [
                put
                for put, item in zip(puts, known, strict=True)
                if item is None or item.value.get("text") != (put.value or {})["text"]
            ]
        yield from write(store, puts)
        visit.emit(
            RecordEvent(memkit="record", node=visit.place, recorded=len(puts), redacted=changed)
        )
        return self.read_through(visit, self.entry, messages, len(messages), position=position)

    def _position(self, visit: Visit, messages: Sequence[BaseMessage], begin: int) -> int:
        """Return the place in the thread of the turn at or behind `begin`.

        The history may have lost its start, so turns are counted from the cursor on.
        """
        cursor = self.cursor(visit, self.entry)
        end = after(messages, cursor.get("through_id"), cursor.get("recent"))
        again = sum(map(_is_turn, messages[begin:end]))
        return max(0, int(cursor.get("position", 0)) - again)


def _is_turn(message: BaseMessage) -> bool:
    return said_by_someone(message) and bool(text_of(message).strip())
