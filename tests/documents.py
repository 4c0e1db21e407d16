"""Runs the commands that the README and the guides tell people to run.

As a stranger would: in an empty directory, with the wheel installed, and with a hub on this machine that holds small
checkpoints under the published names.

Each fenced bash or python block carries a comment `<!-- run: KIND -->` on the line before it:

    lines           each line is a command that must end well, in order, in the page's directory
    server          one command that starts a server, which stays up for the rest of the page
    python          a program
    output          what a command prints; not run
    no, REASON      not run, and why

Contract: what is run is what is written, but for ports and the changes in `SHORTER`, which only shorten. A block
without a comment is an error.
"""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.modeling.fake_hub import FakeHub
from tests.packaging.built import stranger
from tests.support import save_tiny_checkpoint

HUB_IDS = {
    "tencent/Sequential-Hidden-Decoding-8B-n2": 2,
    "tencent/Sequential-Hidden-Decoding-8B-n8": 8,
    "tencent/Sequential-Hidden-Decoding-8B-n8-Instruct": 8,
    "Qwen/Qwen3-0.6B-Base": 1,
}
# A written setting that takes long -> one that does the same quickly.
SHORTER = {
    "--steps 1000": "--steps 2 --tokens-per-sequence 32 --sequences-per-step 2",
    "--steps 2000": "--steps 2 --tokens-per-sequence 32 --sequences-per-step 2",
    "--tokens-per-sequence 1024": "",
    "--sequences-per-step 16": "",
    "make demo": "hidden-decoding demo --quick",
}
KINDS = ("lines", "server", "python", "output")
START_SECONDS = 300  # a busy machine may take long to load; a server that cannot start ends at once
BLOCK = re.compile(r"(?:<!-- run: (.*?) -->\n)?^```(bash|python|console|text)\n(.*?)^```", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block of a page."""

    page: str
    kind: str | None
    language: str
    code: str

    def runs(self) -> bool:
        return self.kind in KINDS and self.kind != "output"


def blocks(page: Path) -> list[Block]:
    """All bash and python blocks of a page, and other blocks that say how they are run."""
    found = [
        Block(page=page.name, kind=kind or None, language=language, code=code)
        for kind, language, code in BLOCK.findall(page.read_text(encoding="utf-8"))
    ]
    return [block for block in found if block.kind or block.language in ("bash", "python")]


def unexplained(page: Path) -> list[str]:
    """Blocks that do not say how they are run."""
    return [
        f"{page.name}: {block.code.splitlines()[0]} ({block.kind or 'no comment before it'})"
        for block in blocks(page)
        if block.kind not in KINDS and not re.fullmatch(r"no, .{10,}", block.kind or "")
    ]


@contextlib.contextmanager
def small_hub(directory: Path) -> Iterator[FakeHub]:
    """A hub with a small checkpoint under each id of `HUB_IDS`."""
    repositories = {}
    for hub_id, num_streams in HUB_IDS.items():
        place = save_tiny_checkpoint(directory / hub_id.replace("/", "--"), num_streams)
        repositories[hub_id] = {"main": place}
    with FakeHub(repositories) as hub:
        yield hub


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(kw_only=True)
class Reader:
    """Someone who follows one page in one directory. Each port that the page names becomes a free one."""

    directory: Path
    commands: Path
    hub: FakeHub
    ports: dict[str, int] = field(default_factory=dict)
    servers: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        texts = self.directory / "my-texts"
        texts.mkdir()
        (texts / "one.txt").write_text("The quick brown fox jumps over the lazy dog. " * 200, encoding="utf-8")
        (texts / "two.txt").write_text("A cat sat on a mat. " * 200, encoding="utf-8")

    def environment(self) -> dict[str, str]:
        """The hub, and the cache that belongs to the page."""
        hub = {"HF_ENDPOINT": self.hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        return {**stranger(self.commands), **hub, "HF_HOME": str(self.directory / "hf"), "HF_HUB_DISABLE_XET": "1"}

    def local(self, code: str) -> str:
        """What is really run."""
        for long, short in SHORTER.items():
            code = code.replace(long, short)
        return re.sub(r"\b(8080|8081|30000)\b", lambda match: str(self._port(match.group())), code)

    def _port(self, written: str) -> int:
        return self.ports.setdefault(written, free_port())

    def follow(self, block: Block) -> str:
        """Runs one block; returns its standard output."""
        if block.kind == "server":
            self._start(block)
            return ""
        code = self.local(block.code)
        program = ["python", "-c", code] if block.language == "python" else ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(
            program,
            cwd=self.directory,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, f"{block.page}: {code}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def _start(self, block: Block) -> None:
        command = self.local(block.code).replace("\\\n", " ").strip()
        port = self._port("8081" if " ui" in command else "30000" if "30000" in block.code else "8080")
        if "--port" not in command:
            command = command.replace(" serve ", f" serve --port {port} ").replace(" ui", f" ui --port {port}", 1)
        log = self.directory / f"server-{port}.log"
        with log.open("w") as out:
            server = subprocess.Popen(
                ["bash", "-c", f"exec {command}"], cwd=self.directory, env=self.environment(), stdout=out, stderr=out
            )
        self.servers.append(server)
        path = "/" if " ui" in command else "/health"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert server.poll() is None, f"{block.page}: {command}\n{log.read_text()}"
            with contextlib.suppress(urllib.error.URLError, OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5).close()
                return
            time.sleep(0.1)
        raise AssertionError(f"{command} did not answer\n{log.read_text()}")

    def stop(self) -> None:
        """Ends the page's servers; each must end well."""
        for server in self.servers:
            server.send_signal(signal.SIGTERM)
        for server in self.servers:
            assert server.wait(60) in (0, -signal.SIGTERM), server.args


def follow_page(reader: Reader, page: Path) -> dict[str, str]:
    """Everything a page tells people to run, in its order; outputs by the block's code."""
    try:
        outputs = {block.code: reader.follow(block) for block in blocks(page) if block.runs()}
    except BaseException:
        for server in reader.servers:
            server.kill()
        raise
    reader.stop()
    return outputs
