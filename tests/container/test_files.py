"""The container files themselves, without building anything: linted, pinned, and every path and flag in them exists."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from hidden_decoding.cli.main import build_parser
from hidden_decoding.serve.settings import ServeConfig
from hidden_decoding.ui.settings import UiConfig
from tests.conftest import missing

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
FILES = sorted(DOCKER.glob("*.Dockerfile"))
# Debian's packages move with its security updates: a pinned version would soon not be there (DL3008).
IGNORED = ("DL3008",)


def instructions(file: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of a Dockerfile, continued lines joined, comments left out."""
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if not line.lstrip().startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (first, " ".join(rest.split()))
        for first, _, rest in (line.partition(" ") for line in text.splitlines())
        if rest
    ]


def of(file: Path, name: str) -> list[str]:
    return [rest for instruction, rest in instructions(file) if instruction == name]


def compose(name: str) -> dict:
    return yaml.safe_load((DOCKER / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_hadolint_finds_nothing(file):
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent))
    if linter is None:
        missing("hadolint")
    ignored = [word for rule in IGNORED for word in ("--ignore", rule)]
    done = subprocess.run([linter, *ignored, str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_copied_paths_exist_and_are_not_ignored(file):
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for rest in of(file, "COPY"):
        if rest.startswith("--from="):
            continue
        for path in rest.split()[:-1]:
            assert (ROOT / path).exists(), path
            assert path in kept, f".dockerignore leaves {path} out"
    needed = {
        "pyproject.toml",
        "src",
        *tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["license-files"],
    }
    assert {path.split("/")[0] for path in needed} <= kept | {"src"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_runs_without_root_and_stops_by_sigterm(file):
    assert of(file, "USER")[-1] == "10001:10001"
    assert of(file, "STOPSIGNAL") == ["SIGTERM"]
    assert of(file, "EXPOSE") == [f"{ServeConfig().port} {UiConfig().port}"]
    [check] = of(file, "HEALTHCHECK")
    assert f":{ServeConfig().port}/health" in check
    assert all(":latest" not in image and ":" in image for image in of(file, "FROM"))


def parsed(words: list[str]):
    """The command line, by the real parser: an unknown flag or a wrong value ends it."""
    return build_parser(words[0]).parse_args(words)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_default_command_is_one_of_ours(file):
    assert json.loads(of(file, "ENTRYPOINT")[-1]) == ["hidden-decoding"]
    args = parsed(json.loads(of(file, "CMD")[-1]))
    assert (args.model, args.host, args.port) == ("/model", "0.0.0.0", ServeConfig().port)
    assert args.engine == {"cpu": "local", "gpu": "vllm"}[file.stem]


def test_gpu_image_is_of_a_vllm_the_plugin_supports():
    [image] = [image for image in of(DOCKER / "gpu.Dockerfile", "FROM") if "vllm" in image]
    version = image.rpartition(":v")[2]
    from packaging.requirements import Requirement

    lines = importlib.metadata.requires("hidden-decoding") or []
    [vllm] = [Requirement(line) for line in lines if line.startswith("vllm")]
    assert version in vllm.specifier
    tested = (ROOT / "environments" / "vllm" / "requirements.txt").read_text() + (
        ROOT / "environments" / "vllm" / "install.sh"
    ).read_text()
    assert version in tested, "the image's version is not the one that is tested"


def test_cpu_image_pins_what_was_tested_and_refuses_cuda():
    text = (DOCKER / "cpu.Dockerfile").read_text(encoding="utf-8")
    assert len(re.findall(r"pip install .*--constraint constraints\.txt", text)) == 2
    assert "pip list --format freeze > /tmp/packages && ! grep --ignore-case '^nvidia' /tmp/packages" in text


def test_compose_serves_model_and_page_as_said():
    services = compose("compose.yaml")["services"]
    model, page = services["model"], services["page"]
    assert model["ports"] == [f"127.0.0.1:{ServeConfig().port}:{ServeConfig().port}"]
    assert page["ports"] == [f"127.0.0.1:{UiConfig().port}:{UiConfig().port}"]
    [mount] = model["volumes"]
    assert mount["read_only"] is True
    assert mount["target"] == "/model"
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert "no-new-privileges:true" in service["security_opt"]
    args = parsed([str(word) for word in page["command"]])
    assert args.port == UiConfig().port
    assert args.base_url == [f"http://model:{ServeConfig().port}/v1"]
    assert f":{UiConfig().port}/" in page["healthcheck"]["test"][-1]
    assert int(model["stop_grace_period"].removesuffix("s")) > ServeConfig().drain_seconds
    assert page["depends_on"]["model"]["condition"] == "service_healthy"


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_compose_builds_from_files_that_exist(name):
    for service in compose(name)["services"].values():
        if build := service.get("build"):
            context = (DOCKER / build["context"]).resolve()
            assert context == ROOT
            assert (context / build["dockerfile"]).is_file()
