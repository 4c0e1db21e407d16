"""Runs inside the sandbox: limits first, then the program, then its results as plain data on a pipe.

Contract: standard library only, started by `sandbox` as a script; reads one JSON object from standard input. Before any
foreign code runs, the system-call filter is in place: no network, no new process, no file opened for writing, created,
renamed or removed, no signal to others. What the program returns is encoded by kind; nothing of it is trusted.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

# ------------------------------------------------------------------------------------------------- plain data, by kind

MOST_DEPTH = 60
MOST_ITEMS = 20_000  # a longer result goes out as a hash of its items


def encode(value: Any, depth: int = 0) -> Any:
    """A value as JSON that keeps its type; an object of another type becomes its type's name."""
    if depth > MOST_DEPTH:
        return ["object", "too deep"]
    kind = type(value)
    if value is None or kind is bool or kind is str:
        return ["plain", value]
    if kind is int:
        return ["int", hex(value)]
    if kind is float:
        return ["float", value.hex()]
    if kind is complex:
        return ["complex", value.real.hex(), value.imag.hex()]
    if kind is bytes:
        return ["bytes", value.hex()]
    if kind in (list, tuple, set, frozenset):
        if len(value) > MOST_ITEMS:
            return ["digest", f"{kind.__name__} {len(value)} {digest(value)}"]
        return [kind.__name__, [encode(item, depth + 1) for item in value]]
    if kind.__name__ in ("Counter", "defaultdict", "OrderedDict", "dict") and isinstance(value, dict):
        return ["dict", [[encode(key, depth + 1), encode(item, depth + 1)] for key, item in value.items()]]
    if kind.__module__ == "numpy" and hasattr(value, "tolist"):
        return encode(value.tolist(), depth + 1)
    return ["object", kind.__name__]


def digest(values: Any) -> str:
    """SHA-256 over the items as Python writes them, in their order where they have one. Millions take seconds."""
    whole = hashlib.sha256()
    for text in map(repr, values) if type(values) in (list, tuple) else sorted(map(repr, values)):
        whole.update(text.encode())
    return whole.hexdigest()


def decode(coded: Any) -> Any:
    """The value again; an object comes back as an `Opaque`."""
    kind, *rest = coded
    if kind in ("plain", "digest"):
        return rest[0]
    if kind == "int":
        return int(rest[0], 16)
    if kind == "float":
        return float.fromhex(rest[0])
    if kind == "complex":
        return complex(float.fromhex(rest[0]), float.fromhex(rest[1]))
    if kind == "bytes":
        return bytes.fromhex(rest[0])
    if kind == "dict":
        return {decode(key): decode(item) for key, item in rest[0]}
    if kind in ("list", "tuple", "set", "frozenset"):
        return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[kind](
            decode(item) for item in rest[0]
        )
    return Opaque(rest[0])


class Opaque:
    """Something that has no plain form; equal to nothing but itself."""

    def __init__(self, name: str) -> None:
        self.name = name


# ------------------------------------------------------------------------------------------------- system-call filter

# name -> (x86_64, aarch64); None where the machine has no such call
CALLS: dict[str, tuple[int | None, int | None]] = {
    "socket": (41, 198), "socketpair": (53, 199), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201),
    "sendto": (44, 206), "sendmsg": (46, 211), "fork": (57, None), "vfork": (58, None), "execve": (59, 221),
    "execveat": (322, 281), "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "ptrace": (101, 117),
    "creat": (85, None), "unlink": (87, None), "unlinkat": (263, 35), "rename": (82, None), "renameat": (264, 38),
    "renameat2": (316, 276), "mkdir": (83, None), "mkdirat": (258, 34), "rmdir": (84, None), "link": (86, None),
    "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36), "chmod": (90, None), "fchmod": (91, 52),
    "fchmodat": (268, 53), "chown": (92, None), "fchown": (93, 55), "fchownat": (260, 54), "truncate": (76, 45),
    "ftruncate": (77, 46), "mknod": (133, None), "mknodat": (259, 33), "mount": (165, 40), "umount2": (166, 39),
    "setrlimit": (160, 164), "prlimit64": (302, 261), "io_uring_setup": (425, 425), "openat2": (437, 437),
    "clone3": (435, 435), "utimensat": (280, 88), "setxattr": (188, 5), "bpf": (321, 280), "memfd_create": (319, 279),
    "pidfd_open": (434, 434), "process_vm_writev": (311, 271), "unshare": (272, 97), "setns": (308, 268),
}  # fmt: skip
OPEN: dict[str, tuple[int | None, int | None]] = {"open": (2, None), "openat": (257, 56)}
CLONE = (56, 220)
ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CLONE_THREAD = 0x10000
ALLOW, ERRNO, KILL = 0x7FFF0000, 0x00050000, 0x80000000
LOAD, EQUAL, SET, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: load a word; jump if equal; jump if any bit is set; return
NO_NEW_PRIVILEGES, SET_SECCOMP, FILTER_MODE = 38, 22, 2
EPERM, ENOSYS = 1, 38


def filter_program(machine: str) -> bytes:
    """The filter as BPF instructions for this machine's calls."""
    column, audit = ARCHITECTURES[machine]
    program = [
        (LOAD, 0, 0, 4), (EQUAL, 1, 0, audit), (RETURN, 0, 0, KILL),
        (LOAD, 0, 0, 0),
    ]  # fmt: skip
    for name, numbers in CALLS.items():
        if (number := numbers[column]) is not None:
            # The C library falls back to clone, whose flags can be read.
            verdict = ERRNO | (ENOSYS if name == "clone3" else EPERM)
            program += [(EQUAL, 0, 1, number), (RETURN, 0, 0, verdict)]
    for name, numbers in OPEN.items():
        if (number := numbers[column]) is not None:
            flags = 16 + 8 * (2 if name == "openat" else 1)
            program += [
                (EQUAL, 0, 4, number), (LOAD, 0, 0, flags), (SET, 0, 1, WRITING), (RETURN, 0, 0, ERRNO | EPERM),
                (RETURN, 0, 0, ALLOW),
            ]  # fmt: skip
    program += [
        (EQUAL, 0, 3, CLONE[column]), (LOAD, 0, 0, 16), (SET, 1, 0, CLONE_THREAD), (RETURN, 0, 0, ERRNO | EPERM),
        (RETURN, 0, 0, ALLOW),
    ]  # fmt: skip
    return b"".join(struct.pack("<HBBI", *line) for line in program)


def close_down(seconds: int, memory_bytes: int) -> None:
    """Limits of this process, for good. Raises `OSError` where the filter cannot be set: then nothing may run."""
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    library = ctypes.CDLL(None, use_errno=True)
    code = filter_program(platform.machine())
    text = ctypes.create_string_buffer(code)

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("lines", ctypes.c_void_p)]

    program = Program(len(code) // 8, ctypes.addressof(text))
    for call in ((NO_NEW_PRIVILEGES, 1, 0, 0, 0), (SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0)):
        if library.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), "the system-call filter cannot be set")


# ------------------------------------------------------------------------------------------------------- the program


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Executes the program; the results of its function on every input, or what went wrong."""
    namespace: dict[str, Any] = {"__name__": "__program__"}
    try:
        exec(compile(job["code"], "<answer>", "exec"), namespace)  # noqa: S102 - this is what the sandbox is for
        if job.get("script"):
            exec(compile(job["script"], "<test>", "exec"), namespace)  # noqa: S102
            return {"status": "ran", "nonce": job["nonce"]}
        function = namespace[job["entry_point"]]
    except BaseException as error:
        return {"status": "error", "reason": f"{type(error).__name__}: {error}"[:200]}
    results = []
    for coded in job["inputs"]:
        try:
            results.append(encode(function(*decode(coded))))
        except BaseException as error:
            results.append(["raised", type(error).__name__])
            if job.get("stop_at_error"):
                break
    return {"status": "ran", "results": results}


def main() -> None:
    """Reads the job, closes the process down, runs, answers on the pipe given as the first argument."""
    job = json.loads(sys.stdin.buffer.read())
    pipe = int(sys.argv[1])
    if not job.get("trusted"):
        import math  # noqa: F401
    close_down(job["seconds"], job["memory_bytes"])
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    sys.setrecursionlimit(job.get("recursion", 3000))
    answer = json.dumps(run(job)).encode()
    while answer:
        answer = answer[os.write(pipe, answer) :]
    os._exit(0)


if __name__ == "__main__":
    main()
