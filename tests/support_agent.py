"""The customer-support agent that people start from, and its approval as a process of its own.

`python -m tests.support_agent KIND PLACE DSN approve|resume LOG`: a ticket that asks for a refund,
up to the manager's approval, or from there on. Every side effect is a line in LOG.
"""

import operator
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langgraph.graph import END, StateGraph
from langgraph.store.base import BaseStore
from langgraph.types import Command, interrupt
from typing_extensions import TypedDict

from memkit import ContextBudget, SemanticStore, add_memory
from tests.fakes import HashEmbeddings
from tests.savers import sync_saver

BUDGET = ContextBudget(400)
USER = "mara"


class SupportState(TypedDict):
    messages: Annotated[list, operator.add]  # type: ignore[type-arg] # as people write it
    user_id: str
    profile: dict[str, Any]


def load_profile(state: SupportState, *, store: BaseStore) -> dict[str, Any]:
    item = store.get(("profiles",), state["user_id"])
    return {"profile": item.value if item else {"answered": 0}}


def save_resolved(state: SupportState, *, store: BaseStore) -> None:
    store.put(("profiles",), state["user_id"], {"answered": state["profile"]["answered"] + 1})


def support(chat: Callable[[list[Any]], str]) -> StateGraph[Any, Any, Any, Any]:
    """The agent as people write it; `chat` stands for the model."""

    def respond(state: SupportState) -> dict[str, Any]:
        system = SystemMessage(f"You are the support. {state['profile']}")
        return {"messages": [AIMessage(chat([system, *state["messages"]]))]}

    builder: StateGraph[Any, Any, Any, Any] = StateGraph(SupportState)
    builder.add_node("load_profile", load_profile)
    builder.add_node("respond", respond)
    builder.add_node("save_resolved", save_resolved)
    builder.set_entry_point("load_profile")
    builder.add_edge("load_profile", "respond")
    builder.add_edge("respond", "save_resolved")
    builder.add_edge("save_resolved", END)
    return builder


def refunding(log: Path) -> StateGraph[Any, Any, Any, Any]:
    """The same, with a manager who approves before money goes, and memory around the reply."""

    def note(what: str) -> None:
        with log.open("a") as file:
            file.write(what + "\n")

    def chat(_: list[Any]) -> str:
        note("model")
        return "I will ask my manager."

    def approve(state: SupportState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"Manager: {interrupt({'refund': state['user_id']})}")]}

    def refund(state: SupportState) -> dict[str, Any]:
        note("refund")
        return {"messages": [AIMessage("The money is on its way.")]}

    builder = support(chat)
    builder.edges.discard(("respond", "save_resolved"))
    builder.add_node("approve", approve)
    builder.add_node("refund", refund)
    builder.add_edge("respond", "approve")
    builder.add_edge("approve", "refund")
    builder.add_edge("refund", "save_resolved")
    return add_memory(builder, around="respond", budget=BUDGET, record_turns=True)


def config(ticket: str) -> Any:
    return {"configurable": {"thread_id": ticket, "user_id": USER}}


def main(kind: str, place: str, dsn: str, step: str, log: str) -> None:
    embed = HashEmbeddings(64)
    with (
        sync_saver(kind, Path(place), dsn) as saver,
        SemanticStore.open(dsn, embed=embed, dims=64) as store,
    ):
        store.setup()
        graph: Any = refunding(Path(log)).compile(checkpointer=saver, store=store)
        asked = "My lamp came broken. I live at 14 Linden Street. Please refund it."
        turn: Any = {"messages": [HumanMessage(asked)], "user_id": USER}
        graph.invoke(turn if step == "approve" else Command(resume="yes"), config("refund"))


if __name__ == "__main__":
    main(*sys.argv[1:])
