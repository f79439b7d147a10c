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
from memkit.facts.assertions import Clause, clauses
from memkit.facts.dates import dated
from memkit.facts.model import Fact
from memkit.facts.sameness import NEGATIONS, canonical, stem
from memkit.messages import speaker_of, text_of
from memkit.secrets import find_secrets
from memkit.words import roots, words

Gate = Literal["own", "grounded", "asserted", "instructions", "secrets"]
GATES: tuple[Gate, ...] = get_args(Gate)

GROUNDED_SHARE = 0.6
"""Share of a fact's content words that must stand in the messages it cites. Small models invent
facts; at this share most inventions go and few true facts do (measured with 0.5-1.5B models)."""

_SPEAKS_OF_ITSELF = frozenset(
    ("i", "i'm", "i've", "i'll", "i'd", "mine", "myself", "we", "we're", "we've", "ours")
)
_FIRST_PERSON = _SPEAKS_OF_ITSELF | {"my", "our", "me", "us"}
_RELATIONS = frozenset(
    """wife husband partner girlfriend boyfriend fiance fiancee spouse ex friend mate roommate
    flatmate neighbour neighbor colleague coworker boss manager client customer teacher doctor
    son daughter child kid baby mother father mom mum dad parent sister brother sibling twin cousin
    aunt uncle niece nephew grandmother grandfather grandma grandpa grandson granddaughter
    grandchild cat dog pet horse""".split()  # noqa: SIM905 - or a line per word
)
_DENIES = NEGATIONS | {"dislike", "hate", "avoid", "quit", "former", "longer", "unable", "refuse"}


@dataclass(frozen=True)
class Verdict:
    """What the gates say of a proposal.

    Attributes:
        refused_by: The gate that it did not pass, None if it passed all.
        grounded: The share of its content words that stand in what it cites.
        about_another: Whether it tells of somebody in the speaker's life, not of the speaker.
    """

    refused_by: Gate | None
    grounded: float
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
    said = [(clause, each) for each in cites for clause in clauses(text_of(each.message))]
    meant = _meant(fact.text, speaker)
    share = _share(meant, [_grounds(c, each) for c, each in said])
    asserted = [(c, each) for c, each in said if c.verdict == "asserted"]
    borne_out = _share(meant, [_grounds(c, each) for c, each in asserted])
    # What it rests on: the statements that share the most with it.
    basis = _basis(meant, asserted)
    another = _about_another(fact, speaker)

    def verdict(gate: Gate | None) -> Verdict:
        return Verdict(gate, share, another)

    if "secrets" in gates and find_secrets(fact.text):
        return verdict("secrets")
    if "grounded" in gates and (not meant or share < GROUNDED_SHARE or _invents(fact.text, said)):
        return verdict("grounded")
    if borne_out < GROUNDED_SHARE:
        ordered = [g for c, each in said if c.verdict == "instruction" for g in _grounds(c, each)]
        gate: Gate = "instructions" if meant & set(ordered) else "asserted"
        if gate in gates:
            return verdict(gate)
    if "grounded" in gates and basis and _denies(fact.text) != _denied(meant, basis):
        return verdict("grounded")
    if "own" in gates and not _is_own(fact, cites, basis, speakers):
        return verdict("own")
    return verdict(None)


def _meant(text: str, speaker: str) -> set[str]:
    # A date that was worked out stands in no message as such.
    return roots(_DATE.sub(" ", text)) - roots(speaker) - {"user", "person"}


_DATE = re.compile(r"\b\d{4}(?:-\d\d(?:-\d\d)?)?\b")


def _grounds(clause: Clause, said: Said) -> set[str]:
    return roots(dated(clause.text, said.at))


def _invents(text: str, said: Sequence[tuple[Clause, Said]]) -> bool:
    """Return whether a fact has a number that nobody said."""
    there = {n for clause, each in said for n in _NUMBER.findall(dated(clause.text, each.at))}
    return not set(_NUMBER.findall(_DATE.sub(" ", text))) <= there


_NUMBER = re.compile(r"\d+")


def _share(meant: set[str], grounds: Sequence[set[str]]) -> float:
    return len(meant & set().union(*grounds)) / len(meant) if meant else 0.0


def _basis(meant: set[str], asserted: Sequence[tuple[Clause, Said]]) -> list[Clause]:
    """Return the statements that a fact needs, those first that hold the most of it."""
    found: list[Clause] = []
    left = set(meant)
    while left:
        best = max(asserted, key=lambda pair: len(left & _grounds(*pair)), default=None)
        if best is None or not left & _grounds(*best):
            break
        found.append(best[0])
        left -= _grounds(*best)
    return found


def _denies(text: str) -> bool:
    return bool(_DENIES & {stem(w) for w in canonical(text).split()})


# Where another statement begins: "No, | I live in Bonn | and do not smoke". A list
# goes on: in "I do not like coffee, tea and milk" all three are denied.
_PART = re.compile(
    r"^\W*(?:no|nope|nah|yes|yeah)\b\W+"
    r"|(?:\s?[,;:–—]\s+|\s+(?=(?:and|but|so|because|since|although|though|while)\b))"
    r"(?:(?:and|but|so|because|since|although|though|while)\s+)?"
    r"(?=(?:i|i['’]\w+|we|my|our|do|does|did|don['’]t|am|is|are|was|have|had|can|can['’]t|will|not|no"
    r"|never)\b)",
    re.IGNORECASE,
)


def _denied(meant: set[str], basis: Sequence[Clause]) -> bool:
    """Return whether what a fact means is denied where it is said."""
    parts = [part for clause in basis for part in _PART.split(clause.text) if part]
    return any(_denies(part) for part in parts if meant & roots(part))


def _is_own(
    fact: ProposedFact,
    cites: Sequence[Said],
    basis: Sequence[Clause],
    speakers: Collection[str],
) -> bool:
    speaker = speaker_of(cites[-1].message)
    if len({speaker_of(each.message) for each in cites}) > 1 or _NOTE.match(fact.text):
        return False
    told = [set(words(clause.text)) for clause in basis]
    first_person = any(_FIRST_PERSON & each for each in told)
    if _is_another(fact.subject, speaker):
        others = {name.lower() for name in speakers} - {speaker.lower()}
        return (fact.subject or "").lower() not in others and first_person
    names_them = bool({"user", "person", *_FIRST_PERSON, *words(speaker)} & set(_plain(fact.text)))
    if not first_person:
        # "At 14 Linden Street" answers a question; the fact then has to name the person.
        return names_them and any(each.answers for each in cites)
    if not names_them and len(_meant(fact.text, speaker)) < 2:
        return False  # a scrap
    # "My friend Tom lives in Paris" does not say where the speaker lives.
    relations = set().union(*told) & _RELATIONS if told else set()
    alone = relations and not any(_SPEAKS_OF_ITSELF & each for each in told)
    return not alone or bool(relations & {stem(w) for w in _plain(fact.text)})


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
    of_theirs = first[:1] == ["my"] and bool(_RELATIONS & set(first))
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
