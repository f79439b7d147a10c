"""The chat model of the demo: named on the command line, implied by a key, or none."""

import os
from typing import cast

from langchain_core.language_models import BaseChatModel

from memkit.errors import ConfigError

DEFAULT_MODEL = "gpt-4o-mini"
_TIMEOUT_S = 120.0


def choose_model(
    name: str | None = None, base_url: str | None = None, gguf: str | None = None
) -> BaseChatModel | None:
    """Return the model that the arguments or OPENAI_API_KEY ask for, None if nothing does.

    Args:
        name: A model of OpenAI, or of the server at `base_url` (default: OPENAI_BASE_URL).
        base_url: Any OpenAI-compatible server; one of your own needs no key.
        gguf: Path of a model that llama.cpp runs in this process.

    Raises:
        ConfigError: The arguments contradict each other, or the model does not answer.
    """
    if gguf is not None:
        if name is not None or base_url is not None:
            raise ConfigError("--gguf runs its own server; give it without --model and --base-url")
        from memkit import local

        return cast("BaseChatModel", local.chat_model(gguf))
    key = os.environ.get("OPENAI_API_KEY")
    if name is None and base_url is None and not key:
        return None
    server = base_url or os.environ.get("OPENAI_BASE_URL")
    if not key and server is None:
        raise ConfigError(
            f"--model {name} needs OPENAI_API_KEY, or --base-url with the address of a server"
        )
    from langchain_openai import ChatOpenAI
    from pydantic import SecretStr

    return ChatOpenAI(
        model=name or DEFAULT_MODEL,
        base_url=server,
        api_key=SecretStr(key or "none"),  # the client insists on one; own servers ignore it
        temperature=0,
        timeout=_TIMEOUT_S,
        max_retries=2,
    )


def check_model(model: BaseChatModel) -> None:
    """Ask for one word, so that a model that cannot answer is found before anything is written.

    Raises:
        ConfigError: It does not answer.
    """
    import httpx
    import openai

    try:
        model.invoke("Reply with the word yes.")
    except (openai.OpenAIError, httpx.HTTPError, OSError, ValueError) as error:
        where = getattr(model, "openai_api_base", None) or "its default address"
        what = getattr(model, "model_name", type(model).__name__)
        raise ConfigError(
            f"the model {what!r} at {where} does not answer ({type(error).__name__}: {error}); "
            "check --model, --base-url and OPENAI_API_KEY, or go without a model by --no-model"
        ) from error
