"""What holds for every command: right words, right code, and nothing that steers a terminal."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from memkit import SemanticStore
from memkit.cli import main
from memkit.facts import Fact
from memkit.store.stats import store_stats

NOWHERE = "postgresql://x@127.0.0.1:1/x"
HOSTILE = "\x1b[31mred\x1b]0;title\x07 [bold]<script> \u202eback\u2066\r\x9b2J"
PLACE = ("users", "ann", "facts")
ANN = ["--user", "ann"]

FACTS = [
    ["facts", "list", *ANN],
    ["facts", "show", "k1", *ANN],
    ["facts", "history", "k1", *ANN],
    ["facts", "search", "red", *ANN],
    ["facts", "confirm", "k1", *ANN],
    ["facts", "forget", "k1", *ANN, "--yes"],
    ["facts", "export", *ANN],
    ["facts", "consolidate", *ANN, "--yes"],
    ["facts", "audit", *ANN],
]
DATABASE = [*FACTS, ["store", "stats"], ["store", "reembed", "--abandon"], ["setup"]]


def fact(key: str, text: str) -> Fact:
    now = datetime.now(UTC)
    return Fact(text=text, key=key, kind="note", first_seen=now, last_updated=now)


def keep(dsn: str, facts: list[Fact]) -> None:
    with SemanticStore.open(dsn, search_mode="text") as store:
        for each in facts:
            store.put(PLACE, each.key, each.to_value())


def steers(text: str) -> bool:
    return any(not char.isprintable() and char != "\n" for char in text)


@pytest.mark.parametrize("command", DATABASE, ids=" ".join)
def test_no_database(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*command, "--dsn", NOWHERE]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memkit: error: ")
    assert "127.0.0.1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("command", FACTS, ids=" ".join)
def test_nobodys_facts(command: list[str], dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    names_a_fact = "k1" in command
    assert main([*command, "--dsn", dsn]) == (1 if names_a_fact else 0)
    out, err = capsys.readouterr()
    assert ("there is no fact k1" in err) == names_a_fact
    assert bool(out) != names_a_fact


@pytest.mark.parametrize("command", FACTS, ids=" ".join)
def test_hostile_text_steers_no_terminal(
    command: list[str], dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    keep(dsn, [fact("k1", HOSTILE), fact("k2", f"{HOSTILE} again")])
    assert main([*command, "--dsn", dsn]) == 0
    out, err = capsys.readouterr()
    assert not steers(out + err)
    if command[1] in {"list", "show", "history", "confirm", "forget"}:
        assert r"\x1b[31mred" in out
        assert "[bold]<script>" in out
        assert r"\u202e" in out
    if command[1] not in {"export", "consolidate", "audit"}:
        assert main([*command, "--dsn", dsn, "--json"]) == 0
        out = capsys.readouterr().out
        assert not steers(out)
        json.loads(out)


@pytest.mark.parametrize("command", [["facts", "show", HOSTILE, *ANN], ["facts", "list"]], ids=repr)
def test_hostile_arguments(
    command: list[str], dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--dsn", dsn]) == 1
    assert not steers(capsys.readouterr().err)


@pytest.mark.parametrize(
    "command",
    [
        ["nothing"],
        ["facts"],
        ["facts", "list", "--limit", "0"],
        ["facts", "list", "--status", "odd"],
        ["facts", "show"],
        ["store", "reembed", "--finish", "--abandon"],
        ["store", "import", "x", "--embed", "local", "--search-mode", "text"],
        ["checkpoints", "prune", "x", "--dry-run", "--yes"],
        ["setup"],
    ],
    ids=" ".join,
)
def test_wrong_usage(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(command)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_facts_come_in_pages(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    keep(dsn, [fact(f"k{n}", f"likes number {n}") for n in range(30)])
    place = ["facts", "list", *ANN, "--dsn", dsn, "--json", "--limit", "20"]
    seen = []
    for offset in ("0", "20", "40"):
        assert main([*place, "--offset", offset]) == 0
        seen.append([each["key"] for each in json.loads(capsys.readouterr().out)])
    assert [len(page) for page in seen] == [20, 10, 0]
    assert len({key for page in seen for key in page}) == 30


def test_forget_asks_and_takes_back(
    dsn: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keep(dsn, [fact("k1", "lives in Rome")])
    command = ["facts", "forget", "k1", *ANN, "--dsn", dsn, "--json"]
    with open(os.devnull) as nobody:  # noqa: PTH123 - a stream that is no terminal
        monkeypatch.setattr(sys, "stdin", nobody)
        assert main(command) == 1
    assert "--yes" in capsys.readouterr().err
    assert main([*command, "--dry-run"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "current"
    assert main([*command, "--yes"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["status"] == "retracted"


def test_a_database_that_goes_away(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    name = str(conninfo_to_dict(dsn)["dbname"])
    gone = make_conninfo(dsn, dbname=f"{name}_gone")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(f"{name}_gone")))
        assert main(["setup", "--dsn", gone]) == 0
        connection.execute(
            sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(f"{name}_gone"))
        )
    capsys.readouterr()
    assert main(["store", "stats", "--dsn", gone]) == 1
    assert "does not exist" in capsys.readouterr().err


def test_stats(dsn: str, capsys: pytest.CaptureFixture[str]) -> None:
    keep(dsn, [fact("k1", "lives in Rome"), fact("k2", "has a dog")])
    keep(dsn, [fact("k1", "lives in Kiel")])
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(
            "UPDATE memkit_items SET expires_at = now() - interval '1 day' WHERE key = 'k2'"
        )
    found = store_stats(dsn)
    assert (found.items, found.passages, found.namespaces, found.tenants) == (2, 2, 1, 1)
    assert (found.expired, found.versions) == (1, 1)
    assert found.bytes["memkit_items"] > 0
    assert any(index["on_table"] == "memkit_passages" for index in found.indexes)
    assert main(["store", "stats", "--dsn", dsn, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["versions"] == 1
    assert main(["store", "stats", "--dsn", dsn]) == 0
    assert "memkit_passages" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom memkit.cli import main\n"
        "assert main(['--help']) == 0\n"
        "heavy = {'langchain_core', 'langgraph', 'psycopg', 'numpy', 'openai', 'rich'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "checkpoints" in done.stdout


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("memkit fa", {"facts"}),
        ("memkit facts f", {"forget"}),
        ("memkit facts list --status ", {"current", "superseded", "retracted"}),
    ],
)
def test_a_shell_completes(typed: str, offered: set[str]) -> None:
    asked = {"_MEMKIT_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    code = "import sys; from memkit.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **asked, "COMP_CWORD": str(typed.count(" "))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert set(done.stdout.split()) == offered


def test_warnings_steer_no_terminal() -> None:
    code = (
        "import logging\nfrom memkit.cli import main\nmain(['--version'])\n"
        f"logging.getLogger('memkit').warning('left out %s', {HOSTILE!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.startswith(r"memkit: WARNING: left out \x1b[31mred")
    assert not steers(done.stderr)
