# `make help` lists the targets. Settings may stand on the command line (make run SPEED=60) or in .env (see .env.example).
-include .env
export
MODE ?= kraft
WORKERS ?= 3# one more than the cores of a small machine, since some tests wait
FORM = $(if $(filter-out 0 no false,$(SECURE)),--secure) $(if $(filter-out 0 no false,$(INSECURE)),--insecure)
PYTHON_HERE := .venv/bin/python

.DEFAULT_GOAL := help
KERNELS := .venv/.kernels-compiled
AUDIT := .venv/audit/.stamp
.PHONY: help setup run test test-tools check bench bench-memory fuzz chaos broker-start broker-stop broker-status clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

setup: ## .venv with a Python 3.10 to 3.13 and requirements.txt (the others do this first)
	@./setup.sh

$(KERNELS): $(wildcard *.py sor/*.py sor/feed/*.py sor/placement/*.py sor/venues.toml) l1_day.csv | setup
	@echo "setup: compiling the kernels (once, a minute)" >&2
	@env -i PATH="$$PATH" HOME="$$HOME" $(PYTHON_HERE) backtest.py --csv l1_day.csv --out .venv/warm-up >.venv/warm-up.log 2>&1 || { cat .venv/warm-up.log >&2; exit 1; }
	@touch $@

run: setup $(KERNELS) ## the pipeline: l1_day.csv through a local Kafka to output.json and results.png (SPEED=0: as fast as possible)
	@$(PYTHON_HERE) -m broker.pipeline --mode $(MODE) $(FORM)

test: setup ## every test, those on a real broker of their own too and the service's; nothing is skipped (WORKERS=3 at a time)
	@$(MAKE) --no-print-directory -j2 $(KERNELS) test-tools
	@CI=1 $(PYTHON_HERE) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
	@$(MAKE) --no-print-directory -C market_data_service test

test-tools: $(AUDIT) ## Kafka's jars and the service's .venv (test does this while the kernels compile)
	@$(PYTHON_HERE) -m broker.local jars
	@$(MAKE) --no-print-directory -C market_data_service setup

$(AUDIT): tests/audit_requirements.txt | setup
	@$(PYTHON_HERE) -m pip install --quiet --disable-pip-version-check --upgrade --target .venv/audit -r $<
	@touch $@

check: setup $(AUDIT) ## lint, format, and an audit of the installed packages
	@$(PYTHON_HERE) -m ruff check .
	@$(PYTHON_HERE) -m ruff format --check .
	@$(PYTHON_HERE) tests/audit_packages.py
	@$(MAKE) --no-print-directory -C market_data_service lint

bench: setup $(KERNELS) ## speed and memory (the table of benchmarks/README.md)
	@$(PYTHON_HERE) -m pip install --quiet --no-deps --upgrade --target .venv/bench -r benchmarks/requirements.txt || \
		echo "bench: hftbacktest could not be installed; its rows are left out" >&2
	@$(PYTHON_HERE) -m benchmarks

bench-memory: setup $(KERNELS) ## the pipeline in a memory group of 900 MiB, and a file ten times as long (Linux, root)
	@$(PYTHON_HERE) -m benchmarks.memory

fuzz: setup $(KERNELS) ## a million damaged rows, ten thousand hostile messages: put in = set aside (5 minutes)
	@$(PYTHON_HERE) -m benchmarks.fuzz

chaos: setup $(KERNELS) ## 300 random kills -9 over a million rows, every message counted (half an hour)
	@$(PYTHON_HERE) -m tests.integration.chaos

broker-start: setup $(KERNELS) ## start a local Kafka on 127.0.0.1:9092 (MODE=zookeeper: with a ZooKeeper on 2181; SECURE=1: users and TLS)
	@$(PYTHON_HERE) -m broker.local start --mode $(MODE) $(FORM)

broker-stop: setup ## stop the Kafka that broker-start started
	@$(PYTHON_HERE) -m broker.local stop

broker-status: setup ## is it running, does it answer; uptime, memory, topics, logs
	@$(PYTHON_HERE) -m broker.local status || true

clean: ## stop the local Kafka; remove .venv, Kafka's jars and data, caches and output.json (the service has a clean of its own)
	@test ! -x $(PYTHON_HERE) || $(PYTHON_HERE) -m broker.local stop
	rm -rf .venv .kafka .pytest_cache .ruff_cache .hypothesis output.json grid_results.json results.pdf savings_plot.png rejects.csv
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
