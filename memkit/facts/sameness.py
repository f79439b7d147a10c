"""When two statements say the same thing: by their words, never by how near they are in meaning.

"I like coffee" and "I hate coffee" are close neighbours for every embedding, and a rule that goes
by nearness takes one for the other. Here a statement is its words in order, without fillers and
grammar, with every negation, number and tense. Pure.
"""

import re
from collections.abc import Iterable
from functools import lru_cache

from memkit.words import words

_CONTRACTIONS = (
    (re.compile(r"\bcan['’]t\b|\bcannot\b"), "can not"),
    (re.compile(r"\bwon['’]t\b"), "will not"),
    (re.compile(r"n['’]t\b"), " not"),
    (re.compile(r"['’](?:m|re)\b"), ""),
    (re.compile(r"['’]ve\b"), " have"),
    (re.compile(r"['’]ll\b"), " will"),
    (re.compile(r"['’]d\b"), " would"),
    (re.compile(r"\b(?:g[ai]ve|gives|given|giving) up\b|\bquit(?:s|ting)?\b"), "stopped"),
)
_LEAD_IN = re.compile(
    r"^\W*(?:(?:so|well|oh|hey|hi|hello|ok|okay|yes|yeah|and|but|anyway|by the way|btw|again"
    r"|actually"
    r"|as (?:i|we) (?:\w+ )?(?:said|mentioned|told you|wrote)(?: before| earlier)?"
    r"|like i said|just to (?:remind you|confirm|be clear)"
    r"|(?:please )?(?:remember|note|keep in mind)(?: that)?|for the record|fyi)\b[\s,:;–—-]*)+"
)
_MINE = re.compile(r"\b(?:the\s+)?user['’]s\b|\btheir\b", re.IGNORECASE)
_MYSELF = re.compile(r"\b(?:the\s+)?user\b|\b(?:me|myself)\b", re.IGNORECASE)
# As names they are written with a capital: "Will will not come".
_WORDS_TOO = frozenset(("will", "may", "can", "might", "must"))
# Behind one of these it is the month, or a place: "May moved in May".
_NO_PERSON = (
    r"(?<!\bin )(?<!since )(?<!until )(?<!till )(?<!last )(?<!next )(?<!early )(?<!late )(?<!mid-)"
    r"(?<!\d )"
)
# Articles, the present of "be", and words that add weight but no meaning.
_FILLERS = frozenset(
    "a an the am is are be really very so just still also too already now currently actually again "  # noqa: SIM905 - or a line per word
    "indeed quite that this please well".split(" ")
)
NEGATIONS: frozenset[str] = frozenset(
    "not no never none neither nor without hardly barely scarcely rarely seldom lack "  # noqa: SIM905 - or a line per word
    "stopped".split()
)
# They deny nothing, and yet make another statement: "I used to smoke", "I almost moved".
_TURNS = frozenset(
    "used almost nearly former formerly ex hate dislike avoid refuse want need lost sold".split()  # noqa: SIM905 - or a line per word
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
    # A speaker's name before their words.
    said = re.sub(rf"^\W*{re.escape(subject)}\s*:\s*", "", text, flags=re.IGNORECASE)
    said = _MYSELF.sub("i", _MINE.sub("my", said))
    said = _name_of(subject).sub(lambda name: "my" if name[1] else "i", said).lower()
    for pattern, plain in _CONTRACTIONS:
        said = pattern.sub(plain, said)
    said = _LEAD_IN.sub("", said)
    kept = [stem(w) for w in words(said) if w not in _FILLERS] + _SIGN.findall(said)
    # A text of nothing but fillers is still that text and no other.
    return " ".join(kept) or " ".join(words(text))


@lru_cache(maxsize=256)
def _name_of(subject: str) -> re.Pattern[str]:
    """Return what finds the name of a subject, with a group where it is a possessive."""
    if not subject:
        return re.compile(r"(?!)")
    names = {subject, subject[:1].upper() + subject[1:]}
    if subject.lower() in NEGATIONS:  # "No likes coffee": better two facts than "no" for "i"
        return re.compile(rf"\b{re.escape(subject.title())}(['’]s\b)")
    names -= _WORDS_TOO
    either = "|".join(re.escape(name) for name in sorted(names))
    return re.compile(rf"\b(?:{either})(['’]s\b)|{_NO_PERSON}\b(?:{either})\b(?! \d)")


# Where cutting the s would make another word ("new", "Luca"), or a word that the singular is not.
_SINGULAR = (
    "news lens always species series maths physics mathematics economics politics ethics texas "  # noqa: SIM905 - or a line per word
    "kansas dallas vegas wales athens naples brussels james charles thomas lucas elias jonas "
    "andreas hans niklas nicholas peters roberts williams adams jacobs stevens edwards richards "
    "daniels jones".split()
)
_STEMS = {word: word for word in _SINGULAR} | {
    "has": "have",
    "movies": "movie",
    "cookies": "cookie",
    "shoes": "shoe",
    "toes": "toe",
}
_ES = ("ches", "shes", "xes", "sses", "oes", "buses")


def stem(word: str) -> str:
    """Return a word without the s of a plural or of the third person."""
    if word in _STEMS or len(word) < 4 or not word.endswith("s"):
        return _STEMS.get(word, word)
    if word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies"):
        return f"{word[:-3]}y" if len(word) > 4 else word[:-1]  # "ties" is of "tie"
    return word[:-2] if word.endswith(_ES) else word[:-1]


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
    """Return what makes statements differ: negations, "used to", what has a digit, and signs."""
    return {t for t in tokens if t in NEGATIONS or t in _TURNS or _DECISIVE.search(t)}
