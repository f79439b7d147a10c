"""Facts without a model: the first-person statements of a person, kept as they were said. Pure.

What it misses: statements without "I", "my" or "we", facts spread over several sentences, pronouns
that refer back, relative dates, and every language but English.
"""

import re
from dataclasses import dataclass

from memkit.words import content_words, sentences

_FIRST_PERSON = re.compile(
    r"\b(?:i|i['’](?:m|ve|ll|d)|my|mine|we|we['’](?:re|ve)|our)\b", re.IGNORECASE
)
_NOT_A_STATEMENT = re.compile(
    r"""
    \?[^\w?]*$                                     # a question
    | \b(?:if\ (?:i|we|only)|suppose|imagine|i\ wish|what\ if|would\ have|might|maybe|perhaps
        |not\ sure|i\ wonder|i\ guess|hypothetically)\b
    | ^\W*(?:can|could|would|should|do|does|did|will|may|shall)\ (?:i|we|you)\b
    | \b(?:said|told\ me|asked|quote)\b.{0,12}["“]  # somebody's words
    """,
    re.IGNORECASE | re.VERBOSE,
)
_SMALL_TALK = re.compile(
    r"^\W*(?:i(?:['’]m| am) (?:fine|good|okay|ok|great|sorry|happy to hear|glad)\b.{0,20}"
    r"|i (?:see|understand|agree|know|think so|hope so|appreciate (?:it|that))\b.{0,20})\W*$",
    re.IGNORECASE,
)

# (pattern, kind, attribute): the first that matches decides.
_KINDS: tuple[tuple[re.Pattern[str], str, str | None], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, attribute)
    for pattern, kind, attribute in (
        (
            r"\bmy (?:new |current |home |shipping |delivery |postal )*address"
            r" (?:is|has changed to)\b"
            r"|\b(?:i|we)(?:['’]m|['’]ve| am| have|['’]re| are)?(?: now| just| recently| finally)* "
            r"(?:live|living|moved|relocated)(?: \w+){0,3}? (?:at|in|to|into)\b",
            "address",
            "home_address",
        ),
        (r"\bmy (?:full |first |last )?name(?: is|['’]s)\b|\bplease call me\b", "name", "name"),
        (r"\bmy (?:new |private |work )?e-?mail(?: address)? is\b", "contact", "email"),
        (r"\bmy (?:new |mobile |cell )?(?:phone(?: number)?|number) is\b", "contact", "phone"),
        (r"\bmy birthday is\b|\bi was born on\b", "birthday", "birthday"),
        (r"\ballerg(?:ic|y|ies)\b|\bintoleran(?:t|ce)\b", "allergy", None),
        (
            r"\bi(?:['’]m| am)? (?:now )?(?:work|working) (?:as|at|for)\b|\bmy (?:new )?job is\b"
            r"|\bi(?:['’]ve| have)? started(?: \w+){0,3} as an?\b",
            "job",
            "job",
        ),
        (
            r"\bmy (?:\w+ )?(?:wife|husband|partner|son|daughter|mother|father|mom|mum|dad|sister"
            r"|brother|kids?|child(?:ren)?|grand\w+|cat|dog|pet)\b",
            "family",
            None,
        ),
        (
            r"\b(?:i|we)(?: \w+)? (?:prefer|like|love|enjoy|hate|dislike|adore)\b"
            r"|\bmy favou?rite\b|\bi (?:don['’]t|do not|can['’]t) (?:like|stand|eat|drink)\b",
            "preference",
            None,
        ),
        (r"\b(?:i|we)(?:['’]m|['’]re| am| are)? (?:plan|planning|going) (?:to|on)\b", "plan", None),
        (r"\bmy order\b|\bi ordered\b", "order", None),
    )
)


@dataclass(frozen=True)
class Statement:
    """A sentence that states something about its speaker."""

    text: str
    kind: str
    attribute: str | None


def statements(text: str) -> list[Statement]:
    """Return the first-person declarative sentences of a text, in their order."""
    found = []
    for sentence in sentences(text):
        if (
            _FIRST_PERSON.search(sentence)
            and not _NOT_A_STATEMENT.search(sentence)
            and not _SMALL_TALK.match(sentence)
            and len(content_words(sentence)) >= 2
        ):
            kind, attribute = classify(sentence)
            found.append(Statement(sentence, kind, attribute))
    return found


def classify(sentence: str) -> tuple[str, str | None]:
    """Return kind and attribute of a first-person sentence."""
    for pattern, kind, attribute in _KINDS:
        if pattern.search(sentence):
            return kind, attribute
    return "statement", None
