"""Libraries that fastmaml can do without."""

from __future__ import annotations

import importlib
from types import ModuleType


def require(module: str, user: str) -> ModuleType:
    """Imports `module` of the demo extra, or says how to install it for `user`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        library = {"PIL": "pillow"}.get(module.split(".")[0], module.split(".")[0])
        raise ImportError(f"{user} needs {library}: pip install fastmaml[demo]") from error
