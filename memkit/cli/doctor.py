"""`memkit doctor`: what works here, and what to do about what does not."""

import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NamedTuple

from memkit.cli.options import BaseUrl, Dsn, Gguf, Json, ModelName, NoModel
from memkit.cli.output import emit, table
from memkit.cli.places import chosen_model
from memkit.cli.trouble import expected_errors
from memkit.errors import ConfigError

_EXIT_FAILED = 1
_LOCAL = "pip install 'memkit[local]'"


class Check(NamedTuple):
    """One thing to look at.

    Attributes:
        name: What it is called.
        look: Returns what was found, or raises what is wrong.
        fix: What to do where it fails.
        needed: Whether memkit is of no use where it fails.
    """

    name: str
    look: Callable[[], str]
    fix: str
    needed: bool = True


def doctor(
    dsn: Dsn = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    gguf: Gguf = None,
    no_model: NoModel = False,
    json: Json = False,
) -> int:
    """Check what is installed and works here, and say how to mend what does not.

    With --dsn also a database of yours: server, extension and migrations. The chat model, which
    an option or OPENAI_API_KEY names, is asked for one word.
    """
    checks = [
        *_here(),
        *(_database(dsn) if dsn is not None else _embedded()),
        Check(
            "model",
            lambda: _model(model, base_url, gguf, none=no_model),
            "check --model, --base-url and OPENAI_API_KEY; the forms of memkit without a model "
            "need none",
        ),
    ]
    rows = []
    for check in checks:
        try:
            rows.append((check.name, "ok", check.look(), ""))
        except expected_errors() as error:
            verdict = "FAILED" if check.needed else "missing"
            rows.append((check.name, verdict, " ".join(str(error).split()), check.fix))
    names = ("check", "verdict", "found", "fix")
    if json:
        emit([dict(zip(names, row, strict=True)) for row in rows])
    else:
        table(("check", "", "found", "fix"), rows)
    return _EXIT_FAILED if any(verdict == "FAILED" for _, verdict, _, _ in rows) else 0


def _here() -> list[Check]:
    ranks = (
        f"{_LOCAL}, which brings the ranks, or a folder of them in TIKTOKEN_CACHE_DIR; until then "
        "counts are upper bounds"
    )
    return [
        Check("python", lambda: f"{platform.python_version()} on {platform.platform()}", ""),
        Check("packages", _packages, "pip install --upgrade memkit"),
        Check("local", lambda: _extra("local"), _LOCAL, needed=False),
        Check("agents", lambda: _extra("agents"), "pip install 'memkit[agents]'", needed=False),
        Check("tokens", _tokens, ranks, needed=_has("local")),
    ]


def _embedded() -> list[Check]:
    needed = _has("local")
    again = f"{_LOCAL}; or use a Postgres and embeddings of your own, see --dsn"
    return [
        Check("embeddings", _embeddings, again, needed),
        Check("postgres", _postgres, again, needed),
    ]


def _database(dsn: str) -> list[Check]:
    return [
        Check(
            "database", lambda: _server(dsn), "see that the server runs and the address is right"
        ),
        Check("extension", lambda: _extension(dsn), "install pgvector 0.8 or newer on the server"),
        Check("store", lambda: _store(dsn), "memkit setup --dsn ..."),
    ]


def _packages() -> str:
    names = ("memkit", "langgraph", "langchain-core", "langchain-openai", "psycopg", "pgvector")
    return ", ".join(f"{name} {version(name)}" for name in names)


def _extra(name: str) -> str:
    missing = _missing(name)
    if missing:
        raise ConfigError(f"without {', '.join(missing)}")
    return "complete"


def _has(extra: str) -> bool:
    return not _missing(extra)


def _missing(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    from packaging.requirements import Requirement

    wanted = [Requirement(text) for text in requires("memkit") or []]
    names = [r.name for r in wanted if r.marker and r.marker.evaluate({"extra": extra})]
    return [name for name in names if name != "memkit" and not _installed(name)]


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def _tokens() -> str:
    from memkit.tokens import TokenCounter

    counter = TokenCounter.for_model()
    if not counter.exact:
        raise ConfigError(f"the ranks of {counter.encoding_name} are not to be had")
    return f"{counter.encoding_name}, exact"


def _embeddings() -> str:
    """Embed a text; the model file is checked by its sha256 on loading."""
    from memkit import local

    vector = local.embeddings().embed_query("Does it work?")
    return f"all-MiniLM-L6-v2, {len(vector)} dimensions"


def _postgres() -> str:
    """Start the embedded Postgres in a directory that goes again."""
    from memkit import local

    with (
        tempfile.TemporaryDirectory(prefix="memkit-doctor-") as directory,
        local.postgres(directory) as dsn,
    ):
        return f"{_server(dsn)}, {_extension(dsn)}"


def _server(dsn: str) -> str:
    from memkit.db.pool import connect, translated

    with translated(dsn), connect(dsn) as connection:
        row = connection.execute("SELECT current_setting('server_version')").fetchone()
    return f"PostgreSQL {row[0] if row else 'of an unknown version'}"


def _extension(dsn: str) -> str:
    from memkit.db.pool import connect, translated

    with translated(dsn), connect(dsn) as connection:
        row = connection.execute(
            "SELECT coalesce(installed_version, default_version) FROM pg_available_extensions "
            "WHERE name = 'vector'"
        ).fetchone()
    if row is None:
        raise ConfigError("the server has no pgvector")
    if tuple(int(part) for part in row[0].split(".")[:2]) < (0, 8):
        raise ConfigError(f"pgvector {row[0]} is older than 0.8")
    return f"pgvector {row[0]}"


def _store(dsn: str) -> str:
    """Count what a store holds; pending migrations are named in the error."""
    from memkit.store.stats import store_stats

    stats = store_stats(dsn)
    return f"migrated; {stats.items:,} items of {stats.tenants:,} tenants"


def _model(name: str | None, base_url: str | None, gguf: str | None, *, none: bool) -> str:
    model = chosen_model(name, base_url, gguf, none=none)
    if model is None:
        return "none asked for: no option names one, and there is no OPENAI_API_KEY"
    return f"{getattr(model, 'model_name', type(model).__name__)} answers"
