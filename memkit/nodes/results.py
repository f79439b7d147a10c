"""Tool results that left the view: found again by the id of their call."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.store.base import BaseStore, GetOp, PutOp

from memkit.effects import Body, StoreBatch, arun, run
from memkit.messages import said_at
from memkit.nodes.base import Visit, check_namespace
from memkit.tool_results import find_result, is_cleared

RESULTS_NAMESPACE = ("users", "{user_id}", "tool_results", "{thread_id}")


def tool_result(
    tool_call_id: str,
    messages: Sequence[BaseMessage],
    *,
    store: BaseStore | None = None,
    config: RunnableConfig | None = None,
    namespace: Sequence[str] = RESULTS_NAMESPACE,
) -> ToolMessage | None:
    """Return the whole result of a tool call: from the history, or from the store.

    A view may leave it out, shorten it or show it cleared, with the id of its call; a destructive
    TokenTrimmer puts it into the store before it goes.

    Args:
        tool_call_id: The id of the call.
        messages: The history: `state["messages"]`.
        store: The graph's store, where the history may have lost it.
        config: The config of the run; fills the namespace.
        namespace: What TokenTrimmer was given as `results_namespace`.

    Returns:
        The result as it was said, or None if there is none of that id.

    Raises:
        ConfigError: A name of the namespace is not in the config.

    Cost:
        At most one `batch` of the store.
    """
    return run(_find(tool_call_id, messages, store, config, namespace))


async def atool_result(
    tool_call_id: str,
    messages: Sequence[BaseMessage],
    *,
    store: BaseStore | None = None,
    config: RunnableConfig | None = None,
    namespace: Sequence[str] = RESULTS_NAMESPACE,
) -> ToolMessage | None:
    """Return what `tool_result` does, without blocking the event loop."""
    return await arun(_find(tool_call_id, messages, store, config, namespace))


def _find(
    tool_call_id: str,
    messages: Sequence[BaseMessage],
    store: BaseStore | None,
    config: RunnableConfig | None,
    template: Sequence[str],
) -> Body[ToolMessage | None]:
    found = find_result(tool_call_id, messages)
    if store is None or (found is not None and not is_cleared(found)):
        return found
    namespace = Visit({}, config or {}, None, "tool_result").namespace(check_namespace(template))
    (item,) = yield StoreBatch(store, [GetOp(namespace, tool_call_id)])
    if item is None:
        return found
    return ToolMessage(
        item.value["content"],
        tool_call_id=tool_call_id,
        id=item.value["message_id"],
        name=item.value["tool"],
        status=item.value["status"],
    )


def stored(namespace: tuple[str, ...], message: ToolMessage) -> PutOp:
    """Return the operation that keeps a tool result, not searchable by its text."""
    at = said_at(message)
    value: dict[str, Any] = {
        "kind": "tool_result",
        "tool": message.name,
        "status": message.status,
        "content": message.content,
        "message_id": message.id,
        "last_updated": at.isoformat() if at else None,
    }
    return PutOp(namespace, message.tool_call_id, value, index=False)
