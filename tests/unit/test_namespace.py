import pytest
from hypothesis import given
from hypothesis import strategies as st
from langgraph.store.base import ListNamespacesOp, MatchCondition

from memkit.errors import ConfigError
from memkit.store import namespace as ns

labels = st.text(st.characters(exclude_characters=".\x00"), min_size=1)


@given(st.lists(labels).map(tuple))
def test_a_namespace_survives_storage(namespace: tuple[str, ...]) -> None:
    stored = ns.to_text(namespace)
    stored.encode()  # Postgres takes it
    assert ns.from_text(stored) == namespace


@given(st.lists(labels, min_size=1, max_size=3), st.lists(labels, max_size=4))
def test_a_subtree_holds_its_descendants_and_nothing_else(
    prefix: list[str], other: list[str]
) -> None:
    bounds = ns.subtree(prefix)

    def inside(namespace: list[str]) -> bool:
        text = ns.to_text(namespace).encode()
        first, beyond = bounds["first"].encode(), bounds["beyond"].encode()
        return text == bounds["namespace"].encode() or first <= text < beyond

    assert inside([*prefix, *other])
    assert inside(other) == (other[: len(prefix)] == prefix)


def test_the_tenant_is_the_first_two_labels() -> None:
    assert ns.tenant(("users", "ann", "facts")) == "users.ann"
    assert ns.tenant(("users",)) == "users"
    assert ns.tenant(()) == ""


def test_a_prefix_of_two_labels_stays_within_one_tenant() -> None:
    assert "p.tenant = %(tenant)s" in ns.subtree_sql("p", 2)
    assert ns.subtree(("users", "ann"))["tenant"] == "users.ann"
    assert "p.tenant = %(tenant)s" in ns.subtree_sql("p", 3)
    assert "tenant" not in ns.subtree_sql("p", 1)
    assert ns.subtree_sql("p", 0) == "true"


def test_an_unknown_match_type_is_refused() -> None:
    condition = MatchCondition("infix", ("a",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="not 'infix'"):
        ns.match_sql(ListNamespacesOp((condition,)))
