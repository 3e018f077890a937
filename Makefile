# The two commands a newcomer needs: `make demo` and `make test`. Both set up what they need first.
ARGS ?=
PY := .venv/bin/python
# Byte code is kept, whatever the shell says: every process of tests imports all of them.
export PYTHONDONTWRITEBYTECODE :=
# Unit and property tests compute: more processes than cores would only import everything once more each. Schemathesis'
# plugin for pytest is not used, and takes every process half a second.
UNIT := -m "not real and not simulation" -n 2 --dist loadfile -p no:schemathesis \
	tests/test_architecture.py tests/unit tests/properties
# Tests with gateways mostly wait for time-outs and processes, so four of their files go at once even on two cores.
# Only their folder is collected, since every process would import the libraries of the tests with real engines, too.
FLOW := -m "not real and not simulation" -n 4 --dist loadfile -p no:schemathesis tests/flow
# Slow ones keep a core busy for longer: two at once. Files that share a vLLM run one after the other in one process.
SLOW := -m "(real or simulation) and not story" -n 2 --dist loadfile -p no:schemathesis

.PHONY: help setup demo test check cover flow simulate bench clean

help:  ## Show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup:  ## Make .venv and install everything (2 GB; a minute or two, nothing if it is done)
	@scripts/setup.sh

demo: setup  ## Serve a real base and real adapters, and show what the gateway does (ARGS=--exit to end by itself)
	@$(PY) -m gateway demo $(ARGS)

test: $(if $(ARGS),check,cover)  ## Run every test, real engines and simulations included
	$(PY) -m pytest -q $(FLOW) $(ARGS)
	$(PY) -m pytest -q $(SLOW) $(ARGS)

check: setup  ## Lint, types, architecture, unit and property tests: the loop while you work
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	HYPOTHESIS_PROFILE=quick $(PY) -m pytest -q $(UNIT) $(ARGS)

cover: setup  ## The same tests with all examples; fails unless they run every line and branch of pure code
	$(PY) -m pytest -q $(UNIT) --cov --cov-report=
	$(PY) -m coverage report --skip-covered --show-missing --fail-under=100

flow: setup  ## The other fast tests: the real command in front of a fake engine
	$(PY) -m pytest -q $(FLOW) $(ARGS)

simulate: setup  ## Simulate what verdicts promise, and write docs/statistics.md's tables and figures (some minutes)
	@$(PY) -m simulations $(ARGS)

bench: setup  ## Measure Loragate and its peers side by side, in one table
	$(PY) -m bench $(ARGS)

clean:  ## Remove what was built here (not the model cache)
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .coverage .hypothesis bench/.cache build dist
