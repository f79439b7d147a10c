"""The store behind PgBouncer in transaction mode, where nothing of a session lasts."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
from langgraph.store.base import PutOp
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from memkit.store import SemanticStore, indexes
from memkit.store.reembed import reembed
from tests.fakes import HashEmbeddings

PGBOUNCER = shutil.which("pgbouncer") or "/usr/sbin/pgbouncer"
FACTS = ("users", "ann", "facts")

pytestmark = pytest.mark.skipif(
    not Path(PGBOUNCER).exists(), reason="needs pgbouncer (Debian: apt install pgbouncer)"
)


@pytest.fixture(params=["", "ignore_startup_parameters = options\n"])
def bounced(empty_dsn: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A DSN of an empty database through PgBouncer, with two connections for all."""
    parts = conninfo_to_dict(empty_dsn)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with TemporaryDirectory() as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "users").write_text(f'"{parts["user"]}" ""\n')
        (directory / "ini").write_text(
            f"[databases]\n* = host={parts['host']} port={parts.get('port', 5432)} "
            f"user={parts['user']}\n"
            f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = any\n"
            f"auth_file = {directory}/users\npool_mode = transaction\ndefault_pool_size = 2\n"
            f"unix_socket_dir =\n{request.param}"
        )
        # PgBouncer refuses to be root, and the socket may belong to another user.
        owner = Path(str(parts["host"])).stat()
        address = make_conninfo(
            host="127.0.0.1", port=port, dbname=str(parts["dbname"]), user=str(parts["user"])
        )
        identity: dict[str, Any] = {"user": owner.st_uid, "group": owner.st_gid, "extra_groups": []}
        process = subprocess.Popen(
            [PGBOUNCER, "-q", str(directory / "ini")],
            **(identity if os.geteuid() == 0 else {}),
            stderr=subprocess.PIPE,
        )
        try:
            deadline = time.monotonic() + 10
            while True:
                try:
                    psycopg.connect(address, connect_timeout=2).close()
                    break
                except psycopg.OperationalError:
                    assert process.poll() is None, process.communicate()[1]
                    assert time.monotonic() < deadline, "PgBouncer does not come up"
                    time.sleep(0.05)
            yield address
        finally:
            process.terminate()
            process.communicate(timeout=10)


def test_all_works_through_pgbouncer(bounced: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(indexes, "PAYS_FROM", 50)
    with SemanticStore.open(bounced, embed=HashEmbeddings()) as store:
        store.setup()
        store.setup()
        store.batch([PutOp(FACTS, str(n), {"text": f"fact {n}", "n": n}) for n in range(100)])
        store.build_indexes()
        with ThreadPoolExecutor(8) as pool:
            # More than the five executions after which a statement would be prepared.
            found = list(pool.map(lambda n: store.get(FACTS, str(n % 100)), range(200)))
            near = list(pool.map(lambda n: store.search(FACTS, query=f"fact {n}"), range(100)))
            list(pool.map(lambda n: store.put(FACTS, "one", {"text": str(n)}), range(100)))
        assert all(item is not None for item in found)
        assert all(len(items) == 10 for items in near)
        last = store.get(FACTS, "one")
        assert last is not None
        assert last.version == 100  # type: ignore[attr-defined] # memkit's items have one


def test_what_is_set_to_build_and_to_move_stays_with_nobody(
    bounced: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexes, "PAYS_FROM", 50)
    monkeypatch.setattr(indexes, "_SLOW_S", 60.0)
    with psycopg.connect(bounced, autocommit=True, prepare_threshold=None) as connection:
        asked = (
            b"SELECT nullif(current_setting('memkit.all_tenants', true), ''),"
            b" current_setting('statement_timeout'), current_setting('maintenance_work_mem')"
        )
        as_set = connection.execute(asked).fetchone()
        with SemanticStore.open(bounced, embed=HashEmbeddings()) as store:
            store.setup()
            store.batch([PutOp(FACTS, str(n), {"text": f"fact {n}"}) for n in range(100)])
            assert len(store.build_indexes()) == 2
            assert connection.execute(asked).fetchone() == as_set
        assert reembed(bounced, HashEmbeddings(), model="a", finish=True).embedded == 100
        assert reembed(bounced, HashEmbeddings(), model="b", finish=True).embedded == 100
        assert {connection.execute(asked).fetchone() for _ in range(10)} == {as_set}
        locks = "SELECT FROM pg_locks WHERE locktype = 'advisory'"
        assert connection.execute(locks).fetchall() == []
