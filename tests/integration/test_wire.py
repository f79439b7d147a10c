"""The nodes with a real chat-model client, against an OpenAI-compatible server."""

import json
from typing import Any

from langchain_core.messages import HumanMessage
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.store.memory import InMemoryStore
from pydantic import SecretStr

from tests.fakes import HashEmbeddings
from tests.graphs import BUDGET, config, memory_graph
from tests.openai_server import completion, openai_server


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Reply as a model would to an extraction, a summary, and a conversation."""
    system = str(request["messages"][0]["content"])
    if "response_format" in request:
        assert request["response_format"]["type"] == "json_schema"
        text = str(request["messages"][-1]["content"])
        fact = {
            "text": "The user moved to 3 Harbour Road in Hamburg.",
            "kind": "address",
            "attribute": "home_address",
            "message_ids": ["1"],
        }
        return completion(json.dumps({"facts": [fact] if "Harbour" in text else []}))
    if "running record" in system:
        return completion("The user moved to 3 Harbour Road in Hamburg and bought parcels.")
    return completion("Noted, thank you.")


def build(url: str) -> tuple[Any, InMemoryStore]:
    model = ChatOpenAI(model="test", base_url=url, api_key=SecretStr("none"), max_retries=0)

    def respond(state: dict[str, Any]) -> dict[str, Any]:
        return {"messages": [model.invoke(state["llm_input_messages"])]}

    embed = HashEmbeddings()
    store = InMemoryStore(index={"embed": embed, "dims": embed.dims, "fields": ["text"]})
    graph = memory_graph(model=model, respond=respond, turns=False)
    return graph.compile(checkpointer=InMemorySaver(), store=store), store


def test_a_model_summarizes_extracts_and_replies_over_the_wire() -> None:
    with openai_server(answer) as (url, requests):
        graph, store = build(url)
        tokens = []
        for text in ["I moved to 3 Harbour Road in Hamburg."] + [
            f"Parcel number {n} came in the morning, and it was blue." for n in range(14)
        ]:
            for chunk, meta in graph.stream(
                {"messages": [HumanMessage(text)]}, config("t"), stream_mode="messages"
            ):
                tokens.append((meta["langgraph_node"], chunk.content))
        values = graph.get_state(config("t")).values
        (fact,) = store.search(("users", "ann@example%2Ecom", "facts"))
        assert fact.value["attribute"] == "home_address"
        assert values["summary"]["text"].startswith("The user moved")
        # The summarizer's and extractor's words never reach the user's stream.
        assert not [text for node, text in tokens if node in ("summarize", "remember")]
        assert "".join(text for node, text in tokens if node == "respond").startswith(
            "Noted, thank"
        )
        replies = [r for r in requests if "response_format" not in r]
        replies = [r for r in replies if "running record" not in str(r["messages"][0]["content"])]
        assert len(replies) == 15
        # What goes over the wire is a valid prompt, and none of our bookkeeping.
        for request in replies:
            assert request["messages"][-1]["role"] == "user"
            assert {key for m in request["messages"] for key in m} <= {"role", "content", "name"}
        assert BUDGET.count(values["llm_input_messages"]) <= BUDGET.max_tokens


def test_a_server_that_fails_stops_no_conversation() -> None:
    def broken(request: dict[str, Any]) -> dict[str, Any] | int:
        system = str(request["messages"][0]["content"])
        return (
            500 if "response_format" in request or "running record" in system else answer(request)
        )

    with openai_server(broken) as (url, _):
        graph, store = build(url)
        for n in range(12):
            text = f"Parcel number {n} came in the morning, and it was blue."
            graph.invoke({"messages": [HumanMessage(text)]}, config("t"))
        values = graph.get_state(config("t")).values
        assert len(values["messages"]) == 24
        assert values.get("summary") is None
        assert values["memory"]["summarize"]["failures"] >= 1
        assert store.search(("users", "ann@example%2Ecom", "facts")) == []
