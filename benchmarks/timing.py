"""How all benchmarks take times."""

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import TypeVar

T = TypeVar("T")


def timed(function: Callable[[T], object], argument: T) -> float:
    """Return the seconds that a call takes."""
    start = perf_counter()
    function(argument)
    return perf_counter() - start


@contextmanager
def timing() -> Iterator[None]:
    """Keep the garbage collector off while times are taken, as `timeit` does."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
