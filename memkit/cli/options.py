"""Options that several commands share, and the rules between options."""

from types import SimpleNamespace
from typing import Annotated

import typer

Dsn = Annotated[
    str | None,
    typer.Option(
        metavar="DSN",
        help="postgresql://user:password@host/database; default: the embedded Postgres",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="for programs")]
Yes = Annotated[bool, typer.Option("--yes", help="do not ask")]

_MANY = {"--thread", "--metadata", "--pinned", "--fields"}


def spread(words: list[str]) -> list[str]:
    """Return a command line in which options of many values are said once per value."""
    told: list[str] = []
    option = None
    values = 0
    for word in words:
        if word.startswith("-"):
            option, values = (word, 0) if word in _MANY else (None, 0)
        elif option is not None:
            values += 1
            if values > 1:
                told.append(option)
        told.append(word)
    return told


def only_one(arguments: SimpleNamespace, *names: str) -> None:
    """Refuse options that contradict each other, as wrong usage."""
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name)]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} contradict each other")
