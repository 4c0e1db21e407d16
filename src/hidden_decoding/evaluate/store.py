"""What was answered, on disk as it comes: one line of JSON per key, written before the next question is asked.

Contract: `get` gives back what `put` stored, also after a kill in the middle of a line; a key is stored once. Threads
may call `put` together. Used for answers and for a judge's verdicts.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from hidden_decoding.errors import ConfigError


class Store:
    """An append-only file of (key, value) lines."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._values: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if path.exists() else 0
        self._file = path.open("ab")
        self._file.truncate(whole)  # a line that a kill cut short

    def _read(self) -> int:
        """Takes in all whole lines; returns the bytes they fill."""
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break
                try:
                    entry = json.loads(line)
                    self._values[entry["key"]] = entry["value"]
                except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
                    raise ConfigError(
                        f"{self.path} line {number} is not an answer of this program ({error}); move the file away and "
                        "run again"
                    ) from error
                whole += len(line)
        return whole

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> dict[str, Any] | None:
        """The value stored under a key, if any."""
        return self._values.get(key)

    def put(self, key: str, value: dict[str, Any]) -> None:
        """Stores a value; it is with the operating system when this returns."""
        with self._lock:
            if key in self._values:
                return
            self._values[key] = value
            self._file.write(json.dumps({"key": key, "value": value}, ensure_ascii=False).encode() + b"\n")
            self._file.flush()

    def close(self) -> None:
        """Closes the file; the values stay readable."""
        self._file.close()
