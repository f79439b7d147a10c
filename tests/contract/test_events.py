"""Every event on the custom stream is one of memkit.events, and none holds what anybody said."""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any, get_args, get_type_hints

import pytest
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.messages import AIMessage, HumanMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.func import entrypoint
from langgraph.graph import END, START, StateGraph
from langgraph.store.memory import InMemoryStore
from pydantic import TypeAdapter

from memkit import (
    ContextBudget,
    FactConsolidator,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    Retention,
    RollingSummarizer,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
    events,
)
from tests.fakes import HashEmbeddings
from tests.graphs import POLICY, config, reply, said
from tests.scripted import ScriptedModel

KINDS: dict[str, Any] = {
    get_args(get_type_hints(kind)["memkit"])[0]: kind for kind in get_args(events.MemkitEvent)
}
BUDGET = ContextBudget(320, summary_tokens=60, recall_tokens=110)
WORD = "Zanzibar"
TURNS = [
    said(f"I live at 14 {WORD} Street in Leipzig. My card is 4111 1111 1111 1111.", "01-10"),
    said(f"I love {WORD} tea. " + f"It is about {WORD} again and again. " * 12, "01-11"),
    said(f"I love {WORD} hills. " + f"It is about {WORD} again and again. " * 12, "01-12"),
    said(f"I love {WORD} music. " + f"It is about {WORD} again and again. " * 12, "01-13"),
    said(f"I live at 14 {WORD} Street in Leipzig. Shall we go on about {WORD}?", "01-14"),
    said(f"I moved to 3 {WORD} Road in Kiel. " + f"It is {WORD} again. " * 12, "01-15"),
    said(f"I am no longer living in {WORD}. Where do I live?", "09-01"),
]


class Broken(BaseDocumentCompressor):
    """A reranker whose error quotes what it was given."""

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Any = None
    ) -> Sequence[Document]:
        raise TimeoutError(f"no answer to {query!r}")


def memory_store() -> InMemoryStore:
    embed = HashEmbeddings()
    return InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})


def summaries() -> ScriptedModel:
    """A model that fails first, with an error that quotes what it was asked."""
    calls = iter(range(1_000))

    def answer(prompt: Sequence[Any]) -> AIMessage:
        if next(calls) == 0:
            raise ValueError(f"cannot summarize {prompt[-1].content!r}")
        return AIMessage(f"They talk about {WORD}.")

    return ScriptedModel(answer)


def app(store: InMemoryStore) -> Any:
    nodes = {
        "look up": MemoryRecall(sources=("facts", "turns"), reranker=Broken()),
        "verify": StaleFactCheck(POLICY),
        "summarize": RollingSummarizer(summaries(), BUDGET, destructive=True),
        "trim": TokenTrimmer(BUDGET),
        "respond": reply,
        "remember": FactExtractor(None),
        "record": TurnRecorder(),
        "consolidate": FactConsolidator(max_per_kind=2),
        "retain": Retention(keep_last=1, every=1),
    }
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    for name, node in nodes.items():
        builder.add_node(name, node)  # type: ignore[call-overload]
    for before, after in zip([START, *nodes], [*nodes, END], strict=True):
        builder.add_edge(before, after)
    return builder.compile(checkpointer=InMemorySaver(), store=store)


def played(mode: str) -> list[Any]:
    graph = app(memory_store())

    async def stream(turn: HumanMessage) -> list[Any]:
        parts = graph.astream({"messages": [turn]}, config("t"), stream_mode="custom")
        return [part async for part in parts]

    if mode == "async":
        return [event for turn in TURNS for event in asyncio.run(stream(turn))]
    return [
        event
        for turn in TURNS
        for event in graph.stream({"messages": [turn]}, config("t"), stream_mode="custom")
    ]


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_all_nodes_together_send_every_event_as_it_is_documented(mode: str) -> None:
    found = played(mode)
    assert {event["memkit"] for event in found} == set(KINDS)
    for event in found:
        kind = KINDS[event["memkit"]]
        assert set(event) == set(kind.__annotations__)
        TypeAdapter(kind).validate_python(event, strict=True)
        told = json.dumps(event)
        assert json.loads(told) == event
        assert len(told) < 2_000
        for secret in (WORD, "4111 1111", "Leipzig", "ann@example.com"):
            assert secret not in told, event


def test_the_numbers_are_those_of_the_turn() -> None:
    by_kind: dict[str, list[Any]] = {}
    for event in played("sync"):
        by_kind.setdefault(event["memkit"], []).append(event)
    assert [e["node"] for e in by_kind["recall"]] == ["look up"] * len(TURNS)
    for event in by_kind["recall"]:
        assert event["memories"] == event["facts"] + event["turns"]
        assert event["ms"] > 0
    cut = [e for e in by_kind["trim"] if e["tokens_before"] > e["max_tokens"]]
    assert cut  # while the summarizer's model failed
    assert sum(e["cut_turns"] for e in cut) > 0
    for event in by_kind["trim"]:
        assert event["tokens"] <= event["max_tokens"] == BUDGET.high
        assert event["tokens_before"] >= event["tokens"]
        assert (event["cut_turns"] > 0) == bool(event["dropped"])
        assert not event["dropped"] or event in cut
    failed = {(e["what"], e["error"]) for e in by_kind["failed"]}
    assert failed == {("summary", "ValueError"), ("reranker", "TimeoutError")}
    folds = by_kind["summarize"]
    assert [e["tokens_before"] for e in folds[1:]] == [e["tokens"] for e in folds[:-1]]
    gone = [one for e in by_kind["remove"] for one in e["removed"]]
    assert gone == list(dict.fromkeys(gone))
    assert set(gone) <= {one for e in folds for one in e["folded"]}
    assert sum(e["redacted"] for e in by_kind["record"]) == 1
    assert by_kind["verify"][-1]["stale"]
    totals = {
        name: sum(e[name] for e in by_kind["extract"])
        for name in ("messages", "accepted", "add", "confirm", "supersede", "retract")
    }
    assert totals["messages"] == len(TURNS)
    assert totals["confirm"] == totals["supersede"] == 1
    changes = sum(totals[name] for name in ("add", "confirm", "supersede", "retract"))
    assert changes <= totals["accepted"]  # a retraction of nothing changes nothing
    refused = [e["refused"] for e in by_kind["extract"] if e["refused"]]
    assert refused == [{"secrets": 1}]


def test_a_first_cut_of_a_long_history_tells_that_it_did_not_fit() -> None:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    builder.add_node("trim", TokenTrimmer(BUDGET))
    builder.add_edge(START, "trim")
    turns: list[Any] = [HumanMessage(f"Message number {n}.", id=str(n)) for n in range(500)]
    (event,) = builder.compile().stream({"messages": turns}, stream_mode="custom")
    assert event["tokens_before"] > BUDGET.high >= event["tokens"]
    assert event["cut_turns"] == len(event["dropped"]) > 400


def test_a_function_sends_them_too_and_where_nobody_listens_nothing_breaks() -> None:
    turns = [HumanMessage("hi", id="1"), AIMessage("hello", id="2")]
    trimmer = TokenTrimmer(BUDGET)

    @entrypoint()
    def functional(messages: list[Any]) -> Any:
        return len(trimmer.invoke({"messages": messages})["llm_input_messages"])

    assert functional.invoke(turns) == 2
    sent = list(functional.stream(turns, stream_mode="custom"))
    assert [event["memkit"] for event in sent] == ["trim"]
    assert len(trimmer.invoke({"messages": turns})["llm_input_messages"]) == 2
    assert len(asyncio.run(trimmer.ainvoke({"messages": turns}))["llm_input_messages"]) == 2
    graph = app(memory_store())
    for turn in TURNS:
        graph.invoke({"messages": [turn]}, config("t"))


def test_the_table_names_every_event() -> None:
    table = re.findall(r"^\| `(\w+)` \|", events.__doc__ or "", re.MULTILINE)
    assert table == list(KINDS)
