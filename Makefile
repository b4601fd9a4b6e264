# Everything a person runs in this repository. `make` alone prints what there is.
#
# The environment: `.venv`, made with Python 3.11 from constraints.txt. The stamp file below is what a second call looks
# at, so nothing is installed twice; it goes stale when constraints.txt or pyproject.toml changes.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:
.NOTPARALLEL:

PYTHON ?= python3.11
VENV := .venv
RUN := $(VENV)/bin/python -m
STAMP := $(VENV)/.installed
RUFF_ROOMS := dags local tasks elcrec tests bench docker

# Said by the person who calls make; exported so that a value with blanks or quotes reaches the program as it is.
export EVENTS NIGHT LAKE PORT

.PHONY: help install servers run up test lint format bench clean

help: ## What there is
	@echo "Usage: make <target> [NAME=value ...]"
	echo
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	echo
	echo "  EVENTS=path        event file, folder or s3:// URL for run, up (default: generated events with 8 known intents)"
	echo "  NIGHT=YYYY-MM-DD   the UTC date to run (default: the last night in the events)"
	echo "  LAKE=folder        where the tables go (default: lakes/<name of the events>)"
	echo "  PORT=8080          the web page of make up"
	echo
	echo "  One step without Airflow: $(VENV)/bin/python -m tasks --help"

install: $(STAMP) ## Make .venv and install the constrained packages (the other targets do it when needed)

$(STAMP): constraints.txt pyproject.toml
	@if ! command -v "$(PYTHON)" >/dev/null || ! "$(PYTHON)" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
	  echo "error: '$(PYTHON)' is not a Python 3.11 that can make virtual environments: install Python 3.11 with its venv module (Debian, Ubuntu: python3.11 and python3.11-venv), or name one with PYTHON=/path/to/python3.11" >&2
	  exit 2
	fi
	test -x $(VENV)/bin/python || "$(PYTHON)" -m venv $(VENV)
	echo "Installing into $(VENV) (first time: about two minutes)"
	$(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

# Debian's packages start their services: not of a test run.
servers: ## PostgreSQL and Redis for the tests: as root on Debian they are installed when missing
	@there() { { command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'; } && command -v redis-server; } >/dev/null
	if ! there && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  echo "Installing PostgreSQL and Redis for the tests, from Debian's packages"
	  policy=/usr/sbin/policy-rc.d
	  if ! [ -e "$$policy" ]; then
	    trap 'rm "$$policy"' EXIT
	    printf '#!/bin/sh\nexit 101\n' > "$$policy"
	    chmod +x "$$policy"
	  fi
	  apt-get update -qq -o Acquire::Retries=3
	  DEBIAN_FRONTEND=noninteractive apt-get install -qq -o Acquire::Retries=3 --yes --no-install-recommends postgresql redis-server >/dev/null
	fi
	if ! there; then
	  echo "error: initdb or redis-server is missing, and the tests run both: install PostgreSQL and Redis (Debian, Ubuntu: apt install postgresql redis-server)" >&2
	  exit 2
	fi

run: $(STAMP) ## One night of the DAG through Airflow, then what came out   [EVENTS= NIGHT= LAKE=]
	@$(RUN) local run

up: $(STAMP) ## Airflow with its web page on 127.0.0.1, until Ctrl-C        [EVENTS= LAKE= PORT=]
	@$(RUN) local up

test: $(STAMP) servers ## All tests
	@$(RUN) pytest --numprocesses auto --dist loadfile

lint: $(STAMP) ## ruff, mypy, sqlfluff; hadolint and the schema of compose files
	@$(RUN) ruff check $(RUFF_ROOMS)
	$(RUN) ruff format --check $(RUFF_ROOMS)
	$(RUN) mypy
	$(RUN) sqlfluff lint sql
	$(VENV)/bin/hadolint docker/Dockerfile
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.compose-spec docker/compose*.yaml

format: $(STAMP) ## Let ruff and sqlfluff write the format that lint asks for
	@$(RUN) ruff check --fix-only $(RUFF_ROOMS)
	$(RUN) ruff format $(RUFF_ROOMS)
	$(RUN) sqlfluff fix --quiet sql

bench: $(STAMP) ## Wall time and peak memory of each step on Beauty          [EVENTS=]
	@$(VENV)/bin/python bench/steps.py

clean: ## Remove .venv, Airflow's folder and caches; tables in lakes/ and lake/ stay
	@rm -rf $(VENV) .airflow build .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
