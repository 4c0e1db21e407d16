"""The page's own server: no open proxy, nothing for other sites, keys that stay, streams that are cut when left."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.contract.source import ROOT
from tests.ui.conftest import serving
from tests.ui.fake_server import BREAK, fake_server


def request(server, method: str, path: str, *, body: dict | None = None, **headers) -> tuple[int, dict, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, json.dumps(body) if body else None, names)
    answer = connection.getresponse()
    result = answer.status, dict(answer.headers), answer.read()
    connection.close()
    return result


ASK = {"messages": [{"role": "user", "content": "hello"}]}


def test_only_the_upstreams_that_were_given(fake):
    with (
        fake_server(models=("other",)) as second,
        serving(base_url=(f"a={fake.base_url}", f"b={second.base_url}")) as ui,
    ):
        _, _, config = request(ui, "GET", "/config.json")
        assert json.loads(config)["apis"] == [
            {"name": "a", "path": "upstream/a/v1"},
            {"name": "b", "path": "upstream/b/v1"},
        ]
        for path, model in (
            ("/v1/models", "fake"),
            ("/upstream/a/v1/models", "fake"),
            ("/upstream/b/v1/models", "other"),
        ):
            assert json.loads(request(ui, "GET", path)[2])["data"][0]["id"] == model
        for path in (
            "/upstream/c/v1/models",
            "/upstream/http://127.0.0.1/v1/models",
            "/upstream/a/metrics",
            "/upstream/a/v2/models",
            "//evil.test/v1/models",
            "/v1",
            "/settings.py",
            "/../server.py",
            "/%2e%2e/server.py",
        ):
            assert request(ui, "GET", path)[0] == 404, path
        assert request(ui, "POST", "/", body=ASK)[0] == 404
        assert request(ui, "GET", "/v1/../../admin")[0] in (400, 413)


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.test"},
        {"origin": "null"},
        {"origin": "https://127.0.0.1"},
        {"host": "evil.test"},
        {"host": "evil.test:8081", "origin": "http://evil.test:8081"},
        {"host": "localhost.evil.test"},
        {"host": "127.0.0.1.evil.test"},
        {"host": "192.168.0.9"},
        {"host": "[::1"},
    ],
)
def test_other_sites_get_nothing(fake, headers):
    with serving(base_url=(fake.base_url,), api_key="secret") as ui:
        for method, path in (("GET", "/"), ("GET", "/v1/models"), ("POST", "/v1/chat/completions")):
            status, _, body = request(ui, method, path, body=ASK if method == "POST" else None, **headers)
            assert status == 403
            assert b"secret" not in body
        assert not fake.requests


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8081", "127.0.0.1", "[::1]:9", "chat.example.org"])
def test_own_names_are_answered(fake, host):
    with serving(base_url=(fake.base_url,), allowed_host=("chat.example.org",)) as ui:
        assert request(ui, "GET", "/", host=host, origin=f"https://{host}")[0] == 200


def test_on_every_address_other_names_are_still_refused(fake):
    with serving(base_url=(fake.base_url,), host="0.0.0.0") as ui:
        assert request(ui, "GET", "/", host="192.168.0.9:8081")[0] == 200
        assert request(ui, "GET", "/", host="evil.test")[0] == 403


def test_the_key_stays_on_the_server(fake):
    with serving(base_url=(fake.base_url,), api_key="secret") as ui:
        status, headers, _ = request(ui, "POST", "/v1/chat/completions", body=ASK, authorization="Bearer other")
        assert status == 200
        assert fake.headers[-1]["authorization"] == "Bearer secret"
        assert "secret" not in json.dumps(headers)
        assert b"secret" not in request(ui, "GET", "/config.json")[2]
    with serving(base_url=(fake.base_url,)) as ui:
        request(ui, "POST", "/v1/chat/completions", body=ASK, authorization="Bearer own", cookie="a=b", x_other="1")
        assert fake.headers[-1]["authorization"] == "Bearer own"
        assert "cookie" not in {name.lower() for name in fake.headers[-1]}


def test_a_browser_that_leaves_closes_the_upstream(fake):
    fake.script = lambda _: (part for _ in range(10_000) for part in ("more ", 0.01))
    with serving(base_url=(fake.base_url,)) as ui:
        connection = http.client.HTTPConnection("127.0.0.1", ui.server_address[1], timeout=10)
        connection.request("POST", "/v1/chat/completions", json.dumps(ASK))
        assert b"more" in connection.getresponse().read(400)
        assert not fake.cancelled.is_set()
        connection.close()
        assert fake.cancelled.wait(5)


def test_an_answer_that_broke_is_not_made_whole(fake):
    fake.script = lambda _: ["half", BREAK]
    with serving(base_url=(fake.base_url,)) as ui:
        status, _, body = request(ui, "POST", "/v1/chat/completions", body=ASK)
        assert status == 200
        assert b"half" in body
        assert b"[DONE]" not in body


def test_a_server_that_is_not_there_is_named():
    with serving(base_url=("local=http://127.0.0.1:1/v1",)) as ui:
        status, _, body = request(ui, "GET", "/v1/models")
        assert status == 502
        assert "'local' does not answer at http://127.0.0.1:1/v1" in json.loads(body)["error"]["message"]


def test_a_body_that_was_refused_is_not_the_next_request(fake):
    with serving(base_url=(fake.base_url,)) as ui:
        status, headers, _ = request(ui, "POST", "/nothing", body=ASK)
        assert (status, headers["connection"]) == (404, "close")


def test_policies(fake):
    with serving(base_url=(fake.base_url,)) as ui:
        _, headers, _ = request(ui, "GET", "/")
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "connect-src" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
    with serving(base_url=(fake.base_url,), allow_any_base_url=True) as ui:
        policy = request(ui, "GET", "/")[1]["content-security-policy"]
        assert "connect-src 'self' http: https:" in policy
        assert "script-src" not in policy


@pytest.fixture(scope="module")
def bare_environment(tmp_path_factory):
    """An environment that holds our wheel, without its dependencies."""
    folder = tmp_path_factory.mktemp("bare")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    source = _copy_of_the_source(folder / "source")
    subprocess.run([*build, str(source)], check=True, capture_output=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    (wheel,) = folder.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    target = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", target, str(wheel)], check=True
    )
    return python


def _copy_of_the_source(folder: Path) -> Path:
    """What git would carry: a build leaves its traces beside the source."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    (folder / "src").mkdir()
    subprocess.run(
        ["cp", "-r", str(ROOT / "src" / "hidden_decoding"), str(folder / "src" / "hidden_decoding")], check=True
    )
    return folder


def test_the_page_runs_where_only_our_wheel_is(bare_environment, browser, fake):
    from tests.ui.browsing import ask, last_answer, watched_page

    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    command = [bare_environment, "-m", "hidden_decoding.ui", "--port", "0", "--base-url", fake.base_url]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd="/") as process:
        try:
            lines = [process.stdout.readline() for _ in range(2)]
            assert lines[0].split() == ["server", fake.base_url]
            url = lines[1].split()[-1]
            with watched_page(browser, url) as page:
                ask(page, "hello")
                expect(last_answer(page)).to_have_text("You said hello", use_inner_text=True)
        finally:
            process.terminate()
    assert process.wait(5) != 0


def test_misuse_is_a_sentence():
    command = [sys.executable, "-m", "hidden_decoding.ui", "--base-url", "ftp://a"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert found.stderr.startswith("error: --base-url 'ftp://a'")


def test_the_first_answer_does_not_wait_for_the_last(fake):
    """The relay passes on every piece at once."""
    fake.script = lambda _: ["first", 1.0, "last"]
    with serving(base_url=(fake.base_url,)) as ui:
        ask = urllib.request.Request(f"{ui.url}v1/chat/completions", json.dumps(ASK).encode())
        started = time.monotonic()
        with urllib.request.urlopen(ask, timeout=10) as answer:
            while b"first" not in answer.readline():
                pass
            early = time.monotonic() - started
            answer.read()
        assert time.monotonic() - started - early > 0.5
