"""`memkit facts`: keep a person's facts few, and see what is wrong with them."""

import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from memkit.cli.options import Dsn, Json, Yes
from memkit.cli.output import agrees, emit, say, table, visible
from memkit.errors import ConfigError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from memkit.factbook import FactBook
    from memkit.facts import Consolidation, Fact
    from memkit.store import SemanticStore

_PAGE = 1_000
_SHOWN = 20  # of each kind of change
Place: TypeAlias = tuple[str | None, str]  # thread and message


app = typer.Typer(help="read, correct and check a person's facts")

User = Annotated[str | None, typer.Option(metavar="ID", help='facts under ("users", ID, "facts")')]
Where = Annotated[
    str | None,
    typer.Option(metavar="A,B,C", help="where the facts are, if they are elsewhere"),
]
Limit = Annotated[int, typer.Option(metavar="N", min=1, help="how many at most")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="the key of a fact, as list shows it")]
Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="as list shows them")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="show what would go, and stop")]
Made = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help='what the vectors of --dsn were made with: "local", or a name for LangChain\'s '
        "init_embeddings; what is rewritten needs new ones",
    ),
]


@contextmanager
def _book(
    dsn: str | None,
    user: str | None,
    namespace: str | None,
    *,
    embeddings: str | None = None,
    writes: bool = False,
) -> Iterator["FactBook"]:
    from memkit.factbook import FactBook

    arguments = SimpleNamespace(dsn=dsn, user=user, namespace=namespace, embeddings=embeddings)
    place = _namespace(arguments)
    with _database(arguments) as address, _store(arguments, address, writes=writes) as store:
        yield FactBook(store, place)


def _document(fact: "Fact") -> dict[str, Any]:
    return {"key": fact.key, **fact.to_value()}


def _print(facts: Sequence["Fact"], *, as_json: bool) -> int:
    if as_json:
        emit([_document(fact) for fact in facts])
    elif not facts:
        say("no facts")
    else:
        table(
            ("key", "status", "kind", "last confirmed", "fact"),
            (
                (f.key, f.status, f.kind, f.last_confirmed and f.last_confirmed.date(), f.text)
                for f in facts
            ),
        )
    return 0


def _known(book: "FactBook", keys: Sequence[str]) -> list["Fact"]:
    found = {key: book.get(key) for key in dict.fromkeys(keys)}
    missing = [key for key, fact in found.items() if fact is None]
    if missing:
        raise ConfigError(f"there is no fact {', '.join(missing)}; see: memkit facts list")
    return [fact for fact in found.values() if fact is not None]


@app.command("list", epilog="example: memkit facts list --user ann --status current --limit 20")
def list_(
    dsn: Dsn = None,
    user: User = None,
    namespace: Where = None,
    status: Annotated[
        Literal["current", "superseded", "retracted"] | None, typer.Option(help="default: all")
    ] = None,
    limit: Limit = 100,
    offset: Annotated[int, typer.Option(metavar="N", min=0, help="how many to pass over")] = 0,
    json: Json = False,
) -> int:
    """List facts, those first that changed last."""
    match = {"status": status} if status else None
    with _book(dsn, user, namespace) as book:
        items = book.store.search(
            book.namespace, filter=match, limit=limit, offset=offset, refresh_ttl=False
        )
        facts = book.facts_of(items)
    return _print(facts, as_json=json)


@app.command("show", epilog="example: memkit facts show 3f2a --user ann")
def show(
    key: Key, dsn: Dsn = None, user: User = None, namespace: Where = None, json: Json = False
) -> int:
    """Show one fact with all that is known of it."""
    with _book(dsn, user, namespace) as book:
        (fact,) = _known(book, [key])
    if json:
        emit(_document(fact))
    else:
        table(("field", "value"), _document(fact).items())
    return 0


@app.command("history", epilog="example: memkit facts history 3f2a --user ann")
def history(
    key: Key, dsn: Dsn = None, user: User = None, namespace: Where = None, json: Json = False
) -> int:
    """Show a fact with what it replaced and what replaced it, oldest first."""
    with _book(dsn, user, namespace) as book:
        _known(book, [key])
        facts = book.history(key)
    return _print(facts, as_json=json)


@app.command("search", epilog='example: memkit facts search "where does she live" --user ann')
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY")],
    dsn: Dsn = None,
    user: User = None,
    namespace: Where = None,
    limit: Limit = 10,
    json: Json = False,
) -> int:
    """Search facts by their words, the best first."""
    with _book(dsn, user, namespace) as book:
        items = book.store.search(book.namespace, query=query, limit=limit, refresh_ttl=False)
        facts = book.facts_of(items)
    return _print(facts, as_json=json)


@app.command("confirm", epilog="example: memkit facts confirm 3f2a 9c01 --user ann")
def confirm(
    keys: Keys,
    dsn: Dsn = None,
    user: User = None,
    namespace: Where = None,
    embeddings: Made = None,
    json: Json = False,
) -> int:
    """Note that the person confirmed current facts."""
    with _book(dsn, user, namespace, embeddings=embeddings, writes=True) as book:
        _known(book, keys)
        facts = book.confirm(*keys)
    return _print(facts, as_json=json)


@app.command("forget", epilog="example: memkit facts forget 3f2a --user ann --yes")
def forget(
    keys: Keys,
    dsn: Dsn = None,
    user: User = None,
    namespace: Where = None,
    embeddings: Made = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Take facts back, so that they are recalled no more; they stay readable. Asks first.

    To remove everything of a person from the disk too, use memkit.privacy.erase_user.
    """
    with _book(dsn, user, namespace, embeddings=embeddings, writes=not dry_run) as book:
        facts = _known(book, keys)
        if not dry_run and not yes:
            if not sys.stdin.isatty():
                raise ConfigError(
                    "forget asks before it changes anything; without a terminal: --yes"
                )
            for fact in facts:
                say(f"forget {visible(fact.text)}", error=True)
        if dry_run or not (yes or agrees("Go on?")):
            return _print(facts, as_json=json)
        facts = book.retract(*(fact.key for fact in facts))
    return _print(facts, as_json=json)


@app.command("export", epilog="example: memkit facts export --user ann > facts.json")
def export(dsn: Dsn = None, user: User = None, namespace: Where = None) -> int:
    """Write all facts as one JSON document, a list."""
    with _book(dsn, user, namespace) as book:
        return _print(book.all(), as_json=True)


@app.command(
    "consolidate",
    short_help="merge near-duplicates, drop what is long over, hold each kind to a cap",
    epilog="example: memkit facts consolidate --user ann --dry-run",
)
def consolidate(
    dsn: Dsn = None,
    user: User = None,
    namespace: Where = None,
    max_per_kind: Annotated[int, typer.Option(metavar="N")] = 200,
    keep_ended: Annotated[str, typer.Option(metavar="DURATION")] = "365d",
    embeddings: Made = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    json: Json = False,
) -> int:
    """Merge near-duplicates (they stay readable), and delete what ended long ago.

    Also what is beyond the cap of its kind. Shows what would go, and asks.
    """
    return _consolidate(SimpleNamespace(**locals()))


@app.command("audit", epilog="example: memkit facts audit --user ann --checkpoints")
def audit(
    dsn: Dsn = None,
    user: User = None,
    namespace: Where = None,
    checkpoints: Annotated[
        bool,
        typer.Option(
            "--checkpoints",
            help="look for the cited messages in the threads' checkpoints (PostgresSaver), not "
            "only among the turns that TurnRecorder kept",
        ),
    ] = False,
    json: Json = False,
) -> int:
    """Count duplicates, stale, ungrounded and orphaned facts, as rates."""
    return _audit(SimpleNamespace(**locals()))


def _namespace(arguments: SimpleNamespace) -> tuple[str, ...]:
    from memkit.namespaces import escape_label

    if (arguments.user is None) == (arguments.namespace is None):
        raise ConfigError("say whose facts: --user ID, or --namespace A,B,C")
    if arguments.namespace is not None:
        return tuple(arguments.namespace.split(","))
    return ("users", escape_label(arguments.user), "facts")


def _consolidate(arguments: SimpleNamespace) -> int:
    from memkit.factbook import FactBook

    namespace = _namespace(arguments)
    limits = {"max_per_kind": arguments.max_per_kind, "keep_ended": arguments.keep_ended}
    with (
        _database(arguments) as dsn,
        _store(arguments, dsn, writes=not arguments.dry_run) as store,
    ):
        book = FactBook(store, namespace)
        facts = {fact.key: fact for fact in book.all()}
        consolidation = book.consolidate(dry_run=True, **limits)
        if not arguments.json:
            _show(consolidation, facts)
        done = False
        if not arguments.dry_run and any(consolidation.counts.values()):
            done = arguments.yes or _agrees()
        if done:
            consolidation = book.consolidate(**limits)
        if arguments.json:
            print(
                json.dumps({**consolidation.counts, "deleted": consolidation.deleted, "done": done})
            )
        else:
            counts = ", ".join(
                f"{name.replace('_', ' ')}: {n}" for name, n in consolidation.counts.items()
            )
            print(f"{'done' if done else 'nothing was changed'} ({counts})")
    return 0


def _show(consolidation: "Consolidation", facts: dict[str, "Fact"]) -> None:
    """Tell what would go, a part of each kind."""
    merged = [
        f"merge  {visible(fact.text)}\n  into {visible(facts[fact.superseded_by].text)}"
        for fact in consolidation.changed
        if fact.status == "superseded"
        and facts[fact.key].status == "current"
        and fact.superseded_by in facts
    ]
    gone = [facts[key] for key in consolidation.deleted if key in facts]
    deleted = [
        f"delete {visible(fact.text)} ({fact.status}, {visible(fact.kind)}, last confirmed "
        f"{fact.last_confirmed.date() if fact.last_confirmed else 'never'})"
        for fact in gone
    ]
    for lines in (merged, deleted):
        print("\n".join(lines[:_SHOWN]), end="\n" if lines else "")
        if len(lines) > _SHOWN:
            print(f"... and {len(lines) - _SHOWN} more")


def _agrees() -> bool:
    if not sys.stdin.isatty():
        raise ConfigError("consolidate asks before it changes anything; without a terminal: --yes")
    return agrees("Go on?")


def _audit(arguments: SimpleNamespace) -> int:
    from memkit.factbook import FactBook
    from memkit.facts import audit

    namespace = _namespace(arguments)
    with _database(arguments) as dsn:
        with _store(arguments, dsn, writes=False) as store:
            facts = FactBook(store, namespace).all()
            said = dict(_recorded(store, (*namespace[:-1], "turns")))
        if arguments.checkpoints:
            threads = {str(f.source["thread_id"]) for f in facts if f.source.get("thread_id")}
            said.update(_in_checkpoints(dsn, threads))
    look: Callable[[str | None, str], str | None] | None = None
    if said or arguments.checkpoints:
        look = lambda thread, message: said.get((thread, message))  # noqa: E731 - as short as it gets
    found = audit(facts, datetime.now(UTC), said=look)
    if arguments.json:
        print(json.dumps({**asdict(found), "rates": found.rates}))
        return 0
    print(f"{found.current} current facts of {found.facts}")
    for name, rate in found.rates.items():
        count = getattr(found, name)
        told = (
            "not known: no recorded turns, and no --checkpoints" if rate is None else f"{rate:.1%}"
        )
        print(f"{name.replace('_', ' '):<16} {'' if count is None else count:>6}  {told}")
    return 0


def _recorded(store: "SemanticStore", namespace: tuple[str, ...]) -> Iterator[tuple[Place, str]]:
    """Yield the turns as TurnRecorder keeps them, by thread and message."""
    for offset in itertools.count(0, _PAGE):
        items = store.search(namespace, limit=_PAGE, offset=offset, refresh_ttl=False)
        for item in items:
            source = item.value.get("source") or {}
            for message in source.get("message_ids") or ():
                yield (source.get("thread_id"), message), str(item.value.get("text") or "")
        if len(items) < _PAGE:
            return


def _in_checkpoints(dsn: str, threads: set[str]) -> Iterator[tuple[Place, str]]:
    """Yield the messages of the threads' latest checkpoints."""
    try:
        from langgraph.checkpoint.postgres import PostgresSaver
    except ImportError:
        raise ConfigError(
            "--checkpoints needs langgraph-checkpoint-postgres: pip install 'memkit[local]'"
        ) from None
    from memkit.messages import id_of, text_of

    with PostgresSaver.from_conn_string(dsn) as saver:
        for thread in sorted(threads):
            messages = _messages(saver, thread)
            for i, message in enumerate(messages):
                yield (thread, id_of(messages, i)), text_of(message)


def _messages(saver: "BaseCheckpointSaver[Any]", thread: str) -> Sequence[Any]:
    """Return the messages of a thread, put together from its writes where a DeltaChannel has them.

    Among the latter are those that were removed since.
    """
    from langchain_core.messages import convert_to_messages

    config: Any = {"configurable": {"thread_id": thread}}
    found = saver.get_tuple(config)
    if found is None:
        return []
    if "messages" in found.checkpoint["channel_values"]:
        written = [found.checkpoint["channel_values"]["messages"]]
    elif "messages" in found.checkpoint["channel_versions"]:
        told = saver.get_delta_channel_history(config=config, channels=["messages"])["messages"]
        written = [told.get("seed") or [], *(value for _, _, value in told["writes"])]
    else:
        return []
    # A snapshot of a DeltaChannel, or an Overwrite, wraps the messages.
    lists = [getattr(value, "value", value) for value in written]
    messages = [m for each in lists for m in (each if isinstance(each, list) else [each])]
    return [m for m in convert_to_messages(messages) if m.type != "remove"]


@contextmanager
def _database(arguments: SimpleNamespace) -> Iterator[str]:
    """Yield the address of the database, the embedded one's by default."""
    if arguments.dsn is not None:
        yield arguments.dsn
        return
    from memkit.local import postgres

    with postgres() as dsn:
        yield dsn


@contextmanager
def _store(arguments: SimpleNamespace, dsn: str, *, writes: bool) -> Iterator["SemanticStore"]:
    """Open the store; who writes facts needs the embeddings that their vectors were made with.

    A store that holds no vectors needs none; the embedded one holds those of `memkit.local`.
    """
    from memkit.store import SemanticStore

    with SemanticStore.open(dsn, search_mode="text") as store:
        if arguments.dsn is None:
            store.setup()
        dims = store.stored_dims()
        if not writes or dims is None:
            yield store
            return
    name = arguments.embeddings or ("local" if arguments.dsn is None else None)
    with SemanticStore.open(dsn, embed=_embeddings(name, dims)) as store:
        yield store


def _embeddings(name: str | None, dims: int) -> Any:
    if name is None:
        raise ConfigError(
            f"the facts have vectors of {dims} dimensions, and what is rewritten needs new ones: "
            'say with --embeddings what they were made with ("local", or '
            '"openai:text-embedding-3-small")'
        )
    if name == "local":
        from memkit.local import embeddings

        return embeddings()
    from langgraph.store.base import ensure_embeddings

    try:
        return ensure_embeddings(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot make embeddings of {name!r}: {error}") from error
