"""`memkit checkpoints`: what they take, removing what nobody needs, moving them."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from memkit.errors import ConfigError, CopyConflict, CopyFailed, PruneUnsafe

if TYPE_CHECKING:
    from memkit.checkpoints import CopyReport, PruneReport

_SAVER = "postgresql://user:password@host/database of a PostgresSaver, or the file of a SqliteSaver"
_EXIT_REFUSED = 1


def add_commands(commands: Any) -> None:
    """Add `checkpoints` and what belongs to it to the parser of the command line."""
    checkpoints = commands.add_parser(
        "checkpoints", help="see, prune and move the checkpoints of a LangGraph saver"
    )
    actions = checkpoints.add_subparsers(required=True, metavar="action")

    report = actions.add_parser(
        "report",
        help="rows and bytes by table and thread, how they grow, and what they will take",
        description="Say what checkpoints take, which threads are the largest, and how they grow "
        "with their turns. With --users, --turns, --nodes and --days also what so many take, in "
        "each durability mode, plain, trimmed and pruned.",
        epilog="example: memkit checkpoints report app.sqlite --users 200 --turns 15 --nodes 6 "
        "--days 90",
    )
    report.add_argument("saver", metavar="SAVER", help=_SAVER)
    report.add_argument(
        "--largest", metavar="N", type=int, default=10, help="threads to name; default: 10"
    )
    _add_threads(report)
    for name in ("users", "turns", "nodes", "days"):
        report.add_argument(f"--{name}", metavar="N", type=int)
    report.add_argument("--json", action="store_true", help="for programs")
    report.set_defaults(run=_report)

    prune = actions.add_parser(
        "prune",
        help="remove checkpoints that nothing needs any more",
        description="Remove what is beyond the last N checkpoints of its thread AND older AND has "
        "the metadata AND belongs to a thread that takes more bytes, as far as each is asked for. "
        "It works beside live traffic. Stopped at any moment, the same command goes on.",
        epilog="example: memkit checkpoints prune postgresql://localhost/app --keep-last 5 "
        "--older-than 30d --every 1h",
    )
    prune.add_argument("saver", metavar="SAVER", help=_SAVER)
    prune.add_argument("--keep-last", metavar="N", type=int, help="per thread and namespace")
    prune.add_argument("--older-than", metavar="AGE", help="30d, 12h, P1M")
    prune.add_argument("--max-bytes", metavar="N", type=int, help="what a thread may take")
    prune.add_argument(
        "--thread-ttl", metavar="AGE", help="threads go entirely in which nothing was for so long"
    )
    prune.add_argument(
        "--metadata", metavar="NAME=VALUE", nargs="+", help="what the metadata of what goes has"
    )
    prune.add_argument(
        "--pinned", metavar="ID", nargs="+", default=[], help="checkpoints that stay"
    )
    _add_threads(prune)
    prune.add_argument("--batch-rows", metavar="N", type=int, default=500, help="per transaction")
    prune.add_argument(
        "--rest",
        metavar="TIMES",
        type=float,
        default=4.0,
        help="how long to rest after each transaction, as a multiple of what it took; default: 4",
    )
    how = prune.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="say what would go, and stop")
    how.add_argument("--yes", action="store_true", help="do not ask")
    how.add_argument(
        "--every",
        metavar="TIME",
        help="prune again and again, so long after each round: 1h; of all processes that do so "
        "one at a time does it",
    )
    prune.add_argument("--json", action="store_true", help="for programs; a line per round")
    prune.set_defaults(run=_prune, resumable=True)

    copy = actions.add_parser(
        "copy",
        help="copy threads to another saver, with their history, and compare",
        description="Copy threads with all their checkpoints and writes, and compare every state. "
        "SOURCE is only read, and what is in TARGET is never overwritten. Stopped at any moment, "
        "the same command goes on.",
        epilog="example: memkit checkpoints copy app.sqlite postgresql://localhost/app",
    )
    copy.add_argument("source", metavar="SOURCE", help=_SAVER)
    copy.add_argument("target", metavar="TARGET", help="the same; its tables are made")
    _add_threads(copy)
    copy.add_argument("--dry-run", action="store_true", help="say what would be copied, and stop")
    copy.add_argument("--json", action="store_true", help="for programs")
    copy.set_defaults(run=_copy, resumable=True)


def _add_threads(parser: Any) -> None:
    parser.add_argument(
        "--thread", dest="threads", metavar="ID", nargs="+", help="which; default: all"
    )


def _report(arguments: argparse.Namespace) -> int:
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
    print(_plain(str(report)))
    if estimate is not None:
        print(f"\n{estimate}")
    return 0


def _prune(arguments: argparse.Namespace) -> int:
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
        print(_plain(str(report)), file=sys.stderr)
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


def _told(report: "PruneReport", arguments: argparse.Namespace) -> int:
    text = json.dumps(report.as_dict()) if arguments.json else _plain(str(report))
    print(text, flush=True)
    return _EXIT_REFUSED if report.refused else 0


def _prune_every(arguments: argparse.Namespace, what: dict[str, Any]) -> int:
    from memkit.checkpoints.schedule import FileTurn, PostgresTurn, Turn, prune_every

    address = arguments.saver
    turn: Turn = PostgresTurn(address) if _is_postgres(address) else FileTurn(_file(address))
    # A wrong argument or address ends it now rather than be tried again for ever.
    _pruned(address, {**what, "dry_run": True, "thread_ids": []})
    # As a supervisor ends a service: at any moment, for nothing is half done.
    signal.signal(signal.SIGTERM, _ended)
    prune_every(
        arguments.every,
        lambda: _opened(address),
        turn,
        told=partial(_told, arguments=arguments),
        **what,
    )
    return 0


def _ended(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


def _copy(arguments: argparse.Namespace) -> int:
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
    print(json.dumps(report.as_dict()) if arguments.json else _plain(str(report)))
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


def _plain(text: str) -> str:
    """Return a text without what would steer a terminal: ids come from whoever began a thread."""
    return "".join(
        char if char.isprintable() or char == "\n" else f"\\x{ord(char):02x}" for char in text
    )
