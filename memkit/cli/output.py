"""What commands print: tables, JSON, questions, progress; no text from data steers a terminal."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from memkit.errors import ConfigError
from memkit.terminal import visible

Advance: TypeAlias = Callable[[int, int], None]
"""Takes how much is done, and of how much."""


def say(value: object, *, error: bool = False) -> None:
    """Print a text of one or more lines."""
    print(visible(value, lines=True), file=sys.stderr if error else sys.stdout, flush=True)


def emit(document: Any) -> None:
    """Print a JSON document, for programs."""
    print(json.dumps(document), flush=True)


def table(names: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; where it goes to a file or a pipe, no line is broken."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(*names, box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for row in rows:
        drawn.add_row(*(Text(visible("" if cell is None else cell)) for cell in row))
    wide = None if sys.stdout.isatty() else 10_000
    console = Console(file=sys.stdout, markup=False, highlight=False, width=wide)
    with console.capture() as printed:
        console.print(drawn)
    print("\n".join(line.rstrip() for line in printed.get().splitlines()), flush=True)


def agrees(question: str, *, without: str) -> bool:
    """Ask on the terminal; anything but yes is no. The question goes to stderr.

    Args:
        question: What is to happen.
        without: What to say on the command line where there is no terminal.

    Raises:
        ConfigError: There is no terminal to ask on.
    """
    if not sys.stdin.isatty():
        raise ConfigError(f"there is no terminal to ask on before anything changes: say {without}")
    print(f"{visible(question)} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


@contextmanager
def progress(what: str) -> Iterator[Advance | None]:
    """Yield what moves a bar with the time that is left; None where nobody looks at stderr."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    ) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
