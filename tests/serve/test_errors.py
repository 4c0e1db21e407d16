"""Whatever a client does wrong gets the right status and OpenAI's shape, and leaves nothing behind in the engine."""

from __future__ import annotations

import json
import time

import httpx
import openai
import pytest

from tests.serve.bad_inputs import BAD_INPUTS, CHAT, COMPLETIONS, GOOD, content_of
from tests.serve.support import running_server, wait_until


def assert_openai_error(answer: httpx.Response, status: int) -> dict:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    message = body["error"]["message"]
    assert message
    assert len(message) < 600
    assert "Traceback" not in message
    assert "/root" not in message
    assert ".py" not in message
    return body["error"]


@pytest.mark.parametrize("bad", BAD_INPUTS, ids=lambda bad: f"{bad.route}-{str(bad.body)[:40]}")
def test_bad_input(server, bad):
    with server.http() as http:
        answer = http.post(bad.route, content=content_of(bad), headers={"content-type": "application/json"})
    error = assert_openai_error(answer, bad.status)
    assert bad.message in error["message"]
    assert error["param"] == bad.param
    assert error["type"] == ("not_found_error" if bad.status == 404 else "invalid_request_error")


@pytest.mark.parametrize("route", GOOD)
def test_the_tables_starting_points_are_good(server, route):
    with server.http() as http:
        assert http.post(route, json=GOOD[route]).status_code == 200
    assert not server.busy()


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nothing", 404),
        ("GET", "/v1/models/unknown", 404),
        ("POST", "/v1/responses", 404),
        ("GET", "/v1/responses/abc", 404),
        ("PUT", "/v1/models", 405),
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/embeddings", 404),
    ],
)
def test_routes_that_are_not_there(server, method, path, status):
    with server.http() as http:
        error = assert_openai_error(http.request(method, path, json={}), status)
    if "responses" in path:
        assert "/v1/chat/completions" in error["message"]


def test_bytes_that_are_no_utf8(server):
    with server.http() as http:
        answer = http.post(COMPLETIONS, content=b'{"prompt": "\xff"}', headers={"content-type": "application/json"})
        assert_openai_error(answer, 400)
        assert_openai_error(http.post(COMPLETIONS, content=b'{"prompt": "a"}'), 400)  # no content type


def test_unknown_fields_are_accepted_counted_and_warned_about_once(server, caplog):
    with server.http() as http:
        for _ in range(2):
            assert http.post(COMPLETIONS, json={**GOOD[COMPLETIONS], "frobnicate": 1}).status_code == 200
        assert 'unknown_request_fields_total{field="frobnicate"} 2.0' in http.get("/metrics").text
    assert sum("frobnicate" in record.getMessage() for record in caplog.records) == 1


def test_the_client_library_raises_its_own_errors(server):
    client = server.openai()
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="other", messages=GOOD[CHAT]["messages"])
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt="a", temperature=-1)
    assert refused.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model="tiny", prompt=[5] * 300)
    assert refused.value.code == "context_length_exceeded"


# ------------------------------------------------------------------------------------------------ keys, sizes, load


def test_keys(tiny_checkpoint):
    with running_server(tiny_checkpoint(1), api_key=("first-key", "second-key")) as server, server.http() as http:
        for header in (None, "Bearer wrong", "Bearer first-ke", "first-key", "Basic first-key"):
            headers = {} if header is None else {"authorization": header}
            answer = http.get("/v1/models", headers=headers)
            assert assert_openai_error(answer, 401)["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
        for key in ("first-key", "second-key"):
            assert http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200
        assert http.get("/health").status_code == 200
        assert http.get("/metrics").status_code == 401
        assert server.openai().completions.create(model="default", prompt=[1], max_tokens=1).id
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="bad", max_retries=0).models.list()


def test_bodies_that_are_too_large(tiny_checkpoint):
    with running_server(tiny_checkpoint(1), max_body_bytes=10_000) as server, server.http() as http:
        large = json.dumps({"prompt": "a" * 20_000}).encode()
        headers = {"content-type": "application/json"}

        def chunked():
            for start in range(0, len(large), 1000):
                yield large[start : start + 1000]

        announced = http.post(COMPLETIONS, content=large, headers=headers)
        assert "10000 bytes" in assert_openai_error(announced, 413)["message"]
        assert_openai_error(http.post(COMPLETIONS, content=chunked(), headers=headers), 413)
        fine = json.dumps({"prompt": [1], "max_tokens": 1, "user": "u" * 9_000})
        assert http.post(COMPLETIONS, content=fine, headers=headers).status_code == 200


def test_a_full_queue_is_429_with_a_time_to_come_back(tiny_checkpoint):
    with running_server(tiny_checkpoint(2), engine={"max_num_seqs": 1}, max_waiting_requests=2) as server:
        slow_down(server, 0.02)
        long = {"prompt": [1], "max_tokens": 200, "ignore_eos": True, "stream": True}
        with server.http() as http, http.stream("POST", COMPLETIONS, json=long) as running:
            pieces = running.iter_text()  # kept: a dropped iterator closes the connection
            next(pieces)
            # One runs and two may wait: three more find no room, and none of them stays; two do.
            body = {"prompt": [2], "max_tokens": 1}
            answer = http.post(COMPLETIONS, json={**body, "n": 3})
            assert assert_openai_error(answer, 429)["code"] == "queue_full"
            assert int(answer.headers["retry-after"]) >= 1
            assert_openai_error(http.post(COMPLETIONS, json={**body, "n": 3, "stream": True}), 429)
            assert_openai_error(http.post(COMPLETIONS, json={**body, "n": 4}), 400)
            assert http.post(COMPLETIONS, json={**body, "n": 2}).status_code == 200
        wait_until(lambda: not server.busy())
        assert server.openai().completions.create(model="default", prompt=[3], max_tokens=1).id


def test_a_request_that_takes_too_long_is_aborted(tiny_checkpoint):
    with running_server(tiny_checkpoint(2), request_timeout=0.3) as server, server.http() as http:
        slow_down(server, 0.05)
        body = {"prompt": [1], "max_tokens": 200, "ignore_eos": True}
        error = assert_openai_error(http.post(COMPLETIONS, json=body), 408)
        assert "0.3 seconds" in error["message"]
        text = http.post(COMPLETIONS, json={**body, "stream": True}).text
        assert '"choices"' in text
        assert json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))["error"]["code"] == "request_timeout"
        wait_until(lambda: not server.busy())


def slow_down(server, seconds: float) -> None:
    """Makes each step of the engine take at least this long."""
    step = server.engine.step
    server.engine.step = lambda: (time.sleep(seconds), step())[1]


def test_a_quiet_stream_is_kept_alive(tiny_checkpoint):
    with running_server(tiny_checkpoint(2), keep_alive_seconds=0.1) as server, server.http() as http:
        slow_down(server, 0.35)
        text = http.post(COMPLETIONS, json={"prompt": [1], "max_tokens": 3, "stream": True}).text
        assert text.count(": keep-alive\n\n") >= 3
        assert text.endswith("data: [DONE]\n\n")
        whole = server.openai().chat.completions.create(
            model="default", messages=GOOD[CHAT]["messages"], max_tokens=2, stream=True
        )
        assert sum(1 for _ in whole) >= 2, "the client reads over the comments"


def test_a_failed_step_fails_its_requests_and_no_others(tiny_checkpoint):
    with running_server(tiny_checkpoint(2)) as server, server.http() as http:
        run = server.engine.runner.run
        body = {"prompt": [1], "max_tokens": 20, "ignore_eos": True}

        def failing(spans):
            if spans[0].request.answer_tokens == 5:
                raise RuntimeError("secret detail of the machine")
            return run(spans)

        server.engine.runner.run = failing
        error = assert_openai_error(http.post(COMPLETIONS, json=body), 500)
        assert "secret" not in error["message"]
        text = http.post(COMPLETIONS, json={**body, "stream": True}).text
        last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["type"] == "server_error"
        with pytest.raises(openai.APIError):
            list(server.openai().completions.create(model="default", prompt=[1], max_tokens=20, stream=True))
        server.engine.runner.run = run
        assert http.post(COMPLETIONS, json=body).status_code == 200
        assert not server.busy()


def test_a_fault_of_the_server_says_nothing_about_its_inside(tiny_checkpoint):
    with running_server(tiny_checkpoint(1)) as server, server.http() as http:
        server.state.prompts.completion = lambda _: 1 / 0
        error = assert_openai_error(http.post(COMPLETIONS, json=GOOD[COMPLETIONS]), 500)
        assert "division" not in error["message"]
        assert http.get("/health").status_code == 200
