"""Hypothesis strategies for conversations with tools, and the promises a view keeps.

The conversations come from the generator of the benchmarks, so that peers are judged by the same
ones. `conversations` are valid; `damaged_conversations` went through `with_orphans`.
"""

from collections.abc import Sequence

from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage

from benchmarks.conversations import conversation, model_calls, with_orphans

__all__ = [
    "assert_valid",
    "conversations",
    "damaged_conversations",
    "model_calls",
    "texts",
]

texts = st.text(alphabet="abc déß漢字🙂.\n", max_size=40) | st.sampled_from(
    ["I live at 14 Linden Street.", "What is the weather?", "word " * 60]
)
_seeds = st.integers(0, 2**32 - 1)


def conversations(max_turns: int = 8) -> st.SearchStrategy[list[BaseMessage]]:
    """Valid conversations: parallel calls, shuffled results, pictures, giant results, and more."""
    return st.builds(conversation, _seeds, st.integers(1, max_turns))


def damaged_conversations(max_turns: int = 8) -> st.SearchStrategy[list[BaseMessage]]:
    """Conversations that lost calls or results, or hold results twice or before their call."""
    return st.builds(with_orphans, conversations(max_turns), _seeds)


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
