# Two commands on a fresh machine: `make demo` and `make test`. Each makes its own environment and needs only Python.
PYTHON ?= python3
VENV ?= .venv
# Empty by default. A CPU-only machine elsewhere can point it at PyTorch's CPU wheels instead of gigabytes of CUDA.
TORCH_INDEX_URL ?=
PIP_INDEX = $(if $(TORCH_INDEX_URL),--extra-index-url $(TORCH_INDEX_URL),)
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
VLLM_VENV ?= .venv-vllm
VLLM_STAMP = $(VLLM_VENV)/.installed
LITELLM_VENV = .venv-litellm
LITELLM_STAMP = $(LITELLM_VENV)/.installed

export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo test test-vllm lint check format clean remote-code
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, upcycle, compare, serve and query a small model (at most 6 minutes, no network)"
	@echo "make test    the whole test suite of the main environment"
	@echo "make test-vllm  the vLLM plugin on the real engine, on the CPU, in an environment of its own"
	@echo "make lint    formatting, lint and types"
	@echo "make check   everything CI runs"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/pip install --quiet --disable-pip-version-check $(PIP_INDEX) -e '.[dev]' -c constraints.txt
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/hidden-decoding demo $(DEMO_FLAGS)

$(LITELLM_STAMP): environments/litellm/requirements.txt
	$(PYTHON) -m venv $(LITELLM_VENV)
	$(LITELLM_VENV)/bin/pip install --quiet --disable-pip-version-check -r environments/litellm/requirements.txt
	@touch $(LITELLM_STAMP)

test: $(STAMP) $(LITELLM_STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

$(VLLM_STAMP): pyproject.toml environments/vllm/install.sh environments/vllm/requirements.txt
	PYTHON=$(PYTHON) TORCH_INDEX_URL=$(TORCH_INDEX_URL) environments/vllm/install.sh $(VLLM_VENV)
	@touch $(VLLM_STAMP)

test-vllm: $(VLLM_STAMP)
	HIDDEN_DECODING_TEST_ENGINE=vllm $(VLLM_VENV)/bin/python -m pytest tests/vllm $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

remote-code: $(STAMP)
	$(BIN)/python -m hidden_decoding.modeling.remote_code_generator

# What CI runs, with the seconds of each part.
CHECKS = lint test test-vllm
check:
	@for target in $(CHECKS); do \
	  started=$$(date +%s); \
	  $(MAKE) --no-print-directory $$target || exit 1; \
	  echo "== make $$target: $$(( $$(date +%s) - started )) seconds"; \
	done

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(LITELLM_VENV) build dist demo-out .pytest_cache .mypy_cache .ruff_cache
