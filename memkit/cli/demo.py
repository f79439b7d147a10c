"""`memkit demo`: replay conversations through a graph that remembers."""

import io
import os
import re
from pathlib import Path
from typing import Annotated

import typer

from memkit.cli.options import BaseUrl, Gguf, ModelName, NoModel, Yes
from memkit.cli.output import agrees, say
from memkit.cli.places import chosen_model
from memkit.errors import ConfigError

_PICTURE_WIDTH = 100


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
    model: ModelName = None,
    base_url: BaseUrl = None,
    gguf: Gguf = None,
    no_model: NoModel = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="forget these conversations first and start over")
    ] = False,
    yes: Yes = False,
    export_svg: Annotated[
        str | None, typer.Option(metavar="PATH", help="save an excerpt as a picture")
    ] = None,
) -> int:
    """Replay conversations session by session through a graph with every node of memkit.

    Then ask questions whose answers were said sessions ago. Needs no key and no server. Stopped at
    any moment, the same command goes on.
    """
    if data is None and limit is not None:
        raise ConfigError("--limit counts the conversations of a file; give it with --data")
    if data is not None and export_svg is not None:
        raise ConfigError("--export-svg draws the shipped story; give it without --data")
    from memkit.budget import ContextBudget
    from memkit.demo.conversations import load_locomo, load_story

    try:
        from rich.console import Console

        from memkit.demo import replay
        from memkit.demo.screen import Screen
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo needs {error.name}, which is not installed: pip install 'memkit[local]'"
        ) from None

    conversations = [load_story()] if data is None else load_locomo(data)[:limit]
    home = Path(data_dir) if data_dir else _default_data_dir()
    if fresh and not yes and not _may_delete(home, len(conversations)):
        say("nothing was deleted")
        return 0
    options = replay.Options(
        model=chosen_model(model, base_url, gguf, none=no_model),
        budget=ContextBudget(max_tokens or replay.DEFAULT_MAX_TOKENS),
    )
    picture = None
    if export_svg is not None:
        picture = Console(file=io.StringIO(), record=True, width=_PICTURE_WIDTH, highlight=False)
    screen = Screen(Console(highlight=False), picture)
    screen.say(f"data directory: {home}")
    with replay.opened(home) as memory:
        if fresh:
            for conversation in conversations:
                replay.forget(conversation, memory)
        if data is None:
            screen.show_story(conversations[0], replay.replay(conversations[0], memory, options))
        else:
            screen.show_benchmark(
                ((each, replay.replay(each, memory, options)) for each in conversations),
                len(conversations),
            )
    if picture is not None and export_svg is not None:
        # Any monospaced font will do: a picture must not load one from elsewhere.
        svg = re.sub(
            r"@font-face \{.*?\}\s*", "", picture.export_svg(title="memkit demo"), flags=re.DOTALL
        )
        Path(export_svg).write_text(svg, encoding="utf-8")
    return 0


def _default_data_dir() -> Path:
    home = os.environ.get("MEMKIT_DATA_DIR")
    if home:
        return Path(home, "demo")
    from platformdirs import user_data_path

    return user_data_path("memkit") / "demo"


def _may_delete(home: Path, conversations: int) -> bool:
    what = "the conversation" if conversations == 1 else f"the {conversations} conversations"
    question = f"Delete the checkpoints and memories of {what} in {home}?"
    return agrees(question, without="--yes")
