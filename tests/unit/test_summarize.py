"""RollingSummarizer: what is folded, and which replies never become the summary."""

import asyncio
from time import perf_counter
from typing import Any

import pytest
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage

from memkit import ContextBudget, RollingSummarizer, context
from memkit.errors import ConfigError
from memkit.facts.rules import statements
from memkit.summary import (
    UnusableSummary,
    checked_reply,
    covered_until,
    cut_sentences,
    parts,
    place_of,
)
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
    node = RollingSummarizer(model, BUDGET)
    first = node.invoke({"messages": history(3)})
    # A destructive trimmer is to know that it is there.
    assert first == {"memory": {"summarize": {"failures": 0, "writes": 1}}}
    assert node.invoke({"messages": history(3), **first}) == {}
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
    assert update.keys() == {"memory"}
    assert update["memory"]["trim"] == {"start_id": "h1"}
    entry = update["memory"]["summarize"]
    assert (entry["failures"], entry["wait"], entry["writes"]) == (1, 0, 1)
    assert "next_id" not in entry


def test_after_failures_it_waits_longer_and_longer_and_then_goes_on() -> None:
    works = False

    def sometimes(_: Any) -> AIMessage:
        if not works:
            raise TimeoutError
        return AIMessage("They talked about parcels.")

    model = ScriptedModel(sometimes)
    node = RollingSummarizer(model, BUDGET)
    state: dict[str, Any] = {"messages": history(20)}
    asked = []
    for turn in range(60):
        before = len(model.prompts)
        state.update(node.invoke(state))
        if len(model.prompts) > before:
            asked.append(turn)
    assert asked == [0, 1, 3, 7, 15, 31, 47]
    works = True
    for _ in range(16):
        state.update(node.invoke(state))
    assert state["summary"]["text"] == "They talked about parcels."
    assert state["memory"]["summarize"]["failures"] == 0


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


def test_a_fold_takes_one_call_unless_it_exceeds_the_models_window() -> None:
    model = ScriptedModel("They talked about parcels.")
    state: dict[str, Any] = {"messages": history(100)}
    one = RollingSummarizer(model, BUDGET, window_tokens=10_000).invoke(state)
    assert len(model.prompts) == 1

    model = ScriptedModel("They talked about parcels.")
    many = RollingSummarizer(model, BUDGET, window_tokens=1_300).invoke(state)
    assert 2 < len(model.prompts) < 6
    assert all(BUDGET.count(prompt) < 1_300 for prompt in model.prompts)
    assert many["summary"]["through_id"] == one["summary"]["through_id"]
    asked = "".join(str(prompt[-1].content) for prompt in model.prompts)
    folded = int(many["summary"]["through_id"][1:])
    assert all(asked.count(f"question number {n} about") == 1 for n in range(folded + 1))


def test_a_fold_that_fails_halfway_keeps_what_was_done() -> None:
    calls = iter(range(100))

    def second_fails(_: Any) -> AIMessage:
        return AIMessage("" if next(calls) == 1 else "They talked about parcels.")

    model = ScriptedModel(second_fails)
    node = RollingSummarizer(model, BUDGET, window_tokens=1_300)
    state: dict[str, Any] = {"messages": history(100)}
    state.update(node.invoke(state))
    half = int(state["summary"]["through_id"][1:])
    assert 0 < half < 90
    assert state["memory"]["summarize"]["failures"] == 1
    state.update(node.invoke(state))
    assert int(state["summary"]["through_id"][1:]) > half
    asked = "".join(str(prompt[-1].content) for prompt in model.prompts)
    assert asked.count(f"question number {half} about") == 1
    assert asked.count(f"question number {half + 1} about") == 2, "asked again after the failure"


def test_a_giant_message_is_folded_in_pieces() -> None:
    facts = [f"Item {n} is stored in hall {n % 7} of the warehouse." for n in range(300)]
    giant = [
        HumanMessage(" ".join(facts), id="h"),
        AIMessage("Noted.", id="a"),
        *history(9),
    ]
    model = ScriptedModel("A list of items and their halls.")
    budget = ContextBudget(6_000, low_water=0.05, summary_tokens=60, recall_tokens=0)
    node = RollingSummarizer(model, budget, window_tokens=1_500)
    assert "summary" not in node.invoke({"messages": giant})
    tight = ContextBudget(3_000, low_water=0.05, summary_tokens=60, recall_tokens=0)
    update = RollingSummarizer(model, tight, window_tokens=1_500).invoke({"messages": giant})
    assert len(model.prompts) > 3
    assert all(tight.count(prompt) < 1_500 for prompt in model.prompts)
    asked = " ".join(str(prompt[-1].content) for prompt in model.prompts)
    for fact in facts:
        assert fact in asked or fact.split(" of ")[0].split()[1] in asked
    assert update["summary"]["through_id"] in {f"a{n}" for n in range(9)} | {"a"}


def test_parts_hold_every_turn_once() -> None:
    messages = history(50)
    found = parts(messages, 2, 80, 60, BUDGET.count_text)
    text = "\n".join(part.text for part in found)
    assert [f"question number {n} about" in text for n in range(50)] == [
        0 < n < 40 for n in range(50)
    ]
    ends = [part.end for part in found]
    assert ends[-1] == 80
    assert all(end is not None and end % 2 == 0 for end in ends)
    assert all(BUDGET.count_text(part.text) <= 60 for part in found)


def test_the_place_is_found_again_when_its_message_is_gone() -> None:
    messages = history(20)
    summary = {"text": "So far.", "through_id": "a9"}
    place = place_of(messages, 20)
    assert covered_until(messages, summary, place) == 20
    without = [m for m in messages if m.id != "a9"]
    assert covered_until(without, summary, place) == 19
    assert without[19].id == "h10"
    # The first message that is not covered is gone too: the ones before it show the place.
    without = [m for m in messages if m.id not in {"a9", "h10", "a10"}]
    assert without[covered_until(without, summary, place)].id in {"h9", "h11"}
    # Everything that was covered is gone: nothing of what is left is covered.
    assert covered_until(messages[20:], summary, place) == 0
    assert covered_until(messages[24:], summary, place) == 0
    assert covered_until(messages, None, place) == 0


def test_behind_a_reply_it_works_ahead_so_that_nobody_waits() -> None:
    model = ScriptedModel("They talked about parcels.")
    node = RollingSummarizer(model, BUDGET, work_ahead=0.7)
    state: dict[str, Any] = {"messages": []}
    waited = worked = 0
    for n in range(60):
        state["messages"] = [*state["messages"], history(n + 1)[-2]]
        before = len(model.prompts)
        state.update(node.invoke(state))
        waited += len(model.prompts) - before
        state["messages"] = [*state["messages"], history(n + 1)[-1]]
        before = len(model.prompts)
        state.update(node.invoke(state))
        worked += len(model.prompts) - before
        last = int(state["summary"]["through_id"][1:]) if state.get("summary") else -1
        assert last < n, "the latest turn is never folded"
    assert (waited, worked > 3) == (0, True)


def test_no_turn_is_folded_before_its_facts_are_extracted() -> None:
    model = ScriptedModel("They talked about parcels.")
    messages = history(20)
    node = RollingSummarizer(model, BUDGET, after_extraction=True, backlog_tokens=400)
    read = {"extract": {"through_id": "a3", "recent": []}}
    update = node.invoke({"messages": messages, "memory": read})
    assert update["summary"]["through_id"] == "a3"
    # Nothing was read for long: the backlog has a bound.
    update = node.invoke({"messages": history(60), "memory": read})
    assert int(update["summary"]["through_id"][1:]) > 20
    all_read = {"extract": {"through_id": "a19", "recent": []}}
    update = node.invoke({"messages": messages, "memory": all_read})
    assert int(update["summary"]["through_id"][1:]) > 3


def test_what_it_cost_is_in_the_state() -> None:
    usage: Any = {"input_tokens": 70, "output_tokens": 9, "total_tokens": 79}

    def answer(_: Any) -> AIMessage:
        return AIMessage("They talked.", usage_metadata=usage)

    node = RollingSummarizer(ScriptedModel(answer), BUDGET)
    state: dict[str, Any] = {"messages": history(20)}
    state.update(node.invoke(state))
    state["messages"] = history(40)
    state.update(node.invoke(state))
    assert state["memory"]["summarize"]["usage"] == {
        "calls": 2,
        "input_tokens": 140,
        "output_tokens": 18,
    }


@pytest.mark.parametrize(
    "arguments",
    [
        {"style": "poem"},
        {"work_ahead": 0},
        {"work_ahead": True},
        {"window_tokens": 0},
        {"backlog_tokens": "many"},
        {"after_extraction": 1},
        {"destructive": None},
        {"embeddings": "minilm"},
    ],
)
def test_arguments_are_checked_when_the_node_is_built(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        RollingSummarizer(None, BUDGET, **arguments)


@pytest.mark.parametrize(
    ("style", "says"), [("sections", "headings"), ("text", "without headings")]
)
def test_the_record_is_asked_for_in_a_form_and_in_the_language(style: Any, says: str) -> None:
    model = ScriptedModel("They talked.")
    RollingSummarizer(model, BUDGET, style=style).invoke({"messages": history(20)})
    instruction = str(model.prompts[0][0].content)
    assert says in instruction
    assert "language of the conversation" in instruction
    assert "$" not in instruction


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


def test_a_picture_is_mentioned_to_the_model() -> None:
    picture: Any = {
        "type": "image_url",
        "image_url": {"url": "https://x.org/a.png", "detail": "low"},
    }
    shown = HumanMessage([{"type": "text", "text": "My cellar:"}, picture, picture], id="p")
    model = ScriptedModel("Ann showed her cellar.")
    RollingSummarizer(model, BUDGET).invoke({"messages": [shown, *history(14)]})
    assert "user: My cellar: [image] [image]\n" in str(model.prompts[0][-1].content)
