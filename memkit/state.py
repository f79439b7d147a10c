"""What memkit keeps in the state of a graph.

Everything here is JSON-native and of constant size: it does not grow with the history, and it
passes LangGraph's strict serializer.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired

from langchain_core.messages import AnyMessage
from langgraph.graph import MessagesState
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

    `ask` of a stale one says whether the model is to have it confirmed in this turn. `score` is the
    store's, less a little for age and want of confidence; None where the store does not rank.
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


class MemoryState(MessagesState):
    """`MessagesState` and the keys that memkit's nodes write."""

    summary: Summary | None
    recalled: list[Recalled]
    llm_input_messages: list[AnyMessage]
    memory: Annotated[dict[str, Any], merge_memory]
