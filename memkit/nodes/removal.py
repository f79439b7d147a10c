"""Taking messages out of a graph's state, in the way that its channel allows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import LastValue
from langgraph.channels.base import BaseChannel
from langgraph.channels.delta import DeltaChannel
from langgraph.types import Overwrite

from memkit.effects import Body, StoreBatch
from memkit.errors import ConfigError
from memkit.events import RemoveEvent
from memkit.history import History
from memkit.messages import id_of, orphans
from memkit.namespaces import check_namespace
from memkit.nodes.base import READ_CHANNEL, Update, Visit
from memkit.nodes.results import stored
from memkit.tool_traffic import is_cleared

Way = Literal["by id", "overwrite", "replace"]


def way_to_remove(config: RunnableConfig, key: str) -> Way:
    """Return how messages are removed from the channel of a state key.

    "by id" with `RemoveMessage`, where the reducer honours it, as `add_messages` and LangGraph's
    reducer of message deltas do; "overwrite" with `Overwrite` in a DeltaChannel whose reducer does
    not, where it takes with it what other nodes append in the same step; "replace" where the state
    has no reducer and a node's list replaces the old one.

    Raises:
        ConfigError: The channel can only grow, as under `operator.add`.
    """
    channel = _channel(config, key)
    if isinstance(channel, DeltaChannel):
        reduce = channel.reducer
        return "by id" if _honours_removal(reduce, batched=True) else "overwrite"
    if isinstance(channel, LastValue):
        return "replace"
    operator = getattr(channel, "operator", None)
    if channel is None or (operator is not None and _honours_removal(operator)):
        return "by id"
    reducer = type(channel).__name__ if operator is None else operator
    raise ConfigError(
        f"the state key {key!r} is reduced by {getattr(reducer, '__name__', reducer)}, which "
        "cannot remove messages; annotate it with add_messages, or leave out destructive=True: "
        "the view is trimmed either way"
    )


@dataclass(frozen=True, slots=True)
class Remover:
    """Takes messages out of a state; tool results are put into the store before they go.

    Attributes:
        key: The state key of the messages.
        namespace: Where tool results go, see `find_tool_result`; None to let them go.
    """

    key: str
    namespace: tuple[str, ...] | None

    def check(self, visit: Visit) -> None:
        """Say on the first turn what else would stop the one that has something to remove.

        Raises:
            ConfigError: The state cannot remove messages, or a name of the namespace is not known.
            StoreMissing: Results are to be kept, and the graph has no store.
        """
        way_to_remove(visit.config, self.key)
        if self.namespace is not None and visit.store is not None:
            visit.namespace(self.namespace)

    def remove(
        self, visit: Visit, history: History, limit: int, replaced: Mapping[int, BaseMessage]
    ) -> Body[tuple[list[int], Update]]:
        """Return which messages go, and the update that takes them out.

        Args:
            visit: The call of the node.
            history: The messages.
            limit: All before it go, but for system messages.
            replaced: What stands in place of others from now on, by position.

        Raises:
            ConfigError: A message has no id, so that cursors into the history would be lost.
        """
        messages, systems = history.messages, set(history.systems)
        gone = [i for i in range(limit) if i not in systems]
        if not gone and not replaced:
            return gone, {}
        way = way_to_remove(visit.config, self.key)
        update = {self.key: _update(way, visit.node, messages, gone, replaced)}
        bad = orphans(messages[:limit])
        results = [
            m
            for m in (messages[i] for i in (*gone, *replaced) if i not in bad)
            if isinstance(m, ToolMessage) and not is_cleared(m)
        ]
        if results and self.namespace is not None:
            namespace = visit.namespace(self.namespace)
            yield StoreBatch(visit.store, [stored(namespace, result) for result in results])
        if gone:
            removed = [id_of(messages, i) for i in gone]
            visit.emit(RemoveEvent(memkit="remove", node=visit.place, removed=removed))
        return gone, update


def remover(key: str, namespace: Sequence[str] | None) -> Remover:
    """Return the remover of a node's arguments.

    Raises:
        ConfigError: The namespace is none.
    """
    return Remover(key, None if namespace is None else check_namespace(namespace))


def _update(
    way: Way,
    node: str,
    messages: Sequence[BaseMessage],
    gone: Sequence[int],
    replaced: Mapping[int, BaseMessage],
) -> Any:
    # Elsewhere in the list too: a cursor by position would point at another message afterwards.
    if not all(message.id for message in messages):
        raise ConfigError(
            f"{node} is to remove messages, which needs them to have ids, and one of them has "
            "none; annotate the state key with add_messages, which assigns them"
        )
    if way == "by id":
        return [*(RemoveMessage(id=messages[i].id or "") for i in gone), *replaced.values()]
    leaving = set(gone)
    kept = [replaced.get(i, m) for i, m in enumerate(messages) if i not in leaving]
    return Overwrite(kept) if way == "overwrite" else kept


def _channel(config: RunnableConfig, key: str) -> BaseChannel[Any, Any, Any] | None:
    """Return the channel of a state key; None outside of a graph."""
    read = (config.get("configurable") or {}).get(READ_CHANNEL)
    for argument in getattr(read, "args", ()):
        channel = argument.get(key) if isinstance(argument, Mapping) else None
        if isinstance(channel, BaseChannel):
            return channel
    return None


def _honours_removal(reduce: Callable[[Any, Any], Any], *, batched: bool = False) -> bool:
    message = HumanMessage("", id="probe")
    removing = [RemoveMessage(id="probe")]
    try:
        left: object = reduce([message], [removing] if batched else removing)
    except Exception:  # noqa: BLE001 - a reducer is anybody's code; one that fails removes nothing
        return False
    return left == []
