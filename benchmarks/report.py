"""What a benchmark is given, and what it returns: figures, a table of them, and JSON."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from itertools import zip_longest
from pathlib import Path
from typing import Any

from memkit.errors import ConfigError

_PACKAGES = ("memkit", "langgraph", "langchain-core", "tiktoken", "psycopg", "numpy")


@dataclass(frozen=True, slots=True)
class Options:
    """What every benchmark understands.

    Attributes:
        data: A file in LoCoMo's form, for some also in LongMemEval's; None for the shipped story.
        quick: Take a small part and the simplest store: a check that all runs, not a figure.
        plot: Where to save a picture, if anywhere.
        max_tokens: The budget of a model call.
        model: The name of a chat model, if one is to take part.
        base_url: An OpenAI-compatible server.
        questions: Ask so many of the questions, evenly spread; None for all.
        ablation: Compare variants of memkit with each other.
        judge: The name of the model that judges answers; None for `model`.
        prices: Of the model, in dollars per million tokens of prompt and of reply.
    """

    data: Path | None = None
    quick: bool = False
    plot: Path | None = None
    max_tokens: int = 800
    model: str | None = None
    base_url: str | None = None
    questions: int | None = None
    ablation: bool = False
    judge: str | None = None
    prices: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The figures of one run.

    Attributes:
        bench: The name of the benchmark.
        systems: Per system its metrics; memkit comes first.
        seed: What all random choices start from.
        settings: What was measured, and how.
        packages: Distributions beside the usual ones whose versions matter.
    """

    bench: str
    systems: Mapping[str, Mapping[str, float]]
    seed: int
    settings: Mapping[str, Any] = field(default_factory=dict)
    packages: tuple[str, ...] = ()


def to_json(report: Report) -> dict[str, Any]:
    """Return a report as it is written to a file."""
    return {
        "bench": report.bench,
        "commit": _commit(),
        "machine": {
            "system": platform.system(),
            "arch": platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
        },
        "versions": {name: _version(name) for name in (*_PACKAGES, *report.packages)},
        "seed": report.seed,
        "settings": dict(report.settings),
        "systems": {name: dict(metrics) for name, metrics in report.systems.items()},
    }


def write(report: Report, path: Path) -> None:
    """Write the JSON of a report."""
    path.write_text(json.dumps(to_json(report), indent=1) + "\n", encoding="utf-8")


_WIDE = 100


def table(report: Report) -> str:
    """Return the figures as text: one row per metric, one column per system.

    In a wide table the names of systems are broken at their spaces.
    """
    metrics = dict.fromkeys(name for figures in report.systems.values() for name in figures)
    heads = [[report.bench, *report.systems]]
    rows = []
    for metric in metrics:
        cells = [_figure(figures.get(metric)) for figures in report.systems.values()]
        rows.append([metric, *cells])
    if sum(_widths(heads + rows)) + 2 * len(report.systems) > _WIDE:
        words = [[report.bench], *(name.split(" ") for name in report.systems)]
        heads = [list(line) for line in zip_longest(*words, fillvalue="")]
    widths = _widths(heads + rows)
    rule = ["-" * width for width in widths]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [*heads, rule, *rows]
    )


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _figure(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    if 0 < abs(value) < 0.01:
        return f"{value:.2g}"
    return f"{value:,.3f}".rstrip("0").rstrip(".")


def _commit() -> str:
    """Return the commit of this checkout, "unknown" outside of one."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],  # noqa: S607 - whichever git the user has
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return done.stdout.strip()


def _version(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "not installed"


def say(bench: str, what: str) -> None:
    """Tell on stderr what is measured now."""
    print(f"{bench}: {what}", file=sys.stderr, flush=True)


def need_matplotlib() -> None:
    """Make matplotlib ready to draw, before the work begins.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError:
        raise ConfigError(
            "--plot needs matplotlib, which is not installed: pip install 'memkit[bench]'"
        ) from None
    mpl.use("Agg")  # no screen is needed
