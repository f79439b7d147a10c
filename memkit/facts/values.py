"""Which value of an attribute a fact gives, by its words. Pure."""

import re

from memkit.facts.model import SINGLE_VALUED, Fact
from memkit.facts.sameness import NEGATIONS, stem
from memkit.words import STOP_WORDS, content_words, roots

# Words that say which attribute is meant, not which value it has.
_FRAME = {
    "home_address": "live living lived move moved moving relocate relocated settled stay address "
    "home house flat apartment place shipping delivery postal",
    "name": "name call called full first last",
    "job": "work working job new start started starting",
    "employer": "work working job employer company new start started starting join joined",
    "email": "e-mail email mail address new private",
    "phone": "phone number mobile cell new",
    "birthday": "birthday born",
    "language": "language speak speaking write writing prefer native",
    "marital_status": "married divorced engaged widowed single separated",
}
# Nor do words that say when.
_WHEN = re.compile(
    r"january|february|march|april|may|june|july|august|september|october|november|december"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)day|year|month|week|day|today|yesterday|ago|last|next"
    r"|since|until|till|\d{4}(?:-\d\d(?:-\d\d)?)?"
)


# Words that name an attribute, of those that are told in ways beyond counting.
_NAMES = {
    "home_address": "live move relocate settle address home",
    "job": "job occupation profession career position",
    "employer": "employer company job join hire",
    "birthday": "birthday born",
    "marital_status": "marry wedding divorce wife husband spouse",
}


def names_attribute(text: str, attribute: str) -> bool:
    """Return whether a text has a word for an attribute; of a custom one it need not."""
    known = _NAMES.get(attribute)
    return attribute not in SINGLE_VALUED if known is None else bool(roots(text) & roots(known))


def value_of(fact: Fact) -> set[str]:
    """Return the words that tell the value of a fact's attribute."""
    frame = {stem(w) for w in _FRAME.get(fact.attribute or "", "").split()}
    about = {stem(w) for w in content_words(fact.subject)} | {"user"}
    said = {stem(w) for w in content_words(fact.text)} - frame - about - NEGATIONS - STOP_WORDS
    return {w for w in said if not _WHEN.fullmatch(w)}


def is_part(new: Fact, known: Fact) -> bool:
    """Return whether an address is the end of the known one; "York" is no part of "New York"."""
    lives = "i live "
    if new.attribute != "home_address" or not new.words.startswith(lives):
        return False
    where = new.words.removeprefix(lives)
    place = re.sub(r"^(?:in|at|on) ", "", where)
    by_comma = re.search(rf",\s*{re.escape(place)}\W*$", known.text, re.IGNORECASE)
    told = known.words.startswith(lives) and known.words.endswith(f" {where}")
    return told or by_comma is not None


def same_attribute(a: Fact, b: Fact) -> bool:
    """Return whether two facts tell the same attribute of the same subject."""
    return a.attribute is not None and (a.subject, a.attribute) == (b.subject, b.attribute)
