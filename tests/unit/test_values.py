import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memkit.errors import StoreError
from memkit.store.values import decode, encode, escape, unescape

texts = st.text(st.characters() | st.sampled_from("\x00\ue000\ud800\udfff0e"))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)


@given(texts)
def test_any_text_survives(text: str) -> None:
    stored = escape(text)
    assert "\x00" not in stored
    stored.encode()
    assert unescape(stored) == text


@given(json_values)
def test_any_json_value_survives(value: object) -> None:
    stored = encode(value, "it")
    stored.encode()
    assert "\\u0000" not in stored.replace("\\\\", "")
    assert decode(stored) == value


def test_ordinary_text_is_stored_as_it_is() -> None:
    assert escape("plain, ünïcode 日本") == "plain, ünïcode 日本"


@pytest.mark.parametrize("value", [math.nan, math.inf, {1: 2}, {1, 2}, b"x", object()])
def test_what_json_has_not_is_refused(value: object) -> None:
    with pytest.raises(StoreError, match=r"^it\['a'\]\[0\]"):
        encode({"a": [value]}, "it")


def test_endless_values_are_refused() -> None:
    loop: list[object] = []
    loop.append(loop)
    with pytest.raises(StoreError, match="cannot be stored as JSON"):
        encode(loop, "it")
