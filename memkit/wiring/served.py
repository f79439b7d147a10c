"""A node that is served the view: what it gets to see, and what of its answer is its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from langchain_core.messages import BaseMessage, RemoveMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.errors import ParentCommand
from langgraph.graph.message import REMOVE_ALL_MESSAGES
from langgraph.types import Command, Overwrite

from memkit.budget import ContextBudget
from memkit.effects import Body, arun, run
from memkit.messages import id_of
from memkit.nodes import MemoryRecall
from memkit.nodes.base import READ_CHANNEL
from memkit.tokens import as_messages
from memkit.view import RECALLED_ID, SUMMARY_ID, context
from memkit.wiring.edges import Around, jumps_here

State = TypeVar("State")

_NOTES = (SUMMARY_ID, RECALLED_ID)
_OVERWRITE = "__overwrite__"  # what an Overwrite is in JSON


class ServedWithView(Around):
    """Calls a node with the view in place of the history, and takes the view out of its answer.

    Args:
        node: The node.
        recall: Recalls for a state that has not been through the memory nodes.
        budget: Of the view.
        keys: The state keys that hold "messages", "summary", "recalled" and "memory".
        appends: Whether the state adds what a node returns to the messages that are there; one
            without a reducer puts it in their place.
    """

    def __init__(
        self,
        node: Runnable[Any, Any],
        recall: MemoryRecall,
        budget: ContextBudget,
        keys: Mapping[str, str],
        *,
        appends: bool,
    ) -> None:
        super().__init__(node)
        self.recall = recall
        self.budget = budget
        self.keys = keys
        self.appends = appends

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - Runnable's name
        """Return what the node itself answers to the view."""
        state, shown = run(self._served(input, config))
        try:
            return self._own(self.node.invoke(state, config, **kwargs), shown)
        except ParentCommand as jump:
            self._own_jump(jump, shown, config)
            raise

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        """Return what the node itself answers to the view."""
        state, shown = await arun(self._served(input, config))
        try:
            return self._own(await self.node.ainvoke(state, config, **kwargs), shown)
        except ParentCommand as jump:
            self._own_jump(jump, shown, config)
            raise

    # What it gets to see

    def _served(self, state: Any, config: RunnableConfig | None) -> Body[tuple[Any, "Shown"]]:
        # Built from the state rather than taken from the trimmer, so that a node that is reached
        # past the trimmer (by a Send, say) never gets an outdated view.
        key = self.keys["messages"]
        given: Any = state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)
        messages = as_messages(given or [])
        if not messages:
            return state, Shown([], [])
        read = ((config or {}).get("configurable") or {}).get(READ_CHANNEL)
        parts = {name: read(key, False) for name, key in self.keys.items()} if read else {}
        trimmed = (parts.get("memory") or {}).get("trim") or {}
        if trimmed.get("end_id") != id_of(messages, len(messages) - 1):
            visit = self.recall.visit(_with(state, key, messages), config)
            update = yield from self.recall.body(visit)
            parts["recalled"] = update[self.recall.output_key]
        view = context({**parts, "messages": messages}, self.budget)
        return _with(state, key, view), Shown(view, messages)

    # What is its own

    def _own_jump(self, jump: ParentCommand, shown: "Shown", config: RunnableConfig | None) -> None:
        command: Command[Any] = jump.args[0]
        update = self._own_update(command.update, shown, elsewhere=not jumps_here(jump, config))
        jump.args = (dataclasses.replace(command, update=update),)

    def _own(self, answer: Any, shown: "Shown") -> Any:
        """Return an answer without what the node was only shown."""
        if isinstance(answer, Command):
            update = self._own_update(answer.update, shown, elsewhere=answer.graph is not None)
            return dataclasses.replace(answer, update=update)
        if isinstance(answer, list | tuple):
            return [self._own(each, shown) for each in answer]
        return self._own_update(answer, shown)

    def _own_update(self, update: Any, shown: "Shown", *, elsewhere: bool = False) -> Any:
        """Return an update: a mapping, pairs, or an object with the keys of the state."""
        key = self.keys["messages"]

        def own(said: Any) -> Any:
            return self._own_messages(said, shown, elsewhere=elsewhere)

        if isinstance(update, list | tuple):
            return [
                (key, own(pair[1])) if isinstance(pair, tuple) and pair[:1] == (key,) else pair
                for pair in update
            ]
        said = update.get(key) if isinstance(update, Mapping) else getattr(update, key, None)
        return update if said is None else _with(update, key, own(said))

    def _own_messages(self, said: Any, shown: "Shown", *, elsewhere: bool) -> Any:
        if isinstance(said, Overwrite):
            return Overwrite(shown.put_back(_listed(said.value)))
        if isinstance(said, Mapping) and _OVERWRITE in said:
            return {_OVERWRITE: shown.put_back(_listed(said[_OVERWRITE]))}
        said = _listed(said)
        if elsewhere:
            # Another graph's history may hold none of these messages.
            return shown.restored(said)
        if not self.appends:
            return shown.put_back(said)
        clears = [n for n, m in enumerate(said) if _removes(m, REMOVE_ALL_MESSAGES)]
        if clears:
            return [said[clears[-1]], *shown.put_back(said[clears[-1] + 1 :])]
        return shown.own(said)


@dataclass(frozen=True)
class Shown:
    """What a node was shown of a history; of what it returns, the notes never become history.

    Attributes:
        view: What it was shown.
        history: What that was made of.
    """

    view: Sequence[BaseMessage]
    history: Sequence[BaseMessage]

    def own(self, said: Sequence[Any]) -> list[Any]:
        """Return the messages that a history does not have, to be appended to it."""
        seen = self._seen()
        return [m for m in said if not _is_note(m) and not _is_same(m, seen)]

    def restored(self, said: Sequence[Any]) -> list[Any]:
        """Return the messages, each as the history has it where the view shows less of it."""
        seen = self._seen()
        whole = {_key(m): m for m in self.history}
        return [whole.get(_key(m), m) if _is_same(m, seen) else m for m in said if not _is_note(m)]

    def put_back(self, said: Sequence[Any]) -> list[Any]:
        """Return what is to stand in place of the history.

        Where a node puts back all that it was shown, what it was not shown stays, too.
        """
        restored = self.restored(said)
        shown = {_key(m) for m in self.view if not _is_note(m)}
        if not shown or not shown <= {_key(m) for m in restored}:
            return restored
        unseen: list[BaseMessage] = []
        before: dict[Any, list[BaseMessage]] = {}
        for message in self.history:
            if _key(message) in shown:
                before[_key(message)], unseen = unseen, []
            else:
                unseen.append(message)
        whole = [each for m in restored for each in (*before.pop(_key(m), ()), m)]
        return [*whole, *unseen]

    def _seen(self) -> dict[Any, BaseMessage]:
        return {_key(message): message for message in self.view}


def _with(state: State, key: str, value: Any) -> State:
    """Return a copy of a state, or of an update, of any kind."""
    changed: Any
    if isinstance(state, Mapping):
        changed = {**state, key: value}
    elif dataclasses.is_dataclass(state) and not isinstance(state, type):
        changed = dataclasses.replace(state, **{key: value})
    elif hasattr(state, "model_copy"):
        changed = state.model_copy(update={key: value})
    else:
        changed = state
    return changed  # type: ignore[no-any-return]


def _listed(said: Any) -> list[Any]:
    return said if isinstance(said, list) else [said]  # a tuple stands for one message


def _key(message: Any) -> Any:
    """Return what tells a message from the others: its id, or that it is this object."""
    return getattr(message, "id", None) or id(message)


def _is_note(message: Any) -> bool:
    return getattr(message, "id", None) in _NOTES


def _is_same(message: Any, seen: Mapping[Any, BaseMessage]) -> bool:
    return bool(seen.get(_key(message)) == message)


def _removes(message: Any, what: str) -> bool:
    return isinstance(message, RemoveMessage) and message.id == what
