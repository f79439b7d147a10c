"""From what was said, or what a model made of it, to facts with their sources. Pure."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

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
from memkit.facts.gates import GATES, Verdict, judge, takes_back
from memkit.facts.model import Fact
from memkit.facts.rules import Statement, classify, is_past, reads_as, statements
from memkit.facts.values import names_attribute
from memkit.messages import digest, speaker_of, text_of
from memkit.secrets import TOKEN, find_secrets, secret_words


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

    def fact(self, cites: Sequence[Said], n: object, text: str, **what: Any) -> Fact:
        """Return the n-th fact that these messages state."""
        last = cites[-1]
        return Fact(
            text.replace("\0", ""),  # Postgres keeps none
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
        until = _just_before(each.at)
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
    secret: set[str] = set()
    if "secrets" in gates:
        secret = set().union(*(secret_words(text_of(each.message)) for each in said))
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
        # Said in other words a secret is one still: "the alarm is 4711".
        told = f"{proposal.text} {proposal.kind} {data}"
        if "secrets" in gates and (find_secrets(told) or secret & set(TOKEN.findall(told.lower()))):
            found.refused["secrets"] += 1
            continue
        fact = _believed(proposal, data, cites, verdict, origin, n, schemas)
        outdated = named(proposal.replaces, known)
        found.facts.append(fact.changed(supersedes=outdated.key if outdated else None))
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
    verdict: Verdict,
    origin: Origin,
    n: int,
    schemas: Schemas,
) -> Fact:
    at = cites[-1].at
    kind = _word(proposal.kind) or "statement"
    since, until = interval(proposal.text, at)
    # A date that a model gives is believed where somebody spoke of a time.
    if any(moments(text_of(each.message), each.at) for each in cites):
        since = read_date(proposal.valid_from, at) or since
        until = read_date(proposal.valid_to, at) or until
    if until is None and any(is_past(part.said) for part in verdict.basis[:1]):
        until = _just_before(at)
    if since is not None and until is not None and until <= since:
        since = None
    return origin.fact(
        cites,
        n,
        text=dated(proposal.text.strip(), at),
        kind=kind,
        attribute=_attribute(proposal, kind, verdict, schemas),
        confidence=round(verdict.grounded, 2),
        data=data,
        valid_from=since,
        valid_to=until,
    )


def _attribute(proposal: ProposedFact, kind: str, verdict: Verdict, schemas: Schemas) -> str | None:
    """Return the attribute of a proposal, None where nobody told it of the speaker.

    With a wrong one "I met Tom" would end the person's own name.
    """
    if kind in schemas.by_kind:
        return kind if kind in schemas.single_valued else None
    attribute = _word(proposal.attribute)
    if verdict.about_another or attribute not in schemas.single_valued:
        return None
    own = [part.said for part in verdict.basis if part.is_first_person]
    # A short answer ("At 14 Linden Street") tells what was asked for.
    told = not own or any(reads_as(s, attribute) or _names(s, attribute) for s in own)
    return attribute if told else None


def _names(said: str, attribute: str) -> bool:
    """Return whether what no rule can read has a word for an attribute: "I relocated to Bonn"."""
    return classify(said) == ("statement", None) and names_attribute(said, attribute)


def _just_before(at: datetime) -> datetime:
    """Return the end of what was over when it was said, whenever that was."""
    return at - timedelta(seconds=1)


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
