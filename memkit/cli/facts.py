"""`memkit facts`: keep a person's facts few, and see what is wrong with them."""

import argparse
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from memkit.errors import ConfigError

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver

    from memkit.facts import Consolidation, Fact
    from memkit.store import SemanticStore

_PAGE = 1_000
_SHOWN = 20  # of each kind of change
Place: TypeAlias = tuple[str | None, str]  # thread and message


def add_commands(commands: Any) -> None:
    """Add `facts` and what belongs to it to the parser of the command line."""
    facts = commands.add_parser("facts", help="keep a person's facts few, and check them")
    actions = facts.add_subparsers(required=True, metavar="action")

    consolidate = actions.add_parser(
        "consolidate",
        help="merge near-duplicates, drop what is long over, hold each kind to a cap",
        description="Merge near-duplicates (they stay readable), delete what ended long ago and "
        "what is beyond the cap of its kind. Shows what would go, and asks.",
    )
    _add_place(consolidate)
    consolidate.add_argument("--max-per-kind", metavar="N", type=int, default=200)
    consolidate.add_argument("--keep-ended", metavar="DURATION", default="365d")
    consolidate.add_argument(
        "--embeddings",
        metavar="NAME",
        help='what the vectors of --dsn were made with: "local", or a name for LangChain\'s '
        "init_embeddings; what is rewritten needs new ones",
    )
    consolidate.add_argument("--dry-run", action="store_true", help="show what would go, and stop")
    consolidate.add_argument("--yes", action="store_true", help="do not ask")
    consolidate.set_defaults(run=_consolidate)

    audit = actions.add_parser(
        "audit", help="count duplicates, stale, ungrounded and orphaned facts, as rates"
    )
    _add_place(audit)
    audit.add_argument(
        "--checkpoints",
        action="store_true",
        help="look for the cited messages in the threads' checkpoints (PostgresSaver), not only "
        "among the turns that TurnRecorder kept",
    )
    audit.set_defaults(run=_audit)


def _add_place(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dsn",
        help="postgresql://user:password@host/database; default: the embedded Postgres",
    )
    parser.add_argument("--user", metavar="ID", help='facts under ("users", ID, "facts")')
    parser.add_argument(
        "--namespace", metavar="A,B,C", help="where the facts are, if they are elsewhere"
    )
    parser.add_argument("--json", action="store_true", help="for programs")


def _namespace(arguments: argparse.Namespace) -> tuple[str, ...]:
    from memkit.namespaces import escape_label

    if (arguments.user is None) == (arguments.namespace is None):
        raise ConfigError("say whose facts: --user ID, or --namespace A,B,C")
    if arguments.namespace is not None:
        return tuple(arguments.namespace.split(","))
    return ("users", escape_label(arguments.user), "facts")


def _consolidate(arguments: argparse.Namespace) -> int:
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
        f"merge  {fact.text}\n  into {facts[fact.superseded_by].text}"
        for fact in consolidation.changed
        if fact.status == "superseded"
        and facts[fact.key].status == "current"
        and fact.superseded_by in facts
    ]
    gone = [facts[key] for key in consolidation.deleted if key in facts]
    deleted = [
        f"delete {fact.text} ({fact.status}, {fact.kind}, last confirmed "
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
    print("Go on? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _audit(arguments: argparse.Namespace) -> int:
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
def _database(arguments: argparse.Namespace) -> Iterator[str]:
    """Yield the address of the database, the embedded one's by default."""
    if arguments.dsn is not None:
        yield arguments.dsn
        return
    from memkit.local import postgres

    with postgres() as dsn:
        yield dsn


@contextmanager
def _store(arguments: argparse.Namespace, dsn: str, *, writes: bool) -> Iterator["SemanticStore"]:
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
