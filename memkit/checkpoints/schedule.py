"""Pruning again and again, by one of all the processes that are told to."""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, Any, Protocol

import psycopg

from memkit.checkpoints.prune import prune
from memkit.checkpoints.report import PruneReport
from memkit.errors import ConfigError, PruneUnsafe
from memkit.facts.staleness import duration
from memkit.secrets import redacted

_log = logging.getLogger(__name__)

_ASK_AGAIN_S = 15.0  # who waits for its turn looks so often whether the other is still there


class Turn(Protocol):
    """Says whether this process is the one that prunes; whoever dies gives it up."""

    def is_ours(self) -> bool:
        """Take the turn if nobody has it, and return whether this process has it."""

    def release(self) -> None:
        """Give it up."""


class PostgresTurn:
    """The turn of a Postgres database: an advisory lock of a transaction that stays open.

    It has neither a snapshot nor an id, so it keeps no vacuum waiting, and it works behind
    PgBouncer, where the lock of a session would stay with a connection that others use.

    Args:
        conninfo: A PostgreSQL connection string.
    """

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._connection: psycopg.Connection[Any] | None = None

    def is_ours(self) -> bool:
        """Take the turn if nobody has it, and return whether this process has it."""
        if self._connection is not None:
            try:
                self._connection.execute("SELECT 1")
            except psycopg.Error:
                self.release()  # the server was restarted, say, and another may have it by now
            else:
                return True
        connection = psycopg.connect(self._conninfo, application_name="memkit prune")
        try:
            connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
            row = connection.execute(
                "SELECT pg_try_advisory_xact_lock(hashtext('memkit checkpoints prune'))"
            ).fetchone()
        except BaseException:
            connection.close()
            raise
        if row != (True,):
            connection.close()
            return False
        self._connection = connection
        return True

    def release(self) -> None:
        """Give it up."""
        if self._connection is not None:
            with suppress(psycopg.Error):
                self._connection.close()
            self._connection = None


class FileTurn:
    """The turn of a file: a lock of the operating system on a file beside it.

    Args:
        path: The database of a SqliteSaver.
    """

    def __init__(self, path: str | Path) -> None:
        self._path = Path(f"{path}.memkit-prune")
        self._file: IO[str] | None = None

    def is_ours(self) -> bool:
        """Take the turn if nobody has it, and return whether this process has it."""
        if self._file is not None:
            return True
        try:
            import fcntl
        except ImportError:  # Windows: two that prune do each other's work, and no harm
            return True
        file = self._path.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            return False
        self._file = file
        return True

    def release(self) -> None:
        """Give it up; the file stays, for removing it would let two have a lock."""
        if self._file is not None:
            self._file.close()
            self._file = None


def prune_every(
    every: str | timedelta,
    opened: Callable[[], AbstractContextManager[Any]],
    turn: Turn,
    *,
    stop: threading.Event | None = None,
    told: Callable[[PruneReport], object] | None = None,
    **what: Any,
) -> None:
    """Prune until told to stop; of several processes that do, one at a time.

    The others wait, and one of them goes on when that one has ended, however it ended. Where the
    database is away, the next round tries again.

    Args:
        every: The time from the end of one round to the begin of the next: "1h", "PT30M".
        opened: Opens a saver for a round.
        turn: Of the database.
        stop: Ends it, between two rounds.
        told: Is called with the report of each round.
        what: Goes to `prune`.

    Raises:
        ConfigError: An argument makes no sense.
    """
    pause = duration(every).total_seconds()
    if pause <= 0:
        raise ConfigError(f"the time between two rounds is above 0, got {every!r}")
    stop = stop or threading.Event()
    waiting = False
    with _released(turn):
        while not stop.is_set():
            try:
                ours = turn.is_ours()
                if ours:
                    report = _round(opened, what)
            except ConfigError:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a database fails with
                _log.warning(
                    "pruning failed, and is tried again in %g s: %s", pause, redacted(str(error))
                )
                stop.wait(pause)
                continue
            if not ours:
                if not waiting:
                    _log.warning("another process prunes; this one goes on when it has ended")
                waiting = True
                stop.wait(min(pause, _ASK_AGAIN_S))
                continue
            waiting = False
            if told is not None:
                told(report)
            stop.wait(pause)


def _round(opened: Callable[[], AbstractContextManager[Any]], what: dict[str, Any]) -> PruneReport:
    with opened() as saver:
        try:
            return prune(saver, **what)
        except PruneUnsafe as error:
            report: PruneReport | None = error.report
            if report is None:
                raise
            return report


@contextmanager
def _released(turn: Turn) -> Iterator[None]:
    try:
        yield
    finally:
        turn.release()
