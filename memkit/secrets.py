"""What must never reach the store or the embedder: card numbers, passwords, keys. Pure.

Keys and tokens of known services are found by the patterns of bc-detect-secrets, which is kept up
to date for that; card numbers by how networks number them and python-stdnum's check of their
digits. What people say in prose ("my password is …", "the PIN for the door is 4711") no library of
either kind looks for, and is found by the few patterns below, as are passwords in addresses.

Not looked for: names, addresses, e-mail addresses, phone and account numbers. They are what a
memory is for, and who knows an IBAN can pay into the account, not out of it; who must not keep them
puts LangChain's PIIMiddleware before the graph. Missed are secrets that are neither introduced by a
word for them nor have a known form, a password of several plain words without quotes (but after
"passphrase" or "seed phrase"), digits that are spelled out, and prose but English.
"""

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

_SERVICES = {
    "artifactory": "ArtifactoryDetector",
    "aws": "AWSKeyDetector",
    "azure_storage_key": "AzureStorageKeyDetector",
    "discord": "DiscordBotTokenDetector",
    "github_token": "GitHubTokenDetector",
    "jwt": "JwtTokenDetector",
    "mailchimp": "MailchimpDetector",
    "npm": "NpmDetector",
    "sendgrid": "SendGridDetector",
    "slack": "SlackDetector",
    "square_oauth": "SquareOAuthDetector",
    "stripe": "StripeDetector",
    "twilio": "TwilioKeyDetector",
}
# Newer ones that the library does not know, and what an HTTP header carries.
_TOKEN = re.compile(
    r"\b(?:(?:sk|rk|pk|gsk|xai|hf|glpat|github_pat)[-_]|AIza|Bearer\s)[\w.~+/-]{16,}=*", re.ASCII
)
_PEM = re.compile(
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----(?:.{0,10000}?-----END [A-Z ]{0,30}PRIVATE KEY-----)?",
    re.DOTALL,
)
_KEPT_OUT = r"(?!\[(?:card number|password|key)\])"
_IN_ADDRESS = re.compile(rf"://[^\s:/?#@]{{0,100}}:(?P<secret>{_KEPT_OUT}[^\s:/?#@]{{1,200}})@")

_INVISIBLE = "\u00ad\u200b-\u200d\u2060\ufeff"
_BETWEEN_GROUPS = rf"(?:[ .\u00a0\u202f\u2010-\u2013{_INVISIBLE}_/·-]| [\u2010-\u2013-] |\n)"
_NUMBERS = re.compile(rf"[0-9]+(?:{_BETWEEN_GROUPS}[0-9]+)*")
# Words and web addresses have numbers of their own.
_NO_CARD_BEHIND = re.compile(r"[^\W\d_]\Z|://\S*\Z")
_NETWORKS = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}"  # Mastercard, American Express
    r"|(?:6[0245]|35|81)\d{14,17}|3[0689]\d{12,17}"  # Discover, UnionPay, JCB, Diners Club
    r"|(?:5[06-8]|6[0-9])\d{11,17}"  # Maestro
)

_PASSWORD = r"pass ?(?:word|code|wort)|passwd|pwd|(?:admin|root|user) pass|pass(?=:\s?\S+\s*\Z|=\S)"  # noqa: S105 - a pattern
_CODE = (
    r"pin(?: code| number)?|cvv|cvc|otp|one[ -]time (?:code|password|pin)"
    r"|(?:security|verification|authentication|login|sms|2fa|door|gate|entry|access|alarm|safe"
    r"|unlock) (?:code|pin)|(?:secret|safe|magic) ?word|your code"
    r"|(?:(?:lock|safe|locker|vault) )?combination"
    r"|api[ _-]?(?:key|token)|secret(?:[ _](?:access[ _])?key|[ _]token)|client[ _]secret"
    r"|(?:access|auth|bearer|refresh)[ _](?:key|token)"
)
_OF_WHAT = r"(?: (?:for|of|to|on|at|in) (?:[\w’'-]+ ){0,4}?[\w’'-]+)?"
# "my password, as I told you, is x"
_BY_THE_WAY = r"(?:, [\w’' ]{2,40},| \([\w’' ]{2,40}\)| as [\w’']+)?"
_IS = (
    r"(?:[\"'`*_]{0,3}\s?(?:[:=]|->)\s{0,3}|(?:['’]s| is| was| are| reads| changed to| has been"
    r"| will be)"
    r"(?:,? (?:now|still|simply|just|called|set to|also|(?:as )?always|currently),?)*:?\s)"
)
# "the Wi-Fi password for the office is now: x"; what follows is the secret if it looks like one.
_SAID = re.compile(
    rf"(?<![^\W_])(?P<name>(?P<password>{_PASSWORD})|{_CODE})s?(?![^\W_])"
    rf"(?:(?P<is>{_OF_WHAT}{_BY_THE_WAY}{_IS})|\s){_KEPT_OUT}"
    rf"(?:[\"“«`](?P<quoted>{_KEPT_OUT}[^\"”»`\n]{{2,120}})[\"”»`]"
    rf"|[‘'*_(]{{0,3}}(?P<secret>{_KEPT_OUT}[^\s‘'’\"“”«»`][^\s\"“”«»`]{{2,1023}}))",
    re.IGNORECASE,
)
_PHRASE = re.compile(
    rf"\b(?P<name>pass ?phrase|(?:seed|recovery|mnemonic) (?:phrase|words))s?\b{_OF_WHAT}{_IS}"
    rf"[\"“‘'«`]?(?P<secret>{_KEPT_OUT}[^\s.!?\"”»`][^.!?\n\"”»`]{{2,400}})",
    re.IGNORECASE,
)
# "4711 is my PIN", "use 4711 as the door code".
_BEFORE = re.compile(
    r"(?<!\S)[\"“‘'«]?(?P<secret>[^\s\[\"“‘'«]{3,64}?)[\"”’'»]? (?:is|was|as) (?:now )?"
    rf"(?:my|our|your|his|her|their|the) (?:[\w’'-]+ ){{0,3}}?(?:{_PASSWORD}|{_CODE})\b",
    re.IGNORECASE,
)
# What people say of a password, where a word of letters could be the password itself.
_SAID_OF_ONE = frozenset(
    "about acceptable active all always bad best better blank broken case-sensitive common "  # noqa: SIM905 - or 100 lines
    "complex compromised correct default different difficult down easy empty enough everything "
    "expired expiring fine for forgotten found given gone good great guessable hard hashed here "
    "hidden how in incorrect insecure invalid it just kept known long longer lost made "
    "mandatory mine missing necessary needed never new none not nothing obvious off okay old on "
    "only optional outdated posted private protected public random really required reset right "
    "safe same saved secret secure sent set short shorter similar simple something somewhere "
    "stolen stored strong temporary terrible that the there this to too tricky trivial true "
    "unclear under unique unknown unsafe useless valid very visible weak what where with "
    "working written wrong yours".split(" ")
)
_ENDS = re.compile(r"[.!?,;:)'’*_]*(?:\s*\Z|\n| (?:and|but|so|for|on|at)\b|(?<=[.!?,;:]) )")


TOKEN = re.compile(r"[^\W_]+")
"""A word of a secret, see `secret_words`."""


@dataclass(frozen=True)
class Secret:
    """A stretch of a text that is not to be kept.

    Attributes:
        kind: "card number", "password" (PINs and codes too) or "key".
        start: Where it begins.
        end: Where it ends.
    """

    kind: str
    start: int
    end: int


def find_secrets(text: str) -> list[Secret]:
    """Return the secrets in a text, in order and without overlaps.

    Cost:
        Some 0.05 ms for a message; the libraries are imported at the first that has a digit.
    """
    found: list[Secret] = []
    # What was glued to a secret can be one itself: it stands alone once the other is taken out.
    while more := list(_candidates(_without(text, found))):
        wider = _apart([*found, *(_in_original(secret, found) for secret in more)])
        if wider == found:
            break
        found = wider
    return found


def secret_words(text: str) -> set[str]:
    """Return the words of a text's secrets, in lower case: where they stand, the secret does.

    Words of one to three letters are left out, which stand anywhere.
    """
    found = (TOKEN.findall(text[s.start : s.end].lower()) for s in find_secrets(text))
    return {w for words in found for w in words if len(w) > 3 or any(c.isdigit() for c in w)}


def redacted(text: str) -> str:
    """Return a text with each secret replaced by what it was: "[card number]"."""
    return _without(text, find_secrets(text))


def _without(text: str, secrets: list[Secret]) -> str:
    parts, at = [], 0
    for secret in secrets:
        parts += [text[at : secret.start], f"[{secret.kind}]"]
        at = secret.end
    return "".join([*parts, text[at:]]) if parts else text


def _in_original(secret: Secret, taken: list[Secret]) -> Secret:
    """Return where a secret, found where others had been taken out, is in the original."""
    start, end = secret.start, secret.end
    for other in taken:
        # From left to right, so that what is before `other` is in place already.
        width = len(f"[{other.kind}]")
        shift = other.end - other.start - width
        if start > other.start:
            start = start + shift if start >= other.start + width else other.start
        if end > other.start:
            end = end + shift if end >= other.start + width else other.end
    return Secret(secret.kind, start, end)


def _apart(secrets: list[Secret]) -> list[Secret]:
    """Return secrets in order, those that overlap as one."""
    found: list[Secret] = []
    for secret in sorted(secrets, key=lambda s: (s.start, -s.end)):
        if found and secret.start < found[-1].end:
            last = found[-1]
            found[-1] = Secret(last.kind, last.start, max(last.end, secret.end))
        else:
            found.append(secret)
    return found


def _candidates(text: str) -> Iterator[Secret]:
    for match in _PEM.finditer(text):
        yield Secret("key", *match.span())
    for match in _IN_ADDRESS.finditer(text):
        yield Secret("password", *match.span("secret"))
    yield from _passwords(text)
    if not re.search(r"\d", text):
        return  # no card number, and hardly a key
    yield from _cards(_with_plain_digits(text))
    for match in _TOKEN.finditer(text):
        # A stretch of letters and digits, which "sk-my-favourite-places-2026" has not.
        if re.search(r"(?=\d*[a-zA-Z])(?=[a-zA-Z]*\d)[a-zA-Z0-9]{10}", match[0]):
            yield Secret("key", *match.span())
    for pattern in _service_patterns():
        for match in pattern.finditer(text):
            yield Secret("key", *match.span())


def _passwords(text: str) -> Iterator[Secret]:
    at = 0
    while match := _SAID.search(text, at):
        group = "quoted" if match["quoted"] else "secret"
        value = match[group].rstrip(".!?:,;)'’*_")
        if _like_a_password(value, match):
            start = match.start(group)
            yield Secret("password", start, start + len(value))
            at = start + len(value)
        else:
            at = match.end("name")  # "the password, password: x"
    for match in _PHRASE.finditer(text):
        if match["secret"].split()[0].lower().strip(",;") not in _SAID_OF_ONE:
            yield Secret("password", match.start("secret"), match.end("secret"))
    for match in _BEFORE.finditer(text):
        if re.search(r"\d", match["secret"]):
            yield Secret("password", *match.span("secret"))


def _like_a_password(value: str, said: re.Match[str]) -> bool:
    """Return whether what stands behind "password is" is one, and not "wrong" or "a secret"."""
    if len(value) < 3 or not re.search(r"\w", value):
        return False
    if said["quoted"] is not None:
        return said["is"] is not None or " " not in value
    if not said["is"]:
        # "my pin 4711", but not "a pin at 12:30" nor "a password manager".
        like = r".*\d" if said["password"] else r"[\d-]{3,10}\Z|(?=.*\d)(?=.*[a-zA-Z]).{12}"
        return re.match(like, value) is not None
    if re.search(r"\d|[^\w’'/-]", value) or re.search(r"[a-z][A-Z]", value):
        return True
    if value.lower() in _SAID_OF_ONE or re.search(r"[:=>]", said["is"]):
        return value.lower() not in _SAID_OF_ONE
    # "my password is swordfish." but not "the password is stored in the safe".
    place = said.start("secret") + len(value)
    return (
        said["password"] is not None
        and not value.lower().endswith(("ed", "ing", "ly"))
        and _ENDS.match(said.string[place : place + 12]) is not None
    )


def _cards(text: str) -> Iterator[Secret]:
    """Find runs of whole groups of digits that make a card number."""
    for run in _NUMBERS.finditer(text):
        if len(run[0]) < 13 or _is_iban(text[max(0, run.start() - 2) : run.end()]):
            continue
        groups = [
            (run.start() + g.start(), run.start() + g.end()) for g in re.finditer(r"\d+", run[0])
        ]
        first = 0
        while first < len(groups):
            last = _card_from(text, groups, first)
            if last is not None:
                yield Secret("card number", groups[first][0], groups[last][1])
                first = last
            first += 1


def _with_plain_digits(text: str) -> str:
    """Return a text with fullwidth, Arabic and other digits as 0-9, one for one."""
    if text.isascii():
        return text
    return "".join(str(unicodedata.decimal(c, c)) for c in text)


def _card_from(text: str, groups: list[tuple[int, int]], first: int) -> int | None:
    """Return the last group of the longest card number that begins with a group."""
    begin = groups[first][0]
    if text[begin] not in "234568" or _NO_CARD_BEHIND.search(text[max(0, begin - 100) : begin]):
        return None
    digits, found = "", None
    sizes: set[int] = set()
    for i in range(first, min(len(groups), first + 19)):
        start, end = groups[i]
        digits += text[start:end]
        # Groups as on a card, or each digit alone; not any list of numbers.
        if len(digits) > 19 or (sizes and min(sizes) < 4 and {*sizes, end - start} != {1}):
            break
        sizes.add(end - start)
        if not re.match(r"[^\W_]", text[end : end + 1]) and _is_card(digits):
            found = i
    return found


def _is_iban(text: str) -> bool:
    if re.match(r"[A-Z]{2}\d\d", text) is None:
        return False
    from stdnum import iban

    return bool(iban.is_valid(text))


def _is_card(digits: str) -> bool:
    if _NETWORKS.fullmatch(digits) is None:
        return False
    from stdnum import luhn

    return bool(luhn.is_valid(digits))


@cache
def _service_patterns() -> list[re.Pattern[str]]:
    from importlib import import_module

    return [
        pattern
        for module, name in _SERVICES.items()
        for pattern in getattr(import_module(f"detect_secrets.plugins.{module}"), name)().denylist
    ]
