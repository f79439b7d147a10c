"""The command line of the benchmarks."""

import argparse
import logging
import math
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import psycopg

from benchmarks.report import Options, table, write
from memkit.errors import ConfigError, MemkitError

BENCHMARKS = ("tokens", "trim", "summary", "facts", "recall", "qa", "store", "checkpoints", "chaos")
"""Modules of this package; each has `run(options) -> Report`."""

DEFAULT_MAX_TOKENS = {"tokens": 800, "summary": 2_000, "qa": 4_000}

_MAKES_ITS_DATA = {
    "trim": "trim generates its conversations and has fixed budgets",
    "store": "store generates its items and has no budget",
    "chaos": "chaos makes its own load and has no budget",
    "checkpoints": "checkpoints makes its own conversation and has fixed budgets",
}

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130  # what shells report for SIGINT


def main(argv: Sequence[str] | None = None) -> int:
    """Run a benchmark and return the exit code: 0, 1 after an error, 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="benchmarks: %(levelname)s: %(message)s")
    options = Options(
        data=arguments.data,
        quick=arguments.quick,
        plot=arguments.plot,
        max_tokens=arguments.max_tokens or DEFAULT_MAX_TOKENS.get(arguments.name, 0),
        model=arguments.model,
        base_url=arguments.base_url,
        questions=arguments.questions,
        ablation=arguments.ablation,
        judge=arguments.judge,
        prices=arguments.prices and tuple(arguments.prices),
    )
    try:
        _check_taken(arguments)
        for path in (arguments.json, arguments.plot):
            _check_writable(path)
        if options.plot is not None and options.plot.suffix.lower() != ".png":
            raise ConfigError(f"{options.plot} is to be a PNG; let its name end with .png")
        report = import_module(f"benchmarks.{arguments.name}").run(options)
        print(table(report))
        if arguments.json is not None:
            write(report, arguments.json)
    except KeyboardInterrupt:
        print("\nbenchmarks: interrupted", file=sys.stderr)
        return _EXIT_INTERRUPTED
    except (MemkitError, OSError, psycopg.Error) as error:
        print(f"benchmarks: error: {' '.join(str(error).split())}", file=sys.stderr)
        return _EXIT_FAILED
    return 0


def _check_taken(arguments: argparse.Namespace) -> None:
    """Refuse options that a benchmark has no use for.

    Raises:
        ConfigError: One was given.
    """
    name = arguments.name
    if name in _MAKES_ITS_DATA and (arguments.data or arguments.max_tokens):
        raise ConfigError(f"{_MAKES_ITS_DATA[name]}; leave out --data and --max-tokens")
    if name in ("facts", "recall") and arguments.max_tokens:
        raise ConfigError(f"{name} has no budget; leave out --max-tokens")
    if name not in ("summary", "qa") and (arguments.model or arguments.base_url):
        raise ConfigError(f"{name} runs without a model; leave out --model and --base-url")
    if name not in ("recall", "qa") and arguments.questions:
        raise ConfigError(f"{name} takes its questions as they are; leave out --questions")
    if name != "recall" and arguments.ablation:
        raise ConfigError(f"{name} has no variants; leave out --ablation")
    if name != "qa" and (arguments.judge or arguments.prices):
        raise ConfigError(f"{name} judges no answers; leave out --judge and --prices")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure memkit beside other ways."
    )
    parser.add_argument("name", choices=BENCHMARKS, help="what to measure")
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="tokens, summary: a LoCoMo file; recall, qa: one of LoCoMo or LongMemEval; default: "
        "the shipped story; facts: a LoCoMo file with annotated observations",
    )
    parser.add_argument(
        "--quick", action="store_true", help="a small part in memory, to see that all runs"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the figures there")
    parser.add_argument("--plot", type=Path, metavar="PATH", help="save a picture (PNG) there")
    parser.add_argument(
        "--max-tokens",
        type=_positive,
        metavar="N",
        help="the budget; default: "
        + ", ".join(f"{tokens} for {name}" for name, tokens in DEFAULT_MAX_TOKENS.items()),
    )
    parser.add_argument(
        "--model",
        metavar="NAME",
        help="summary: a chat model that writes the summaries; qa: the one that answers",
    )
    parser.add_argument(
        "--base-url", metavar="URL", help="summary, qa: an OpenAI-compatible server"
    )
    parser.add_argument(
        "--questions",
        type=_positive,
        metavar="N",
        help="recall, qa: ask so many, evenly spread; default: all",
    )
    parser.add_argument(
        "--ablation", action="store_true", help="recall: variants of memkit, without the field"
    )
    parser.add_argument(
        "--judge", metavar="NAME", help="qa: the model that judges answers; default: --model"
    )
    parser.add_argument(
        "--prices",
        type=_price,
        nargs=2,
        metavar=("IN", "OUT"),
        help="qa: dollars per million tokens of prompt and of reply",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _price(text: str) -> float:
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"must be a price, 0 or more, got {text}")
    return number


def _check_writable(path: Path | None) -> None:
    """Refuse a path that could not be written after a long run."""
    if path is None:
        return
    if path.is_dir():
        raise ConfigError(f"{path} is a directory; give the path of a file")
    if not path.parent.is_dir():
        raise ConfigError(f"{path} cannot be written: there is no directory {path.parent}")


if __name__ == "__main__":
    sys.exit(main())
