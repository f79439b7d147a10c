"""Facts over time: what became of one, what held on a day, and which belong to another branch."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from memkit.facts.model import Fact, to_utc


def history(facts: Iterable[Fact], key: str) -> list[Fact]:
    """Return a fact with all that it replaced and all that replaced it, oldest first.

    Args:
        facts: All facts of the person.
        key: Any fact of the chain; an unknown one gives [].
    """
    by_key = {fact.key: fact for fact in facts}
    if key not in by_key:
        return []
    found = {key}
    waiting = [key]
    while waiting:
        one = by_key[waiting.pop()]
        linked = {one.supersedes, one.superseded_by}
        linked |= {f.key for f in by_key.values() if one.key in (f.supersedes, f.superseded_by)}
        for other in linked - found:
            if other is not None and other in by_key:
                found.add(other)
                waiting.append(other)
    # The order of a chain is that of its links; days settle what branches.
    return sorted((by_key[k] for k in found), key=lambda f: (_since(f), f.key))


def as_of(facts: Iterable[Fact], when: datetime | str) -> list[Fact]:
    """Return the facts that held on a day, as far as is known now.

    A fact holds from `valid_from`, else from when it was first said, until `valid_to`. One that was
    only told of when it was over ("I lived in Berlin until May") holds on every day before.

    Raises:
        ConfigError: `when` is not a time.
    """
    day = to_utc(when)
    return [fact for fact in facts if _held(fact, day)]


def _held(fact: Fact, day: datetime) -> bool:
    since = fact.valid_from or fact.first_seen
    if fact.status == "retracted" and (since is None or fact.valid_to in {None, since}):
        return False  # it never was true
    if fact.valid_to is not None and fact.valid_to <= day:
        return False
    if fact.valid_from is not None:
        return fact.valid_from <= day
    if fact.first_seen is None or fact.first_seen <= day:
        return True
    return fact.valid_to is not None and fact.valid_to <= fact.first_seen


def _since(fact: Fact) -> float:
    since = fact.valid_from or fact.first_seen or fact.last_updated
    return since.timestamp() if since else 0.0


def abandoned(facts: Iterable[Fact], history: Iterable[Any]) -> list[Fact]:
    """Return the facts of a thread that were extracted on a branch which the thread has left.

    After time travel (a run from an earlier checkpoint, or `update_state` on one) the messages that
    such a fact cites are no longer part of the conversation; `FactBook.retract` takes it back.

    Args:
        facts: Facts of one or more threads.
        history: What `graph.get_state_history(config)` or `saver.list(config)` gives for one
            thread, newest first, and complete: a checkpoint that was pruned tells nothing.

    Returns:
        Facts of that thread whose `source["checkpoint_id"]` is in the history, but is no ancestor
        of its newest checkpoint.
    """
    parents: dict[str, str | None] = {}
    thread = head = None
    for checkpoint in history:
        place = checkpoint.config["configurable"]
        came_from = (checkpoint.parent_config or {}).get("configurable", {})
        parents[place["checkpoint_id"]] = came_from.get("checkpoint_id")
        if head is None:
            thread, head = place["thread_id"], place["checkpoint_id"]
    line: set[str] = set()
    while head is not None and head not in line:
        line.add(head)
        head = parents.get(head)
    return [
        fact
        for fact in facts
        if fact.source.get("thread_id") == str(thread)
        and (origin := fact.source.get("checkpoint_id")) in parents
        and origin not in line
    ]


def latest(times: Sequence[datetime | None]) -> datetime | None:
    """Return the latest of some times, None if there is none."""
    return max((t for t in times if t is not None), default=None)
