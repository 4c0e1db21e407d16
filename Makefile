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
SGLANG_VENV ?= .venv-sglang
SGLANG_STAMP = $(SGLANG_VENV)/.installed
LITELLM_VENV = .venv-litellm
LITELLM_STAMP = $(LITELLM_VENV)/.installed

export OMP_WAIT_POLICY ?= PASSIVE
export HF_HUB_OFFLINE ?= 1
export HF_HUB_DISABLE_TELEMETRY ?= 1

.PHONY: demo chromium pictures test test-vllm test-vllm-next test-sglang test-kernels test-container lint docs reference check check-extras format clean remote-code
.DEFAULT_GOAL := help

help:
	@echo "make demo    train, upcycle, compare, serve and query a small model (at most 6 minutes, no network)"
	@echo "make test    the whole test suite of the main environment"
	@echo "make test-vllm  the vLLM plugin on the real engine, on the CPU, in an environment of its own"
	@echo "make test-vllm-next  the same on vLLM 0.33's Python, over the CPU kernels of 0.32"
	@echo "make test-sglang  the SGLang plugin, in the same way"
	@echo "make test-kernels  the local engine's Triton kernels, by Triton's interpreter on the CPU"
	@echo "make test-container  the CPU image, built and run without Docker (root, buildah, podman)"
	@echo "make lint    formatting, lint and types"
	@echo "make docs    the site, into site/; make reference writes the pages that follow from the code"
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

# The chat page is tested in a real browser. Without one its tests say so loudly, and fail where everything is required.
chromium:
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } \
	  || echo "Chromium is not installed and cannot be installed here: the chat page's browser tests will not run"

# The pictures in the docs: of the page by its own tests, of the lens by its command, both on a small trained model.
PICTURES = .scratch/pictures
pictures: $(STAMP) chromium
	@fc-list :lang=zh | grep -q . || echo "No Chinese font is installed: the Chinese picture will show boxes"
	test -d $(PICTURES)/demo || $(BIN)/hidden-decoding demo --out $(PICTURES)/demo
	HIDDEN_DECODING_PICTURES=docs/images HIDDEN_DECODING_PICTURES_MODEL=$(PICTURES)/demo/n4/model \
	  $(BIN)/python -m pytest tests/ui/test_looks.py tests/ui/test_lens.py -k "picture or chinese or phone"
	$(BIN)/hidden-decoding lens $(PICTURES)/demo/n4/model --prompt "def main(args): return " --max-tokens 24 \
	  --out docs/images/stream-lens.png

test: $(STAMP) $(LITELLM_STAMP) chromium
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

$(VLLM_STAMP): pyproject.toml environments/vllm/install.sh environments/vllm/requirements.txt
	PYTHON=$(PYTHON) TORCH_INDEX_URL=$(TORCH_INDEX_URL) environments/vllm/install.sh $(VLLM_VENV)
	@touch $(VLLM_STAMP)

test-vllm: $(VLLM_STAMP)
	HIDDEN_DECODING_TEST_ENGINE=vllm $(VLLM_VENV)/bin/python -m pytest tests/vllm $(PYTEST_FLAGS)

# The same tests on the Python of the newest vLLM over the CPU kernels of the pinned one. Downloads 340 MB: not part of check.
VLLM_NEXT = .scratch/vllm-next
test-vllm-next: $(VLLM_STAMP)
	environments/vllm/next_release.sh $(VLLM_VENV) $(VLLM_NEXT)
	PYTHONPATH=$(abspath $(VLLM_NEXT)) VLLM_TARGET_DEVICE=cpu HIDDEN_DECODING_TEST_ENGINE=vllm \
	  $(VLLM_VENV)/bin/python -m pytest tests/vllm $(PYTEST_FLAGS)

$(SGLANG_STAMP): pyproject.toml environments/sglang/install.sh environments/sglang/requirements.txt $(wildcard environments/sglang/cpu_platform/*)
	PYTHON=$(PYTHON) TORCH_INDEX_URL=$(TORCH_INDEX_URL) environments/sglang/install.sh $(SGLANG_VENV)
	@touch $(SGLANG_STAMP)

test-sglang: $(SGLANG_STAMP)
	HIDDEN_DECODING_TEST_ENGINE=sglang $(SGLANG_VENV)/bin/python -m pytest tests/sglang $(PYTEST_FLAGS)

# The local engine's Triton kernels by Triton's interpreter, in the one environment that has Triton.
test-kernels: $(SGLANG_STAMP)
	HIDDEN_DECODING_TEST_ENGINE=kernels TRITON_INTERPRET=1 \
	  $(SGLANG_VENV)/bin/python -m pytest tests/kernels $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Pages that restate the code; then the site, offline and with warnings as errors.
reference: $(STAMP)
	$(BIN)/python docs/generators

docs: $(STAMP)
	$(BIN)/python docs/generators --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Builds the CPU image and runs it: needs root, and takes several minutes the first time; not part of check.
test-container: $(STAMP)
	@for tool in buildah podman crun debootstrap docker-compose; do command -v $$tool >/dev/null || missing=1; done; \
	  [ -z "$$missing" ] || { apt-get update -qq && apt-get install -y -qq --no-install-recommends \
	  buildah podman crun debootstrap catatonit docker-compose >/dev/null; }
	HIDDEN_DECODING_TEST_CONTAINER=1 $(BIN)/python -m pytest tests/container $(PYTEST_FLAGS)

# Downloads metadata of every extra's packages from the index, several minutes: not part of check.
check-extras: $(STAMP)
	$(BIN)/python -m tests.packaging.resolve_extras

remote-code: $(STAMP)
	$(BIN)/python -m hidden_decoding.modeling.remote_code_generator

# What CI runs, with the seconds of each part.
CHECKS = lint docs test test-vllm test-sglang test-kernels
check:
	@for target in $(CHECKS); do \
	  started=$$(date +%s); \
	  $(MAKE) --no-print-directory $$target || exit 1; \
	  echo "== make $$target: $$(( $$(date +%s) - started )) seconds"; \
	done

clean:
	rm -rf $(VENV) $(VLLM_VENV) $(SGLANG_VENV) $(LITELLM_VENV) build dist site demo-out .pytest_cache .mypy_cache .ruff_cache
