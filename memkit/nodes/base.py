"""What every node shares: any kind of state, the store, the clock, one body for both modes."""

import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage
from langchain_core.runnables import Runnable, RunnableConfig, ensure_config
from langgraph.runtime import Runtime, get_runtime
from langgraph.store.base import BaseStore

from memkit.effects import Body, arun, run, stable_key
from memkit.errors import ConfigError, StoreMissing
from memkit.events import FailedEvent, MemkitEvent
from memkit.messages import (
    after,
    digest,
    edited_before,
    id_of,
    ids_before,
    now_of,
    turn_start_at,
)
from memkit.namespaces import PLACEHOLDER, escape_label
from memkit.tokens import as_messages
from memkit.view import RECALLED_ID, SUMMARY_ID

_log = logging.getLogger("memkit.nodes")

Update: TypeAlias = dict[str, Any]

# LangGraph hands every node a function to read channels under this key; it is the one way for a
# node to learn which channels its graph has. tests/contract holds it to that.
READ_CHANNEL = "__pregel_read"
# The functional API has a channel of this name, and none that a node could declare.
_PREVIOUS = "__previous__"
# And the checkpointer, where it has one, under this.
CHECKPOINTER = "__pregel_checkpointer"
READERS = ("extract", "record")
"""The entries of nodes that read a message once: until then it must stay in the history."""


def entry_of(reader: str, namespace: Sequence[str], usual: Sequence[str]) -> str:
    """Return the entry of a reader; two that write to different places have their own."""
    return reader if namespace == usual else f"{reader}:{'/'.join(namespace)}"


@dataclass(frozen=True)
class Visit:
    """One call of a node: its state, its config, and what the graph gives it."""

    state: Any
    config: RunnableConfig
    runtime: Runtime[Any] | None
    node: str

    def read(self, key: str) -> Any:
        """Return a value of the state (dict, dataclass or pydantic model), None if unset."""
        if isinstance(self.state, Mapping):
            return self.state.get(key)
        return getattr(self.state, key, None)

    @property
    def thread_id(self) -> str | None:
        """The thread this call belongs to."""
        value = (self.config.get("configurable") or {}).get("thread_id")
        return None if value is None else str(value)

    @property
    def checkpoint_id(self) -> str | None:
        """The checkpoint this call started from."""
        info = getattr(self.runtime, "execution_info", None)
        return getattr(info, "checkpoint_id", None)

    @property
    def store(self) -> BaseStore:
        """The store of the graph.

        Raises:
            StoreMissing: The graph was compiled without one.
        """
        store = self.runtime.store if self.runtime is not None else None
        if store is None:
            raise StoreMissing(
                f"{self.node} needs a store, and this graph has none; "
                "compile it with builder.compile(store=...)"
            )
        return store

    @property
    def place(self) -> str:
        """What the node is called in its graph; outside of one, its own name."""
        return str((self.config.get("metadata") or {}).get("langgraph_node") or self.node)

    def emit(self, event: MemkitEvent) -> None:
        """Send an event on the custom stream, if there is one, and log it at DEBUG."""
        _log.debug("%s", event)
        if self.runtime is not None:
            self.runtime.stream_writer(event)

    def failed(
        self,
        what: Literal["summary", "extraction", "reranker", "retention"],
        error: str,
        *,
        passed_over: int = 0,
    ) -> None:
        """Say that something failed, and that the turn goes on without it."""
        self.emit(
            FailedEvent(
                memkit="failed",
                node=self.place,
                what=what,
                error=error,
                passed_over=passed_over,
            )
        )

    def namespace(self, template: Sequence[str]) -> tuple[str, ...]:
        """Fill `{name}` in a namespace from the config, the runtime context, then the state.

        Where the node is handed less than the state, as by a Send, the whole of it is looked at.

        Raises:
            ConfigError: A name is in none of them, or empty.
        """
        return tuple(
            PLACEHOLDER.sub(lambda match: escape_label(self.lookup(match[1])), label)
            for label in template
        )

    def lookup(self, name: str) -> str:
        """Return what fills in a name of a namespace, see `namespace`.

        Raises:
            ConfigError: It is nowhere, or empty.
        """
        configurable = self.config.get("configurable") or {}
        context = self.runtime.context if self.runtime is not None else None
        for source in (configurable, context, self.state):
            value = source.get(name) if isinstance(source, Mapping) else getattr(source, name, None)
            if value not in (None, ""):
                return str(value)
        read = configurable.get(READ_CHANNEL)
        if read is not None and _has_channel(read, name) and (value := read(name, False)):
            return str(value)
        raise ConfigError(
            f"{self.node} needs {name!r} for its namespace, and it is in neither the config, the "
            f'runtime context nor the state; pass {{"configurable": {{"{name}": "…"}}}}'
        )


def resolve_model(model: BaseChatModel | Runnable[Any, Any] | str | None) -> Any:
    """Return a chat model: as given, or made from a name by `init_chat_model`.

    Raises:
        ConfigError: A name was given and LangChain is not installed, or the name is unknown.
    """
    if not isinstance(model, str):
        if model is not None and not isinstance(model, Runnable):
            raise ConfigError(f"model is a chat model, a name or None, got {type(model).__name__}")
        return model
    try:
        from langchain.chat_models import init_chat_model  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ConfigError(
            f"a model given by name ({model!r}) needs LangChain: pip install 'memkit[agents]'"
        ) from None
    try:
        return init_chat_model(model)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot make a chat model of {model!r}: {error}") from error


def check_type(what: str, value: object, wanted: type) -> None:
    """Refuse a value of another type when the node is built, not on the thousandth turn.

    Raises:
        ConfigError: The value is not of the type; a bool is no int.
    """
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{what} is of type {wanted.__name__}, got {value!r}")


def check_count(what: str, value: object) -> None:
    """Refuse what is no whole number of at least 1.

    Raises:
        ConfigError: It is not.
    """
    check_type(what, value, int)
    if isinstance(value, int) and value < 1:
        raise ConfigError(f"{what} must be at least 1, got {value!r}")


def said_by_person(message: BaseMessage) -> bool:
    """Return whether a person said it, see `said_by_someone`."""
    return isinstance(message, HumanMessage) and said_by_someone(message)


def said_by_someone(message: BaseMessage) -> bool:
    """Return whether a person or an assistant said it: no tool, and no note of memkit's or others'.

    LangChain's summarization puts its summary into the history as if a person had written it.
    """
    return (
        isinstance(message, HumanMessage | AIMessage)
        and message.id not in {RECALLED_ID, SUMMARY_ID}
        and message.additional_kwargs.get("lc_source") != "summarization"
    )


def latest_of_person(messages: Sequence[BaseMessage]) -> int | None:
    """Return the position of the latest message that a person said, or None."""
    places = range(len(messages) - 1, -1, -1)
    return next((n for n in places if said_by_person(messages[n])), None)


def _are_messages(given: Sequence[Any]) -> bool:
    if not given:
        return True
    latest = next((like for like in reversed(given) if _ends_a_look(like)), given[0])
    return isinstance(latest, BaseMessage) and isinstance(given[0], BaseMessage)


def _ends_a_look(like: Any) -> bool:
    return isinstance(like, HumanMessage) or not isinstance(like, BaseMessage)


def utc_now() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class MemoryNode(Runnable[Any, Update]):
    """A graph node whose body is written once and runs under invoke and ainvoke.

    Args:
        messages_key: The state key that holds the messages.
        memory_key: The state key that holds the cursors of all memkit nodes.
        clock: Returns the time for messages that carry none; the default is the current time.
    """

    def __init__(
        self,
        *,
        messages_key: str = "messages",
        memory_key: str = "memory",
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self.name: str | None = type(self).__name__
        for key in (messages_key, memory_key):
            check_type("a state key", key, str)
        if not callable(clock):
            raise ConfigError(f"clock is a function that returns a datetime, got {clock!r}")
        self.messages_key = messages_key
        self.memory_key = memory_key
        self.clock = clock

    @abstractmethod
    def body(self, visit: Visit) -> Body[Update]:
        """Yield effects, and return the update of the state."""

    @property
    @abstractmethod
    def writes(self) -> tuple[str, ...]:
        """The state keys this node writes."""

    def invoke(self, input: Any, config: RunnableConfig | None = None, **_: Any) -> Update:  # noqa: A002 - Runnable's name
        """Return the update for a state."""
        return run(self.body(self.visit(input, config)))

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **_: Any,
    ) -> Update:
        """Return the update for a state, without blocking the event loop."""
        return await arun(self.body(self.visit(input, config)))

    def visit(self, state: Any, config: RunnableConfig | None) -> Visit:
        """Return what the body sees of a call: the graph around it gives store and stream."""
        config = ensure_config(config)
        configurable = config.get("configurable") or {}
        in_graph = READ_CHANNEL in configurable
        if in_graph:
            self._check_channels(configurable[READ_CHANNEL])
        return Visit(state, config, get_runtime() if in_graph else None, self.name or "")

    def _check_channels(self, read: Callable[[str, bool], Any]) -> None:
        if _has_channel(read, _PREVIOUS):
            return
        for key in (self.messages_key, *self.writes):
            if not _has_channel(read, key):
                raise ConfigError(
                    f"{self.name} uses the state key {key!r}, which this graph's state does not "
                    "declare, so that LangGraph would drop what is written there. Let the state "
                    "extend memkit.MemoryState, or give the node the name of your key."
                )

    def messages(self, visit: Visit) -> Sequence[BaseMessage]:
        """Return the messages of the state; what stands for one becomes one.

        `operator.add` leaves what a caller passes as it is: {"role": "user", "content": "…"}. Of a
        long history only the first one and the latest turn are looked at for that.
        """
        messages = visit.read(self.messages_key) or []
        return messages if _are_messages(messages) else as_messages(messages)

    def check_person(
        self, visit: Visit, messages: Sequence[BaseMessage], *templates: Sequence[str]
    ) -> dict[str, str]:
        """Refuse to go on with a turn for another person than its memories were recalled for.

        Whoever resumes a graph, to approve something, say, may do so as themselves; what is then
        learned would go to them, and what is recalled come from them.

        Returns:
            A digest of each name that the namespaces are filled in with.

        Raises:
            ConfigError: A name is not what it was when the turn began, or not known.
        """
        names = {
            n for template in templates for label in template for n in PLACEHOLDER.findall(label)
        }
        who = {name: stable_key(name, visit.lookup(name))[:16] for name in sorted(names)}
        begun = self.cursor(visit, "recall")
        latest = latest_of_person(messages)
        if latest is not None and begun.get("for") == id_of(messages, latest):
            before = begun.get("who") or {}
            if other := [name for name in who if before.get(name, who[name]) != who[name]]:
                raise ConfigError(
                    f"{visit.node}: this turn was begun with another {other[0]!r} than it goes on "
                    "with, and what is said in it would become the memory of the wrong one; go on, "
                    "or resume, with the one that it was begun with"
                )
        return who

    def now(self, messages: Sequence[BaseMessage]) -> datetime:
        """Return the time of the turn: when it was said, else the clock."""
        return now_of(messages, self.clock())

    def unread(self, visit: Visit, entry: str, messages: Sequence[BaseMessage]) -> int:
        """Return the position behind the last message that the node of this entry has read.

        Where that message was removed, the latest of the few before it counts; where one of them
        was edited, that one.
        """
        cursor = self.cursor(visit, entry)
        through, recent = cursor.get("through_id"), cursor.get("recent") or []
        end = after(messages, through, recent)
        return edited_before(messages, end, [*recent, through], cursor.get("digests") or [])

    def read_through(
        self, visit: Visit, entry: str, messages: Sequence[BaseMessage], end: int, **more: Any
    ) -> Update:
        """Return the update that says that the messages before `end` are read, and `more`."""
        recent = ids_before(messages, end)
        place = {
            "through_id": id_of(messages, end - 1),
            "recent": recent,
            "digests": [digest(message) for message in messages[end - 1 - len(recent) : end]],
            **more,
        }
        return self.with_cursor(visit, entry, place)

    def read_by_all(self, visit: Visit, messages: Sequence[BaseMessage], limit: int) -> int:
        """Return the start of the last turn up to `limit` before which every reader has read."""
        readers = [entry for entry in self.cursors(visit) if entry.partition(":")[0] in READERS]
        read = [self.unread(visit, entry, messages) for entry in readers]
        return limit if min([limit, *read]) == limit else turn_start_at(messages, min(read))

    def cursors(self, visit: Visit) -> Mapping[str, Any]:
        """Return the entries of all nodes.

        Raises:
            ConfigError: The state holds something else under that key.
        """
        entries = visit.read(self.memory_key)
        if not entries:
            return {}
        if not isinstance(entries, Mapping):
            raise ConfigError(
                f"{self.name} keeps its cursor in the state key {self.memory_key!r}, which holds "
                f"{entries!r:.100}; pass memory_key= with a key of memkit's own"
            )
        return entries

    def cursor(self, visit: Visit, entry: str) -> Mapping[str, Any]:
        """Return one entry of the cursors, empty at first."""
        found = self.cursors(visit).get(entry)
        return found if isinstance(found, Mapping) else {}

    def with_cursor(self, visit: Visit, entry: str, values: Mapping[str, Any]) -> Update:
        """Return the update that sets this node's entry.

        The other entries go along, so that a state key without a reducer works too; `writes` tells
        `merge_memory` which of two is the later one when nodes ran side by side.
        """
        writes = self.cursor(visit, entry).get("writes", 0) + 1
        return {self.memory_key: {**self.cursors(visit), entry: {**values, "writes": writes}}}


def _has_channel(read: Callable[[str, bool], Any], key: str) -> bool:
    try:
        read(key, False)
    except KeyError:
        return False
    return True
