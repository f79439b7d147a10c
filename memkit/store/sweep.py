"""Deleting what has expired, and the versions that are no longer kept.

A tenant at a time, since Citus refuses to lock rows of all, and few rows at a time, so that nobody
waits long for one of them. Several workers share the work: none waits for what another has locked.
"""

# ruff: noqa: S608 - statements are put together from constants

import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from psycopg.rows import tuple_row

from memkit.db.database import Database
from memkit.db.pool import Connection
from memkit.errors import MemkitError
from memkit.store import tenants
from memkit.store.plan import Statement
from memkit.store.versions import History

logger = logging.getLogger(__name__)

_INTERVAL_MINUTES = 5.0
_ROWS = 1000

_EXPIRED = "expires_at <= %(now)s::timestamptz"
_NOT_KEPT = f"(ended_at <= %(before)s::timestamptz OR {_EXPIRED})"
_TENANTS = "SELECT DISTINCT tenant FROM {table} WHERE {over}"
_DELETE = f"""
DELETE FROM {{table}}
WHERE tenant = %(tenant)s AND ({{key}}) IN (
    SELECT {{key}} FROM {{table}}
    WHERE tenant = %(tenant)s AND {{over}}
    LIMIT {_ROWS} FOR UPDATE SKIP LOCKED
)
"""
_ITEMS = {"table": "memkit_items", "key": "namespace, key", "over": _EXPIRED}
_VERSIONS = {"table": "memkit_history", "key": "namespace, key, version", "over": _NOT_KEPT}


@dataclass(slots=True)
class Sweeper:
    """Sweeps a store, when asked and in the background.

    Attributes:
        database: The database.
        history: Which versions are kept.
        named: Lets work name its tenants first, where the database hides those not named.
    """

    database: Database
    history: History
    named: Callable[[Callable[[Connection], Any], Statement], Callable[[Connection], Any]]
    _running: Future[None] | None = None
    _stopping: threading.Event = field(default_factory=threading.Event)

    def sweep(self) -> int:
        """Sweep once; return how many items had expired."""
        [[now]] = self.database.run(partial(_rows, Statement("SELECT now()", {})), writes=False)
        keep = self.history.keep
        when = {"now": now, "before": None if keep is None else now - keep}
        self._sweep(_VERSIONS, when)
        return self._sweep(_ITEMS, when)

    def _sweep(self, rows: Mapping[str, str], when: Mapping[str, Any]) -> int:
        find = partial(_rows, Statement(_TENANTS.format(**rows), when))
        return sum(
            self._sweep_tenant(_DELETE.format(**rows), {**when, "tenant": tenant})
            for (tenant,) in self.database.run(self.named(find, tenants.ALL))
        )

    def _sweep_tenant(self, delete: str, params: Mapping[str, Any]) -> int:
        name = tenants.name([params["tenant"]])
        work = self.named(partial(_deleted, Statement(delete, params)), name)
        deleted = rows = int(self.database.run(work))
        while rows == _ROWS and not self._stopping.is_set():
            rows = int(self.database.run(work))
            deleted += rows
        return deleted

    def start(self, interval_minutes: float | None = None) -> Future[None]:
        """Sweep in the background, every 5 minutes by default; return what ends with it."""
        if self._running is None or self._running.done():
            self._running, self._stopping = Future(), threading.Event()
            interval_s = (interval_minutes or _INTERVAL_MINUTES) * 60
            threading.Thread(
                target=self._keep_sweeping,
                args=(interval_s, self._stopping, self._running),
                name="memkit-ttl-sweeper",
                daemon=True,
            ).start()
        return self._running

    def stop(self, timeout_s: float | None = None) -> bool:
        """Stop sweeping in the background; return whether it has ended."""
        if self._running is None:
            return True
        self._stopping.set()
        try:
            self._running.result(timeout_s)
        except TimeoutError:
            return False
        self._running, self._stopping = None, threading.Event()
        return True

    def _keep_sweeping(self, interval_s: float, stop: threading.Event, done: Future[None]) -> None:
        try:
            while not stop.wait(interval_s):
                try:
                    self.sweep()
                except MemkitError as error:
                    logger.warning("sweeping expired items failed, trying again later: %s", error)
        finally:
            done.set_result(None)


def _rows(statement: Statement, connection: Connection) -> list[Any]:
    with connection.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(*statement).fetchall()


def _deleted(statement: Statement, connection: Connection) -> int:
    return connection.execute(*statement).rowcount
