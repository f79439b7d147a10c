"""Graphs whose threads the tests of checkpoints prune, and what is compared of a checkpoint."""

import operator
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from langgraph.channels import DeltaChannel
from langgraph.graph import END, START, StateGraph
from langgraph.types import Overwrite, interrupt
from typing_extensions import TypedDict


def join(items: Sequence[Any], writes: Sequence[Any]) -> list[Any]:
    """Reduce by appending, which shows every write that is lost, doubled or out of place."""
    return [*items, *(item for write in writes for item in write)]


def tree(
    *,
    frequency: int = 4,
    subgraph: str | None = None,
    asks: bool = False,
    overwrites: bool = False,
    delta: bool = True,
) -> StateGraph[Any, Any, Any, Any]:
    """START -> plan -> left and right, side by side -> inner (a subgraph) -> close -> END.

    Args:
        frequency: Of the snapshots of the DeltaChannel `said`; `rare` has practically none.
        subgraph: None, "call" for one per call, or "kept" for one that keeps its state.
        asks: Whether a node interrupts every second time.
        overwrites: Whether a node replaces `said` now and then.
        delta: Whether there are DeltaChannels at all.
    """
    often: Any = DeltaChannel(join, snapshot_frequency=frequency) if delta else operator.add
    seldom: Any = DeltaChannel(join, snapshot_frequency=10_000) if delta else operator.add

    class State(TypedDict, total=False):
        log: Annotated[list[str], operator.add]
        said: Annotated[list[str], often]
        rare: Annotated[list[str], seldom]
        turn: int
        note: dict[str, Any]

    class Inner(TypedDict, total=False):
        turn: int
        note: dict[str, Any]
        own: Annotated[list[str], often]

    def plan(state: Any) -> dict[str, Any]:
        return {"turn": state.get("turn", 0) + 1, "said": [f"plan {len(state.get('said') or [])}"]}

    def left(state: Any) -> dict[str, Any]:
        return {"said": [f"left {state['turn']}"], "log": ["left"]}

    def right(state: Any) -> dict[str, Any]:
        if overwrites and state["turn"] % 3 == 0:
            return {"log": ["right"], "rare": Overwrite([f"anew {state['turn']}"])}
        return {
            "said": [f"right {state['turn']}"],
            "rare": [f"rare {len(state.get('rare') or [])}"],
        }

    def ask(state: Any) -> dict[str, Any]:
        if asks and state["turn"] % 2 == 0:
            answer = interrupt(f"what of {state['turn']}?")
            return {"note": {"turn": state["turn"], "answer": answer}}
        return {"note": {"turn": state["turn"]}}

    def tell(state: Any) -> dict[str, Any]:
        return {"own": [f"own {len(state.get('own') or [])}"]}

    def close(state: Any) -> dict[str, Any]:
        return {"log": [f"close {len(state['log'])}"], "rare": [f"close {len(state['said'])}"]}

    inner = StateGraph(Inner)
    inner.add_node("tell", tell)
    inner.add_node("ask", ask)
    inner.add_edge(START, "tell")
    inner.add_edge("tell", "ask")
    builder = StateGraph(State)
    for node in (plan, left, right, close):
        builder.add_node(node.__name__, node)
    if subgraph is None:
        builder.add_node("inner", ask)
    else:
        compiled = inner.compile(checkpointer=True if subgraph == "kept" else None)
        builder.add_node("inner", compiled)
    builder.add_edge(START, "plan")
    builder.add_edge("plan", "left")
    builder.add_edge("plan", "right")
    builder.add_edge(["left", "right"], "inner")
    builder.add_edge("inner", "close")
    builder.add_edge("close", END)
    return builder


def config(thread: str = "t", **more: Any) -> Any:
    """The config of a thread."""
    return {"configurable": {"thread_id": thread, **more}}


def seen(state: Any) -> tuple[Any, ...]:
    """What a user sees of a checkpoint, but for what it continues."""
    return (
        state.values,
        state.next,
        [(t.id, t.name, t.path, str(t.error), t.interrupts, t.result) for t in state.tasks],
        state.created_at,
        state.metadata,
    )


def states(graph: Any, saver: Any, thread: str = "t") -> dict[tuple[str, str], tuple[Any, ...]]:
    """Everything that a thread's checkpoints show, by namespace and id."""
    found = {}
    for stored in list(saver.list(config(thread))):
        if not stored.metadata.get("memkit_carrier"):
            place: Mapping[str, Any] = stored.config["configurable"]
            key = (place["checkpoint_ns"], place["checkpoint_id"])
            found[key] = seen(graph.get_state(stored.config))
    return found
