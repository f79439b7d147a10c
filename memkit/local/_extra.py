"""Imports of the optional packages, with one error for all of them."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

from memkit.errors import ConfigError


def need(module: str) -> ModuleType:
    """Import an optional module.

    Raises:
        ConfigError: it is not installed, or cannot be loaded on this machine.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name or module} is not installed; install memkit[local] "
            "(pip install 'memkit[local]')"
        ) from error
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"{module} is installed but cannot be loaded on this machine ({error}); "
            "reinstall memkit[local] for this Python and platform"
        ) from error


def package_directory(package: str) -> Path:
    """Return where a package is installed, without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"{package} is not installed; install memkit[local] (pip install 'memkit[local]')"
        )
    return Path(spec.submodule_search_locations[0])
