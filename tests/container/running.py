"""Runs the built image with podman as the compose file would: read-only root and mount, no capabilities, own user.

Where the machine shows cgroups in both versions at once (`/sys/fs/cgroup/unified`), crun refuses to start: the
container is then started in a mount namespace of its own in which only the first version is seen. No limit is set by
cgroups.
"""

from __future__ import annotations

import contextlib
import json
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from tests.container.image import IMAGE, run

HYBRID = Path("/sys/fs/cgroup/unified")
AS_COMPOSE = ("--read-only", "--tmpfs", "/tmp", "--cap-drop", "all", "--security-opt", "no-new-privileges")
# Without these podman asks for more than an unprivileged sandbox may grant.
IN_A_SANDBOX = ("--cgroups", "disabled", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")


def podman_run(*arguments: str) -> list[str]:
    """The command that starts a container in the foreground."""
    command = ["podman", "run", "--rm", "--network", "host", *IN_A_SANDBOX, *AS_COMPOSE, *arguments]
    if HYBRID.is_mount():
        return ["unshare", "--mount", "sh", "-c", f"umount {HYBRID} && exec {shlex.join(command)}"]
    return command


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Container:
    """A container of the image: the model's server, or with `page_for` the chat page in front of that URL."""

    def __init__(self, model: Path | None, *flags: str, page_for: str | None = None) -> None:
        self.name = f"hidden-decoding-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        mount = ["--volume", f"{model}:/model:ro"] if model else []
        listen = ["--host", "127.0.0.1", "--port", str(self.port)]
        if page_for:
            words = ["ui", "--base-url", page_for, *listen]
        else:
            words = ["serve", "/model", "--engine", "local", "--served-model-name", "default", *listen, *flags]
        self.command = podman_run("--name", self.name, *mount, IMAGE, *words)
        self.ready_path = "/" if page_for else "/health"

    def __enter__(self) -> Container:
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            subprocess.run(["podman", "stop", "--time", "10", self.name], capture_output=True, check=False)
        self.process.wait(60)

    def wait_until_healthy(self, seconds: float = 180) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.process.poll() is None, self.process.stdout.read()
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(self.url + self.ready_path, timeout=5).close()
                return
            time.sleep(0.05)
        raise AssertionError(f"{self.name} did not answer within {seconds} seconds")

    def shell(self, script: str) -> str:
        """Runs a script inside the container."""
        return run("podman", "exec", self.name, "sh", "-c", script)


def ask(url: str, prompt: str, **fields: Any) -> Any:
    """One completion through the openai client."""
    from openai import OpenAI

    client = OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=180)
    return client.completions.create(model="default", prompt=prompt, **fields)


def memory_bytes(name: str) -> int:
    """Resident memory of the container's main process: anonymous and file-backed pages."""
    pid = int(json.loads(run("podman", "inspect", name))[0]["State"]["Pid"])
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def packages_inside() -> list[str]:
    """Names of the Python packages in the image."""
    code = "import importlib.metadata as m; print('\\n'.join(d.name for d in m.distributions()))"
    place = "/opt/hidden-decoding/bin/python"
    listed = run(*podman_run("--entrypoint", place, IMAGE, "-c", code))
    return sorted(listed.splitlines())
