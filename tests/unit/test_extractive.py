"""The record without a model: which lines stay, in what order, within which bound."""

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from memkit import ContextBudget
from memkit.extractive import candidate_lines, choose_lines
from tests.fakes import HashEmbeddings

COUNT = ContextBudget(2_000).count_text
BORN = "My daughter Ines was born in Porto on 14 March 2019."
TOPICS = ("the garden", "the weather", "old films", "a slow train", "bread", "long walks", "paint")


def by_words(text: str) -> int:
    return len(text.split())


def per_message(text: str) -> int:
    """Count as a budget with a counter of messages does: each costs something even if empty."""
    return 4 + len(text)


def chosen(
    lines: Sequence[str],
    max_tokens: int,
    *,
    later: Sequence[str] = (),
    vectors: Sequence[Sequence[float]] | None = None,
) -> list[str]:
    text = choose_lines(lines, vectors=vectors, later=later, max_tokens=max_tokens, count=by_words)
    return text.splitlines()


def small_talk(fold: int) -> list[BaseMessage]:
    return [
        HumanMessage(
            f"I have been thinking about {topic} and {TOPICS[(n + fold) % 7]} a lot lately"
        )
        if n % 2
        else AIMessage(f"Many people enjoy {topic} when {TOPICS[(n * fold) % 7]} is on their mind.")
        for n, topic in enumerate(TOPICS)
    ]


# -- the lines ---------------------------------------------------------------------------------


def test_the_record_comes_first_then_each_sentence_by_its_speaker() -> None:
    messages = [
        HumanMessage("I live in Porto. Do you deliver there?", name="Ann Lee"),
        AIMessage("Yes, within 3 days.\n\nShipping is free."),
    ]
    assert candidate_lines("user: Hi there.\n\n  Ann: I moved.  \n", messages) == [
        "user: Hi there.",
        "Ann: I moved.",
        "Ann Lee: I live in Porto.",
        "Ann Lee: Do you deliver there?",
        "assistant: Yes, within 3 days.",
        "assistant: Shipping is free.",
    ]


def test_tool_results_system_messages_code_and_empty_content_are_left_out() -> None:
    call = {"name": "find", "args": {}, "id": "c"}
    messages = [
        SystemMessage("Answer in 3 words."),
        AIMessage("", tool_calls=[call]),
        ToolMessage("Order 4711 is late.", tool_call_id="c"),
        HumanMessage([{"type": "image_url", "image_url": {"url": "x"}}]),
        HumanMessage("Why does this fail?\n```python\nx = Thing(1)\n```\nIt is line 1. !!!"),
        HumanMessage("```inline = 1``` is what I wrote."),
        HumanMessage("Here:\n~~~\nNever closed = 5"),
    ]
    assert candidate_lines("", messages) == [
        "user: Why does this fail?",
        "user: It is line 1. !!!",
        "user: ```inline = 1``` is what I wrote.",
        "user: Here:",
    ]


def test_what_was_said_before_is_no_second_line() -> None:
    messages = [HumanMessage("I live in Porto."), HumanMessage("I live in Porto. Really.")]
    assert candidate_lines("user: Really.", messages) == ["user: Really.", "user: I live in Porto."]


def test_a_giant_sentence_is_divided_where_clauses_end() -> None:
    said = " ".join(f"i went to shop {n}, and then it rained;" for n in range(40))
    lines = candidate_lines("", [HumanMessage(said)])
    assert len(lines) > 4
    assert all(len(line) < 320 and line.endswith((",", ";")) for line in lines)
    assert " ".join(line.removeprefix("user: ") for line in lines) == said
    chinese = candidate_lines("", [HumanMessage("我昨天去了商店，然后下雨了，" * 60)])
    assert len(chinese) >= 1
    assert all(len(line) < 320 for line in chinese)
    assert candidate_lines("", [HumanMessage("x" * 5_000)]) == ["user: " + "x" * 5_000]


def test_a_name_cannot_break_a_line() -> None:
    (line,) = candidate_lines("", [HumanMessage("I live here.", name="Ann:\nthe second")])
    assert line == "Ann the second: I live here."


# -- the choice --------------------------------------------------------------------------------


def test_all_stay_while_there_is_room_and_none_if_not_one_fits() -> None:
    lines = ["user: Hello!", "user: How are you?"]
    assert chosen(lines, 6) == lines
    assert chosen(lines, 1) == []
    assert chosen([], 10) == []
    assert chosen([*lines, "user: A very long line with 7 Names"], 3) == ["user: Hello!"]


def test_what_a_later_turn_refers_to_is_first_in_line() -> None:
    plain = "user: The parcel with the blue lamp cost 42 euros."
    told = [
        "user: Anna, Bert, Carl, Dora, Emil and Frida met in Rome on 3 May.",
        "user: Gus, Hanna, Ines, Jack and Kira met in Oslo on 4 June.",
        plain,
    ]
    assert plain not in chosen(told, 14)
    assert chosen(told, 14, later=["But it was not 42!"]) == [plain]


def test_the_name_of_a_speaker_is_no_reference() -> None:
    lines = ["Ann: Well then Bob let us see.", "Bob: My Cat Milo is 3, Ann."]
    assert chosen(lines, 7, later=["Bob, are you there?"]) == [lines[1]]


@pytest.mark.parametrize("number", ["3", "1,250.50", "7th", "twelve", "twenty-first", "fortieth"])
def test_numbers_count_in_digits_and_in_words(number: str) -> None:
    lines = ["user: we planted the long hedge", f"user: we planted the {number} hedge"]
    assert chosen(lines, 6) == [lines[1]]


def test_questions_and_small_talk_come_last() -> None:
    lines = [
        "user: Did Anna and Bert see Rome on 3 May 2024?",
        "user: Thanks, Anna!",
        "user: Hello there!",
        "user: 他在北京吗？",
        "user: we keep bees behind our house",
    ]
    assert chosen(lines, 7) == [lines[-1]]


@pytest.mark.parametrize("turned", [False, True])
def test_what_people_say_comes_before_what_the_assistant_says(turned: bool) -> None:
    lines = ["assistant: The tour of Rome is on 3 May.", "user: The trip to Oslo is on 4 June."]
    assert chosen(lines[::-1] if turned else lines, 10) == [lines[1]]


def test_saying_the_same_again_takes_no_room() -> None:
    lines = [
        "user: My sister Clara lives in Lisbon since 2020.",
        "user: Since 2020 my sister Clara lives in Lisbon!",
        "user: The dog eats Fish on most mornings.",
    ]
    apart = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    for vectors in (None, apart):
        assert chosen(lines, 18, vectors=vectors) == [lines[0], lines[2]]


def test_without_names_and_numbers_the_centre_decides() -> None:
    lines = [f"user: plain words said here {c * 3}" for c in "abcd"]
    vectors = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [-1.0, -0.2]]
    assert chosen(lines, 6, vectors=vectors) == [lines[1]]


def test_a_line_near_a_chosen_one_gives_way() -> None:
    lines = [f"user: plain words said here {c * 3}" for c in "abc"]
    assert chosen(lines, 12, vectors=[[1.0, 0.0], [1.0, 0.0], [0.6, 0.8]]) == [lines[0], lines[2]]


def test_what_a_counter_adds_to_each_message_is_counted_once() -> None:
    lines = ["user: We keep bees.", "user: They keep cats.", "user: Hello! " * 9]
    room = per_message("\n".join(lines[:2]))
    kept = choose_lines(lines, vectors=None, later=[], max_tokens=room, count=per_message)
    assert kept.splitlines() == lines[:2]


def test_vectors_that_are_not_numbers_or_zero_do_no_harm() -> None:
    lines = ["user: We keep bees.", "user: Ines was born on 14 March.", "user: It was a calm day."]
    rows: list[list[float]] = [[math.nan, 1.0], [0.0, 0.0], [math.inf, -math.inf]]
    others: list[list[list[float]]] = [[[1e308, 1e308]] * 3, [[5e-324, 0.0]] * 3, [[]] * 3]
    for vectors in (rows, *others):
        assert chosen(lines, 7, vectors=vectors) == [lines[1]]


@pytest.mark.parametrize("vectors", [[[1.0]], [1.0, 2.0, 3.0], [[1.0], [1.0, 2.0], [3.0]]])
def test_a_vector_too_few_or_of_another_length_is_an_error(vectors: list[list[float]]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - numpy words one of them
        chosen(
            ["user: We keep bees.", "user: You keep cats.", "user: They do not."],
            5,
            vectors=vectors,
        )


def test_languages_without_spaces_are_chosen_from_too() -> None:
    said = "我女儿出生于2019年3月14日。你好！今天天气很好，我们去公园散步了。"
    lines = candidate_lines("", [HumanMessage(said)])
    assert len(lines) == 3
    kept = choose_lines(lines, vectors=None, later=[], max_tokens=30, count=len)
    assert kept == lines[0]


@pytest.mark.parametrize("embedded", [False, True])
def test_a_good_sentence_outlives_fifty_folds(embedded: bool) -> None:
    text = "\n".join(candidate_lines("", [HumanMessage(BORN)]))
    embeddings = HashEmbeddings()
    for fold in range(50):
        lines = candidate_lines(text, small_talk(fold))
        vectors = embeddings.embed_documents(lines) if embedded else None
        text = choose_lines(lines, vectors=vectors, later=[], max_tokens=100, count=COUNT)
        assert text.splitlines()[0] == f"user: {BORN}"
        assert 0 < COUNT(text) <= 100


def test_a_reference_brings_an_old_line_through_a_fold_full_of_names() -> None:
    old = "user: The spare key of our house is with my uncle Sousa, just across the street."
    news = [
        HumanMessage(f"Team {n}: Al{n}, Bo{n}, Cy{n} won {n * 37} in Rome{n}.") for n in range(40)
    ]
    lines = candidate_lines(old, news)
    for later, stays in (([], False), (["Did Sousa call?"], True)):
        text = choose_lines(lines, vectors=None, later=later, max_tokens=60, count=COUNT)
        assert (old in text.splitlines()) is stays


# -- properties --------------------------------------------------------------------------------

odd = st.text(max_size=60) | st.sampled_from(
    [
        "",
        " ",
        "\u2028\x85",
        "```\nx = 1",
        "Ann: 3",
        ": ",
        "?",
        "\ud800 4",
        "３月",
        "İ",
        "ok " * 90,
        BORN,
    ]
)
contents = st.one_of(
    odd, st.lists(st.builds("{} {}. {}".format, odd, odd, odd), min_size=1).map(" ".join)
)
turns = st.builds(
    lambda text, ai: AIMessage(text) if ai else HumanMessage(text), contents, st.booleans()
)
counters = st.sampled_from([by_words, per_message, len, COUNT])


@given(odd, st.lists(turns, max_size=8))
def test_a_line_is_a_line_and_lines_are_candidates_again(
    previous: str, messages: list[BaseMessage]
) -> None:
    lines = candidate_lines(previous, messages)
    assert len(set(lines)) == len(lines)
    assert all(line.strip() == line and len(line.splitlines()) == 1 for line in lines)
    assert candidate_lines("\n".join(lines), []) == lines
    assert candidate_lines("\n".join(lines), messages) == lines
    record = candidate_lines(previous, [])
    assert lines[: len(record)] == record


@given(
    st.lists(turns, max_size=12),
    st.lists(odd, max_size=3),
    st.integers(0, 120),
    counters,
    st.booleans(),
)
@example([HumanMessage("İ" * 9)], ["1"], 3, COUNT, False)
def test_it_is_within_bounds_in_order_and_the_same_again(
    messages: list[BaseMessage],
    later: list[str],
    max_tokens: int,
    count: Callable[[str], int],
    embedded: bool,
) -> None:
    lines = candidate_lines("", messages)
    vectors = HashEmbeddings().embed_documents(lines) if embedded else None

    def choose(these: Sequence[str]) -> str:
        return choose_lines(these, vectors=vectors, later=later, max_tokens=max_tokens, count=count)

    text = choose(lines)
    kept = text.splitlines()
    assert kept == [line for line in lines if line in set(kept)]
    assert choose(lines) == text
    if not text:
        assert not any(count(line) <= max_tokens for line in lines)
        return
    assert count(text) <= max_tokens
    # Folding nothing changes nothing.
    again = candidate_lines(text, [])
    assert (
        choose_lines(again, vectors=None, later=later, max_tokens=max_tokens, count=count) == text
    )
