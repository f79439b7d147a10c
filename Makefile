# Everything runs in .venv, which is made on first use and reused afterwards.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test test-lowest check fuzz bench format clean

demo: $(VENV)/.local ## replay the shipped conversation
	$(BIN)/memkit demo $(ARGS)

test: $(VENV)/.dev ## every test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

test-lowest: $(VENV)/.base ## the lowest versions that pyproject.toml allows
	$(INSTALL) uv
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)/lowest
	$(BIN)/uv pip install --quiet --python $(VENV)/lowest/bin/python --resolution lowest-direct -e '.[dev]'
	$(VENV)/lowest/bin/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(or $(ARGS),tests/unit tests/contract tests/integration/test_prune.py)

check: $(VENV)/.dev ## format, lint, types, layering
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

fuzz: $(VENV)/.dev ## what a view promises, on 5,000 conversations
	MEMKIT_FUZZ=5000 $(BIN)/python -m pytest tests/property/test_view.py $(ARGS)

bench: $(VENV)/.bench ## a benchmark and its options: make bench ARGS="trim --quick"
	$(BIN)/python -m benchmarks $(ARGS)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(VENV)/.base: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "memkit needs Python 3.11 or newer; try: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) hatchling editables
	@touch $@

# The build backend is installed above at its pinned version, hence no isolation.
$(VENV)/.local $(VENV)/.dev $(VENV)/.bench: $(VENV)/.%: $(VENV)/.base pyproject.toml constraints.txt
	@echo "installing memkit[$*] into $(VENV) (a few minutes the first time)"
	$(INSTALL) --no-build-isolation -e '.[$*]'
	@touch $@
