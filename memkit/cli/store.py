"""`memkit store`: bring a store along."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from memkit.cli.options import Dsn, Json, only_one
from memkit.cli.output import emit, progress, say, table
from memkit.cli.places import database, embeddings_of
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from memkit.store import SemanticStore
    from memkit.store.transfer import ImportReport

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
    only_one({"--embed": embed, "--search-mode": search_mode})
    from memkit.store.transfer import import_postgres_store

    if batch_size < 1:
        raise ConfigError(f"--batch-size is at least 1, not {batch_size}")
    fields = fields or ["text"]
    words_alone = search_mode == "text"
    name = "local" if embed is None and dsn is None and not words_alone else embed
    started = time.monotonic()
    with (
        database(dsn) as address,
        _target(address, fields, name, setup=not dry_run or dsn is None) as store,
        progress("items read") as advance,
    ):
        report = import_postgres_store(
            source,
            store,
            batch_size=batch_size,
            overwrite=overwrite,
            vectors=not words_alone,
            dry_run=dry_run,
            progress=advance and (lambda so_far: advance(so_far.read, so_far.total)),
        )
    if json:
        emit({**asdict(report), "dry_run": dry_run})
        return 0
    say(f"{report.read:>9,} items read in {time.monotonic() - started:.1f} s")
    _show(report, dry_run=dry_run)
    if report.other_embeddings:
        again = "would be " if dry_run else "was "
        say(f"the vectors are of other embeddings than {name or 'local'}: none {again}copied")
    texts = report.vectors_copied + report.texts_embedded + report.texts_without_vector
    if report.written and not texts:
        say(
            f"no item has a text under {' '.join(fields)}: queries will find none of them; say "
            "with --fields what to index, and --overwrite"
        )
    elif report.texts_without_vector and not words_alone:
        say(
            f"{report.texts_without_vector:>9,} texts have no vector: --embed NAME --overwrite "
            "makes them"
        )
    return 0


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
    only_one({"--finish": finish, "--abandon": abandon})
    from memkit.store.meta import model_of
    from memkit.store.reembed import abandon as give_up
    from memkit.store.reembed import reembed as move_to

    if abandon:
        with database(dsn) as address:
            was_moving = give_up(address)
        if json:
            emit({"abandoned": was_moving})
        else:
            say("the move is given up" if was_moving else "no move is under way")
        return 0
    if embed is None:
        raise ConfigError("say with --embed NAME what the new vectors are made with")
    embeddings = embeddings_of(embed)
    with database(dsn) as address, progress("texts embedded") as advance:
        move = move_to(
            address,
            embeddings,
            dims=dims,
            model=model_of(embeddings) or embed,
            vector_type=vector_type,
            batch_size=batch_size,
            finish=finish,
            progress=advance and (lambda so_far: advance(so_far.embedded, so_far.missing)),
        )
    if json:
        emit(asdict(move))
        return 0
    say(f"{move.embedded:>9,} texts embedded; the store has the vectors of {move.model!r}")
    if move.dropped:
        say("the old vectors are gone")
    else:
        say(
            "processes with the old embeddings are still served: start them anew with these, then "
            "say --finish"
        )
    return 0


@app.command(
    "stats",
    short_help="items, texts, tenants, bytes by table, and indexes",
    epilog="example: memkit store stats --dsn postgresql://localhost/app --json",
)
def stats(dsn: Dsn = None, json: Json = False) -> int:
    """Count what a store holds, and say what its tables and indexes take."""
    from memkit.store.stats import store_stats

    with database(dsn) as address:
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


@contextmanager
def _target(
    address: str, fields: list[str], embed: str | None, *, setup: bool
) -> Iterator["SemanticStore"]:
    from memkit.store import SemanticStore

    embeddings = None if embed is None else embeddings_of(embed)
    mode: Any = "text" if embeddings is None else "hybrid"
    with SemanticStore.open(address, embed=embeddings, fields=fields, search_mode=mode) as store:
        if setup:
            store.setup()
        yield store


def _show(report: "ImportReport", *, dry_run: bool) -> None:
    would = "would be " if dry_run else ""
    say(f"{report.written:>9,} {would}written")
    say(f"{report.skipped:>9,} there already")
    say(f"{report.expired:>9,} left out: their time to live is over")
    if report.refused:
        say(f"{report.refused:>9,} left out: an empty label, or a value that is no mapping")
    say(f"{report.vectors_copied:>9,} vectors {would}copied")
    say(f"{report.texts_embedded:>9,} texts {would}embedded anew")
