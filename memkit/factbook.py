"""FactBook: the facts of one person in any store, read and changed without losing any."""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from langgraph.store.base import BaseStore, GetOp, Item, Op, PutOp, SearchOp

from memkit.effects import Body, PutIf, StoreBatch, arun, run, stable_key, write
from memkit.errors import ConfigError, VersionConflict
from memkit.facts import Change, Fact, as_of, history, reconcile, same_statement
from memkit.facts.consolidation import Consolidation, consolidate
from memkit.facts.model import Status, to_utc
from memkit.facts.succession import supersede, take_back
from memkit.facts.timeline import latest
from memkit.namespaces import FACTS_NAMESPACE, PLACEHOLDER, check_namespace, escape_label
from memkit.secrets import find_secrets

_log = logging.getLogger(__name__)

T = TypeVar("T")

_PAGE = 10_000
_MATCHING = 50  # facts with the same words or attribute
_EVERYTHING = 1_000_000
# Each failed attempt means that another writer of the same person got through.
_ATTEMPTS = 100
_REVISION = "revision"
_NEVER = datetime.min.replace(tzinfo=UTC)


class FactBook:
    """The facts that a namespace of a store holds.

    Every change is read, decided and written as one step. On a store with versions (SemanticStore)
    nobody else's change can fall in between: all changes of one person's facts raise one revision,
    and who comes second decides again on what the first one wrote. On any other BaseStore two
    writers at the same moment can both supersede one fact, or both add the same one.

    Args:
        store: Any BaseStore.
        namespace: Where the facts are: `("users", "ann", "facts")`. Beside it, under
            `("users", "ann", "ledger_facts")`, is kept which messages were read, and which facts
            were asked about.
        clock: Returns the time of a change that does not say.
    """

    def __init__(
        self,
        store: BaseStore,
        namespace: Sequence[str],
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store = store
        self.namespace = check_namespace(namespace)
        if any(PLACEHOLDER.search(label) for label in self.namespace):
            raise ConfigError(f"fill in the namespace of a person: {namespace!r}")
        self.ledger = (*self.namespace[:-1], f"ledger_{self.namespace[-1]}")
        self.clock = clock

    @classmethod
    def of_user(
        cls, store: BaseStore, user_id: str, namespace: Sequence[str] = FACTS_NAMESPACE
    ) -> "FactBook":
        """Return the facts of a user where the nodes keep them by default.

        Args:
            store: Any BaseStore.
            user_id: The id as it is in the config, whatever characters it has.
            namespace: The template that the nodes were given, with "{user_id}".
        """
        label = escape_label(user_id)
        filled = (PLACEHOLDER.sub(lambda _: label, part) for part in namespace)
        return cls(store, tuple(filled))

    # For callers

    def all(
        self, *, status: Status | None = None, as_of: datetime | str | None = None
    ) -> list[Fact]:
        """Return the facts, those first whose content changed last.

        Args:
            status: Only those with this status.
            as_of: Only those that held on this day, see `memkit.facts.as_of`.
        """
        return _held(run(self.reading(status)), as_of)

    async def aall(
        self, *, status: Status | None = None, as_of: datetime | str | None = None
    ) -> list[Fact]:
        """Do what `all` does without blocking the event loop."""
        return _held(await arun(self.reading(status)), as_of)

    def get(self, key: str) -> Fact | None:
        """Return one fact, or None."""
        return run(self.getting([key]))[0]

    async def aget(self, key: str) -> Fact | None:
        """Do what `get` does without blocking the event loop."""
        return (await arun(self.getting([key])))[0]

    def history(self, key: str) -> list[Fact]:
        """Return a fact with what it replaced and what replaced it, oldest first."""
        return history(run(self.tracing(key)), key)

    async def ahistory(self, key: str) -> list[Fact]:
        """Do what `history` does without blocking the event loop."""
        return history(await arun(self.tracing(key)), key)

    def confirm(self, *facts: Fact | str, at: datetime | None = None) -> list[Fact]:
        """Note that the person confirmed current facts, given themselves or by their keys.

        Facts that are no longer current stay as they are.

        Returns:
            The facts as they are now.

        Raises:
            ConfigError: There is no fact with such a key; nothing was changed.
            VersionConflict: Too many others kept changing this person's facts.
        """
        return run(self.confirming(_keys(facts), self._time(at)))

    async def aconfirm(self, *facts: Fact | str, at: datetime | None = None) -> list[Fact]:
        """Do what `confirm` does without blocking the event loop."""
        return await arun(self.confirming(_keys(facts), self._time(at)))

    def correct(self, key: str, text: str, *, at: datetime | None = None) -> Fact:
        """Replace a fact by what the person says instead; the old one stays readable.

        Returns:
            The new fact; the old one, confirmed, if the text says the same.

        Raises:
            ConfigError: There is no such fact, it is no longer current, or the text holds a
                password, a key or a card number.
            VersionConflict: Too many others kept changing this person's facts.
        """
        return run(self.correcting(key, text, self._time(at)))

    async def acorrect(self, key: str, text: str, *, at: datetime | None = None) -> Fact:
        """Do what `correct` does without blocking the event loop."""
        return await arun(self.correcting(key, text, self._time(at)))

    def retract(self, *facts: Fact | str, at: datetime | None = None) -> list[Fact]:
        """Take facts back, as never true, given themselves or by their keys.

        They stay readable, and are recalled no more. What such a fact had superseded holds again.

        Returns:
            The facts as they are now.

        Raises:
            ConfigError: There is no fact with such a key; nothing was changed.
            VersionConflict: Too many others kept changing this person's facts.
        """
        return run(self.retracting(_keys(facts), self._time(at)))

    async def aretract(self, *facts: Fact | str, at: datetime | None = None) -> list[Fact]:
        """Do what `retract` does without blocking the event loop."""
        return await arun(self.retracting(_keys(facts), self._time(at)))

    def add(self, *facts: Fact, at: datetime | None = None) -> list[Change]:
        """Take in facts from elsewhere as if they had just been stated, see `reconcile`.

        Known ones are confirmed, a new value of a single-valued attribute supersedes the old one,
        and the order of their `last_updated` counts. A fact without a key gets one by what it says;
        one whose key is there was taken in before, so that an import can be repeated.

        Args:
            facts: The facts, those first that were said first.
            at: Stands in for those without `last_updated`.

        Returns:
            What became of each that is new.

        Raises:
            ConfigError: A fact holds a password, a key or a card number; nothing was changed.
            VersionConflict: Too many others kept changing this person's facts.
        """
        return run(self.stating(_own_keys(facts), self._time(at)))

    async def aadd(self, *facts: Fact, at: datetime | None = None) -> list[Change]:
        """Do what `add` does without blocking the event loop."""
        return await arun(self.stating(_own_keys(facts), self._time(at)))

    def consolidate(self, *, at: datetime | None = None, **limits: Any) -> Consolidation:
        """Merge near-duplicates, drop what is long over, and hold each kind to its cap.

        Args:
            at: The time; the default is the clock's.
            limits: `max_per_kind`, `keep_ended`, `policy` of `memkit.facts.consolidate`, and
                `dry_run=True` to change nothing.

        Raises:
            ConfigError: A limit makes no sense.
            VersionConflict: Too many others kept changing this person's facts.
        """
        return run(self.consolidating(self._time(at), **limits))

    async def aconsolidate(self, *, at: datetime | None = None, **limits: Any) -> Consolidation:
        """Do what `consolidate` does without blocking the event loop."""
        return await arun(self.consolidating(self._time(at), **limits))

    def _time(self, at: datetime | None) -> datetime:
        return to_utc(self.clock() if at is None else at)

    # For nodes

    def reading(self, status: Status | None = None) -> Body[list[Fact]]:
        """Return all facts, or those with a status."""
        match = {"status": status} if status else None
        found: dict[str, Fact] = {}
        offset = 0
        while True:
            page = SearchOp(self.namespace, match, _PAGE, offset, refresh_ttl=False)
            (items,) = yield StoreBatch(self.store, [page])
            found.update((fact.key, fact) for fact in self.facts_of(items))
            if len(items) < _PAGE:
                return list(found.values())
            offset += _PAGE

    def tracing(self, key: str) -> Body[list[Fact]]:
        """Return a fact and all that is linked to it, without reading all the others."""
        found: dict[str, Fact] = {}
        traced: set[str] = set()
        step = {key}
        while step:
            traced |= step
            behind = [
                SearchOp(self.namespace, {link: each}, _PAGE, refresh_ttl=False)
                for each in sorted(step)
                for link in ("supersedes", "superseded_by")
            ]
            read = yield StoreBatch(self.store, [*self.gets(sorted(step)), *behind])
            items = [item for each in read for item in (each if isinstance(each, list) else [each])]
            found |= {fact.key: fact for fact in self.facts_of(items)}
            links = {link for f in found.values() for link in (f.supersedes, f.superseded_by)}
            step = {each for each in (*found, *links) if each is not None} - traced
        return list(found.values())

    def getting(self, keys: Sequence[str]) -> Body[list[Fact | None]]:
        """Return the facts with these keys, None where there is none."""
        items = yield StoreBatch(self.store, self.gets(keys))
        facts = {fact.key: fact for fact in self.facts_of(items)}
        return [facts.get(key) for key in keys]

    def confirming(self, keys: Sequence[str], at: datetime) -> Body[list[Fact]]:
        """Do what `confirm` does."""

        def decide(items: Sequence[Item | None]) -> tuple[list[PutOp], list[Fact]]:
            known = self._known(keys, items)
            after = {
                key: fact.changed(last_confirmed=latest((fact.last_confirmed, at)))
                for key, fact in known.items()
                if fact.status == "current"
            }
            puts = [self.put_of(fact) for key, fact in after.items() if fact != known[key]]
            return puts, [after.get(key, known[key]) for key in keys]

        return self.transaction(self.gets(keys), decide)

    def retracting(self, keys: Sequence[str], at: datetime) -> Body[list[Fact]]:
        """Do what `retract` does."""

        def decide(answers: Sequence[Item | None]) -> tuple[list[PutOp], list[Fact]]:
            known = self._known(keys, answers[: len(keys)])
            others = self.found(answers[len(keys) :])
            after: dict[str, Fact] = {}
            for fact in known.values():
                if fact.status != "retracted":
                    # What was just taken back comes back by no other.
                    left = [after.get(f.key, f) for f in (*others, *known.values())]
                    change = take_back(after.get(fact.key, fact), left, at)
                    after.update((changed.key, changed) for changed in change.facts)
            puts = [self.put_of(fact) for fact in after.values()]
            return puts, [after.get(key, known[key]) for key in keys]

        def beside(items: Sequence[Item | None]) -> list[Op]:
            return self.neighbours(self.facts_of(items))

        return self.transaction(self.gets(keys), decide, then=beside)

    def correcting(
        self, key: str, text: str, at: datetime, source: dict[str, Any] | None = None
    ) -> Body[Fact]:
        """Do what `correct` does; `source` says where the correction was said."""
        if secrets := find_secrets(text):
            raise ConfigError(f"a {secrets[0].kind} is not kept; leave it out of the fact")
        after = stable_key(key, "corrected", text)

        def decide(items: Sequence[Item | None]) -> tuple[list[PutOp], Fact]:
            facts = {fact.key: fact for fact in self.facts_of(items)}
            if after in facts and facts[after].status == "current":
                return [], facts[after]
            known = self._known([key], items[:1])[key]
            if known.status != "current":
                raise ConfigError(f"the fact {key!r} is {known.status}, and cannot be corrected")
            new = Fact(
                text,
                kind=known.kind,
                subject=known.subject,
                attribute=known.attribute,
                first_seen=at,
                last_updated=at,
                last_confirmed=at,
                source=source or {},
                # Corrected to what was taken back before, it is another fact.
                key=stable_key(after, at.isoformat()) if after in facts else after,
            )
            if same_statement(known, new):
                same = known.changed(last_confirmed=latest((known.last_confirmed, at)))
                return [self.put_of(same)], same
            change = supersede(known, new, at)
            return [self.put_of(fact) for fact in change.facts], change.fact

        return self.transaction(self.gets([key, after]), decide)

    def stating(self, stated: Sequence[Fact], at: datetime) -> Body[list[Change]]:
        """Take in facts as `memkit.facts.reconcile` decides; one whose key is there was taken in.

        Returns:
            What became of the others.
        """
        own = self.gets([fact.key for fact in stated])

        def beside(answers: Sequence[Any]) -> list[Op]:
            taken_back = any(fact.status == "retracted" for fact in stated)
            return self.neighbours(self.found(answers[len(own) :])) if taken_back else []

        def decide(answers: Sequence[Any]) -> tuple[list[PutOp], list[Change]]:
            fresh = [fact for fact, item in zip(stated, answers, strict=False) if item is None]
            changes = reconcile(self.found(answers[len(own) :]), fresh, at)
            facts = {fact.key: fact for change in changes for fact in change.facts}
            return [self.put_of(fact) for fact in facts.values()], changes

        return self.transaction([*own, *self.touched(stated)], decide, then=beside)

    def consolidating(
        self, at: datetime, *, dry_run: bool = False, **limits: Any
    ) -> Body[Consolidation]:
        """Do what `consolidate` does."""

        def decide(answers: Sequence[Any]) -> tuple[list[PutOp], Consolidation]:
            (items,) = answers
            consolidation = consolidate(self.facts_of(items), at, **limits)
            puts = [self.put_of(fact) for fact in consolidation.changed]
            puts += [PutOp(self.namespace, key, None) for key in consolidation.deleted]
            return [] if dry_run else puts, consolidation

        # All at once: what is merged must be what is there.
        everything = SearchOp(self.namespace, limit=_EVERYTHING, refresh_ttl=False)
        return self.transaction([everything], decide)

    def transaction(
        self,
        reads: Sequence[Op],
        decide: Callable[[list[Any]], tuple[list[PutOp], T]],
        *,
        then: Callable[[list[Any]], Sequence[Op]] = lambda _: (),
    ) -> Body[T]:
        """Read, decide and write as one step.

        Args:
            reads: What to read.
            decide: Gets the answers, returns what to put and the result. Pure: it is called again
                on new answers if someone else changed this person's facts meanwhile.
            then: Gets the answers, returns what else to read; those answers come behind.

        Raises:
            VersionConflict: That happened a hundred times.
        """
        revision = GetOp(self.ledger, _REVISION, refresh_ttl=False)
        for _ in range(_ATTEMPTS):
            # The revision is read first: a change after it is noticed when writing.
            head, *answers = yield StoreBatch(self.store, [revision, *reads])
            if more := then(answers):
                answers += yield StoreBatch(self.store, list(more))
            puts, result = decide(answers)
            if not puts:
                return result
            if not getattr(self.store, "supports_versions", False):
                yield from write(self.store, puts)
                return result
            # What it holds does not matter: every put raises the version.
            raised = PutOp(self.ledger, _REVISION, {}, index=False)
            turn = PutIf(raised, 0 if head is None else head.version)
            try:
                yield StoreBatch(self.store, [turn, *puts])
            except VersionConflict:
                continue
            return result
        raise VersionConflict(
            f"others changed the facts in {self.namespace} {_ATTEMPTS} times while this change was "
            "tried; try again"
        )

    def put_of(self, fact: Fact) -> PutOp:
        """Return the operation that stores a fact, found by its text."""
        return PutOp(self.namespace, fact.key, fact.to_value(), index=["text"])

    def gets(self, keys: Sequence[str]) -> list[Op]:
        """Return the operations that read facts by their keys."""
        return [GetOp(self.namespace, key, refresh_ttl=False) for key in keys]

    def neighbours(self, facts: Sequence[Fact]) -> list[Op]:
        """Return the reads of what may hold again once these facts are taken back."""
        links = {link for f in facts for link in (f.supersedes, f.superseded_by) if link}
        attributes = {(f.subject, f.attribute) for f in facts if f.attribute}
        beside = [self.current(subject=s, attribute=a) for s, a in sorted(attributes)]
        return [*self.gets(sorted(links - {f.key for f in facts})), *beside]

    def touched(self, stated: Sequence[Fact]) -> list[Op]:
        """Return the searches for current facts with the attribute or the words of these."""
        wanted = {("attribute", f.subject, f.attribute) for f in stated if f.attribute}
        wanted |= {("words", f.subject, f.words) for f in stated if not f.supersedes}
        return [self.current(subject=s, **{name: value}) for name, s, value in sorted(wanted)]

    def current(self, **match: str) -> SearchOp:
        """Return the search for current facts with these fields."""
        where = {"status": "current", **match}
        return SearchOp(self.namespace, where, _MATCHING, refresh_ttl=False)

    def found(self, answers: Sequence[Any]) -> list[Fact]:
        """Return the facts among the answers to gets and searches, each once."""
        facts = (f for a in answers for f in self.facts_of(a if isinstance(a, list) else [a]))
        return list({fact.key: fact for fact in facts}.values())

    def facts_of(self, items: Sequence[Item | None]) -> list[Fact]:
        """Return the facts among items; what is none is left out with a warning."""
        facts = []
        for item in items:
            # A search also returns what is in the namespaces below.
            if item is None or item.namespace != self.namespace:
                continue
            try:
                facts.append(Fact.from_value(item.key, item.value))
            except ConfigError:
                _log.warning("left out %r of %s, which is no fact", item.key, item.namespace)
        return facts

    def _known(self, keys: Sequence[str], items: Sequence[Item | None]) -> dict[str, Fact]:
        known = {fact.key: fact for fact in self.facts_of(items)}
        for key in keys:
            if key not in known:
                raise ConfigError(f"there is no fact with the key {key!r} in {self.namespace}")
        return known


def _own_keys(facts: Sequence[Fact]) -> list[Fact]:
    for fact in facts:
        if secrets := find_secrets(fact.text):
            raise ConfigError(f"a {secrets[0].kind} is not kept; leave it out of {fact.key!r}")
    return [f if f.key else f.changed(key=stable_key("added", f.subject, f.text)) for f in facts]


def _keys(facts: Sequence[Fact | str]) -> list[str]:
    return [fact.key if isinstance(fact, Fact) else fact for fact in facts]


def _held(facts: list[Fact], day: datetime | str | None) -> list[Fact]:
    held = facts if day is None else as_of(facts, day)
    return sorted(held, key=lambda fact: (fact.last_updated or _NEVER, fact.key), reverse=True)
