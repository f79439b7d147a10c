"""TurnRecorder: turns as they were said, as a second kind of memory."""

from collections.abc import Sequence
from typing import Any

from langgraph.store.base import PutOp

from memkit.effects import Body, stable_key, write
from memkit.messages import id_of, said_at, speaker_of, text_of
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


class TurnRecorder(MemoryNode):
    """Keeps every human and assistant message that has a text, with its speaker and time.

    Writing is idempotent: the key of an item is made of thread and message id, so that a retry, a
    replay or a second worker writes the same item again.

    Args:
        namespace: Where turns are kept.
        redact: Keep "[card number]", "[password]" or "[key]" in place of what `memkit.secrets`
            finds, so that it reaches neither the store nor the embedder; the stream event says
            in how many turns.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `memory["record"]`.

    Cost:
        One `batch` of the store per call; one embedding per new message.
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
        namespace = visit.namespace(self.namespace)
        puts, changed = [], 0
        for i in range(begin, len(messages)):
            message = messages[i]
            text = text_of(message).strip()
            if not text or not said_by_someone(message):
                continue
            if self.redact:
                said, text = text, redacted(text)
                changed += said != text
            message_id = id_of(messages, i)
            at = (said_at(message) or self.now(messages)).isoformat()
            value = {
                "text": f"{speaker_of(message)}: {text}".replace("\0", ""),  # Postgres keeps none
                "kind": "turn",
                "speaker": speaker_of(message),
                "last_updated": at,
                "source": {"thread_id": visit.thread_id, "message_ids": [message_id]},
            }
            puts.append(
                PutOp(namespace, stable_key(visit.thread_id, message_id), value, index=["text"])
            )
        yield from write(store, puts)
        visit.emit(recorded=len(puts), redacted=changed)
        return self.read_through(visit, self.entry, messages, len(messages))
