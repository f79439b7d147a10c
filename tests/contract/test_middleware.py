"""MemoryMiddleware in agents that LangChain makes."""

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import (
    ContextEditingMiddleware,
    HumanInTheLoopMiddleware,
    ModelRetryMiddleware,
    PIIMiddleware,
    SummarizationMiddleware,
)
from langchain.agents.structured_output import ToolStrategy
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from langgraph.types import Command
from pydantic import BaseModel

from memkit import ContextBudget, SemanticStore, count_tokens
from memkit.effects import stable_key
from memkit.errors import BudgetTooSmall, ConfigError, StoreMissing
from memkit.factbook import FactBook
from memkit.middleware import MemoryMiddleware
from tests.fakes import HashEmbeddings
from tests.graphs import config
from tests.openai_server import completion, openai_server
from tests.scripted import ScriptedModel

BUDGET = ContextBudget(600)
ANN = "ann@example.com"


def called(name: str, **args: Any) -> AIMessage:
    call = {"name": name, "args": args, "id": f"call-{stable_key(name, args)[:6]}"}
    return AIMessage("", tool_calls=[{**call, "type": "tool_call"}])


@tool
def weather(city: str) -> str:
    """Say how the weather is."""
    return f"It rains in {city}. " * 20


def looks_up(prompt: Sequence[BaseMessage]) -> AIMessage:
    """Call a tool for a question, and answer when its result is there."""
    if isinstance(prompt[-1], ToolMessage):
        return AIMessage("It rains.")
    asked = [message for message in prompt if isinstance(message, HumanMessage)][-1]
    return (
        called("weather", city="Kiel") if "weather" in str(asked.content) else AIMessage("Noted.")
    )


def agent_of(model: Any, *middleware: Any, tools: Sequence[Any] = (weather,), **more: Any) -> Any:
    own = middleware or (MemoryMiddleware(budget=BUDGET),)
    given = {"store": InMemoryStore(), "checkpointer": InMemorySaver(), **more}
    return create_agent(model, list(tools), middleware=list(own), **given)


def invoke(agent: Any, asked: Any, to: Any, how: str = "sync") -> Any:
    turn = {"messages": [HumanMessage(asked)]} if isinstance(asked, str) else asked
    if how == "sync":
        return agent.invoke(turn, to)
    return asyncio.run(agent.ainvoke(turn, to))


def text_of(prompt: Sequence[BaseMessage]) -> str:
    return "\n".join(str(message.content) for message in prompt)


both = pytest.mark.parametrize("how", ["sync", "async"])


@both
def test_what_one_thread_tells_another_one_knows(how: str) -> None:
    model = ScriptedModel("Noted.")
    agent = agent_of(model)
    first = invoke(agent, "I live in Kiel.", config("t1"), how)
    assert set(first) == {"messages"}  # the rest is private
    assert "Kiel" not in text_of(model.prompts[0][:-1])
    second = invoke(agent, "Where do I live?", config("t2"), how)
    assert [m.content for m in second["messages"]] == ["Where do I live?", "Noted."]
    assert "I live in Kiel." in text_of(model.prompts[1][:-1])
    invoke(agent, "Where do I live?", config("t3", "bob@example.com"), how)
    assert "Kiel" not in text_of(model.prompts[2])
    state = agent.get_state(config("t2")).values
    assert [item["text"] for item in state["recalled"]] == ["I live in Kiel."]
    json.dumps({key: state[key] for key in ("recalled", "memory")})


@both
def test_one_recall_per_question_and_a_view_per_call(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched: list[Any] = []
    batch = InMemoryStore.batch

    def noted(self: Any, ops: Any) -> Any:
        ops = list(ops)
        searched.extend(op.query for op in ops if getattr(op, "query", None))
        return batch(self, ops)

    async def anoted(self: Any, ops: Any) -> Any:
        return noted(self, ops)

    monkeypatch.setattr(InMemoryStore, "batch", noted)
    monkeypatch.setattr(InMemoryStore, "abatch", anoted)
    model = ScriptedModel(looks_up)
    agent = agent_of(model)
    done = invoke(agent, "How is the weather?", config("t"), how)
    assert [type(m).__name__ for m in done["messages"]] == [
        "HumanMessage",
        "AIMessage",
        "ToolMessage",
        "AIMessage",
    ]
    assert len(model.prompts) == 2
    assert isinstance(model.prompts[1][-1], ToolMessage)
    assert searched == ["How is the weather?"]
    invoke(agent, "And the weather tomorrow?", config("t"), how)
    assert searched[1:] == ["And the weather tomorrow?"]


@both
def test_every_prompt_fits_and_the_history_stays_whole(how: str) -> None:
    """The system prompt, the tools, the summary and a tool loop are all in the budget."""
    budget = ContextBudget(700, reserve_reply=50, summary_tokens=80, recall_tokens=80)
    model = ScriptedModel(looks_up)
    memory = MemoryMiddleware(budget=budget)
    agent = agent_of(model, memory, system_prompt="You are brief. " * 10)
    room = 700 - 50 - ContextBudget(700, tools=[weather]).tool_tokens
    for n in range(12):
        asked = f"How is the weather on day {n}?" if n % 3 == 0 else f"I own {n} green umbrellas."
        invoke(agent, asked, config("t"), how)
    for prompt in model.prompts:
        assert count_tokens(prompt) <= room
        assert isinstance(prompt[0], SystemMessage)
        assert str(prompt[0].content).startswith("You are brief.")
        called_ids = {c["id"] for m in prompt if isinstance(m, AIMessage) for c in m.tool_calls}
        assert {m.tool_call_id for m in prompt if isinstance(m, ToolMessage)} == called_ids
    values = agent.get_state(config("t")).values
    people = [m.content for m in values["messages"] if isinstance(m, HumanMessage)]
    assert len(people) == 12
    assert "umbrellas" in values["summary"]["text"]
    assert "umbrellas" in text_of(model.prompts[-1][:2])  # the summary, behind the system prompt
    dropped = values["memory"]["trim"]["report"]["dropped"]
    assert dropped == 0, "the summarizer did not know how much room there is"


def test_what_cannot_fit_is_told() -> None:
    agent = agent_of(ScriptedModel("Noted."), system_prompt="You are brief. " * 300)
    with pytest.raises(BudgetTooSmall):
        invoke(agent, "Hello", config("t"))


def test_a_model_extracts_and_its_prompt_is_not_streamed() -> None:
    extracts = ScriptedModel(
        lambda _: AIMessage(
            json.dumps({"facts": [{"text": "The user lives in Kiel.", "message_ids": [1]}]})
        )
    )
    agent = agent_of(ScriptedModel("Noted."), MemoryMiddleware(extracts, BUDGET))
    chunks = list(
        agent.stream(
            {"messages": [HumanMessage("I live in Kiel.")]}, config("t"), stream_mode="messages"
        )
    )
    assert "Kiel" not in "".join(str(c.content) for c, _ in chunks if isinstance(c, AIMessage))
    book = FactBook.of_user(agent.store, ANN)
    assert [fact.text for fact in book.all()] == ["The user lives in Kiel."]


@both
def test_a_response_format_counts_and_works(how: str) -> None:
    class Answer(BaseModel):
        """What the user is told."""

        city: str

    model = ScriptedModel(lambda _: called("Answer", city="Kiel"))
    agent = agent_of(model, tools=(), response_format=ToolStrategy(Answer))
    done = invoke(agent, "Where do I live?", config("t"), how)
    assert done["structured_response"] == Answer(city="Kiel")
    assert agent.get_state(config("t")).values["memory"]["prompt"]["beside"] > 20


@both
def test_an_approval_in_between_neither_recalls_nor_extracts_again(how: str) -> None:
    model = ScriptedModel(looks_up)
    asks = HumanInTheLoopMiddleware(interrupt_on={"weather": True})
    store, saver = InMemoryStore(), InMemorySaver()

    def agent() -> Any:
        memory = MemoryMiddleware(budget=BUDGET, record_turns=True)
        return agent_of(model, memory, asks, store=store, checkpointer=saver)

    stopped = invoke(agent(), "I live in Kiel. How is the weather?", config("t"), how)
    assert stopped["__interrupt__"]
    book = FactBook.of_user(store, ANN)
    assert book.all() == []  # it has not answered yet
    resume: Any = Command(resume={"decisions": [{"type": "approve"}]})
    done = invoke(agent(), resume, config("t"), how)
    assert done["messages"][-1].content == "It rains."
    assert [fact.text for fact in book.all()] == ["I live in Kiel."]
    turns = store.search(("users", "ann@example%2Ecom", "turns"))
    assert len(turns) == 2


def test_a_crash_before_the_end_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    agent = agent_of(ScriptedModel("Noted."))
    with monkeypatch.context() as patch:
        patch.setattr(InMemoryStore, "batch", lambda *_: (_ for _ in ()).throw(OSError("away")))
        with pytest.raises(OSError, match="away"):
            invoke(agent, "I live in Kiel.", config("t"))
    agent.invoke(None, config("t"))
    agent.invoke(None, config("t"))
    assert [f.text for f in FactBook.of_user(agent.store, ANN).all()] == ["I live in Kiel."]


BESIDE: dict[str, Callable[[], Any]] = {
    "pii": lambda: PIIMiddleware("email", strategy="redact", apply_to_input=True),
    "editing": ContextEditingMiddleware,
    "retry": lambda: ModelRetryMiddleware(max_retries=1, initial_delay=0.0),
    "summarization": lambda: SummarizationMiddleware(
        ScriptedModel("They spoke."), trigger=("messages", 6), keep=("messages", 3)
    ),
}


@both
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("name", BESIDE)
def test_beside_other_middleware(name: str, first: bool, how: str) -> None:
    model = ScriptedModel(looks_up)
    chain = [MemoryMiddleware(budget=BUDGET), BESIDE[name]()]
    agent = agent_of(model, *(chain if first else reversed(chain)))
    asked = (
        "I live in Kiel, write to me at ann.person@example.com.",
        "How is the weather?",
        "I like tea.",
        "How is the weather today?",
    )
    for each in asked:
        invoke(agent, each, config("t"), how)
    facts = [fact.text for fact in FactBook.of_user(agent.store, ANN).all()]
    assert any("I live in Kiel" in fact for fact in facts)
    assert "I like tea." in facts
    if name == "pii":
        assert not any("ann.person@example.com" in fact for fact in facts)
    invoke(agent, "Where do I live?", config("t2"), how)
    assert "I live in Kiel" in text_of(model.prompts[-1][:-1])
    assert all(count_tokens(prompt) <= BUDGET.max_tokens for prompt in model.prompts)


@pytest.mark.parametrize("first", [True, False])
def test_a_retry_of_the_model_changes_nothing(first: bool) -> None:
    calls: list[int] = []

    def answer(_: Sequence[BaseMessage]) -> AIMessage:
        calls.append(1)
        if len(calls) == 1:
            raise ConnectionError("gone")
        return AIMessage("Noted.")

    retry = ModelRetryMiddleware(max_retries=2, initial_delay=0.0)
    chain: list[Any] = [MemoryMiddleware(budget=BUDGET), retry]
    agent = agent_of(ScriptedModel(answer), *(chain if first else reversed(chain)))
    done = invoke(agent, "I live in Kiel.", config("t"))
    assert [m.content for m in done["messages"]] == ["I live in Kiel.", "Noted."]
    assert len(calls) == 2
    assert len(FactBook.of_user(agent.store, ANN).all()) == 1


def test_its_events_are_on_the_custom_stream() -> None:
    agent = agent_of(ScriptedModel("Noted."))
    turn = {"messages": [HumanMessage("I live in Kiel.")]}
    events = [e["memkit"] for e in agent.stream(turn, config("t"), stream_mode="custom")]
    assert "extract" in events


def test_with_a_real_client_and_a_real_store(dsn: str) -> None:
    with (
        SemanticStore.open(dsn, embed=HashEmbeddings(64), dims=64) as store,
        openai_server(lambda _: completion("Noted.")) as (url, requests),
    ):
        store.setup()
        model = ChatOpenAI(model="gpt-4o-mini", base_url=url, api_key="none")  # type: ignore[arg-type]
        agent = agent_of(model, store=store)
        invoke(agent, "I live in Kiel.", config("t1", "carl"))
        invoke(agent, "Where do I live?", config("t2", "carl"))
        assert "I live in Kiel." in json.dumps(requests[-1])
        assert len(agent.get_state(config("t2", "carl")).values["messages"]) == 2


def test_what_is_missing_is_told() -> None:
    with pytest.raises(ConfigError, match="budget"):
        MemoryMiddleware()
    agent = agent_of(ScriptedModel("Noted."), store=None)
    with pytest.raises(StoreMissing):
        invoke(agent, "Hello", config("t"))
    with pytest.raises(ConfigError, match="user_id"):
        invoke(agent_of(ScriptedModel("Noted.")), "Hello", {"configurable": {"thread_id": "t"}})


def test_without_langchain_the_extra_is_named() -> None:
    code = (
        "import sys; sys.modules['langchain'] = None\n"
        "from memkit.errors import ConfigError\n"
        "try: import memkit.middleware\n"
        "except ConfigError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "memkit[agents]" in done.stdout
