"""Builds the CPU image with buildah, without a Docker engine and without an image registry.

The base image is bootstrapped from the Debian archive under the name that the Dockerfile uses. RUN steps see the
package sources that pip on this machine sees: its settings, and the local directories and certificates they name, are
mounted while the image is built and do not become part of it.

Needs root, buildah and debootstrap (`apt-get install buildah podman crun debootstrap`).

    $ python -m tests.container.image
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "docker" / "cpu.Dockerfile"
IMAGE = "localhost/hidden-decoding:cpu"
TOOLS = ("buildah", "debootstrap", "podman", "crun")
ARCHIVE = "http://deb.debian.org/debian"


def run(*command: str | Path, quiet: bool = True, **how) -> str:
    """Runs a command that must end well; returns what it printed."""
    out = subprocess.PIPE if quiet else None
    done = subprocess.run([str(word) for word in command], stdout=out, stderr=out, text=True, check=False, **how)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return (done.stdout or "").strip()


def absent_tools() -> list[str]:
    """What is missing on this machine to build and run the image."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def base_name() -> str:
    """The image that the Dockerfile starts from, in all its stages."""
    names = set(re.findall(r"(?m)^FROM (\S+)", DOCKERFILE.read_text(encoding="utf-8")))
    [name] = names
    return name


def has_image(name: str) -> bool:
    return (
        subprocess.run(["buildah", "inspect", "--type", "image", name], capture_output=True, check=False).returncode
        == 0
    )


def make_base(name: str) -> None:
    """A minimal Debian of the release in the name, as an image."""
    release = name.rpartition(":")[2].removesuffix("-slim")
    with tempfile.TemporaryDirectory() as place:
        run("debootstrap", "--variant=minbase", release, f"{place}/root", ARCHIVE)
        container = run("buildah", "from", "scratch")
        run("buildah", "add", "--quiet", container, f"{place}/root", "/")
        run("buildah", "commit", "--quiet", "--rm", container, name)


def package_sources(place: Path) -> list[str]:
    """`--volume` options for one file with pip's settings here, and for the local paths that it names."""
    listed = run(sys.executable, "-m", "pip", "config", "list")
    settings = dict(re.findall(r"(?m)^global\.([\w-]+)='(.*)'$", listed))
    mounts = {}
    if "cert" in settings:  # not under its own name: the image installs certificates of its own there
        mounts[Path(settings["cert"])] = settings["cert"] = "/etc/pip-certificates.crt"
    for named in re.findall(r"(?:file://)?(/[\w./-]+)", " ".join(settings.values())):
        path = Path("/", *Path(named).parts[1:3]) if named.startswith("/opt/") else Path(named)
        if path.exists():
            mounts.setdefault(path, str(path))
    merged = place / "pip.conf"
    merged.write_text("[global]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()))
    mounts[merged] = "/etc/pip.conf"
    return [option for path, inside in mounts.items() for option in ("--volume", f"{path}:{inside}:ro")]


def build_image(*, torch_index_url: str = "") -> None:
    """Bootstraps the base where it is missing, and builds the image."""
    if not has_image(base_name()):
        make_base(base_name())
    options = ("--isolation", "chroot", "--format", "docker", "--layers")
    argument = ("--build-arg", f"TORCH_INDEX_URL={torch_index_url}")
    with tempfile.TemporaryDirectory() as place:
        sources = package_sources(Path(place))
        run("buildah", "bud", *options, *argument, *sources, "--file", DOCKERFILE, "--tag", IMAGE, ROOT, quiet=False)


if __name__ == "__main__":
    build_image()
