# `make help` lists the targets. Settings may stand on the command line (make run SPEED=60) or in .env (see .env.example).
-include .env
export
MODE ?= kraft
PYTHON_HERE := .venv/bin/python

.DEFAULT_GOAL := help
KERNELS := .venv/.kernels-compiled
.PHONY: help setup run test check bench broker-start broker-stop broker-status clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## .venv with a Python 3.10 to 3.13 and requirements.txt (the others do this first)
	@./setup.sh

$(KERNELS): $(wildcard *.py sor/*.py sor/feed/*.py sor/placement/*.py sor/venues.toml) l1_day.csv | setup
	@echo "setup: compiling the kernels (once, a minute)" >&2
	@env -i PATH="$$PATH" HOME="$$HOME" $(PYTHON_HERE) backtest.py --csv l1_day.csv --out .venv/warm-up >.venv/warm-up.log 2>&1 || { cat .venv/warm-up.log >&2; exit 1; }
	@touch $@

run: setup $(KERNELS) ## the pipeline: l1_day.csv through a local Kafka to output.json and results.png (SPEED=0: as fast as possible)
	@$(PYTHON_HERE) -m broker.pipeline --mode $(MODE)

test: setup ## every test, those on a real broker of their own too; nothing is skipped
	@$(PYTHON_HERE) -m broker.local jars
	@CI=1 $(PYTHON_HERE) -m pytest

check: setup ## lint and format
	@$(PYTHON_HERE) -m ruff check .
	@$(PYTHON_HERE) -m ruff format --check .

bench: setup $(KERNELS) ## speed and memory (the table of benchmarks/README.md)
	@$(PYTHON_HERE) -m pip install --quiet --no-deps --upgrade --target .venv/bench -r benchmarks/requirements.txt || \
		echo "bench: hftbacktest could not be installed; its rows are left out" >&2
	@$(PYTHON_HERE) -m benchmarks

broker-start: setup $(KERNELS) ## start a local Kafka on 127.0.0.1:9092 (MODE=zookeeper: with a ZooKeeper on 2181)
	@$(PYTHON_HERE) -m broker.local start --mode $(MODE)

broker-stop: setup ## stop the Kafka that broker-start started
	@$(PYTHON_HERE) -m broker.local stop

broker-status: setup ## is it running, and does it answer
	@$(PYTHON_HERE) -m broker.local status || true

clean: ## stop the local Kafka; remove .venv, Kafka's jars and data, caches and output.json
	@test ! -x $(PYTHON_HERE) || $(PYTHON_HERE) -m broker.local stop
	rm -rf .venv .kafka .pytest_cache .ruff_cache .hypothesis output.json grid_results.json results.pdf savings_plot.png rejects.csv
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
