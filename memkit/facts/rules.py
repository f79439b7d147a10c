"""Facts without a model: what a person states in the first person, kept as it was said. Pure.

What `memkit.facts.assertions` finds to be stated is read by rules: its kind and attribute, whether
it is over ("I used to live in Kiel"), whether it corrects what was just said or takes something
back. A correction in the same message takes the place of what it corrects, which is left out.

What it misses: statements without "I", "my", "we" or "our"; facts that are spread over several
sentences or stand in a pronoun; corrections and jokes that none of the common words announce, and
corrections of a name within a longer sentence; "I quit" and "I left Siemens" as the end of a job;
"my sister does not ... any more"; "forget about my allergies" and all else that names no single
value; that "I am not allergic to nuts" denies what was said before; jobs and languages that are not
in its lists, unless "I work as" or the like introduces them; and every language but English. Small
talk of more than a phrase may be kept.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from memkit.facts.assertions import ME, OPENING, clauses, coordinated, outside_quotations, pattern
from memkit.words import content_words


@dataclass(frozen=True)
class Statement:
    """Something that a person says of themselves or of their own affairs.

    Attributes:
        text: What is stated, as said; for a correction the sentence with the value put right where
            that is plain; for a retraction what it takes back, else "".
        kind: One word: address, job, preference, statement, ...
        attribute: Which value of the person it gives, see `memkit.facts.SINGLE_VALUED`, or None.
        action: "state", or "retract" for what the person takes back.
        past: It tells of what is over; it must not take the place of what holds now.
        refers_back: A retraction of what the person said last, in an earlier message.
        replaces: What this corrects, as it was said; "" for all else.
    """

    text: str
    kind: str
    attribute: str | None
    action: Literal["state", "retract"] = "state"
    past: bool = False
    refers_back: bool = False
    replaces: str = ""


def _any_of(words: str) -> str:
    return f"(?:{'|'.join(words.split())})"


_LANGUAGE = _any_of(
    "english german french spanish italian portuguese dutch polish russian ukrainian turkish "
    "arabic chinese mandarin cantonese japanese korean hindi urdu bengali punjabi tamil swedish "
    "norwegian danish finnish greek czech slovak hungarian romanian bulgarian croatian serbian "
    "hebrew persian farsi vietnamese thai indonesian malay swahili catalan welsh irish"
)
_OCCUPATION = _any_of(
    "nurse doctor physician surgeon dentist vet teacher professor lecturer tutor engineer "
    "developer programmer designer architect lawyer attorney solicitor accountant consultant "
    "manager journalist reporter photographer chef cook baker wait(?:er|ress) bartender barista "
    "driver pilot electrician plumber carpenter mechanic farmer gardener florist hairdresser "
    "police(?:wo)?man firefighter soldier scientist researcher chemist physicist biologist "
    "pharmacist therapist psychologist counsell?or librarian secretary receptionist cashier clerk "
    "technician translator interpreter editor musician act(?:or|ress) student apprentice intern "
    "trainee freelancer analyst administrator caretaker carer midwife officer"
)
_RELATIVE = _any_of(
    "wife husband partner fianc[eé]e? boyfriend girlfriend sons? daughters? mother father parents? "
    "mom mum dad sisters? brothers? siblings? twins? kids? child children baby babies grandma "
    "grandpa grand(?:mother|father|son|daughter|parents|child|children|kids) granny aunt uncle "
    "cousins? nephews? nieces? family cats? dogs? pets? puppy kitten"
)
_CAPITAL = "(?-i:[A-Z])"
_AM = r"\bi(?:'m| am)(?: (?:now|currently|still))*"
_HAVE = r"\b(?:i|we)(?:'ve| have)"
_I = r"""
\b(?:i|we)(?:'m|'ve|'re| am| are| have)?(?: (?:now|just|recently|finally|currently|still|also|all
|both|only|mainly|actually|already|temporarily))*"""
# A second job stands beside the first and takes no place of it.
_I_MAINLY = _I.replace("|also", "")
_NOT_BESIDE = r"""
(?!.*\b(?:on the side|in my (?:spare|free) time|as a (?:second|side) (?:job|gig|hustle)
|(?:as well|too)(?=\W*$)))"""
_MY = r"\b(?:my|our)(?: (?:new|current|full|own|permanent|actual))*"
_GIVES = r"(?: is(?: now)?| has changed(?: to|[,:;]? it's)|'s|\s?[,:])"
_SETS = r"\b(?:change|update|correct|set) (?:my|our) (?:(?!e-?mail)\w+ )?address to\b"
# What "live in", "moved to" and "work at" may be followed by that is no place and no employer: "a
# bigger flat" is none, "a bigger flat in Kiel" and "the Netherlands" are.
_DATES = _any_of(
    "january february march april may june july august september october november december "
    "(?:mon|tues|wednes|thurs|fri|satur|sun)days? spring summer autumn fall winter last next \\d{4}"
)
_UNNAMED = rf"""
(?:an?|the|some) (?!{_CAPITAL}\w|(?:u\.?[ks]|usa|states|netherlands)\b)
(?!.{{0,60}}(?:[,:] \d|\bon (?!{_DATES}\b)(?:the )?{_CAPITAL}
|\b(?:in|at|near|of|called) (?:the {_CAPITAL}
|(?!(?:an?|the|my|our|his|her|their|this|that|which|it|town|time|order|case|{_DATES})\b)\w)))"""
_NOWHERE = rf"""
(?!\s+(?:{_UNNAMED}|(?:the (?:moment|past|present|future)|an? (?:world|time|society|dream|bubble
|state)|fear|hope|peace|harmony|pain|denial|interesting|exciting|hard|luxury|poverty|sin
|my|our|this|that|these|it|there|here|which|one|general|person|total|front|order)\b))"""
_NO_MOVE = rf"""
(?!\s+(?:{_UNNAMED}|(?:an? (?:\w+ )?(?:team|role|job|position|department|plan|tariff|topic|question
|version)|(?:the )?(?:next|front|back|marketing|sales|management|engineering|tears|office|part-time
|full-time)|it|there|here|this|that|something|another|other|my|our|be|do|get)\b))"""
_NO_EMPLOYER = r"""
(?!\s+(?:the moment|nights?|home|least|all|once|first|weekends?|times|free|fun|getting|making|being
|(?:\d+ )?(?:hours|days|weeks|months|years)|some|many|several|ages|it|that|this|them|me|us
|my (?:own|exam|goal|dream)s?|a (?:while|living|long|few|better))\b)"""

_NAME = rf"{_CAPITAL}(?:[\w-]|')+"

# The first that is found decides.
_KINDS = {
    ("address", "home_address"): pattern(rf"""
        {_MY}(?: (?:home|shipping|delivery|postal|mailing))* address
        (?:(?: is(?: now)?| has changed(?: to|[,:;]? it's)|'s)\b(?=.*(?:\d|{_CAPITAL}))|\s?[,:]\s)
        |{_SETS}|{_AM} based in{_NOWHERE}\b|{_I} (?:live|living|reside) at{_NOWHERE}\b
        |{_I} (?:live|living|reside)(?: (?:with|near|together|alone|here|over|out|back|up|down)\b
        (?: (?:my|our|the|a))?(?: \w+)?)? in{_NOWHERE}\b
        |{_I} (?<!temporarily )(?:moved|relocated)(?: (?:back|over|house|home|away|out|here|again
        |(?:last|this) \w+|with \w+ \w+|(?:(?:away |out )?from|out of)
        (?: (?:[\w.-]|')+){{1,3}}?))? (?:to|into){_NO_MOVE}\b
        |{_HAVE} (?:lived|been living) (?:in|at){_NOWHERE}\b(?=.*\b(?:for|since|all my life))"""),
    ("name", "name"): pattern(rf"""
        {_MY} name(?: is|'s)
        (?! (?:on|in|not|at|spelled|misspelled|written|wrong|missing|there|also|correct)\b)
        |(?:^\W*|\b(?:please|just|you can|everyone calls me|but) )call me {_CAPITAL}\w+
        |^\W*(?:hi|hello|hey|good \w+)\b[\s,!.]*(?:there\b[\s,!.]*)?i(?:'m| am) {_NAME}
        (?<!an)(?<!ish)(?<!ese)(?<!French)(?: {_NAME})?(?=\s?(?:[.,!;]|$| and\b| from\b))"""),
    ("name", None): pattern(r"""
        \bmy (?:\w+ )?(?:first |last |middle |maiden |family |sur|nick)name(?: is|'s)\b"""),
    ("contact", "email"): pattern(rf"""
        {_MY}(?: private)? e-?mail(?: address)?{_GIVES}.{{0,40}}\S@\S"""),
    ("contact", "phone"): pattern(rf"""
        {_MY}(?: private| mobile| cell| telephone| phone)*(?: number| phone| mobile){_GIVES}
        .{{0,20}}\d[\d\s()/-]{{4}}"""),
    ("contact", None): pattern(r"""
        \bmy (?:\w+ ){0,2}(?:e-?mail(?: address)?|phone(?: number)?|number) is\b
        |\b(?:reach|call|contact|e-?mail|text|write(?: to)?) me (?:at|on|under|via)\b
        .{0,40}(?:\d{4}|@)"""),
    ("birthday", "birthday"): pattern(r"""
        (?:\bmy birthday(?: is|'s)|\bi was born (?:on|the))\b
        (?=.*(?:\d|\b(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\b))"""),
    ("birthday", None): pattern(r"\bmy birthday\b|\bi was born in (?:\d|the (?:year|early|late))"),
    ("allergy", None): pattern(r"""
        \b(?:i|we)(?:'m|'re| am| are| was| were| became)(?: [\w-]+){0,2} (?:allergic|intolerant)\b
        |\b(?:i|we)(?:'ve| have| had| developed| suffer from)(?: [\w-]+){0,4}
        [ ](?:allergy|allergies|intolerance)\b
        |\b(?:my|our) (?:[\w-]+ )?(?:allergy|allergies|intolerance)\b
        |\bi(?:'m| am| have) (?:a )?(?:co?eliac|[\w-]+-intolerant)\b
        |\bi(?:'ve)? (?:have )?got(?: \w+)? allergic\b"""),
    ("family", "marital_status"): pattern(rf"""
        (?:\b(?:i(?:'m| am)|we(?:'re| are))|{_HAVE} been)
        (?: (?:now|still|happily|newly|recently|just|not))* (?:married|divorced|widowed
        |engaged(?! in)|separated|single(?! (?:mum|mom|dad|parent|mother)))\b
        |{_I} (?:got|get) (?:married|divorced|engaged)\b
        |{_AM} an? (?:widow|widower|bachelor)\b"""),
    ("job", "employer"): pattern(rf"""
        \bmy (?:employer|company)(?: is|'s) {_CAPITAL}|\bmy (?:new )?job is (?:at|with)\b
        |{_I_MAINLY} (?:(?:work|working) (?:at|for)|employed (?:at|by|with)){_NO_EMPLOYER}\b
        {_NOT_BESIDE}
        |{_HAVE} (?:worked|been working) (?:at|for){_NO_EMPLOYER}\b(?=.*\b(?:for|since)\b)
        |{_I_MAINLY} (?:started|joined)(?: (?:working|a new job|my new job))? (?:at|with)
        [ ]{_CAPITAL}{_NOT_BESIDE}"""),
    ("job", "job"): pattern(rf"""
        {_I_MAINLY} (?:work|working|employed) as\b{_NOT_BESIDE}
        |\bmy (?:new |current )?(?:job|occupation|profession) is
        [ ](?:(?:as|being|working as)\b|(?:an? )?(?:[\w-]+ ){{0,2}}{_OCCUPATION}\b)
        |{_I_MAINLY} started(?: \w+){{0,3}} as an? (?:(?:[\w-]+ ){{0,2}}{_OCCUPATION}\b|{_CAPITAL})
        |{_AM} (?:(?:retired|unemployed|self-employed)|(?:an? |the )(?:[\w-]+ ){{0,2}}
        {_OCCUPATION})\b"""),
    ("language", "language"): pattern(rf"""
        {_I} speak (?:only )?{_LANGUAGE}\b(?!\s+(?:too|as well|a (?:little|bit)|with|and))
        |\bmy (?:preferred )?language(?: is|'s) {_LANGUAGE}\b|\bi prefer {_LANGUAGE}\b
        |(?<!n't )(?<!not )(?<!never )\b(?:write|reply|answer|respond|speak|talk|communicate)
        (?: back)?(?: (?:to|with) (?:me|us))?(?: only)? in {_LANGUAGE}\b"""),
    ("language", None): pattern(rf"""
        {_I} speak (?:\w+ ){{0,4}}{_LANGUAGE}\b
        |\bmy (?:native |first |second |mother )(?:language|tongue)(?: is|'s)\b"""),
    ("family", None): pattern(rf"\b(?:my|our) (?:[\w-]+ ){{0,2}}{_RELATIVE}\b"),
    ("preference", None): pattern(rf"""
        \b(?:i|we)(?: (?!feel|felt|look|sound|seem|act|was|is)\w+)?
        [ ](?:prefer|like|love|enjoy|hate|dislike|adore)\b
        |\bmy (?:\w+ )?favou?rite\b|\bi (?:don't|do not|can't) (?:like|stand|eat|drink)\b
        |{_I} (?:not )?(?:an? )?(?:strict |mostly )?(?:vegan|vegetarian|pescatarian|teetotal)\b"""),
    ("plan", None): pattern(r"\b(?:i|we)(?:'m|'re| am| are)? (?:plan|planning|going) (?:to|on)\b"),
    ("order", None): pattern(r"\bmy order\b|\bi ordered\b"),
    ("job", None): pattern(rf"""
        \b(?:my|our) (?:(?:new|second|other) )?(?:job|work|boss|employer)\b|\bi have a second job\b
        |{_I} (?:(?:work|working) (?:at|for|as)|employed (?:at|by|with)){_NO_EMPLOYER}\b"""),
}

_FIRST_PERSON = pattern(rf"\b{ME}")
_SETTING = pattern(_SETS)
# What makes a part of a sentence a sentence of its own, after its "I" or "my".
_CLAUSE = pattern(r"""
    ^(?:i|we|my [\w ]+'s)\b|\b(?:is|are|was|were|has|had|lives|works|likes|loves|moved|will)\b""")
# What is said to be kind, or of the conversation itself, up to a name at its end.
_VERY = r"(?: (?:so|very|really|just|totally|completely|fully|definitely|100%|also|do))*"
_SMALL_TALK = pattern(rf"""
    ^\W*(?:(?:yeah?|yes|yep|wow|woah|oh|aw+|haha|hey|hi|no|ok|okay|so|and|but|well|thanks)\b\W+)*
    (?:i(?:'m| am){_VERY} (?:(?:fine|good|okay|ok|great|happy)
    (?: (?:for you|to hear)\b.{{0,40}}|,.{{0,30}})?
    |(?:sorry|glad|proud of you|here for you)\b.{{0,40}})
    |i{_VERY} (?:(?:see|know|get|understand|hear|feel)
    (?: (?:you|ya|it|that|what you mean|how you feel|the same(?: way)?))?|agree\b.{{0,20}}
    |(?:think|hope|believe|guess) so|appreciate (?:it|that|your?|you|this|the)\b.{{0,30}}
    |bet (?:it|that|you|they|she|he|the)\b.{{0,40}}
    |(?:hope|trust) (?:you|it|this|that|all)\b.{{0,60}})
    |i(?:'ll| will){_VERY} (?:let you know|keep you (?:posted|updated)|keep (?:it|that) in mind
    |(?:give|try|check|look) (?:it|that|this)\b.{{0,12}}|be (?:there|in touch|back))
    (?: (?:when|how|if|as)\b.{{0,30}})?
    |i can't wait(?: (?:either|for (?:it|that)|to (?:see|hear|meet|try)\b.{{0,30}}))?
    |i'd love to (?:hear|see)\b.{{0,30}}
    |(?:i|we){_VERY} had an? (?:\w+ )?(?:great|good|nice|lovely|wonderful|fun|amazing|awesome)
    [ ](?:time|day)
    |i (?:was|am|'m){_VERY} (?:thinking|wondering)|i have a (?:quick )?question.{{0,20}})
    (?:,? (?:too|then|there|man|mate)|, (?-i:[A-Z])\w+)?\W*$""")
# With one word of meaning these say too little: "I love it", "my order".
_VAGUE_KINDS = frozenset(("plan", "order", "statement"))
_IDLE_KINDS = _VAGUE_KINDS | {"preference"}
_LIKING = frozenset(("prefer", "love", "enjoy", "hate", "dislike", "adore"))

# What is over. Of what merely happened ("I finished the marathon") nothing ends.
_LASTING = frozenset(("address", "allergy", "contact", "job", "preference"))
_BEFORE = r"(?:old|previous|former|ex-?|childhood|earlier)"
_PAST = pattern(rf"""
    (?:^|[,;:.]\s|\b(?:and|but|because|so|as|that) )\W{{0,3}}
    (?:i|we)(?: (?:also|always|both|once|only))? used to \w
    |(?<!have )(?<!'ve )(?<!had )(?<!'d )
    \b(?:i|we)(?: (?:once|also|previously|formerly|first|only|both|all))*
    [ ](?:lived|resided|worked (?:at|for|as)|(?:was|were) (?:living|working))\b
    |\b(?:i|we) (?:was|were)(?: (?:once|also|previously|formerly))*
    [ ](?:(?:an? )?(?:\w+ )?(?:{_OCCUPATION}|vegan|vegetarian)
    |allergic|married|engaged|single|employed|based|called)\b
    |(?:^|[,;:.]\s|\b(?:and|but) )\W{{0,3}}(?:(?:my|our) {_BEFORE} (?:home |email |e-mail |phone )?
    (?:address|job|employer|name|phone|number|e-?mail|company)(?=(?: is| was| used)\b|'s|\s?[,:])
    |my (?:\w+ )?(?:name|address|job|employer|number|e-?mail|allergy) (?:was|used to be)\b)""")
# The present form by which something past is classified.
_PRESENT = tuple(
    (pattern(past), present)
    for past, present in (
        (r"\b(?:i|we) (?:once|also|previously|formerly|first|both|all|always) ", "I "),
        (r"\b(i|we) (?:was|were|used to be)\b", r"\1 am"),
        (r"\b(?:was|used to be)\b", "is"),
        (r"\bused to ", ""),
        (r"\b(live|work|reside)(?:d|ed)\b", r"\1"),
        (rf"\b(my|our) {_BEFORE} ", r"\1 "),
    )
)

# What takes something back: its groups are what that is.
_THOUGHT = "(?:think|thought|know|want|need|feel|care|have to|even|see|understand|believe)"
_ANY_MORE = r" (.{2,200}?),? any ?(?:more|longer)\b"
_ENDS = (
    pattern(rf"""
        ^(.*?)(?<!\bcan)\s(?:no|not any) longer (?!{_THOUGHT}\b)
        (.*?)(?:(?:[,;]| (?:but|since|because|as of|and)\b).*)?$"""),
    pattern(rf"^(.{{,80}}?\b(?:i|we)) do(?: not|n't)(?! {_THOUGHT}\b){_ANY_MORE}"),
    pattern(
        rf"^(.{{,80}}?\b(?:i|we|my [\w -]{{,30}})(?:'m|'re| am| is| are))(?: not|n't){_ANY_MORE}"
    ),
)
_PLACE = rf"(?:the )?(?:{_CAPITAL}(?:[\w.-]|')+|\d+\w?)(?:,? (?:{_CAPITAL}(?:[\w.-]|')+|\d+\w?))*"
_LEAVES = pattern(rf"""
    ^.{{0,80}}?\b(i|we)(?:'ve| have)?(?: (?:just|recently|finally|now|also|all|both))*[ ]
    (?:moved (?:out of|away from) ({_PLACE}|(?!(?:the|an?|my|our|his|her|its|their|this|that
    |it|there|here|town|home)\b)[\w-]+(?=\W*$))|left ({_PLACE}) for good)\b
    (?!.* (?:in)?to (?:the )?{_CAPITAL})""")
_INSTEAD = pattern(r"\bbut (?:now )?(?:in|at|for|as|to)\b")
_FORGET = pattern(rf"""{OPENING}
    (?:(?:(?:can|could|would) )?you |can |please )*
    (?:forget|disregard|ignore|scratch|strike|delete|remove|erase) (?:(?:(?:all|everything) )?
    (?:what |that )?(?:i (?:just )?(?:said|told you|wrote|mentioned)|you know)(?: earlier| before)?
    (?: about| that)? |about |that )?(?P<what>{ME}.{{0,300}}?)\W*$""")
_STATES_IT = pattern(r"^(?:i|we)\b|\b(?:is|are)\b")
# What "forget what I said about my ..." may name, by attribute.
_TOPIC = pattern(r"""
    \b(?:my|our) (?:[\w-]+ ){0,2}(?:(?P<email>e-?mail)|(?P<home_address>address|flat|house|home)
    |(?P<phone>phone|number)|(?P<name>(?:sur)?name)|(?P<birthday>birthday|date of birth)
    |(?P<employer>employer|company)|(?P<job>job|work|occupation|profession)|(?P<language>language)
    |(?P<marital_status>marriage|divorce|engagement|marital status))\b""")
# What takes back the sentence before.
_UNSAYS = r"""
(?:(?:that|this|it) was (?:just |only |obviously )?
(?:(?:a |my )?(?:joke|lie)|joking|kidding|sarcas(?:m|tic)|iron(?:y|ic))
|(?:i(?:'m| am| was) )?(?:just |only |totally )?(?:kidding|joking)(?: you| with you| about that)?
|never ?mind,? (?:(?:that|it)(?:'s| is| was)|i was) (?:wrong|not true|not right|a mistake|mistaken)
|what i (?:just )?said (?:is|was) (?:wrong|not true|a joke|a lie)
|i take (?:that|it) back|i (?:made that up|lied)|(?:forget|disregard|ignore|scratch|strike)
[ ](?:that|this|it|what i (?:just )?(?:said|told you|wrote)|my last (?:message|sentence)))\b"""
_BACK = pattern(rf"""
    (?:^|[,;.!–—-]|\s-)\W{{0,9}}(?:(?:ha|haha|lol|no|oh|ok|okay|sorry|well|actually|wait|hey|but|and
    |so|please|you|can|could)\b[\s,.!]*)*
    (?:{_UNSAYS}(?: now| actually| of course| please| sorry| haha| lol|\W)*)+$""")

# What puts something right.
_MARK = r"""
(?P<mark>(?:(?:i (?:actually |of course )?meant?(?: to (?:say|write))?|correction|make that
|(?:it|that)(?:'s| is) (?:actually|really)|it should be|(?:or )?rather|actually|no(?:,? wait)?
|sorry|apologies|my mistake|my bad)\b[\s,.!:–—-]*)+)"""
_CORRECTS = pattern(rf"""
    ^\W*(?:(?:oh|ah|oops|ups|well|um|uh|wait|hang on)\b[\s,!.–—-]*)*{_MARK}
    (?:(?:it|that)(?:'s| is) )?(?P<value>\S.*)$""")
_CORRECTS_WITHIN = pattern(rf"\s?(?:[,;–—.…]|\s-)\s?(?:(?:oh|oops|wait),? )?{_MARK}")
_SURELY = pattern(r"meant|correction|(?:sorry|no|mistake)\b.*mean")
_WORD = re.compile(r"[^\s,;.!?]+(?:[.,]\d+)*")
_FRAME = pattern(r"""
    \b(?:allergic to|intolerant to|call me|name is|name's
    |(?:live|living|moved|work|working|based)(?: (?:now|back|out|over|again))? (?:in|at|to|for|as)
    |(?:address|number|birthday|e-?mail|employer|job|language|favou?rite \w+) is(?: on| now)?
    |born (?:on|in)|speak|prefer|like|love|hate|ordered)\s+(?=\S)""")


def statements(text: str, *, previous: Statement | None = None) -> list[Statement]:
    """Return what a message states in the first person, corrects and takes back, in order.

    Args:
        text: The message.
        previous: The last statement of the person's message before, to which a correction or "that
            was a joke" at the beginning of this one is then applied.
    """
    found: list[Statement] = []
    recent: list[Statement] = []  # of the last sentence that says anything
    at_the_beginning = True
    for clause in clauses(text):
        said = clause.text
        before = recent[-1] if recent else previous if at_the_beginning else None
        if _BACK.match(said):
            if at_the_beginning:
                last = previous or Statement("", "statement", None)
                found.append(replace(last, action="retract", refers_back=True, replaces=""))
            recent = []
        elif before is not None and (better := _corrected(said, before)) is not None:
            recent[-1:] = [better]
        elif (new := list(_read(said, clause.verdict))) or clause.verdict == "asserted":
            if not new and len(content_words(said)) < 2 and not _FIRST_PERSON.search(said):
                continue  # "Haha." and "Wait, no." leave open what is meant next
            found += recent
            recent = new
        at_the_beginning = False
    return found + recent


def classify(sentence: str) -> tuple[str, str | None]:
    """Return kind and attribute of a first-person sentence."""
    found = (key for key, stated in _KINDS.items() if stated.search(sentence))
    return next(found, ("statement", None))


def reads_as(clause: str, attribute: str) -> bool:
    """Return whether the rules give an attribute anywhere in a first-person clause, now or then."""
    own = outside_quotations(clause)
    given = [stated for (_, gives), stated in _KINDS.items() if gives == attribute]
    parts = [_as_present(part)[0] for part in coordinated(own)]
    # The whole may give what no part does: "I have lived in Kiel, and so on, since May".
    return _told(clause)[1] == attribute or any(g.search(part) for part in parts for g in given)


def is_past(clause: str) -> bool:
    """Return whether a first-person clause tells what is over, and not also what holds instead."""
    told = {_told(part) for part in coordinated(clause)}
    return any(past and (kind, attribute, False) not in told for kind, attribute, past in told)


def _read(said: str, verdict: str) -> Iterator[Statement]:
    """Yield what one clause states or takes back."""
    if verdict in {"instruction", "question"} and (forgotten := _forgotten(said)) is not None:
        yield forgotten
    elif verdict == "instruction":
        kind, attribute = classify(said)
        # "Please call me Ann", "please write in German", "please change my address to ..."
        if attribute in {"name", "language"} or (attribute and _SETTING.search(said)):
            yield Statement(said, kind, attribute)
    elif verdict == "asserted" and not _BACK.search(said[-80:]):
        for part in _apart(_put_right_within(said)):
            yield from _stated(part)


def _apart(said: str) -> list[str]:
    """Return the parts of a sentence that must be kept apart: two attributes, a retraction."""
    parts = coordinated(said)
    if len(parts) == 1 or any(_retraction(part) for part in parts):
        return parts
    told = {_told(part) for part in parts}
    # A statement would be wrong with another one in its sentence.
    sharp = any(attribute is not None or kind == "allergy" for kind, attribute, _ in told)
    apart = len(told) > 1 and sharp and all(_CLAUSE.search(part) for part in parts[1:])
    return parts if apart else [said]


def _told(said: str) -> tuple[str, str | None, bool]:
    """Return the kind and the attribute of what is stated, and whether it is over."""
    own, past = _as_present(outside_quotations(said))
    kind, attribute = classify(own)
    # What merely happened is over, too, but stays true.
    return kind, attribute, past and (attribute is not None or kind in _LASTING)


def _as_present(own: str) -> tuple[str, bool]:
    """Return what is over in the words of what holds, and whether it is over."""
    past = _PAST.search(own) is not None
    if past:
        for then, now in _PRESENT:
            own = then.sub(now, own)
    return own, past


def _stated(said: str) -> Iterator[Statement]:
    retraction = _retraction(said)
    if retraction is not None:
        yield retraction
        if _INSTEAD.search(said):
            yield Statement(said, retraction.kind, retraction.attribute)
        return
    kind, attribute, past = _told(said)
    own = _FIRST_PERSON.search(outside_quotations(said)) is not None
    if own or kind in {"contact", "name", "language"}:
        meaning = content_words(said)
        clear = kind not in _VAGUE_KINDS and not meaning <= _LIKING
        if (len(meaning) > 1 or (meaning and clear)) and not (
            attribute is None and kind in _IDLE_KINDS and _is_small_talk(said)
        ):
            yield Statement(said, kind, attribute, past=past)


def _is_small_talk(said: str) -> bool:
    return _SMALL_TALK.match(said[:200]) is not None and len(coordinated(said)) == 1


def _retraction(said: str) -> Statement | None:
    """Return what "I no longer ..." and "I don't ... any more" take back."""
    left = _LEAVES.match(said)
    if left is not None:
        text = f"{left[1]} live in {left[2] or left[3]}"
        return Statement(text, *classify(text), action="retract")
    for ends in _ENDS:
        match = ends.match(said)
        if match is not None and _FIRST_PERSON.search(said):
            text = " ".join(match.groups()).strip(" .!")
            return Statement(text, *classify(text), action="retract")
    return None


def _forgotten(said: str) -> Statement | None:
    """Return what "forget what I said about my address" takes back."""
    match = _FORGET.match(said)
    what = match["what"] if match is not None else ""
    if _STATES_IT.search(what):
        return Statement(what, *_told(what)[:2], action="retract")
    topic = _TOPIC.search(what)  # "delete my basket" is no matter of the memory
    named = [key for key in _KINDS if topic is not None and key[1] == topic.lastgroup]
    return Statement(what, *named[0], action="retract") if named else None


def _corrected(said: str, before: Statement) -> Statement | None:
    """Return the statement that a correction makes of the one before it, None if it is none."""
    match = _CORRECTS.match(said)
    if match is None or before.action != "state":
        return None
    value = match["value"].strip()
    sure = _SURELY.search(match["mark"]) is not None
    if _FIRST_PERSON.search(value):
        kind, attribute, past = _told(value)
        same = (kind, attribute, past) == (before.kind, before.attribute, before.past)
        if same and kind != "statement" and (sure or attribute is not None):
            return Statement(value, kind, attribute, past=past, replaces=before.text)
        return None
    text = _with_value(before.text, value, sure=sure)
    if text is None and sure and content_words(value):
        text = said
    return None if text is None else replace(before, text=text, replaces=before.text)


def _put_right_within(said: str) -> str:
    """Return a sentence with "..., no, 41" applied to it, as it is if there is nothing to apply."""
    for match in _CORRECTS_WITHIN.finditer(said):
        value = said[match.end() :]
        if match.start() < 8 or _FIRST_PERSON.search(value):
            continue
        sure = _SURELY.search(match["mark"]) is not None
        put_right = _with_value(said[: match.start()], value, sure=sure)
        if put_right is not None:
            return put_right
    return said


def _with_value(sentence: str, value: str, *, sure: bool) -> str | None:
    """Return a sentence with its value replaced, None where it is not plain which words that are.

    Plain are: words around the changed one that the sentence has too ("41 Linden Street"), a number
    for its only number, the end of a common frame ("allergic to ..."). To be `sure`, a correction
    must be announced: by "I meant", not by "actually".
    """
    value = re.sub(r",? (?:not|instead of) .*$", "", value.strip(" .!;,"))
    new = [m.group() for m in _WORD.finditer(value)]
    old = list(_WORD.finditer(sentence))
    if not new or not old or len(new) > 8:
        return None
    spot = _shared_words(old, new)
    numbers = [m for m in old if m.group()[0].isdigit()]
    if spot is None and len(numbers) == len(new) == 1 and value[0].isdigit():
        spot = numbers[0].span()
    if spot is None and (sure or (len(new) < 4 and (value[0].isupper() or value[0].isdigit()))):
        spot = _framed(sentence, value)
    return None if spot is None else f"{sentence[: spot[0]]}{value}{sentence[spot[1] :]}"


def _shared_words(old: list[re.Match[str]], new: list[str]) -> tuple[int, int] | None:
    """Return where words stand that are the new ones but for the first or the last."""
    said, size = [m.group().lower() for m in old], len(new)
    fresh = [w.lower() for w in new]
    for i in range(len(said) - size, -1, -1):
        window = said[i : i + size]
        for kept in (slice(1, None), slice(None, -1)):
            same = window[kept] == fresh[kept] and content_words(" ".join(fresh[kept]))
            if same and window != fresh:
                return old[i].start(), old[i + size - 1].end()
    return None


def _framed(sentence: str, value: str) -> tuple[int, int] | None:
    """Return where the value of a common frame stands, if nothing else follows it."""
    frames = list(_FRAME.finditer(sentence))
    if len(frames) != 1 or "," in value or ";" in value:
        return None
    begin, end = frames[0].end(), len(sentence.rstrip(" .!"))
    inside = sentence[begin:end]
    plain = inside.count(" ") < 3 and not re.search(r"[,;]|\b(?:and|or|with|near|since)\b", inside)
    # A house number for a town would be no correction of the same thing.
    alike = value[0].isdigit() == inside[:1].isdigit()
    return (begin, end) if inside and plain and alike else None
