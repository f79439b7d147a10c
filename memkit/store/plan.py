"""Store operations, checked and sorted by kind. Nothing here touches a database.

In one batch every read sees the state before the batch's writes, and of several puts of one key
the last counts: the semantics of LangGraph's InMemoryStore. Puts that ask for a version check it in
the statement that writes, since a read before it could be out of date by then.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from langgraph.store.base import (
    GetOp,
    ListNamespacesOp,
    PutOp,
    SearchOp,
    validate_op_namespace,
)

from memkit.effects import PutIf, StoreOp, ThreadSearch
from memkit.errors import ConfigError
from memkit.store import namespace as ns
from memkit.store.filters import plain_fields
from memkit.store.text import passages
from memkit.store.values import encode, escape

SearchMode: TypeAlias = Literal["hybrid", "vector", "text"]
SEARCH_MODES: tuple[str, ...] = get_args(SearchMode)

_MOST_POSITION = 2**62  # a bigint, and some places around it

LIVE = "(i.expires_at IS NULL OR i.expires_at > now())"
"""The predicate "item i has not expired"."""


class Statement(NamedTuple):
    """SQL and its named parameters."""

    sql: str
    params: Mapping[str, Any]


class Address(NamedTuple):
    """The primary key of an item, as stored; sorts as Postgres sorts it."""

    tenant: str
    namespace: str
    key: str

    @classmethod
    def of(cls, namespace: tuple[str, ...], key: str) -> "Address":
        """Return where an item is stored."""
        return cls(ns.tenant(namespace), ns.to_text(namespace), escape(str(key)))


class Passage(NamedTuple):
    """A text to index.

    Attributes:
        address: Its item.
        path: Where in the item's value it stands.
        text: The text.
        plain: The plain fields of the value, as JSON, to be filtered by.
        language: What the value says that its language is; None if nothing.
        thread: The thread in which it was said; None where the value does not say both.
        position: Its place there.
    """

    address: Address
    path: str
    text: str
    plain: str
    language: str | None = None
    thread: str | None = None
    position: int | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """What is to stand at an address; `value` None deletes, `if_version` None does not ask."""

    value: str | None
    ttl_minutes: float | None = None
    if_version: int | None = None


@dataclass(slots=True)
class Batch:
    """The operations of a batch, checked and sorted by kind; numbers are places in the results."""

    size: int = 0
    gets: list[tuple[int, GetOp]] = field(default_factory=list)
    searches: list[tuple[int, SearchOp]] = field(default_factory=list)
    threads: list[tuple[int, ThreadSearch]] = field(default_factory=list)
    listings: list[tuple[int, ListNamespacesOp]] = field(default_factory=list)
    writes: dict[Address, Write] = field(default_factory=dict)
    passages: list[Passage] = field(default_factory=list)


def plan(
    ops: Iterable[StoreOp],
    fields: Sequence[str] | None,
    language_field: str | None = None,
) -> Batch:
    """Check operations and sort them by kind; writes are in the order of their addresses.

    Args:
        ops: As given to `batch`.
        fields: What is indexed of a value where the put does not say; None indexes nothing.
        language_field: The field of a value that names the language of its texts.

    Raises:
        ConfigError: A limit, offset, depth, time to live, version or kind of operation that makes
            no sense, or another put of a key beside one that asks for its version.
        StoreError: A value that JSON cannot say.
        InvalidNamespaceError: A label that LangGraph refuses.
    """
    batch = Batch()
    puts: dict[Address, PutOp] = {}
    versions: dict[Address, int] = {}
    for place, operation in enumerate(ops):
        batch.size += 1
        if isinstance(operation, ThreadSearch):
            _not_negative(
                limit=operation.limit, candidates=operation.candidates, reach=operation.reach
            )
            batch.threads.append((place, operation))
            continue
        op = _put_of(operation) if isinstance(operation, PutIf) else operation
        validate_op_namespace(op)
        if isinstance(op, GetOp):
            batch.gets.append((place, op))
        elif isinstance(op, SearchOp):
            _not_negative(limit=op.limit, offset=op.offset)
            batch.searches.append((place, op))
        elif isinstance(op, ListNamespacesOp):
            _not_negative(limit=op.limit, offset=op.offset, max_depth=op.max_depth or 0)
            batch.listings.append((place, op))
        elif isinstance(op, PutOp):
            address = Address.of(op.namespace, op.key)
            if address in versions or (address in puts and op is not operation):
                raise ConfigError(_put_twice(op))
            puts[address] = op
            if isinstance(operation, PutIf):
                versions[address] = _checked_version(operation)
        else:
            raise ConfigError(_unknown(op))
    for address, put in sorted(puts.items()):
        batch.writes[address] = _write(put, versions.get(address))
        if put.value is None or put.index is False or fields is None:
            continue
        wanted = fields if put.index is None else put.index
        if texts := passages(put.value, wanted):
            plain = encode(plain_fields(put.value), "the value")
            named = put.value.get(language_field) if language_field else None
            language = named if isinstance(named, str) else None
            thread, position = _said(put.value)
            batch.passages += [
                Passage(address, path, text, plain, language, thread, position)
                for path, text in texts.items()
            ]
    return batch


def _said(value: Mapping[str, Any]) -> tuple[str, int] | tuple[None, None]:
    """Return thread and position of what a value holds, where it says both."""
    thread, position = value.get("thread_id"), value.get("position")
    if not isinstance(thread, str) or not isinstance(position, int) or isinstance(position, bool):
        return None, None
    return (escape(thread), position) if abs(position) < _MOST_POSITION else (None, None)


def _put_of(op: PutIf) -> PutOp:
    put: Any = op.put
    if not isinstance(put, PutOp):
        msg = f"PutIf holds a PutOp, not {type(put).__name__}"
        raise ConfigError(msg)
    return put


def _checked_version(op: PutIf) -> int:
    version: Any = op.if_version
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        msg = (
            f"if_version is the version of an item, or 0 for none, not {version!r} "
            f"(key {op.put.key!r})"
        )
        raise ConfigError(msg)
    if version == 0 and op.put.value is None:
        msg = (
            f"if_version=0 asks that there be no item with key {op.put.key!r}, so there is none to "
            "delete; pass the version that was read"
        )
        raise ConfigError(msg)
    return version


def _put_twice(put: PutOp) -> str:
    return (
        f"a batch puts key {put.key!r} in {put.namespace} more than once, with if_version; put it "
        "once, or in two batches"
    )


def _write(put: PutOp, if_version: int | None) -> Write:
    what = f"the value of key {put.key!r} in {put.namespace}"
    if put.value is None:
        return Write(None, if_version=if_version)
    value: Any = put.value
    if not isinstance(value, Mapping):
        msg = f"{what} is a {type(put.value).__name__}; a store keeps mappings with string keys"
        raise ConfigError(msg)
    is_number = isinstance(put.ttl, int | float)
    if put.ttl is not None and not (is_number and math.isfinite(put.ttl) and put.ttl > 0):
        msg = f"ttl is a number of minutes above 0 or None, not {put.ttl!r} (key {put.key!r})"
        raise ConfigError(msg)
    ttl = None if put.ttl is None else float(put.ttl)
    return Write(encode(put.value, what), ttl, if_version)


def _unknown(op: object) -> str:
    return f"a store knows get, search, put and list operations, not {type(op).__name__}"


def _not_negative(**numbers: Any) -> None:
    for name, number in numbers.items():
        if not isinstance(number, int):
            msg = f"{name} is a whole number, not {number!r}"
            raise ConfigError(msg)
        if number < 0:
            msg = f"{name} is {number}; it cannot be negative"
            raise ConfigError(msg)


class Group(NamedTuple):
    """Items that one statement names.

    Attributes:
        tenant: Of all of them; None: they have several.
        addresses: Where they are, sorted and each once.
    """

    tenant: str | None
    addresses: list[Address]

    def statement(self, sql: str, **params: Any) -> Statement:
        """Return a statement on these items.

        Args:
            sql: It unnests %(tenants)s, %(namespaces)s and %(keys)s `AS asked`, and compares each
                table's tenant with {tenant}: a parameter if there is one, for then Citus asks one
                shard.
            params: What else it takes.
        """
        one = "asked.tenant" if self.tenant is None else "%(tenant)s::text"
        return Statement(
            sql.format(tenant=one), {**columns(self.addresses), "tenant": self.tenant, **params}
        )


def groups(addresses: Iterable[Address], *, apart: bool) -> list[Group]:
    """Return addresses in groups for a statement each.

    Args:
        addresses: In any order.
        apart: Whether each tenant's are a group, rather than all of them one.
    """
    rows = sorted(set(addresses))
    by_tenant = [
        Group(tenant, list(group)) for tenant, group in groupby(rows, key=lambda row: row.tenant)
    ]
    return by_tenant if apart or len(by_tenant) < 2 else [Group(None, rows)]


def by_group(
    passages: Sequence[Passage], *, apart: bool
) -> list[tuple[Group, dict[str, list[Any]]]]:
    """Return the groups of some passages, and the parameters that name those of each.

    Args:
        passages: In any order.
        apart: As in `groups`.

    Returns:
        With each group what its statement needs of the passages: beside what `columns` gives their
        `paths` and `texts`.
    """
    by_address: dict[Address, list[Passage]] = {}
    for passage in passages:
        by_address.setdefault(passage.address, []).append(passage)
    found = []
    for group in groups(by_address, apart=apart):
        rows = [passage for address in group.addresses for passage in by_address[address]]
        found.append((group, passage_columns(rows)))
    return found


def passage_columns(passages: Sequence[Passage]) -> dict[str, list[Any]]:
    """Return the parameters that name some passages and say their texts."""
    return {
        **columns([passage.address for passage in passages]),
        "paths": [passage.path for passage in passages],
        "texts": [passage.text for passage in passages],
    }


def columns(addresses: Iterable[Address]) -> dict[str, Any]:
    """Return the parameters that name some items: `tenants`, `namespaces` and `keys`."""
    rows = list(addresses)
    return {
        "tenants": [address.tenant for address in rows],
        "namespaces": [address.namespace for address in rows],
        "keys": [address.key for address in rows],
    }
