"""Options that several commands share, and the rules between options."""

from collections.abc import Mapping
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
ModelName = Annotated[
    str | None, typer.Option("--model", metavar="NAME", help="default with a key: gpt-4o-mini")
]
BaseUrl = Annotated[
    str | None, typer.Option("--base-url", metavar="URL", help="an OpenAI-compatible server")
]
Gguf = Annotated[
    str | None,
    typer.Option("--gguf", metavar="PATH", help="a model that llama.cpp runs in this process"),
]
NoModel = Annotated[
    bool, typer.Option("--no-model", help="no model, even if OPENAI_API_KEY is set")
]
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


def only_one(options: Mapping[str, object]) -> None:
    """Refuse options that contradict each other, as wrong usage."""
    given = [name for name, value in options.items() if value]
    if len(given) > 1:
        raise typer.BadParameter(f"{' and '.join(given)} contradict each other")
