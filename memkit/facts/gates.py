"""What is not written, whatever a model says: the gates between a proposal and the store. Pure.

A model that is shown a conversation takes down what an assistant guessed, what was only asked, what
it was shown as known, and what nobody said. Each gate looks at the words of the messages that a
proposal cites; none asks a model.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from memkit.errors import ConfigError
from memkit.facts.ask import ProposedFact, Said
from memkit.facts.assertions import clauses
from memkit.facts.evidence import (
    FIRST_PERSON,
    RELATIONS,
    Part,
    denies,
    evidence,
    invents_a_number,
    meaning,
)
from memkit.facts.model import Fact
from memkit.facts.sameness import NEGATIONS, canonical, stem
from memkit.messages import speaker_of
from memkit.secrets import find_secrets
from memkit.words import roots, words

Gate = Literal["own", "grounded", "asserted", "instructions", "secrets"]
GATES: tuple[Gate, ...] = get_args(Gate)

GROUNDED_SHARE = 0.6
"""Share of a fact's content words that must stand in the messages it cites. Small models invent
facts; at this share most inventions go and few true facts do (measured with 0.5-1.5B models)."""


@dataclass(frozen=True)
class Verdict:
    """What the gates say of a proposal.

    Attributes:
        refused_by: The gate that it did not pass, None if it passed all.
        grounded: The share of its content words that stand in what it cites.
        basis: The statements that it rests on, those first that hold the most of it.
        about_another: Whether it tells of somebody in the speaker's life, not of the speaker.
    """

    refused_by: Gate | None
    grounded: float
    basis: tuple[Part, ...] = ()
    about_another: bool = False


def check_gates(gates: Collection[str]) -> frozenset[str]:
    """Return the gates that are to be used.

    Raises:
        ConfigError: One of them is not known.
    """
    if isinstance(gates, str) or set(gates) - set(GATES):
        raise ConfigError(f"gates are some of {GATES}, got {gates!r}")
    return frozenset(gates)


def judge(  # noqa: PLR0911 - one line per gate
    fact: ProposedFact,
    cites: Sequence[Said],
    *,
    speakers: Collection[str] = (),
    gates: Collection[str] = GATES,
) -> Verdict:
    """Judge a proposed fact by the messages that it cites.

    - "own": it cites messages of one person, and is about that person or, in that person's words,
      about somebody of theirs.
    - "grounded": `GROUNDED_SHARE` of its content words stand there, and it denies what they deny.
    - "asserted": they stand there as a statement: in no question, hypothesis, quotation or joke.
    - "instructions": they stand there as something other than an order to the memory.
    - "secrets": it holds no password, key or card number.

    Args:
        fact: The proposal.
        cites: The messages of persons that it cites.
        speakers: The names of all who speak in the conversation.
        gates: Those that are to be used.
    """
    if not cites:
        return Verdict("own", 0.0)
    speaker = speaker_of(cites[-1].message)
    rests = evidence(fact.text, cites)
    another = _about_another(fact, speaker)

    def verdict(gate: Gate | None) -> Verdict:
        return Verdict(gate, rests.share, rests.basis, another)

    if "secrets" in gates and find_secrets(fact.text):
        return verdict("secrets")
    invented = rests.share < GROUNDED_SHARE or invents_a_number(fact.text, cites)
    if "grounded" in gates and invented:
        return verdict("grounded")
    if rests.asserted < GROUNDED_SHARE:
        gate: Gate = "instructions" if rests.ordered else "asserted"
        if gate in gates:
            return verdict(gate)
    denied = any(part.denies for part in rests.basis)
    if "grounded" in gates and rests.basis and denies(fact.text) != denied:
        return verdict("grounded")
    if "own" in gates and not _is_own(fact, cites, rests.basis, speakers):
        return verdict("own")
    return verdict(None)


def _is_own(
    fact: ProposedFact,
    cites: Sequence[Said],
    basis: Sequence[Part],
    speakers: Collection[str],
) -> bool:
    speaker = speaker_of(cites[-1].message)
    if len({speaker_of(each.message) for each in cites}) > 1 or _NOTE.match(fact.text):
        return False
    if _is_another(fact.subject, speaker):
        others = {name.lower() for name in speakers} - {speaker.lower()}
        told_by = any(FIRST_PERSON & set(words(part.clause.text)) for part in basis)
        return (fact.subject or "").lower() not in others and told_by
    said = set(_plain(fact.text))
    names_them = bool({"user", "person", *FIRST_PERSON, *words(speaker)} & said)
    if not any(part.is_first_person for part in basis):
        # "At 14 Linden Street" answers a question; the fact then has to name the person.
        of_another = any(part.is_of_another for part in basis)
        return names_them and not of_another and any(each.answers for each in cites)
    if not names_them and len(meaning(fact.text, speaker)) < 2:
        return False  # a scrap
    return all(_names(said, part) for part in basis)


_PRONOUNS = frozenset(("it", "that", "this", "these", "there", "who", "whose"))


def _names(said: set[str], part: Part) -> bool:
    """Return whether a fact says of whom a part speaks.

    "My friend Tom lives in Paris" and "Tom lives in Paris" do not say where the speaker lives.
    """
    relations = {stem(w) for w in said} & RELATIONS
    if part.is_of_another:
        whom = _plain(part.subject or part.text)[0]
        return whom in said or whom in _PRONOUNS or bool(relations)
    return not part.relations or bool(part.relations & relations)


# How a view shows what was recalled: taken down again, it would feed on itself.
_NOTE = re.compile(r"[\s-]*\(\d{4}-\d\d-\d\d")


def _plain(text: str) -> list[str]:
    return [word.removesuffix("'s") for word in words(text)]


def _is_another(subject: str | None, speaker: str) -> bool:
    name = (subject or "").strip().lower().removeprefix("the ")
    return name not in {"", "user", "person", "i", "me", "speaker", speaker.lower()}


def _about_another(fact: ProposedFact, speaker: str) -> bool:
    """Return whether a fact says something of a friend, a sister, a dog: "my sister lives …"."""
    first = canonical(fact.text, speaker).split()[:4]
    of_theirs = first[:1] == ["my"] and bool(RELATIONS & set(first))
    return _is_another(fact.subject, speaker) or of_theirs


_TAKES_BACK = NEGATIONS | frozenset(
    ("longer", "anymore", "forget", "wrong", "mistake", "quit", "former", "instead", "left")
)
_UNSAYS = re.compile(
    r"\b(?:jok(?:e|es|ing)|kidding|that(?:['’]s| is| was) (?:wrong|not true|a lie)"
    r"|i (?:lied|made that up)|scratch that)\b",
    re.IGNORECASE,
)


_SHORT = 8  # words of a message that says no more than that


def takes_back(text: str, fact: Fact) -> bool:
    """Return whether a message bears out that a fact is taken back.

    It denies something that holds `GROUNDED_SHARE` of the words of the fact, or it does nothing but
    unsay what was said before.
    """
    asserted = [clause.text for clause in clauses(text) if clause.verdict == "asserted"]
    about = roots(fact.text) - roots(fact.subject) - {"user"}
    unsays = _UNSAYS.search(text) is not None and len(words(text)) <= _SHORT
    return unsays or any(
        _TAKES_BACK & set(canonical(said).split())
        and len(about & roots(said)) >= max(1, GROUNDED_SHARE * len(about))
        for said in asserted
    )
