"""The vectors of a store: how long, how near, how precise; and from floats to what is sent."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from pgvector import HalfVector, Vector

from memkit.errors import ConfigError, DimensionMismatch, StoreError

Distance: TypeAlias = Literal["cosine", "l2", "inner_product"]
VectorType: TypeAlias = Literal["halfvec", "vector"]
DISTANCES: tuple[str, ...] = get_args(Distance)
VECTOR_TYPES: tuple[str, ...] = get_args(VectorType)

FIRST_COLUMN = "embedding"
_OPERATORS = {"cosine": "<=>", "l2": "<->", "inner_product": "<#>"}
_CLASSES = {"cosine": "cosine", "l2": "l2", "inner_product": "ip"}
# What pgvector stores, and what its indexes take.
_MOST_DIMS = 16_000
_MOST_INDEXED_DIMS = {"halfvec": 4_000, "vector": 2_000}


def of_class(name: str) -> Distance:
    """Return the distance that an operator class of pgvector is for."""
    return cast("Distance", next(d for d, part in _CLASSES.items() if f"_{part}_" in name))


@dataclass(frozen=True, slots=True)
class VectorSpace:
    """The space that all vectors of a store lie in.

    Attributes:
        dims: The length of a vector.
        distance: What ranks in mode "vector".
        type: pgvector's type: "halfvec" has two bytes a number, "vector" four.
        name: The column that holds them; it is another one after the store has moved to other
            embeddings.

    Raises:
        ConfigError: There is no such space.
    """

    dims: int
    distance: Distance = "cosine"
    type: VectorType = "halfvec"
    name: str = FIRST_COLUMN

    def __post_init__(self) -> None:
        """Refuse what pgvector would refuse later."""
        dims: Any = self.dims
        if not isinstance(dims, int) or not 0 < dims <= _MOST_DIMS:
            msg = (
                "index['dims'] is the length of the embeddings, from 1 to "
                f"{_MOST_DIMS:,}; got {dims!r}"
            )
            raise ConfigError(msg)
        if self.distance not in DISTANCES:
            msg = f"distance_type is one of {', '.join(DISTANCES)}, not {self.distance!r}"
            raise ConfigError(msg)
        if self.type not in VECTOR_TYPES:
            msg = f"vector_type is one of {', '.join(VECTOR_TYPES)}, not {self.type!r}"
            raise ConfigError(msg)

    @property
    def can_be_indexed(self) -> bool:
        """Whether pgvector has an index for vectors of this length."""
        return self.dims <= _MOST_INDEXED_DIMS[self.type]

    @property
    def column(self) -> str:
        """The SQL of a passage's vector, as indexes have it: they want to know its length."""
        return f"{self.name}::{self.type}({self.dims})"

    @property
    def is_there(self) -> str:
        """The SQL condition that a passage has a vector."""
        return f"{self.name} IS NOT NULL"

    @property
    def index_class(self) -> str:
        """The operator class of an index for this distance."""
        return f"{self.type}_{_CLASSES[self.distance]}_ops"

    def order(self, column: str) -> str:
        """Return the SQL by which the nearest to %(vector)s come first."""
        return f"{column} {_OPERATORS[self.distance]} %(vector)b::{self.type}"

    def similarity(self, column: str) -> str:
        """Return the SQL of the score, which is higher for what is nearer."""
        if self.distance != "cosine":
            return f"-({self.order(column)})"
        # A vector of zeros has no direction: its cosine is NaN in pgvector, and 0 here.
        return f"coalesce(nullif(1 - ({self.order(column)}), 'NaN'), 0)"

    def encode_all(
        self, embedded: Sequence[Sequence[float]], texts: Sequence[str]
    ) -> list[HalfVector | Vector]:
        """Return vectors as they are sent; arguments and errors are those of `encode`, for each."""
        if len(embedded) != len(texts):
            msg = f"the embeddings gave {len(embedded)} vectors for {len(texts)} texts"
            raise StoreError(msg)
        with np.errstate(over="ignore"), contextlib.suppress(ValueError):  # of unequal lengths
            matrix = np.asarray(embedded, dtype=np.float32)
            if self.type == "halfvec":
                matrix = matrix.astype(">f2")
            if matrix.shape == (len(texts), self.dims) and np.isfinite(matrix).all():
                kind = HalfVector if self.type == "halfvec" else Vector
                return list(map(kind, matrix))
        return [self.encode(*one) for one in zip(embedded, texts, strict=True)]

    def encode(self, numbers: Sequence[float], text: str) -> HalfVector | Vector:
        """Return a vector as it is sent, in binary.

        Args:
            numbers: The embedding, of length `dims`.
            text: What it is the embedding of, for messages.

        Raises:
            DimensionMismatch: It has another length.
            StoreError: It holds a number that the type cannot.
        """
        if len(numbers) != self.dims:
            msg = (
                f"the embeddings gave a vector of length {len(numbers)}, but the store was "
                f"opened with dims={self.dims}; pass dims={len(numbers)}, or other embeddings"
            )
            raise DimensionMismatch(msg)
        vector = np.asarray(numbers, dtype=np.float32)
        if self.type == "halfvec":
            with np.errstate(over="ignore"):
                vector = vector.astype(">f2")
        if not np.isfinite(vector).all():
            msg = (
                f"the embedding of {text[:60]!r} holds NaN, an infinity or a number that "
                f"{self.type} cannot hold"
            )
            if self.type == "halfvec":
                msg += f": half precision ends at {np.finfo(np.float16).max:.0f}"
            raise StoreError(msg)
        return HalfVector(vector) if self.type == "halfvec" else Vector(vector)
