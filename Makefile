# The commands of the project. `make up` starts the whole mesh on this machine.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := mesh services protos tests bench
# Further extras to check and test with, where they can be had: make test EXTRAS=torch,tensorrt
EXTRAS ?=
comma := ,
DEV := $(VENV)/.dev$(if $(EXTRAS),-$(subst $(comma),-,$(EXTRAS)))

.PHONY: up down test check bench bench-gpu bench-llm protos format soak fuzz

up: $(VENV)/.local
	@exec $(BIN)/ringmesh up

down: $(VENV)/.local
	@$(BIN)/ringmesh down

test: $(DEV)
	$(BIN)/pytest

# The long forms of what `make test` runs briefly.
soak: $(DEV)
	RINGMESH_SOAK_REQUESTS=200000 $(BIN)/pytest tests/soak -s
fuzz: $(DEV)
	RINGMESH_FUZZ_RUNS=20000 $(BIN)/pytest tests/fuzz tests/e2e/test_fuzz.py --timeout=7200

check: $(DEV)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy mesh services protos bench
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --check

format: $(DEV)
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

# Figures, never pass or fail: they go to bench/RESULTS.md.
bench: $(DEV)
	$(BIN)/python -m bench.mesh_overhead

# Beside llama.cpp, onnxruntime-genai and OpenVINO, which the first run installs into
# .ringmesh-bench/ (some minutes). A part of it: make bench-llm ONLY=prefill ROUNDS=3 ENGINES=ringmesh
# (ONLY: decode, prefill, second_turn, cost, token_gap or encoders).
PARTS := encoders token_gap
ROUNDS_ARGUMENT = $(if $(ROUNDS),--rounds $(ROUNDS))
ENGINES_ARGUMENT = $(if $(ENGINES),--engines $(ENGINES))
bench-llm: $(DEV)
	$(if $(filter $(PARTS),$(ONLY)),,$(BIN)/python -m bench.llm.compare $(if $(ONLY),--only $(ONLY)) $(ROUNDS_ARGUMENT) $(ENGINES_ARGUMENT))
	$(if $(filter-out token_gap,$(ONLY))$(ENGINES),,$(BIN)/python -m bench.llm_token_gap $(ROUNDS_ARGUMENT))
	$(if $(filter-out encoders,$(ONLY)),,$(BIN)/python -m bench.encoders $(ROUNDS_ARGUMENT) $(ENGINES_ARGUMENT))

# On a machine with a GPU: make bench-gpu EXTRAS=torch,tensorrt (MADE_UP=135m or 1b: no real models)
bench-gpu: $(DEV)
	$(BIN)/python -m bench.gpu $(if $(MADE_UP),--made-up $(MADE_UP))

protos: $(DEV)
	$(BIN)/python protos/generate.py

# What a mesh on one machine needs; the first time this fetches about 300 MB.
$(VENV)/.local: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the mesh's packages into $(VENV) (a minute or two the first time)"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[local]'
	@touch $@

# The same, and the tools that check and test it.
$(DEV): pyproject.toml $(VENV)/.local
	@echo "installing the tools for checks and tests"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[local,dev$(if $(EXTRAS),$(comma)$(EXTRAS))]'
	@touch $@
