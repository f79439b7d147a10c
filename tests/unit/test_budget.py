"""ContextBudget: what a model says of itself, tools, shares, and a counter of the user's own."""

import copy
import dataclasses
import pickle
from typing import Any

import pytest
from langchain_core.messages import BaseMessage, HumanMessage
from langchain_openai import ChatOpenAI

from memkit import ContextBudget, trim
from memkit.errors import ConfigError
from tests.scripted import ScriptedModel

LOOK = {
    "type": "function",
    "function": {
        "name": "look",
        "description": "Look something up.",
        "parameters": {"type": "object", "properties": {"q": {"type": "string"}}},
    },
}


def openai(model: str = "gpt-4o-mini") -> ChatOpenAI:
    return ChatOpenAI(model=model, api_key="none")  # type: ignore[arg-type]


def test_the_window_and_the_encoding_come_from_the_model() -> None:
    budget = ContextBudget(model=openai(), reserve_reply=1_000)
    assert budget.max_tokens == 128_000
    assert budget.high == 127_000
    assert budget.model == "gpt-4o-mini"
    assert budget.tokens.encoding_name == "o200k_base"
    assert ContextBudget(500, model=openai("gpt-4")).tokens.encoding_name == "cl100k_base"


def test_bound_tools_are_counted() -> None:
    without = ContextBudget(4_000, model=openai())
    bound = ContextBudget(4_000, model=openai().bind_tools([LOOK]).with_config(tags=["a"]))
    assert bound.tool_tokens == ContextBudget(4_000, tools=[LOOK]).tool_tokens > 20
    assert bound.high == without.high - bound.tool_tokens
    assert ContextBudget(4_000, model=openai().bind_tools([LOOK]), tools=[]).tool_tokens > 20


def test_a_model_that_does_not_say_its_window_needs_a_number() -> None:
    with pytest.raises(ConfigError, match="'unheard-of' does not say how many tokens it takes"):
        ContextBudget(model=openai("unheard-of"))
    with pytest.raises(ConfigError, match="profile of 'ScriptedModel'"):
        ContextBudget(model=ScriptedModel("yes"))
    assert ContextBudget(900, model=ScriptedModel("yes")).tokens.encoding_name == "o200k_base"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 100, "reserve_reply": 100}, "reserve_reply"),
        ({"max_tokens": 100, "low_water": 0}, "low_water"),
        ({"max_tokens": 100, "summary_tokens": -1}, "summary_tokens"),
        ({"max_tokens": 100, "on_overflow": "hope"}, "on_overflow"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "5"}, "max_tokens"),
        ({"max_tokens": 100, "reserve_reply": None}, "reserve_reply"),
        ({"max_tokens": 100, "recall_tokens": 1.5}, "recall_tokens"),
        ({"max_tokens": 100, "low_water": "0.6"}, "low_water"),
        ({"max_tokens": 100, "model": None}, "model"),
        ({"max_tokens": 100, "counter": "x"}, "counter"),
        ({"max_tokens": 100, "reserve_reply": 1.5}, "reserve_reply"),
        ({"max_tokens": 100, "reserve_reply": "5"}, "reserve_reply"),
        ({"max_tokens": 100, "summary_tokens": "x"}, "summary_tokens"),
        ({"max_tokens": 100, "low_water": None}, "low_water"),
        ({"max_tokens": 100, "low_water": True}, "low_water"),
        ({"max_tokens": 100, "low_water": float("nan")}, "low_water"),
        ({"max_tokens": 100, "model": 5}, "model"),
        ({"max_tokens": 100, "tools": "x"}, "tools"),
        ({"max_tokens": 100, "tools": None}, "tools"),
        ({"max_tokens": 100, "tools": [{"type": "function", "function": {}}]}, "no name"),
        ({"max_tokens": 100, "summary_tokens": 60, "recall_tokens": 60}, "leave nothing"),
        ({"max_tokens": 100, "reserve_reply": 50, "summary_tokens": 50}, "leave nothing"),
        ({}, "max_tokens must be a positive integer, got None"),
        ({"max_tokens": 100, "model": 4}, "model names the encoding to count with"),
        ({"max_tokens": 100, "clear_tool_results": -1}, "how many results to keep"),
        ({"max_tokens": 100, "clear_tool_results": True}, "how many results to keep"),
        ({"max_tokens": 100, "clear_tool_results": "search"}, "how many results to keep"),
        ({"max_tokens": 100, "clear_tool_results": {"search": 1.5}}, "how many results to keep"),
        ({"max_tokens": 100, "clear_tool_results": {3: 1}}, "how many results to keep"),
        ({"max_tokens": 100, "keep_tool_traffic": "no"}, "keep_tool_traffic is a bool"),
    ],
)
def test_a_budget_is_checked_when_built(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        ContextBudget(**arguments)


@pytest.mark.parametrize("counted", ["12", None, 3.5, -1])
def test_a_counter_that_returns_no_number_of_tokens(counted: Any) -> None:
    budget = ContextBudget(100, counter=lambda _: counted)
    with pytest.raises(ConfigError, match=r"counter is to return a number of tokens"):
        trim([HumanMessage("hi")], budget)


def test_a_counter_may_return_numbers_of_numpy() -> None:
    import numpy as np

    def counter(messages: list[BaseMessage]) -> Any:
        return np.int64(10 * len(messages))

    history: list[BaseMessage] = [HumanMessage(f"{i}", id=f"{i}") for i in range(20)]
    assert len(trim(history, ContextBudget(100, counter=counter, low_water=1.0))) == 10


def test_budgets_can_be_copied_and_sent_to_other_processes() -> None:
    budget = ContextBudget(4_000, model=openai(), tools=[LOOK], clear_tool_results={"look": 2})
    for other in (copy.deepcopy(budget), pickle.loads(pickle.dumps(budget))):  # noqa: S301
        assert other == budget
        assert other.high == budget.high
    assert dataclasses.replace(budget, max_tokens=2_000).high == budget.high - 2_000
