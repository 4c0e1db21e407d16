"""Resident memory of this process, split into what is its own and what is pages of files. Linux only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Resident:
    """Bytes: `anonymous` must stay in memory, `file_backed` can be dropped and read again."""

    anonymous: int
    file_backed: int

    @property
    def total(self) -> int:
        """Both together."""
        return self.anonymous + self.file_backed


def resident_bytes(pid: int | str = "self") -> Resident:
    """What /proc says of a process now."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile", "RssShmem"):
            fields[name] = int(value.split()[0]) * 1024
    return Resident(anonymous=fields["RssAnon"] + fields["RssShmem"], file_backed=fields["RssFile"])
