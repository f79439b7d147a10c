"""How benchmarks judge: places of turns, intervals, words of answers, verdicts."""

import pytest

from benchmarks.answers import f1, f1_of_list, judge_prompt, measure_of, normalised, verdict
from benchmarks.intervals import interval
from benchmarks.qa import Marked, Measured
from benchmarks.retrieval import LIMIT, Found, Judged, difference, judged, metrics

# -- turns -------------------------------------------------------------------------------------


def turn(name: str) -> Found:
    return Found((name,), name)


def test_k_counts_turns_not_items() -> None:
    found = [Found(("a", "b", "c"), "three"), Found((), "cites nothing"), turn("d"), turn("e")]
    one = judged(found, [30, 7, 10, 20], ["e", "b", "z"])
    assert one.ranks == (6, 2, None)
    assert [one.hit(k) for k in (1, 2, 5)] == [False, True, True]
    assert one.recall(5) == pytest.approx(1 / 3)
    assert one.recall(6) == pytest.approx(2 / 3)
    assert one.reciprocal_rank == 0.5
    assert one.tokens[:7] == (30, 30, 30, 37, 47, 67, 67)
    assert len(one.tokens) == LIMIT


def test_a_turn_that_comes_again_takes_its_place_again() -> None:
    one = judged([turn("a"), turn("a"), turn("b")], [1, 1, 1], ["a", "b"])
    assert one.ranks == (1, 3)


def test_what_is_beyond_the_limit_is_no_hit() -> None:
    found = [turn(str(n)) for n in range(LIMIT + 1)]
    one = judged(found, [1] * len(found), [str(LIMIT)])
    assert not one.hit(LIMIT)
    assert one.reciprocal_rank == one.recall(LIMIT) == 0
    assert one.tokens[-1] == LIMIT
    assert judged([], [], ["a"]).reciprocal_rank == 0


def test_metrics_over_all_and_per_category() -> None:
    asked = [
        judged([turn("a")], [4], ["a"], 1),
        judged([turn("x")] * 5 + [turn("a")], [2] * 6, ["a", "b"], 4),
        judged([], [], ["a"], 4),
        judged([turn("x")] * 9 + [turn("a")], [1] * 10, ["a"], 4),
    ]
    figures = metrics(asked, seed=0)
    assert (figures["hit@5"], figures["hit@10"], figures["hit@20"]) == (0.25, 0.75, 0.75)
    assert figures["recall@10"] == pytest.approx((1 + 0.5 + 0 + 1) / 4)
    assert figures["mrr"] == pytest.approx((1 + 1 / 6 + 0 + 1 / 10) / 4)
    assert figures["tokens@5"] == pytest.approx((4 + 10 + 0 + 5) / 4)
    assert figures["tokens@10"] == pytest.approx((4 + 12 + 0 + 10) / 4)
    assert figures["category_1_hit@10"] == 1
    assert figures["category_4_hit@10"] == pytest.approx(2 / 3)
    assert figures["hit@10_low"] < 0.75 < figures["hit@10_high"] <= 1


def test_a_difference_is_taken_question_by_question() -> None:
    ours = [Judged((1,), ()), Judged((1,), ()), Judged((None,), ())]
    theirs = [Judged((None,), ()), Judged((1,), ()), Judged((None,), ())]
    gain, low, high = difference(ours, theirs, 10, seed=0)
    assert gain == pytest.approx(1 / 3)
    assert 0 == low < gain < high
    assert difference(ours, ours, 10, seed=0) == (0, 0, 0)


# -- intervals ---------------------------------------------------------------------------------


def test_an_interval_is_that_of_the_binomial_and_the_same_each_time() -> None:
    values = [1.0] * 800 + [0.0] * 200
    low, high = interval(values, seed=3)
    # 1.96 standard errors of a share of .8 of 1,000
    assert low == pytest.approx(0.7752, abs=0.003)
    assert high == pytest.approx(0.8248, abs=0.003)
    assert interval(values, seed=3) == (low, high)
    assert interval([0.5], seed=0) == (0.5, 0.5)


# -- answers -----------------------------------------------------------------------------------


def test_words_without_case_articles_punctuation_and_endings() -> None:
    assert normalised("The dogs, and A Cat's bowls!") == ["dog", "cat", "bowl"]
    assert normalised("1,500 android apples") == ["1500", "android", "appl"]


def test_f1_of_words() -> None:
    assert f1("7 May 2023", "May 7, 2023") == 1
    assert f1("She adopted two dogs", "two dogs") == pytest.approx(2 * 2 / (4 + 2))
    assert f1("dogs dogs dogs", "a dog") == pytest.approx(2 / 4)  # a word counts once
    assert f1("cats", "dogs") == f1("", "dogs") == f1("the", "the") == 0


def test_f1_of_a_list_takes_the_best_part_for_each() -> None:
    assert f1_of_list("pottery, camping, swimming", "camping, pottery") == 1
    assert f1_of_list("camping", "camping, pottery") == 0.5
    assert f1_of_list("blue boat", "blue boats") == f1("blue boat", "blue boats") == 1
    assert measure_of(1)("blue, red", "red, blue") == 1
    assert measure_of(4) is f1


def test_a_verdict_is_the_last_yes_or_no() -> None:
    assert verdict("Yes.") is True
    assert verdict("no") is False
    assert verdict("The reference says no such thing, but: yes") is True
    assert verdict("I know nothing") is None


def test_what_a_judge_is_asked() -> None:
    plain = judge_prompt("When?", "7 May", "May 7th", 2)
    assert all(part in plain for part in ("When?", "7 May", "May 7th", "yes or no"))
    assert "off by one" not in plain
    assert "off by one" in judge_prompt("When?", "a", "b", "temporal-reasoning")
    unknown = judge_prompt("When?", "never told", "b", "temporal-reasoning", answerable=False)
    assert "not known" in unknown
    assert "off by one" not in unknown
    assert "{x}" in judge_prompt("{x}", "a", "b")


def test_figures_of_answers() -> None:
    measured = Measured(
        [
            Marked(1, 1.0, right=True),
            Marked(1, 0.5, right=False),
            Marked(4, 0.0, right=None, failed=True),
            Marked(4, None, right=None),
        ]
    )
    measured.answering.prompt_tokens, measured.answering.reply_tokens = 400, 40
    measured.preparing.prompt_tokens = 1_000_000
    figures = measured.metrics(prices=(2.0, 10.0))
    assert (figures["f1"], figures["judge"]) == (0.5, 0.25)
    assert (figures["failed"], figures["unclear"]) == (1, 1)
    assert figures["prompt_tokens_per_question"] == 100
    assert figures["usd_per_question"] == pytest.approx((400 * 2 + 40 * 10) / 1e6 / 4)
    assert figures["prepare_usd"] == 2
    assert (figures["category_1_judge"], figures["category_4_f1"]) == (0.5, 0)
    assert "usd_per_question" not in measured.metrics(prices=None)
