#!/usr/bin/env bash
# vLLM 0.33.0 has no build for CPUs. This lays its Python files, unchanged, over the compiled CPU kernels of the environment
# that install.sh made: environments/vllm/next_release.sh ENVIRONMENT DIRECTORY
# The result is a folder for PYTHONPATH. It shows whether our plugin fits the newer engine; it is no way to serve models.
set -euo pipefail
usage="usage: environments/vllm/next_release.sh ENVIRONMENT DIRECTORY"
environment=${1:?$usage} target=${2:?$usage}
release=0.33.0
mkdir -p "$target"
wheel=("$target"/vllm-"$release"-*.whl)
[ -f "${wheel[0]}" ] || "$environment/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps \
  --only-binary :all: --dest "$target" "vllm==$release"
# The one package that it imports on this path and its predecessor did not.
[ -d "$target/orjson" ] || "$environment/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps \
  --target "$target" orjson==3.11.6
installed=$("$environment/bin/python" -c 'import importlib.util; print(importlib.util.find_spec("vllm").submodule_search_locations[0])')
"$environment/bin/python" - "$target" "$release" "$installed" <<'PYTHON'
import pathlib, shutil, sys, zipfile

target, release, installed = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
[wheel] = target.glob(f"vllm-{release}-*.whl")
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(target, [n for n in archive.namelist() if n.startswith("vllm/") and not n.endswith(".so")])
for kernels in installed.glob("*.so"):
    shutil.copy(kernels, target / "vllm")
# vLLM takes its platform from its version.
about = target / f"vllm-{release}+cpu.dist-info"
about.mkdir(exist_ok=True)
(about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {release}+cpu\n")
PYTHON
