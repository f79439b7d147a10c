"""What a view promises, on every prefix of generated conversations and at random budgets."""

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
)
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from memkit import ContextBudget, context, trim
from memkit.errors import BudgetTooSmall
from memkit.messages import text_of
from memkit.tool_traffic import CLEARED, SHORTENED
from memkit.view import RECALLED_ID, SUMMARY_ID, View, build_view
from tests.conversations import (
    assert_valid,
    conversations,
    damaged_conversations,
    model_calls,
    texts,
)

# `make fuzz` asks for more.
many = settings(max_examples=int(os.environ.get("MEMKIT_FUZZ", "300")))

budgets = st.builds(
    ContextBudget,
    st.integers(60, 700) | st.integers(700, 5_000),
    low_water=st.sampled_from([0.3, 0.6, 1.0]),
    reserve_reply=st.integers(0, 20),
)
tool_rules = st.fixed_dictionaries(
    {
        "on_overflow": st.sampled_from(["raise", "shorten_tools"]),
        "keep_tool_traffic": st.booleans(),
        "clear_tool_results": st.none()
        | st.integers(0, 3)
        | st.dictionaries(st.sampled_from(["search", "run_sql"]), st.integers(0, 2)),
    }
)
tool_budgets = st.builds(
    lambda tokens, low, rules: ContextBudget(tokens, low_water=low, **rules),
    st.integers(60, 700) | st.integers(700, 5_000),
    st.sampled_from([0.3, 0.6, 1.0]),
    tool_rules,
)
ROOMY = ContextBudget(10**6)


def latest(messages: Sequence[BaseMessage]) -> int:
    return max(i for i, m in enumerate(messages) if isinstance(m, HumanMessage))


def must_stay(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Return the system messages and the latest turn, without what no provider accepts."""
    last = latest(messages)
    bad = set(build_view(messages, ROOMY).orphaned)
    return [
        m
        for i, m in enumerate(messages)
        if (i >= last or isinstance(m, SystemMessage)) and m.id not in bad
    ]


def view_or_none(messages: list[BaseMessage], budget: ContextBudget, **given: Any) -> View | None:
    """Return the view, or None where what must stay does not fit, which is checked."""
    try:
        return build_view(messages, budget, **given)
    except BudgetTooSmall:
        assert budget.count(must_stay(messages)) > budget.high
        return None


def assert_keeps(view: View, messages: Sequence[BaseMessage], budget: ContextBudget) -> None:
    """Check what holds for every view, whatever the budget says of tool traffic."""
    shown = view.messages
    assert shown
    assert view.tokens == budget.count(shown) <= budget.max_tokens - budget.reserve_reply
    assert_valid(shown)
    ids = [m.id for m in messages]
    positions = [ids.index(m.id) for m in shown]
    assert positions == sorted(set(positions))
    assert {m.id for m in messages if isinstance(m, SystemMessage)} <= {m.id for m in shown}
    kept = [m.id for m in messages[latest(messages) :] if m.id not in view.orphaned]
    assert [m.id for m in shown[len(shown) - len(kept) :]] == kept


@many
@given(conversations(), budgets)
def test_a_trimmed_prefix_is_valid_within_budget_and_keeps_what_matters(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    for prefix in model_calls(messages):
        before = [m.model_copy(deep=True) for m in prefix]
        view = view_or_none(prefix, budget)
        assert prefix == before
        if view is None:
            continue
        assert_keeps(view, prefix, budget)
        # Nothing is touched that is kept.
        by_id = {m.id: m for m in prefix}
        assert all(m is by_id[m.id] for m in view.messages)
        assert not view.orphaned
        assert trim(prefix, budget) == view.messages
        assert trim(view.messages, budget) == view.messages


@many
@given(conversations(max_turns=12), budgets)
def test_between_cuts_the_view_only_grows_at_its_end(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    cursor, previous = None, None
    for prefix in model_calls(messages):
        view = view_or_none(prefix, budget, memory={"trim": cursor})
        if view is None:
            break
        assert_keeps(view, prefix, budget)
        if previous is not None and not view.cut:
            assert view.messages[: len(previous)] == previous
        if view.cut:
            # Down to the low watermark, but for the latest turn.
            assert view.tokens <= max(budget.low, budget.count(must_stay(prefix)))
        cursor, previous = view.cursor, view.messages


@many
@given(conversations(max_turns=12), tool_budgets, st.data())
def test_a_cursor_saves_work_and_changes_nothing(
    messages: list[BaseMessage], budget: ContextBudget, data: st.DataObject
) -> None:
    prefixes = list(model_calls(messages))
    early = data.draw(st.sampled_from(prefixes))
    view = view_or_none(early, budget)
    if view is None:
        return
    assert view.cursor["start_id"] in {m.id for m in early}
    serde = JsonPlusSerializer()
    reread = serde.loads_typed(serde.dumps_typed(messages))
    with_hint = view_or_none(messages, budget, memory={"trim": view.cursor})
    by_id_alone = view_or_none(messages, budget, memory={"trim": {**view.cursor, "start": -1}})
    after_a_checkpoint = view_or_none(reread, budget, memory={"trim": view.cursor})
    assert (with_hint is None) == (by_id_alone is None) == (after_a_checkpoint is None)
    if with_hint and by_id_alone and after_a_checkpoint:
        assert with_hint.messages == by_id_alone.messages == after_a_checkpoint.messages
        assert with_hint.cursor == by_id_alone.cursor
        assert with_hint.dropped_since(0) == by_id_alone.dropped_since(0)
        assert with_hint.dropped_count == len(with_hint.dropped_since(0))


@many
@given(conversations(max_turns=12), budgets, st.data())
def test_a_cursor_into_an_edited_history_breaks_no_promise(
    messages: list[BaseMessage], budget: ContextBudget, data: st.DataObject
) -> None:
    """People remove, insert and replace messages, and travel in time.

    Not tried: as many removed as inserted before the cut, which is only noticed at the next one.
    """
    view = view_or_none(messages, budget)
    if view is None:
        return
    edited = list(messages)
    ways = data.draw(
        st.sampled_from([["remove", "longer", "rewind"], ["note", "longer", "rewind"]])
    )
    for n in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(edited) - 1))
        match data.draw(st.sampled_from(ways)):
            case "remove" if not isinstance(edited[at], HumanMessage):
                del edited[at]
            case "note":
                edited.insert(at, SystemMessage(data.draw(texts), id=f"note-{n}"))
            case "longer" if isinstance(edited[at].content, str):
                longer = f"{edited[at].content} {'and more ' * 40}"
                edited[at] = edited[at].model_copy(update={"content": longer})
            case "rewind":
                edited = edited[: at + 1]
        if not any(isinstance(m, HumanMessage) for m in edited):
            return
    again = view_or_none(edited, budget, memory={"trim": view.cursor})
    if again is not None:
        assert_keeps(again, edited, budget)


@many
@given(conversations(), tool_budgets)
def test_tool_traffic_gets_smaller_in_the_ways_the_budget_allows(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    cursor: dict[str, Any] | None = None
    previous: list[BaseMessage] | None = None
    for prefix in model_calls(messages):
        before = [m.model_copy(deep=True) for m in prefix]
        view = view_or_none(prefix, budget, memory={"trim": cursor})
        assert prefix == before
        if view is None:
            break
        assert_keeps(view, prefix, budget)
        last = latest(prefix)
        by_id = {m.id: m for m in prefix}
        changed = {m.id for m in view.messages if m is not by_id[m.id]}
        cleared = {prefix[i].id for i in view.cleared}
        assert changed <= {*cleared, *view.shortened, *view.set_aside}
        if not budget.keep_tool_traffic:
            earlier = {m.id for m in prefix[:last]}
            assert not any(
                isinstance(m, ToolMessage) or (isinstance(m, AIMessage) and m.tool_calls)
                for m in view.messages
                if m.id in earlier
            )
        for message in view.messages:
            if not isinstance(message, ToolMessage):
                continue
            mark = CLEARED.format(message.tool_call_id)
            if message.id in cleared and message.id not in view.shortened:
                assert message.content == mark
            if message.id in view.shortened:
                assert SHORTENED[:12] in text_of(message)
        if isinstance(budget.clear_tool_results, int):
            results = [m.id for m in prefix if isinstance(m, ToolMessage)]
            spared = results[len(results) - budget.clear_tool_results :]
            assert set(spared).isdisjoint(cleared)
        if previous is not None and budget.keep_tool_traffic and not view.cut:
            head = previous[: len(view.messages)]
            if not view.shortened and not any(SHORTENED[:12] in text_of(m) for m in head):
                assert view.messages[: len(previous)] == previous
        if not view.shortened:
            assert trim(view.messages, budget) == view.messages
        cursor, previous = view.cursor, view.messages


@many
@given(damaged_conversations(max_turns=5), tool_budgets)
def test_what_no_provider_accepts_is_left_out_and_nothing_else(
    messages: list[BaseMessage], budget: ContextBudget
) -> None:
    before = [m.model_copy(deep=True) for m in messages]
    view = view_or_none(messages, budget)
    assert messages == before
    if view is None:
        return
    assert_keeps(view, messages, budget)
    for message in view.messages:
        if isinstance(message, AIMessage):
            calls = [c["id"] for c in message.tool_calls]
            assert len(set(calls)) == len(calls)
    shown = [m.id for m in view.messages]
    # Every message is in one place, and only tool traffic is taken for orphaned.
    aside = [i for i in view.set_aside if i not in shown]
    assert sorted([*shown, *view.dropped_since(0), *view.orphaned, *aside], key=str) == sorted(
        [m.id for m in messages], key=str
    )
    traffic = {m.id for m in messages if m.type == "tool" or getattr(m, "tool_calls", None)}
    assert {*view.orphaned, *view.set_aside} <= traffic


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


@many
@given(conversations(), tool_budgets, recalled, texts, st.data())
def test_summary_and_facts_share_the_budget(
    messages: list[BaseMessage],
    budget: ContextBudget,
    facts: list[dict[str, Any]],
    text: str,
    data: st.DataObject,
) -> None:
    covered = data.draw(st.sampled_from(messages))
    summary = {"text": text, "through_id": covered.id}
    view = view_or_none(messages, budget, summary=summary, recalled=facts)
    if view is None:
        return
    shown = view.messages
    assert context({"messages": messages, "summary": summary, "recalled": facts}, budget) == shown
    assert view.tokens == budget.count(shown) <= budget.max_tokens - budget.reserve_reply
    assert_valid(shown)
    # A summary is there, or it is said that it is not, and then there is no room for it.
    heads = [m for m in shown if m.id == SUMMARY_ID]
    assert len(heads) == (bool(text.strip()) and "summary" not in view.left_out)
    if "summary" in view.left_out:
        assert RECALLED_ID not in {m.id for m in shown}
        roomy = build_view(messages, ROOMY, summary=summary)
        (head,) = [m for m in roomy.messages if m.id == SUMMARY_ID]
        if not view.shortened:
            assert budget.count([*shown, head]) > budget.high
    noted = "".join(text_of(m) for m in shown if m.id == RECALLED_ID)
    if "facts" not in view.left_out:
        assert all(" ".join(fact["text"].split()) in noted for fact in facts)


def test_a_small_budget_is_a_clear_error() -> None:
    with pytest.raises(BudgetTooSmall, match="system messages and the latest turn take"):
        trim([SystemMessage("word " * 100), HumanMessage("hi")], ContextBudget(50))
