"""Everything that is kept of a person, as JSON can say it."""

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from langchain_core.messages import BaseMessage, messages_to_dict

from memkit.effects import Body
from memkit.privacy.erasure import Call, Person, messages_in


def export(person: Person) -> Body[dict[str, Any]]:
    """Read a person's items with their old versions, and threads with every message in them."""
    items = []
    for item in (yield from person.items()):
        entry = _entry(item)
        store: Any = person.store
        if getattr(store, "supports_versions", False):
            both = (
                partial(read, item.namespace, item.key) for read in (store.history, store.ahistory)
            )
            versions = yield Call(*both)
            entry["versions"] = [_entry(version) for version in versions]
        items.append(entry)
    threads = []
    for thread in (yield from person.threads()):
        config = {"configurable": {"thread_id": thread.thread_id}}
        saved = yield _listed(person.tables, config)
        threads.append(
            {
                "thread_id": thread.thread_id,
                "shared_with": sorted(thread.others),
                "checkpoints": len(saved),
                "messages": _messages(saved),
                "state": _state(saved),
            }
        )
    return {
        "user_id": person.user_id,
        "exported_at": datetime.now(UTC).isoformat(),
        "items": items,
        "threads": threads,
    }


def _entry(item: Any) -> dict[str, Any]:
    entry = {
        "namespace": list(item.namespace),
        "key": item.key,
        "value": item.value,
        "created_at": item.created_at.isoformat(),
        "updated_at": item.updated_at.isoformat(),
    }
    if getattr(item, "version", None) is not None:
        entry["version"] = item.version
    return entry


def _listed(tables: Any, config: Mapping[str, Any]) -> Call:
    saver = tables.saver

    async def listed() -> list[Any]:
        return [saved async for saved in saver.alist(config)]

    is_async = getattr(tables, "asynchronous", False)
    return Call(lambda: list(saver.list(config)), listed if is_async else None)


def _messages(saved: list[Any]) -> list[dict[str, Any]]:
    """Return every message of every checkpoint once, those of earlier ones first."""
    found: dict[Any, Any] = {}
    for checkpoint in reversed(saved):
        written = [value for _, _, value in checkpoint.pending_writes or ()]
        for message in messages_in([checkpoint.checkpoint["channel_values"], written]):
            found.setdefault(message.id or _said(message), message)
    # What came in got its id when it was added to the state: it is in the checkpoint before, too.
    named = {_said(message) for message in found.values() if message.id}
    once = [message for message in found.values() if message.id or _said(message) not in named]
    return messages_to_dict(once)


def _said(message: BaseMessage) -> tuple[str, str]:
    return message.type, str(message.content)


def _state(saved: list[Any]) -> dict[str, Any]:
    """Return the latest values of the root graph but for messages, as text where JSON cannot."""
    for checkpoint in saved:
        if not checkpoint.config["configurable"].get("checkpoint_ns"):
            values = checkpoint.checkpoint["channel_values"].items()
            return {
                name: _plain(value)
                for name, value in values
                if not messages_in(value) and not name.startswith(("__", "branch:"))
            }
    return {}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
