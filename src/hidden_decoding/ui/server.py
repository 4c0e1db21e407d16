"""The page's server: files of the page, its configuration, and `/v1/*` streamed through to the upstreams it was given.

Contract: no open proxy (only the upstreams of `UiConfig`), no requests from other sites, the key never leaves for the
browser, and a browser that disconnects closes the upstream connection at once. One thread per request.

    >>> PageServer(UiConfig(port=0)).serve_forever()
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import select
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

from hidden_decoding.errors import CapacityError
from hidden_decoding.ui.page_files import headers_for, page_config, page_file
from hidden_decoding.ui.settings import UiConfig, Upstream

MAX_BODY_BYTES = 32 * 2**20
_FORWARDED = ("content-type", "accept", "authorization")
_STRANGER = (
    "this server answers only its own page; start it with --allowed-host NAME if it is reached under another name"
)
_RETURNED = ("content-type", "retry-after")


class PageServer(ThreadingHTTPServer):
    """Listens as configured; raises `CapacityError` when the port is in use."""

    daemon_threads = True

    def __init__(self, config: UiConfig) -> None:
        self.config = config
        self.upstreams = {upstream.name: upstream for upstream in config.upstreams()}
        self.names = {name.lower() for name in (*config.allowed_host, config.host)}
        if not is_loopback(config.host):
            self.names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}
        if ":" in config.host:
            self.address_family = socket.AF_INET6
        try:
            super().__init__((config.host, config.port), PageHandler)
        except OSError as error:
            raise CapacityError(
                f"cannot listen on {config.host} port {config.port} ({error.strerror}); choose another one with --port"
            ) from error

    def is_own(self, host: str) -> bool:
        """Whether a `host` header can be this server's: a name of somebody else's that leads here is an attack.

        (DNS rebinding: the page of a site whose name suddenly means this machine would count as this server's own.)
        """
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        return is_loopback(name) or name in self.names or (not is_loopback(self.config.host) and _is_address(name))

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self.server_address[:2]
        shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(str(host), str(host))  # noqa: S104
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}/"


class PageHandler(BaseHTTPRequestHandler):
    """One connection of a browser."""

    protocol_version = "HTTP/1.1"
    server: PageServer

    def do_GET(self) -> None:
        """A file, the configuration, or the API."""
        path = urlsplit(self.path).path
        if not self._is_own_site():
            self._refuse(403, _STRANGER)
        elif upstream := self._upstream(path):
            self._forward(*upstream)
        elif path == "/config.json":
            names = self.server.upstreams
            apis = [{"name": name, "path": f"upstream/{quote(name)}/v1"} for name in names]
            body = page_config(apis, any_base_url=self.server.config.allow_any_base_url)
            self._send(200, body, "application/json")
        elif found := page_file(unquote(path).removeprefix("/")):
            self._send(200, found.body, found.content_type)
        else:
            self._refuse(404, "there is nothing here")

    def do_POST(self) -> None:
        """The API."""
        upstream = self._upstream(urlsplit(self.path).path)
        if not self._is_own_site():
            self._refuse(403, _STRANGER)
        elif upstream is None:
            self._refuse(404, "there is nothing here")
        else:
            self._forward(*upstream)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Says nothing: paths hold no secrets, but nobody asked for them."""

    def _is_own_site(self) -> bool:
        """Whether the request comes from this page: else any site could use the key that this server adds."""
        host, origin = self.headers.get("host", ""), self.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return False
        return self.server.is_own(host)

    def _upstream(self, path: str) -> tuple[Upstream, str] | None:
        """The server that a path means, and the path behind its base URL."""
        if path.startswith("/upstream/"):
            _, _, name, version, *rest = [*path.split("/", 4), ""]
            upstream = self.server.upstreams.get(unquote(name))
            return (upstream, rest[0]) if upstream and version == "v1" else None
        if path.startswith("/v1/"):
            return next(iter(self.server.upstreams.values())), path.removeprefix("/v1/")
        return None

    def _forward(self, upstream: Upstream, path: str) -> None:
        length = self.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES or ".." in unquote(path):
            self._refuse(413 if length.isdigit() else 400, "the request is too large or malformed")
            return
        body = self.rfile.read(int(length))
        headers = {name: value for name in _FORWARDED if (value := self.headers.get(name))}
        if self.server.config.api_key is not None:
            headers["authorization"] = f"Bearer {self.server.config.api_key}"
        parts = urlsplit(upstream.url)
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = kind(parts.hostname or "", parts.port, timeout=1800)
        self.close_connection = True
        try:
            connection.connect()
            assert connection.sock is not None, "a connection that is open has a socket"
            with _closing_with(self.connection, connection.sock):
                connection.request(self.command, f"{parts.path}/{path}", body or None, headers)
                self._relay(connection.getresponse())
        except (OSError, http.client.HTTPException):
            if not self._begun():
                self._refuse(502, f"the server {upstream.name!r} does not answer at {upstream.url}; is it running?")
        finally:
            connection.close()

    def _relay(self, response: http.client.HTTPResponse) -> None:
        self.begun = True
        self.send_response(response.status)
        for name in _RETURNED:
            if value := response.headers.get(name):
                self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.send_header("connection", "close")
        self.end_headers()
        while piece := response.read1(65536):
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.flush()
        # Only a complete answer gets its end mark: a broken one is seen as broken by the page too.
        self.wfile.write(b"0\r\n\r\n")

    def _begun(self) -> bool:
        return getattr(self, "begun", False)

    def _refuse(self, status: int, message: str) -> None:
        # A body that was not read must not be taken for the next request.
        self.close_connection = True
        error = {"error": {"message": message, "type": "proxy_error", "param": None, "code": None}}
        with contextlib.suppress(OSError):
            self._send(status, json.dumps(error).encode(), "application/json")

    def _send(self, status: int, body: bytes, content_type: str) -> None:
        self.send_response(status)
        for name, value in headers_for(content_type, any_base_url=self.server.config.allow_any_base_url).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        if self.close_connection:
            self.send_header("connection", "close")
        self.end_headers()
        self.wfile.write(body)


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine only."""
    return host == "localhost" or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@contextlib.contextmanager
def _closing_with(browser: socket.socket, upstream: socket.socket):  # type: ignore[no-untyped-def]  # noqa: ANN202
    """Shuts `upstream` down as soon as `browser` has gone, so that the model stops computing for nobody."""
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            readable, _, _ = select.select([browser], [], [], 0.1)
            with contextlib.suppress(OSError):
                if readable and not browser.recv(1, socket.MSG_PEEK):
                    upstream.shutdown(socket.SHUT_RDWR)
                    return
                if readable:  # a pipelined request waits its turn
                    done.wait(0.1)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
