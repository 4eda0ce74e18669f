PYTHON_BIN = .venv/bin

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: .venv/installed ## set everything up in .venv (all other targets do it by themselves)

.venv/installed: pyproject.toml constraints.txt scripts/install
	@scripts/install

demo: install ## the whole system on this machine, from a small checkpoint: chat, draw, edit
	$(PYTHON_BIN)/python examples/demo.py

train: install ## train the small model that ships with the project
	$(PYTHON_BIN)/python -m services.trainer recipes/genllava-tiny.toml

test: install ## all tests but the long ones
	$(PYTHON_BIN)/python -m pytest

slow: install ## the long proofs: whole training runs, killed ones among them; several processes against one
	$(PYTHON_BIN)/python -m pytest -m "slow and not upgrades and not containers" --timeout 1800 --durations 0

upgrades: install ## components upgraded under load, well and badly, with real processes
	$(PYTHON_BIN)/python -m pytest tests/integration/upgrades tests/triptych/local -m "not containers" --timeout 1800 --durations 0 --log-cli-level INFO

fuzz: install ## every parser of what strangers send, with new examples; FUZZ_EXAMPLES=100000 make fuzz
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-5000} $(PYTHON_BIN)/python -m pytest tests/fuzz --timeout 7200 --hypothesis-show-statistics

lint: install ## style, layout of the code, and who may import whom
	$(PYTHON_BIN)/ruff check .
	$(PYTHON_BIN)/ruff format --check .
	$(PYTHON_BIN)/lint-imports

types: install ## mypy, strict
	$(PYTHON_BIN)/mypy

format: install ## put the code into its layout
	$(PYTHON_BIN)/ruff check --fix .
	$(PYTHON_BIN)/ruff format .

proto: install ## generate triptych/v1 from protos/
	scripts/proto

proto-check: install ## fail when triptych/v1 is not what protos/ say
	scripts/proto-check

audit: install ## what is installed, as an SBOM in build/, and whether any of it is known to be vulnerable
	scripts/audit

bench: install ## measure what serving and preparing data cost
	$(PYTHON_BIN)/python -m benchmarks
	$(PYTHON_BIN)/python -m benchmarks.prepare

faults: install ## hurt a system of two replicas of each stage, and measure what users notice
	$(PYTHON_BIN)/python -m benchmarks.faults

images: ## container images; takes BUILDER, VARIANT, TORCH_INDEX, PREFIX, TARGETS
	scripts/images

chart-e2e: install ## the chart's CPU example, played by podman from images built here: draw, ask, edit
	PYTHON=$(PYTHON_BIN)/python scripts/chart-e2e

.PHONY: help install demo train test slow upgrades fuzz lint types format proto proto-check audit bench faults images chart-e2e
