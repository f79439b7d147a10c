"""The command `memkit`: a thin shell over the package."""

import io
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer
from typer.exceptions import TyperException

from memkit.cli import chat, checkpoints, demo, doctor, facts, store
from memkit.cli.options import spread
from memkit.cli.output import say
from memkit.cli.trouble import expected_errors
from memkit.terminal import visible

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130  # what shells report for SIGINT
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
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter("memkit: %(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
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
        if not isinstance(error, expected_errors()):
            raise
        detail = " ".join(str(error).split()) or type(error).__name__
        print(f"memkit: error: {visible(detail)}", file=sys.stderr)
        return _EXIT_FAILED


class _Formatter(logging.Formatter):
    """Warnings may name what came from data."""

    def format(self, record: logging.LogRecord) -> str:
        return visible(super().format(record), lines=True)


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


app = typer.Typer(
    help="Memory for LangGraph agents.",
    no_args_is_help=True,
    rich_markup_mode=None,  # so that --help needs no rich
    pretty_exceptions_enable=False,
)
app.command("demo", epilog="example: memkit demo --no-model")(demo.demo)
app.command("chat", epilog="example: memkit chat --user ann --model gpt-4o-mini")(chat.chat)
app.command("doctor", epilog="example: memkit doctor --dsn postgresql://localhost/app --json")(
    doctor.doctor
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
    from memkit.store import SemanticStore

    with SemanticStore.open(dsn, search_mode="text") as opened:
        opened.setup(distributed=distributed, row_level_security=row_level_security)
    say("the store is set up")
    return 0
