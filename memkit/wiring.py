"""add_memory: the nodes around a node of an existing graph, in one line."""

import dataclasses
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, get_type_hints

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.runnables import Runnable, RunnableConfig
from langgraph.graph import END, StateGraph
from langgraph.types import Command
from typing_extensions import TypedDict

from memkit.budget import ContextBudget
from memkit.errors import ConfigError
from memkit.facts import StalenessPolicy
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
) -> StateGraph[Any, Any, Any, Any]:
    """Wire recall, stale-fact check, summarizer and trimmer before a node, and extraction after it.

    Edges and conditional edges into `around` lead to the first memory node, those out of it start
    behind the last. The node itself is served the view under the key it already reads, so that it
    need not know of memkit; state keys that are missing are added. Call it when the graph has all
    of its edges.

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

    Returns:
        The builder.

    Raises:
        ConfigError: There is no such node, a node is named like one that would be added, a
            conditional edge into `around` does not say where it leads, or a node declares that it
            jumps there by a Command. A Send to `around` goes past the memory nodes; the node is
            still served a view within budget.
    """
    if around not in builder.nodes:
        raise ConfigError(
            f"the graph has no node {around!r} to wrap; it has {sorted(builder.nodes)}"
        )
    sources: tuple[Source, ...] = ("facts", "turns") if record_turns else ("facts",)
    before: dict[str, Runnable[Any, Any]] = {
        "memory_recall": MemoryRecall(
            limit=limit, sources=sources, policy=policy, messages_key=messages_key
        ),
        "memory_verify": StaleFactCheck(policy, messages_key=messages_key),
        "memory_summarize": RollingSummarizer(
            model, budget, after_extraction=True, messages_key=messages_key
        ),
        "memory_trim": TokenTrimmer(budget, destructive=destructive, messages_key=messages_key),
    }
    behind: dict[str, Runnable[Any, Any]] = {
        "memory_remember": FactExtractor(model, messages_key=messages_key)
    }
    if record_turns:
        behind["memory_record"] = TurnRecorder(messages_key=messages_key)
    taken = sorted({*before, *behind} & set(builder.nodes))
    if taken:
        raise ConfigError(f"the graph already has nodes named {taken}; is its memory wired twice?")
    first, last = next(iter(before)), list(behind)[-1]

    _redirect(builder, around, first, last)
    schema = _schema_with_memory(builder)
    for name, node in (before | behind).items():
        builder.add_node(name, node, input_schema=schema)
    chain = [*before, around, *behind]
    for start, end in pairwise(chain):
        builder.add_edge(start, end)
    spec = builder.nodes[around]
    builder.nodes[around] = dataclasses.replace(
        spec,
        runnable=_ServedWithView(spec.runnable, budget, messages_key),  # type: ignore[arg-type]
    )
    return builder


def _redirect(builder: StateGraph[Any, Any, Any, Any], around: str, first: str, last: str) -> None:
    """Lead what comes into `around` to `first`, and what goes out of it from `last`."""
    jumping = sorted(
        name
        for name, spec in builder.nodes.items()
        if name != around and around in (spec.ends or ())
    )
    if jumping:
        raise ConfigError(
            f"{jumping} may jump to {around!r} by a Command, past the memory nodes; let them go to "
            f"{first!r} and call add_memory again"
        )
    for start, branches in builder.branches.items():
        for name, branch in branches.items():
            if branch.ends is None and start != around:
                raise ConfigError(
                    f"the conditional edge {name!r} of {start!r} does not say where it leads; pass "
                    "its targets as path_map to add_conditional_edges"
                )
    leads_out = any(start == around for start, _ in builder.edges) or around in builder.branches
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
        builder.branches[last] = builder.branches.pop(around)
    for branches in builder.branches.values():
        for name, branch in branches.items():
            if branch.ends:
                ends = {k: first if end == around else end for k, end in branch.ends.items()}
                branches[name] = branch._replace(ends=ends)


def _schema_with_memory(builder: StateGraph[Any, Any, Any, Any]) -> type[Any]:
    """Return the graph's state with memkit's keys; a node with this input adds them as channels."""
    hints = get_type_hints(builder.state_schema, include_extras=True)
    ours = get_type_hints(MemoryState, include_extras=True)
    missing = {key: ours[key] for key in _KEYS if key not in hints}
    return TypedDict("StateWithMemory", {**hints, **missing})  # type: ignore[operator,no-any-return]


class _ServedWithView(Runnable[Any, Any]):
    """Calls a node with the view in place of the whole history."""

    def __init__(self, node: Runnable[Any, Any], budget: ContextBudget, messages_key: str) -> None:
        self.name = node.get_name()
        self.node = node
        self.budget = budget
        self.messages_key = messages_key

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - Runnable's name
        served = self._served(input, config)
        return self._own(self.node.invoke(served, config, **kwargs), served)

    async def ainvoke(
        self,
        input: Any,  # noqa: A002 - Runnable's name
        config: RunnableConfig | None = None,
        **kwargs: Any,
    ) -> Any:
        served = self._served(input, config)
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
        given = state.get(key) if isinstance(state, Mapping) else getattr(state, key)
        return as_messages(given or [])

    def _served(self, state: Any, config: RunnableConfig | None) -> Any:
        # Built from the state rather than taken from the trimmer, so that a node that is reached
        # past the trimmer (by a Command, say) never gets an outdated view.
        read = ((config or {}).get("configurable") or {}).get(READ_CHANNEL)
        parts = {key: read(key, False) for key in _KEYS} if read else {}
        view = context({**parts, "messages": self._messages(state)}, self.budget)
        served = {self.messages_key: view}
        if isinstance(state, Mapping):
            return {**state, **served}
        if dataclasses.is_dataclass(state) and not isinstance(state, type):
            return dataclasses.replace(state, **served)
        return state.model_copy(update=served)
