#!/usr/bin/env bash
# Makes the environment in which the SGLang plugin is tested on a CPU: environments/sglang/install.sh DIRECTORY
# TORCH_INDEX_URL, as for the Makefile, can name PyTorch's CPU wheels. PYTHON is python3 unless set (3.11 is tested).
set -euo pipefail
target=${1:?usage: environments/sglang/install.sh DIRECTORY}
root=$(cd "$(dirname "$0")/../.." && pwd)
"${PYTHON:-python3}" -m venv "$target"
pip=("$target/bin/python" -m pip install --quiet --disable-pip-version-check --no-compile)
"${pip[@]}" ${TORCH_INDEX_URL:+--extra-index-url "$TORCH_INDEX_URL"} torch==2.13.0
"${pip[@]}" --no-deps -r "$root/environments/sglang/requirements.txt"
# A copy is built, so that no build folder is left in the tree. The .pth file loads the shim in every process.
shims=$(mktemp -d)
trap 'rm -rf "$shims"' EXIT
cp "$root"/environments/sglang/cpu_platform/* "$shims"
"${pip[@]}" --no-deps --no-build-isolation "$shims"
echo "import torchvision_operators" \
  > "$("$target/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/torchvision_operators.pth"
"${pip[@]}" --no-deps --no-build-isolation -e "$root"
