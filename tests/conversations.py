"""Hypothesis strategies for conversations with tools, and the promises a view keeps."""

from collections.abc import Sequence

from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

texts = st.text(alphabet="abc déß漢字🙂.\n", max_size=40) | st.sampled_from(
    ["I live at 14 Linden Street.", "What is the weather?", "word " * 60]
)


@st.composite
def turns(draw: st.DrawFn, prefix: str) -> list[BaseMessage]:
    """One turn: a human message, tool groups with shuffled results, perhaps a reply."""
    turn: list[BaseMessage] = [HumanMessage(draw(texts), id=f"{prefix}-h")]
    for g in range(draw(st.integers(0, 2))):
        calls = [f"{prefix}-{g}-{c}" for c in range(draw(st.integers(1, 3)))]
        turn.append(
            AIMessage(
                draw(texts),
                id=f"{prefix}-{g}-a",
                tool_calls=[{"name": "look", "args": {"q": c}, "id": c} for c in calls],
            )
        )
        turn.extend(
            ToolMessage(draw(texts), tool_call_id=c, id=f"{c}-r")
            for c in draw(st.permutations(calls))
        )
    if draw(st.booleans()):
        turn.append(AIMessage(draw(texts), id=f"{prefix}-e"))
    return turn


@st.composite
def conversations(draw: st.DrawFn, max_turns: int = 8) -> list[BaseMessage]:
    """Valid conversations, with none, one or several system messages at the head."""
    head: list[BaseMessage] = [
        SystemMessage(draw(texts), id=f"s{i}") for i in range(draw(st.integers(0, 2)))
    ]
    return head + [
        m for t in range(draw(st.integers(1, max_turns))) for m in draw(turns(prefix=f"t{t}"))
    ]


def assert_valid(view: Sequence[BaseMessage]) -> None:
    """Every tool call has all of its results right behind it, and no result lacks its call."""
    waiting: set[str] = set()
    for message in view:
        if isinstance(message, ToolMessage):
            assert message.tool_call_id in waiting, f"orphan result {message.id}"
            waiting.discard(message.tool_call_id)
        else:
            assert not waiting, f"calls without a result: {waiting}"
            if isinstance(message, AIMessage):
                waiting = {c["id"] or "" for c in message.tool_calls}
    assert not waiting, f"calls without a result: {waiting}"
