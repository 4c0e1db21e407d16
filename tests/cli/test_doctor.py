"""`hidden-decoding doctor`: sees what is installed, and fails when a version is outside the supported range."""

import importlib.metadata
import json

import pytest
import torch

from hidden_decoding.cli import doctor
from hidden_decoding.cli.main import main


def checks(capsys) -> dict:
    main(["doctor", "--json"])
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_this_environment_is_supported(capsys):
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(line.split()[0] in ("ok", "warn") for line in lines)
    assert len(lines) == len(doctor.all_checks())


def test_versions_are_held_against_the_ranges_of_the_package(capsys):
    found = checks(capsys)
    assert torch.__version__ in found["torch"]["detail"]
    assert ">=2.11" in found["torch"]["detail"]
    assert "<2.15" in found["torch"]["detail"]
    assert ">=5.17" in found["transformers"]["detail"]
    assert "<5.24" in found["transformers"]["detail"]


@pytest.fixture
def pretend(monkeypatch):
    """`pretend(torch="2.9")` changes what the metadata say; None means not installed."""
    real = importlib.metadata.version

    def install(**versions):
        def version(name):
            if name in versions and versions[name] is None:
                raise importlib.metadata.PackageNotFoundError(name)
            return versions.get(name) or real(name)

        monkeypatch.setattr(importlib.metadata, "version", version)

    return install


@pytest.mark.parametrize("version", ["2.10.0", "2.15.0", "3.0", None])
def test_a_torch_outside_the_range_fails_with_the_command(version, pretend, capsys):
    pretend(torch=version)
    assert main(["doctor"]) == 1
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("fail"))
    assert line.split()[1] == "torch"
    assert 'pip install "torch' in line
    assert (version or "not installed") in line


@pytest.mark.parametrize("version", ["2.11.0", "2.14.1+cu130"])
def test_the_edges_of_the_range_pass(version, pretend, capsys):
    pretend(torch=version)
    assert checks(capsys)["torch"]["status"] == "ok"


def test_an_absent_extra_warns_with_the_command_and_does_not_fail(pretend, capsys):
    pretend(fastapi=None)
    found = checks(capsys)
    assert found["extra serve"]["status"] == "warn"
    assert "fastapi" in found["extra serve"]["detail"]
    assert 'pip install "hidden-decoding[serve]"' in found["extra serve"]["detail"]
    assert main(["doctor"]) == 0


def test_every_extra_that_is_reported_exists():
    declared = importlib.metadata.metadata("hidden-decoding").get_all("Provides-Extra")
    assert set(doctor.EXTRAS) == set(declared) - {"dev", "docs"}
    assert all(doctor.requirements(extra) for extra in doctor.EXTRAS)


def test_threads_that_spin_or_outnumber_the_cores_are_warned_about(monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert doctor.cpu_check().status == "ok"
    monkeypatch.setenv("OMP_NUM_THREADS", "9999")
    assert "export OMP_NUM_THREADS=" in doctor.cpu_check().detail
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    assert doctor.cpu_check().status == "warn"


def test_little_disk_is_warned_about(monkeypatch):
    usage = doctor.shutil.disk_usage("/")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage._replace(free=10**9))
    assert (doctor.disk_check().status, "1 GB free" in doctor.disk_check().detail) == ("warn", True)


def test_a_package_that_is_not_installed_fails(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "DISTRIBUTION", "hidden-decoding-of-nobody")
    assert main(["doctor"]) == 1
    assert "pip install -e ." in capsys.readouterr().out
