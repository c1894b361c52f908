"""tools/ptxas_report.py: no build compiles its kernels, so nobody else sees that they are old."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "tools" / "ptxas_report.py"


@pytest.mark.skipif(not SCRIPT.exists(), reason="there are no tools beside the tests")
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_kernels_of_the_report_compile():
    report = runpy.run_path(str(SCRIPT), run_name="ptxas_report")
    kernels = report["compiled"](report["PRODUCTS"], "90")
    assert [kernel.name for kernel in kernels] == ["product<double>", "product<float>"]
    assert all(kernel.registers > 0 and kernel.called for kernel in kernels)
