"""Sentences and content words of a text, by rules that need no model. Pure."""

import re
from functools import cache, lru_cache
from typing import Any

_SENTENCE_END = re.compile(
    r"""
    (?<=[.!?…])["'”’)\]]*\s+(?=["'“‘(\[]?[^\W_a-z])  # ". Then", not "e.g. this" or "3.5 kg"
    | (?<=[。！？])\s*
    | \n+
    """,
    re.VERBOSE,
)
_ABBREVIATION = re.compile(r"\b(?:Dr|Mr|Mrs|Ms|St|Prof|No|Nr|Str|vs|etc|e\.g|i\.e)\.$")
_WORD = re.compile(r"[^\W_]+(?:['’\-][^\W_]+)*")

# Function words of English; a text in another language simply keeps all of its words.
STOP_WORDS = frozenset(
    "a about after again all also am an and any are as at be because been before being but by can "  # noqa: SIM905 - or 120 lines
    "could did do does doing don't down during each few for from further get got had has have "
    "having he her here hers him his how i i'd i'll i'm i've if in into is it it's its just like "
    "me more most my no nor not now of off oh on once only or other our out over own really same "
    "she should so some such than that that's the their them then there these they this those "
    "through to too under until up very was we were what when where which while who whom why will "
    "with would yeah yes you you're your yours".split(" ")
)


def sentences(text: str) -> list[str]:
    """Split a text into sentences, stripped and without empty ones."""
    found: list[str] = []
    for part in _SENTENCE_END.split(text):
        piece = " ".join(part.split())
        if not piece:
            continue
        if found and _ABBREVIATION.search(found[-1][-12:]):
            found[-1] = f"{found[-1]} {piece}"
        else:
            found.append(piece)
    return found


def words(text: str) -> list[str]:
    """Return the words of a text in lower case, with plain apostrophes."""
    return [w.lower().replace("’", "'") for w in _WORD.findall(text)]


def content_words(text: str) -> set[str]:
    """Return the distinct words of a text that carry meaning."""
    return {w for w in words(text) if w not in STOP_WORDS}


@lru_cache(maxsize=16_384)
def root(word: str) -> str:
    """Return the stem of an English word: "lives", "lived" and "living" have one.

    Source: the Snowball project's English stemmer (Porter2).
    """
    return str(_stemmer().stemWord(word))


@cache
def _stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


def roots(text: str) -> set[str]:
    """Return the stems of the words of a text that carry meaning; "Ann's" is "Ann" there."""
    found = {root(word.removesuffix("'s")) for word in content_words(text)}
    return found - STOP_WORDS  # "likes" is none, "like" is
