"""Which checkpoints of a thread stay, and why. Pure.

A checkpoint goes when it is beyond the last N of its namespace AND older than the age AND matches
the metadata AND the thread is above its bytes; whatever is not asked for counts as true. It stays
all the same while it is pinned, while something waits to be resumed in it, or while one that stays
needs it.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Literal, NamedTuple

from memkit.checkpoints.times import time_of_id

Reason = Literal[
    "last", "young", "unmatched", "pinned", "pending", "running", "subgraph", "replay", "budget"
]
PINNED = "pinned"
# In the metadata of checkpoints that pruning makes, to hold the writes that one behind them needs;
# its value is the id of the checkpoint in whose place they came, as long as that is there.
CARRIER = "memkit_carrier"
# The format of checkpoints since which they hold all that the next step needs.
FORMAT = 4
IN_FLIGHT = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """What deciding needs to know of one stored checkpoint.

    Attributes:
        ns: Its namespace; "" is the root graph's.
        id: Its id; ids ascend with time.
        parent: The id of the checkpoint it continues, of the same namespace.
        at: When it was made; None where that cannot be told, and then it counts as young.
        metadata: What LangGraph and the caller stored beside it.
        v: The version of its format.
        bytes: Of its own row.
        writes: How many writes are stored under it.
        write_bytes: Of these.
        sends: Whether some of them send something to nodes.
        versions: Per channel the version of its value; empty where values are stored inline.
    """

    ns: str
    id: str
    parent: str | None = None
    at: datetime | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    v: int = 4
    bytes: int = 0
    writes: int = 0
    write_bytes: int = 0
    sends: bool = False
    versions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """Its namespace and id."""
        return self.ns, self.id

    @property
    def is_carrier(self) -> bool:
        """Whether pruning made it, to hold the writes that the one behind it needs."""
        return bool(self.metadata.get(CARRIER))


class Blob(NamedTuple):
    """A value stored apart from the checkpoints that refer to it by channel and version."""

    ns: str
    channel: str
    version: Any
    bytes: int

    @property
    def key(self) -> tuple[str, str, str]:
        """What checkpoints refer to it by."""
        return self.ns, self.channel, str(self.version)


Key = tuple[str, str]


@dataclass(frozen=True)
class Retention:
    """What was asked for; see `prune`."""

    keep_last: int = 1
    older_than: timedelta | None = None
    max_bytes: int | None = None
    metadata: Mapping[str, Any] | None = None
    pinned: frozenset[str] = frozenset()
    thread_ttl: timedelta | None = None


class Thread:
    """The checkpoints of one thread, and how they hang together."""

    def __init__(self, checkpoints: Iterable[SavedCheckpoint]) -> None:
        self.all = sorted(checkpoints, key=lambda c: (c.ns, c.id))
        self.by_key = {c.key: c for c in self.all}
        self.namespaces: dict[str, list[SavedCheckpoint]] = {}
        for checkpoint in self.all:
            self.namespaces.setdefault(checkpoint.ns, []).append(checkpoint)

    @cached_property
    def with_children(self) -> set[Key]:
        """What some checkpoint continues, or did before a carrier came in between."""
        links = {(c.ns, c.parent) for c in self.all if c.parent is not None}
        return links | {(c.ns, str(c.metadata[CARRIER])) for c in self.all if c.is_carrier}

    @cached_property
    def stateful(self) -> dict[str, list[str]]:
        """Per namespace those of its subgraphs that keep their state between calls."""
        found: dict[str, list[str]] = {}
        for ns in self.namespaces:
            above, _, name = ns.rpartition("|")
            if ns and ":" not in name:
                found.setdefault(above, []).append(ns)
        return found

    @cached_property
    def calls(self) -> dict[Key, list[Key]]:
        """Per checkpoint the latest checkpoint of each call that its tasks made of a subgraph."""
        found: dict[Key, list[Key]] = {}
        for inner in self.namespaces.values():
            owner = self.owner(inner[-1])
            if owner is not None:
                found.setdefault(owner, []).append(inner[-1].key)
        return found

    def parent(self, checkpoint: SavedCheckpoint) -> SavedCheckpoint | None:
        """Return what it continues; None at a root, and where that is gone."""
        return self.by_key.get((checkpoint.ns, checkpoint.parent or ""))

    def ancestors(self, checkpoint: SavedCheckpoint) -> Iterable[SavedCheckpoint]:
        """Yield what it continues, nearest first; a loop ends where it closes."""
        seen = {checkpoint.key}
        step = self.parent(checkpoint)
        while step is not None and step.key not in seen:
            seen.add(step.key)
            yield step
            step = self.parent(step)

    def owner(self, checkpoint: SavedCheckpoint) -> Key | None:
        """Return the checkpoint of the parent graph whose task ran this call of a subgraph.

        A call's namespace ends in the id of its task, "child:1f0c…"; that of a subgraph which keeps
        its state between calls does not, and nobody owns its checkpoints.
        """
        if not is_call(checkpoint.ns):
            return None
        above = checkpoint.ns.rpartition("|")[0]
        owner = (checkpoint.metadata.get("parents") or {}).get(above)
        return None if owner is None else (above, str(owner))


def is_call(ns: str) -> bool:
    """Say whether a namespace is that of one call of a subgraph."""
    return ":" in ns.rpartition("|")[2]


def decide(
    thread: Thread,
    retention: Retention,
    now: datetime,
    blobs: Sequence[Blob] = (),
    orphan_writes_bytes: int = 0,
) -> dict[Key, Reason]:
    """Return what stays, each with the first reason for it.

    Args:
        thread: All of a thread.
        retention: What was asked for.
        now: What ages are measured from.
        blobs: The values stored apart; only a budget of bytes asks for them.
        orphan_writes_bytes: What the writes of no checkpoint take; the same.
    """
    stays: dict[Key, Reason] = {}
    # From the outside in: what a subgraph keeps depends on what the graph around it keeps.
    for ns in sorted(thread.namespaces, key=lambda ns: (ns.count("|") + bool(ns), ns)):
        for checkpoint in thread.namespaces[ns]:
            if reason := _own_reason(thread, checkpoint, retention, now, stays):
                stays[checkpoint.key] = reason
    _close(thread, stays)
    if retention.max_bytes is not None:
        total = (
            sum(c.bytes + c.write_bytes for c in thread.all)
            + sum(b.bytes for b in blobs)
            + orphan_writes_bytes
        )
        _keep_what_fits(thread, stays, blobs, total, retention.max_bytes)
        _close(thread, stays)
    return stays


def has_expired(thread: Thread, retention: Retention, now: datetime) -> bool:
    """Say whether all of a thread goes: none of it is young or pinned, and its last matches."""
    own = [checkpoint for checkpoint in thread.all if not checkpoint.is_carrier]
    if retention.thread_ttl is None or not own:
        return False
    asked = replace(retention, older_than=retention.thread_ttl)
    return (
        not any(_is_pinned(checkpoint, retention) for checkpoint in own)
        and all(_not_asked_for(c, replace(asked, metadata=None), now) is None for c in own)
        and _not_asked_for(max(own, key=lambda c: c.id), asked, now) is None
    )


def _is_pinned(checkpoint: SavedCheckpoint, retention: Retention) -> bool:
    return bool(checkpoint.metadata.get(PINNED)) or checkpoint.id in retention.pinned


def _own_reason(
    thread: Thread,
    checkpoint: SavedCheckpoint,
    retention: Retention,
    now: datetime,
    stays: Mapping[Key, Reason],
) -> Reason | None:
    if checkpoint.is_carrier:
        return None
    owner = thread.owner(checkpoint)
    reason: Reason | None = None
    if _is_pinned(checkpoint, retention):
        reason = "pinned"
    elif owner is not None and owner not in stays:
        above = thread.namespaces.get(owner[0])
        if owner in thread.by_key:
            return None  # it goes with the checkpoint that called it
        if not above or owner[1] > above[-1].id:
            reason = "running"  # calls are saved in the background, maybe before their caller
    elif _is_last(thread, checkpoint, retention.keep_last):
        reason = "last"
    elif checkpoint.writes and checkpoint.key not in thread.with_children:
        reason = "pending"
    return reason or _not_asked_for(checkpoint, retention, now)


def _not_asked_for(
    checkpoint: SavedCheckpoint, retention: Retention, now: datetime
) -> Reason | None:
    if retention.older_than is not None and (
        checkpoint.at is None or now - checkpoint.at <= retention.older_than
    ):
        return "young"
    if retention.metadata is not None and any(
        checkpoint.metadata.get(name) != value for name, value in retention.metadata.items()
    ):
        return "unmatched"
    return None


def _is_last(thread: Thread, checkpoint: SavedCheckpoint, keep_last: int) -> bool:
    return checkpoint.id >= thread.namespaces[checkpoint.ns][-keep_last:][0].id


def _close(thread: Thread, stays: dict[Key, Reason]) -> None:
    """Add what the ones that stay need, until nothing is missing."""
    work = list(stays)
    while work:
        for needed, reason in _needs(thread, thread.by_key[work.pop()]):
            if needed in thread.by_key and needed not in stays:
                stays[needed] = reason
                work.append(needed)


def _needs(thread: Thread, checkpoint: SavedCheckpoint) -> Iterable[tuple[Key, Reason]]:
    owner = thread.owner(checkpoint)
    if owner is not None:
        yield owner, "subgraph"
    parent = thread.parent(checkpoint)
    if parent is not None and parent.is_carrier:
        yield parent.key, "replay"
    if checkpoint.v < FORMAT and parent is not None and parent.sends:
        # Up to format 3 what was sent to nodes is read from the writes of the parent.
        yield parent.key, "replay"
    for key in thread.calls.get(checkpoint.key, ()):
        yield key, "subgraph"
    for ns in thread.stateful.get(checkpoint.ns, ()):
        # A replay starts a subgraph that keeps its state where it then was.
        inner = thread.namespaces[ns]
        before = bisect_left(inner, checkpoint.id, key=lambda c: c.id)
        if before:
            yield inner[before - 1].key, "subgraph"


def _keep_what_fits(
    thread: Thread,
    stays: dict[Key, Reason],
    blobs: Sequence[Blob],
    total: int,
    max_bytes: int,
) -> None:
    """Let the oldest go first, each with the calls it owns, and only until the thread fits."""
    sizes = {blob.key: blob.bytes for blob in blobs}
    users = Counter(key for c in thread.all for key in references(c))
    units: dict[Key, list[SavedCheckpoint]] = {}
    for checkpoint in thread.all:
        if checkpoint.key not in stays:
            units.setdefault(_outermost(thread, checkpoint, stays), []).append(checkpoint)
    # Values that nobody refers to go in any case.
    total -= sum(size for key, size in sizes.items() if key not in users)
    for _, unit in sorted(units.items(), key=lambda item: item[0][1]):
        if total <= max_bytes:
            stays.update((c.key, "budget") for c in unit)
            continue
        for checkpoint in unit:
            total -= checkpoint.bytes + checkpoint.write_bytes
            for key in references(checkpoint):
                users[key] -= 1
                if not users[key]:
                    total -= sizes.get(key, 0)


def _outermost(thread: Thread, checkpoint: SavedCheckpoint, stays: Mapping[Key, Reason]) -> Key:
    key = checkpoint.key
    while True:
        owner = thread.owner(thread.by_key[key])
        if owner is None or owner in stays or owner not in thread.by_key:
            return key
        key = owner


def references(checkpoint: SavedCheckpoint) -> Iterable[tuple[str, str, str]]:
    """Yield the keys of the values that a checkpoint refers to."""
    for channel, version in checkpoint.versions.items():
        yield checkpoint.ns, channel, str(version)


def unreferenced(
    kept: Iterable[SavedCheckpoint],
    going: Iterable[SavedCheckpoint],
    blobs: Iterable[Blob],
    *,
    everything: bool,
) -> list[Blob]:
    """Return the values that go with checkpoints, and if `everything` those that nobody refers to.

    Of the latter only what is no newer than the same channel of something kept: a writer may store
    a value a moment before the checkpoint it belongs to, and under a higher version.
    """
    used: set[tuple[str, str, str]] = set()
    newest: dict[tuple[str, str], str] = {}
    for checkpoint in kept:
        newest.setdefault((checkpoint.ns, ""), "")
        for key in references(checkpoint):
            used.add(key)
            ns, channel, version = key
            for place in ((ns, channel), (ns, "")):
                newest[place] = max(newest.get(place, ""), version)
    freed = {key for checkpoint in going for key in references(checkpoint)}

    def left_over(blob: Blob) -> bool:
        known = newest.get((blob.ns, blob.channel), newest.get((blob.ns, "")))
        return known is None or str(blob.version) <= known

    return [
        blob
        for blob in blobs
        if blob.key not in used and (blob.key in freed or (everything and left_over(blob)))
    ]


def abandoned_writes(
    thread: Thread, stays: Collection[Key], orphans: Iterable[Key], now: datetime
) -> list[Key]:
    """Return the ids, of those that have writes but no checkpoint, that will never have one.

    Writes may be stored a moment before their checkpoint is. An id that something newer was saved
    behind, and that is older than all that stays or than a minute, is none of these.
    """
    kept: dict[str, list[str]] = {}
    for key in stays:
        if not thread.by_key[key].is_carrier:
            kept.setdefault(key[0], []).append(key[1])
    root = kept.get("", [])

    def is_abandoned(key: Key) -> bool:
        ids = kept.get(key[0])
        if not (ids or root) or key[1] > max(ids or root):
            return False
        at = time_of_id(key[1])
        return bool(ids and key[1] < min(ids)) or at is None or now - at > IN_FLIGHT

    return [key for key in orphans if key not in thread.by_key and is_abandoned(key)]


def order_of_removal(thread: Thread, stays: Collection[Key]) -> list[SavedCheckpoint]:
    """Return what goes: dead branches first, then from the newest down.

    Ancestors go last, so that whatever is still there can be read, at any moment.
    """
    below_kept = {a.key for key in stays for a in thread.ancestors(thread.by_key[key])}
    going = [c for c in thread.all if c.key not in stays]
    going.sort(key=lambda c: c.id, reverse=True)
    return sorted(going, key=lambda c: (not is_call(c.ns), c.key in below_kept))


def nearest(
    thread: Thread, checkpoint: SavedCheckpoint, there: Callable[[Key], bool]
) -> SavedCheckpoint | None:
    """Return the nearest ancestor that is there."""
    return next((a for a in thread.ancestors(checkpoint) if there(a.key)), None)
