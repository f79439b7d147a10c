"""What a DeltaChannel is rebuilt from, and how it still is when its ancestors go.

LangGraph stores such a channel's value now and then, and else only the writes of each step: the
value at a checkpoint is the nearest stored one among its ancestors (the seed) with all writes from
there on put through the reducer. A checkpoint that loses its parent therefore needs one of two:

- its value, stored at it. For that the reducer must be known, so somebody must give the graph;
- or the writes: they move to an empty checkpoint that becomes its parent, a carrier, headed by the
  seed in the form of an `Overwrite`. Nothing is computed, so no reducer is needed. LangGraph makes
  such a checkpoint itself when a first run is stored at its exit.

Either is added and committed first; what became superfluous goes a moment later, when everybody who
had begun to read the old way has ended.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from langgraph.channels import DeltaChannel
from langgraph.checkpoint.serde.types import _DeltaSnapshot

from memkit.checkpoints.backend import MOVED, Backend, ChannelFacts, Script, StoredWrite, loaded
from memkit.checkpoints.policy import CARRIER, Key, SavedCheckpoint, Thread
from memkit.effects import stable_key
from memkit.errors import ConfigError, PruneUnsafe

_COUNTERS = "counters_since_delta_snapshot"
_SEED = " seed"
# The form of langgraph.types.Overwrite that needs no class to be read back.
_OVERWRITE = "__overwrite__"
_CHUNK = 50

Specs = Mapping[str, Mapping[str, DeltaChannel[Any]]]


def specs_of(graphs: Iterable[Any]) -> Specs:
    """Return the DeltaChannels of compiled graphs, by the path of the (sub)graph and the channel.

    Raises:
        ConfigError: Two graphs have another reducer for the same channel.
    """
    found: dict[str, dict[str, DeltaChannel[Any]]] = {}
    for graph in graphs:
        for path, inner in [("", graph), *graph.get_subgraphs(recurse=True)]:
            channels = found.setdefault(path, {})
            for name, channel in inner.channels.items():
                if not isinstance(channel, DeltaChannel):
                    continue
                if channels.setdefault(name, channel) != channel:
                    raise ConfigError(
                        f"two of the graphs reduce the channel {name!r} in different ways; prune "
                        "the threads of each on their own, by thread_ids="
                    )
    return found


def path_of(ns: str) -> str:
    """Return the path of a subgraph: its namespace without the ids of tasks."""
    parts = (part.partition(":")[0] for part in ns.split("|") if not part.isdigit())
    return "|".join(parts)


def delta_names(thread: Thread, ns: str, specs: Specs) -> set[str]:
    """Return the names of a namespace's DeltaChannels.

    Every checkpoint at which one is not stored counts the steps since it was, in its metadata.
    """
    names = set(specs.get(path_of(ns), ()))
    for checkpoint in thread.namespaces.get(ns, ()):
        names.update(checkpoint.metadata.get(_COUNTERS) or ())
    return names


@dataclass(frozen=True, slots=True)
class Chain:
    """Where a channel's value at a checkpoint comes from.

    Attributes:
        ids: Ancestors whose writes it is made of, nearest first.
        seed: The last of them if the value is stored there; else it starts empty.
    """

    ids: Sequence[str] = ()
    seed: str | None = None


@dataclass
class History:
    """The DeltaChannels of one thread, as far as they have been looked at."""

    tables: Backend
    thread_id: str
    thread: Thread
    specs: Specs
    _names: dict[str, set[str]] = field(default_factory=dict)
    _facts: dict[Key, ChannelFacts] = field(default_factory=dict)

    def names(self, ns: str) -> set[str]:
        """Return the names of a namespace's DeltaChannels."""
        if ns not in self._names:
            self._names[ns] = delta_names(self.thread, ns, self.specs)
        return self._names[ns]

    def facts(self, checkpoints: Sequence[SavedCheckpoint]) -> Script[None]:
        """Read what is not known yet of checkpoints of one namespace."""
        new = [c.id for c in checkpoints if c.key not in self._facts]
        if new:
            ns = checkpoints[0].ns
            found = yield from self.tables.channels(self.thread_id, ns, new, self.names(ns))
            self._facts.update(((ns, i), facts) for i, facts in found.items())

    def missing(self, checkpoint: SavedCheckpoint) -> Script[frozenset[str]]:
        """Return the DeltaChannels whose value at a checkpoint is made of its ancestors' writes."""
        if not self.names(checkpoint.ns):
            return frozenset()
        yield from self.facts([checkpoint])
        facts = self._facts[checkpoint.key]
        return frozenset(facts.versions) - facts.stored

    def chains(
        self, checkpoint: SavedCheckpoint, names: Collection[str]
    ) -> Script[dict[str, Chain]]:
        """Walk back to the seeds of channels.

        Raises:
            PruneUnsafe: An ancestor on the way is gone.
        """
        above = list(self.thread.ancestors(checkpoint))
        ids: dict[str, list[str]] = {name: [] for name in names}
        done: dict[str, Chain] = {}
        last = checkpoint
        for at, ancestor in enumerate(above):
            if len(done) == len(ids):
                break
            if ancestor.key not in self._facts:
                yield from self.facts(above[at : at + _CHUNK])
            last = ancestor
            for name in ids.keys() - done.keys():
                ids[name].append(ancestor.id)
                if name in self._facts[ancestor.key].stored:
                    done[name] = Chain(ids[name], ancestor.id)
        else:
            lost = sorted(ids.keys() - done.keys())
            if lost and last.parent is not None:
                raise PruneUnsafe(
                    f"{', '.join(lost)} of thread {self.thread_id!r} cannot be rebuilt at "
                    f"checkpoint {checkpoint.id}: its ancestor {last.parent} is gone, as after a "
                    "pruning that knew nothing of DeltaChannels. The thread is left as it is; keep "
                    "it, or write the channel anew by update_state with an Overwrite"
                )
        return {name: done.get(name) or Chain(ids[name]) for name in ids}

    def snapshot(
        self, checkpoint: SavedCheckpoint, names: Collection[str]
    ) -> Script[dict[str, tuple[Any, Any]]]:
        """Compute values at a checkpoint; each comes with the version of its channel.

        Raises:
            PruneUnsafe: A reducer failed.
        """
        ns = checkpoint.ns
        chains = yield from self.chains(checkpoint, names)
        result = {}
        for name, chain in chains.items():
            seeds: dict[str, Any] = {}
            if chain.seed is not None:
                seeds = yield from self.tables.values(self.thread_id, ns, chain.seed, [name])
            writes = yield from self.tables.writes(self.thread_id, ns, chain.ids, [name])
            channel = self.specs[path_of(ns)][name]
            try:
                # Empty, as LangGraph starts a channel of which nothing is stored.
                seed = seeds[name] if seeds else _DeltaSnapshot(channel.typ())
                rebuilt = channel.from_checkpoint(seed)
                rebuilt.replay_writes(
                    [
                        (write.task_id, name, loaded(self.tables.saver, (write.type, write.value)))
                        for checkpoint_id in reversed(chain.ids)
                        for write in writes.get(checkpoint_id, ())
                    ]
                )
                value = _DeltaSnapshot(rebuilt.get())
            except PruneUnsafe:
                raise
            except Exception as error:
                raise PruneUnsafe(
                    f"{name} of thread {self.thread_id!r} could not be rebuilt at checkpoint "
                    f"{checkpoint.id}: {type(error).__name__}: {error}. Is this the graph that the "
                    "thread belongs to?"
                ) from error
            result[name] = (self._facts[checkpoint.key].versions[name], value)
        return result

    def carried(
        self, checkpoint: SavedCheckpoint, names: Collection[str]
    ) -> Script[list[StoredWrite]]:
        """Return all writes that channels are made of at a checkpoint, each headed by its seed."""
        chains = yield from self.chains(checkpoint, names)
        carried: list[StoredWrite] = []
        for name, chain in sorted(chains.items()):
            ns = checkpoint.ns
            stored = yield from self.tables.writes(self.thread_id, ns, chain.ids, [name])
            writes = [w for i in reversed(chain.ids) for w in stored.get(i, ())]
            heads = [at for at, w in enumerate(writes) if is_seed(w)]
            if heads:
                writes = writes[heads[-1] :]
            elif chain.seed is not None:
                seeds = yield from self.tables.values(self.thread_id, ns, chain.seed, [name])
                writes.insert(0, self._seed(name, seeds[name]))
            carried += writes
        return [_placed(write, at) for at, write in enumerate(carried)]

    def _seed(self, name: str, value: Any) -> StoredWrite:
        value = value.value if isinstance(value, _DeltaSnapshot) else value
        dumped = self.tables.saver.serde.dumps_typed({_OVERWRITE: value})
        return StoredWrite(MOVED + _SEED, "", 0, name, *dumped)


def is_seed(write: StoredWrite) -> bool:
    """Say whether a write is a stored value that was moved."""
    return write.task_path.startswith(MOVED) and write.task_path.endswith(_SEED)


def carrier_for(thread_id: str, checkpoint: SavedCheckpoint) -> SavedCheckpoint:
    """Return the empty checkpoint that carries the writes for another, in place of its parent.

    Its id sorts before all that LangGraph gives, so it is never the latest, and is the same
    whenever it is made again.
    """
    digest = stable_key(thread_id, *checkpoint.key)[:16]
    return SavedCheckpoint(
        ns=checkpoint.ns,
        id=f"00000000-0000-0000-{digest[:4]}-{digest[4:]}",
        at=checkpoint.at,
        metadata={
            "source": "update",
            "step": -2,
            "parents": checkpoint.metadata.get("parents") or {},
            CARRIER: checkpoint.parent or True,
        },
    )


def stored_form(carrier: SavedCheckpoint) -> dict[str, Any]:
    """Return a carrier as a saver stores it."""
    return {
        "v": 4,
        "ts": (carrier.at or datetime.now(UTC)).isoformat(),
        "id": carrier.id,
        "channel_values": {},
        "channel_versions": {},
        "versions_seen": {},
        "updated_channels": None,
    }


def _placed(write: StoredWrite, at: int) -> StoredWrite:
    path = f"{MOVED}{at:010d}" + (_SEED if is_seed(write) else "")
    return write._replace(task_path=path, task_id=f"ffffffff-ffff-ffff-ffff-{at:012d}", idx=0)
