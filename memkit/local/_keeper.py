"""Stops the embedded server when its last user is gone, even by kill -9.

Run as a script by `_postgres`, in a session of its own and with the standard library alone. Every
process that uses a data directory holds a shared lock on its `.users` file, which the kernel drops
when the process dies in whatever way. The keeper waits for the exclusive lock on that file: once it
has it, nobody is left, and it stops the server.

    python _keeper.py DIRECTORY PG_CTL USER_ID GROUP_ID
"""

import fcntl
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

STOP_TIMEOUT_S = 60


class Running(NamedTuple):
    """What a server writes about itself into postmaster.pid."""

    pid: int
    socket: Path
    status: str


def read_pid_file(data: Path) -> Running | None:
    """Return what postmaster.pid says, or None where it is missing or not yet complete."""
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        # pid, directory, start, port, socket directory, host, shared memory, status
        return Running(int(lines[0]), Path(lines[4]) / f".s.PGSQL.{lines[3]}", lines[7].strip())
    except (OSError, ValueError, IndexError):
        return None


def listening(data: Path) -> Running | None:
    """Return the server of a data directory if it answers on its socket.

    The socket tells a live server from a stale pid file whose number now is another process.
    """
    server = read_pid_file(data)
    if server is None:
        return None
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(5)
        try:
            probe.connect(str(server.socket))
        except OSError:
            return None
    return server


def stop(data: Path, pg_ctl: Path, identity: Mapping[str, int]) -> bool:
    """Stop the server of a data directory and wait for its end; True if none is left."""
    for mode in ("fast", "immediate"):
        if listening(data) is None:
            return True
        subprocess.run(  # noqa: S603 - our own binary
            [pg_ctl, "stop", "-w", "-t", str(STOP_TIMEOUT_S), "-m", mode, "-D", data],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            check=False,
            **identity,  # type: ignore[call-overload]
        )
    return listening(data) is None


def main(directory: str, pg_ctl: str, user: str, group: str) -> None:
    """Become a daemon, wait until nobody uses the directory, and stop its server."""
    data = Path(directory, "data")
    identity = {"user": int(user), "group": int(group)} if os.geteuid() == 0 else {}
    single = os.open(Path(directory, ".keeper"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(single, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return  # there is a keeper already
    if os.fork():
        # The starter waits for this exit: from then on the keeper's lock is seen to be held.
        os._exit(0)
    os.chdir("/")
    users = os.open(Path(directory, ".users"), os.O_RDWR)
    fcntl.flock(users, fcntl.LOCK_EX)
    # A starter that died a moment ago may have left a server that does not listen yet.
    for _ in range(10):
        if listening(data) or not (data / "postmaster.pid").exists():
            break
        time.sleep(0.1)
    stop(data, Path(pg_ctl), identity)
    # The end of the process drops both locks, first the keeper's: whoever gets `.users` next
    # must find that it needs a keeper of its own.
    os.close(single)
    os.close(users)


if __name__ == "__main__":
    main(*sys.argv[1:])
