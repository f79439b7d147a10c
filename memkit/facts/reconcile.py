"""What a newly stated fact does to the facts that are known. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from memkit.facts.model import SINGLE_VALUED, Fact

Action = Literal["add", "confirm", "supersede"]
_CONFIRMATIONS = 16


@dataclass(frozen=True)
class Change:
    """One decision about a proposed fact.

    Attributes:
        action: "add" a new fact, "confirm" a known one, or "supersede" a known one by the new one.
        fact: The new fact, or the known one as confirmed.
        previous: With "supersede": the known fact as it is to be stored from now on.
    """

    action: Action
    fact: Fact
    previous: Fact | None = None


def same_statement(a: Fact, b: Fact) -> bool:
    """Return whether two facts say the same thing of the same subject, but for case and marks.

    Meaning is not compared: "likes coffee" and "hates coffee" are close neighbours by meaning.
    """
    return (a.subject, a.words) == (b.subject, b.words)


def reconcile(existing: Sequence[Fact], proposed: Sequence[Fact], now: datetime) -> list[Change]:
    """Decide what becomes of each proposed fact, in their order.

    A statement that is known is confirmed. One with a single-valued attribute (home address)
    supersedes the current value, which stays readable with the end of its validity; said out of
    order, the older of the two ends where the newer begins. Everything else is added.

    Args:
        existing: Facts that may be touched; only current ones are.
        proposed: Facts as stated, with `key` and the time of the statement in `last_updated`.
        now: Stands in for a statement without a time.
    """
    current = {f.key: f for f in existing if f.status == "current"}
    changes: list[Change] = []
    for stated in proposed:
        at = stated.last_updated or now
        new = stated.changed(
            first_seen=stated.first_seen or at,
            last_updated=at,
            last_confirmed=stated.last_confirmed or at,
        )
        known = next((f for f in current.values() if same_statement(f, new)), None)
        rival = next((f for f in current.values() if _same_attribute(f, new)), None)
        if known is not None:
            seen = max(t for t in (known.last_confirmed, known.last_updated, at) if t is not None)
            # Which statements confirmed it is kept, so that one read again stays a confirmation
            # even after the fact was superseded; the last few are enough.
            by = [*known.source.get("confirmed_by", ()), new.key][-_CONFIRMATIONS:]
            confirmed = known.changed(
                last_confirmed=seen,
                last_updated=seen,
                source={**known.source, "confirmed_by": by},
            )
            current[known.key] = confirmed
            changes.append(Change("confirm", confirmed))
        elif rival is None:
            current[new.key] = new
            changes.append(Change("add", new))
        elif at < (rival.last_updated or at):
            # Said earlier, heard later: it was true until the one that is known.
            until = rival.valid_from or rival.first_seen or rival.last_updated
            ended = new.changed(status="superseded", valid_to=until)
            changes.append(Change("add", ended))
        else:
            since = new.valid_from or at
            previous = rival.changed(status="superseded", valid_to=since)
            new = new.changed(valid_from=since, supersedes=rival.key)
            del current[rival.key]
            current[new.key] = new
            changes.append(Change("supersede", new, previous))
    return changes


def _same_attribute(a: Fact, b: Fact) -> bool:
    return a.attribute in SINGLE_VALUED and (a.subject, a.attribute) == (b.subject, b.attribute)
