"""The customer-support agent that people start from, as they write it and with memory."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage

from memkit import SemanticStore, add_memory
from memkit.factbook import FactBook
from tests.fakes import HashEmbeddings
from tests.savers import sync_saver
from tests.support_agent import BUDGET, USER, config, support

FORMS: dict[str, Callable[[str], Any]] = {
    "message": HumanMessage,
    "dict": lambda text: {"role": "user", "content": text},
    "pair": lambda text: ("user", text),
    "text": lambda text: text,
}


@pytest.mark.parametrize(
    ("kind", "form"), [("postgres", "message"), *(("sqlite", form) for form in FORMS)]
)
def test_the_second_ticket_knows_the_first(
    kind: str, form: str, tmp_path: Path, empty_dsn: str
) -> None:
    prompts: list[list[Any]] = []

    def chat(prompt: list[Any]) -> str:
        prompts.append(prompt)
        return "Thank you."

    with (
        sync_saver(kind, tmp_path / "support.db", empty_dsn) as saver,
        SemanticStore.open(empty_dsn, embed=HashEmbeddings(64), dims=64) as store,
    ):
        store.setup()
        as_written = support(chat).compile(checkpointer=saver, store=store)
        builder = add_memory(support(chat), around="respond", budget=BUDGET)
        graph = builder.compile(checkpointer=saver, store=store)
        for compiled, ticket in ((as_written, "plain"), (graph, "memory")):
            for n, text in enumerate(("I live at 14 Linden Street.", "Where is it sent?")):
                turn: Any = {"messages": [FORMS[form](text)], "user_id": USER}
                done = compiled.invoke(turn, config(f"{ticket} {n}"))
                assert len(done["messages"]) == 2
        knows = ["14 Linden Street" in str(prompt[1:-1]) for prompt in prompts]
        assert knows == [False, False, False, True]
        assert isinstance(prompts[-1][-1], HumanMessage)
        assert store.get(("profiles",), USER).value == {"answered": 4}  # type: ignore[union-attr]
        mermaid = graph.get_graph().draw_mermaid()
        assert "load_profile --> memory_recall" in mermaid
        assert "memory_remember --> save_resolved" in mermaid
        assert "load_profile --> respond" not in mermaid


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_another_process_goes_on_after_the_approval(
    kind: str, tmp_path: Path, empty_dsn: str
) -> None:
    log = tmp_path / "log"
    for step in ("approve", "resume"):
        place = str(tmp_path / "support.db")
        command = [sys.executable, "-m", "tests.support_agent", kind, place, empty_dsn, step]
        subprocess.run([*command, str(log)], check=True)
        done = log.read_text().splitlines()
        assert done == (["model"] if step == "approve" else ["model", "refund"])
    with SemanticStore.open(empty_dsn, embed=HashEmbeddings(64), dims=64) as store:
        facts = FactBook.of_user(store, USER).all()
        assert sum("14 Linden Street" in fact.text for fact in facts) == 1
        turns = store.search(("users", USER, "turns"))
        # What was said up to the approval; what comes behind is read on the next turn.
        assert sorted(item.value["text"][:9] for item in turns) == ["assistant", "user: My "]
    with sync_saver(kind, tmp_path / "support.db", empty_dsn) as saver:
        stored = saver.get_tuple(config("refund")).checkpoint["channel_values"]
        said = [str(message.content) for message in stored["messages"]]
        assert said[-3:] == ["I will ask my manager.", "Manager: yes", "The money is on its way."]
        assert isinstance(stored["messages"][1], AIMessage)
