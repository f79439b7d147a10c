"""Tool results that left the view: found again by the id of their call."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.runtime import Runtime
from langgraph.store.base import BaseStore, PutOp, SearchOp

from memkit.effects import Body, StoreBatch, arun, run
from memkit.messages import said_at
from memkit.namespaces import check_namespace
from memkit.nodes.base import Visit
from memkit.tool_traffic import find_result, is_cleared

_NAME = "find_tool_result"
_MOST = 1_000  # results under one id of a call
RESULTS_NAMESPACE = ("users", "{user_id}", "tool_results", "{thread_id}")


def find_tool_result(
    tool_call_id: str,
    messages: Sequence[BaseMessage],
    *,
    store: BaseStore | None = None,
    config: RunnableConfig | None = None,
    runtime: Runtime[Any] | None = None,
    results_namespace: Sequence[str] = RESULTS_NAMESPACE,
) -> ToolMessage | None:
    """Return the whole result of a tool call: from the history, or from the store.

    A view may leave it out, shorten it or show it cleared, with the id of its call; a destructive
    TokenTrimmer puts it into the store before it goes.

    Args:
        tool_call_id: The id of the call.
        messages: The history: `state["messages"]`.
        store: The graph's store, where the history may have lost it.
        config: The config of the run; fills the namespace.
        runtime: The runtime of the run, if names of the namespace come from its context.
        results_namespace: What TokenTrimmer was given.

    Returns:
        The result, or None if there is none of that id. From the store it has its id, content,
        name and status. Where ids of calls repeat in a thread, it is the latest.

    Raises:
        ConfigError: A name of the namespace is not in the config.

    Cost:
        At most one `batch` of the store.
    """
    return run(
        _find(
            tool_call_id,
            messages,
            store,
            Visit({}, config or {}, runtime, _NAME),
            results_namespace,
        )
    )


async def afind_tool_result(
    tool_call_id: str,
    messages: Sequence[BaseMessage],
    *,
    store: BaseStore | None = None,
    config: RunnableConfig | None = None,
    runtime: Runtime[Any] | None = None,
    results_namespace: Sequence[str] = RESULTS_NAMESPACE,
) -> ToolMessage | None:
    """Return what `find_tool_result` does, without blocking the event loop."""
    return await arun(
        _find(
            tool_call_id,
            messages,
            store,
            Visit({}, config or {}, runtime, _NAME),
            results_namespace,
        )
    )


def _find(
    tool_call_id: str,
    messages: Sequence[BaseMessage],
    store: BaseStore | None,
    visit: Visit,
    template: Sequence[str],
) -> Body[ToolMessage | None]:
    found = find_result(tool_call_id, messages)
    if found is not None and not is_cleared(found):
        return found
    if store is None:
        return None
    namespace = visit.namespace(check_namespace(template))
    # By its message: some models use the ids of calls again.
    search = SearchOp(namespace, filter={"tool_call_id": tool_call_id}, limit=_MOST)
    (items,) = yield StoreBatch(store, [search])
    if not items:
        return None
    latest = max(items, key=lambda item: item.created_at)
    return ToolMessage(
        latest.value["content"],
        tool_call_id=tool_call_id,
        id=latest.key,
        name=latest.value["tool"],
        status=latest.value["status"],
    )


def stored(namespace: tuple[str, ...], message: ToolMessage) -> PutOp:
    """Return the operation that keeps a tool result, not searchable by its text."""
    at = said_at(message)
    value: dict[str, Any] = {
        "kind": "tool_result",
        "tool_call_id": message.tool_call_id,
        "tool": message.name,
        "status": message.status,
        "content": message.content,
        "last_updated": at.isoformat() if at else None,
    }
    return PutOp(namespace, message.id or "", value, index=False)
