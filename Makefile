# `make demo` and `make test` set up what they need, once, and may be interrupted and repeated at any point.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TESTERS ?= 3# tests wait for sockets and clocks more than they compute
TOGETHER := --dist worksteal# the tests of a file stay together and start what they share once
MODEL := models/smollm2-135m-instruct
.DEFAULT_GOAL := help
.PHONY: help setup model demo test test-fast test-vllm fuzz crash kill-judges check format bench clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# The stamp is there only while the environment is whole: what an interruption left without one is made anew, since
# neither venv nor pip can tell a half-written package from a whole one. Downloads are in pip's cache.
$(VENV)/.installed: pyproject.toml constraints/learner.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one with PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV): about 2 GB of packages, a few minutes, once"
	@test -f $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@$(BIN)/pip install --quiet --quiet --disable-pip-version-check -c constraints/learner.txt -e '.[learner,dev]'
	@touch $@

setup: $(VENV)/.installed ## Create the virtual environment with pinned versions

# It appears together with the whole model, so make must not take it for half-made when it is interrupted.
.PRECIOUS: $(MODEL)/config.json
$(MODEL)/config.json: | $(VENV)/.installed
	@echo "Preparing the demo's model in $(MODEL): 90 MB to fetch, half a minute, once"
	@$(BIN)/python -m learner.base_model $(MODEL)

model: $(MODEL)/config.json ## Prepare the demo's base model

demo: setup model ## Run the whole loop on this machine: traffic, judges, training, canary, rollback
	@$(BIN)/tracetune demo $(DEMO)

test: setup model ## Run all tests, the fast ones first
	@$(BIN)/pytest -m 'not slow and not vllm' -q -n $(TESTERS) $(TOGETHER)
	@$(BIN)/pytest -m 'slow and not vllm' -q -n 2 $(TOGETHER)

test-fast: setup ## Run the tests that need no model and take under ten seconds each
	@$(BIN)/pytest -m 'not slow and not vllm and not model' -q -n $(TESTERS) $(TOGETHER)

test-vllm: setup model ## Run the serving tests against a real vLLM on CPU, in an environment of its own
	@scripts/setup_vllm_cpu.sh
	@$(BIN)/pytest -m vllm -q

fuzz: setup ## Send the request path a hundred thousand random and mutated requests
	@FUZZ_REQUESTS=100000 $(BIN)/pytest tests/gateway/data_plane/test_fuzz.py tests/gateway/data_plane/test_fuzz_answers.py -q

crash: setup ## Kill processes at random moments 200 times, then the store for ten minutes; CRASH="--runs 20" for less
	@$(BIN)/python -m benchmarks.crash $(CRASH)

kill-judges: setup ## Kill what judges at random moments 50 times; KILL="--kills 20" for less
	@$(BIN)/python -m benchmarks.judge_kills $(KILL)

check: setup ## Formatting, lint, types, the Dockerfile
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/hadolint Dockerfile

format: setup ## Apply formatting and safe fixes
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: setup ## Measure ours beside other gateways: one table and one JSON; BENCH=--quick for a short look
	@$(BIN)/python -m benchmarks.install
	@$(BIN)/python -m benchmarks.run $(BENCH)

clean: ## Remove what demo and tests wrote; keeps the environment and the model
	@rm -rf demo-data .pytest_cache .mypy_cache .ruff_cache .hypothesis
