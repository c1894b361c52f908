#!/usr/bin/env bash
# What to run on a machine with an NVIDIA GPU, in parts of less than nine minutes each on 16 cores
# (seen: the build takes 100 s, the tests of one executor over 70 s):
#
#   bench/gpu_check.sh kernels        the kernels without Python: times, sanitizers, ncu
#   bench/gpu_check.sh build-test     build, the tests on CUDA tensors, memcheck and racecheck
#   bench/gpu_check.sh compiled       the same of kernels that are compiled at a call's first run
#   bench/gpu_check.sh compare-cuda   the comparison on its GPU
#   bench/gpu_check.sh tasks-cuda     the same for more and more tasks
#   bench/gpu_check.sh all-tests      build, and all other tests
#
# Needs python3 with torch for CUDA and what pyproject.toml names for building and testing, nvcc
# and compute-sanitizer; no network: contenders that are not there are named in the results with the
# reason. Logs and results are left in $OUT, also of a part that is ended early.
set -euo pipefail
cd "$(dirname "$0")/.."

OUT=${OUT:-build/gpu_check}
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
export PYTHONUNBUFFERED=1

# Again in seconds where nothing has changed, since the build's folder stays.
build() {
  local log="$OUT/build.log" start=$SECONDS
  {
    nvidia-smi && nvcc --version &&
      "$PYTHON" -m pip install --no-build-isolation --no-deps -v -C build-dir=build/gpu . &&
      (cd / && "$PYTHON" -c 'from fastmaml.cli import main; main(["info"])')
  } >"$log" 2>&1 || {
    tail -60 "$log"
    return 1
  }
  tail -15 "$log"
  echo "built in $((SECONDS - start)) s"
}

# pytest on tests, in several processes where pytest-xdist is there: `run_tests LOG SECONDS TEST...`
run_tests() {
  local log="$OUT/$1" seconds=$2 workers=()
  shift 2
  if "$PYTHON" -c 'import xdist' 2>/dev/null; then workers=(-n 12); fi
  timeout --signal=INT --kill-after=10 "$seconds" \
    "$PYTHON" -m pytest -v -rs --durations=10 "${workers[@]}" "$@" 2>&1 | tee "$log" | tail -60
}

# Small programs with every op and loss, in the native executor. Without the caching allocator
# every tensor is an allocation of its own, and a look beyond its end is seen.
run_sanitizer() {
  echo "== compute-sanitizer --tool $1"
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 timeout --signal=INT --kill-after=10 "$2" \
    compute-sanitizer --tool "$1" --target-processes all --print-limit 20 --error-exitcode 9 \
    "$PYTHON" -m pytest -q -x -p no:cacheprovider tests/test_cuda_algorithms.py \
    -k "native and (test_ops or test_losses)" 2>&1 | tee -a "$OUT/sanitizers.log" | tail -20
}

# `run_sanitizers SECONDS`, each
run_sanitizers() {
  local failed=0
  : >"$OUT/sanitizers.log"
  for tool in memcheck racecheck; do
    run_sanitizer "$tool" "$1" || failed=1
  done
  return "$failed"
}

# Results are written after each workload, so those that were done in time are there.
compare() {
  timeout --signal=INT --kill-after=10 "$1" \
    "$PYTHON" -m bench "${@:2}" 2>&1 | tee "$OUT/compare.log" | tail -150
}

# The driver of bench/csrc, which can also be built elsewhere and named by CUDA_BENCH.
run_kernels() {
  local driver=${CUDA_BENCH:-build/kernels/bench/csrc/cuda_bench}
  if [ ! -x "$driver" ]; then
    cmake -S . -B build/kernels -DFASTMAML_PYTHON=OFF -DFASTMAML_TESTS=ON >"$OUT/build.log" 2>&1
    cmake --build build/kernels --target cuda_bench -j >>"$OUT/build.log" 2>&1
  fi
  timeout 60 "$driver" all
  for tool in memcheck racecheck initcheck; do
    for workload in sine anil; do
      echo "== compute-sanitizer --tool $tool, $workload"
      timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$driver" "$workload" 1 | tail -2
    done
  done
  for workload in sine5 sine1k omnimlp siren; do
    timeout 60 ncu --set full --kernel-name regex:run_tasks -c 1 --clock-control none \
      "$driver" "$workload" 1 >"$OUT/ncu_$workload.txt" 2>&1
  done
}

failed=0
case "${1:-}" in
  kernels)
    run_kernels 2>&1 | tee "$OUT/kernels.log" || failed=1
    ;;
  build-test)
    build
    run_tests tests.log 300 tests/test_cuda_*.py || failed=1
    run_sanitizers 45 || failed=1
    ;;
  compiled)
    build
    export FASTMAML_COMPILE=0
    run_tests compiled.log 240 tests/test_cuda_algorithms.py tests/test_cuda_calls.py \
      -k "native or kernel" || failed=1
    run_sanitizers 60 || failed=1
    ;;
  compare-cuda)
    build
    compare 235 sine sine5 sine1k regress200 anil anil1k omnimlp omnimlpbn siren --device cuda \
      --contenders fastmaml autograd captured generic plain func graphs jax --jobs 12 --limit 110 \
      --seconds 6 --rounds 9 --least 1 --out "$OUT/cuda" || failed=1
    ;;
  tasks-cuda)
    build
    compare 200 sine5 anil --device cuda --tasks 1 10 100 1000 10000 \
      --contenders fastmaml captured func graphs jax --jobs 12 --limit 110 \
      --seconds 3 --rounds 7 --least 1 --no-memory --out "$OUT/tasks" || failed=1
    ;;
  all-tests)
    build
    run_tests tests.log 220 || failed=1
    ;;
  *)
    sed -n '2,15s/^# \{0,1\}//p' "$0"
    exit 2
    ;;
esac
exit "$failed"
