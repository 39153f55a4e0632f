PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test check bench fuzz fuzz-bounds sbom dist compose-secrets docs docs-reference lock services services-test fault-test fault-test-short fault-test-seeded chaos overload-test soak flap fleet-test clean

setup: $(STAMP)

# How far pip is, on one line; a pipe gets nothing.
COUNTED = if [ -t 1 ]; then awk '/^Collecting/ { printf "\r%d of %d packages looked at", ++n, $(shell grep -c == requirements-dev.txt) } \
  /^Installing/ { printf "\r%d packages downloaded, installing them", n } { fflush() } END { print "" }'; else cat > /dev/null; fi

# uv when it is there, else venv + pip; both install the same hashed versions.
$(STAMP): SHELL := /bin/bash
$(STAMP): .SHELLFLAGS := -o pipefail -c
$(STAMP): requirements-dev.txt pyproject.toml
	@echo "installing the pinned packages into .venv (once; half a minute with uv, up to five with pip)"
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python "$(PYTHON)" .venv && \
	  uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements-dev.txt && \
	  uv pip install --quiet --python $(BIN)/python --no-build-isolation --no-deps -e .; \
	else \
	  $(PYTHON) -m venv .venv && \
	  $(BIN)/python -m pip install --progress-bar off --disable-pip-version-check --require-hashes -r requirements-dev.txt | $(COUNTED) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .; \
	fi
	@$(BIN)/python -m compileall -q src
	@touch $(STAMP)

# A wheel in dist/.
dist: setup
	@$(BIN)/python -m hatchling build --target wheel

# Passwords, tokens and certificates of a throw-away CA for compose.yaml, in secrets/; DEVICES="id id"
# makes logins for these devices.
compose-secrets: setup
	@$(BIN)/python config/compose/make_secrets.py $(DEVICES:%=--device %)

demo: setup
	@$(BIN)/greenlang-iot demo $(DEMO_ARGS)

# One more than there are cores, since many tests wait for processes of theirs; four at most. Bytecode is kept
# whatever the environment says: making it anew is a tenth of the work.
test: setup
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $$(($$(nproc) + 1)) --maxprocesses 4 --dist worksteal

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/unit/test_layers.py

# What a message costs on this machine: the table, with everything on and rung by rung.
bench: setup
	@failed=0; \
	$(BIN)/greenlang-iot bench headline --seconds 4 --sustain 5 --no-spool --no-zstd --no-small-records --no-by-hand || failed=1; \
	$(BIN)/greenlang-iot bench ladder features --seconds 0.5 || failed=1; \
	$(BIN)/greenlang-iot bench ladder latency --seconds 0.5 || failed=1; \
	exit $$failed

# The documentation site in site/, without anything that is loaded from elsewhere.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --site-dir site
	@echo "open site/index.html"

# The pages that are made of the code: settings, commands, metrics, schemas.
docs-reference: setup
	$(BIN)/python -m docs.generator.reference

# The servers of the service tests: Mosquitto, InfluxDB, Prometheus and Chromium from Debian (needs root), Kafka by Maven, axe-core by npm.
services:
	@if ! command -v mosquitto >/dev/null || ! command -v mosquitto_pub >/dev/null || ! command -v influxd >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends mosquitto mosquitto-clients influxdb; \
	fi
	@if ! command -v prometheus >/dev/null || ! command -v promtool >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; \
	fi
	@if ! command -v mvn >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends maven openjdk-17-jre-headless; \
	fi
	@if ! command -v chromium >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; \
	fi
	@if ! command -v npm >/dev/null; then \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends npm; \
	fi
	@tests/services/kafka/fetch.sh
	@tests/services/axe/fetch.sh

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

# Faults that overlap, by a seeded schedule; RUNS seeds from SEED on, each ends with one JSON object.
chaos: setup
	@$(BIN)/python -m tests.faults.chaos --seed $(or $(SEED),1) --runs $(or $(RUNS),1) --seconds $(or $(SECONDS),30)

# Minutes of overload (plotted), of steady load, and a fleet; each prints one JSON object at its end.
overload-test: setup
	@$(BIN)/python -m tests.faults.scale overload --seconds $(or $(SECONDS),600) --rate $(or $(RATE),400)

soak: setup
	@$(BIN)/python -m tests.faults.scale soak --seconds $(or $(SECONDS),1800) --rate $(or $(RATE),400)

# A soak in which InfluxDB and Kafka go and come back all the time.
flap: setup
	@$(BIN)/python -m tests.faults.scale flap --seconds $(or $(SECONDS),1320) --rate $(or $(RATE),120)

fleet-test: setup
	@$(BIN)/python -m tests.faults.scale fleet --seconds $(or $(SECONDS),120) \
	  --connections $(or $(CONNECTIONS),5000) --devices $(or $(DEVICES),100000) --rate $(or $(RATE),1500)

# Mutated inputs through framing and the JSON scanner, each read in several ways that must agree, and
# hypothesis on everything else that reads bytes from outside. FUZZ_INPUTS: at least so many per target.
FUZZ_SECONDS ?= 60
FUZZ_INPUTS ?= 0
fuzz: setup
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) --inputs $(FUZZ_INPUTS)

# The same for a moment with every index of every kernel checked, in a kernel cache of its own; with the same
# inputs in every run.
fuzz-bounds: setup
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m tests.fuzz --seconds 10 --seed 1
	NUMBA_BOUNDSCHECK=1 $(BIN)/python -m pytest tests/unit/decode/test_decode_fuzz.py tests/unit/mqtt/test_mqtt_framing.py

# What the wheel brings with it: a CycloneDX document of the pinned, hashed packages.
sbom: setup
	@mkdir -p dist
	$(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --mc-type application \
	  --output-reproducible --of JSON -o dist/greenlang-iot.cdx.json requirements.txt

# New pins: the runtime's (what the image installs) and, with the same versions, the developers'.
lock:
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --all-extras --group dev pyproject.toml -o requirements-dev.txt
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	  --no-annotate --no-header --group build -c requirements-dev.txt pyproject.toml -o requirements.txt

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .demo var dist site
