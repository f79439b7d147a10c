"""The command `memkit`: a thin shell over the package."""

import argparse
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from memkit.cli import checkpoints, facts, store
from memkit.errors import ConfigError, MemkitError

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130  # what shells report for SIGINT
_PICTURE_WIDTH = 100


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 after an error, 130 after Ctrl-C.

    A wrong command line ends the process with code 2, as argparse does it.
    """
    arguments = _parser().parse_args(argv)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without some character shows "?"
    logging.basicConfig(level=logging.WARNING, format="memkit: %(levelname)s: %(message)s")
    # What goes wrong with a connection comes up as an error here; the driver need not tell it too.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    try:
        return int(arguments.run(arguments))
    except BrokenPipeError:
        # `memkit demo | head`: nobody reads any more, and the interpreter must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return _interrupted(arguments)
    except Exception as error:
        if _follows_interrupt(error):
            return _interrupted(arguments)
        if not isinstance(error, _expected_errors()):
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        print(f"memkit: error: {detail}", file=sys.stderr)
        return _EXIT_FAILED


def _interrupted(arguments: argparse.Namespace) -> int:
    told = "; nothing is lost, the same command goes on from here"
    resumable = getattr(arguments, "resumable", False)
    print(f"\nmemkit: interrupted{told if resumable else ''}", file=sys.stderr)
    return _EXIT_INTERRUPTED


def _follows_interrupt(error: BaseException) -> bool:
    """Return whether an error only came up while an interrupt was being handled."""
    step = error.__context__
    while step is not None:
        if isinstance(step, KeyboardInterrupt):
            return True
        step = step.__context__
    return False


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the errors that are the world's fault, and told in one line."""
    import sqlite3

    import openai
    import psycopg
    import psycopg_pool

    return (
        MemkitError,
        OSError,
        psycopg.Error,
        sqlite3.Error,
        psycopg_pool.PoolTimeout,
        openai.OpenAIError,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="memkit", description="Memory for LangGraph agents.")
    parser.add_argument("--version", action="version", version=f"memkit {version('memkit')}")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = commands.add_parser(
        "demo",
        help="replay conversations through a graph that remembers, then ask about them",
        description="Replay conversations session by session through a graph with every node of "
        "memkit, then ask questions whose answers were said sessions ago. Needs no key and no "
        "server. Stopped at any moment, the same command goes on.",
    )
    demo.add_argument(
        "--data", metavar="FILE", help="conversations in LoCoMo's form; default: a support story"
    )
    demo.add_argument(
        "--data-dir", metavar="DIR", help="where everything is kept; default: your data directory"
    )
    demo.add_argument(
        "--limit", metavar="N", type=_positive, help="only the first N conversations of FILE"
    )
    demo.add_argument(
        "--max-tokens", metavar="N", type=_positive, help="the budget of a model call; default: 800"
    )
    demo.add_argument("--model", metavar="NAME", help="chat model; default with a key: gpt-4o-mini")
    demo.add_argument("--base-url", metavar="URL", help="an OpenAI-compatible server")
    demo.add_argument("--gguf", metavar="PATH", help="a model that llama.cpp runs in this process")
    demo.add_argument(
        "--no-model", action="store_true", help="no model, even if OPENAI_API_KEY is set"
    )
    demo.add_argument(
        "--fresh", action="store_true", help="forget these conversations first and start over"
    )
    demo.add_argument("--yes", action="store_true", help="do not ask before --fresh deletes")
    demo.add_argument("--export-svg", metavar="PATH", help="save an excerpt as a picture")
    demo.set_defaults(run=_demo, resumable=True)

    setup = commands.add_parser("setup", help="create or migrate the tables of the store")
    setup.add_argument("--dsn", required=True, help="postgresql://user:password@host/database")
    setup.add_argument(
        "--distributed", action="store_true", help="distribute the tables by tenant (Citus)"
    )
    setup.add_argument(
        "--row-level-security",
        action="store_true",
        help="hide every tenant that a connection has not named",
    )
    setup.set_defaults(run=_setup)

    facts.add_commands(commands)
    store.add_commands(commands)
    checkpoints.add_commands(commands)

    doctor = commands.add_parser("doctor", help="check that everything runs on this machine")
    doctor.set_defaults(run=_doctor)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return number


def _demo(arguments: argparse.Namespace) -> int:
    _check_combination(arguments)
    from memkit.budget import ContextBudget
    from memkit.demo.conversations import load_locomo, load_story
    from memkit.demo.models import check_model, choose_model

    try:
        from rich.console import Console

        from memkit.demo import replay
        from memkit.demo.screen import Screen
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs {error.name}, which is not installed: pip install 'memkit[local]'"
        ) from None

    conversations = [load_story()]
    if arguments.data is not None:
        conversations = load_locomo(arguments.data)[: arguments.limit]
    data_dir = Path(arguments.data_dir) if arguments.data_dir else _default_data_dir()
    if arguments.fresh and not arguments.yes and not _agrees(data_dir, len(conversations)):
        print("nothing was deleted")
        return 0
    model = None
    if not arguments.no_model:
        model = choose_model(arguments.model, arguments.base_url, arguments.gguf)
    if model is not None:
        check_model(model)
    budget = ContextBudget(arguments.max_tokens or replay.DEFAULT_MAX_TOKENS)
    options = replay.Options(model=model, budget=budget)
    picture = None
    if arguments.export_svg is not None:
        picture = Console(file=io.StringIO(), record=True, width=_PICTURE_WIDTH, highlight=False)
    screen = Screen(Console(highlight=False), picture)
    screen.say(f"data directory: {data_dir}")
    with replay.opened(data_dir) as memory:
        if arguments.fresh:
            for conversation in conversations:
                replay.forget(conversation, memory)
        if arguments.data is None:
            screen.show_story(conversations[0], replay.replay(conversations[0], memory, options))
        else:
            screen.show_benchmark(
                ((each, replay.replay(each, memory, options)) for each in conversations),
                len(conversations),
            )
    if picture is not None:
        # Any monospaced font will do: a picture must not load one from elsewhere.
        svg = re.sub(
            r"@font-face \{.*?\}\s*", "", picture.export_svg(title="memkit demo"), flags=re.DOTALL
        )
        Path(arguments.export_svg).write_text(svg, encoding="utf-8")
    return 0


def _check_combination(arguments: argparse.Namespace) -> None:
    if arguments.no_model and (arguments.model or arguments.base_url or arguments.gguf):
        raise ConfigError("--no-model contradicts --model, --base-url and --gguf; give one of them")
    if arguments.data is None and arguments.limit is not None:
        raise ConfigError("--limit counts the conversations of a file; give it with --data")
    if arguments.data is not None and arguments.export_svg is not None:
        raise ConfigError("--export-svg draws the shipped story; give it without --data")


def _default_data_dir() -> Path:
    home = os.environ.get("MEMKIT_DATA_DIR")
    if home:
        return Path(home, "demo")
    from platformdirs import user_data_path

    return user_data_path("memkit") / "demo"


def _agrees(data_dir: Path, conversations: int) -> bool:
    """Ask whether to delete; without a terminal to ask on, that is an error."""
    if not sys.stdin.isatty():
        raise ConfigError("--fresh asks before it deletes, and there is no terminal: add --yes")
    what = "the conversation" if conversations == 1 else f"the {conversations} conversations"
    question = f"Delete the checkpoints and memories of {what} in {data_dir}? [y/N] "
    try:
        return input(question).strip().lower() in {"y", "yes"}
    except EOFError:
        return False


def _setup(arguments: argparse.Namespace) -> int:
    from memkit.store import SemanticStore

    with SemanticStore.open(arguments.dsn, search_mode="text") as store:
        store.setup(
            distributed=arguments.distributed,
            row_level_security=arguments.row_level_security,
        )
    print("the store is set up")
    return 0


def _doctor(_arguments: argparse.Namespace) -> int:
    from memkit.cli.doctor import CHECKS

    failed = False
    for name, check in CHECKS.items():
        try:
            verdict, found = "ok", check()
        except _expected_errors() as error:
            verdict, found = "FAILED", " ".join(str(error).split())
            failed = True
        print(f"{name:<12} {verdict:<7} {found}")
    return _EXIT_FAILED if failed else 0
