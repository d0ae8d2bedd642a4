# make demo    replays a capture through worker processes      make test    the whole test suite
# make check   lint, types, tests    make bench    make bench-native    make fix    make clean
#
# Options go in ARGS: make demo ARGS="--workers 4 --burst 64 trace.pcapng"

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
SOURCES := pyproject.toml setup.py $(wildcard shmpool/hot/*.[ch] shmpool/native/*.[ch] shmpool/native/*.py)
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet

.PHONY: all demo test lint check bench bench-native fix clean
all: $(VENV)/.demo

# One stamp for each set of extras, so that a demo does not have to install the linters.
$(VENV)/.demo: EXTRAS := demo
$(VENV)/.dev: EXTRAS := dev
$(VENV)/.bench: EXTRAS := bench
$(VENV)/.demo $(VENV)/.dev $(VENV)/.bench: $(SOURCES)
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/python -m clients.demo $(ARGS)

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.c' '*.h')
	$(BIN)/mypy shmpool clients

check: lint test

bench: $(VENV)/.bench
	$(BIN)/python -m clients.bench $(ARGS)

bench-native:
	$(MAKE) -C clients/bench/native run ARGS="$(ARGS)"

fix: $(VENV)/.dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format
	$(BIN)/clang-format -i $$(git ls-files '*.c' '*.h')

clean:
	rm -rf $(VENV) build dist *.egg-info shmpool/_native*.so shmpool/_native.c clients/bench/native/build
