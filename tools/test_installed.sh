#!/usr/bin/env bash
# test_installed.sh PYTHON
#
# Runs the tests on the fastmaml that is installed for PYTHON, where there is no compiler: all that
# is on the path is what belongs to that Python, and git.
set -euo pipefail

python=$(realpath --no-symlinks "$(command -v "$1")") # in a virtual environment it is a link
cd "$(dirname "$0")/.."
programs=$(mktemp -d)
trap 'rm -r "$programs"' EXIT
ln -s "$(command -v git)" "$programs"

run() {
  env --unset=PYTHONPATH PATH="$(dirname "$python"):$programs" CC=/bin/false CXX=/bin/false "$@"
}

run "$python" - <<'EOF'
import shutil
import sysconfig
from pathlib import Path

import fastmaml
from fastmaml import cli
from fastmaml.extension import cuda_extension

for compiler in ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc", "cmake", "ninja"):
    assert shutil.which(compiler) is None, f"there is {shutil.which(compiler)}"
folder = Path(fastmaml.__file__).parent
assert folder.parent == Path(sysconfig.get_path("platlib")), f"fastmaml is that of {folder}"
assert not isinstance(cuda_extension(), str), cuda_extension()
cli.main(["info"])
EOF
run "$python" -m pytest -rs
