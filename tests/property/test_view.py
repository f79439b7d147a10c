"""What a view promises, on every prefix of generated conversations and at random budgets."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)

from memkit import ContextBudget, context, trim
from memkit.errors import BudgetTooSmall
from memkit.view import RECALLED_ID, SUMMARY_ID, build_view
from tests.conversations import assert_valid, conversations, texts

budgets = st.builds(
    ContextBudget,
    st.integers(40, 700),
    low_water=st.sampled_from([0.3, 0.6, 1.0]),
    reserve_reply=st.integers(0, 20),
)


def try_trim(messages: list[BaseMessage], budget: ContextBudget) -> list[BaseMessage]:
    try:
        return trim(messages, budget)
    except BudgetTooSmall:
        # Only the system messages and the latest turn themselves may cause this.
        last = max(i for i, m in enumerate(messages) if isinstance(m, HumanMessage))
        must = [m for i, m in enumerate(messages) if i >= last or isinstance(m, SystemMessage)]
        assert budget.count(must) > budget.high
        assume(False)
        raise


def at_model_calls(messages: list[BaseMessage]) -> list[list[BaseMessage]]:
    """Return the prefixes at which a model is called: those that end with no call open."""
    prefixes = [messages[: i + 1] for i in range(len(messages))]
    return [
        p
        for p in prefixes
        if isinstance(p[-1], HumanMessage)
        or (p[-1].type == "tool" and not build_view(p, ContextBudget(10**6)).orphaned)
    ]


@given(conversations(), budgets)
def test_a_trimmed_prefix_is_valid_within_budget_and_keeps_what_matters(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    for prefix in at_model_calls(messages):
        before = [m.model_copy(deep=True) for m in prefix]
        view = try_trim(prefix, budget)
        assert prefix == before
        assert view
        assert budget.count(view) <= budget.max_tokens - budget.reserve_reply
        assert_valid(view)
        ids = [m.id for m in prefix]
        positions = [ids.index(m.id) for m in view]
        assert positions == sorted(positions)
        assert {m.id for m in prefix if isinstance(m, SystemMessage)} <= {m.id for m in view}
        last = max(i for i, m in enumerate(prefix) if isinstance(m, HumanMessage))
        assert view[-(len(prefix) - last) :] == prefix[last:]
        assert trim(view, budget) == view


@given(conversations(), budgets)
def test_between_cuts_the_view_only_grows_at_its_end(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    start_id, previous = None, None
    for prefix in at_model_calls(messages):
        try:
            view = build_view(prefix, budget, start_id=start_id)
        except BudgetTooSmall:
            break
        if previous is not None and not view.cut:
            assert view.messages[: len(previous)] == previous
        start_id, previous = view.start_id, view.messages


@st.composite
def disturbed(draw: st.DrawFn) -> list[BaseMessage]:
    """Conversations that someone's code damaged: notes anywhere, doubled calls, lost messages."""
    messages = draw(conversations(max_turns=4))
    for n in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(messages) - 1))
        message = messages[at]
        match draw(st.sampled_from(["note", "double", "lose", "repeat", "parts"])):
            case "note":
                messages.insert(at, SystemMessage(draw(texts), id=f"note-{n}"))
            case "double" if isinstance(message, AIMessage) and message.tool_calls:
                calls = [*message.tool_calls, message.tool_calls[0]]
                messages[at] = message.model_copy(update={"tool_calls": calls})
            case "lose" if not isinstance(message, HumanMessage):
                del messages[at]
            case "repeat" if isinstance(message, ToolMessage):
                messages.insert(at, message.model_copy(update={"id": f"again-{n}"}))
            case "parts" if isinstance(message.content, str):
                content = [{"type": "text", "text": message.content}, draw(texts)]
                messages[at] = message.model_copy(update={"content": content})
    return messages


@given(disturbed(), budgets)
def test_what_no_provider_accepts_is_left_out_and_nothing_else(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    before = [m.model_copy(deep=True) for m in messages]
    try_trim(messages, budget)
    view = build_view(messages, budget)
    assert messages == before
    assert view.tokens == budget.count(view.messages) <= budget.high
    assert_valid(view.messages)
    for message in view.messages:
        if isinstance(message, AIMessage):
            calls = [c["id"] for c in message.tool_calls]
            assert len(set(calls)) == len(calls)
    shown = [m.id for m in view.messages]
    assert shown == [m.id for m in messages if m.id in set(shown)]
    # Every message is in one place, and only tool traffic is taken for orphaned.
    assert sorted([*shown, *view.dropped, *view.orphaned], key=str) == sorted(
        [m.id for m in messages], key=str
    )
    traffic = {m.id for m in messages if m.type == "tool" or getattr(m, "tool_calls", None)}
    assert set(view.orphaned) <= traffic
    last = max(i for i, m in enumerate(messages) if isinstance(m, HumanMessage))
    kept = [m.id for m in messages[last:] if m.id not in view.orphaned]
    assert shown[len(shown) - len(kept) :] == kept
    assert trim(view.messages, budget) == view.messages


recalled = st.lists(
    st.builds(
        lambda text, day: {
            "key": text,
            "source": "facts",
            "text": text,
            "last_updated": f"2026-01-{day:02}T00:00:00+00:00",
            "freshness": "stale",
            "message_ids": [],
        },
        texts,
        st.integers(1, 28),
    ),
    max_size=8,
)


@given(conversations(), budgets, recalled, texts, st.data())
def test_summary_and_facts_share_the_budget(
    messages: list[BaseMessage],
    budget: ContextBudget,
    facts: list[dict[str, Any]],
    text: str,
    data: st.DataObject,
) -> None:
    covered = data.draw(st.sampled_from(messages))
    state: dict[str, Any] = {
        "messages": messages,
        "summary": {"text": text, "through_id": covered.id},
        "recalled": facts,
    }
    try:
        shown = context(state, budget)
    except BudgetTooSmall:
        assume(False)
        raise
    assert budget.count(shown) <= budget.max_tokens - budget.reserve_reply
    assert_valid(shown)
    view = build_view(messages, budget, summary=state["summary"], recalled=facts)
    assert view.messages == shown
    # A summary is there, or it is said that it is not, and then there is no room for it.
    heads = [m for m in shown if m.id == SUMMARY_ID]
    assert len(heads) == (bool(text.strip()) and "summary" not in view.left_out)
    if "summary" in view.left_out:
        assert RECALLED_ID not in {m.id for m in shown}
        roomy = build_view(messages, ContextBudget(10**6), summary=state["summary"])
        (summary,) = [m for m in roomy.messages if m.id == SUMMARY_ID]
        assert budget.count([*shown, summary]) > budget.high


def test_a_small_budget_is_a_clear_error() -> None:
    with pytest.raises(BudgetTooSmall, match="system messages and the latest turn take"):
        trim([SystemMessage("word " * 100), HumanMessage("hi")], ContextBudget(50))
