"""What of a message its speaker states as true. Pure, by rules for English.

A clause is one sentence, or a part of one where a sentence both states and asks, or states and
supposes. Decisions that could have been taken otherwise:

- A fact told in a question or a request is a clause of its own: "As I moved to Kiel, when will it
  come?", "Did you know that I moved?", "Send it to my new address, 3 Harbour Road". A tag question
  ("I live in Kiel, right?") states nothing.
- What others are reported to say of the speaker is a quotation ("he said I am lazy"), but for a
  finding of the speaker's own doctor or the like: who passes that on without distance takes it for
  true, and an allergy that is missed costs more than one that is asked about.
- More than 1,000 characters without the end of a sentence are taken for pasted.
- A title or a single word between quotation marks does not make its sentence a quotation.
- "Remember that I ..." states what follows; "remember that the password is ..." is an instruction.
- All under a pasted mail's head, or under the heading of memkit's notes or summary, is pasted.

What it misses: irony without a marker, quotations without marks or a verb of saying, conditions
that are not introduced by one of the common words, requests with other verbs than the usual ones,
what follows after pasted notes, and every language but English.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from memkit.prompts import load
from memkit.words import sentences

Verdict = Literal["asserted", "question", "hypothetical", "quotation", "sarcasm", "instruction"]


@dataclass(frozen=True)
class Clause:
    """A part of a message, and how its speaker means it.

    Attributes:
        text: The words as said, with every run of white space as one space.
        verdict: Whether they are stated as true, or what else is done with them.
    """

    text: str
    verdict: Verdict


def pattern(text: str) -> re.Pattern[str]:
    """Compile a pattern for words in any case and with either apostrophe.

    Line breaks are dropped along with what indents the next line, so that long ones can be broken.
    """
    return re.compile(re.sub(r"\n\s*", "", text).replace("'", "['’]"), re.IGNORECASE)


ME = r"(?:i|my|mine|we|our)\b"
OPENING = r"""
^\W*(?:(?:please|pls|ok|okay|so|and|but|or|also|oh|hey|hi|hello|well|now|just|then|only|even|thanks
|btw|by the way)\b[\s,!.:–—-]*)*"""
_SELF = pattern(rf"\b{ME}")
_AUX = r"(?:can|could|will|would|shall|should|may|do|does|did|is|are|was|were|am|has|have|had)"
_AUX += "(?:n't)?"
_WH = r"(?:when|where|what|which|who|whom|whose|why|how)"
_SUBJECT = r"(?:you|i|we|it|they|he|she|the|my|our|your|this|that|these|there|any|anyone|someone)"

# Pasted material, by lines. Two lines "from" and "to" without an "@" may be a journey.
_FENCE = re.compile(r"```|~~~")
_QUOTED_LINE = pattern(
    r"> |(?:[-*•] ?)?\(\d{4}-\d\d-\d\d[^)]{0,20}\) |(?:assistant|bot|system|tool|subject|from) ?:"
)
_MAIL_LINE = r"(?:subject|from|to|cc|bcc|date|sent|reply-to) ?:"
_MAIL = pattern(
    rf"-{{3,}} ?(?:original|forwarded) |on .{{4,120}} wrote:(?:\n|$)"
    rf"|(?!(?:from|to) ?:[^@\n]*\n(?:from|to) ?:[^@\n]*$){_MAIL_LINE}[^\n]*\n{_MAIL_LINE}"
)
_OWN_HEADINGS = tuple(
    " ".join(load(name).template.lower().split()[:5])
    for name in ("recalled_in_view", "summary_in_view")
)
_MOCKED_LINE = re.compile(r"(?:^|\s)/s\W*$")
# So many characters without an end of a sentence are not somebody talking.
_MAX_CHARS = 1000

# A mark that is not closed quotes the rest of its line, but for an apostrophe.
_QUOTATION = re.compile(
    r"""(?<!\w)(?:"(?=\S)[^"]{0,2000}"|[“„](?=\S)[^“”]{0,2000}[“”]|«(?=\S)[^»]{0,2000}»"""
    r"""|["“„«](?=\S)[^\n]*"""
    r"""|['‘](?!\s|(?:cause|til|em|bout|n)\b|\d)(?:[^'’\n]|['’](?=\w)){0,500}['’])"""
)
_SAYING = pattern(r"""
    \b(?:said|says?|saying|told|tells?|asked|asks|wrote|writes|quotes?|quoted|replied|answered
    |shouted|texted|called out|goes)\b""")

_SARCASM = pattern(r"""^\W*(?:yeah,? right\b|oh,? (?:great|joy|brilliant|wonderful|fantastic),\s
    |(?:yeah,? |oh,? )?as if\b)|\bjust love (?:it when|how)\b|\bsaid (?:no ?-?one|nobody)\b""")
# Alone in a sentence, they mock the one before.
_MOCKS_BEFORE = pattern(r"^\W*(?:yeah,? right|as if|said (?:no ?-?one|nobody) ever|not|/s)\W*$")
_ORDERS = pattern(rf"""
    \b(?:ignore|disregard|override|forget|bypass) (?:(?:all|any|of|the|your|my|these) )*
    (?:previous|prior|earlier|above|former|existing)? ?
    (?:instructions?|rules|guidelines|prompts?|system prompt)\b
    |\byour (?:new )?(?:instructions|rules) (?:are|is)\b|{OPENING}(?:from now on
    |you (?:must|are now|have to|will now)|(?:act|behave) as|treat (?:me|us) as|pretend
    |(?:(?:(?:can|could|would) )?you |can |please )*(?:forget|disregard|scratch|strike|erase))\b""")
_LEAD_IN = pattern(rf"""{OPENING}
    (?:(?:can|could) you |you (?:should|must|can) )?(?:please )?(?:
    (?:always )?(?:remember|note|(?:keep|bear) in mind|(?:don't|do not|never) forget|be aware
    |mind you)(?: (?:this|the following))?(?: that\b|\s?[:,–—-]|(?= (?:{ME}|the|all|every)\b))
    |(?:for the record|fyi|for your information|just so you know|note to self)\b
    \s?[:,–—-]?(?: that\b)?
    |(?:store|save|record|memori[sz]e|write down|add|put|log|make a note)
    (?: (?:this|the following|(?:in|to) (?:your |the )?memory|as (?:a )?fact))*(?: that\b|\s?:)
    )\s*""")
_REQUESTS = pattern(rf"""{OPENING}
    (?:please (?!{ME})\w+|call me|go on|carry on|continue
    |(?:tell|send|show|give|bring|get|find|let|help|remind|e-?mail|text|notify|forward) (?:me|us)
    |(?:send|change|update|correct|set|cancel|delete|remove|replace|confirm|explain|order|deliver
    |ship|track|return|refund|translate|summari[sz]e) (?:my|our|your|the|this|that|it|all|an?))\b
    """)

_ENDS_ASKING = re.compile(r"\?[^\w?]*$")
_ASKS = pattern(rf"{OPENING}(?:{_WH} )?{_AUX} {_SUBJECT}\b")
_STARTS_ASKING = pattern(rf"{OPENING}(?:{_AUX} {_SUBJECT}|{_WH})\b")
_THEN_ASKS = pattern(rf"""
    (?:\s?[,;:–—]\s|\s-\s|\s(?=(?:and|so|but)\s))(?:(?:and|so|but|or|well|please|then)\b,?\s)*
    (?=(?:{_AUX} {_SUBJECT}|{_WH}|any|you|please|know)\b)""")
_TAG = pattern(rf"""[,–—-]? (?:right|correct|yes|yeah|no|true|ok|okay|huh|eh|innit|or not|am i right
    |is (?:that|this) (?:right|correct|true)|{_AUX}(?: not)? (?:i|we|it|he|she|they|that)
    (?: not)?)\s?\?\W{{0,20}}$""")
_TOLD_BY_ASKING = pattern(rf"""{OPENING}
    (?:did i (?:ever |already )?(?:tell you|mention)|did you know
    |have i (?:ever |already )?(?:told you|mentioned)) (?:that )?(?={ME})""")
_CONNECTIVE = pattern(rf"""{OPENING}
    (?:as|since|because|(?:now|given|seeing|considering) that|although|though|while) (?={ME})""")
_APPOSITION = pattern(r"""
    \b(?:my|our) (?:(?:new|current|home|shipping|delivery|postal|mobile|cell|private) ){0,3}
    (?:address|phone number|phone|number|e-?mail(?: address)?)\s?[,:]\s
    (?=[^,;?!]{0,80}[\d@])[^,;?!]{2,80}""")
_DOUBTED = pattern(r"\b(?:correct|right|valid|wrong|still|true)\b")

_SUPPOSES = pattern(rf"""{OPENING}(?:if|unless|suppose|imagine|assume)\b
    |\b(?:if|unless|whether|suppose|assume|in case)(?: that)? (?:{ME}|only\b)
    |\b(?:supposing|assuming|hypothetically|what if|in theory)\b
    |(?<!can )(?<!n't )\bimagine (?:that |if )?{ME}
    |\blet'?s (?:say|assume|suppose|pretend|imagine)\b""")
_UNSURE = pattern(r"""
    \b(?:i|we) (?:really |just )?(?:wish|wonder|guess|suppose|doubt|dreamt|dreamed)\b
    |\b(?:i|we) (?:always )?thought (?:that )?(?:i|we|my)\b
    |\b(?:would|could|might|should)(?: not|n't)? have\b|\b(?:i|we|it)'d have\b
    |\b(?:might|maybe|perhaps|unsure)\b|\bnot (?:\w+ )?sure\b""")
_OTHERS_SAY = pattern(rf"""\b(?:(?:he|she|they|people|some(?:one|body)|every(?:one|body)|you|who)
    |(?:my|our) (?:\w+ ){{1,2}}|(?-i:[A-Z])\w+)\s?(?:once |always |just |also |even )?
    (?:said|says?|(?:told|tells?) (?:me|us)|claim(?:s|ed)?|thinks?|thought|insist(?:s|ed)?|wrote
    |reckons?|believe[sd]?|assume[sd]?|accuses?)[ :>,]{{1,4}}(?:that )?{ME}""")
_PASSED_ON = pattern(r"""
    \b(?:my|our|the) (?:\w+ )?(?:doctors?|gp|physician|pa?ediatrician|allergist|dermatologist
    |dentist|cardiologist|specialist|nurse|midwife|pharmacist|optician|therapist)
    [ ](?:just |also )?(?:said|says|told|tells|confirm(?:s|ed)|found|thinks)\b
    |\b(?:i|we) (?:just |already )?(?:say|said|told|think|thought|believe)\b""")

_COORDINATION = pattern(rf"""
    (?:(?:[,;.!–—]|\s-)\s(?:(?:and|but|so|or|because|yet|although|though|while|plus) )?
    |\s(?:and|but|so|because|yet|although|though|while) )(?:(?:also|now|then) )?(?={ME})""")
_PREDICATE = pattern(r"\b(?:i|we|is|are|was|were|has|had|lives|works|likes|loves|moved|will)\b")


def clauses(text: str) -> list[Clause]:
    """Return the clauses of a message in order, each with how it is meant.

    Every sentence of the text is covered; of one that is split, the joining words ("as", ", and")
    may belong to no clause.
    """
    found: list[Clause] = []
    for foreign, group in groupby(_lines(text), key=lambda line: line[1]):
        lines = [line for line, _ in group if line]
        if foreign is not None:
            found += [Clause(line, foreign) for line in lines]
            continue
        for said, unquoted in _sentences(lines):
            if found and _MOCKS_BEFORE.match(said):
                found[-1:] = [Clause(found[-1].text, "sarcasm"), Clause(said, "sarcasm")]
            elif _passes_on_words(unquoted):
                found.append(Clause(said, "quotation"))
            else:
                found += _judged(said)
    return found


def coordinated(text: str) -> list[str]:
    """Return the parts of a sentence that each have "I", "my", "we" or "our" of their own."""
    parts: list[str] = []
    begin = 0
    for cut in _COORDINATION.finditer(text):
        part = text[begin : cut.start()].strip()
        if part.count(" ") < 4 and _PREDICATE.search(part) is None:
            continue  # "My husband and I live in Kiel" is one statement
        parts.append(part)
        begin = cut.end()
    return [part for part in (*parts, text[begin:].strip()) if part]


def outside_quotations(text: str) -> str:
    """Return a text without all that stands between quotation marks."""
    return _QUOTATION.sub(" … ", text)


def _lines(text: str) -> Iterator[tuple[str, Verdict | None]]:
    """Yield the lines of a text with single spaces, with a verdict if they are not plain speech.

    Blank lines have one, too: they divide paragraphs.
    """
    lines = [" ".join(line.split()) for line in text.split("\n")]
    fenced = rest = False
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        heading = line[:400].lower()
        rest = rest or any(own in heading for own in _OWN_HEADINGS)
        rest = rest or _MAIL.match(f"{line}\n{following}") is not None
        fence = _FENCE.match(line) is not None
        if not line or rest or fenced or fence or _QUOTED_LINE.match(line):
            yield line, "quotation"
        else:
            yield line, "sarcasm" if _MOCKED_LINE.search(line[-12:]) else None
        fenced = fenced != fence


def _sentences(lines: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the sentences of a paragraph, each also with a NUL for every quoted character."""
    flat = " ".join(lines)
    unquoted = _QUOTATION.sub(lambda quoted: "\0" * len(quoted[0]), "\n".join(lines))
    end = 0
    for sentence in [sentence for line in lines for sentence in sentences(line)]:
        begin = flat.find(sentence, end)
        if begin < 0:  # its end is not plain, say an abbreviation before a closing mark
            yield flat[end:].strip(), unquoted[end:]
            return
        end = begin + len(sentence)
        yield sentence, unquoted[begin:end]


def _passes_on_words(unquoted: str) -> bool:
    """Return whether a sentence passes on somebody's words, not just a title or a name."""
    quoted = unquoted.count("\0")
    return 2 * quoted > len(unquoted) or (quoted > 0 and _SAYING.search(unquoted) is not None)


def _judged(said: str) -> list[Clause]:
    """Return the clauses of one sentence of the speaker's own words."""
    if len(said) > _MAX_CHARS:
        return [Clause(said, "quotation")]
    if _SARCASM.search(said):
        return [Clause(said, "sarcasm")]
    if _ORDERS.search(said):
        return [Clause(said, "instruction")]
    lead_in = _LEAD_IN.match(said)
    if lead_in is not None and (rest := said[lead_in.end() :]):
        if not (_SELF.match(rest) or _CONNECTIVE.match(rest) or _asks(rest)):
            return [Clause(said, "instruction")]
        said = rest
    if _asks(said):
        return _of_question(said)
    return _of_request(said) if _REQUESTS.match(said) else _of_statement(said)


def _asks(said: str) -> bool:
    return bool(_ENDS_ASKING.search(said) or _ASKS.match(said))


def _of_question(said: str) -> list[Clause]:
    """Return what a question states besides, and the question."""
    if _TAG.search(said[-60:]):
        return [Clause(said, "question")]
    told = _TOLD_BY_ASKING.match(said)
    if told is not None:
        stated = said[told.end() :].rstrip("?! ")
        return [Clause(said[: told.end()].strip(), "question"), *_of_statement(stated)]
    connective = _CONNECTIVE.match(said)
    begin = connective.end() if connective else 0
    cut = None if _STARTS_ASKING.match(said) else _THEN_ASKS.search(said, begin)
    if cut is not None:
        stated = said[begin : cut.start()].strip(" ,;:–—-")
        if _SELF.search(stated) and " " in stated:
            return [*_of_statement(stated), Clause(said[cut.end() :], "question")]
    return [*_apposed(said), Clause(said, "question")]


def _of_request(said: str) -> list[Clause]:
    """Return a request and what is stated along with it: "Send it to me, I live in Kiel"."""
    for cut in _COORDINATION.finditer(said):
        if _PREDICATE.search(said, cut.end()):
            request, stated = said[: cut.start()], said[cut.end() :]
            return [*_apposed(request), Clause(request, "instruction"), *_of_statement(stated)]
    return [*_apposed(said), Clause(said, "instruction")]


def _apposed(said: str) -> list[Clause]:
    """Return "my new address, 3 Harbour Road" out of a question or a request."""
    apposition = _APPOSITION.search(said)
    if apposition is None or _DOUBTED.search(said):
        return []
    return [Clause(apposition.group().strip(" ."), "asserted")]


def _of_statement(said: str) -> list[Clause]:
    """Return the clauses of a sentence that does not ask: stated, supposed or reported."""
    if _stance(said) == "asserted":
        return [Clause(said, "asserted")]
    found: list[Clause] = []
    begin = end = 0
    supposing = False
    for part in coordinated(said):
        # A condition holds for all that follows it.
        supposing = supposing or _SUPPOSES.search(part) is not None
        verdict: Verdict = "hypothetical" if supposing else _stance(part)
        place = said.index(part, end)
        end = place + len(part)
        if found and found[-1].verdict == verdict:
            found[-1] = Clause(said[begin:end], verdict)
        else:
            begin = place
            found.append(Clause(part, verdict))
    return found


def _stance(said: str) -> Verdict:
    if _SUPPOSES.search(said) or _UNSURE.search(said):
        return "hypothetical"
    if _OTHERS_SAY.search(said) and not _PASSED_ON.search(said):
        return "quotation"
    return "asserted"
