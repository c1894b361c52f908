"""Another version of fastmaml, built to be compared with the present one."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

_ROOT = Path(__file__).parents[1]
_SHOWN_LINES = 30
"""Of the end of a build that failed."""


class BuildError(Exception):
    """There is no such version, or it does not build; the message says why."""


def build(revision: str, folder: Path, repository: Path = _ROOT) -> str:
    """Builds and installs a revision of the repository into the folder, without dependencies.

    Returns:
        the revision's short hash.

    Raises:
        BuildError: git knows no such revision, or pip could not build it.
    """
    git = ["git", "-C", repository]
    commit = [*git, "rev-parse", "--verify", "--quiet", "--short", f"{revision}^{{commit}}"]
    found = subprocess.run(commit, capture_output=True, text=True)
    if found.returncode:
        raise BuildError(f"{revision} is no commit of {repository}")
    short = found.stdout.strip()
    archive = subprocess.run([*git, "archive", short], capture_output=True, check=True).stdout
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-build-isolation"]
    with tempfile.TemporaryDirectory() as source:
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            files.extractall(source, filter="data")
        built = subprocess.run(
            [*pip, "--target", folder, source], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
    if built.returncode:
        lines = built.stdout.decode(errors="replace").rstrip().splitlines()[-_SHOWN_LINES:]
        raise BuildError("\n".join([f"{revision} ({short}) does not build:", *lines]))
    return short
