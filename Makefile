# One-word commands for a checkout; each sets up first what is missing. `make` alone lists them.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2 --dist loadfile
export PYTHON
bin := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup demo check test bench docs lock clean

help: ## list these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r t d; do printf '%-14s %s\n' "$$t" "$$d"; done

setup: ## install what is missing: Debian packages, then .venv from requirements.lock
	@./tools/setup

demo: setup ## a private Postfix with gatepost in a temporary directory, and a tour of it
	@$(bin)/gatepost demo

check: setup ## ruff and mypy strict over source, hooks and tests
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy

test: setup ## the whole test suite; PYTEST_ARGS="-x tests/services" for less
	$(bin)/python -m pytest $(PYTEST_ARGS)

bench: setup ## throughput beside Postfix alone
	$(bin)/python tests/bench/run.py

docs: setup ## pages that are made from the source
	$(bin)/python -m gatepost.ops.hooks_page > docs/hooks.md
	$(bin)/python -m gatepost.ops.plugins_page > docs/plugins.md

lock: ## requirements.lock anew, newest versions that pyproject.toml allows
	@./tools/setup --lock

clean: ## remove .venv and everything built
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
