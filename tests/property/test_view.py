"""What a view promises, on every prefix of generated conversations and at random budgets."""

from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from langchain_core.messages import BaseMessage, HumanMessage, SystemMessage

from memkit import ContextBudget, context, trim
from memkit.errors import BudgetTooSmall
from memkit.view import build_view
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
    state = {
        "messages": messages,
        "summary": {"text": text, "through_id": covered.id},
        "recalled": facts,
    }
    try:
        view = context(state, budget)
    except BudgetTooSmall:
        assume(False)
        raise
    assert budget.count(view) <= budget.max_tokens - budget.reserve_reply
    assert_valid(view)


def test_a_small_budget_is_a_clear_error() -> None:
    with pytest.raises(BudgetTooSmall, match="system messages and the latest turn take"):
        trim([SystemMessage("word " * 100), HumanMessage("hi")], ContextBudget(50))
