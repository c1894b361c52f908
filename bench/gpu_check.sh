#!/usr/bin/env bash
# What to run on a machine with an NVIDIA GPU, in parts of less than nine minutes each:
#
#   bench/gpu_check.sh build-test     build and install with nvcc in reach, all tests, sanitizers
#   bench/gpu_check.sh compare        the comparison on this machine's processor
#   bench/gpu_check.sh compare-cuda   the comparison on its GPU
#
# Needs python3 with torch for CUDA and what pyproject.toml names for building and testing, nvcc
# and compute-sanitizer; no network: contenders that are not there are named in the results with the
# reason. Logs and results are left in $OUT.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-build/gpu_check}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"

build() {
  nvidia-smi
  nvcc --version
  "$PYTHON" -c 'import torch; print("torch", torch.__version__, "CUDA", torch.version.cuda)'
  "$PYTHON" -m pip install --no-build-isolation --no-deps .
  "$PYTHON" -c 'import fastmaml; print("fastmaml", fastmaml.__version__, fastmaml.__file__)'
}

# Tests that need CUDA tensors (the reference executor on them) run here, and are skipped elsewhere.
run_tests() { timeout 400 "$PYTHON" -m pytest -q -rs 2>&1 | tee "$OUT/tests.log"; }

# Here compute-sanitizer --tool memcheck, and racecheck, over a driver of the CUDA kernels.
run_sanitizers() {
  echo "sanitizers: this version has no CUDA kernels, so there is nothing for memcheck and" \
    "racecheck to check" | tee "$OUT/sanitizers.log"
}

# Results are written after each workload, so those that were done in time are there.
compare() { timeout --signal=INT 420 "$PYTHON" -m bench "$@" 2>&1 | tee "$OUT/compare.log"; }

case "${1:-}" in
  build-test)
    build 2>&1 | tee "$OUT/build.log"
    run_sanitizers
    run_tests
    ;;
  compare)
    build 2>&1 | tee "$OUT/build.log"
    compare --seconds 8 --limit 60 --out "$OUT/cpu"
    ;;
  compare-cuda)
    build 2>&1 | tee "$OUT/build.log"
    compare sine sine5 regress200 anil omnimlp omnimlpbn siren \
      --device cuda --seconds 8 --limit 60 --out "$OUT/cuda"
    ;;
  *)
    sed -n '2,10s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
