"""TurnRecorder: turns as they were said, as a second kind of memory."""

import hashlib
from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langgraph.store.base import PutOp

from memkit.effects import Body
from memkit.messages import id_of, said_at, speaker_of, text_of
from memkit.nodes.base import TURNS_NAMESPACE, MemoryNode, Update, Visit, check_namespace, write
from memkit.view import RECALLED_ID


def memory_key(*parts: object) -> str:
    """Return a key that is the same whenever the same thing is written again."""
    return hashlib.sha256("\0".join(map(str, parts)).encode()).hexdigest()[:32]


def said_by_someone(message: BaseMessage) -> bool:
    """Return whether a person or an assistant said it: not a tool, nor memkit's own notes."""
    return isinstance(message, HumanMessage | AIMessage) and message.id != RECALLED_ID


class TurnRecorder(MemoryNode):
    """Keeps every human and assistant message that has a text, with its speaker and time.

    Writing is idempotent: the key of an item is made of thread and message id, so that a retry, a
    replay or a second worker writes the same item again.

    Args:
        namespace: Where turns are kept.
        kwargs: See MemoryNode.

    State:
        Reads messages, memory; writes `memory["record"]`.

    Cost:
        One `batch` of the store per call; one embedding per new message.
    """

    def __init__(self, *, namespace: Sequence[str] = TURNS_NAMESPACE, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.namespace = check_namespace(namespace)

    @property
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""
        return (self.memory_key,)

    def body(self, visit: Visit) -> Body[Update]:
        """Write the messages behind the cursor."""
        messages = self.messages(visit)
        begin = self.unread(visit, "record", messages)
        if begin == len(messages):
            return {}
        store = visit.store
        namespace = visit.namespace(self.namespace)
        puts = []
        for i in range(begin, len(messages)):
            message = messages[i]
            text = text_of(message).strip()
            if not text or not said_by_someone(message):
                continue
            message_id = id_of(messages, i)
            at = (said_at(message) or self.now(messages)).isoformat()
            value = {
                "text": f"{speaker_of(message)}: {text}",
                "kind": "turn",
                "speaker": speaker_of(message),
                "last_updated": at,
                "source": {"thread_id": visit.thread_id, "message_ids": [message_id]},
            }
            puts.append(
                PutOp(namespace, memory_key(visit.thread_id, message_id), value, index=["text"])
            )
        yield from write(store, puts)
        visit.emit(recorded=len(puts))
        return self.read_through(visit, "record", messages, len(messages))
