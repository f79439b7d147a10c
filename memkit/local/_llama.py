"""A chat model from a GGUF file, served by llama.cpp inside this process."""

import os
import secrets
from pathlib import Path
from typing import Any, Self

from langchain_openai import ChatOpenAI
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
from pydantic import PrivateAttr

from memkit.errors import ConfigError
from memkit.local._extra import need

_MAGIC = b"GGUF"
_HEADER_BYTES = 24  # magic, version, number of tensors, number of keys


class LlamaChat(ChatOpenAI):
    """A ChatOpenAI whose server is llama.cpp in this process, on 127.0.0.1 behind a random key.

    The model's memory is freed by `close()`, at the end of a `with` block, or with the object.
    """

    _server: Any = PrivateAttr(default=None)

    @property
    def _llm_type(self) -> str:
        return "memkit-llama"

    def close(self) -> None:
        """Stop the server and free the model."""
        self._server = None
        if isinstance(self.http_client, DefaultHttpxClient):
            self.http_client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def chat_model(
    gguf_path: str | os.PathLike[str],
    *,
    n_ctx: int = 8192,
    n_threads: int | None = None,
    **kwargs: Any,
) -> LlamaChat:
    """Load a GGUF file and return a chat model, or context manager, that talks to it.

    Args:
        gguf_path: The model file.
        n_ctx: Tokens of prompt and reply together; the memory grows with it.
        n_threads: Threads to compute with; by default the cores but one, since a thread for each
            core makes calls many times slower when anything else runs.
        kwargs: For ChatOpenAI, such as `temperature` (0 by default) and `max_tokens` (1024).

    Raises:
        ConfigError: The extra is missing, or the file is missing, no GGUF, or cannot be loaded.

    Example:
        with chat_model("SmolLM2-135M-Instruct.gguf") as model:
            model.invoke("Say hello.")
    """
    path = _checked(gguf_path)
    server, address, key = _serve(path, n_ctx, n_threads or max(1, (os.cpu_count() or 2) - 1))
    settings: dict[str, Any] = {
        "model": path.stem,
        "temperature": 0,
        "max_tokens": 1024,  # a small model may never find an end
        "timeout": 600,
        "max_retries": 0,
        # The server is here: no proxy of the environment may come between.
        "http_client": DefaultHttpxClient(trust_env=False),
        "http_async_client": DefaultAsyncHttpxClient(trust_env=False),
        # A kept connection would outlive the event loop of its call.
        "default_headers": {"Connection": "close"},
        **kwargs,
        "base_url": f"{address}/v1",
        "api_key": key,
    }
    model = LlamaChat(**settings)
    model._server = server
    return model


def _checked(gguf_path: str | os.PathLike[str]) -> Path:
    """Return the path of a file that starts like a GGUF; the native library may crash on others."""
    path = Path(gguf_path).expanduser()
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except OSError as error:
        raise ConfigError(
            f"cannot read the model file {path}: {error.strerror or error}; give a GGUF file"
        ) from error
    if len(header) < _HEADER_BYTES or not header.startswith(_MAGIC):
        raise ConfigError(
            f"{path} is not a GGUF model file (it starts with {header[:4]!r}); give a file for "
            "llama.cpp, such as one named *.gguf"
        )
    return path.resolve()


def _serve(path: Path, n_ctx: int, n_threads: int) -> tuple[Any, str, str]:
    llama = need("xllamacpp")
    key = secrets.token_urlsafe(24)
    params = llama.CommonParams()
    params.model.path = str(path)
    params.n_ctx = n_ctx
    params.n_parallel = 1
    params.cpuparams.n_threads = n_threads
    params.cpuparams_batch.n_threads = n_threads
    params.api_keys = [key]
    params.verbosity = -1
    params.ui = False
    params.warmup = False
    try:
        server = llama.Server(params)
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"llama.cpp cannot load {path}: the file is cut short or corrupt, its architecture is "
            f"unknown to the installed xllamacpp, or memory is too small for n_ctx={n_ctx}; "
            "download it again, or give another file"
        ) from error
    return server, server.listening_address, key
