import pytest

from memkit.errors import ConfigError
from memkit.store.filters import compile_filter


def test_no_filter_matches_everything() -> None:
    assert compile_filter(None, "v") == ("true", {})
    assert compile_filter({}, "v") == ("true", {})


@pytest.mark.parametrize(
    "filter_",
    [
        {"EVIL') OR true --": 12345},
        {"EVIL": "'; DROP TABLE memkit_items; --"},
        {"EVIL": {"$ne": "EVIL %s"}},
        {"EVIL": {"EVIL%(z)s": ["EVIL'", {"$gte": "12345"}]}},
    ],
)
def test_names_and_values_are_parameters_never_sql(filter_: dict[str, object]) -> None:
    predicate, params = compile_filter(filter_, "v")
    assert not any(word in predicate for word in ("EVIL", "DROP", "12345", "--"))
    assert "?" in predicate % dict.fromkeys(params, "?")  # no placeholder without a value


@pytest.mark.parametrize(
    ("filter_", "says"),
    [
        ({"n": {"$near": 1}}, r"unknown filter operator '\$near'"),
        ({"n": {"$gt": "tomorrow"}}, r"\$gt compares numbers, not 'tomorrow'"),
        ({"n": {"$gt": None}}, r"\$gt compares numbers"),
        ({"n": {"$lt": 10**400}}, r"\$lt compares numbers"),
        ({"n": float("nan")}, "nan, which JSON has not"),
        ({"n": {1, 2}}, "set, which JSON has not"),
        ({1: 2}, "names fields by strings, not 1"),
        ({"n": {"m": {"$oops": 1}}}, "unknown filter operator"),
    ],
)
def test_what_makes_no_sense_says_so(filter_: dict[str, object], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        compile_filter(filter_, "v")
    with pytest.raises(ValueError, match=says):  # as InMemoryStore raises
        compile_filter(filter_, "v")


def test_an_ordering_keeps_every_digit() -> None:
    _, params = compile_filter({"n": {"$gt": 0.1, "$lt": 2**53 + 1}}, "v")
    assert sorted(map(str, params.values())) == ["0.1", "9007199254740993", "n"]


def test_nothing_compares_with_nan() -> None:
    assert compile_filter({"n": {"$gt": float("nan")}}, "v")[0] == "(false)"
