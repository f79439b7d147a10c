"""Messages in a DeltaChannel: what their reducer promises."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain.agents import create_agent
from langchain.agents.middleware import SummarizationMiddleware
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    HumanMessage,
    RemoveMessage,
)
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.message import REMOVE_ALL_MESSAGES, add_messages

from memkit import DeltaMemoryState
from memkit.state import merge_messages
from tests.scripted import ScriptedModel

ids = st.sampled_from(["a", "b", "c", "d", None])
said = st.builds(HumanMessage, st.sampled_from(["tea", "milk"]), id=ids)
like: st.SearchStrategy[Any] = st.one_of(
    said,
    st.builds(AIMessageChunk, st.just("yes"), id=ids),
    st.sampled_from(["hello", ("user", "hi"), {"role": "user", "content": "hey"}]),
)
removal = st.sampled_from([RemoveMessage(id=id_) for id_ in ("a", "b", REMOVE_ALL_MESSAGES)])
writes = st.lists(st.one_of(like, st.lists(st.one_of(like, removal), max_size=4)), max_size=6)


@given(writes, st.data())
def test_writes_may_be_split_anywhere(all_: list[Any], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(all_)))
    whole = merge_messages([], all_)
    assert merge_messages(merge_messages([], all_[:cut]), all_[cut:]) == whole
    assert merge_messages([], all_) == whole
    assert len({message.id for message in whole}) == len(whole)
    assert all(message.id for message in whole)


@given(writes)
def test_each_write_does_what_add_messages_does(all_: list[Any]) -> None:
    ours: list[Any] = []
    for write in all_:
        after = merge_messages(ours, [write])
        if _is_clear(write, {message.id for message in ours}):
            assert list(map(_told, after)) == list(map(_told, add_messages(ours, write)))
        ours = after


def _is_clear(write: Any, present: set[str]) -> bool:
    """Whether `add_messages` neither raises nor takes what one write says as of one moment."""
    messages = (
        [like for like in write if isinstance(like, BaseMessage)] if isinstance(write, list) else []
    )
    named = [message.id for message in messages if message.id]
    if REMOVE_ALL_MESSAGES in named:  # it returns the removals behind it as messages
        named = named[len(named) - named[::-1].index(REMOVE_ALL_MESSAGES) :]
        present = set()
    removed = {m.id for m in messages if isinstance(m, RemoveMessage) and m.id in named}
    return removed <= present and len(set(named)) == len(named)


def _told(message: Any) -> tuple[type[BaseMessage], Any]:
    return type(message), message.content


def test_what_is_not_there_can_be_removed() -> None:
    kept = [HumanMessage("tea", id="a")]
    assert merge_messages(kept, [RemoveMessage(id="x")]) == kept


def test_a_given_message_is_left_as_it_is() -> None:
    message = HumanMessage("tea")
    [merged] = merge_messages([], [message])
    assert merged.id
    assert message.id is None


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_the_summarization_middleware_of_langchain_works_on_it() -> None:
    def agent(**state: Any) -> Any:
        model = ScriptedModel("noted")
        summarize = SummarizationMiddleware(model, trigger=("messages", 8), keep=("messages", 4))
        return create_agent(model, middleware=[summarize], checkpointer=InMemorySaver(), **state)

    def told(agent: Any) -> list[list[Any]]:
        seen = []
        for n in range(12):
            thread = {"configurable": {"thread_id": "t"}}
            agent.invoke({"messages": [HumanMessage(f"parcel {n}", id=f"h{n}")]}, thread)
            messages = agent.get_state(thread).values["messages"]
            seen.append([_told(message) for message in messages])
        return seen

    plain = told(agent())
    assert told(agent(state_schema=DeltaMemoryState)) == plain
    assert max(map(len, plain)) < 10
    assert AIMessage in {kind for kind, _ in plain[-1]}
