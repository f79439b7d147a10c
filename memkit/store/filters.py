"""Search filters as SQL predicates over a jsonb value.

They mean what InMemoryStore's mean, on JSON: `$eq` and `$ne` compare whole values (1 equals 1.0;
true is not 1), the orderings compare numbers. A field that is missing equals null, and is neither
above nor below anything.
"""

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from memkit.errors import ConfigError, StoreError
from memkit.store.values import encode, escape

_ORDERINGS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
# In the SQL function memkit_terms too, for the field as JSON.
_LONGEST = 200
OPERATORS = ("$eq", "$ne", *_ORDERINGS)


def compile_filter(filter_: Mapping[str, Any] | None, column: str) -> tuple[str, dict[str, Any]]:
    """Return a predicate and its parameters; names and values are parameters, never SQL.

    Args:
        filter_: As in `BaseStore.search`.
        column: The SQL expression of the item's jsonb value.

    Raises:
        ConfigError: An unknown operator, an ordering against something that is no number, or a
            value that JSON does not have.
    """
    compiler = _Compiler()
    try:
        clauses = [
            compiler.matches(compiler.field(column, name), wanted)
            for name, wanted in (filter_ or {}).items()
        ]
    except RecursionError:
        raise ConfigError("the filter is nested too deeply") from None
    return " AND ".join(clauses) or "true", compiler.params


def plain_fields(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a value that have a term: short strings, numbers and booleans."""
    return {
        name: field
        for name, field in value.items()
        if isinstance(field, int | float) or (isinstance(field, str) and len(field) <= _LONGEST)
    }


def equalities(filter_: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a filter wants plain fields to equal; an item that lacks one is not found."""
    wanted = {}
    for name, value in (filter_ or {}).items():
        if isinstance(value, Mapping) and "$eq" in value:
            wanted[name] = value["$eq"]
        else:
            wanted[name] = value
    return plain_fields(wanted)


class _Compiler:
    """Collects parameters while predicates are written."""

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}

    def field(self, of: str, name: object) -> str:
        if not isinstance(name, str):
            msg = f"a filter names fields by strings, not {name!r}"
            raise ConfigError(msg)
        return f"({of} -> {self._param(escape(name))}::text)"

    def matches(self, x: str, wanted: Any) -> str:
        if isinstance(wanted, Mapping):
            if any(str(name).startswith("$") for name in wanted):
                return _all(self._operator(x, name, value) for name, value in wanted.items())
            inner = [self.matches(self.field(x, name), value) for name, value in wanted.items()]
            return _all([f"coalesce(jsonb_typeof({x}) = 'object', false)", *inner])
        if isinstance(wanted, list | tuple):
            inner = [self.matches(f"({x} -> {i})", value) for i, value in enumerate(wanted)]
            length = f"jsonb_array_length({x}) = {len(wanted)}"
            return f"(CASE jsonb_typeof({x}) WHEN 'array' THEN {_all([length, *inner])} END)"
        return self._equals(x, wanted)

    def _operator(self, x: str, name: str, value: Any) -> str:
        if name == "$eq":
            return self._equals(x, value)
        if name == "$ne":
            return f"NOT {self._equals(x, value)}"
        if name not in _ORDERINGS:
            msg = f"unknown filter operator {name!r}; known: {', '.join(OPERATORS)}"
            raise ConfigError(msg)
        number = _number(name, value)
        if number is None:
            return "false"
        return f"(memkit_number({x}) {_ORDERINGS[name]} {self._param(number)}::numeric)"

    def _equals(self, x: str, value: Any) -> str:
        try:
            text = encode(value, "the filter")
        except StoreError as error:
            raise ConfigError(str(error)) from error
        return f"(coalesce({x}, 'null'::jsonb) = {self._param(text)}::jsonb)"

    def _param(self, value: str | Decimal) -> str:
        name = f"filter{len(self.params)}"
        self.params[name] = value
        return f"%({name})s"


def _all(clauses: Any) -> str:
    return f"({' AND '.join(clauses)})"


def _number(operator: str, value: Any) -> Decimal | None:
    """Return what `float(value)` says, without its rounding; None for NaN, which never compares."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        msg = f"{operator} compares numbers, not {value!r}"
        raise ConfigError(msg) from error
    if math.isnan(number):
        return None
    if isinstance(value, int):
        return Decimal(int(value))
    return Decimal(encode(number, "the filter")) if math.isfinite(number) else Decimal(number)
