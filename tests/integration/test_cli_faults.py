"""A command whose database goes away midway, and what is typed on a terminal."""

import fcntl
import os
import pty
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.store.postgres import PostgresStore
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from memkit import SemanticStore
from memkit.cli import main
from memkit.facts import Fact
from tests.graphs import config, memory_graph, said

PLACE = ("users", "ann", "facts")
ANN = ["--user", "ann"]
NOWHERE = "postgresql://x@127.0.0.1:1/x"
TIMEOUT_S = 60

WAITING = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND wait_event_type = 'Lock'"
END = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"


def cli(*words: str) -> list[str]:
    return [sys.executable, "-m", "memkit.cli", *words]


def everything(dsn: str) -> list[tuple[str, ...]]:
    """Return what is in every table of a database."""
    with psycopg.connect(dsn) as connection:
        names = [row[0] for row in connection.execute(_TABLES)]
        return [
            (name, *sorted(str(row) for row in connection.execute(f'SELECT * FROM "{name}"')))
            for name in names
        ]


_TABLES = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"


@pytest.fixture
def full(dsn: str) -> str:
    """A database with facts, threads and a PostgresStore."""
    now = datetime.now(UTC)
    with (
        SemanticStore.open(dsn, search_mode="text") as store,
        PostgresSaver.from_conn_string(dsn) as saver,
    ):
        saver.setup()
        for key, text in {"k1": "I love tea", "k2": "I love the tea"}.items():
            fact = Fact(text=text, key=key, kind="note", first_seen=now, last_updated=now)
            store.put(PLACE, key, fact.to_value())
        graph = memory_graph(turns=False).compile(checkpointer=saver, store=store)
        graph.invoke({"messages": [said("I row.", "05-01")]}, config("t"))
    with PostgresStore.from_conn_string(dsn) as old:
        old.setup()
        old.put(("a",), "k", {"text": "old"})
    return url(dsn)


def url(dsn: str) -> str:
    """Return an address in the form that a saver's needs."""
    parts = conninfo_to_dict(dsn)
    return f"postgresql://{parts['user']}@/{parts['dbname']}?host={parts['host']}"


@pytest.mark.slow
def test_a_database_that_goes_away_midway(full: str, tmp_path: Path) -> None:
    commands = [
        ["facts", "list", *ANN],
        ["facts", "show", "k1", *ANN],
        ["facts", "history", "k1", *ANN],
        ["facts", "search", "tea", *ANN],
        ["facts", "confirm", "k1", *ANN],
        ["facts", "forget", "k1", *ANN, "--yes"],
        ["facts", "export", *ANN],
        ["facts", "consolidate", *ANN, "--yes"],
        ["facts", "audit", *ANN],
        ["store", "stats"],
        ["store", "reembed", "--embed", "local"],
        ["setup"],
    ]
    told = [[*command, "--dsn", full] for command in commands]
    told += [
        ["store", "import", full, "--to", full],
        ["checkpoints", "report", full],
        ["checkpoints", "prune", full, "--keep-last", "1", "--yes"],
        ["checkpoints", "copy", full, str(tmp_path / "copy.sqlite")],
        ["chat", *ANN, "--dsn", full, "--no-model"],
    ]
    before = everything(full)
    name = str(conninfo_to_dict(full)["dbname"])
    elsewhere = make_conninfo(full, dbname="postgres")
    with (
        psycopg.connect(elsewhere, autocommit=True) as admin,
        psycopg.connect(full) as holder,
    ):
        tables = [row[0] for row in holder.execute(_TABLES)]
        holder.execute(
            sql.SQL("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE").format(
                sql.SQL(", ").join(map(sql.Identifier, tables))
            )
        )
        running = [
            subprocess.Popen(
                cli(*words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for words in told
        ]
        try:
            wait_until(lambda: count(admin, name) >= len(running))
            database = sql.Identifier(name)
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS false").format(database))
            admin.execute(END, (name, holder.info.backend_pid))
            ended = [process.communicate(timeout=TIMEOUT_S) for process in running]
        finally:
            for process in running:
                process.kill()
            admin.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(database))
    for words, process, (out, err) in zip(told, running, ended, strict=True):
        assert process.returncode == 1, (words, out, err)
        assert err.splitlines()[-1].startswith("memkit: error: "), (words, err)
        assert "Traceback" not in err, (words, err)
    assert everything(full) == before


def count(admin: psycopg.Connection[tuple[object, ...]], name: str) -> int:
    return admin.execute(WAITING, [name]).fetchone()[0]  # type: ignore[index, return-value]


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    "words",
    [
        ["checkpoints", "report", NOWHERE],
        ["checkpoints", "prune", NOWHERE, "--keep-last", "1", "--yes"],
        ["checkpoints", "prune", NOWHERE, "--keep-last", "1", "--every", "1h"],
        ["checkpoints", "copy", NOWHERE, "{folder}/copy.sqlite"],
        ["checkpoints", "copy", "{folder}/none.sqlite", NOWHERE],
        ["checkpoints", "report", "{folder}"],
        ["store", "import", NOWHERE, "--to", NOWHERE],
        ["chat", "--no-model", "--dsn", NOWHERE],
    ],
    ids=" ".join,
)
def test_no_database(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([word.format(folder=tmp_path) for word in words]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("memkit: error: ")
    assert err.count("\n") == 1


# A real terminal


class Screen:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, words: Sequence[str]) -> None:
        self.shown = ""
        self._here, there = pty.openpty()
        self._process = subprocess.Popen(
            cli(*words),
            stdin=there,
            stdout=there,
            stderr=there,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509
        )
        os.close(there)

    def until(self, text: str) -> None:
        """Read until a text is shown."""
        while text not in self.shown:
            self.shown += os.read(self._here, 4096).decode(errors="replace")

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._here, keys.encode())

    def code(self) -> int:
        """Read to the end, and return the exit code."""
        try:
            while part := os.read(self._here, 4096):
                self.shown += part.decode(errors="replace")
        except OSError:  # what Linux says when the other side is closed
            pass
        os.close(self._here)
        return self._process.wait(TIMEOUT_S)


ASKING = [
    ["facts", "forget", "k1", *ANN, "--dsn", "{dsn}"],
    ["facts", "consolidate", *ANN, "--dsn", "{dsn}", "--max-per-kind", "1"],
    ["checkpoints", "prune", "{dsn}", "--keep-last", "1"],
]


@pytest.fixture
def asked(full: str, request: pytest.FixtureRequest) -> Iterator[Screen]:
    screen = Screen([word.format(dsn=full) for word in request.param])
    screen.until("[y/N] ")
    yield screen
    assert "Traceback" not in screen.shown


@pytest.mark.parametrize("asked", ASKING, indirect=True, ids=lambda words: " ".join(words[:2]))
@pytest.mark.parametrize(
    ("keys", "code"),
    [("\x03", 130), ("\x04", 0), ("n\n", 0), ("\n", 0), ("y\n", 0)],
    ids=["ctrl-c", "ctrl-d", "no", "enter", "yes"],
)
def test_what_is_typed_at_a_question(asked: Screen, keys: str, code: int, full: str) -> None:
    before = everything(full)
    asked.type(keys)
    assert asked.code() == code
    assert (everything(full) == before) == (keys != "y\n")


@pytest.mark.slow
def test_a_talk_on_a_terminal(dsn: str) -> None:
    screen = Screen(["chat", "--dsn", dsn, "--no-model", "--user", "ann"])
    screen.until("> ")
    screen.type("I have a dog called Rex.\n")
    screen.until("+ I have a dog called Rex.")
    screen.type("/quit\n")
    assert screen.code() == 0
    screen = Screen(["chat", "--dsn", dsn, "--no-model", "--user", "ann"])
    screen.until("> ")
    screen.type("What is my dog called?\n")
    screen.until("recalled")
    screen.type("\x03")
    assert screen.code() == 130
    assert ": I have a dog called Rex." in screen.shown
    assert "Traceback" not in screen.shown


def test_a_bar_with_the_time_left_is_drawn_on_a_terminal_only(full: str, tmp_path: Path) -> None:
    words = ["checkpoints", "copy", full, str(tmp_path / "copy.sqlite")]
    screen = Screen(words)
    assert screen.code() == 0
    assert "threads copied" in screen.shown
    assert "1/1" in screen.shown
    done = subprocess.run(cli(*words), capture_output=True, text=True, check=True)
    assert done.stderr == ""
