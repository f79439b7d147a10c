"""When two statements say the same thing: by their words, never by how near they are in meaning.

"I like coffee" and "I hate coffee" are close neighbours for every embedding, and a rule that goes
by nearness takes one for the other. Here a statement is its words in order, without fillers and
grammar, with every negation, number and tense. Pure.
"""

import re
from collections.abc import Iterable

from memkit.words import words

_CONTRACTIONS = (
    (re.compile(r"\bcan['’]t\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon['’]t\b"), "will not"),
    (re.compile(r"n['’]t\b"), " not"),
    (re.compile(r"['’](?:m|re)\b"), ""),
    (re.compile(r"['’]ve\b"), " have"),
    (re.compile(r"['’]ll\b"), " will"),
    (re.compile(r"['’]d\b"), " would"),
)
_LEAD_IN = re.compile(
    r"^\W*(?:(?:so|well|oh|hey|hi|hello|ok|okay|yes|yeah|and|but|anyway|by the way|btw|again"
    r"|actually"
    r"|as (?:i|we) (?:\w+ )?(?:said|mentioned|told you|wrote)(?: before| earlier)?"
    r"|like i said|just to (?:remind you|confirm|be clear)"
    r"|(?:please )?(?:remember|note|keep in mind)(?: that)?|for the record|fyi)\b[\s,:;–—-]*)+"
)
# Articles, the present of "be", and words that add weight but no meaning.
_FILLERS = frozenset(
    "a an the am is are be really very so just still also too already now currently actually again "  # noqa: SIM905 - or a line per word
    "indeed quite that this please well".split(" ")
)
NEGATIONS: frozenset[str] = frozenset(
    ("not", "no", "never", "none", "neither", "nor", "without", "hardly", "stopped")
)
_DECISIVE = re.compile(r"\d|^\W")
# What is no word and yet makes a difference: "C++", "$5", "-5", "1.5".
_SIGN = re.compile(r"[+#$€£¥%&@/*=<>°]|(?<!\w)-(?=\d)|(?<=\d)[.,:](?=\d)")


def canonical(text: str, subject: str = "user") -> str:
    """Return the words of a statement that say something, in order, in lower case, by one space.

    Signs that make a difference ("C++", "$5") stand behind them.

    Args:
        text: The statement, in the first person or about `subject`.
        subject: Whom it is about; "Ann", "the user" and "I" are then the same word.
    """
    said = text.lower()
    name = re.escape(subject.lower())
    said = re.sub(rf"^\W*{name}\s*:\s*", "", said)  # a speaker's name before their words
    for pattern, plain in _CONTRACTIONS:
        said = pattern.sub(plain, said)
    said = re.sub(rf"\b(?:the\s+user|user|{name})['’]s\b|\btheir\b", "my", said)
    said = re.sub(rf"\b(?:the\s+user|user|{name}|me|myself)\b", "i", said)
    said = _LEAD_IN.sub("", said)
    kept = [stem(w) for w in words(said) if w not in _FILLERS] + _SIGN.findall(said)
    # A text of nothing but fillers is still that text and no other.
    return " ".join(kept) or " ".join(words(text))


def stem(word: str) -> str:
    """Return a word without the s of a plural or of the third person."""
    if len(word) < 4 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return "have" if word == "has" else word
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return word[:-2] if word.endswith(("ches", "shes", "xes", "sses", "zes", "oes")) else word[:-1]


NEAR_SHARE = 0.8
"""Share of common words from which on two statements are near copies."""


def near_copies(a: str, b: str) -> bool:
    """Return whether two canonical statements are the same but for a word or two.

    A negation or a number that only one of them has makes them differ.

    Args:
        a: What `canonical` returned.
        b: Likewise.
    """
    if a == b:
        return True
    first, second = set(a.split()), set(b.split())
    if decisive(first) != decisive(second):
        return False
    return len(first & second) >= NEAR_SHARE * len(first | second)


def decisive(tokens: Iterable[str]) -> set[str]:
    """Return what makes statements differ: negations, what has a digit, and signs."""
    return {t for t in tokens if t in NEGATIONS or _DECISIVE.search(t)}
