"""tiktoken's encodings, without its download that has no time-out.

Pattern, special tokens, address and hash of an encoding come from tiktoken; only the bytes of the
ranks come from here, and they count only if they have the sha256 that tiktoken pins.
"""

import base64
import gzip
import hashlib
import os
import tempfile
import threading
import time
import uuid
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from queue import Empty, Queue
from types import FunctionType
from typing import Any

import tiktoken

DOWNLOAD_TIMEOUT_S = 3.0

_loading = threading.Lock()
_warned: list[str] = []


class TokenCountWarning(UserWarning):
    """Token counts are upper bounds: the ranks of the encoding are not to be had."""


def name_for(model: str) -> str:
    """Return the name of a model's encoding; o200k_base for a model that tiktoken does not know."""
    try:
        name = tiktoken.encoding_name_for_model(model)
    except KeyError:
        return "o200k_base"
    # The same tokens in a file format of their own.
    return "r50k_base" if name == "gpt2" else name


def load(name: str) -> tiktoken.Encoding | None:
    """Return an encoding, or None (with one warning per process) if its ranks are not to be had.

    The ranks are looked for in tiktoken's cache, then in the installed package bpe-openai, then on
    the network, for at most DOWNLOAD_TIMEOUT_S. The package comes before the network because its
    bytes are the same by hash, and so that nothing waits behind a firewall. What is found outside
    of tiktoken's cache is saved there, where tiktoken finds it when other code calls it.

    Cost: about half a second the first time in a process.
    """
    with _loading:
        return _load(name)


@lru_cache(maxsize=16)
def _load(name: str) -> tiktoken.Encoding | None:
    try:
        return tiktoken.Encoding(**_constructor(name)())
    except LookupError as error:
        _warn_once(str(error.args[0]))
        return None


def _warn_once(reason: str) -> None:
    if _warned:
        return
    _warned.append(reason)
    warnings.warn(
        f"{reason}; token counts are upper bounds from now on. Install memkit[local], which brings "
        "the ranks, or set TIKTOKEN_CACHE_DIR to a directory that has them",
        TokenCountWarning,
        stacklevel=2,
    )


def _constructor(name: str) -> Callable[[], dict[str, Any]]:
    """Return tiktoken's own function that describes an encoding, reading ranks through us."""
    from tiktoken_ext import openai_public  # type: ignore[import-untyped]

    space = {**vars(openai_public), "load_tiktoken_bpe": _ranks}
    for encoding, function in openai_public.ENCODING_CONSTRUCTORS.items():
        # All of them, since one calls another.
        space[encoding] = FunctionType(function.__code__, space)
    if name not in openai_public.ENCODING_CONSTRUCTORS:
        raise LookupError(f"this tiktoken has no encoding {name}")
    return space[name]  # type: ignore[no-any-return]


def _ranks(address: str, expected_hash: str | None = None) -> dict[bytes, int]:
    content = _content(address, expected_hash)
    pairs = (line.split() for line in content.splitlines() if line)
    return {base64.b64decode(token): int(rank) for token, rank in pairs}


def _content(address: str, expected_hash: str | None) -> bytes:
    def checked(content: bytes | None) -> bytes | None:
        if content and hashlib.sha256(content).hexdigest() == expected_hash:
            return content
        return None

    cache = _cache_file(address)
    if found := checked(_read(cache)):
        return found
    if found := checked(_from_package(address)):
        _save(cache, found)
        return found

    def download() -> bytes | None:
        content = checked(_get(address))
        if content:
            _save(cache, content)
        return content

    if found := _within(DOWNLOAD_TIMEOUT_S, download):
        return found
    raise LookupError(
        f"the ranks of {address.rsplit('/', 1)[-1]} are neither cached nor installed, "
        f"and could not be downloaded within {DOWNLOAD_TIMEOUT_S:g} s"
    )


def _cache_file(address: str) -> Path | None:
    """Return where tiktoken caches a download; None if its cache is turned off."""
    for variable in ("TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR"):
        if (directory := os.environ.get(variable)) is not None:
            break
    else:
        directory = str(Path(tempfile.gettempdir(), "data-gym-cache"))
    name = hashlib.sha1(address.encode(), usedforsecurity=False).hexdigest()
    return Path(directory, name) if directory else None


def _read(file: Path | None) -> bytes | None:
    try:
        return file.read_bytes() if file else None
    except OSError:
        return None


def _save(file: Path | None, content: bytes) -> None:
    if file is None:
        return
    part = file.with_name(f"{file.name}.{uuid.uuid4().hex}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(file)
    except OSError:  # a cache is a convenience
        with suppress(OSError):
            part.unlink()


def _from_package(address: str) -> bytes | None:
    # Located, not imported: importing loads its native library of 74 MB.
    spec = find_spec("bpe_openai")
    if spec is None or not spec.submodule_search_locations:
        return None
    name = address.rsplit("/", 1)[-1]
    packed = _read(Path(spec.submodule_search_locations[0], "data", f"{name}.gz"))
    try:
        return gzip.decompress(packed) if packed else None
    except (OSError, EOFError, ValueError):
        return None


def _get(address: str) -> bytes | None:
    import requests  # a dependency of tiktoken

    # The thread may go on a little after its caller has given up, and fill the cache.
    deadline = time.monotonic() + 10 * DOWNLOAD_TIMEOUT_S
    content = bytearray()
    try:
        with requests.get(address, timeout=DOWNLOAD_TIMEOUT_S, stream=True) as reply:
            reply.raise_for_status()
            for part in reply.iter_content(1 << 16):
                content += part
                if time.monotonic() > deadline:
                    return None
    except (requests.RequestException, OSError):
        return None
    return bytes(content)


def _within(timeout_s: float, work: Callable[[], bytes | None]) -> bytes | None:
    """Return the result of work, or None after the time-out.

    In a thread, for no time-out of a socket covers name resolution or a server that sends a byte
    now and then.
    """
    answer: Queue[bytes | None] = Queue()
    thread = threading.Thread(target=lambda: answer.put(work()), name="memkit-ranks", daemon=True)
    thread.start()
    try:
        return answer.get(timeout=timeout_s)
    except Empty:
        return None
