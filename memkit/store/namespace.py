"""Namespaces as Postgres sees them: labels joined by ".", and ranges of them as subtrees."""

import itertools
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from langgraph.store.base import ListNamespacesOp, MatchCondition

from memkit.errors import ConfigError
from memkit.store.values import escape, unescape

# A query that names this many labels stays within one tenant.
TENANT_LABELS = 2


def to_text(namespace: Sequence[str]) -> str:
    """Return a namespace as stored."""
    return _to_text(tuple(namespace))


@lru_cache(maxsize=4096)
def _to_text(namespace: tuple[str, ...]) -> str:
    return ".".join(map(escape, namespace))


@lru_cache(maxsize=4096)
def from_text(text: str) -> tuple[str, ...]:
    """Undo `to_text`."""
    return tuple(unescape(label) for label in text.split(".")) if text else ()


def tenant(namespace: Sequence[str]) -> str:
    """Return the tenant of a namespace: its first two labels."""
    return to_text(namespace[:TENANT_LABELS])


def subtree(prefix: Sequence[str]) -> Mapping[str, str]:
    """Return the parameters of `subtree_sql`; "/" follows "." in the "C" collation."""
    if not prefix:
        return {}
    text = to_text(prefix)
    bounds = {"namespace": text, "first": f"{text}.", "beyond": f"{text}/"}
    return {**bounds, "tenant": tenant(prefix)} if len(prefix) >= TENANT_LABELS else bounds


def subtree_sql(alias: str, labels: int, *, by_key: bool = True) -> str:
    """Return the predicate "this row is in a namespace or below", for one table reference.

    Args:
        alias: The table reference.
        labels: How many the namespace has.
        by_key: Whether the planner may find the rows by their primary key; otherwise it takes
            another index, believes that half of its rows are in the subtree, and checks them.
    """
    if labels == 0:
        return "true"
    if labels == TENANT_LABELS:
        return tenant_sql(alias, labels)
    inside = (
        f"({alias}.namespace = %(namespace)s"
        f" OR ({alias}.namespace >= %(first)s AND {alias}.namespace < %(beyond)s))"
    )
    if not by_key:
        inside = f"CASE WHEN {inside} THEN true ELSE false END"
    return f"{tenant_sql(alias, labels)} AND {inside}"


def tenant_sql(alias: str, labels: int) -> str:
    """Return the predicate "this row is of the tenant", where so many labels name one."""
    return f"{alias}.tenant = %(tenant)s" if labels >= TENANT_LABELS else "true"


def label_range(conditions: Sequence[MatchCondition]) -> dict[str, str]:
    """Return `first` and `beyond`: between them are all namespaces that fulfil prefix conditions.

    They are in the order of labels, as memkit_items_by_labels has it.
    """
    first, beyond = "", chr(sys.maxunicode)
    for condition in conditions:
        if condition.match_type == "prefix":
            known = tuple(itertools.takewhile(lambda label: label != "*", condition.path))
            if known:
                text = "\x01".join(map(escape, known))
                first, beyond = max(first, text), min(beyond, f"{text}\x02")
    return {"first": first, "beyond": beyond}


def match_sql(op: ListNamespacesOp) -> tuple[str, dict[str, Any]]:
    """Return the predicate of a listing over `labels` (text[]), and its parameters.

    Raises:
        ConfigError: A match type that LangGraph does not know.
    """
    clauses = ["true"]
    params: dict[str, Any] = {}
    for n, condition in enumerate(op.match_conditions or ()):
        path = condition.path
        match_type: str = condition.match_type
        clauses.append(f"cardinality(labels) >= {len(path)}")
        if match_type == "prefix":
            positions = [str(1 + i) for i in range(len(path))]
            if not {"*"} & set(path[:TENANT_LABELS]) and len(path) >= TENANT_LABELS:
                clauses.append(f"tenant = %(tenant{n})s")
                params[f"tenant{n}"] = tenant(path)
        elif match_type == "suffix":
            positions = [f"cardinality(labels) - {len(path) - 1 - i}" for i in range(len(path))]
        else:
            msg = f"match_type is 'prefix' or 'suffix', not {match_type!r}"
            raise ConfigError(msg)
        for i, (label, position) in enumerate(zip(path, positions, strict=True)):
            if label != "*":
                clauses.append(f"labels[{position}] = %(label{n}_{i})s")
                params[f"label{n}_{i}"] = escape(label)
    return " AND ".join(clauses), params
