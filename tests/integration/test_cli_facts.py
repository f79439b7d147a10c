"""`memkit facts`, as it is called."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from langchain_core.messages import AnyMessage
from langgraph.channels.delta import DeltaChannel
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.graph.message import _messages_delta_reducer
from typing_extensions import TypedDict

from memkit import FactBook, SemanticStore
from memkit.cli import main
from memkit.facts import Fact
from memkit.local import embeddings
from memkit.state import merge_memory
from tests.fakes import Terminal
from tests.graphs import config, memory_graph, said

LONG_AGO = datetime.now(UTC) - timedelta(days=800)
FACTS = ("users", "ann@example%2Ecom", "facts")


class Delta(TypedDict):
    # A snapshot now and then, so that the test sees both forms of a checkpoint.
    messages: Annotated[
        list[AnyMessage], DeltaChannel(_messages_delta_reducer, snapshot_frequency=9)
    ]
    summary: dict[str, Any] | None
    recalled: list[dict[str, Any]]
    llm_input_messages: list[AnyMessage]
    memory: Annotated[dict[str, Any], merge_memory]


def test_consolidate_shows_asks_and_keeps_the_vectors(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    times = {"first_seen": LONG_AGO, "last_updated": LONG_AGO, "last_confirmed": LONG_AGO}
    with SemanticStore.open(dsn, embed=embeddings()) as store:
        book = FactBook(store, FACTS)
        texts = {"a": "I love green tea", "b": "I love the green tea"}
        store.batch(
            [book.put_of(Fact(text, key=key, **times)) for key, text in texts.items()]  # type: ignore[arg-type]
        )
    place = ["--dsn", dsn, "--user", "ann@example.com"]
    assert main(["facts", "consolidate", *place, "--dry-run", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert planned == {"merged": 1, "expired": 0, "over_cap": 0, "deleted": [], "done": False}
    assert main(["facts", "consolidate", *place, "--yes"]) == 1
    assert "384 dimensions" in capsys.readouterr().err
    assert main(["facts", "consolidate", *place, "--embeddings", "local"]) == 1
    assert "--yes" in capsys.readouterr().err  # there is no terminal to ask on
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    assert main(["facts", "consolidate", *place, "--embeddings", "local"]) == 0
    refused = capsys.readouterr().out
    assert "merge  I love the green tea\n  into I love green tea\n" in refused
    assert "nothing was changed (merged: 1, expired: 0, over cap: 0)" in refused
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main(["facts", "consolidate", *place, "--embeddings", "local", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] is True
    assert main(["facts", "consolidate", *place, "--embeddings", "nobody:knows"]) == 1
    assert "nobody:knows" in capsys.readouterr().err
    with SemanticStore.open(dsn, embed=embeddings()) as store:
        assert [f.status for f in FactBook(store, FACTS).all(status="current")] == ["current"]
        found = store.search(FACTS, query="What does she drink?", mode="vector")
        assert len(found) == 2
        assert all(item.score for item in found)


def test_a_store_without_vectors_needs_no_embeddings_and_what_goes_is_named(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"I collect the stamps of country number {n}" for n in range(30)]
    with SemanticStore.open(dsn, search_mode="text") as store:
        book = FactBook(store, FACTS)
        store.batch([book.put_of(Fact(t, key=t, last_updated=LONG_AGO)) for t in texts])
        store.batch([book.put_of(Fact("I sat", key="sat", status="retracted", valid_to=LONG_AGO))])
    limits = ["--dsn", dsn, "--user", "ann@example.com", "--max-per-kind", "5"]
    assert main(["facts", "consolidate", *limits, "--yes"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("delete I sat (retracted, statement, last confirmed never)\n")
    assert "... and 6 more\ndone (merged: 0, expired: 1, over cap: 25)\n" in told
    assert main(["facts", "consolidate", *limits]) == 0  # nothing to do, nothing to ask
    assert "nothing was changed" in capsys.readouterr().out
    with SemanticStore.open(dsn, search_mode="text") as store:
        assert len(FactBook(store, FACTS).all()) == 5


@pytest.mark.slow
def test_without_an_address_it_is_the_embedded_postgres(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMKIT_DATA_DIR", str(tmp_path))
    with SemanticStore.open() as store:
        store.setup()
        book = FactBook(store, FACTS)
        for text in ("I love green tea", "I love the green tea"):
            store.batch([book.put_of(Fact(text, key=text, last_updated=LONG_AGO))])
        assert main(["facts", "audit", "--user", "ann@example.com", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["duplicates"] == 1
        assert main(["facts", "consolidate", "--user", "ann@example.com", "--yes"]) == 0
        assert [item.score for item in store.search(FACTS, query="tea", mode="vector")] > [0, 0]


@pytest.mark.filterwarnings("ignore::langchain_core._api.LangChainBetaWarning")
def test_audit_finds_messages_in_a_delta_channel(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        PostgresSaver.from_conn_string(dsn) as saver,
        SemanticStore.open(dsn, search_mode="text") as store,
    ):
        saver.setup()
        graph = memory_graph(Delta, turns=False).compile(checkpointer=saver, store=store)
        for text in ("I love hiking in fog.", "I own a red boat."):
            graph.invoke({"messages": [said(text, "05-01")]}, config("t"))
    place = ["--dsn", dsn, "--user", "ann@example.com", "--json", "--checkpoints"]
    assert main(["facts", "audit", *place]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["current"], found["orphaned"], found["ungrounded"]) == (2, 0, 0)


def test_audit_looks_for_sources_among_turns_and_in_checkpoints(
    dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (
        PostgresSaver.from_conn_string(dsn) as saver,
        SemanticStore.open(dsn, search_mode="text") as store,
    ):
        saver.setup()
        graph = memory_graph(turns=False).compile(checkpointer=saver, store=store)
        graph.invoke({"messages": [said("I love hiking in fog.", "05-01")]}, config("t"))
    place = ["--dsn", dsn, "--user", "ann@example.com", "--json"]
    assert main(["facts", "audit", *place]) == 0
    assert json.loads(capsys.readouterr().out)["orphaned"] is None
    assert main(["facts", "audit", *place, "--checkpoints"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["current"], found["orphaned"], found["ungrounded"]) == (1, 0, 0)
    with SemanticStore.open(dsn, search_mode="text") as store:
        turn = {"text": "Ann: I row.", "source": {"thread_id": "x", "message_ids": ["y"]}}
        store.put((*FACTS[:-1], "turns"), "turn", turn)
    assert main(["facts", "audit", "--dsn", dsn, "--namespace", ",".join(FACTS)]) == 0
    told = capsys.readouterr().out
    assert "1 current facts of 1" in told
    assert "orphaned" in told
    assert "100.0%" in told


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--user", "a", "--namespace", "a,b"],
        ["--dsn", "postgresql://nowhere:1/x", "--user", "a"],
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(arguments: list[str]) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "memkit.cli",
            "facts",
            "audit",
            "--dsn",
            "host=/nowhere",
            *arguments,
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("memkit: error: ")
    assert done.stderr.count("\n") == 1
