# Two commands do everything on a fresh machine with Python 3.11+ and make: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test test-slow test-all check docs bench clean lock

demo: $(VENV)/.installed
	$(BIN)/relabel demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow"

# Clusters, kill -9, simulations, browsers, the embedded model, whole exports of real data.
test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist loadfile -m slow

test-all: test test-slow

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/deptry src
	$(BIN)/codespell $$(git ls-files)
	$(BIN)/python design/check.py
	$(BIN)/python docs/cli_reference.py --check

bench: $(VENV)/.installed-dev
	$(BIN)/python bench/start.py
	$(BIN)/python bench/commands.py
	$(BIN)/python bench/pack_tokens.py
	$(BIN)/python bench/scale.py

docs: $(VENV)/.installed-dev
	$(BIN)/python docs/cli_reference.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "relabel needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

# Every file that is installed is checked by its hash; what builds the package itself is among them, so nothing else is fetched.
INSTALL = $(BIN)/python -m pip install --quiet --no-compile --no-deps
# Byte code is made once, by all cores: where PYTHONDONTWRITEBYTECODE is set, each start would otherwise compile everything anew.
COMPILE = $(BIN)/python -m compileall -qq -j 0 $(VENV) src || true

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml locks/runtime.txt
	$(INSTALL) --require-hashes --requirement locks/runtime.txt
	$(INSTALL) --no-build-isolation --editable .
	$(COMPILE)
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml locks/dev.txt
	$(INSTALL) --require-hashes --requirement locks/dev.txt
	$(INSTALL) --no-build-isolation --editable .
	$(COMPILE)
	touch $@ $(VENV)/.installed

# After a change of pyproject.toml or constraints.txt; needs uv (https://docs.astral.sh/uv). Takes the hashes of all platforms.
LOCK = uv pip compile pyproject.toml - --constraint constraints.txt --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --quiet
lock:
	mkdir -p locks
	printf 'hatchling==1.33.0\neditables\n' | $(LOCK) --output-file locks/runtime.txt
	printf 'hatchling==1.33.0\neditables\n' | $(LOCK) --extra dev --output-file locks/dev.txt
