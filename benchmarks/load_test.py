"""Load on a real server: 64 clients that ask, leave, send nonsense and are killed; every answer against its own oracle.

Passes when no answer is lost, wrong or another's; the server's anonymous memory has grown by at most 5% since the
warm-up; nothing is left in the engine at the end; and between two tokens of a stream lies at most one step, whose
tokens are bounded (a long prompt is read in chunks). Exit code 1 otherwise. The record says which; seconds in it are of
a machine that also ran the clients. Linux only.

    $ python benchmarks/load_test.py --minutes 10 --out benchmarks/records/load_test.json
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx

from hidden_decoding.bench.memory import resident_bytes
from hidden_decoding.bench.record import write_record

HERE = Path(__file__).resolve().parent
GOOD = ("right", "left", "refused", "busy", "broken", "killed")
BAD = ("wrong", "mixed_up", "failed", "hung", "lost")
SAMPLE_SECONDS, SHOWN_EXAMPLES = 1.0, 10
ALLOWED_GROWTH = 0.05
STEP_TOKENS = 64
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")


class Ledger:
    """What was asked and how it ended, over all client processes."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.open: dict[str, dict] = {}
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.by_kind: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        self.tokens_compared = self.answers_with_ties = 0
        self.longest_gap = 0.0
        self.examples: list[dict] = []

    def note(self, event: dict) -> None:
        """Takes one line of a client process."""
        with self.lock:
            if event["event"] == "start":
                self.open[event["id"]] = event
                return
            del self.open[event["id"]]
            self._count(event)
            self.tokens_compared += event.get("tokens", 0)
            self.answers_with_ties += event.get("tied", False)
            self.longest_gap = max(self.longest_gap, event.get("gap", 0.0))

    def _count(self, event: dict) -> None:
        self.outcomes[event["outcome"]] += 1
        self.by_kind[event["kind"]][event["outcome"]] += 1
        if event["outcome"] in BAD and len(self.examples) < SHOWN_EXAMPLES:
            self.examples.append(event)

    def close(self, process: str, outcome: str) -> None:
        """What a process had open when it ended."""
        with self.lock:
            for request in [name for name in self.open if name.rpartition("-")[0] == process]:
                self._count({**self.open.pop(request), "outcome": outcome})


class ClientProcess:
    """A process of `load_clients.py` and the thread that reads what it says."""

    def __init__(self, url: str, questions: Path, name: str, clients: int, ledger: Ledger) -> None:
        self.name, self.ledger, self.killed = name, ledger, False
        command = [sys.executable, str(HERE / "load_clients.py"), url, str(questions), name, str(clients)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.endswith("}\n"):  # a killed process may leave half a line
                self.ledger.note(json.loads(line))
        self.process.wait()
        self.ledger.close(self.name, "killed" if self.killed else "lost")

    def kill(self) -> None:
        """Ends the process as a crash would (SIGKILL)."""
        self.killed = True
        self.process.kill()
        self.reader.join()

    def stop(self) -> None:
        """Lets each client end what it does."""
        self.process.stdin.write("stop\n")
        self.process.stdin.flush()


class Server:
    """The server process: its URL, memory, gauges and log."""

    def __init__(self, checkpoint: Path, scratch: Path, kv_bytes: int) -> None:
        self.report_path, self.log_path = scratch / "steps.json", scratch / "server.log"
        limits = ["--max-num-seqs", "32", "--max-waiting-requests", "40", "--max-body-bytes", "65536"]
        sizes = ["--kv-cache-memory-bytes", str(kv_bytes), "--max-num-batched-tokens", str(STEP_TOKENS)]
        self.flags = [*limits, *sizes, "--dtype", "float32", "--port", "0"]
        command = [sys.executable, str(HERE / "load_server.py"), "serve", str(checkpoint), *self.flags]
        self.process = subprocess.Popen(
            command,
            env={**os.environ, "LOAD_SERVER_REPORT": str(self.report_path), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=self.log_path.open("w"),
            text=True,
        )
        lines = []
        while not (lines and lines[-1].startswith("curl ")):
            line = self.process.stdout.readline()
            if not line:
                sys.exit(f"the server did not start:\n{self.log_path.read_text()}")
            lines.append(line)
        self.url = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])[0]

    def gauges(self) -> dict[str, float]:
        """What `/metrics` says is running, waiting and held."""
        text = httpx.get(f"{self.url}/metrics", timeout=30).text
        return {name: float(re.search(rf"^{name}{{.*}} (\S+)$", text, re.MULTILINE)[1]) for name in GAUGES}

    def become_idle(self, seconds: float = 10.0) -> dict[str, float]:
        """The gauges once they are all zero, or as they are when the time is up."""
        deadline = time.monotonic() + seconds
        while any((gauges := self.gauges()).values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return gauges

    def stop(self) -> dict:
        """Drains the server; its exit code, its log's tracebacks, and the stopwatch's report."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(60)
        log = self.log_path.read_text()
        return {
            "exit_code": code,
            "tracebacks_in_log": log.count("Traceback"),
            **json.loads(self.report_path.read_text()),
        }


def run(server: Server, questions: Path, args: argparse.Namespace) -> tuple[Ledger, list[dict], int]:
    """The load itself: processes of clients, a kill and a replacement now and then, memory once a second."""
    ledger, samples, kills = Ledger(), [], 0
    rng = random.Random(args.seed)
    each = args.clients // args.processes
    processes = [ClientProcess(server.url, questions, f"{n}.0", each, ledger) for n in range(args.processes)]
    started = time.monotonic()
    next_kill = started + args.kill_seconds
    while (now := time.monotonic()) - started < 60 * args.minutes:
        memory = resident_bytes(server.process.pid)
        samples.append({"second": now - started, "anonymous": memory.anonymous, "file_backed": memory.file_backed})
        if now >= next_kill:
            number, kills = rng.randrange(len(processes)), kills + 1
            processes[number].kill()
            processes[number] = ClientProcess(server.url, questions, f"{number}.{kills}", each, ledger)
            next_kill = now + args.kill_seconds
        time.sleep(SAMPLE_SECONDS)
    for process in processes:
        process.stop()
    for process in processes:
        process.reader.join(180)
    for process in processes:
        process.process.kill()
    return ledger, samples, kills


def memory_growth(samples: list[dict], warm_up: float) -> dict:
    """Medians of anonymous memory in the tenth of the run after the warm-up, and in the last tenth."""
    end = samples[-1]["second"]
    first = [s["anonymous"] for s in samples if warm_up * end <= s["second"] < (warm_up + 0.1) * end]
    last = [s["anonymous"] for s in samples if s["second"] >= 0.9 * end]
    before, after = statistics.median(first), statistics.median(last)
    return {
        "warm_up_share_of_run": warm_up,
        "anonymous_after_warm_up": before,
        "anonymous_at_end": after,
        "anonymous_most": max(s["anonymous"] for s in samples),
        "growth": after / before - 1,
        "samples": samples[:: max(1, len(samples) // 120)],
    }


def verdicts(results: dict) -> dict[str, bool]:
    server, outcomes = results["server"], results["outcomes"]
    return {
        "no_answer_lost_or_mixed_up": not any(outcomes.get(name) for name in BAD) and outcomes.get("right", 0) > 0,
        "memory_grew_by_at_most_5_percent": results["memory"]["growth"] <= ALLOWED_GROWTH,
        "all_slots_free_at_the_end": not any(results["gauges_at_end"].values()),
        "stall_at_most_one_step": server["longest"]["gap_steps"] <= 1,
        "step_bounded_by_its_tokens": server["longest"]["step_tokens"] <= STEP_TOKENS,
        "server_ended_well": server["exit_code"] == 0 and server["tracebacks_in_log"] == 0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--processes", type=int, default=8, help="processes the clients are spread over")
    parser.add_argument("--kill-seconds", type=float, default=10.0, help="one process is killed every so often")
    parser.add_argument("--model", type=Path, help="checkpoint (default: random weights, 3 layers)")
    parser.add_argument("--streams", type=int, default=4, help="n of the random model")
    parser.add_argument("--questions", type=int, default=192)
    parser.add_argument(
        "--kv-tokens", type=int, default=3072, help="KV budget; small enough that requests are preempted"
    )
    parser.add_argument("--warm-up", type=float, default=0.2, help="share of the run before memory counts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="load-test-") as name:
        return measure(args, Path(name))


def measure(args: argparse.Namespace, scratch: Path) -> int:
    import load_oracle
    import torch

    from hidden_decoding.engines.local.kv_pool import bytes_per_token
    from hidden_decoding.modeling.checkpoint import load_config

    torch.set_num_threads(1)
    checkpoint = args.model or load_oracle.make_checkpoint(scratch / "model", args.streams)
    asked = load_oracle.questions(checkpoint, args.questions, args.seed)
    questions = scratch / "questions.json"
    questions.write_text(json.dumps(asked), encoding="utf-8")
    config = load_config(checkpoint)
    server = Server(checkpoint, scratch, args.kv_tokens * bytes_per_token(config, torch.float32))
    try:
        ledger, samples, kills = run(server, questions, args)
        gauges = server.become_idle()
        report = server.stop()
    finally:
        server.process.kill()
    results = {
        "benchmark": "load_test",
        "minutes": args.minutes,
        "clients": args.clients,
        "client_processes_killed": kills,
        "streams": config.num_streams,
        "kv_tokens": args.kv_tokens,
        "server_flags": server.flags,
        "questions": {
            "count": len(asked),
            "longest_prompt": max(len(one["prompt"]) for one in asked),
            "longest_answer": max(len(one["answer"]) for one in asked),
            "with_a_tie": sum(one["certain"] < len(one["answer"]) for one in asked),
        },
        "outcomes": {name: ledger.outcomes[name] for name in (*GOOD, *BAD)},
        "outcomes_by_kind": {kind: dict(counts) for kind, counts in sorted(ledger.by_kind.items())},
        "tokens_compared": ledger.tokens_compared,
        "answers_compared_up_to_a_tie": ledger.answers_with_ties,
        "examples_of_failures": ledger.examples,
        "longest_gap_seen_by_a_client_seconds": ledger.longest_gap,
        "server": report,
        "memory": memory_growth(samples, args.warm_up),
        "gauges_at_end": gauges,
    }
    results["passed"] = verdicts(results)
    shown = {key: value for key, value in results.items() if key not in ("memory", "outcomes_by_kind")}
    print(json.dumps(shown | {"memory_growth": results["memory"]["growth"]}, indent=1))
    if args.out:
        write_record(args.out, results)
    return 0 if all(results["passed"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
