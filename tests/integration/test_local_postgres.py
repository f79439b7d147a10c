"""The embedded Postgres under everything that can happen to its users."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest

from memkit.errors import ConfigError, StoreError
from memkit.local import _keeper, postgres

# Uses the server, tells its DSN, and leaves when told to (or is killed).
WORKER = """
import sys
from memkit.local import postgres
with postgres(sys.argv[1]) as dsn:
    print(dsn, flush=True)
    sys.stdin.readline()
"""

Start = Callable[[Path], "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Path]:
    """A directory whose data exists already; every test leaves it stopped."""
    with TemporaryDirectory(prefix="memkit-") as directory:
        path = Path(directory, "pg")
        with postgres(path) as dsn, psycopg.connect(dsn) as connection:
            connection.execute("CREATE TABLE kept (n int)")
        yield path


@pytest.fixture
def start() -> Iterator[Start]:
    workers: list[subprocess.Popen[str]] = []

    def run(path: Path) -> "subprocess.Popen[str]":
        worker = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WORKER, str(path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        workers.append(worker)
        return worker

    yield run
    for worker in workers:
        with worker:
            worker.kill()


def dsn_of(worker: "subprocess.Popen[str]") -> str:
    assert worker.stdout is not None
    line = worker.stdout.readline().strip()
    assert line, worker.stderr and worker.stderr.read()
    return line


def leave(worker: "subprocess.Popen[str]") -> None:
    _, errors = worker.communicate("\n", timeout=60)
    assert (worker.returncode, errors) == (0, "")


def answers(dsn: str) -> bool:
    try:
        with psycopg.connect(dsn) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def wait_until_stopped(path: Path) -> bool:
    for _ in range(200):
        if not (path / "data" / "postmaster.pid").exists():
            return True
        time.sleep(0.05)
    return False


def kill_server(path: Path) -> None:
    os.kill(running(path).pid, signal.SIGKILL)
    while _keeper.listening(path / "data"):  # the signal takes its time on a busy machine
        time.sleep(0.01)


def running(path: Path) -> _keeper.Running:
    server = _keeper.listening(path / "data")
    assert server is not None
    return server


def test_it_serves_vectors_keeps_data_and_stops(tmp_path: Path) -> None:
    path = tmp_path / "a b's, ü" / "pg"
    with postgres(path) as dsn, psycopg.connect(dsn) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute("CREATE TABLE v (e vector(2))")
        connection.execute("INSERT INTO v VALUES ('[1,2]')")
    assert _keeper.listening(path / "data") is None
    with postgres(path) as dsn, psycopg.connect(dsn) as connection:
        assert connection.execute("SELECT e <-> '[1,0]' FROM v").fetchone() == (2.0,)
        row = connection.execute("SELECT lower('ÄÉ'), current_setting('fsync')").fetchone()
        assert row == ("äé", "on")


def test_nested_and_concurrent_uses_in_one_process_share_a_server(shared: Path) -> None:
    with postgres(shared) as outer:
        with postgres(str(shared)) as inner:
            assert inner == outer
        assert answers(outer)
        seen: list[bool] = []

        def use() -> None:
            with postgres(shared) as dsn:
                seen.append(answers(dsn))

        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert seen == [True] * 4
        assert answers(outer)
    assert _keeper.listening(shared / "data") is None


def test_two_processes_start_on_a_fresh_directory(tmp_path: Path, start: Start) -> None:
    path = tmp_path / "pg"
    one, two = start(path), start(path)
    dsn = dsn_of(one)
    assert dsn_of(two) == dsn
    leave(one)
    assert answers(dsn)
    leave(two)
    assert not answers(dsn)


def test_a_killed_process_neither_stops_nor_keeps_the_server(shared: Path, start: Start) -> None:
    dying, other = start(shared), start(shared)
    dsn = dsn_of(dying)
    dsn_of(other)
    with postgres(shared):
        os.killpg(dying.pid, signal.SIGKILL)
        dying.wait()
        leave(other)
        assert answers(dsn)
    assert not answers(dsn)


def test_the_server_stops_when_its_only_user_is_killed(shared: Path, start: Start) -> None:
    worker = start(shared)
    dsn = dsn_of(worker)
    os.killpg(worker.pid, signal.SIGKILL)
    assert wait_until_stopped(shared)
    assert not answers(dsn)
    with postgres(shared) as dsn:
        assert answers(dsn)


def test_a_killed_server_recovers_under_its_users(shared: Path) -> None:
    with postgres(shared) as dsn, psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("INSERT INTO kept VALUES (1)")
        kill_server(shared)
        with postgres(shared) as again, psycopg.connect(again) as reader:
            assert reader.execute("SELECT n FROM kept").fetchall() == [(1,)]


def test_a_stale_pid_file_that_names_another_live_process(shared: Path) -> None:
    with postgres(shared):
        pid_file = shared / "data" / "postmaster.pid"
        rest = pid_file.read_text().split("\n", 1)[1]
        kill_server(shared)
        owner = (shared / "data").stat()
        as_owner = {"user": owner.st_uid, "group": owner.st_gid} if os.geteuid() == 0 else {}
        with subprocess.Popen(["sleep", "60"], **as_owner) as innocent:  # type: ignore[call-overload]
            pid_file.write_text(f"{innocent.pid}\n{rest}")
            with postgres(shared) as dsn:
                assert answers(dsn)
            assert innocent.poll() is None
            innocent.kill()


@pytest.mark.parametrize("content", ["", "12\n", "not a number\nx\n"])
def test_a_pid_file_cut_short(shared: Path, content: str) -> None:
    (shared / "data" / "postmaster.pid").write_text(content)
    with postgres(shared) as dsn:
        assert answers(dsn)


def test_a_first_start_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "pg" / "data.new-x").mkdir(parents=True)
    (tmp_path / "pg" / "data.new-x" / "PG_VERSION").write_text("18\n")
    with postgres(tmp_path / "pg") as dsn:
        assert answers(dsn)
    assert [p.name for p in tmp_path.glob("pg/data*")] == ["data"]


def test_a_path_too_long_for_a_socket(tmp_path: Path) -> None:
    with postgres(tmp_path / ("long" * 30)) as dsn:
        assert answers(dsn)


def test_a_forked_child_that_leaves_does_not_stop_the_server(shared: Path) -> None:
    code = f"""
import os, psycopg
from memkit.local import postgres
with postgres({str(shared)!r}) as dsn:
    if os.fork() == 0:
        with postgres({str(shared)!r}) as inner:
            psycopg.connect(inner).close()
        os._exit(0)
    assert os.wait()[1] == 0
    psycopg.connect(dsn).close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert wait_until_stopped(shared)


def test_the_default_directory_follows_the_environment(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = shared.parent / "home"
    home.mkdir()
    (home / "postgres").symlink_to(shared)
    monkeypatch.setenv("MEMKIT_DATA_DIR", str(home))
    with postgres() as dsn:
        assert str(shared) in dsn


def test_a_file_instead_of_a_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "pg"):
        with pytest.raises(ConfigError, match="file"), postgres(path):
            pass


def test_a_directory_with_other_content_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files \(thesis\.tex\)"), postgres(tmp_path):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_data_directory_of_another_server(tmp_path: Path) -> None:
    (tmp_path / "PG_VERSION").write_text("18\n")
    with pytest.raises(ConfigError, match="is itself the data directory"), postgres(tmp_path):
        pass


def test_data_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "PG_VERSION").write_text("16\n")
    with pytest.raises(ConfigError, match="data of PostgreSQL 16"), postgres(tmp_path):
        pass


def test_a_path_that_a_shell_would_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"contains '\$'"), postgres(tmp_path / "$HOME"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_without_write_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ConfigError, match="no permission"), postgres(tmp_path / "pg"):
        pass


def test_a_broken_configuration_shows_the_log(tmp_path: Path) -> None:
    with postgres(tmp_path):
        pass
    settings = tmp_path / "data" / "postgresql.conf"
    whole = settings.read_text()
    settings.write_text(whole + "\nshared_buffers = 'lots'\n")
    with pytest.raises(StoreError, match=r"(?s)does not start.*shared_buffers"), postgres(tmp_path):
        pass
    settings.write_text(whole)
    with postgres(tmp_path) as dsn:
        assert answers(dsn)


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What initdb says on a full disk, from a stand-in for it.
    programs = tmp_path / "bin" / "pginstall18" / "bin"
    programs.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl"):
        (programs / name).write_text("#!/bin/sh\necho 'write: No space left on device' >&2; exit 1")
        (programs / name).chmod(0o755)
    monkeypatch.setattr("memkit.local._postgres._binaries", lambda: programs)
    with pytest.raises(StoreError, match="disk is full"), postgres(tmp_path / "pg"):
        pass
    assert not list(tmp_path.glob("pg/data*"))
