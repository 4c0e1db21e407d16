#!/usr/bin/env bash
# Makes the environment in which the vLLM plugin is tested on a CPU: environments/vllm/install.sh DIRECTORY
# TORCH_INDEX_URL, as for the Makefile, can name PyTorch's CPU wheels. PYTHON is python3 unless set (3.11 is tested).
set -euo pipefail
target=${1:?usage: environments/vllm/install.sh DIRECTORY}
root=$(cd "$(dirname "$0")/../.." && pwd)
"${PYTHON:-python3}" -m venv "$target"
pip=("$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch==2.13.0
"${pip[@]}" --no-deps -r "$root/environments/vllm/requirements.txt"
"${pip[@]}" --no-deps --no-build-isolation -e "$root"
