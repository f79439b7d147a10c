"""Which statements are one statement, which are near copies, and which are neither."""

from itertools import combinations

import pytest

from memkit.facts.sameness import NEGATIONS, canonical, near_copies, stem


@pytest.mark.parametrize(
    ("plain", "turned"),
    [
        ("I smoke {}", "I gave up smoking {}"),
        ("I smoke {}", "I used to smoke {}"),
        ("I moved to Rome {}", "I almost moved to Rome {}"),
        ("I moved to Rome {}", "I nearly moved to Rome {}"),
        ("I have a car {}", "I lack a car {}"),
        ("I drink {}", "I barely drink {}"),
        ("I eat meat {}", "I rarely eat meat {}"),
        ("I like tea {}", "I hate tea {}"),
        ("I have a boat {}", "I sold a boat {}"),
    ],
)
@pytest.mark.parametrize("rest", ["", "with my old friends from the blue house by the small river"])
def test_what_is_given_up_over_or_nearly_so_is_another_statement(
    plain: str, turned: str, rest: str
) -> None:
    first, second = canonical(plain.format(rest)), canonical(turned.format(rest))
    assert first != second
    assert not near_copies(first, second)


def test_there_is_one_word_for_giving_up() -> None:
    said = {
        canonical(f"I {verb} smoking") for verb in ("gave up", "quit", "stopped", "have given up")
    }
    assert said == {"i stopped smoking", "i have stopped smoking"}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("likes", "like"),
        ("dogs", "dog"),
        ("cities", "city"),
        ("ties", "tie"),
        ("movies", "movie"),
        ("shoes", "shoe"),
        ("sizes", "size"),
        ("houses", "house"),
        ("watches", "watch"),
        ("goes", "go"),
        ("buses", "bus"),
        ("has", "have"),
    ],
)
def test_plurals_and_third_persons_have_one_stem(one: str, other: str) -> None:
    assert stem(one) == stem(other)


def test_words_that_end_in_s_of_themselves_keep_it() -> None:
    for word in (
        "news",
        "us",
        "bus",
        "james",
        "paris",
        "texas",
        "tennis",
        "yes",
        "physics",
        "maths",
    ):
        assert stem(word) == word
    pairs = ("news", "new"), ("lens", "len"), ("lucas", "luca"), ("peters", "peter")
    assert all(stem(a) != stem(b) for a, b in pairs)


@pytest.mark.parametrize(
    ("subject", "text", "words"),
    [
        ("Will", "I will not come", "i will not come"),
        ("Will", "Will will not come", "i will not come"),
        ("will", "I will not come", "i will not come"),
        ("May", "I may move in May", "i may move in may"),
        ("May", "May moved on 5 May", "i moved on 5 may"),
        ("No", "No cars for me", "no car for i"),
        ("No", "No, I have no car", "no i have no car"),
        ("No", "No: I live in Kiel", "i live in kiel"),
        ("No", "No's car is red", "my car red"),
        ("Not", "I do not smoke", "i do not smoke"),
        ("Ann", "Ann's car is red", "my car red"),
        ("Ann", "Tom met a friend of Ann in Ann's car", "tom met friend of i in my car"),
        ("Paris", "Paris lives in Paris", "i live in paris"),
        ("user", "As the user said, the user likes boats", "i like boat"),
        ("", "I live in Kiel", "i live in kiel"),
    ],
)
def test_a_name_that_is_a_word_takes_the_place_of_no_other(
    subject: str, text: str, words: str
) -> None:
    assert canonical(text, subject) == words


def test_no_name_hides_a_negation() -> None:
    for subject, word in combinations(sorted(NEGATIONS), 2):
        for said in (f"I {word} eat meat", f"I {subject} eat meat", f"{subject} meat".title()):
            before = NEGATIONS & set(said.lower().split())
            assert before <= set(canonical(said, subject.title()).split())
