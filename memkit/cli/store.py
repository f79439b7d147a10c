"""`memkit store`: bring a store along."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from memkit.cli.facts import _database, _embeddings
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.store import SemanticStore
    from memkit.store.reembed import Move
    from memkit.store.transfer import ImportReport

_EVERY_S = 1.0  # between two lines of progress


def add_commands(commands: Any) -> None:
    """Add `store` and what belongs to it to the parser of the command line."""
    store = commands.add_parser("store", help="bring a store along")
    actions = store.add_subparsers(required=True, metavar="action")

    copy = actions.add_parser(
        "import",
        help="copy a PostgresStore of LangGraph, with its vectors and times to live",
        description="Copy the items, vectors and times to live of a PostgresStore; it is only "
        "read. What is there already stays as it is. Stopped at any moment, the same command goes "
        "on.",
    )
    copy.add_argument(
        "source", metavar="SOURCE", help="postgresql://user:password@host/database of PostgresStore"
    )
    copy.add_argument(
        "--to",
        dest="dsn",
        metavar="DSN",
        help="the database to copy into, which may be the same; default: the embedded Postgres",
    )
    copy.add_argument(
        "--fields",
        metavar="PATH",
        nargs="+",
        default=["text"],
        help='what is to be indexed of a value; default: text ("$": all of it)',
    )
    how = copy.add_mutually_exclusive_group()
    how.add_argument(
        "--embed",
        metavar="NAME",
        help='embeddings for texts whose vectors do not fit: "local", or a name for LangChain\'s '
        'init_embeddings; default with --to: none, else "local"',
    )
    how.add_argument(
        "--search-mode", choices=["text"], help="text: leave vectors out, and search by words alone"
    )
    copy.add_argument(
        "--overwrite",
        action="store_true",
        help="let items that are there become as in SOURCE, unless they already are",
    )
    copy.add_argument("--batch-size", metavar="N", type=int, default=1_000)
    copy.add_argument("--dry-run", action="store_true", help="count what would be copied, and stop")
    copy.add_argument("--json", action="store_true", help="for programs")
    copy.set_defaults(run=_import, resumable=True)

    move = actions.add_parser(
        "reembed",
        help="move the vectors to other embeddings, while the store is used",
        description="Give every text a vector of other embeddings, and make them the store's. "
        "Processes with the old embeddings are served meanwhile, and until --finish. Stopped at "
        "any moment, the same command goes on.",
    )
    move.add_argument(
        "--dsn", help="postgresql://user:password@host/database; default: the embedded Postgres"
    )
    move.add_argument(
        "--embed",
        metavar="NAME",
        help='the new embeddings: "local", or a name for LangChain\'s init_embeddings',
    )
    move.add_argument("--dims", metavar="N", type=int, help="their length; default: measured")
    move.add_argument(
        "--vector-type", choices=["halfvec", "vector"], help="default: as the vectors are now"
    )
    move.add_argument("--batch-size", metavar="N", type=int, default=500, help="texts per call")
    end = move.add_mutually_exclusive_group()
    end.add_argument(
        "--finish",
        action="store_true",
        help="drop the old vectors at the end: no process may use the old embeddings any more",
    )
    end.add_argument(
        "--abandon", action="store_true", help="give up a move that has not been completed"
    )
    move.add_argument("--json", action="store_true", help="for programs")
    move.set_defaults(run=_reembed, resumable=True)


def _reembed(arguments: argparse.Namespace) -> int:
    from memkit.store.meta import model_of
    from memkit.store.reembed import abandon, reembed

    if arguments.abandon:
        with _database(arguments) as dsn:
            was_moving = abandon(dsn)
        if arguments.json:
            print(json.dumps({"abandoned": was_moving}))
        else:
            print("the move is given up" if was_moving else "no move is under way")
        return 0
    if arguments.embed is None:
        raise ConfigError("say with --embed NAME what the new vectors are made with")
    embeddings = _embeddings(arguments.embed, 0)
    with _database(arguments) as dsn:
        move = reembed(
            dsn,
            embeddings,
            dims=arguments.dims,
            model=model_of(embeddings) or arguments.embed,
            vector_type=arguments.vector_type,
            batch_size=arguments.batch_size,
            finish=arguments.finish,
            progress=_Progress(_told_of_move) if sys.stderr.isatty() else None,
        )
    if arguments.json:
        print(json.dumps(asdict(move)))
        return 0
    print(f"{move.embedded:>9,} texts embedded; the store has the vectors of {move.model!r}")
    if move.dropped:
        print("the old vectors are gone")
    else:
        print(
            "processes with the old embeddings are still served: start them anew with these, then "
            "say --finish"
        )
    return 0


def _told_of_move(move: "Move") -> str:
    return f"{move.embedded:,} of {move.missing:,} texts embedded"


def _told_of_import(report: "ImportReport") -> str:
    return f"{report.read:,} items read, {report.written:,} written"


def _import(arguments: argparse.Namespace) -> int:
    from memkit.store.transfer import import_postgres_store

    if arguments.batch_size < 1:
        raise ConfigError(f"--batch-size is at least 1, not {arguments.batch_size}")
    started = time.monotonic()
    with _database(arguments) as dsn, _store(arguments, dsn) as store:
        report = import_postgres_store(
            arguments.source,
            store,
            batch_size=arguments.batch_size,
            overwrite=arguments.overwrite,
            vectors=arguments.search_mode != "text",
            dry_run=arguments.dry_run,
            progress=_Progress(_told_of_import) if sys.stderr.isatty() else None,
        )
    if arguments.json:
        print(json.dumps({**asdict(report), "dry_run": arguments.dry_run}))
    else:
        _show(report, arguments, time.monotonic() - started)
    return 0


@contextmanager
def _store(arguments: argparse.Namespace, dsn: str) -> Iterator["SemanticStore"]:
    from memkit.store import SemanticStore

    name = arguments.embed
    if name is None and arguments.dsn is None and arguments.search_mode != "text":
        name = "local"
    embed = None if name is None else _embeddings(name, 0)
    mode: Any = "text" if embed is None else "hybrid"
    with SemanticStore.open(dsn, embed=embed, fields=arguments.fields, search_mode=mode) as store:
        if not arguments.dry_run or arguments.dsn is None:
            store.setup()
        yield store


class _Progress:
    """Tells on a terminal how far something is."""

    def __init__(self, tell: Callable[[Any], str]) -> None:
        self._tell = tell
        self._told = time.monotonic()

    def __call__(self, report: Any) -> None:
        if time.monotonic() - self._told >= _EVERY_S:
            self._told = time.monotonic()
            print(self._tell(report), file=sys.stderr, flush=True)


def _show(report: "ImportReport", arguments: argparse.Namespace, seconds: float) -> None:
    would = "would be " if arguments.dry_run else ""
    again = "would be " if arguments.dry_run else "was "
    print(f"{report.read:>9,} items read in {seconds:.1f} s")
    print(f"{report.written:>9,} {would}written")
    print(f"{report.skipped:>9,} there already")
    print(f"{report.expired:>9,} left out: their time to live is over")
    if report.refused:
        print(f"{report.refused:>9,} left out: an empty label, or a value that is no mapping")
    print(f"{report.vectors_copied:>9,} vectors {would}copied")
    print(f"{report.texts_embedded:>9,} texts {would}embedded anew")
    if report.other_embeddings:
        print(
            f"the vectors are of other embeddings than {arguments.embed or 'local'}: none {again}"
            "copied"
        )
    texts = report.vectors_copied + report.texts_embedded + report.texts_without_vector
    if report.written and not texts:
        print(
            f"no item has a text under {' '.join(arguments.fields)}: queries will find none of "
            "them; say with --fields what to index, and --overwrite"
        )
    elif report.texts_without_vector and arguments.search_mode != "text":
        print(
            f"{report.texts_without_vector:>9,} texts have no vector: --embed NAME --overwrite "
            "makes them"
        )
