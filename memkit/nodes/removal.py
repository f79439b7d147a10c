"""Taking messages out of a graph's state, in the way that its channel allows."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

from langchain_core.messages import BaseMessage, HumanMessage, RemoveMessage
from langchain_core.runnables import RunnableConfig
from langgraph.channels import BinaryOperatorAggregate
from langgraph.channels.base import BaseChannel
from langgraph.channels.delta import DeltaChannel
from langgraph.types import Overwrite

from memkit.errors import ConfigError
from memkit.history import History
from memkit.messages import id_of
from memkit.nodes.base import READ_CHANNEL

Way = Literal["by id", "overwrite", "replace"]


def way_to_remove(config: RunnableConfig, key: str) -> Way:
    """Return how messages are removed from the channel of a state key.

    "by id" with `RemoveMessage`, where the reducer honours it, as `add_messages` and LangGraph's
    reducer of message deltas do; "overwrite" with `Overwrite` in a DeltaChannel whose reducer does
    not; "replace" where the state has no reducer and a node's list replaces the old one.

    Raises:
        ConfigError: The channel can only grow, as under `operator.add`. (An `Overwrite` would
            get through there, but takes with it what other nodes append in the same step.)
    """
    channel = _channel(config, key)
    if isinstance(channel, DeltaChannel):
        reduce = channel.reducer
        return "by id" if _honours_removal(reduce, batched=True) else "overwrite"
    if isinstance(channel, BinaryOperatorAggregate):
        if not _honours_removal(channel.operator):
            name = getattr(channel.operator, "__name__", repr(channel.operator))
            raise ConfigError(
                f"the state key {key!r} is reduced by {name}, which cannot remove messages; "
                "annotate it with add_messages, or use TokenTrimmer without destructive=True: "
                "the view is trimmed either way"
            )
        return "by id"
    return "by id" if channel is None else "replace"


def removable(history: History, limit: int) -> list[int]:
    """Return positions of the messages before a limit that may go: system messages stay."""
    systems = set(history.systems)
    return [i for i in range(limit) if i not in systems]


def removal(
    way: Way,
    messages: Sequence[BaseMessage],
    gone: Sequence[int],
    replaced: Mapping[int, BaseMessage],
) -> Any:
    """Return what a node writes to remove some messages and replace others in place.

    Args:
        way: What `way_to_remove` returned.
        messages: The whole history.
        gone: Positions of the messages to remove.
        replaced: What stands in place of others from now on, by position.

    Raises:
        ConfigError: A message has no id, so that cursors into the history would be lost.
    """
    without = [i for i in (*gone, *replaced) if not messages[i].id]
    if without or (way != "by id" and not all(m.id for m in messages)):
        raise ConfigError(
            "a destructive TokenTrimmer needs messages with ids, and "
            f"{id_of(messages, without[0]) if without else 'one of them'} has none; annotate the "
            "state key with add_messages, which assigns them"
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


@lru_cache(maxsize=64)
def _honours_removal(reduce: Callable[[Any, Any], Any], *, batched: bool = False) -> bool:
    message = HumanMessage("", id="probe")
    removing = [RemoveMessage(id="probe")]
    try:
        left: object = reduce([message], [removing] if batched else removing)
    except Exception:  # noqa: BLE001 - a reducer is anybody's code; one that fails removes nothing
        return False
    return left == []
