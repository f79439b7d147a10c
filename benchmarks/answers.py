"""How good an answer is: F1 of its words, and what a judge is asked. Pure."""

import re
import string
from collections import Counter
from collections.abc import Callable

import snowballstemmer

MULTI_HOP = 1
"""The category of LoCoMo whose answers are lists."""

_ARTICLES = re.compile(r"\b(?:a|an|the|and)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_VERDICT = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_stemmer = snowballstemmer.stemmer("porter")

ANSWER = (
    "You are asked about conversations that took place earlier. What you are shown of them carries "
    "days; work out from them when something happened, and give dates rather than words like "
    '"yesterday". Answer from what you are shown, in as few words as possible, without a sentence '
    "around them and in the words that were used. Where you are shown nothing that answers, say "
    "that it is not known."
)
"""The system message of whoever answers."""

_JUDGE = """\
Somebody was asked about earlier conversations. Decide whether the answer is right.

Question: {question}
Reference: {reference}
Answer: {answer}

{rule}
Reply with the single word yes or no."""

_RIGHT = (
    "It is right if it says what the reference says, in whatever words, at whatever length and in "
    "whatever form of a date. It is wrong if it says only a part of it, contradicts it, or does "
    "not answer."
)
_RULES = {
    "temporal-reasoning": " A number of days, weeks or months that is off by one is right.",
    "knowledge-update": " Older information beside it does no harm if the latest is given as such.",
    "single-session-preference": (
        " Here the reference describes what a good answer heeds: it is right if it makes use of "
        "what is known of the person, though it need not touch every point."
    ),
}
_UNKNOWN = (
    "The conversations do not hold the answer; the reference says why. The answer is right if it "
    "says that this is not known or was never told, and wrong if it makes something up."
)


def normalised(text: str) -> list[str]:
    """Return the stems of a text without case, punctuation, articles and "and".

    Source:
        The evaluation of LoCoMo (Maharana et al., 2024), after that of SQuAD.
    """
    plain = text.replace(",", "").lower().translate(_PUNCTUATION)
    return _stemmer.stemWords(_ARTICLES.sub(" ", plain).split())  # type: ignore[no-any-return]


def f1(answer: str, reference: str) -> float:
    """Return the harmonic mean of precision and recall of the words of an answer."""
    given, wanted = normalised(answer), normalised(reference)
    common = sum((Counter(given) & Counter(wanted)).values())
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def f1_of_list(answer: str, reference: str) -> float:
    """Return the mean over the listed parts of the reference of the best F1 of a listed part."""
    parts = answer.split(",")
    wanted = reference.split(",")
    return sum(max(f1(part, one) for part in parts) for one in wanted) / len(wanted)


def measure_of(category: int | str | None) -> Callable[[str, str], float]:
    """Return the F1 that LoCoMo takes for a category."""
    return f1_of_list if category == MULTI_HOP else f1


def judge_prompt(
    question: str,
    reference: str,
    answer: str,
    category: int | str | None = None,
    *,
    answerable: bool = True,
) -> str:
    """Return what a judge is asked about an answer.

    Source:
        What is right follows the judges of LongMemEval (Wu et al., 2025) and of mem0's runs of
        LoCoMo (Chhikara et al., 2025); the words are our own.
    """
    rule = _RIGHT + _RULES.get(str(category), "") if answerable else _UNKNOWN
    return _JUDGE.format(question=question, reference=reference, answer=answer, rule=rule)


def verdict(reply: str) -> bool | None:
    """Return what a judge replied, None if it is neither yes nor no."""
    found = _VERDICT.findall(reply)
    return found[-1].lower() == "yes" if found else None
