"""RollingSummarizer: what is folded, and which replies never become the summary."""

import asyncio
from time import perf_counter
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from memkit import ContextBudget, RollingSummarizer, context
from memkit.facts.rules import statements
from memkit.summary import UnusableSummary, checked_reply, cut_sentences, extract_summary
from memkit.words import sentences
from tests.scripted import ScriptedModel

BUDGET = ContextBudget(300, summary_tokens=60, recall_tokens=0)


def history(turns: int) -> list[BaseMessage]:
    return [
        m
        for i in range(turns)
        for m in (
            HumanMessage(f"question number {i} about the parcel", id=f"h{i}"),
            AIMessage(f"answer number {i} about the parcel", id=f"a{i}"),
        )
    ]


def test_it_does_nothing_while_everything_fits() -> None:
    model = ScriptedModel("never asked")
    assert RollingSummarizer(model, BUDGET).invoke({"messages": history(3)}) == {}
    assert model.prompts == []


def test_it_folds_whole_turns_and_never_the_latest() -> None:
    model = ScriptedModel("Ann asked about a parcel.")
    messages = [*history(14), HumanMessage("and now?", id="last")]
    update = RollingSummarizer(model, BUDGET).invoke({"messages": messages})
    summary = update["summary"]
    assert summary["text"] == "Ann asked about a parcel."
    assert summary["through_id"].startswith("a")  # the end of a turn
    assert len(model.prompts) == 1
    prompt = str(model.prompts[0][-1].content)
    folded = int(summary["through_id"][1:])
    assert f"question number {folded} " in prompt
    assert f"question number {folded + 1} " not in prompt
    view = context({"messages": messages, "summary": summary}, BUDGET)
    assert BUDGET.count(view) <= BUDGET.max_tokens * BUDGET.low_water + 1
    assert view[1].id == f"h{folded + 1}"


def test_the_next_fold_starts_where_the_last_ended_and_updates_the_record() -> None:
    model = ScriptedModel("Record two.")
    messages = history(30)
    state = {
        "messages": messages,
        "summary": {"text": "Record one.", "through_id": "a9", "tokens": 3, "updated_at": ""},
    }
    update = RollingSummarizer(model, BUDGET).invoke(state)
    prompt = str(model.prompts[0][-1].content)
    assert "Record so far:\nRecord one." in prompt
    assert "question number 9 " not in prompt
    assert "question number 10 " in prompt
    assert update["summary"]["text"] == "Record two."


def fail(_: Any) -> AIMessage:
    raise TimeoutError("the model did not answer")


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: AIMessage(""),
        lambda _: AIMessage("   \n"),
        lambda _: AIMessage("Cut off in the mid", response_metadata={"finish_reason": "length"}),
        lambda _: AIMessage("x", response_metadata={"stop_reason": "max_tokens"}),
        lambda _: AIMessage("", response_metadata={"finish_reason": "content_filter"}),
        lambda _: AIMessage("I'm sorry, but I can't help with that."),
        lambda _: AIMessage("[summary]"),
        lambda _: AIMessage("Error: connection refused"),
        lambda _: AIMessage("no full stop " * 200),
        fail,
    ],
)
@pytest.mark.parametrize("mode", ["sync", "async"])
def test_an_unusable_reply_leaves_the_summary_as_it_was(answer: Any, mode: str) -> None:
    node = RollingSummarizer(ScriptedModel(answer), BUDGET)
    state = {"messages": history(20), "memory": {"trim": {"start_id": "h1"}}}
    update = node.invoke(state) if mode == "sync" else asyncio.run(node.ainvoke(state))
    assert update == {
        "memory": {"trim": {"start_id": "h1"}, "summarize": {"failures": 1, "writes": 1}}
    }


def test_an_over_long_reply_is_asked_for_again_then_cut_between_sentences() -> None:
    long = " ".join(f"Sentence number {i} tells of a parcel." for i in range(40))
    model = ScriptedModel(long)
    update = RollingSummarizer(model, BUDGET).invoke({"messages": history(20)})
    assert len(model.prompts) == 2
    assert "too long" in str(model.prompts[1][0].content)
    assert update["summary"]["tokens"] <= 60
    assert long.startswith(update["summary"]["text"])
    assert update["summary"]["text"].endswith(".")


def test_without_a_model_the_telling_sentences_stay_through_many_folds() -> None:
    node = RollingSummarizer(None, ContextBudget(400, summary_tokens=70, recall_tokens=0))
    messages: list[BaseMessage] = [
        HumanMessage("Hello there! My order 48213 was due on 12 May.", id="h"),
        AIMessage("I see. Anything else?", id="a"),
    ]
    state: dict[str, Any] = {"messages": messages}
    folds = 0
    for i in range(60):
        messages += [
            HumanMessage(f"well, what else could we say, is that so? {i}", id=f"h{i}"),
            AIMessage("sure, fine with us", id=f"a{i}"),
        ]
        update = node.invoke(state)
        folds += "summary" in update
        state.update(update)
    assert folds >= 3
    assert "My order 48213 was due on 12 May." in state["summary"]["text"]
    assert state["summary"]["tokens"] <= 70


def test_sentences_are_cut_whole() -> None:
    count = len
    assert cut_sentences("One two. Three four. Five.", 20, count) == "One two. Three four."
    assert cut_sentences("One two three.", 5, count) == ""
    assert extract_summary("", [HumanMessage("One two three four five.")], 5, count) == ""


def test_a_backlog_is_folded_in_calls_of_bounded_size() -> None:
    model = ScriptedModel("They talked about parcels.")
    node = RollingSummarizer(model, BUDGET)
    state: dict[str, Any] = {"messages": history(100)}
    for _ in range(4):
        state.update(node.invoke(state))
    assert len(model.prompts) == 4
    assert all(BUDGET.count(prompt) < 900 for prompt in model.prompts)
    asked = "".join(str(prompt[-1].content) for prompt in model.prompts)
    folded = int(state["summary"]["through_id"][1:])
    assert all(asked.count(f"question number {n} about") == 1 for n in range(folded + 1))


@pytest.mark.parametrize(
    "reply",
    [
        AIMessage("Error 503 on checkout was reported by Ann, who waits for a refund of 40 euros."),
        AIMessage("Ann waits.", response_metadata={"finish_reason": "eos_token"}),
        AIMessage("<think>[hm]</think>Ann waits."),
    ],
)
def test_a_good_reply_is_kept(reply: AIMessage) -> None:
    update = RollingSummarizer(ScriptedModel(lambda _: reply), BUDGET).invoke(
        {"messages": history(20)}
    )
    assert update["summary"]["text"] == str(reply.content).removeprefix("<think>[hm]</think>")


def test_hostile_text_takes_no_time() -> None:
    # Each of these took seconds with a pattern that backtracks; the limit is generous.
    started = perf_counter()
    statements("I like " + "?" * 8000 + "a")
    sentences("Mr. Ab " * 8000)
    with pytest.raises(UnusableSummary):
        checked_reply(AIMessage("." * 8000))
    checked_reply(AIMessage("." * 8000 + "a"))
    assert perf_counter() - started < 5
