"""`memkit facts`: keep a person's facts few, and see what is wrong with them."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from json import dumps
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from memkit.cli.options import Dsn, Json, Yes
from memkit.cli.output import agrees, emit, say, table
from memkit.cli.places import database, opened_store, postgres_saver
from memkit.errors import ConfigError
from memkit.terminal import visible

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver
    from langgraph.store.base import BaseStore, SearchItem

    from memkit.factbook import FactBook
    from memkit.facts import Consolidation, Fact

_PAGE = 10_000
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
    from memkit.namespaces import escape_label

    if (user is None) == (namespace is None):
        raise ConfigError("say whose facts: --user ID, or --namespace A,B,C")
    labels = ("users", escape_label(user or ""), "facts")
    place = labels if namespace is None else tuple(namespace.split(","))
    with opened_store(dsn, embeddings, writes=writes) as store:
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
            for fact in facts:
                say(f"forget {visible(fact.text)}", error=True)
        if dry_run or not (yes or agrees("Go on?", without="--yes, or --dry-run")):
            return _print(facts, as_json=json)
        facts = book.retract(*(fact.key for fact in facts))
    return _print(facts, as_json=json)


@app.command("export", epilog="example: memkit facts export --user ann > facts.json")
def export(dsn: Dsn = None, user: User = None, namespace: Where = None) -> int:
    """Write all facts as one JSON document, a list."""
    with _book(dsn, user, namespace) as book:
        seen: set[str] = set()
        print("[", end="")
        for items in _pages(book.store, book.namespace):
            # A fact that changes meanwhile may stand on two pages.
            facts = [fact for fact in book.facts_of(items) if fact.key not in seen]
            for fact in facts:
                print(",\n" if seen else "\n", dumps(_document(fact)), sep="", end="")
                seen.add(fact.key)
        print("\n]")
    return 0


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
    limits: dict[str, Any] = {"max_per_kind": max_per_kind, "keep_ended": keep_ended}
    with _book(dsn, user, namespace, embeddings=embeddings, writes=not dry_run) as book:
        facts = {fact.key: fact for fact in book.all()}
        plan = book.consolidate(dry_run=True, **limits)
        if not json:
            _show(plan, facts)
        done = False
        if not dry_run and any(plan.counts.values()):
            done = yes or agrees("Go on?", without="--yes, or --dry-run")
        if done:
            plan = book.consolidate(**limits)
    if json:
        emit({**plan.counts, "deleted": plan.deleted, "done": done})
    else:
        counts = ", ".join(f"{name.replace('_', ' ')}: {n}" for name, n in plan.counts.items())
        say(f"{'done' if done else 'nothing was changed'} ({counts})")
    return 0


@app.command("audit", epilog="example: memkit facts audit --user ann --checkpoints")
def audit_(
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
    from memkit.facts import audit

    with _book(dsn, user, namespace) as book:
        facts = book.all()
        said = dict(_recorded(book.store, (*book.namespace[:-1], "turns")))
    if checkpoints:
        threads = {str(f.source["thread_id"]) for f in facts if f.source.get("thread_id")}
        with database(dsn) as address:
            said.update(_in_checkpoints(address, threads))
    look: Callable[[str | None, str], str | None] | None = None
    if said or checkpoints:
        look = lambda thread, message: said.get((thread, message))  # noqa: E731 - as short as it gets
    found = audit(facts, datetime.now(UTC), said=look)
    if json:
        emit({**asdict(found), "rates": found.rates})
        return 0
    say(f"{found.current} current facts of {found.facts}")
    rows = []
    for name, rate in found.rates.items():
        unknown = "not known: no recorded turns, and no --checkpoints"
        share = unknown if rate is None else f"{rate:.1%}"
        rows.append((name.replace("_", " "), getattr(found, name), share))
    table(("", "facts", "share"), rows)
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
        for line in lines[:_SHOWN]:
            say(line)
        if len(lines) > _SHOWN:
            say(f"... and {len(lines) - _SHOWN} more")


def _pages(store: "BaseStore", namespace: tuple[str, ...]) -> Iterator[list["SearchItem"]]:
    for offset in itertools.count(0, _PAGE):
        items = store.search(namespace, limit=_PAGE, offset=offset, refresh_ttl=False)
        yield items
        if len(items) < _PAGE:
            return


def _recorded(store: "BaseStore", namespace: tuple[str, ...]) -> Iterator[tuple[Place, str]]:
    """Yield the turns as TurnRecorder keeps them, by thread and message."""
    for item in itertools.chain.from_iterable(_pages(store, namespace)):
        source = item.value.get("source") or {}
        for message in source.get("message_ids") or ():
            yield (source.get("thread_id"), message), str(item.value.get("text") or "")


def _in_checkpoints(dsn: str, threads: set[str]) -> Iterator[tuple[Place, str]]:
    """Yield the messages of the threads' latest checkpoints."""
    from memkit.messages import id_of, text_of

    with postgres_saver(dsn) as saver:
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
