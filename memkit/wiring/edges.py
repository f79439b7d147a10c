"""How the ways into a node and out of it lead through others: edges, paths, jumps."""

import dataclasses
import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from langchain_core.runnables import Runnable, RunnableConfig, RunnableLambda
from langgraph.errors import ParentCommand
from langgraph.graph import END, StateGraph
from langgraph.types import Command


def redirect(builder: StateGraph[Any, Any, Any, Any], around: str, first: str, last: str) -> None:
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
                path = LedElsewhere(branch.path, around, first)
                branches[name] = branch._replace(path=path)


def renamed_ends(ends: Any, around: str, first: str) -> Any:
    """Return where a node says that it may jump to, for the drawing."""
    if isinstance(ends, Mapping):
        return {first if end == around else end: label for end, label in ends.items()}
    return tuple(first if end == around else end for end in ends or ())


class Around(RunnableLambda[Any, Any]):
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
        """What LangGraph looks into."""
        return [self.node]


class LedElsewhere(Around):
    """Calls a node or a path, and leads it to `first` where it would jump to `around`."""

    def __init__(self, node: Runnable[Any, Any], around: str, first: str) -> None:
        super().__init__(node)
        self.around = around
        self.first = first

    def invoke(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:  # noqa: A002 - Runnable's name
        """Return its answer, led elsewhere."""
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
        """Return its answer, led elsewhere."""
        try:
            return self._led(await self.node.ainvoke(input, config, **kwargs))
        except ParentCommand as jump:
            self._lead_out(jump, config)
            raise

    def _lead_out(self, jump: ParentCommand, config: RunnableConfig | None) -> None:
        if jumps_here(jump, config):
            jump.args = (self._led(jump.args[0]),)

    def _led(self, answer: Any) -> Any:
        """Return a node's update, or a path's targets, with the way through `first`."""
        if isinstance(answer, Command):
            if answer.graph == Command.PARENT:
                return answer
            return dataclasses.replace(answer, goto=self._led(answer.goto))
        if isinstance(answer, list | tuple):
            return [self._led(each) for each in answer]
        return self.first if isinstance(answer, str) and answer == self.around else answer


def jumps_here(jump: ParentCommand, config: RunnableConfig | None) -> bool:
    """Return whether a subgraph's jump leads into the graph of the task with this config.

    It then names that task.
    """
    here = ((config or {}).get("configurable") or {}).get("checkpoint_ns")
    return bool(jump.args[0].graph == here)
