"""add_memory: the nodes around a node of an existing graph, in one line."""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, get_type_hints

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.errors import ParentCommand
from langgraph.graph import END, StateGraph
from langgraph.types import CachePolicy, Command
from typing_extensions import TypedDict

from memkit.budget import ContextBudget
from memkit.effects import Body, arun, run
from memkit.errors import ConfigError
from memkit.facts import StalenessPolicy
from memkit.messages import id_of
from memkit.namespaces import FACTS_NAMESPACE, TURNS_NAMESPACE
from memkit.nodes import (
    FactExtractor,
    MemoryRecall,
    RollingSummarizer,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
)
from memkit.nodes.base import READ_CHANNEL
from memkit.state import MemoryState, Source
from memkit.tokens import as_messages
from memkit.view import context

_KEYS = ("summary", "recalled", "llm_input_messages", "memory")


def add_memory(
    builder: StateGraph[Any, Any, Any, Any],
    *,
    around: str,
    budget: ContextBudget,
    model: BaseChatModel | str | None = None,
    policy: StalenessPolicy | None = None,
    record_turns: bool = False,
    destructive: bool = False,
    messages_key: str = "messages",
    limit: int = 8,
    namespace: Sequence[str] = FACTS_NAMESPACE,
    turns_namespace: Sequence[str] = TURNS_NAMESPACE,
) -> StateGraph[Any, Any, Any, Any]:
    """Wire recall, stale-fact check, summarizer and trimmer before a node, and extraction after it.

    Edges, conditional edges and jumps by a Command into `around` lead to the first memory node,
    edges out of it start behind the last. The node itself is served the view under the key it
    already reads, so that it need not know of memkit; state keys that are missing are added. In a
    tool loop memories are searched for once per human message. Call it when the graph has all of
    its nodes and edges.

    What reaches `around` with a state that has not been through the memory nodes, as a Send does,
    is served a view of that state, with what is recalled for its own latest human message. A Send
    with anything else, and one without messages, gets just what it carries.

    Args:
        builder: The graph, not yet compiled.
        around: The node that calls the model.
        budget: The one budget of everything it sees.
        model: For summaries and extraction; None for the model-free forms.
        policy: When facts are stale.
        record_turns: Also keep turns as said, and recall them.
        destructive: Also remove from the history what was folded and read, see TokenTrimmer.
        messages_key: The state key of the messages.
        limit: The most memories to recall.
        namespace: Where facts are.
        turns_namespace: Where turns are.

    Returns:
        The builder.

    Raises:
        ConfigError: The graph is compiled already, there is no such node, it does not read the
            messages, it is cached by its input alone, or a node is named like one that would be
            added. The builder is then as it was.
    """
    _check(builder, around, messages_key)
    sources: tuple[Source, ...] = ("facts", "turns") if record_turns else ("facts",)
    recall = partial(
        MemoryRecall,
        limit=limit,
        sources=sources,
        policy=policy,
        namespace=namespace,
        turns_namespace=turns_namespace,
        messages_key=messages_key,
    )
    before: dict[str, Runnable[Any, Any]] = {
        "memory_recall": recall(once_per_turn=True),
        "memory_verify": StaleFactCheck(policy, namespace=namespace, messages_key=messages_key),
        "memory_summarize": RollingSummarizer(
            model, budget, after_extraction=True, messages_key=messages_key
        ),
        "memory_trim": TokenTrimmer(budget, destructive=destructive, messages_key=messages_key),
    }
    behind: dict[str, Runnable[Any, Any]] = {
        "memory_remember": FactExtractor(model, namespace=namespace, messages_key=messages_key)
    }
    if record_turns:
        behind["memory_record"] = TurnRecorder(namespace=turns_namespace, messages_key=messages_key)
    taken = sorted({*before, *behind} & set(builder.nodes))
    if taken:
        raise ConfigError(f"the graph already has nodes named {taken}; is its memory wired twice?")
    first, last = next(iter(before)), list(behind)[-1]

    _redirect(builder, around, first, last)
    schema = _schema_with_memory(builder)
    spec = builder.nodes[around]
    for name, node in (before | behind).items():
        # A node that waits for all others lets its memory wait, too.
        builder.add_node(name, node, input_schema=schema, defer=spec.defer and name in before)
    for start, end in pairwise([*before, around, *behind]):
        builder.add_edge(start, end)
    served = _ServedWithView(spec.runnable, recall(), budget, messages_key)  # type: ignore[arg-type]
    for name, each in builder.nodes.items():
        if name not in before and name not in behind:
            inner: Any = served if name == around else each.runnable
            led = _LedThroughMemory(inner, around, first)
            ends = _renamed_ends(each.ends, around, first)
            builder.nodes[name] = dataclasses.replace(each, runnable=led, ends=ends)
    return builder


def _check(builder: StateGraph[Any, Any, Any, Any], around: str, messages_key: str) -> None:
    """Refuse what cannot be wrapped."""
    if not isinstance(builder, StateGraph) or builder.compiled:
        raise ConfigError(
            "add_memory takes a StateGraph before compile(); call it on the builder, then compile"
        )
    if around not in builder.nodes:
        raise ConfigError(
            f"the graph has no node {around!r} to wrap; it has {sorted(builder.nodes)}"
        )
    spec = builder.nodes[around]
    for what, read in (("the state", builder.state_schema), (repr(around), spec.input_schema)):
        if messages_key not in get_type_hints(read):
            raise ConfigError(
                f"{what} has no key {messages_key!r} in its schema {read.__name__}, so there is "
                "nothing to serve a view under; add it, or pass messages_key="
            )
    # A key of the usual kind is made of the node's input, which the memories are no part of.
    usual: Any = CachePolicy().key_func
    defaults = getattr(builder, "_node_defaults", None)
    if getattr(spec.cache_policy, "key_func", None) is usual:
        raise ConfigError(
            f"{around!r} is cached by its input, which does not hold what is recalled, so that one "
            "user could get the answer of another; take its cache_policy off, or give it a key_func"
        )
    if getattr(defaults, "cache_policy", None) is not None:
        raise ConfigError(
            "set_node_defaults(cache_policy=) would have the memory nodes cached, which read and "
            "write the store; give a cache_policy to the nodes that need one"
        )


def _redirect(builder: StateGraph[Any, Any, Any, Any], around: str, first: str, last: str) -> None:
    """Lead what comes into `around` to `first`, and what goes out of it from `last`."""
    leads_out = any(start == around for start, _ in builder.edges) or around in builder.branches
    leads_out = leads_out or any(around in starts for starts, _ in builder.waiting_edges)
    edges = {
        (last if start == around else start, first if end == around else end)
        for start, end in builder.edges
    }
    if not leads_out:
        edges.add((last, END))
    builder.edges.clear()
    builder.edges.update(edges)
    waiting = {
        (tuple(last if s == around else s for s in starts), first if end == around else end)
        for starts, end in builder.waiting_edges
    }
    builder.waiting_edges.clear()
    builder.waiting_edges.update(waiting)
    if around in builder.branches:
        # The path reads the state as it did behind its node.
        read = builder.nodes[around].input_schema
        builder.branches[last] = builder.branches.pop(around)
        for name, branch in builder.branches[last].items():
            schema = branch.input_schema or read
            builder.branches[last][name] = branch._replace(input_schema=schema)
    for branches in builder.branches.values():
        for name, branch in branches.items():
            if branch.ends:
                ends = {k: first if end == around else end for k, end in branch.ends.items()}
                branches[name] = branch._replace(ends=ends)
            else:
                path = _LedThroughMemory(branch.path, around, first)
                branches[name] = branch._replace(path=path)


def _renamed_ends(ends: Any, around: str, first: str) -> Any:
    """Return where a node says that it may jump to, for the drawing."""
    if isinstance(ends, Mapping):
        return {first if end == around else end: label for end, label in ends.items()}
    return tuple(first if end == around else end for end in ends or ())


def _schema_with_memory(builder: StateGraph[Any, Any, Any, Any]) -> type[Any]:
    """Return the graph's state with memkit's keys; a node with this input adds them as channels."""
    hints = get_type_hints(builder.state_schema, include_extras=True)
    ours = get_type_hints(MemoryState, include_extras=True)
    missing = {key: ours[key] for key in _KEYS if key not in hints}
    return TypedDict("StateWithMemory", {**hints, **missing})  # type: ignore[operator,no-any-return]


class _Around(RunnableLambda[Any, Any]):
    """A node inside another one; a RunnableLambda, since LangGraph looks into its `deps`.

    It so finds a subgraph in there, for its state and its drawing.
    """

    def __init__(self, node: Runnable[Any, Any]) -> None:
        super().__init__(node.invoke, name=node.get_name())
        self.node = node
        # LangGraph refuses a time limit for nodes that are not async by looking for this.
        function, coroutine = getattr(node, "func", None), getattr(node, "afunc", None)
        is_native = inspect.iscoroutinefunction(coroutine) and not isinstance(coroutine, partial)
        if function is None or is_native:
            self.afunc = node.ainvoke

    @property
    def deps(self) -> list[Runnable[Any, Any]]:
        return [self.node]


class _LedThroughMemory(_Around):
    """Calls a node or a path, and leads it to the memory nodes where it would jump past them."""

    def __init__(self, node: Runnable[Any, Any], around: str, first: str) -> None:
        super().__init__(node)
        self.around = around
        self.first = first

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - Runnable's name
        try:
            return self._led(self.node.invoke(input, config, **kwargs))
        except ParentCommand as jump:
            self._lead_out(jump, config)
            raise

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        try:
            return self._led(await self.node.ainvoke(input, config, **kwargs))
        except ParentCommand as jump:
            self._lead_out(jump, config)
            raise

    def _lead_out(self, jump: ParentCommand, config: RunnableConfig | None) -> None:
        # A subgraph's jump into this graph names this graph's task.
        here = ((config or {}).get("configurable") or {}).get("checkpoint_ns")
        if jump.args[0].graph == here:
            jump.args = (self._led(jump.args[0]),)

    def _led(self, answer: Any) -> Any:
        """Return a node's update, or a path's targets, with the way through memory."""
        if isinstance(answer, Command):
            if answer.graph == Command.PARENT:
                return answer
            return dataclasses.replace(answer, goto=self._led(answer.goto))
        if isinstance(answer, list | tuple):
            return [self._led(each) for each in answer]
        return self.first if isinstance(answer, str) and answer == self.around else answer


class _ServedWithView(_Around):
    """Calls a node with the view in place of the whole history."""

    def __init__(
        self,
        node: Runnable[Any, Any],
        recall: MemoryRecall,
        budget: ContextBudget,
        messages_key: str,
    ) -> None:
        super().__init__(node)
        self.recall = recall
        self.budget = budget
        self.messages_key = messages_key

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - Runnable's name
        served = run(self._served(input, config))
        return self._own(self.node.invoke(served, config, **kwargs), served)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        served = await arun(self._served(input, config))
        return self._own(await self.node.ainvoke(served, config, **kwargs), served)

    def _own(self, update: Any, served: Any) -> Any:
        """Return an update without the messages that the node was only shown.

        A subgraph hands back all of its messages; the view must not become the history.
        """
        if isinstance(update, Command):
            return dataclasses.replace(update, update=self._own(update.update, served))
        said = update.get(self.messages_key) if isinstance(update, Mapping) else None
        if not isinstance(said, list):
            return update
        shown = self._messages(served)
        same = {id(m) for m in shown}
        by_id = {m.id: m for m in shown if m.id}
        own = [
            m for m in said if id(m) not in same and by_id.get(getattr(m, "id", None) or "") != m
        ]
        return {**update, self.messages_key: own}

    def _messages(self, state: Any) -> list[BaseMessage]:
        key = self.messages_key
        given: Any = state.get(key) if isinstance(state, Mapping) else getattr(state, key, None)
        return as_messages(given or [])

    def _served(self, state: Any, config: RunnableConfig | None) -> Body[Any]:
        # Built from the state rather than taken from the trimmer, so that a node that is reached
        # past the trimmer (by a Send, say) never gets an outdated view.
        messages = self._messages(state)
        if not messages:
            return state
        read = ((config or {}).get("configurable") or {}).get(READ_CHANNEL)
        parts = {key: read(key, False) for key in _KEYS} if read else {}
        trimmed = (parts.get("memory") or {}).get("trim") or {}
        if trimmed.get("end_id") != id_of(messages, len(messages) - 1):
            own = self._holding(state, messages)
            parts |= yield from self.recall.body(self.recall.visit(own, config))
        view = context({**parts, "messages": messages}, self.budget)
        return self._holding(state, view)

    def _holding(self, state: Any, messages: Sequence[BaseMessage]) -> Any:
        held = {self.messages_key: messages}
        if isinstance(state, Mapping):
            return {**state, **held}
        if dataclasses.is_dataclass(state) and not isinstance(state, type):
            return dataclasses.replace(state, **held)
        return state.model_copy(update=held)
