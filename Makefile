PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test check dist compose-secrets docs docs-reference lock services services-test fault-test fault-test-short fault-test-seeded clean

setup: $(STAMP)

# uv when it is there, else venv + pip; both install the same hashed versions.
$(STAMP): requirements-dev.txt pyproject.toml
	@echo "installing the pinned packages into .venv (a minute or two, once)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" .venv && \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements-dev.txt && \
	  uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	fi
	@$(BIN)/python -m compileall -q src
	@touch $(STAMP)

# A wheel in dist/.
dist: setup
	@$(BIN)/python -m hatchling build --target wheel

# Passwords, tokens and certificates of a throw-away CA for compose.yaml, in secrets/.
compose-secrets: setup
	@$(BIN)/python config/compose/make_secrets.py

demo: setup
	@$(BIN)/greenlang-iot demo $(DEMO_ARGS)

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_layers.py

# The documentation site in site/, without anything that is loaded from elsewhere.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site
	@echo "open site/index.html"

# The pages that are made of the code: settings, commands, metrics, schemas.
docs-reference: setup
	$(BIN)/python -m docs.generator.reference

# The servers of the service tests: Mosquitto, InfluxDB, Prometheus from Debian (needs root), Kafka by Maven.
services:
	@if ! command -v mosquitto >/dev/null || ! command -v influxd >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends mosquitto influxdb; \
	fi
	@if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; \
	fi
	@if ! command -v mvn >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends maven openjdk-17-jre-headless; \
	fi
	@tests/services/kafka/fetch.sh

services-test: setup
	$(BIN)/python -m pytest tests/services -m services

# Real faults under load; the last line is one JSON object. `ROWS="name name"` picks rows.
fault-test: setup
	@$(BIN)/python -m tests.faults --report docs/reliability.md $(ROWS)

fault-test-short: setup
	@$(BIN)/python -m tests.faults --short

# Every row with the bug that it names planted in the gateway: each must fail.
fault-test-seeded: setup
	@$(BIN)/python -m tests.faults --seeded --report docs/reliability.md $(ROWS)

# New pins: the runtime's (what the image installs) and, with the same versions, the developers'.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --all-extras --group dev pyproject.toml -o requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --group build -c requirements-dev.txt pyproject.toml -o requirements.txt

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo var dist site
