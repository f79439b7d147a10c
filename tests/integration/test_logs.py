"""Logs hold no secrets at any level, and nothing that was said; errors hold no passwords."""

import logging
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage
from langgraph.checkpoint.sqlite import SqliteSaver
from langgraph.graph import END, START, StateGraph
from psycopg.conninfo import make_conninfo

from memkit import (
    ContextBudget,
    FactBook,
    FactConsolidator,
    FactExtractor,
    MemoryRecall,
    MemoryState,
    RollingSummarizer,
    SemanticStore,
    StaleFactCheck,
    TokenTrimmer,
    TurnRecorder,
    checkpoints,
    privacy,
)
from memkit.checkpoints.schedule import prune_every
from memkit.cli import main
from memkit.errors import MemkitError
from tests.contract.test_events import Broken
from tests.fakes import HashEmbeddings
from tests.graphs import POLICY, config, reply, said
from tests.savers import sync_saver
from tests.scripted import ScriptedModel, facts_reply

CARD, PASSWORD, DSN_PASSWORD = "4111 1111 1111 1111", "swordfish7", "tr0ub4dor"
WORDS = ("Zanzibar", "Linden", "ann@example.com")
BUDGET = ContextBudget(320, summary_tokens=60, recall_tokens=110)
USER = "user-one-77"


def quoting(prompt: Sequence[Any]) -> AIMessage:
    """Fail with what was asked, refuse with it, or answer."""
    asked = str(prompt[-1].content)
    calls = quoting.__dict__["calls"] = quoting.__dict__.get("calls", 0) + 1
    if calls % 3 == 1:
        raise ValueError(f"400: {asked}")
    if calls % 3 == 2:
        return AIMessage(f"I cannot help with {asked}")
    text = f"I love Zanzibar. My password is {PASSWORD}."
    return facts_reply({"text": text, "kind": "statement", "message_ids": ["1"]})


def nodes() -> dict[str, Any]:
    model = ScriptedModel(quoting)
    return {
        "recall": MemoryRecall(sources=("facts", "turns"), reranker=Broken()),
        "verify": StaleFactCheck(POLICY),
        "summarize": RollingSummarizer(model, BUDGET, destructive=True),
        "trim": TokenTrimmer(BUDGET),
        "respond": reply,
        "remember": FactExtractor(model),
        "rules": FactExtractor(None, namespace=("users", "{user_id}", "rules")),
        "record": TurnRecorder(),
        "consolidate": FactConsolidator(max_per_kind=1),
    }


def talk(store: SemanticStore, saver: Any) -> None:
    builder: StateGraph[Any, Any, Any, Any] = StateGraph(MemoryState)
    names = list(nodes())
    for name, node in nodes().items():
        builder.add_node(name, node)
    for before, after in zip([START, *names], [*names, END], strict=True):
        builder.add_edge(before, after)
    graph = builder.compile(checkpointer=saver, store=store)
    for n in range(9):
        text = f"I live at {n} Linden Street. My card is {CARD}, my password is {PASSWORD}. "
        text += f"I love Zanzibar. Write to {WORDS[2]}. " + "It is about Zanzibar again. " * 15
        graph.invoke({"messages": [said(text, f"0{n + 1}-01")]}, config("thread-one-77", USER))


def test_a_whole_life_of_a_memory_is_logged_without_words_and_secrets(
    dsn: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="memkit")
    dsn = make_conninfo(dsn, password=DSN_PASSWORD)
    embeddings = HashEmbeddings()
    with (
        SemanticStore.open(dsn, embed=embeddings, dims=embeddings.dims) as store,
        sync_saver("postgres", tmp_path, dsn) as saver,
        SqliteSaver.from_conn_string(str(tmp_path / "copy")) as target,
    ):
        talk(store, saver)
        # What others put among the facts, by its text and by a time that is none.
        facts = ("users", USER, "facts")
        store.put(facts, "foreign", {"text": ["Zanzibar"], "card": CARD}, index=False)
        store.put(facts, "untimely", {"text": "Zanzibar", "last_updated": CARD}, index=False)
        talk(store, saver)
        book = FactBook.of_user(store, USER)
        book.consolidate()
        assert FactBook(store, ("users", USER, "rules")).all()
        store.build_indexes()
        store.sweep_ttl()
        checkpoints.report(saver)
        target.setup()
        checkpoints.copy(saver, target)
        checkpoints.prune(saver, keep_last=1)
        assert privacy.export_user(store, saver, USER)["items"]
        assert privacy.erase_user(store, saver, USER).is_complete

    def unreachable() -> Any:
        stop.set()
        raise OSError(f"no way to postgresql://u:{DSN_PASSWORD}@127.0.0.1/x")

    stop = threading.Event()
    prune_every(timedelta(seconds=0.01), unreachable, Ours(), stop=stop, keep_last=1)

    told = [r for r in caplog.records if r.name.startswith("memkit")]
    loud = [r for r in told if r.levelno >= logging.WARNING]
    modules = {"memkit.nodes", "memkit.nodes.extract", "memkit.nodes.summarize"}
    modules |= {"memkit.nodes.recall", "memkit.factbook", "memkit.checkpoints.schedule"}
    assert modules <= {r.name for r in told}
    assert {r.name for r in loud} == modules - {"memkit.nodes"}
    for record in told:
        line = logging.Formatter().format(record)
        for secret in (CARD, PASSWORD, DSN_PASSWORD, *WORDS):
            assert secret not in line
    handled = [n for n in logging.root.manager.loggerDict if n.partition(".")[0] == "memkit"]
    assert not [n for n in handled if logging.getLogger(n).handlers]


class Ours:
    """A turn to prune that is always this process's."""

    def is_ours(self) -> bool:
        return True

    def release(self) -> None:
        """Nothing is held."""


@pytest.mark.parametrize(
    "address",
    [
        f"postgresql://u:{DSN_PASSWORD}/x@127.0.0.1/db",
        f"postgresql://u:{DSN_PASSWORD}@127.0.0.1:bad/db",
        f"postgresql://u:{DSN_PASSWORD}@127.0.0.1:1/db?nope=1",
        f"postgresql://u:%zz{DSN_PASSWORD}@127.0.0.1:1/db",
        f"postgresql://u:{DSN_PASSWORD}@127.0.0.1:1/db",
        f"postgres//u:{DSN_PASSWORD}@127.0.0.1/db",
        f"host=127.0.0.1 port=1 password={DSN_PASSWORD} bad",
    ],
)
def test_no_error_shows_the_password_of_an_address(
    address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MemkitError) as caught, SemanticStore.open(address, search_mode="text"):
        pass
    assert DSN_PASSWORD not in str(caught.value)
    assert main(["checkpoints", "report", address]) == 1
    printed = "".join(capsys.readouterr())
    assert "memkit" in printed
    assert DSN_PASSWORD not in printed
