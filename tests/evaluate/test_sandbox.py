"""Programs cannot get out, cannot run on, and cannot declare themselves right; MBPP+'s own solutions all pass."""

from __future__ import annotations

import concurrent.futures
import json

import pytest

from hidden_decoding.evaluate.data_sets import DataSource
from hidden_decoding.evaluate.sandbox import check_sandbox, run_program, run_script
from hidden_decoding.evaluate.scoring.code import program_in, reference, score_code

ESCAPES = {
    "a file": "def f():\n    open({path!r}, 'w').write('x')\n    return 'out'",
    "a file by number": "import os\ndef f():\n    os.open({path!r}, os.O_CREAT | os.O_WRONLY)\n    return 'out'",
    "a folder": "import os\ndef f():\n    os.mkdir({path!r})\n    return 'out'",
    "a removal": "import os\ndef f():\n    os.remove({victim!r})\n    return 'out'",
    "a rename": "import os\ndef f():\n    os.rename({victim!r}, {path!r})\n    return 'out'",
    "a link": "import os\ndef f():\n    os.symlink({victim!r}, {path!r})\n    return 'out'",
    "a socket": "import socket\ndef f():\n    socket.create_connection(('127.0.0.1', {port}))\n    return 'out'",
    "a process": "import subprocess\ndef f():\n    subprocess.run(['touch', {path!r}])\n    return 'out'",
    "a fork": "import os\ndef f():\n    os.fork()\n    return 'out'",
    "a system call": "import ctypes\ndef f():\n    ctypes.CDLL(None).creat({path!r}.encode(), 0o600) < 0 and 1 / 0\n"
    "    return 'out'",
    "a signal": "import os\ndef f():\n    os.kill(os.getppid(), 15)\n    return 'out'",
    "more memory": "def f():\n    return len(bytearray(6 * 2**30))",
    "higher limits": "import resource\ndef f():\n    resource.setrlimit(7, (9, 9))\n    return 'out'",
}


@pytest.mark.parametrize("name", ESCAPES)
def test_no_way_out(name, tmp_path):
    import socket

    victim, path = tmp_path / "victim", tmp_path / "made"
    victim.write_text("here")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = ESCAPES[name].format(path=str(path), victim=str(victim), port=listener.getsockname()[1])
        run = run_program(code, "f", [()], seconds=5)
        listener.settimeout(0.01)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert run.status != "ran" or "out" not in run.results
    assert victim.read_text() == "here"
    assert not path.exists()


def test_what_is_allowed():
    check_sandbox()
    code = """
import math, threading

def f(x):
    thread = threading.Thread(target=int)
    thread.start()
    thread.join()
    return (math.sqrt(x), {x}, 2**200, 1j, None, b"x")
"""
    expected = [(2.0, {4}, 2**200, 1j, None, b"x"), (3.0, {9}, 2**200, 1j, None, b"x")]
    assert run_program(code, "f", [(4,), (9,)]).results == expected


def test_endless_programs_end():
    assert run_program("def f():\n    while True: pass", "f", [()], seconds=1).status in {"timeout", "killed"}
    assert run_program("import time\ndef f():\n    time.sleep(60)", "f", [()], seconds=1).status == "timeout"
    assert run_program("def f():\n    return f()", "f", [()], seconds=5).status in {"ran", "killed"}


@pytest.mark.parametrize("code", ["import os\nos._exit(0)", "raise SystemExit", "def g(): pass", "def f(:"])
def test_programs_without_the_function(code):
    assert run_program(code, "f", [()], seconds=5).status in {"error", "killed"}


def test_an_object_that_equals_everything_is_wrong():
    check = {
        "entry_point": "f",
        "canonical_solution": "def f(x):\n    return [x]",
        "base_input": [[1]],
        "plus_input": [],
        "atol": 0,
    }
    doc = {"task_id": 999_999, "check": json.dumps(check)}
    same = "class Same(list):\n    def __eq__(self, other): return True\ndef f(x):\n    return Same()"
    assert not score_code(same, doc).correct
    assert score_code("def f(x):\n    return [x]", doc).correct


def test_scripts_must_reach_their_end():
    assert run_script("def f(): return 1", "assert f() == 1").status == "ran"
    assert run_script("def f(): return 2", "assert f() == 1").status == "error"
    assert run_script("import os\ndef f(): os._exit(0)", "f()").status != "ran"


def test_programs_in_text():
    assert program_in("Sure!\ndef f():\n    return 1\nThis works.") == "def f():\n    return 1\n"
    assert program_in("x\n```python\nimport os\n\ndef f():\n    pass\n```\ny") == "import os\n\ndef f():\n    pass\n"
    assert program_in("[BEGIN]\ndef f(): return 1\n[DONE]\nmore") == "def f(): return 1\n"
    assert program_in("I cannot.") is None


@pytest.mark.slow
def test_all_reference_solutions_pass(real_data):
    """All 399 problems: the reference, as an answer, passes, and it answers every input."""
    rows = DataSource(real_data).splits("mbpp_plus", None)["test"]
    assert len(rows) == 399
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(lambda row: score_code(row["code"], row).correct, rows))
    assert [row["task_id"] for row, passed in zip(rows, verdicts, strict=True) if not passed] == []
    assert sum(len(reference(row["task_id"], row["check"])[2]) for row in rows[:20]) > 1000
