"""The CPU image, built for real and run: `make test-container`.

Not part of `make check`: it needs root, buildah, podman and crun, and takes minutes. What podman cannot be asked here:
`docker compose`, published ports (the container shares the host's network), limits by cgroups.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.conftest import missing
from tests.container.image import IMAGE, absent_tools, build_image, run
from tests.container.running import Container, ask, packages_inside, podman_run

DOCKER = Path(__file__).parents[2] / "docker"
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def image() -> str:
    if tools := absent_tools():
        missing(", ".join(tools))
    build_image()
    return IMAGE


@pytest.fixture(scope="module")
def model(tiny_checkpoint):
    """A checkpoint that any user may read, as the guide says it must be."""
    directory = tiny_checkpoint(4)
    for path in (directory.parent.parent, directory.parent, directory, *directory.iterdir()):
        path.chmod(path.stat().st_mode | 0o555)
    return directory


@pytest.fixture(scope="module")
def served(image, model):
    with Container(model) as container:
        container.wait_until_healthy()
        yield container


def test_no_cuda_inside(image):
    names = packages_inside()
    assert {"torch", "hidden-decoding", "transformers", "fastapi"} <= {name.lower() for name in names}
    assert not [name for name in names if name.lower().startswith(("nvidia", "cuda", "triton"))]


def test_openai_client_gets_an_answer(served):
    answer = ask(served.url, "Once upon a time", max_tokens=8, temperature=0)
    assert answer.usage.completion_tokens == 8
    again = ask(served.url, "Once upon a time", max_tokens=8, temperature=0)
    assert again.choices[0].text == answer.choices[0].text


def test_structured_answers_need_no_compiler(served):
    from openai import OpenAI

    client = OpenAI(base_url=served.url + "/v1", api_key="none", max_retries=0)
    schema = {"name": "yes", "schema": {"type": "object", "properties": {"a": {"enum": ["b"]}}, "required": ["a"]}}
    answer = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=60,
        temperature=0,
        response_format={"type": "json_schema", "json_schema": schema},
    )
    assert answer.choices[0].message.content.lstrip().startswith("{")


def test_its_user_can_write_nowhere_but_tmp(served):
    assert served.shell("id -u") == "10001"
    assert served.shell("grep CapEff /proc/1/status").split()[1].strip("0") == ""
    for place in ("/model/x", "/x", "/opt/hidden-decoding/x", "/home/hidden/x"):
        assert served.shell(f"touch {place} 2>/dev/null && echo written || echo refused") == "refused"
    assert served.shell("touch /tmp/x && echo written") == "written"


def test_healthcheck_of_the_image_holds(served):
    """The image's own command, with the port of this container."""
    code = f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{served.port}/health', timeout=4)"
    assert served.shell(f'python3 -c "{code}" && echo healthy') == "healthy"


def test_page_in_a_second_container(image, served):
    with Container(None, page_for=served.url + "/v1") as page:
        page.wait_until_healthy()
        with urllib.request.urlopen(page.url, timeout=30) as answer:
            assert "<html" in answer.read().decode()
        with urllib.request.urlopen(page.url + "/v1/models", timeout=30) as answer:
            assert b'"default"' in answer.read()


def test_a_stop_lets_a_running_answer_end(image, model):
    with Container(model) as container:
        container.wait_until_healthy()
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(ask(container.url, "Once", max_tokens=200, extra_body={"ignore_eos": True}))
        )
        asking.start()
        time.sleep(0.5)
        stopped = subprocess.run(["podman", "stop", "--time", "40", container.name], capture_output=True, check=False)
        asking.join(60)
        assert stopped.returncode == 0
        assert [answer.usage.completion_tokens for answer in answers] == [200]
        assert container.process.wait(30) == 0, "SIGTERM, not SIGKILL, ended it"


@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "compose.gpu.yaml"]], ids=["cpu", "gpu"])
def test_compose_files_are_valid(files, tmp_path):
    """By Compose's own schema. Debian's version is older than the key `name`, so that one is taken out first."""
    if shutil.which("docker-compose") is None:
        missing("docker-compose")
    options = []
    for name in files:
        text = (DOCKER / name).read_text(encoding="utf-8").replace("name: hidden-decoding\n", "")
        (tmp_path / name).write_text(text, encoding="utf-8")
        options += ["--file", str(tmp_path / name)]
    command = ["docker-compose", *options, "config", "--quiet"]
    done = subprocess.run(command, env={**os.environ, "MODEL": "/m"}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_misuse_is_one_line(image):
    done = subprocess.run(podman_run(IMAGE, "serve", "/nowhere"), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert "/nowhere" in done.stdout + done.stderr
    assert run(*podman_run(IMAGE, "--version")).startswith("hidden-decoding ")
