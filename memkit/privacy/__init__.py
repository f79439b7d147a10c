"""A person's data: everything that is kept of one, and erasing it everywhere."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

from langgraph.store.base import BaseStore

from memkit.checkpoints.savers import tables_of
from memkit.effects import arun, run
from memkit.privacy.erasure import USERS, Person, erase
from memkit.privacy.export import export
from memkit.privacy.report import ErasureReport, Trace
from memkit.privacy.threads import Rule

__all__ = [
    "ErasureReport",
    "Trace",
    "aerase_user",
    "aexport_user",
    "erase_user",
    "export_user",
]


def erase_user(
    store: BaseStore | None,
    saver: Any,
    user_id: str,
    *,
    namespaces: Iterable[Sequence[str]] = USERS,
    threads: Rule | Collection[str] | None = None,
    user_key: str = "user_id",
    dry_run: bool = False,
    evidence: int = 20,
) -> ErasureReport:
    """Erase a person everywhere, and search everything for what was erased.

    All items below the person's namespaces go, with vectors and old versions, and all threads of
    the person, with checkpoints, values and writes. What others share is left and reported: a
    thread in which other people's ids stand too, and what the search finds elsewhere. Cut off at
    any moment, the same call goes on; called for a person who is gone it finds nothing.

    Args:
        store: The store; None if there is none.
        saver: The checkpointer; None if there is none. For async ones see `aerase_user`.
        user_id: The person.
        namespaces: Templates of the namespaces that are the person's.
        threads: The ids of the person's threads, or a rule that is called with a thread's id and
            the metadata of each of its checkpoints. By default those are the person's whose
            metadata names the id under `user_key`: LangGraph copies `configurable` there.
        user_key: See there.
        dry_run: Count what would go, and change nothing.
        evidence: How many texts, of items and of messages, are looked for afterwards.

    Returns:
        What went, and what is still there.

    Raises:
        ConfigError: The saver is not known, or an argument makes no sense; nothing was touched.
        StoreError: The database cannot be reached; what was erased before is gone.

    Cost:
        A read of the metadata of all threads, and a scan of the databases per text.
    """
    person = _person(
        store,
        saver,
        asynchronous=False,
        user_id=user_id,
        namespaces=namespaces,
        key=user_key,
        rule=threads,
    )
    return run(erase(person, dry_run=dry_run, evidence=evidence))


async def aerase_user(
    store: BaseStore | None,
    saver: Any,
    user_id: str,
    *,
    namespaces: Iterable[Sequence[str]] = USERS,
    threads: Rule | Collection[str] | None = None,
    user_key: str = "user_id",
    dry_run: bool = False,
    evidence: int = 20,
) -> ErasureReport:
    """Do what `erase_user` does without blocking the event loop; it takes async savers too."""
    person = _person(
        store,
        saver,
        asynchronous=True,
        user_id=user_id,
        namespaces=namespaces,
        key=user_key,
        rule=threads,
    )
    return await arun(erase(person, dry_run=dry_run, evidence=evidence))


def export_user(
    store: BaseStore | None,
    saver: Any,
    user_id: str,
    *,
    namespaces: Iterable[Sequence[str]] = USERS,
    threads: Rule | Collection[str] | None = None,
    user_key: str = "user_id",
) -> dict[str, Any]:
    """Return everything that is kept of a person.

    Args:
        store: As in `erase_user`, and so are all others.
        saver: See there.
        user_id: See there.
        namespaces: See there.
        threads: See there.
        user_key: See there.

    Returns:
        What JSON can say: "user_id", "exported_at", "items" with their versions where the store
        keeps such, and "threads" with every message of every checkpoint, the latest state, and the
        other people whose ids stand in them. Vectors are left out: they say nothing else.

    Raises:
        ConfigError: The saver is not known, or an argument makes no sense.
    """
    person = _person(
        store,
        saver,
        asynchronous=False,
        user_id=user_id,
        namespaces=namespaces,
        key=user_key,
        rule=threads,
    )
    return run(export(person))


async def aexport_user(
    store: BaseStore | None,
    saver: Any,
    user_id: str,
    *,
    namespaces: Iterable[Sequence[str]] = USERS,
    threads: Rule | Collection[str] | None = None,
    user_key: str = "user_id",
) -> dict[str, Any]:
    """Do what `export_user` does without blocking the event loop; it takes async savers too."""
    person = _person(
        store,
        saver,
        asynchronous=True,
        user_id=user_id,
        namespaces=namespaces,
        key=user_key,
        rule=threads,
    )
    return await arun(export(person))


def _person(store: BaseStore | None, saver: Any, *, asynchronous: bool, **whose: Any) -> Person:
    tables = None if saver is None else tables_of(saver, asynchronous=asynchronous)
    return Person.of(store=store, tables=tables, **whose)
