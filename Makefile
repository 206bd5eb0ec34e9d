# The commands of this repository. `make` alone lists them.

VENV   ?= .venv
# 3.11 and 3.12 are what Triton's Python backend and the pinned numpy of its models have builds for.
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do \
	$$p -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null && echo $$p && break; done)
TORCH  ?= 2.13.0

BIN       := $(VENV)/bin
INSTALLED := $(VENV)/.installed-torch-$(TORCH)
SOURCES   := $(wildcard aios services gateway tests tools bench)
TESTS     ?= tests
# Faults to make, or requests at each method and route; the draw of their rounds; power cuts; how long parsers are searched; steps of the engine.
N         ?= 400
BASE      ?= 0
CUTS      ?= 3
SECONDS   ?= 300
STEPS     ?= 1000000

.DEFAULT_GOAL := help
.PHONY: help install demo test retest test-compose test-clients contract up down logs token grafana authority certificates backup restore upgrade faults fuzz stateful bench check supply sbom \
        audit format proto lock clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z -]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make install TORCH=2.11.0       another torch"
	@echo "  make test TESTS=tests/unit      a part of the tests"

install: $(INSTALLED) ## everything into .venv, from the hash-pinned locks

# Rerun only when what is to be installed changes: one stamp per torch, and only the latest is kept.
$(INSTALLED): pyproject.toml $(wildcard requirements/*.lock) tools/install.sh tools/libpython.sh
	@test -n "$(PYTHON)" || { echo "AIOS needs Python 3.11 or 3.12 with venv: apt install python3-venv, or make PYTHON=/path/to/python3.12"; exit 1; }
	@VENV="$(VENV)" PYTHON="$(PYTHON)" TORCH="$(TORCH)" tools/install.sh
	@rm -f $(VENV)/.installed-torch-*
	@touch $@

demo: install ## start the stack and run the main job: data, training, serving, one trace
	@$(BIN)/aios demo

test: install ## the whole test suite
	@$(BIN)/pytest --numprocesses 2 --dist loadfile $(TESTS)

retest: install ## what failed in the last `make test` once more, alone on the machine
	@$(BIN)/python tools/retest.py

test-compose: install ## the compose stack for real: builds every image, needs root and docker.io; about half an hour
	@AIOS_TEST_COMPOSE=1 $(BIN)/pytest -q -s tests/compose

test-clients: install ## clients in other languages against a live stack; skips those without a toolchain
	@AIOS_TEST_CLIENTS=1 $(BIN)/pytest -q -s tests/clients

contract: install ## build/contract: what clients in other languages are generated from
	@$(BIN)/python tools/contract.py build/contract

up down logs token grafana authority certificates backup restore upgrade: ## the compose stack: deploy/compose; restore FROM=backups/...
	@deploy/compose/stack.sh $@ $(FROM)

faults: install ## break a running platform N=400 times, then cut its power; SEED=... plays one round again
	@$(BIN)/python -m tests.faults $(if $(SEED),--seed $(SEED),--count $(N) --base $(BASE))
	@$(if $(SEED),,$(BIN)/python -m tests.faults.power_cut --count $(CUTS))

fuzz: install ## N=400 malformed requests at every method and route, then SECONDS=300 of search in our parsers
	@AIOS_TEST_FUZZ=$(N) $(BIN)/pytest -q -s tests/doors/test_fuzz.py
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

stateful: install ## the scheduler's engine through STEPS=1000000 steps of a random life of a pool
	@AIOS_TEST_STEPS=$(STEPS) $(BIN)/pytest -q -s tests/unit/test_engine_stateful.py

bench: install ## measure what is promised; BENCH="calls events" a part of it
	@$(BIN)/python -m bench $(BENCH)

check: install ## format, lint, types, contract, walls, generated code in sync
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy $(SOURCES)
	$(BIN)/python tools/protos.py lint
	$(BIN)/python tools/protos.py check
	$(BIN)/python tools/protos.py breaking
	$(BIN)/python tools/errors.py check
	$(BIN)/python tools/client_types.py check
	$(BIN)/lint-imports --no-logo

supply: install ## what is installed is what the locks pin, and installs from them without a network
	$(BIN)/python tools/supply.py
	$(BIN)/uv venv --quiet --clear build/offline
	$(BIN)/uv pip install --offline --quiet --python build/offline/bin/python --no-deps --require-hashes \
		-r requirements/common.lock -r requirements/digits.lock
	@rm -r build/offline

build/supply: requirements/supply.lock | install
	@$(BIN)/uv venv --quiet --clear $@
	@$(BIN)/uv pip install --quiet --python $@/bin/python --no-deps --require-hashes -r $<
	@touch $@

sbom: build/supply ## list what is installed in build/sbom.cdx.json (CycloneDX)
	@build/supply/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --validate \
		--output-file build/sbom.cdx.json $(VENV)/bin/python
	@echo "build/sbom.cdx.json: $$(grep -c '"bom-ref"' build/sbom.cdx.json) components"

audit: build/supply ## look the locked versions up among known vulnerabilities; needs the network
	@echo "torch==$(TORCH)" > build/torch.txt
	@set -e; for list in requirements/*.lock build/torch.txt; do \
		echo "$$list"; \
		build/supply/bin/pip-audit --strict --disable-pip --no-deps --progress-spinner off -r $$list; \
	done

format: install ## format and fix what can be fixed
	@$(BIN)/ruff check --fix-only $(SOURCES)
	@$(BIN)/ruff format $(SOURCES)

proto: install ## generate aios/<domain>/v1 from protos/
	@$(BIN)/python tools/protos.py generate

lock: install ## resolve the locks again; UPGRADE=--upgrade takes the newest
	@tools/lock.sh $(UPGRADE)

clean: ## remove the environment, caches and build output
	rm -rf $(VENV) .fuzz build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find aios services gateway tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
