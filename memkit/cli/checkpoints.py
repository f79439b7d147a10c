"""`memkit checkpoints`: what they take, removing what nobody needs, moving them."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.options import Json, Yes, only_one
from memkit.cli.output import visible
from memkit.errors import ConfigError, CopyConflict, CopyFailed, PruneUnsafe

if TYPE_CHECKING:
    from memkit.checkpoints import CopyReport, PruneReport

_SAVER = "postgresql://user:password@host/database of a PostgresSaver, or the file of a SqliteSaver"
_EXIT_REFUSED = 1


app = typer.Typer(help="see, prune and move the checkpoints of a LangGraph saver")

Saver = Annotated[str, typer.Argument(metavar="SAVER", help=_SAVER)]
Threads = Annotated[
    list[str] | None, typer.Option("--thread", metavar="ID...", help="which; default: all")
]
Number = Annotated[int | None, typer.Option(metavar="N")]


@app.command(
    "report",
    short_help="rows and bytes by table and thread, how they grow, and what they will take",
    epilog="example: memkit checkpoints report app.sqlite --users 200 --turns 15 --nodes 6 "
    "--days 90",
)
def report(
    saver: Saver,
    largest: Annotated[int, typer.Option(metavar="N", help="threads to name")] = 10,
    threads: Threads = None,
    users: Number = None,
    turns: Number = None,
    nodes: Number = None,
    days: Number = None,
    json: Json = False,
) -> int:
    """Say what checkpoints take, which threads are the largest, and how they grow.

    With --users, --turns, --nodes and --days also what so many take, in each durability mode,
    plain, trimmed and pruned.
    """
    return _report(SimpleNamespace(**locals()))


@app.command(
    "prune",
    short_help="remove checkpoints that nothing needs any more",
    epilog="example: memkit checkpoints prune postgresql://localhost/app --keep-last 5 "
    "--older-than 30d --every 1h",
)
def prune(
    saver: Saver,
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", help="per thread and namespace")
    ] = None,
    older_than: Annotated[str | None, typer.Option(metavar="AGE", help="30d, 12h, P1M")] = None,
    max_bytes: Annotated[
        int | None, typer.Option(metavar="N", help="what a thread may take")
    ] = None,
    thread_ttl: Annotated[
        str | None,
        typer.Option(metavar="AGE", help="threads go entirely in which nothing was for so long"),
    ] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=VALUE...", help="what the metadata of what goes has"),
    ] = None,
    pinned: Annotated[
        list[str] | None, typer.Option(metavar="ID...", help="checkpoints that stay")
    ] = None,
    threads: Threads = None,
    batch_rows: Annotated[int, typer.Option(metavar="N", help="per transaction")] = 500,
    rest: Annotated[
        float,
        typer.Option(
            metavar="TIMES",
            help="how long to rest after each transaction, as a multiple of what it took",
        ),
    ] = 4.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="say what would go, and stop")] = False,
    yes: Yes = False,
    every: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="prune again and again, so long after each round: 1h; of all processes that do "
            "so one at a time does it",
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="for programs; a line per round")] = False,
) -> int:
    """Remove what is beyond the last N checkpoints AND older AND has the metadata, as asked for.

    It works beside live traffic. Stopped at any moment, the same command goes on.
    """
    pinned = pinned or []
    arguments = SimpleNamespace(**locals())
    only_one(arguments, "dry_run", "yes", "every")
    return _prune(arguments)


@app.command(
    "copy",
    short_help="copy threads to another saver, with their history, and compare",
    epilog="example: memkit checkpoints copy app.sqlite postgresql://localhost/app",
)
def copy(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help=_SAVER)],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="the same; its tables are made")],
    threads: Threads = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be copied, and stop")
    ] = False,
    json: Json = False,
) -> int:
    """Copy threads with all their checkpoints and writes, and compare every state.

    SOURCE is only read, and what is in TARGET is never overwritten. Stopped at any moment, the
    same command goes on.
    """
    return _copy(SimpleNamespace(**locals()))


def _report(arguments: SimpleNamespace) -> int:
    from memkit import checkpoints

    asked = {name: getattr(arguments, name) for name in ("users", "turns", "nodes", "days")}
    missing = [f"--{name}" for name, number in asked.items() if number is None]
    if 0 < len(missing) < len(asked):
        raise ConfigError(f"an estimate needs {', '.join(missing)} as well")
    with _opened(arguments.saver) as saver:
        report = checkpoints.report(saver, largest=arguments.largest, thread_ids=arguments.threads)
    estimate = None if missing else checkpoints.estimate(report, **asked)
    if arguments.json:
        more = {} if estimate is None else {"estimate": estimate.as_dict()}
        print(json.dumps({**report.as_dict(), **more}))
        return 0
    print(visible(report, lines=True))
    if estimate is not None:
        print(f"\n{estimate}")
    return 0


def _prune(arguments: SimpleNamespace) -> int:
    what: dict[str, Any] = {
        "keep_last": arguments.keep_last,
        "older_than": arguments.older_than,
        "max_bytes": arguments.max_bytes,
        "metadata": _metadata(arguments.metadata),
        "thread_ttl": arguments.thread_ttl,
        "pinned": arguments.pinned,
        "thread_ids": arguments.threads,
        "batch_rows": arguments.batch_rows,
        "rest": arguments.rest,
    }
    if arguments.every is not None:
        return _prune_every(arguments, what)
    if arguments.dry_run or not arguments.yes:
        report = _pruned(arguments.saver, {**what, "dry_run": True})
        if arguments.dry_run or not report.rows:
            return _told(report, arguments)
        if not sys.stdin.isatty():
            raise ConfigError("say --yes to remove, or --dry-run to see what would go")
        print(visible(report, lines=True), file=sys.stderr)
        if input("remove these? [y/N] ").strip().lower() not in {"y", "yes"}:
            print("nothing was removed", file=sys.stderr)
            return 0
    return _told(_pruned(arguments.saver, what), arguments)


def _pruned(address: str, what: dict[str, Any]) -> "PruneReport":
    from memkit import checkpoints

    with _opened(address) as saver:
        try:
            return checkpoints.prune(saver, **what)
        except PruneUnsafe as error:
            if error.report is None:
                raise
            report: PruneReport = error.report
            return report


def _told(report: "PruneReport", arguments: SimpleNamespace) -> int:
    text = json.dumps(report.as_dict()) if arguments.json else visible(report, lines=True)
    print(text, flush=True)
    return _EXIT_REFUSED if report.refused else 0


def _prune_every(arguments: SimpleNamespace, what: dict[str, Any]) -> int:
    from memkit.checkpoints.schedule import FileTurn, PostgresTurn, Turn, prune_every

    address = arguments.saver
    turn: Turn = PostgresTurn(address) if _is_postgres(address) else FileTurn(_file(address))
    # A wrong argument or address ends it now rather than be tried again for ever.
    _pruned(address, {**what, "dry_run": True, "thread_ids": []})
    # As a supervisor ends a service: at any moment, for nothing is half done.
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        prune_every(
            arguments.every,
            lambda: _opened(address),
            turn,
            told=partial(_told, arguments=arguments),
            **what,
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _ended(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _copy(arguments: SimpleNamespace) -> int:
    from memkit import checkpoints

    if arguments.source == arguments.target:
        raise ConfigError("SOURCE and TARGET are one")
    with (
        _opened(arguments.source) as source,
        _opened(arguments.target, new=True, setup=not arguments.dry_run) as target,
    ):
        try:
            report: CopyReport = checkpoints.copy(
                source, target, thread_ids=arguments.threads, dry_run=arguments.dry_run
            )
        except (CopyConflict, CopyFailed) as error:
            if getattr(error, "report", None) is None:
                raise
            report = error.report
    print(json.dumps(report.as_dict()) if arguments.json else visible(report, lines=True))
    return _EXIT_REFUSED if report.refused else 0


@contextmanager
def _opened(address: str, *, new: bool = False, setup: bool = False) -> Iterator[Any]:
    """Open the saver at an address.

    Args:
        address: Of Postgres, or a file.
        new: Whether the file may be made.
        setup: Whether its tables are made.

    Raises:
        ConfigError: The package of the saver is missing, or the file.
        StoreError: The address is none.
    """
    if _is_postgres(address):
        from memkit.db.pool import place

        place(address)  # a wrong address fails here, without its text
        try:
            from langgraph.checkpoint.postgres import PostgresSaver
        except ImportError:
            raise ConfigError(
                "a PostgresSaver needs: pip install langgraph-checkpoint-postgres"
            ) from None
        with PostgresSaver.from_conn_string(address) as saver:
            if setup:
                saver.setup()
            yield saver
        return
    path = _file(address)
    if not new and not path.is_file():
        named = "of this name" if "@" in address or "password" in address else repr(address)
        raise ConfigError(f"there is no file {named}; an address begins with postgresql://")
    try:
        from langgraph.checkpoint.sqlite import SqliteSaver
    except ImportError:
        raise ConfigError("a SqliteSaver needs: pip install langgraph-checkpoint-sqlite") from None
    with SqliteSaver.from_conn_string(str(path)) as saver:
        if setup:
            saver.setup()
        yield saver


def _is_postgres(address: str) -> bool:
    return address.startswith(("postgresql://", "postgres://"))


def _file(address: str) -> Path:
    if "://" in address:
        raise ConfigError(
            f"{address.split('://', maxsplit=1)[0]}:// is neither Postgres nor a file"
        )
    return Path(address)


def _metadata(pairs: list[str] | None) -> dict[str, Any] | None:
    """Read NAME=VALUE; a value is JSON where it can be read so, else a text."""
    if pairs is None:
        return None
    found: dict[str, Any] = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not name or not sign:
            raise ConfigError(f"--metadata takes NAME=VALUE, got {pair!r}")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found
