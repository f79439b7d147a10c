"""`memkit checkpoints`: what they take, removing what nobody needs, moving them."""

import signal
import sys
from functools import partial
from json import loads
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from memkit.cli.options import Json, Yes, only_one
from memkit.cli.output import agrees, emit, progress, say
from memkit.cli.places import file_of, is_postgres, opened_saver
from memkit.errors import ConfigError, CopyConflict, CopyFailed, PruneUnsafe

if TYPE_CHECKING:
    from collections.abc import Callable

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
    from memkit import checkpoints

    asked = {"users": users, "turns": turns, "nodes": nodes, "days": days}
    given = {name: number for name, number in asked.items() if number is not None}
    if given and len(given) < len(asked):
        missing = ", ".join(f"--{name}" for name in asked if name not in given)
        raise ConfigError(f"an estimate needs {missing} as well")
    with opened_saver(saver) as opened:
        found = checkpoints.report(opened, largest=largest, thread_ids=threads)
    estimate = checkpoints.estimate(found, **given) if given else None
    if json:
        more = {} if estimate is None else {"estimate": estimate.as_dict()}
        emit({**found.as_dict(), **more})
        return 0
    say(found)
    if estimate is not None:
        say(f"\n{estimate}")
    return 0


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
    only_one({"--dry-run": dry_run, "--yes": yes, "--every": every})
    what: dict[str, Any] = {
        "keep_last": keep_last,
        "older_than": older_than,
        "max_bytes": max_bytes,
        "metadata": _metadata(metadata),
        "thread_ttl": thread_ttl,
        "pinned": pinned or [],
        "thread_ids": threads,
        "batch_rows": batch_rows,
        "rest": rest,
    }
    told = partial(_told, as_json=json)
    if every is not None:
        return _prune_every(saver, every, what, told)
    if dry_run or not yes:
        planned = _pruned(saver, {**what, "dry_run": True})
        if dry_run or not planned.rows:
            return told(planned)
        say(planned, error=True)
        if not agrees("remove these?", without="--yes, or --dry-run to see what would go"):
            say("nothing was removed", error=True)
            return 0
    return told(_pruned(saver, what))


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
    from memkit import checkpoints

    if source == target:
        raise ConfigError("SOURCE and TARGET are one")
    with (
        opened_saver(source) as old,
        opened_saver(target, new=True, setup=not dry_run) as new,
        progress("threads looked at" if dry_run else "threads copied") as advance,
    ):
        try:
            report: CopyReport = checkpoints.copy(
                old, new, thread_ids=threads, dry_run=dry_run, progress=advance
            )
        except (CopyConflict, CopyFailed) as error:
            if getattr(error, "report", None) is None:
                raise
            report = error.report
    if json:
        emit(report.as_dict())
    else:
        say(report)
    return _EXIT_REFUSED if report.refused else 0


def _pruned(address: str, what: dict[str, Any]) -> "PruneReport":
    from memkit import checkpoints

    doing = "threads looked at" if what.get("dry_run") else "threads pruned"
    with opened_saver(address) as saver, progress(doing) as advance:
        try:
            return checkpoints.prune(saver, **what, progress=advance)
        except PruneUnsafe as error:
            if error.report is None:
                raise
            report: PruneReport = error.report
            return report


def _told(report: "PruneReport", *, as_json: bool) -> int:
    if as_json:
        emit(report.as_dict())
    else:
        say(report)
    return _EXIT_REFUSED if report.refused else 0


def _prune_every(
    address: str, every: str, what: dict[str, Any], told: "Callable[[PruneReport], object]"
) -> int:
    from memkit.checkpoints.schedule import FileTurn, PostgresTurn, Turn, prune_every

    turn: Turn = PostgresTurn(address) if is_postgres(address) else FileTurn(file_of(address))
    # A wrong argument or address ends it now rather than be tried again for ever.
    _pruned(address, {**what, "dry_run": True, "thread_ids": []})
    # As a supervisor ends a service: at any moment, for nothing is half done.
    before = signal.signal(signal.SIGTERM, _ended)
    try:
        prune_every(every, lambda: opened_saver(address), turn, told=told, **what)
    finally:
        signal.signal(signal.SIGTERM, before)
    return 0


def _ended(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


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
            found[name] = loads(value)
        except ValueError:
            found[name] = value
    return found
