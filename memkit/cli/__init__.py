"""The command `memkit`: a thin shell over the package."""

import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, cast

import typer
from typer.exceptions import TyperException

from memkit.cli import checkpoints, facts, store
from memkit.cli.options import Dsn, Json, spread
from memkit.cli.output import emit, table, visible
from memkit.errors import ConfigError, MemkitError

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130  # what shells report for SIGINT
_PICTURE_WIDTH = 100
_RESUMABLE = {
    ("store", "import"),
    ("store", "reembed"),
    ("checkpoints", "prune"),
    ("checkpoints", "copy"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0, 1 after an error, 130 after Ctrl-C.

    A wrong command line ends the process with code 2, as argparse does it.
    """
    words = spread(list(sys.argv[1:] if argv is None else argv))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal without some character shows "?"
    logging.basicConfig(level=logging.WARNING, format="memkit: %(levelname)s: %(message)s")
    # What goes wrong with a connection comes up as an error here; the driver need not tell it too.
    logging.getLogger("psycopg").setLevel(logging.CRITICAL)
    try:
        code: Any = typer.main.get_command(app).main(
            words, prog_name="memkit", standalone_mode=False
        )
        # What typer makes of Ctrl-C.
        return _interrupted(words) if code == _EXIT_INTERRUPTED else int(code or 0)
    except typer.Abort:
        return _interrupted(words)
    except TyperException as error:
        cast("Any", error).show()
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # `memkit demo | head`: nobody reads any more, and the interpreter must not complain at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return _interrupted(words)
    except Exception as error:
        if _follows_interrupt(error):
            return _interrupted(words)
        if not isinstance(error, _expected_errors()):
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        print(f"memkit: error: {visible(detail)}", file=sys.stderr)
        return _EXIT_FAILED


def _interrupted(words: Sequence[str]) -> int:
    told = "; nothing is lost, the same command goes on from here"
    resumable = tuple(words[:2]) in _RESUMABLE or words[0] == "demo"
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


app = typer.Typer(
    help="Memory for LangGraph agents.",
    no_args_is_help=True,
    rich_markup_mode=None,  # so that --help needs no rich
    pretty_exceptions_enable=False,
)
app.add_typer(facts.app, name="facts")
app.add_typer(store.app, name="store")
app.add_typer(checkpoints.app, name="checkpoints")


def _version(wanted: bool) -> None:
    if wanted:
        print(f"memkit {version('memkit')}")
        raise typer.Exit


@app.callback()
def _root(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="say it, and stop")
    ] = False,
) -> None:
    """Memory for LangGraph agents."""


@app.command(
    "demo",
    short_help="replay conversations through a graph that remembers, then ask about them",
    epilog="example: memkit demo --no-model",
)
def demo(
    data: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="conversations in LoCoMo's form; default: a support story"
        ),
    ] = None,
    data_dir: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="where everything is kept; default: your data directory"),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="only the first N conversations of FILE"),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="the budget of a model call; default: 800"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="chat model; default with a key: gpt-4o-mini"),
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="an OpenAI-compatible server")
    ] = None,
    gguf: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="a model that llama.cpp runs in this process"),
    ] = None,
    no_model: Annotated[
        bool, typer.Option("--no-model", help="no model, even if OPENAI_API_KEY is set")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="forget these conversations first and start over")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask before --fresh deletes")] = False,
    export_svg: Annotated[
        str | None, typer.Option(metavar="PATH", help="save an excerpt as a picture")
    ] = None,
) -> int:
    """Replay conversations session by session through a graph with every node of memkit.

    Then ask questions whose answers were said sessions ago. Needs no key and no server. Stopped at
    any moment, the same command goes on.
    """
    return _demo(SimpleNamespace(**locals()))


@app.command(
    "setup",
    short_help="create or migrate the tables of the store",
    epilog="example: memkit setup --dsn postgresql://user:password@host/database",
)
def setup(
    dsn: Annotated[str, typer.Option(help="postgresql://user:password@host/database")],
    distributed: Annotated[
        bool, typer.Option("--distributed", help="distribute the tables by tenant (Citus)")
    ] = False,
    row_level_security: Annotated[
        bool,
        typer.Option(
            "--row-level-security", help="hide every tenant that a connection has not named"
        ),
    ] = False,
) -> int:
    """Create the tables of the store, or bring them to this version; any number of times."""
    return _setup(SimpleNamespace(**locals()))


@app.command("doctor", epilog="example: memkit doctor --dsn postgresql://localhost/app --json")
def doctor(dsn: Dsn = None, json: Json = False) -> int:
    """Check that everything runs on this machine, and with --dsn also a database of yours."""
    return _doctor(SimpleNamespace(**locals()))


def _demo(arguments: SimpleNamespace) -> int:
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


def _check_combination(arguments: SimpleNamespace) -> None:
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


def _setup(arguments: SimpleNamespace) -> int:
    from memkit.store import SemanticStore

    with SemanticStore.open(arguments.dsn, search_mode="text") as store:
        store.setup(
            distributed=arguments.distributed,
            row_level_security=arguments.row_level_security,
        )
    print("the store is set up")
    return 0


def _doctor(arguments: SimpleNamespace) -> int:
    from memkit.cli.doctor import CHECKS, store

    checks = dict(CHECKS)
    if arguments.dsn is not None:
        checks["store"] = lambda: store(arguments.dsn)
    rows = []
    for name, check in checks.items():
        try:
            rows.append((name, "ok", check()))
        except _expected_errors() as error:
            rows.append((name, "FAILED", " ".join(str(error).split())))
    if arguments.json:
        emit([{"check": name, "verdict": verdict, "found": f} for name, verdict, f in rows])
    else:
        table(("check", "", "found"), rows)
    return _EXIT_FAILED if any(verdict == "FAILED" for _, verdict, _ in rows) else 0
