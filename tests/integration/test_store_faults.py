"""The store while its server and its connections fail; see also `python -m benchmarks chaos`."""

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGKILL
from tempfile import TemporaryDirectory

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from benchmarks import chaos
from benchmarks.chaos import FAULTS, Effort, Figures, Load, Server, Skipped, batch, opened
from memkit.db import database, pool
from memkit.db.database import Database
from memkit.errors import StoreError
from memkit.store import SemanticStore

SHORT = Effort(outages=3, down_s=0.3, load_s=0.5, rounds=3, held_s=2.0)
HERE = ("users", "ann")


@pytest.fixture(scope="module")
def own() -> Iterator[Server]:
    """A server that may be killed; not in pytest's directory, see tests/conftest.py."""
    with TemporaryDirectory(prefix="memkit-") as place, Server.started(Path(place)) as server:
        # What is killed are processes: the system still writes what they gave it.
        server.execute("ALTER SYSTEM SET fsync = off")
        server.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(scope="module")
def own_dsn(own: Server) -> str:
    return own.database()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers wait half a second for a connection."""
    monkeypatch.setattr(pool, "CHECKOUT_TIMEOUT_S", 0.5)


def put(store: SemanticStore, key: str = "k") -> None:
    store.put(HERE, key, {"text": "tea"})


def version(store: SemanticStore, key: str = "k") -> int:
    item = store.get(HERE, key)
    return 0 if item is None else item.version  # type: ignore[attr-defined]


# The promises


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_loses_halves_and_repeats_nothing(
    own: Server, fault: Callable[[Server, Effort], Figures]
) -> None:
    try:
        figures = fault(own, SHORT)
    except Skipped as error:
        pytest.skip(str(error))
    assert chaos.broken(figures) == {}
    assert figures["acknowledged"] > 0
    assert figures.get("back_s", 0) < 5
    assert figures.get("longest_call_s", 0) < 25
    if fault is chaos.one_key:
        assert figures["acknowledged"] == SHORT.rounds * (1 + chaos.CONTENDERS)


def test_the_audit_sees_what_it_is_there_to_see(dsn: str) -> None:
    with opened(dsn) as store:
        load = Load(store, writers=1)
        load.tried = [5]
        for number in range(4):
            store.batch(batch(0, number))
        load.acknowledged = dict.fromkeys([(0, 0), (0, 1), (0, 2)], 0.0)
        load.refused = {(0, 3): "nothing was written"}
        load.untyped = [ValueError()]
        store.put(("count", "0"), "latest", {"n": 0})  # an item of its own run twice
        assert chaos.broken(load.audit(store)) == {
            "denied_yet_written": 1,
            "twice": 1,
            "untyped_errors": 1,
        }
        store.delete(("left", "0"), "1")
        assert chaos.broken(load.audit(store)) | {"twice": 1} == {
            "lost": 1,
            "half_written": 1,
            "denied_yet_written": 1,
            "twice": 1,
            "untyped_errors": 1,
        }


# Connections


def test_however_many_connections_are_dead_the_second_attempt_has_one_that_works(
    own: Server, own_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_ATTEMPTS", 2)
    with opened(own_dsn, min_size=8) as store:
        put(store, "dead")
        before = version(store, "dead")

        def wait_until(are_there: Callable[[int], bool]) -> None:
            deadline = time.monotonic() + 10
            count = "SELECT count(*) FROM pg_stat_activity WHERE datname IS NOT NULL"
            while not are_there(own.execute(count)[0][0]):  # its own connection among them
                assert time.monotonic() < deadline
                time.sleep(0.01)

        wait_until(lambda number: number == 9)
        assert own.execute(chaos.CUT, own_dsn)[0][0] == 8
        wait_until(lambda number: number == 1)  # one that is to end may still answer a check
        put(store, "dead")
        assert version(store, "dead") == before + 1


@pytest.mark.usefixtures("impatient")
def test_without_a_server_a_call_fails_soon_and_says_why(own: Server, own_dsn: str) -> None:
    with opened(own_dsn) as store:
        put(store, "down")
        own.stop(SIGKILL)
        try:
            started = time.perf_counter()
            with pytest.raises(
                StoreError, match=r"cannot reach .*check the address and the server"
            ):
                put(store, "down")
            with pytest.raises(StoreError, match="cannot reach"):
                store.get(HERE, "down")
            assert time.perf_counter() - started < 5
        finally:
            own.start()
        assert version(store, "down") == 1
        put(store, "down")
        assert version(store, "down") == 2


@dataclass
class Proxy:
    """Stands between a store and its server; may swallow the answer to a commit, or refuse some."""

    address: str
    swallows: bool = False
    refuses: range = range(0)
    sent: list[bytes] = field(default_factory=list)


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    parts = conninfo_to_dict(dsn)
    upstream = f"{parts['host']}/.s.PGSQL.{parts.get('port', 5432)}"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host, port = listener.getsockname()
        address = make_conninfo(dsn, host=host, port=port, sslmode="disable", gssencmode="disable")
        proxy = Proxy(address)

        def back(server: socket.socket, client: socket.socket, silent: threading.Event) -> None:
            with contextlib.suppress(OSError):
                while data := server.recv(65536):
                    if silent.is_set():
                        break
                    client.sendall(data)
            for end in (client, server):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

        def serve(client: socket.socket) -> None:
            silent = threading.Event()
            with client, socket.socket(socket.AF_UNIX) as server:
                server.connect(upstream)
                answers = threading.Thread(target=back, args=(server, client, silent))
                answers.start()
                with contextlib.suppress(OSError):
                    while data := client.recv(65536):
                        proxy.sent.append(data)
                        if proxy.swallows and b"COMMIT" in data:
                            silent.set()
                        server.sendall(data)
                    server.shutdown(socket.SHUT_WR)
                answers.join()

        def accept() -> None:
            with contextlib.suppress(OSError):
                for number in itertools.count():
                    client, _ = listener.accept()
                    if number in proxy.refuses:
                        client.close()
                        continue
                    serving = threading.Thread(target=serve, args=(client,))
                    serving.start()
                    threads.append(serving)

        threads: list[threading.Thread] = []
        accepting = threading.Thread(target=accept)
        accepting.start()
        yield proxy
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for thread in threads:
            thread.join()


def test_a_commit_whose_answer_is_lost_is_not_run_again(proxy: Proxy) -> None:
    with opened(proxy.address) as store:
        put(store)
        proxy.swallows = True
        with pytest.raises(StoreError, match="broke while it committed: all was written, or noth"):
            put(store)
        proxy.swallows = False
        assert version(store) == 2


def test_a_connection_that_breaks_in_the_last_attempt_to_commit_is_no_denial(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_ATTEMPTS", 1)
    with opened(proxy.address) as store:
        put(store)
        proxy.swallows = True
        with pytest.raises(StoreError, match="broke while it committed"):
            put(store)


def test_a_pool_whose_first_connections_fail_opens_all_the_same(proxy: Proxy) -> None:
    proxy.refuses = range(3, 11)  # behind the three that look at the server
    with opened(proxy.address) as store:
        started = time.perf_counter()
        put(store)
        assert time.perf_counter() - started < 5


def test_a_read_is_one_round_trip(proxy: Proxy) -> None:
    with opened(proxy.address, min_size=1, max_size=1) as store:
        put(store)
        for _ in range(10):  # then its statement is prepared
            store.get(HERE, "k")
        proxy.sent.clear()
        assert store.get(HERE, "k") is not None
        assert len(proxy.sent) == 1


# What an error says


def test_a_statement_that_takes_too_long_ends_and_says_so(own_dsn: str) -> None:
    slow = Database(
        own_dsn, pool_config={"statement_timeout_s": 0.2}, check=lambda connection: None
    )
    with contextlib.closing(slow):
        with pytest.raises(StoreError, match=r"longer than statement_timeout_s.*nothing was writt"):
            slow.run(lambda connection: connection.execute("SELECT pg_sleep(5)"))
        # Setting up and building indexes are not held to it.
        with slow.connect() as connection:
            assert connection.execute("SHOW statement_timeout").fetchone() == ("0",)


def test_the_default_is_a_minute_and_an_address_may_say_otherwise(own_dsn: str) -> None:
    for address, timeout in (
        (own_dsn, "1min"),
        (make_conninfo(own_dsn, options="-c statement_timeout=5000"), "5s"),
        (make_conninfo(own_dsn, options="-c work_mem=8MB"), "1min"),
    ):
        plain = Database(address, check=lambda connection: None)
        with contextlib.closing(plain):
            shown = plain.run(lambda connection: connection.execute("SHOW statement_timeout"))
            assert shown.fetchone() == (timeout,)


@pytest.mark.usefixtures("impatient")
def test_an_exhausted_pool_says_how_large_it_is(dsn: str) -> None:
    with opened(dsn, min_size=1, max_size=1) as store, psycopg.connect(dsn) as locker:
        put(store)
        locker.execute("LOCK TABLE memkit_items IN ACCESS EXCLUSIVE MODE")
        holding = threading.Thread(target=put, args=(store,))
        holding.start()
        while not locker.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone():
            time.sleep(0.01)
        with pytest.raises(StoreError, match=r"all 1 of the pool were in use.*raise max_size"):
            put(store)
        locker.rollback()
        holding.join()
        assert version(store) == 2


def test_a_standby_and_a_crowded_server_are_called_by_their_names(own: Server) -> None:
    dsn = own.database()
    name = conninfo_to_dict(dsn)["dbname"]
    own.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with opened(dsn) as store, pytest.raises(StoreError, match="is read-only: is it a standby"):
        put(store)
    own.execute("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    with pytest.raises(StoreError, match="takes no more connections: lower max_size"):
        opened(make_conninfo(dsn, user="crowd"))
