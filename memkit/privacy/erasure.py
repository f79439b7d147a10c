"""Erasing a person, and looking whether anything is left."""

import asyncio
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage
from langgraph.store.base import BaseStore, PutOp, SearchItem, SearchOp

from memkit.checkpoints.backend import Backend, Script, Tally
from memkit.db.traces import Found
from memkit.effects import Body, StoreBatch
from memkit.errors import ConfigError
from memkit.namespaces import PLACEHOLDER, check_namespace, escape_label
from memkit.privacy.report import ErasureReport, Trace
from memkit.privacy.threads import Owned, Rule, find_text, owned

USERS = (("users", "{user_id}"),)
_PAGE = 500
_SHORTEST = 4  # characters: a shorter text stands everywhere
_TELLING = 20  # characters of a text that stands for what somebody said


@dataclass(frozen=True, slots=True)
class Call:
    """An effect: call a method that has an async twin; the answer is its result."""

    blocking: Callable[[], Any]
    on_loop: Callable[[], Any] | None = None

    def run(self) -> Any:
        """Call it."""
        return self.blocking()

    async def arun(self) -> Any:
        """Await the twin; a thread calls what has none."""
        if self.on_loop is None:
            return await asyncio.to_thread(self.blocking)
        return await self.on_loop()


@dataclass(frozen=True, slots=True)
class Person:
    """Where a person's memory is.

    Attributes:
        store: The store, if there is one.
        tables: Of the checkpointer, if there is one.
        user_id: The person.
        namespaces: All that is below them is the person's.
        key: What names the person in the metadata of checkpoints.
        rule: What says instead which threads are the person's.
    """

    store: BaseStore | None
    tables: Backend | None
    user_id: str
    namespaces: tuple[tuple[str, ...], ...]
    key: str
    rule: Rule | Collection[str] | None

    @classmethod
    def of(
        cls,
        *,
        store: BaseStore | None,
        tables: Backend | None,
        user_id: str,
        namespaces: Iterable[Sequence[str]],
        key: str,
        rule: Rule | Collection[str] | None,
    ) -> "Person":
        """Check the arguments, before anything is touched."""
        if not isinstance(user_id, str) or not user_id:
            raise ConfigError(f"a user id is a text, not {user_id!r}")
        filled = []
        for template in namespaces:
            names = {name for label in template for name in PLACEHOLDER.findall(label)}
            if names != {"user_id"}:
                raise ConfigError(
                    'a namespace to erase names the person, such as ("users", "{user_id}"), not '
                    f"{tuple(template)!r}"
                )
            label = escape_label(user_id)
            filled.append(
                check_namespace(tuple(part.replace("{user_id}", label) for part in template))
            )
        if store is None and tables is None:
            raise ConfigError("pass a store, a checkpointer, or both")
        return cls(store, tables, user_id, tuple(filled), key, rule)

    def items(self) -> Body[list[SearchItem]]:
        """Read all items of the person."""
        found: list[SearchItem] = []
        if self.store is not None:
            for prefix in self.namespaces:
                found += yield from _all_below(self.store, prefix)
        return found

    def threads(self) -> Body[list[Owned]]:
        """Find all threads of the person."""
        if self.tables is None:
            return []
        return (yield from owned(self.tables, self.key, self.user_id, self.rule))


def _all_below(store: BaseStore, prefix: tuple[str, ...]) -> Body[list[SearchItem]]:
    """Read what is below a namespace; some stores take ("ann",) for a prefix of ("annabel",)."""
    found: list[SearchItem] = []
    for offset in range(0, 2**62, _PAGE):
        op = SearchOp(prefix, limit=_PAGE, offset=offset, refresh_ttl=False)
        [page] = yield StoreBatch(store, [op])
        found += [item for item in page if item.namespace[: len(prefix)] == prefix]
        if len(page) < _PAGE:
            break
    return found


def erase(person: Person, *, dry_run: bool, evidence: int) -> Body[ErasureReport]:
    """Erase threads first, since what runs in one may write items; then look for what is left."""
    threads = yield from person.threads()
    own = [thread.thread_id for thread in threads if not thread.others]
    texts = yield from _texts(person, own, evidence)
    report = ErasureReport(
        person.user_id,
        dry_run,
        threads=tuple(own),
        shared=tuple(thread.thread_id for thread in threads if thread.others),
    )
    report = yield from _erase_threads(person, own, report)
    report = yield from _erase_items(person, report)
    if not dry_run:
        report = yield from _look_again(person, texts, report)
    return report


def _erase_threads(
    person: Person, own: Sequence[str], report: ErasureReport
) -> Body[ErasureReport]:
    tables = person.tables
    if tables is None:
        return report
    for thread_id in own:
        sizes: tuple[Tally, Tally, Tally] = yield tables.transaction(
            partial(_sizes, tables, thread_id), reading=True
        )
        report = replace(
            report,
            checkpoints=report.checkpoints.plus(*sizes[0]),
            writes=report.writes.plus(*sizes[1]),
            blobs=report.blobs.plus(*sizes[2]),
        )
        if not report.dry_run:
            yield _saver_call(tables, "delete_thread", thread_id)
    return report


def _sizes(tables: Backend, thread_id: str) -> Script[tuple[Tally, Tally, Tally]]:
    contents = yield from tables.contents(thread_id)
    checkpoints = writes = Tally()
    for checkpoint in contents.checkpoints:
        checkpoints = checkpoints.plus(1, checkpoint.bytes)
        writes = writes.plus(checkpoint.writes, checkpoint.write_bytes)
    for tally in contents.orphan_writes.values():
        writes = writes.plus(*tally)
    blobs = Tally(len(contents.blobs), sum(blob.bytes for blob in contents.blobs))
    return checkpoints, writes, blobs


def _saver_call(tables: Backend, method: str, *args: Any) -> Call:
    saver = tables.saver
    is_async = getattr(tables, "asynchronous", False)
    return Call(
        partial(getattr(saver, method), *args),
        partial(getattr(saver, f"a{method}"), *args) if is_async else None,
    )


def _erase_items(person: Person, report: ErasureReport) -> Body[ErasureReport]:
    store = person.store
    if store is None:
        return report
    dry_run = report.dry_run
    for prefix in person.namespaces:
        if hasattr(store, "erase"):
            both: Any = (store.erase, getattr(store, "aerase"))  # noqa: B009 - one that BaseStore lacks
            erased = yield Call(*(partial(erase, prefix, dry_run=dry_run) for erase in both))
            report = replace(
                report,
                items=report.items + erased.items,
                passages=report.passages + erased.passages,
                versions=report.versions + erased.versions,
            )
            continue
        items = yield from _all_below(store, prefix)
        report = replace(report, items=report.items + len(items))
        for start in range(0, 0 if dry_run else len(items), _PAGE):
            page = items[start : start + _PAGE]
            yield StoreBatch(store, [PutOp(item.namespace, item.key, None) for item in page])
    return report


# What is left


def _texts(person: Person, own: Sequence[str], evidence: int) -> Body[list[str]]:
    """Return some of what was remembered or said, to be looked for afterwards."""
    texts: list[str] = []
    if person.store is not None:
        for prefix in person.namespaces:
            op = SearchOp(prefix, limit=evidence, refresh_ttl=False)
            [items] = yield StoreBatch(person.store, [op])
            mine = [item.value for item in items if item.namespace[: len(prefix)] == prefix]
            texts += [str(value["text"]) for value in mine if value.get("text")]
    if person.tables is not None:
        for thread_id in own[:evidence]:
            config = {"configurable": {"thread_id": thread_id, "checkpoint_ns": ""}}
            saved = yield _saver_call(person.tables, "get_tuple", config)
            values = saved.checkpoint["channel_values"] if saved is not None else {}
            texts += [str(message.content) for message in messages_in(values)][-evidence:]
    telling = [text for text in dict.fromkeys(texts) if len(text) >= _TELLING]
    return telling[:evidence]


def messages_in(value: Any) -> list[BaseMessage]:
    """Return the messages in a value, however deep."""
    if isinstance(value, BaseMessage):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if hasattr(value, "value") and type(value).__name__ == "_DeltaSnapshot":
        value = value.value
    if isinstance(value, list | tuple):
        return [message for part in value for message in messages_in(part)]
    return []


def _look_again(person: Person, texts: Sequence[str], report: ErasureReport) -> Body[ErasureReport]:
    kinds = {person.user_id: "user id", escape_label(person.user_id): "user id"}
    kinds |= dict.fromkeys(report.threads, "thread id")
    unsearched = tuple(text for text in kinds if len(text) < _SHORTEST)
    kinds = {text: kind for text, kind in kinds.items() if text not in unsearched}
    kinds |= dict.fromkeys(texts, "text")
    wanted = list(kinds)
    found: list[Trace] = []
    store, tables = person.store, person.tables
    if store is not None:
        if hasattr(store, "find_text"):
            both = (partial(find, wanted) for find in (store.find_text, store.afind_text))  # type: ignore[attr-defined]
            stored: list[Found] = yield Call(*both)
        else:
            stored = yield from _in_items(store, wanted)
        found += [Trace(f"store: {f.place}", f.rows, kinds[f.text], f.text) for f in stored]
    if tables is not None:
        kept: list[Found] = yield tables.transaction(
            partial(find_text, tables, wanted), reading=True
        )
        found += [Trace(f"checkpointer: {f.place}", f.rows, kinds[f.text], f.text) for f in kept]
    return replace(report, traces=tuple(found), unsearched=unsearched)


def _in_items(store: BaseStore, texts: Sequence[str]) -> Body[list[Found]]:
    """Look through every item that the store shows."""
    places: dict[tuple[tuple[str, ...], str], int] = {}
    for item in (yield from _all_below(store, ())):
        told = json.dumps([item.namespace, item.key, item.value], ensure_ascii=False, default=str)
        for text in texts:
            if json.dumps(text, ensure_ascii=False)[1:-1] in told:
                places[item.namespace, text] = places.get((item.namespace, text), 0) + 1
    return [Found(f"{namespace}", rows, text) for (namespace, text), rows in places.items()]
