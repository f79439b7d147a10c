"""From what was said, or what a model made of it, to facts with their sources. Pure."""

import hashlib
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from langchain_core.messages import BaseMessage
from pydantic import ValidationError

from memkit.effects import stable_key
from memkit.facts.ask import (
    ProposedFact,
    Reply,
    Retraction,
    Said,
    Schemas,
    cited,
    named,
)
from memkit.facts.dates import dated, interval, moments, read_date
from memkit.facts.gates import GATES, judge, takes_back
from memkit.facts.model import Fact
from memkit.facts.rules import Statement, statements
from memkit.messages import speaker_of, text_of
from memkit.secrets import find_secrets


@dataclass(frozen=True)
class Origin:
    """Where messages were said, and from which checkpoint and by which version they were read."""

    thread_id: str | None
    checkpoint_id: str | None
    version: int = 1

    def key(self, cites: Sequence[Said], n: object) -> str:
        """Return the key of the n-th fact that cites these messages, as they read now."""
        ids = [each.id for each in cites]
        said = [digest(each.message) for each in cites]
        return stable_key(self.version, self.thread_id, *ids, *said, n)

    def fact(self, cites: Sequence[Said], n: object, **what: Any) -> Fact:
        """Return the n-th fact that these messages state."""
        last = cites[-1]
        return Fact(
            **what,
            subject=speaker_of(last.message),
            first_seen=last.at,
            last_updated=last.at,
            last_confirmed=last.at,
            source={
                "thread_id": self.thread_id,
                "message_ids": [each.id for each in cites],
                "checkpoint_id": self.checkpoint_id,
            },
            key=self.key(cites, n),
        )


def digest(message: BaseMessage) -> str:
    """Return a digest of what a message says: an edited message is another one."""
    return hashlib.sha256(text_of(message).encode("utf-8", "replace")).hexdigest()[:16]


@dataclass
class Proposals:
    """What is to be reconciled.

    Attributes:
        facts: Facts as stated; those with status "retracted" take back known ones.
        read: The messages that are marked as read once it is written. Without a model those that
            state nothing are left out: they will state nothing next time.
        refused: How many proposals each gate kept back; "malformed" are those that made no sense.
    """

    facts: list[Fact] = field(default_factory=list)
    read: list[Said] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


# Without a model


def from_statements(
    said: Sequence[Said],
    origin: Origin,
    *,
    before: Said | None = None,
    gates: Collection[str] = GATES,
) -> Proposals:
    """Return the first-person statements of persons' messages as facts.

    Args:
        said: The messages.
        origin: Where they were said.
        before: The last message of a person before them, which "that was a joke" of the same person
            takes back.
        gates: Of these only "secrets" has anything to do; `memkit.facts.rules` sees to the rest.
    """
    found = Proposals()
    for each in said:
        if not each.citable:
            continue
        if before is not None and speaker_of(before.message) != speaker_of(each.message):
            before = None
        earlier = statements(text_of(before.message)) if before else []
        previous = earlier[-1] if earlier else None
        here: list[Fact] = []
        for n, told in enumerate(statements(text_of(each.message), previous=previous)):
            if "secrets" in gates and find_secrets(told.text):
                found.refused["secrets"] += 1
            elif told.refers_back and before is not None:
                here += _unsaid(each, len(earlier), before, origin)
            elif not told.refers_back:
                fact = _as_stated(each, told, origin, n)
                if before is not None and previous is not None and told.replaces == previous.text:
                    # "Sorry, I meant 41 Linden Street", one message later.
                    fact = fact.changed(supersedes=origin.key([before], len(earlier) - 1))
                here.append(fact)
        if here:
            found.read.append(each)
            found.facts += here
        before = each
    return found


def _as_stated(each: Said, told: Statement, origin: Origin, n: int) -> Fact:
    since, until = interval(told.text, each.at)
    if told.action == "retract":
        since, until = None, until or each.at
    elif told.past and until is None:
        # "I used to live in Berlin" was over when it was said, whenever that was.
        until = each.at - timedelta(seconds=1)
    text = dated(told.text, each.at)
    return origin.fact(
        [each],
        n,
        # In a room of several people a sentence with "I" needs its speaker.
        text=f"{each.message.name}: {text}" if each.message.name else text,
        kind=told.kind,
        attribute=told.attribute,
        valid_from=since,
        valid_to=until,
        status="retracted" if told.action == "retract" else "current",
    )


def _unsaid(each: Said, count: int, before: Said, origin: Origin) -> list[Fact]:
    """Return what takes back all statements of the message before: "that was a joke"."""
    return [
        origin.fact([each], f"unsaid {n}", text=text_of(each.message), status="retracted").changed(
            supersedes=origin.key([before], n)
        )
        for n in range(count)
    ]


# With a model


def from_reply(
    reply: Reply,
    said: Sequence[Said],
    known: Sequence[Fact],
    origin: Origin,
    *,
    schemas: Schemas,
    gates: Collection[str] = GATES,
) -> Proposals:
    """Return what a model names and the gates let through.

    Args:
        reply: What it answered.
        said: The messages that it was shown, by whose numbers it cites.
        known: The known facts that it was shown.
        origin: Where the messages were said.
        schemas: The kinds with fields of their own.
        gates: Those that are to be used.
    """
    found = Proposals(read=[each for each in said if each.citable])
    found.refused["malformed"] += reply.malformed
    speakers = {speaker_of(each.message) for each in said}
    ordinals: Counter[tuple[str, ...]] = Counter()
    for proposal, details in reply.facts:
        cites = cited(proposal.message_ids, said)
        place = tuple(each.id for each in cites)
        n = ordinals[place]
        ordinals[place] += 1
        verdict = judge(proposal, cites, speakers=speakers, gates=gates)
        if verdict.refused_by is not None:
            found.refused[verdict.refused_by] += 1
            continue
        try:
            data = schemas.details(_word(proposal.kind), details)
        except ValidationError:
            found.refused["malformed"] += 1
            continue
        if "secrets" in gates and find_secrets(f"{proposal.kind} {data}"):
            found.refused["secrets"] += 1
            continue
        fact = _believed(proposal, data, cites, origin, n, schemas)
        outdated = named(proposal.replaces, known)
        found.facts.append(
            fact.changed(
                confidence=round(verdict.grounded, 2),
                attribute=None if verdict.about_another else fact.attribute,
                supersedes=outdated.key if outdated else None,
            )
        )
    for n, entry in enumerate(reply.retracted):
        taken = _believed_retraction(entry, said, known, origin, n)
        if taken is None:
            found.refused["grounded"] += 1
        else:
            found.facts.append(taken)
    return found


def _believed(  # noqa: PLR0917 - what a fact is made of
    proposal: ProposedFact,
    data: dict[str, Any],
    cites: Sequence[Said],
    origin: Origin,
    n: int,
    schemas: Schemas,
) -> Fact:
    at = cites[-1].at
    kind = _word(proposal.kind) or "statement"
    attribute = kind if kind in schemas.by_kind else _word(proposal.attribute)
    since, until = interval(proposal.text, at)
    # A date that a model gives is believed where somebody spoke of a time.
    if any(moments(text_of(each.message), each.at) for each in cites):
        since = read_date(proposal.valid_from, at) or since
        until = read_date(proposal.valid_to, at) or until
    if since is not None and until is not None and until <= since:
        since = None
    return origin.fact(
        cites,
        n,
        text=dated(proposal.text.strip(), at),
        kind=kind,
        attribute=attribute if attribute in schemas.single_valued else None,
        data=data,
        valid_from=since,
        valid_to=until,
    )


def _believed_retraction(
    entry: Retraction, said: Sequence[Said], known: Sequence[Fact], origin: Origin, n: int
) -> Fact | None:
    """Return a retraction that the messages bear out, else None."""
    fact, cites = named(entry.known_id, known), cited(entry.message_ids, said)
    if fact is None or not cites or speaker_of(cites[-1].message) != fact.subject:
        return None
    if not any(takes_back(text_of(each.message), fact) for each in cites):
        return None
    until = cites[-1].at if entry.was_true else None
    taken = origin.fact(cites, f"retracted {n}", text=fact.text, status="retracted")
    return taken.changed(supersedes=fact.key, valid_to=until)


def _word(value: str | None) -> str:
    """Return a kind or an attribute as it is kept."""
    return (value or "").strip().lower().replace(" ", "_")
