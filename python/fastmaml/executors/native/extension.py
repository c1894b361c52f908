"""The extension module, or why there is none."""

from __future__ import annotations

from functools import cache

try:
    from fastmaml import _native as extension

    _import_error = None
except ImportError as error:
    extension = None
    _import_error = str(error)


@cache
def unavailable() -> str | None:
    """Why this process has no native executor; None if it has."""
    if extension is None:
        return f"the extension module fastmaml._native cannot be loaded: {_import_error}"
    try:
        extension.isa()
    except RuntimeError as error:  # FASTMAML_ISA names what this processor has not
        return str(error)
    return None
