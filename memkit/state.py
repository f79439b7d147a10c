"""What memkit keeps in the state of a graph.

Everything here is JSON-native and of constant size: it does not grow with the history, and it
passes LangGraph's strict serializer. The messages themselves are the exception, and with
`DeltaMemoryState` a checkpoint holds only those that are new.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired
from uuid import NAMESPACE_OID, uuid5

from langchain_core.messages import (
    AnyMessage,
    BaseMessage,
    BaseMessageChunk,
    RemoveMessage,
    convert_to_messages,
    message_chunk_to_message,
)
from langgraph.channels import DeltaChannel
from langgraph.graph import MessagesState
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from typing_extensions import TypedDict  # pydantic refuses typing's before Python 3.12

Freshness = Literal["fresh", "stale", "expired"]
Source = Literal["facts", "turns"]


class Summary(TypedDict):
    """The running summary; it covers every message up to and including `through_id`."""

    text: str
    through_id: str
    tokens: int
    updated_at: str


class Recalled(TypedDict):
    """One memory that was found for the current turn; times are ISO 8601 in UTC.

    `ask` of a stale one says whether the model is to have it confirmed in this turn. `score` is by
    meaning and words, less a little for age and want of confidence; None where the store does not
    rank. `said` of a fact are the turns that say so, as said, the start of each.
    """

    key: str
    source: Source
    text: str
    kind: str
    last_updated: str | None
    last_confirmed: str | None
    freshness: Freshness
    score: float | None
    message_ids: list[str]
    thread_id: str | None
    attribute: NotRequired[str | None]
    ask: NotRequired[bool]
    said: NotRequired[list[str]]


def merge_memory(left: Mapping[str, Any] | None, right: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the entries of both, of each node the one that was written later.

    A node writes the entries of the others along with its own; where two nodes ran side by side,
    the count in `writes` tells which is which.
    """
    merged = dict(left or {})
    for node, entry in (right or {}).items():
        if entry.get("writes", 0) >= merged.get(node, {}).get("writes", 0):
            merged[node] = entry
    return merged


def later(_left: Any, right: Any) -> Any:
    """Return what was written last: branches of unequal length may write in one step."""
    return right


class MemoryState(MessagesState):
    """`MessagesState` and the keys that memkit's nodes write."""

    summary: Annotated[Summary | None, later]
    recalled: Annotated[list[Recalled], later]
    llm_input_messages: Annotated[list[AnyMessage], later]
    memory: Annotated[dict[str, Any], merge_memory]


def merge_messages(messages: Sequence[Any], writes: Sequence[Any]) -> list[AnyMessage]:
    """Reduce the writes of a DeltaChannel of messages, as `add_messages` reduces each of them.

    It honours RemoveMessage, `REMOVE_ALL_MESSAGES` too, replaces by id, takes whatever stands for
    a message and completes chunks. Other than `add_messages` it passes over the removal of a
    message that is not there: what a checkpoint holds must be readable for ever. A missing id
    becomes one by content and place, so that each reading of a checkpoint gives the same.

    Args:
        messages: What was there.
        writes: Each a message, or a list of them.

    Returns:
        The messages: the same, however the writes are split into calls.
    """
    # A dict keeps its order, and the place of what is replaced.
    merged: dict[str | None, Any] = {
        message.id: message for message in messages if _is_done(message)
    }
    if len(merged) < len(messages):
        merged, writes = {}, [list(messages), *writes]
    for write in writes:
        for like in write if isinstance(write, list) else [write]:
            message = like if isinstance(like, BaseMessage) else convert_to_messages([like])[0]
            if not isinstance(message, RemoveMessage):
                message = _completed(message, merged)
                merged[message.id] = message
            elif message.id == REMOVE_ALL_MESSAGES:
                merged.clear()
            else:
                merged.pop(message.id, None)
    return list(merged.values())


def _is_done(message: Any) -> bool:
    return isinstance(message, BaseMessage) and bool(message.id)


def _completed(message: BaseMessage, before: Mapping[str | None, Any]) -> BaseMessage:
    if isinstance(message, BaseMessageChunk):
        message = message_chunk_to_message(message)
    if message.id:
        return message
    place = len(before)
    while (new := str(uuid5(NAMESPACE_OID, f"{place} {message.type} {message.content}"))) in before:
        place += 1
    return message.model_copy(update={"id": new})


class DeltaMemoryState(MemoryState):
    """`MemoryState` whose checkpoints hold new messages only, and all of them now and then.

    A thread then grows with its messages rather than with their square. LangGraph calls its
    DeltaChannel a beta: threads written with it stay readable, its interface may change. A thread
    begun with `MemoryState` can go on with this one, but not the other way.
    """

    messages: Annotated[list[AnyMessage], DeltaChannel(merge_messages)]
