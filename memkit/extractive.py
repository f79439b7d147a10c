"""The running summary without a model: the most telling sentences of record and turns. Pure.

A line is `speaker: sentence`, and a record is lines, so that it can be folded again and again. A
line is mostly worth the names, numbers and dates that it adds, whatever else is folded: a good one
stays until better ones need its room.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from langchain_core.messages import BaseMessage, FunctionMessage, SystemMessage, ToolMessage
from numpy.typing import NDArray

from memkit.messages import speaker_of, text_of
from memkit.words import STOP_WORDS, sentences

Floats: TypeAlias = NDArray[np.float64]

_FENCED = re.compile(
    r"^ {0,3}(```|~~~)[^`\n]*\n.*?(?:^ {0,3}\1[`~]*[ \t]*$|\Z)", re.DOTALL | re.MULTILINE
)
_CLAUSE_END = re.compile(r"(?<=[.!?;:,])\s+|(?<=[；：，、])")
_LONGEST = 300  # characters of a sentence before it is divided where a clause ends
_QUESTION = re.compile(r"[?？؟][\W_]*$")

# Where no spaces divide words (Chinese, Japanese, Thai, ...), pairs of characters stand for them.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_TERM = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+(?:['’\-.,][^\W_{_UNSPACED}]+)*")
_PAIR = re.compile(rf"(?=([{_UNSPACED}]{{2}}))")
# English numbers and ordinals in words, also "twenty-first"; other languages do without.
_NUMBER_PART = (
    "(?:two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|first|second|third|dozen|hundred"
    "|thousand|million|(?:thir|four|fif|six|seven|eigh|nine)teen(?:th)?"
    "|(?:twen|thir|for|fif|six|seven|eigh|nine)t(?:y|ieth)"
    "|(?:four|fif|six|seven|eigh|nin|ten|eleven|twelf)th)"
)
_NUMBER = re.compile(rf"{_NUMBER_PART}(?:-{_NUMBER_PART})*|once|twice")
_COLUMNS = 1024  # of hashed word vectors; a few collisions do no harm
_MOST_SPECIFIC = 5  # names, numbers and dates that count in one line, lest lists win
# What is said to be polite; in other languages only very short lines count as small talk.
_COURTESY = frozenset(
    "agree amazing awesome bye care congrats cool dear definitely fine glad good great haha hello "  # noqa: SIM905 - or 50 lines
    "hey hi know love luck morning nice oh ok okay please right see sorry sounds sure take talk "
    "thank thanks thing wow yep yes yup".split(" ")
)


def candidate_lines(previous: str, messages: Sequence[BaseMessage]) -> list[str]:
    """Return the lines of the record so far, then `speaker: sentence` for each of the turns.

    System messages, tool results and fenced code are left out, and so is what stands there already.
    """
    lines = [stripped for line in previous.splitlines() if (stripped := line.strip())]
    for message in messages:
        if isinstance(message, ToolMessage | FunctionMessage | SystemMessage):
            continue
        speaker = " ".join(speaker_of(message).replace(":", " ").split())
        for sentence in sentences(_FENCED.sub("\n", text_of(message))):
            lines += [f"{speaker}: {s}" for s in _clauses(sentence) if any(map(str.isalnum, s))]
    return list(dict.fromkeys(lines))


def choose_lines(
    lines: Sequence[str],
    *,
    vectors: Sequence[Sequence[float]] | None,
    later: Sequence[str],
    max_tokens: int,
    count: Callable[[str], int],
) -> str:
    """Return the lines that are to stay, in their order; "" only if not one fits.

    First in line is what names a number, date, name or amount that a later turn refers to; then the
    most telling, by what they add of those, by nearness to the centroid and by distance from what
    is already chosen (MMR), for the room they take; questions and small talk come last, and what
    the assistant says counts for half.

    Args:
        lines: What `candidate_lines` returned.
        vectors: One per line, of any length; None: made of the lines' words.
        later: The texts of the turns that stay in view.
        max_tokens: The most that the result may take, by `count`.
        count: Tokens of a text.

    Raises:
        ValueError: There is not one vector, of the same length, for each line.

    Cost: `count` once per line and per line chosen; no model.

    Source: Carbonell and Goldstein, "The use of MMR", 1998; Radev et al., "Centroid-based
        summarization of multiple documents", 2004.
    """
    whole = "\n".join(lines)
    if not lines or count(whole) <= max_tokens:
        return whole
    said = [line.partition(": ")[2] or line for line in lines]
    terms = [_terms(text) for text in said]
    matrix = _unit(_word_vectors(terms) if vectors is None else _as_matrix(vectors, len(lines)))
    (centroid,) = _unit(matrix.sum(axis=0, keepdims=True))
    nearness = np.maximum(matrix @ centroid, 0)

    # Everybody calls the other speaker by name: that is no reference.
    names = {word for line in lines for word in _terms(line.partition(": ")[0])}
    specific = [_specific(text) - names for text in said]
    held_by: dict[str, list[int]] = {}
    for i, found in enumerate(specific):
        for term in found:
            held_by.setdefault(term, []).append(i)
    referred = held_by.keys() & {term for text in later for term in _terms(text)}

    last = np.array(
        [
            bool(_QUESTION.search(text)) or _says_little(of_line, found)
            for text, of_line, found in zip(said, terms, specific, strict=True)
        ]
    )
    spoken = np.array([0.5 if line.startswith("assistant: ") else 1.0 for line in lines])
    empty = count("")  # what a counter of messages adds to each
    sizes = np.array([count(line) - empty for line in lines])
    # Usual lines differ little in price; one of more than about 130 tokens pays for all its room.
    price = np.maximum(np.sqrt(np.maximum(sizes, 1) + 30), sizes / 10)
    new = np.array([len(found) for found in specific], dtype=np.float64)
    pinned = np.array([len(found & referred) for found in specific]) * ~last
    likeness = np.zeros(len(lines))
    free, kept, used = np.ones(len(lines), dtype=bool), list[int](), empty
    while (free := free & (sizes <= max_tokens - used)).any():
        worth = 0.5 * nearness + 0.4 * np.minimum(new, _MOST_SPECIFIC) + 0.5 * (1 - likeness)
        # Rounded, so that equal lines are equal on every machine; the first of them wins.
        worth = np.round(worth * spoken / price, 9) + 100.0 * (pinned > 0) - 100.0 * last
        pick = int(np.where(free, worth, -np.inf).argmax())
        free[pick] = False
        tokens = count("\n".join(lines[i] for i in sorted([*kept, pick])))
        if tokens > max_tokens:
            continue
        used = tokens
        kept.append(pick)
        likeness = np.maximum(likeness, matrix @ matrix[pick])
        for term in specific[pick]:
            for i in held_by.pop(term, ()):
                new[i] -= 1
                pinned[i] -= term in referred and not last[i]
    return "\n".join(lines[i] for i in sorted(kept))


def _clauses(sentence: str) -> list[str]:
    """Divide a sentence that is too long for a record where clauses end, if any do."""
    found = [""]
    for clause in _CLAUSE_END.split(sentence) if len(sentence) > _LONGEST else [sentence]:
        if found[-1] and len(found[-1]) + len(clause) > _LONGEST:
            found.append("")
        found[-1] = f"{found[-1]} {clause}".strip()
    return found


def _terms(text: str) -> list[str]:
    """Return the content words of a text in lower case, pairs of characters where no spaces are."""
    found: list[str] = []
    for word in _TERM.findall(text.casefold().replace("’", "'")):
        found += _PAIR.findall(word) or [word]
    return [word for word in found if word not in STOP_WORDS]


def _specific(text: str) -> set[str]:
    """Return the terms that are numbers, or written like names other than by beginning the text."""
    found: set[str] = set()
    for n, match in enumerate(_TERM.finditer(text)):
        word = match[0]
        term = word.casefold().replace("’", "'")
        name = word[0].isupper() and (n > 0 or not word[1:].islower()) and len(word) > 1
        if term not in STOP_WORDS and (
            name or _NUMBER.fullmatch(term) or any(map(str.isdigit, word))
        ):
            found.add(term)
    return found


def _says_little(terms: Sequence[str], specific: set[str]) -> bool:
    """Return whether a line is small talk: next to nothing besides courtesies."""
    return len(set(terms) - _COURTESY) < (2 if specific else 3)


def _word_vectors(terms: Sequence[Iterable[str]]) -> Floats:
    """Return tf-idf vectors of lines, their words hashed to columns: [lines, columns]."""
    lines_with = Counter(term for line in terms for term in dict.fromkeys(line))
    matrix = np.zeros((len(terms), _COLUMNS))
    for row, line in zip(matrix, terms, strict=True):
        for term in line:
            column = zlib.crc32(term.encode("utf-8", "replace")) % _COLUMNS
            row[column] += np.log1p(len(terms) / lines_with[term])
    return matrix


def _as_matrix(vectors: Sequence[Sequence[float]], number: int) -> Floats:
    matrix = np.asarray(vectors, dtype=np.float64)
    if matrix.ndim != 2 or len(matrix) != number:
        raise ValueError(f"{number} lines take as many vectors, got an array of {matrix.shape}")
    return np.nan_to_num(matrix, nan=0.0, posinf=0.0, neginf=0.0)


def _unit(matrix: Floats) -> Floats:
    """Return rows of length one; a row of zeros stays."""
    largest = np.abs(matrix).max(axis=1, initial=0, keepdims=True)  # lest squares overflow
    matrix = np.divide(matrix, largest, out=np.zeros_like(matrix), where=largest > 0)
    length = np.linalg.norm(matrix, axis=1, keepdims=True)
    unit: Floats = np.divide(matrix, length, out=np.zeros_like(matrix), where=length > 0)
    return unit
