# make setup | run | test | test-all | crash-test | bench | results | docs | clean. Needs Python 3.11 or newer only.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup run test test-all crash-test bench results docs clean

setup: $(STAMP)

# torch is installed first: with its version fixed, pip does not consider other versions of many hundred megabytes.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "peerage needs Python 3.11 or newer")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

# Prints the paths of the figures and the report, and the next commands.
run: setup
	$(BIN)/peerage train --config quick-lunarlander --overwrite
	@echo
	@echo 'Next, after `source .venv/bin/activate`:'
	@echo '  peerage evaluate experiments/quick-lunarlander --episodes 20'
	@echo '  peerage train --config quick-lunarlander --sharing none --exp-name quick-alone'
	@echo '  peerage compare experiments/quick-lunarlander experiments/quick-alone'

# Lint, types and the tests that take a few minutes on two cores; each test process uses one thread.
test: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal

# The same with the long tests: faults, hostile input, kills, memory, learning.
test-all: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal -m ''

# Kills and resumes 200 tiny runs and compares them with uninterrupted runs; a few minutes.
crash-test: setup
	$(BIN)/python -m benchmarks.crash --trials 200

# Also installs the libraries that Peerage is compared with.
bench: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[bench]"
	$(BIN)/python -m benchmarks.bench
	$(BIN)/python -m benchmarks.ppo_speed
	$(BIN)/python -m benchmarks.dt_speed

results: setup
	$(BIN)/python -m benchmarks.peer_learning run

docs: setup
	$(BIN)/python -m peerage.manual > docs/command-line.md

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
