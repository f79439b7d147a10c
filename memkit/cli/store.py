"""`memkit store`: bring a store along."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memkit.cli.facts import _database, _embeddings
from memkit.cli.options import Dsn, Json, only_one
from memkit.cli.output import emit, table
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.store import SemanticStore
    from memkit.store.reembed import Move
    from memkit.store.transfer import ImportReport

_EVERY_S = 1.0  # between two lines of progress


app = typer.Typer(help="bring a store along, and see what it takes")


@app.command(
    "import",
    short_help="copy a PostgresStore of LangGraph, with its vectors and times to live",
    epilog="example: memkit store import postgresql://.../old --to postgresql://.../new",
)
def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="postgresql://user:password@host/database of PostgresStore"
        ),
    ],
    dsn: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="DSN",
            help="the database to copy into, which may be the same; default: the embedded Postgres",
        ),
    ] = None,
    fields: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH...",
            help='what is to be indexed of a value; default: text ("$": all of it)',
        ),
    ] = None,
    embed: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='embeddings for texts whose vectors do not fit: "local", or a name for '
            'LangChain\'s init_embeddings; default with --to: none, else "local"',
        ),
    ] = None,
    search_mode: Annotated[
        Literal["text"] | None,
        typer.Option(help="text: leave vectors out, and search by words alone"),
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="let items that are there become as in SOURCE, unless they already are",
        ),
    ] = False,
    batch_size: Annotated[int, typer.Option(metavar="N")] = 1_000,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="count what would be copied, and stop")
    ] = False,
    json: Json = False,
) -> int:
    """Copy the items, vectors and times to live of a PostgresStore; it is only read.

    What is there already stays as it is. Stopped at any moment, the same command goes on.
    """
    fields = fields or ["text"]
    arguments = SimpleNamespace(**locals())
    only_one(arguments, "embed", "search_mode")
    return _import(arguments)


@app.command(
    "reembed",
    short_help="move the vectors to other embeddings, while the store is used",
    epilog="example: memkit store reembed --dsn postgresql://... --embed "
    "openai:text-embedding-3-large",
)
def reembed(
    dsn: Dsn = None,
    embed: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help='the new embeddings: "local", or a name for LangChain\'s init_embeddings',
        ),
    ] = None,
    dims: Annotated[
        int | None, typer.Option(metavar="N", help="their length; default: measured")
    ] = None,
    vector_type: Annotated[
        Literal["halfvec", "vector"] | None, typer.Option(help="default: as the vectors are now")
    ] = None,
    batch_size: Annotated[int, typer.Option(metavar="N", help="texts per call")] = 500,
    finish: Annotated[
        bool,
        typer.Option(
            "--finish",
            help="drop the old vectors at the end: no process may use the old embeddings any more",
        ),
    ] = False,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="give up a move that has not been completed")
    ] = False,
    json: Json = False,
) -> int:
    """Give every text a vector of other embeddings, and make them the store's.

    Processes with the old embeddings are served meanwhile, and until --finish. Stopped at any
    moment, the same command goes on.
    """
    arguments = SimpleNamespace(**locals())
    only_one(arguments, "finish", "abandon")
    return _reembed(arguments)


@app.command(
    "stats",
    short_help="items, texts, tenants, bytes by table, and indexes",
    epilog="example: memkit store stats --dsn postgresql://localhost/app --json",
)
def stats(dsn: Dsn = None, json: Json = False) -> int:
    """Count what a store holds, and say what its tables and indexes take."""
    from memkit.store.stats import store_stats

    with _database(SimpleNamespace(dsn=dsn)) as address:
        found = asdict(store_stats(address))
    if json:
        emit(found)
        return 0
    sizes, indexes = found.pop("bytes"), found.pop("indexes")
    table(("", ""), ((name, f"{count:,}") for name, count in found.items()))
    table(("table", "bytes"), ((name, f"{size:,}") for name, size in sizes.items()))
    table(
        ("index", "on", "bytes", "state"),
        (
            (i["name"], i["on_table"], f"{i['bytes']:,}", "valid" if i["valid"] else "NOT VALID")
            for i in indexes
        ),
    )
    return 0


def _reembed(arguments: SimpleNamespace) -> int:
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


def _import(arguments: SimpleNamespace) -> int:
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
def _store(arguments: SimpleNamespace, dsn: str) -> Iterator["SemanticStore"]:
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


def _show(report: "ImportReport", arguments: SimpleNamespace, seconds: float) -> None:
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
