"""The texts that models are shown, one Markdown file each."""

from functools import cache
from importlib.resources import files
from string import Template


@cache
def load(name: str) -> Template:
    """Return the prompt `name`; its `$placeholders` are filled by `fill`."""
    return Template((files(__package__) / f"{name}.md").read_text("utf-8").strip())


def fill(name: str, **values: object) -> str:
    """Return the prompt `name` with every placeholder filled; a missing one is a KeyError."""
    return load(name).substitute(values)
