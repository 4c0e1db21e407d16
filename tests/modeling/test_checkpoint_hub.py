"""MODEL as a directory or a hub id: what is fetched, which revision, and what is said when there is neither.

`huggingface_hub` reads its environment when it is imported, so each case runs in a process of its own, against a hub on
this machine: the whole command line once, and where that would only repeat loading torch, `resolve_model` alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hidden_decoding.errors import CheckpointError
from hidden_decoding.modeling.hub import resolve_model
from tests.modeling.damage import copy_of, shard
from tests.modeling.fake_hub import FakeHub


@pytest.fixture
def hub(tiny_checkpoint, tmp_path):
    """owner/model: n = 2 in shards on main, n = 4 in one file at v4; each with Python that must stay where it is."""
    repository = {}
    for revision, n in (("main", 2), ("v4", 4)):
        repository[revision] = copy_of(tiny_checkpoint(n), tmp_path / revision)
        (repository[revision] / "modeling_qwen3_scale_seq.py").write_text("raise SystemError\n")
        (repository[revision] / "original").mkdir()
        (repository[revision] / "original" / "consolidated.safetensors").write_bytes(b"not wanted")
    shard(repository["main"])
    with FakeHub({"owner/model": repository}) as running:
        yield running


RESOLVE = """
import sys
from hidden_decoding.errors import CheckpointError
from hidden_decoding.modeling.hub import resolve_model
try:
    found = resolve_model(sys.argv[1], sys.argv[2] or None, weights=sys.argv[3] == "weights")
    print(found)
except CheckpointError as error:
    sys.exit(f"error: {error}")
finally:
    assert "torch" not in sys.modules
"""


def environment(endpoint, cache, offline):
    env = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(cache),
        "HF_HUB_OFFLINE": offline,
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    env.pop("HF_HUB_CACHE", None)
    return env


def command(*words, endpoint, cache, offline="0"):
    line = [sys.executable, "-m", "hidden_decoding.cli.main", *words]
    env = environment(endpoint, cache, offline)
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=False)


def resolve(model, revision="", weights="weights", *, endpoint, cache, offline="0"):
    line = [sys.executable, "-c", RESOLVE, model, revision, weights]
    env = environment(endpoint, cache, offline)
    return subprocess.run(line, env=env, capture_output=True, text=True, timeout=120, check=False)


def refused(process) -> str:
    assert process.returncode == 1, process.stdout
    assert "Traceback" not in process.stderr
    assert process.stdout == ""
    errors = [line for line in process.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    return errors[0]


def test_a_hub_id_is_fetched_at_its_revision_without_python_and_kept(hub, tmp_path):
    cache = tmp_path / "cache"
    out = tmp_path / "exported"
    done = command(
        "export", "owner/model", "--revision", "v4", "--out", str(out), "--json", endpoint=hub.url, cache=cache
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["streams"] == 4
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= hub.fetched()
    assert not any(name.endswith(".py") for name in hub.fetched())
    assert "consolidated.safetensors" not in hub.fetched()
    before = len(hub.requests)
    cached = command("inspect", "owner/model", "--revision", "v4", "--json", endpoint=hub.url, cache=cache, offline="1")
    assert json.loads(cached.stdout)["streams"] == 4
    assert json.loads(cached.stdout)["missing"] == []
    assert len(hub.requests) == before


def test_without_weights_only_small_files_of_the_default_revision_are_fetched(hub, tmp_path):
    done = resolve("owner/model", weights="no weights", endpoint=hub.url, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert json.loads((Path(done.stdout.strip()) / "config.json").read_text())["scale_seq_times"] == 1
    assert "config.json" in hub.fetched()
    assert not any(name.endswith((".safetensors", ".py")) for name in hub.fetched())


def test_unknown_repository_and_revision_are_told_apart(hub, tmp_path):
    unknown = refused(resolve("owner/other", endpoint=hub.url, cache=tmp_path))
    assert "'owner/other' does not exist on" in unknown
    assert hub.url in unknown
    assert "no revision 'v9'" in refused(resolve("owner/model", "v9", endpoint=hub.url, cache=tmp_path))


def test_offline_without_a_copy_says_so(tmp_path):
    said = refused(resolve("owner/model", endpoint="http://127.0.0.1:9", cache=tmp_path, offline="1"))
    assert "HF_HUB_OFFLINE" in said


def test_an_unreachable_hub_says_so(tmp_path):
    said = refused(resolve("owner/model", endpoint="http://127.0.0.1:9", cache=tmp_path))
    assert "could not be fetched from http://127.0.0.1:9" in said


def test_inspect_of_a_sharded_repository_fetches_no_shard(hub, tmp_path):
    done = command("inspect", "owner/model", "--json", endpoint=hub.url, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["streams"], report["missing"], report["unexpected"]) == (2, None, None)
    assert "model.safetensors.index.json" in hub.fetched()
    assert not any(name.endswith(".safetensors") for name in hub.fetched())


def test_a_directory_stays_itself(tiny_checkpoint):
    directory = tiny_checkpoint(2)
    assert resolve_model(directory) == directory
    assert resolve_model(str(directory)) == directory


def test_a_directory_ignores_a_revision_aloud(tiny_checkpoint, caplog):
    assert resolve_model(tiny_checkpoint(2), "v4") == tiny_checkpoint(2)
    assert "'v4' is not used" in caplog.text


@pytest.mark.parametrize("model", ["./nowhere", "/nowhere/at/all", "a/b/c", "~/nowhere-at-all", ""])
def test_what_cannot_be_a_hub_id_is_a_missing_directory(model):
    with pytest.raises(CheckpointError, match="is not a directory"):
        resolve_model(model)


@pytest.mark.parametrize("model", ["owner/na me", "-bad-", "owner/model--x"])
def test_a_malformed_hub_id_is_refused(model):
    with pytest.raises(CheckpointError, match="is not a hub id"):
        resolve_model(model)


def test_a_file_is_not_a_model(tiny_checkpoint):
    with pytest.raises(CheckpointError, match="give the directory"):
        resolve_model(tiny_checkpoint(2) / "model.safetensors")
