"""`memkit checkpoints`, as it is typed."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from langgraph.checkpoint.postgres import PostgresSaver
from langgraph.checkpoint.sqlite import SqliteSaver

from memkit.checkpoints.schedule import FileTurn, PostgresTurn, prune_every
from memkit.cli import main
from memkit.errors import ConfigError
from tests.fakes import Terminal
from tests.threads import config, states, tree

TURNS = 6


@contextmanager
def saver_at(address: str) -> Iterator[Any]:
    kind = PostgresSaver if "://" in address else SqliteSaver
    with kind.from_conn_string(address) as saver:
        saver.setup()
        yield saver


def talk(saver: Any, turns: int = TURNS, thread: str = "t") -> Any:
    graph = tree(frequency=100).compile(checkpointer=saver)
    for _ in range(turns):
        graph.invoke({"said": ["in"]}, config(thread) if thread != "t" else config())
    return graph


@pytest.fixture(params=["sqlite", "postgres"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return where six turns of a thread are."""
    if request.param == "sqlite":
        at = str(tmp_path / "app.sqlite")
    else:
        dsn: str = request.getfixturevalue("empty_dsn")
        with psycopg.connect(dsn) as connection:
            info = connection.info
            at = f"postgresql://{info.user}@/{info.dbname}?host={info.host}"
    with saver_at(at) as saver:
        talk(saver)
    return at


def count(address: str) -> int:
    with saver_at(address) as saver:
        return len(list(saver.list(None)))


def told(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_report(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoints", "report", address]) == 0
    assert "1 threads" in capsys.readouterr().out
    many = ["--users", "200", "--turns", "15", "--nodes", "6", "--days", "90"]
    assert main(["checkpoints", "report", address, "--json", *many]) == 0
    report = told(capsys)
    assert report["tables"]["checkpoints"]["rows"] == count(address)
    assert report["estimate"]["bytes"]["sync"]["plain"] > report["bytes"]
    assert main(["checkpoints", "report", address, *many]) == 0
    assert "200 users" in capsys.readouterr().out
    assert main(["checkpoints", "report", address, *many[:4]]) == 1
    assert "--nodes, --days" in capsys.readouterr().err


def test_prune_asks_shows_and_removes(
    address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count(address)
    command = ["checkpoints", "prune", address, "--keep-last", "2", "--rest", "0"]
    assert main([*command, "--dry-run", "--json"]) == 0
    would = told(capsys)
    assert would["dry_run"]
    assert main(command) == 1
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin", Terminal("\n"))
    assert main(command) == 0
    assert "nothing was removed" in capsys.readouterr().err
    assert count(address) == before
    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    assert main([*command, "--json"]) == 0
    went = told(capsys)
    assert went["checkpoints"] == would["checkpoints"]
    left = before - went["checkpoints"]["rows"]
    assert left <= count(address) < before  # a carrier may have come
    assert main([*command, "--yes"]) == 0
    assert "0 rows" in capsys.readouterr().out
    with saver_at(address) as saver:
        assert tree().compile(checkpointer=saver).get_state(config()).values["said"]


def test_prune_by_metadata_and_thread(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["checkpoints", "prune", address, "--yes", "--json", "--rest", "0"]
    assert main([*command, "--metadata", "source=input", "step=-1"]) == 0
    assert told(capsys)["checkpoints"]["rows"] <= 1
    assert main([*command, "--keep-last", "1", "--thread", "another"]) == 0
    assert told(capsys)["rows"] == 0


def test_an_idle_thread_goes_by_its_age(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    time.sleep(1.1)
    with saver_at(address) as saver:
        talk(saver, thread="new")
    asked = ["checkpoints", "prune", address, "--thread-ttl", "1s", "--yes", "--json"]
    assert main(asked) == 0
    report = told(capsys)
    assert report["expired"] >= 1
    with saver_at(address) as saver:
        assert list(saver.list(config("t"))) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prune", "{address}"], "say what goes"),
        (["prune", "{address}", "--keep-last", "0", "--yes"], "at least 1"),
        (["prune", "{address}", "--older-than", "soon", "--yes"], "soon"),
        (["prune", "{address}", "--metadata", "source", "--yes"], "NAME=VALUE"),
        (["prune", "{address}", "--keep-last", "1", "--every", "never"], "never"),
        (["prune", "{address}", "--every", "1h"], "say what goes"),
        (["prune", "nowhere.sqlite", "--keep-last", "1", "--yes"], "no file"),
        (["report", "mysql://host/db"], "mysql"),
        (["report", "nowhere.sqlite"], "no file"),
        (["copy", "nowhere.sqlite", "{address}"], "no file"),
        (["copy", "{address}", "{address}"], "are one"),
    ],
)
def test_what_makes_no_sense_ends_with_words(
    arguments: list[str], words: str, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = count(address)
    assert main(["checkpoints", *(each.format(address=address) for each in arguments)]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("memkit: error: ")
    assert words in errors
    assert count(address) == before


def test_a_file_that_is_no_database(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "text.sqlite"
    path.write_text("no database, but long enough to be read as the header of one" * 20)
    assert main(["checkpoints", "report", str(path)]) == 1
    assert "not a database" in capsys.readouterr().err


def test_copy(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    target = str(tmp_path / "copy.sqlite")
    assert main(["checkpoints", "copy", address, target, "--json"]) == 0
    report = told(capsys)
    assert report["compared"] == report["checkpoints"] == count(address)
    assert main(["checkpoints", "copy", address, target]) == 0
    assert "0 checkpoints" in capsys.readouterr().out
    with saver_at(address) as one, saver_at(target) as other:
        graph = tree(frequency=100)
        expected = states(graph.compile(checkpointer=one), one)
        assert states(graph.compile(checkpointer=other), other) == expected


def test_ids_do_not_steer_a_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = str(tmp_path / "app.sqlite")
    with saver_at(path) as saver:
        talk(saver, 1, "\x1b[2Jgone")
    assert main(["checkpoints", "report", path]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\\x1b[2Jgone" in out


# As a service


def served(address: str, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "memkit.cli", "checkpoints", "prune", address]
    command += ["--keep-last", "1", "--every", "0.3s", "--rest", "0", "--json", *more]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def test_one_of_two_prunes_and_the_other_takes_over(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = served(address)
    assert first.stdout is not None
    try:
        assert json.loads(first.stdout.readline())["checkpoints"]["rows"] > 5
        second = served(address)
        assert second.stdout is not None
        assert second.stderr is not None
        try:
            assert "another process prunes" in second.stderr.readline()
            with saver_at(address) as saver:
                talk(saver, 2)
            while json.loads(first.stdout.readline())["rows"] == 0:
                pass
            first.kill()
            first.wait()
            with saver_at(address) as saver:
                talk(saver, 2)
            while json.loads(second.stdout.readline())["rows"] == 0:
                pass
            second.send_signal(signal.SIGTERM)
            assert second.wait(20) == 0
        finally:
            second.kill()
            second.communicate()
    finally:
        first.kill()
        first.communicate()


class Ended(Exception):
    pass


def rounds(opened: Callable[[], Any], turn: Any, stop: threading.Event, told: Any) -> None:
    prune_every("PT0.05S", opened, turn, stop=stop, told=told, keep_last=1, rest=0.0)


def test_a_database_that_is_away_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = str(tmp_path / "app.sqlite")
    with saver_at(path) as saver:
        talk(saver)
    stop, away = threading.Event(), [2]

    @contextmanager
    def opened() -> Iterator[Any]:
        if away[0]:
            away[0] -= 1
            raise sqlite3.OperationalError("the disk is away")
        with saver_at(path) as saver:
            yield saver

    reports: list[Any] = []

    def told(report: Any) -> None:
        reports.append(report)
        stop.set()

    rounds(opened, FileTurn(path), stop, told)
    assert len(reports) == 1
    assert reports[0].checkpoints.rows > 5
    assert caplog.text.count("the disk is away") == 2


def test_a_turn_is_one_processs_and_is_given_up(empty_dsn: str, tmp_path: Path) -> None:
    for first, second in (
        (PostgresTurn(empty_dsn), PostgresTurn(empty_dsn)),
        (FileTurn(tmp_path / "a"), FileTurn(tmp_path / "a")),
    ):
        assert first.is_ours()
        assert not second.is_ours()
        assert first.is_ours()
        first.release()
        assert second.is_ours()
        assert not first.is_ours()
        second.release()
        second.release()


def test_a_turn_that_the_server_took_is_lost(empty_dsn: str) -> None:
    first, second = PostgresTurn(empty_dsn), PostgresTurn(empty_dsn)
    assert first.is_ours()
    with psycopg.connect(empty_dsn, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'memkit prune' AND datname = current_database()"
        )
        deadline = time.monotonic() + 20
        while not second.is_ours():
            assert time.monotonic() < deadline
    assert not first.is_ours()
    second.release()


def test_an_interval_that_makes_no_sense_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        prune_every("0s", lambda: saver_at(str(tmp_path / "a")), FileTurn(tmp_path / "a"))
