"""How smoothly the chat page draws an answer of 20,000 tokens as it streams, in headless Chromium.

A scripted server sends the answer at a given rate; the page counts its animation frames and long tasks, and Chromium's
trace says what the time went to. Shapes of answers: ordinary markdown, one long program, one long list. Aim: 30 frames
per second on two cores. Needs the dev extra and Chromium.

    $ python benchmarks/page_streaming.py --out benchmarks/records/page_streaming.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from playwright.sync_api import sync_playwright

from hidden_decoding.bench.record import write_record
from tests.ui.browsing import ask, wait_for_end, watched_page
from tests.ui.conftest import FLAGS, serving
from tests.ui.fake_server import fake_server
from tests.ui.stories import RAINBOW

TOKENS, LETTERS_PER_TOKEN = 20_000, 4
CATEGORIES = ["devtools.timeline", "blink", "v8", "cc"]
EVENTS = 12  # kept of a trace, by total time

COUNT_FRAMES = """() => {
  window.frames_ = [];
  window.tasks_ = [];
  new PerformanceObserver((list) => window.tasks_.push(...list.getEntries().map((task) => task.duration)))
    .observe({ type: 'longtask' });
  const onFrame = (now) => { window.frames_.push(now); window.nextFrame = requestAnimationFrame(onFrame); };
  window.nextFrame = requestAnimationFrame(onFrame);
}"""


def ordinary() -> str:
    return RAINBOW + "\n"


def program() -> str:
    return "\n".join(f"    total_{i} = compute(items[{i}], scale={i * 7 % 13})  # step {i}" for i in range(40)) + "\n"


def items() -> str:
    return (
        "\n".join(f"- Item **{i}** with `code`, a [link](https://example.org) and some more words" for i in range(40))
        + "\n"
    )


SHAPES = {"markdown": ("", ordinary), "one program": ("```python\n", program), "one list": ("", items)}


def pieces(shape: str, tokens_per_second: float | None) -> Iterator[str | float]:
    """Tokens at a rate, in bursts of 5 ms or longer; None: as fast as they go."""
    start, block = SHAPES[shape]
    text = start + block() * (1 + TOKENS * LETTERS_PER_TOKEN // len(block()))
    tokens = [text[i : i + LETTERS_PER_TOKEN] for i in range(0, TOKENS * LETTERS_PER_TOKEN, LETTERS_PER_TOKEN)]
    if tokens_per_second is None:
        yield from tokens
        return
    began = time.perf_counter()
    for index, token in enumerate(tokens):
        ahead = index / tokens_per_second - (time.perf_counter() - began)
        if ahead > 0.005:
            yield ahead
        yield token


def smoothness(frames_ms: list[float], tasks_ms: list[float]) -> dict[str, float | int]:
    """Frames per second over whole seconds, the longest gaps, and tasks that held the page up."""
    gaps = sorted(later - earlier for earlier, later in itertools.pairwise(frames_ms))
    by_second: dict[int, int] = defaultdict(int)
    for at in frames_ms:
        by_second[int((at - frames_ms[0]) // 1000)] += 1
    whole = [by_second[second] for second in range(max(by_second))] or [len(frames_ms)]
    return {
        "seconds": round((frames_ms[-1] - frames_ms[0]) / 1000, 2),
        "frames_per_second": round(1000 * len(gaps) / (frames_ms[-1] - frames_ms[0]), 1),
        "slowest_second_frames": min(whole),
        "median_frame_ms": round(gaps[len(gaps) // 2], 1),
        "frame_ms_99th_percentile": round(gaps[int(0.99 * (len(gaps) - 1))], 1),
        "longest_frame_ms": round(gaps[-1], 1),
        "frames_above_33_ms": sum(gap > 33.4 for gap in gaps),
        "long_tasks": len(tasks_ms),
        "longest_task_ms": round(max(tasks_ms, default=0.0), 1),
    }


def where_time_went(trace: bytes) -> list[dict[str, float | str]]:
    """Total time of the trace's events on all threads, by name; events within others count in both."""
    totals: dict[str, float] = defaultdict(float)
    for event in json.loads(trace)["traceEvents"]:
        if event.get("ph") == "X":
            totals[event["name"]] += event.get("dur", 0) / 1e6
    most = sorted(totals.items(), key=lambda pair: -pair[1])[:EVENTS]
    return [{"event": name, "seconds": round(seconds, 3)} for name, seconds in most]


def run(browser, shape: str, rate: float | None, trace_to: Path | None) -> dict:
    with (
        fake_server(script=lambda _: pieces(shape, rate)) as fake,
        serving(base_url=(fake.base_url,)) as ui,
        watched_page(browser, ui.url, viewport={"width": 1280, "height": 900}) as page,
    ):
        browser.start_tracing(page=page, categories=CATEGORIES)
        page.evaluate(COUNT_FRAMES)
        ask(page, shape, done=False)
        wait_for_end(page, 180)
        page.evaluate("cancelAnimationFrame(window.nextFrame)")
        trace = browser.stop_tracing()
        if trace_to is not None:
            trace_to.mkdir(parents=True, exist_ok=True)
            (trace_to / f"{shape.replace(' ', '-')}-{rate or 'fastest'}.json").write_bytes(trace)
        measured = smoothness(page.evaluate("window.frames_"), page.evaluate("window.tasks_"))
    figures = {"shape": shape, "tokens": TOKENS, "tokens_per_second_sent": rate or "as fast as they go", **measured}
    print(json.dumps(figures), file=sys.stderr)
    return {**figures, "where_time_went": where_time_went(trace)}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rates", type=float, nargs="*", default=[500.0], help="tokens per second (default: 500)")
    parser.add_argument("--trace", type=Path, metavar="FOLDER", help="keep Chromium's traces there")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/records/page_streaming.json"))
    args = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        results = [run(browser, shape, rate, args.trace) for shape in SHAPES for rate in (*args.rates, None)]
        version = browser.version
        browser.close()
    write_record(args.out, {"benchmark": "page_streaming", "chromium": version, "results": results})
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
