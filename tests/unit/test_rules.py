"""Facts without a model: kinds and attributes, what is over, corrected, and taken back."""

import re
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.facts import SINGLE_VALUED
from memkit.facts.rules import Statement, classify, is_past, reads_as, statements

HOME = ("address", "home_address")


def one(text: str) -> Statement:
    (statement,) = statements(text)
    return statement


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("I live at 14 Linden Street, Leipzig.", [HOME]),
        ("Hello! I just moved to 3 Harbour Road in Kiel. Bye!", [HOME]),
        ("My name is Ann Keller and I work as a nurse.", [("name", "name"), ("job", "job")]),
        ("I am allergic to peanuts.", [("allergy", None)]),
        ("Please note: I prefer e-mail over phone calls.", [("preference", None)]),
        ("My daughter Mia starts school in August.", [("family", None)]),
        ("I finished the marathon on Sunday.", [("statement", None)]),
        ("Where do I find my invoice?", []),
        ("Can I change my address.", []),
        ("If I lived in Berlin, would it be faster?", []),
        ("Maybe I will move next year.", []),
        ("The parcel is late.", []),
        ("I'm fine, thanks.", []),
        ("I hope you are well.", []),
        ("I love it.", []),
        ("Show me my orders", []),
        ("", []),
    ],
)
def test_first_person_statements_are_kept(text: str, kept: list[tuple[str, str | None]]) -> None:
    assert [(s.kind, s.attribute) for s in statements(text)] == kept


@pytest.mark.parametrize(
    ("text", "kind", "attribute"),
    [
        ("i live in berlin", *HOME),
        ("I live with my parents in Kiel.", *HOME),
        ("I've lived in Berlin for five years.", *HOME),
        ("My address has changed to 3 Harbour Road.", *HOME),
        ("Please change my address to 3 Harbour Road.", *HOME),
        ("Change my address to 3 Harbour Road", *HOME),
        ("My husband and I moved to Kiel.", *HOME),
        ("Hi, I'm Ann Keller.", "name", "name"),
        ("Please call me Ann.", "name", "name"),
        ("My last name is Keller.", "name", None),
        ("My email is ann@example.com.", "contact", "email"),
        ("My phone number is +49 431 123456.", "contact", "phone"),
        ("My email is not working.", "contact", None),
        ("My birthday is on 4 May.", "birthday", "birthday"),
        ("My birthday is coming up soon.", "birthday", None),
        ("I work at Siemens.", "job", "employer"),
        ("I have worked at Siemens since 2010.", "job", "employer"),
        ("I'm a nurse.", "job", "job"),
        ("My job is stressful lately.", "job", None),
        ("I'm married.", "family", "marital_status"),
        ("I speak German.", "language", "language"),
        ("Please write to me in German.", "language", "language"),
        ("I speak a little French.", "language", None),
        ("I have a severe nut allergy.", "allergy", None),
        ("I'm vegan.", "preference", None),
        ("I am planning to visit Rome.", "plan", None),
    ],
)
def test_kinds_and_attributes(text: str, kind: str, attribute: str | None) -> None:
    statement = one(text)
    assert (statement.kind, statement.attribute) == (kind, attribute)
    assert (statement.text, statement.action, statement.past) == (text, "state", False)
    assert attribute is None or attribute in SINGLE_VALUED


@pytest.mark.parametrize(
    "text",
    [
        "I moved the meeting to Friday.",
        "I moved to a new team.",
        "I live in hope, always.",
        "I work at night.",
        "I'm working on my thesis.",
        "I started making jewelry as a hobby.",
        "I'm engaged in local politics.",
        "My husband's name is Tom.",
        "My daughter's birthday is on 4 May.",
        "My friend Tom lives in Paris.",
        "My sister is allergic to nuts.",
        "My sister works at Siemens.",
        "I told my boss I might write in German.",
    ],
)
def test_near_misses_and_other_peoples_facts_have_no_attribute(text: str) -> None:
    for statement in statements(text):
        assert statement.attribute is None
        assert statement.kind != "allergy"


@pytest.mark.parametrize(
    "text",
    [
        "I also work at Globex.",
        "I now also work as a barista.",
        "I'm also working for Bosch.",
        "I work at Globex on the side.",
        "I work at Globex, too.",
        "I also volunteer at the zoo.",
        "I have a second job as a barista.",
    ],
)
def test_a_second_job_stands_beside_the_first(text: str) -> None:
    assert one(text).attribute is None


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("We moved to a bigger flat.", None),
        ("We moved to a nicer place in May 2020.", None),
        ("I moved to the suburbs.", None),
        ("I live in a small flat on the second floor.", None),
        ("I almost moved to Rome.", None),
        ("I've nearly moved to Rome.", None),
        ("We moved to a bigger flat in Kiel.", "home_address"),
        ("I moved to a new flat, 3 Harbour Road.", "home_address"),
        ("I moved to the Netherlands.", "home_address"),
        ("I live in a big house near Kiel.", "home_address"),
        ("I moved to a castle on Mars.", "home_address"),
        ("I moved to a bigger flat on Monday.", None),
        ("I moved away from Kiel to Bonn.", "home_address"),
    ],
)
def test_an_address_names_a_place(text: str, attribute: str | None) -> None:
    assert (one(text).action, one(text).attribute) == ("state", attribute)


def test_what_must_not_stand_in_one_fact_is_told_apart() -> None:
    told = statements("I'm allergic to nuts, and my sister is allergic to milk.")
    assert [(s.text, s.kind) for s in told] == [
        ("I'm allergic to nuts", "allergy"),
        ("my sister is allergic to milk.", "family"),
    ]


@pytest.mark.parametrize(
    ("text", "attribute"),
    [
        ("I used to live in Berlin", "home_address"),
        ("I lived in Berlin until May", "home_address"),
        ("My old address was 14 Linden Street.", "home_address"),
        ("My name used to be Ann Miller.", "name"),
        ("I worked at Siemens for 5 years.", "employer"),
        ("I was married.", "marital_status"),
        ("I was allergic to milk as a child.", None),
    ],
)
def test_what_is_over_is_past(text: str, attribute: str | None) -> None:
    statement = one(text)
    assert (statement.past, statement.attribute, statement.text) == (True, attribute, text)


@pytest.mark.parametrize(
    "text",
    [
        "I totally agree, Mel.",
        "I appreciate it!",
        "Yeah, I really appreciate your help.",
        "I hear you.",
        "I'll let you know how it goes.",
        "I'll keep you posted.",
        "I see what you mean.",
        "Haha, I can't wait!",
        "I can't wait to see it.",
        "I hope so, too.",
        "I was just thinking.",
        "I had a great time!",
        "I'd love to hear your thoughts.",
        "I bet they all had a blast.",
        "Thanks, I'm good.",
    ],
)
def test_small_talk_is_no_fact(text: str) -> None:
    assert statements(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "I see a therapist.",
        "I know Tom Berg.",
        "I understand German.",
        "I'm good at chess.",
        "I'm sorry I moved to Kiel.",
        "I had a great time at the zoo.",
        "I can't wait for the hike in Norway.",
        "I hope you are well, and I adopted a dog.",
        "I bet on horses.",
    ],
)
def test_what_only_begins_as_small_talk_is_kept(text: str) -> None:
    assert [s.text for s in statements(text)] == [text]


def test_sentences_in_lower_case_are_told_apart() -> None:
    told = statements("i live in berlin. i work at siemens. never mind, that's wrong")
    assert told == []
    assert [s.attribute for s in statements("i live in berlin. i work at siemens.")] == [
        "home_address",
        "employer",
    ]


def test_what_is_over_and_what_holds_are_told_apart() -> None:
    told = statements("I used to work at Siemens, but I now work at Bosch.")
    assert [(s.text, s.past) for s in told] == [
        ("I used to work at Siemens", True),
        ("I now work at Bosch.", False),
    ]
    assert not one("I'm used to living in Berlin.").past
    assert not one("I finished the marathon on Sunday.").past


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (
            "I live at 14 Linden Street. Sorry, I meant 41 Linden Street.",
            "I live at 41 Linden Street.",
        ),
        ("I live at 14 Linden Street. No, 41.", "I live at 41 Linden Street."),
        ("I live at 14 Linden Street. Wait, no. I meant 41.", "I live at 41 Linden Street."),
        ("I live at 14 Linden Street, no, 41.", "I live at 41 Linden Street"),
        ("I live in Berlin — sorry, I mean Hamburg.", "I live in Hamburg"),
        ("I live in Berlin. Actually, I live in Kiel.", "I live in Kiel."),
        ("I'm allergic to nuts. Sorry, I meant wasps.", "I'm allergic to wasps."),
        ("My name is Ann. Correction: my name is Anne.", "my name is Anne."),
        ("My birthday is on 4 May. I mean 5 May.", "My birthday is on 5 May."),
        ("I have 2 kids. Actually, 3.", "I have 3 kids."),
    ],
)
def test_a_correction_takes_the_place_of_what_it_corrects(text: str, kept: str) -> None:
    statement = one(text)
    assert statement.text == kept
    before = one(re.split(r"[.,—]", text, maxsplit=1)[0])
    assert (statement.kind, statement.attribute) == (before.kind, before.attribute)


def test_a_correction_that_cannot_be_placed_is_kept_as_said() -> None:
    statement = one("I live next to the old harbour. Sorry, I meant beside some new bridge.")
    assert statement.text == "Sorry, I meant beside some new bridge."
    assert statement.replaces == "I live next to the old harbour."


def test_a_correction_reaches_back_to_the_message_before() -> None:
    (before,) = statements("I live at 14 Linden Street.")
    (after,) = statements("Sorry, I meant 41 Linden Street.", previous=before)
    assert (after.text, after.attribute) == ("I live at 41 Linden Street.", "home_address")
    assert after.replaces == before.text


@pytest.mark.parametrize(
    "text",
    [
        "I live in Berlin. Actually, I love it there.",
        "I love pizza. Actually, too much.",
        "I love pizza. I mean, who doesn't.",
        "I like tea. No dairy for me.",
        "I have 3 kids and 2 dogs. No, 4.",
    ],
)
def test_what_only_sounds_like_a_correction_leaves_the_fact(text: str) -> None:
    assert statements(text)[0].text == text.split(". ", maxsplit=1)[0] + "."


@pytest.mark.parametrize(
    ("text", "taken_back", "kind", "attribute"),
    [
        ("I am no longer allergic to nuts", "I am allergic to nuts", "allergy", None),
        ("I don't work at Siemens any more.", "I work at Siemens", "job", "employer"),
        ("I'm not vegan anymore", "I'm vegan", "preference", None),
        ("I don't live in Leipzig any longer.", "I live in Leipzig", *HOME),
        ("We no longer have a dog.", "We have a dog", "statement", None),
        ("We moved out of Kiel.", "We live in Kiel", *HOME),
        ("we moved out of kiel", "we live in kiel", *HOME),
        ("I've moved away from New York because of the rent.", "I live in New York", *HOME),
        ("I left Kiel for good", "I live in Kiel", *HOME),
        ("Forget that I am vegan.", "I am vegan", "preference", None),
        ("Please forget what I said about my address.", "my address", *HOME),
        ("Could you forget about my birthday?", "my birthday", "birthday", "birthday"),
    ],
)
def test_retractions(text: str, taken_back: str, kind: str, attribute: str | None) -> None:
    assert one(text) == Statement(taken_back, kind, attribute, action="retract")


def test_a_retraction_may_name_what_holds_instead() -> None:
    moved = statements("I don't live in Leipzig any longer, I moved to Kiel.")
    assert [(s.action, s.text) for s in moved] == [
        ("retract", "I live in Leipzig"),
        ("state", "I moved to Kiel."),
    ]
    assert [s.action for s in statements("I no longer live in Bonn but in Kiel.")] == [
        "retract",
        "state",
    ]


@pytest.mark.parametrize(
    "text",
    [
        "I can't drink coffee anymore.",
        "Don't forget that I am vegan.",
        "I don't think I can wait anymore.",
        "Please delete my basket.",
        "I'm not allergic to nuts.",
        "We moved out of our flat.",
        "I left the company for good.",
        "My sister moved out of Kiel.",
    ],
)
def test_what_takes_nothing_back(text: str) -> None:
    assert all(s.action == "state" for s in statements(text))


@pytest.mark.parametrize(
    "text",
    [
        "That was a joke.",
        "just kidding",
        "Haha. Just kidding!",
        "never mind, that's wrong",
        "Forget that.",
        "I take that back.",
        "That was a joke, sorry.",
        "Just kidding, that was a joke.",
    ],
)
def test_a_joke_takes_back_what_was_said_last(text: str) -> None:
    assert one(text) == Statement("", "statement", None, action="retract", refers_back=True)
    (previous,) = statements("I live on the moon.")
    (taken_back,) = statements(text, previous=previous)
    assert (taken_back.action, taken_back.text) == ("retract", "I live on the moon.")
    # In one message nothing was stated in the first place.
    assert statements(f"I live on the moon. {text}") == []


def test_a_joke_takes_back_no_more_than_the_sentence_before() -> None:
    assert one("I live in Kiel. I own the moon. Just kidding!").text == "I live in Kiel."


@given(st.text(max_size=200) | st.lists(st.sampled_from([
    "I live in Kiel", ". ", ", ", "no longer ", "sorry, I meant ", "No, 41", "just kidding", '"',
    "forget what I said about ", "I used to ", "any more", "14 Elm Street", "?", "\n", "actually ",
    "my ",
]), max_size=20).map("".join))  # fmt: skip
def test_any_text_can_be_read(text: str) -> None:
    for statement in statements(text):
        assert statement.text or statement.refers_back
        assert statement.attribute is None or statement.attribute in SINGLE_VALUED


@pytest.mark.parametrize(
    "piece",
    [
        "I no longer ", "I don't ", "I live in Kiel. I mean Rome. ", "sorry, ", "x" * 900 + ". I ",
        "actually, ", "I used to ", "my ", "I'm now just ", " any more", "Just kidding. I live. ",
        "I moved to the ", "I moved out of Kiel ", "yeah, ", "I work at Globex also ", "I'm good, ",
    ],
)  # fmt: skip
def test_the_time_grows_with_the_length_only(piece: str) -> None:
    started = process_time()
    statements(piece * (25_000 // len(piece)))
    statements(("I like " + piece * (900 // len(piece)) + ".\n") * 20)
    assert process_time() - started < 2


def test_a_sentence_is_classified_by_its_first_rule() -> None:
    assert classify("I live in Kiel and like tea") == HOME
    assert classify("nothing of the kind") == ("statement", None)


@pytest.mark.parametrize(
    ("clause", "attribute"),
    [
        ("I live in Kiel and my boss Tom lives in Bonn", "home_address"),
        ("I got married and I live in Kiel", "marital_status"),
        ("I got married and I live in Kiel", "home_address"),
        ("I'm a nurse and my name is Ann Keller", "job"),
        ("I'm a nurse", "job"),
        ("I was a nurse back then", "job"),
        ("I used to live in Kiel", "home_address"),
        ("I got married in May", "marital_status"),
        ("Call me Ann", "name"),
        ("my e-mail is a@b.de", "email"),
    ],
)
def test_a_clause_reads_as_every_attribute_that_it_gives(clause: str, attribute: str) -> None:
    assert reads_as(clause, attribute)


@pytest.mark.parametrize(
    ("clause", "attribute"),
    [
        ("I met Tom Berg yesterday", "name"),
        ("I work in Bonn", "home_address"),
        ("my work e-mail is a@b.de", "email"),
        ("I also volunteer at the zoo", "job"),
        ("I also work at Globex", "employer"),
        ('I read "I live in Kiel"', "home_address"),
        ("my birthday is near and I live at 4 Elm Street", "birthday"),
        ("my sister is a nurse", "job"),
    ],
)
def test_a_clause_does_not_read_as_what_it_does_not_give(clause: str, attribute: str) -> None:
    assert not reads_as(clause, attribute)


@pytest.mark.parametrize(
    "clause",
    [
        "I used to live in Bonn",
        "I lived in Bonn as a child",
        "I was a nurse back then",
        "my old address was 3 Elm Street",
        "I lived in Bonn and I liked it",
    ],
)
def test_a_clause_is_past_where_it_tells_what_is_over(clause: str) -> None:
    assert is_past(clause)


@pytest.mark.parametrize(
    "clause",
    [
        "I live in Bonn",
        "I used to live in Bonn, but I live in Kiel now",
        "I'm used to living in Bonn",
        "I finished the marathon on Sunday",
    ],
)
def test_a_clause_is_not_past_where_something_holds(clause: str) -> None:
    assert not is_past(clause)
