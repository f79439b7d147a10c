"""No turn is lost, folded twice or cut, whatever the model does; on prefixes of conversations."""

import asyncio
import itertools
import pickle
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage

from memkit import ContextBudget, RollingSummarizer, TokenTrimmer
from memkit.errors import BudgetTooSmall
from memkit.messages import text_of
from memkit.summary import covered_until
from tests.conversations import assert_valid, conversations, model_calls
from tests.property.test_view import latest, many
from tests.scripted import ScriptedModel

GOOD = "They spoke of orders and parcels. One is on its way."


def good(_: Sequence[BaseMessage]) -> AIMessage:
    return AIMessage(GOOD)


def hangs(_: Sequence[BaseMessage]) -> AIMessage:
    raise TimeoutError("no answer within 30 s")


def breaks(_: Sequence[BaseMessage]) -> AIMessage:
    raise ConnectionError("connection reset")


def says(text: str, **metadata: Any) -> Any:
    return lambda _: AIMessage(text, response_metadata=metadata)


behaviours = [
    good,
    hangs,
    breaks,
    says(""),
    says("\n \t"),
    says("[summary]"),
    says("Error: rate limit reached"),
    says("I'm sorry, I cannot help with that."),
    says("They spoke of orders, and the", finish_reason="length"),
    says(" ".join(f"Sentence {n} of a record that never ends." for n in range(400))),
    says("no full stop in sight " * 800),
]

budgets = st.builds(
    lambda tokens, low, keep, clear: ContextBudget(
        tokens,
        low_water=low,
        summary_tokens=80,
        keep_tool_traffic=keep,
        clear_tool_results=clear,
    ),
    st.integers(300, 900) | st.integers(900, 4_000),
    st.sampled_from([0.3, 0.6]),
    st.booleans(),
    st.sampled_from([None, 1]),
)


class Thread:
    """A conversation that goes through the summarizer and the trimmer, as in a graph."""

    def __init__(self, model: ScriptedModel | None, budget: ContextBudget, window: int) -> None:
        self.budget = budget
        self.summarizer = RollingSummarizer(model, budget, window_tokens=window)
        self.trimmer = TokenTrimmer(budget)
        self.state: dict[str, Any] = {"memory": {}, "summary": None}

    def turn(self, messages: list[BaseMessage], *, asynchronous: bool = False) -> bool:
        """Add what is new, and return whether the latest turn fits."""
        self.state["messages"] = messages
        update = (
            asyncio.run(self.summarizer.ainvoke(self.state))
            if asynchronous
            else self.summarizer.invoke(self.state)
        )
        self.state |= update
        try:
            self.state |= self.trimmer.invoke(self.state)
        except BudgetTooSmall:
            return False
        return True

    @property
    def covered(self) -> int:
        memory = self.state["memory"]
        return covered_until(
            self.state["messages"], self.state["summary"], memory.get("summarize", {})
        )

    @property
    def kept(self) -> bytes:
        return pickle.dumps((self.state["summary"], self.state["memory"]))


@many
@given(
    conversations(max_turns=12),
    budgets,
    st.lists(st.sampled_from(behaviours), min_size=1, max_size=12),
    st.sampled_from([500, 2_000, 8_000]),
    st.booleans(),
)
def test_every_message_is_shown_or_folded_once_or_waits(
    messages: list[BaseMessage],
    budget: ContextBudget,
    answers: list[Any],
    window: int,
    asynchronous: bool,
) -> None:
    script = itertools.cycle(answers)

    def answer(prompt: Sequence[BaseMessage]) -> AIMessage:
        reply: AIMessage = next(script)(prompt)
        return reply

    model = ScriptedModel(answer)
    thread = Thread(model, budget, window)
    before = 0
    for prefix in model_calls(messages):
        asked = len(model.prompts)
        previous = thread.state["summary"]
        fits = thread.turn(prefix, asynchronous=asynchronous)
        covered = thread.covered
        # The record only moves on, by whole turns, and never to the latest.
        assert before <= covered <= latest(prefix)
        assert covered in (0, before) or isinstance(prefix[covered], HumanMessage | SystemMessage)
        summary = thread.state["summary"]
        if covered == before:
            assert summary == previous
        else:
            assert budget.count_text(summary["text"]) <= budget.summary_limit
            assert not summary["text"].startswith(("Error", "I'm sorry", "["))
            news = "".join(text_of(prompt[-1]) for prompt in model.prompts[asked:])
            said = "".join(news.split())
            for message in prefix[before:covered]:
                if isinstance(message, HumanMessage):
                    text = "".join(text_of(message).split())
                    assert text[:40] in said
        before = covered
        if not fits:
            continue
        shown = {m.id for m in thread.state["llm_input_messages"]}
        assert_valid(thread.state["llm_input_messages"])
        assert budget.count(thread.state["llm_input_messages"]) <= budget.high
        report = thread.state["memory"]["trim"]["report"]
        rest = [m for m in prefix[covered:] if not isinstance(m, SystemMessage)]
        aside = report["set_aside"] if budget.keep_tool_traffic is False else 0
        missing = [m for m in rest if m.id not in shown]
        assert len(missing) <= report["dropped"] + aside + report["orphaned"]
        assert len(thread.kept) < 4_000


@many
@given(conversations(max_turns=8), budgets, st.sampled_from([500, 8_000]), st.booleans())
def test_a_replay_changes_nothing_and_a_second_visit_has_nothing_to_do(
    messages: list[BaseMessage], budget: ContextBudget, window: int, extractive: bool
) -> None:
    model = None if extractive else ScriptedModel(good)
    thread = Thread(model, budget, window)
    for prefix in model_calls(messages):
        given_state = {**thread.state, "messages": prefix}
        first = thread.summarizer.invoke(given_state)
        again = thread.summarizer.invoke(given_state)
        for update in (first, again):
            if "summary" in update:
                update["summary"] = {**update["summary"], "updated_at": ""}
        assert first == again
        thread.state = {**given_state, **first}
        assert thread.summarizer.invoke(thread.state) == {}


@many
@given(conversations(max_turns=10), budgets, st.integers(1, 6))
def test_what_waited_is_folded_once_the_model_answers(
    messages: list[BaseMessage], budget: ContextBudget, outage: int
) -> None:
    script = itertools.chain(itertools.repeat(hangs, outage), itertools.repeat(good))

    def answer(prompt: Sequence[BaseMessage]) -> AIMessage:
        return next(script)(prompt)

    model = ScriptedModel(answer)
    thread = Thread(model, budget, 8_000)
    for prefix in model_calls(messages):
        thread.turn(prefix)
    # After the turns that it waits; short ones, until the model is asked and all is folded.
    for n in range(150):
        prefix = [*prefix, AIMessage(f"Yes {n}.", id=f"y{n}"), HumanMessage("And?", id=f"x{n}")]
        fits = thread.turn(prefix)
    if fits and len(model.prompts) > outage:
        assert thread.state["memory"]["trim"]["report"]["dropped"] == 0


@many
@given(
    st.lists(st.tuples(st.integers(0, 3), st.sets(st.integers(0, 60), max_size=5)), max_size=40),
    st.sampled_from([260, 400]),
)
def test_whatever_people_remove_no_turn_is_folded_twice_and_none_falls_between(
    edits: list[tuple[int, set[int]]], tokens: int
) -> None:
    model = ScriptedModel(good)
    thread = Thread(model, ContextBudget(tokens, summary_tokens=80, recall_tokens=0), 8_000)
    messages: list[BaseMessage] = []
    for n, (more, gone) in enumerate(edits):
        # Prefer what lies where the record ends: that is where a place can get lost.
        near = thread.covered if messages else 0
        taken = {near - 3 + i for i in gone if i < 6} | gone
        messages = [m for i, m in enumerate(messages) if i not in taken]
        for k in range(more + 1):
            messages += [
                HumanMessage(
                    f"Remark {n}-{k}. of mine about nothing in particular", id=f"h{n}-{k}"
                ),
                AIMessage("I see, that is how it is then.", id=f"a{n}-{k}"),
            ]
        messages = [*messages, HumanMessage(f"Remark {n}-x. is the latest", id=f"x{n}")]
        assert thread.turn(messages)
        news = "".join(text_of(prompt[-1]).split("New turns:")[1] for prompt in model.prompts)
        shown = {m.id for m in thread.state["llm_input_messages"]}
        for message in messages:
            if isinstance(message, HumanMessage):
                mark = text_of(message).split(". ")[0] + "."
                assert news.count(mark) <= 1, "folded twice"
                # Both where a turn lost its end, at which the record ended, and is shown whole.
                deferred = thread.state["memory"]["trim"]["report"]["dropped"]
                assert message.id in shown or news.count(mark) == 1 or deferred, "falls between"
    while thread.state["memory"].get("trim", {"report": {"dropped": 0}})["report"]["dropped"]:
        before = len(model.prompts)
        messages = [
            *messages,
            AIMessage("Yes.", id=f"y{before}"),
            HumanMessage("And?", id=f"z{before}"),
        ]
        thread.turn(messages)
        assert len(model.prompts) > before, "what was deferred is folded on the next turn"
