"""Where a command finds things: database, store, embeddings, a saver, a chat model."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memkit.errors import ConfigError

if TYPE_CHECKING:
    from langchain_core.language_models import BaseChatModel

    from memkit.store import SemanticStore


@contextmanager
def database(dsn: str | None) -> Iterator[str]:
    """Yield the address of the database, the embedded one's by default."""
    if dsn is not None:
        yield dsn
        return
    from memkit.local import postgres

    with postgres() as address:
        yield address


@contextmanager
def opened_store(
    dsn: str | None, embeddings: str | None = None, *, writes: bool
) -> Iterator["SemanticStore"]:
    """Open the store; who writes facts needs the embeddings that their vectors were made with.

    A store that holds no vectors needs none; the embedded one holds those of `memkit.local`.
    """
    from memkit.store import SemanticStore

    with database(dsn) as address:
        with SemanticStore.open(address, search_mode="text") as store:
            if dsn is None:
                store.setup()
            dims = store.stored_dims()
            if not writes or dims is None:
                yield store
                return
        name = embeddings or ("local" if dsn is None else None)
        if name is None:
            raise ConfigError(
                f"the facts have vectors of {dims} dimensions, and what is rewritten needs new "
                'ones: say with --embeddings what they were made with ("local", or '
                '"openai:text-embedding-3-small")'
            )
        with SemanticStore.open(address, embed=embeddings_of(name)) as store:
            yield store


def embeddings_of(name: str) -> Any:
    """Return the embeddings of a name: "local", or one for LangChain's init_embeddings."""
    if name == "local":
        from memkit.local import embeddings

        return embeddings()
    from langgraph.store.base import ensure_embeddings

    try:
        return ensure_embeddings(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"cannot make embeddings of {name!r}: {error}") from error


def chosen_model(
    name: str | None, base_url: str | None, gguf: str | None, *, none: bool
) -> "BaseChatModel | None":
    """Return the chat model that is asked for, after it has answered once; None if none is.

    Raises:
        ConfigError: The options contradict each other, or it does not answer.
    """
    if none:
        if name or base_url or gguf:
            raise ConfigError(
                "--no-model contradicts --model, --base-url and --gguf; give one of them"
            )
        return None
    from memkit.demo.models import check_model, choose_model

    model = choose_model(name, base_url, gguf)
    if model is not None:
        check_model(model)
    return model


@contextmanager
def postgres_saver(dsn: str, *, setup: bool = False) -> Iterator[Any]:
    """Open a PostgresSaver, whatever form the address has; see `opened_saver`."""
    from memkit.db.pool import place

    place(dsn)  # a wrong address fails here, without its text
    try:
        from langgraph.checkpoint.postgres import PostgresSaver
    except ImportError:
        raise ConfigError(
            "a PostgresSaver needs: pip install langgraph-checkpoint-postgres"
        ) from None
    with PostgresSaver.from_conn_string(dsn) as saver:
        if setup:
            saver.setup()
        yield saver


@contextmanager
def opened_saver(address: str, *, new: bool = False, setup: bool = False) -> Iterator[Any]:
    """Open the saver at an address.

    Args:
        address: Of Postgres, or a file.
        new: Whether the file may be made.
        setup: Whether its tables are made.

    Raises:
        ConfigError: The package of the saver is missing, or the file.
        StoreError: The address is none.
    """
    if is_postgres(address):
        with postgres_saver(address, setup=setup) as saver:
            yield saver
        return
    path = file_of(address)
    if not new and not path.is_file():
        named = "of this name" if "@" in address or "password" in address else repr(address)
        raise ConfigError(f"there is no file {named}; an address begins with postgresql://")
    try:
        from langgraph.checkpoint.sqlite import SqliteSaver
    except ImportError:
        raise ConfigError("a SqliteSaver needs: pip install langgraph-checkpoint-sqlite") from None
    with SqliteSaver.from_conn_string(str(path)) as saver:
        if setup:
            saver.setup()
        yield saver


def is_postgres(address: str) -> bool:
    """Return whether an address is one of Postgres."""
    return address.startswith(("postgresql://", "postgres://"))


def file_of(address: str) -> Path:
    """Return the file that an address names."""
    if "://" in address:
        raise ConfigError(
            f"{address.split('://', maxsplit=1)[0]}:// is neither Postgres nor a file"
        )
    return Path(address)
