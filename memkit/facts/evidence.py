"""What a fact rests on: the parts of what was said that hold its words. Pure."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from memkit.facts.ask import Said
from memkit.facts.assertions import Clause, clauses
from memkit.facts.dates import dated
from memkit.facts.rules import statements
from memkit.facts.sameness import NEGATIONS, canonical, stem
from memkit.messages import speaker_of, text_of
from memkit.words import roots, words

_OF_ONESELF = frozenset(
    ("i", "i'm", "i've", "i'll", "i'd", "mine", "myself", "we", "we're", "we've", "ours")
)
FIRST_PERSON = _OF_ONESELF | {"my", "our", "me", "us"}
RELATIONS = frozenset(
    """wife husband partner girlfriend boyfriend fiance fiancee spouse ex friend mate roommate
    flatmate neighbour neighbor colleague coworker boss manager client customer teacher doctor
    son daughter child kid baby mother father mom mum dad parent sister brother sibling twin cousin
    aunt uncle niece nephew grandmother grandfather grandma grandpa grandson granddaughter
    grandchild cat dog pet horse""".split()  # noqa: SIM905 - or a line per word
)
_DENIES = NEGATIONS | {"dislike", "hate", "avoid", "quit", "former", "longer", "unable", "refuse"}

# Where another statement begins: "No, | I live in Bonn | and do not smoke | and Tom lives in Kiel".
# A list goes on: in "I do not like coffee, tea and milk" all three are denied.
_JOINT = r"(?:and|but|so|because|since|although|though|while|whereas|or)"
_VERB = r"(?:is|was|has|had|does|did|will|can|lived?s?|works?|moved|likes?|loves?|hates?)"
_SELF = r"(?:i|i['’]\w+|we|my|our)\b"
_OTHER = rf"(?:he|she|they|it|who|(?-i:[A-Z])\w+(?: (?-i:[A-Z])\w+)?) {_VERB}\b|whose\b"
_GOES_ON = r"""(?:do|does|did|don['’]t|doesn['’]t|didn['’]t|am|is|are|was|were|have|had|can|can['’]t
    |will|not|no|never|used|lived|worked|moved)\b"""
_STARTS = re.compile(
    rf"""^\W*(?:no|nope|nah|yes|yeah)\b\W+
    |(?:\s?[,;:–—]\s+|\s+(?={_JOINT}\b|who\b|whose\b))(?:{_JOINT}\s+)?(?:(?:now|then|today|currently|instead)\s+)?
    (?={_SELF}|{_OTHER.replace(" ", "[ ]")}|{_GOES_ON})""",
    re.IGNORECASE | re.VERBOSE,
)
_BEGINS_WITH_OTHER = re.compile(_OTHER, re.IGNORECASE)
_BEGINS_WITH_VERB = re.compile(_GOES_ON, re.IGNORECASE | re.VERBOSE)
# A date that was worked out stands in no message as such.
_DATE = re.compile(r"\b\d{4}(?:-\d\d(?:-\d\d)?)?\b")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Part:
    """A part of what was said that states one thing.

    Attributes:
        text: Its words.
        clause: The clause that it is part of.
        source: The message.
        subject: Where it has no subject of its own, the part before that has one.
    """

    text: str
    clause: Clause
    source: Said
    subject: str = ""

    @cached_property
    def grounds(self) -> set[str]:
        """The roots of its words, and of its dates as worked out."""
        return roots(dated(self.text, self.source.at))

    @cached_property
    def words(self) -> set[str]:
        """Its words, and those of its subject."""
        return set(words(f"{self.subject} {self.text}"))

    @property
    def said(self) -> str:
        """Its words with a subject: "I used to smoke" of "I run and used to smoke"."""
        return f"I {self.text}" if self.subject and self.words & _OF_ONESELF else self.text

    @property
    def is_first_person(self) -> bool:
        """Whether the speaker speaks of themselves or of what is theirs."""
        return bool(self.words & FIRST_PERSON)

    @property
    def is_of_another(self) -> bool:
        """Whether it speaks of somebody by name or as "she": "Tom lives in Bonn"."""
        of_another = _BEGINS_WITH_OTHER.match(self.subject or self.text) is not None
        return of_another and not self.is_first_person

    @property
    def relations(self) -> set[str]:
        """Whom of the speaker's it speaks of, and not of the speaker: "my sister lives in Bonn"."""
        return set() if self.words & _OF_ONESELF else self.words & RELATIONS

    @property
    def denies(self) -> bool:
        """Whether it says what is not."""
        return denies(self.text)


@dataclass(frozen=True)
class Evidence:
    """What a text rests on.

    Attributes:
        share: The share of its content words that was said at all.
        asserted: The share that was said as a statement, or set by a request.
        ordered: Whether some of it was said as an order.
        basis: The statements that it needs, those first that hold the most of it.
    """

    share: float
    asserted: float
    ordered: bool
    basis: tuple[Part, ...]


def evidence(text: str, cites: Sequence[Said]) -> Evidence:
    """Return what a text rests on in the messages that it cites, of one speaker."""
    meant = meaning(text, speaker_of(cites[-1].message))
    parts = [part for each in cites for part in _parts(each)]
    asserted = [part for part in parts if part.clause.verdict == "asserted" or _sets(part)]
    ordered = [part for part in parts if part.clause.verdict == "instruction"]
    return Evidence(
        share=_share(meant, parts),
        asserted=_share(meant, asserted),
        ordered=any(meant & part.grounds for part in ordered),
        basis=tuple(_basis(meant, asserted)),
    )


def meaning(text: str, speaker: str) -> set[str]:
    """Return the roots of the words that say something, without dates and the speaker's name."""
    return roots(_DATE.sub(" ", text)) - roots(speaker) - {"user", "person"}


def invents_a_number(text: str, cites: Sequence[Said]) -> bool:
    """Return whether a text has a number that nobody said."""
    there = {n for each in cites for n in _NUMBER.findall(dated(text_of(each.message), each.at))}
    return not set(_NUMBER.findall(_DATE.sub(" ", text))) <= there


def denies(text: str) -> bool:
    """Return whether a text says what is not."""
    return bool(_DENIES & {stem(w) for w in canonical(text).split()})


def _parts(said: Said) -> Iterator[Part]:
    for clause in clauses(text_of(said.message)):
        subject = ""
        for text in _STARTS.split(clause.text):
            if not text or not text.strip():
                continue
            if _BEGINS_WITH_VERB.match(text):
                yield Part(text, clause, said, subject)
            else:
                yield Part(text, clause, said)
                subject = text


def _sets(part: Part) -> bool:
    """Return whether a request tells something of the speaker: "call me Ann"."""
    return part.clause.verdict == "instruction" and bool(statements(part.clause.text))


def _share(meant: set[str], parts: Sequence[Part]) -> float:
    there: set[str] = set().union(*(part.grounds for part in parts))
    return len(meant & there) / len(meant) if meant else 0.0


def _basis(meant: set[str], asserted: Sequence[Part]) -> list[Part]:
    found: list[Part] = []
    left = set(meant)
    # Of two that hold as much, what the speaker says of themselves, and what was said last.
    ranked = sorted(asserted, key=lambda part: part.is_first_person and not part.relations)
    while left:
        best = max(reversed(ranked), key=lambda part: len(left & part.grounds), default=None)
        if best is None or not left & best.grounds:
            break
        found.append(best)
        left -= best.grounds
    return found
