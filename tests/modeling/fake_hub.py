"""A model hub on this machine: answers the routes that `huggingface_hub` calls when it fetches a snapshot.

with FakeHub({"owner/name": {"main": directory, "v2": other}}) as hub: ...  # point HF_ENDPOINT at hub.url
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


class FakeHub:
    def __init__(self, repositories: dict[str, dict[str, Path]]) -> None:
        self.commits = {
            (repo, hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()): directory
            for repo, revisions in repositories.items()
            for revision, directory in revisions.items()
        }
        self.names = {
            (repo, revision): hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()
            for repo, revisions in repositories.items()
            for revision in revisions
        }
        self.requests: list[str] = []
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "FakeHub":
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        self.server.shutdown()
        self.server.server_close()

    def fetched(self) -> set[str]:
        """Names of the files whose bytes were sent."""
        return {line.rsplit("/", 1)[1] for line in self.requests if line.startswith("GET ") and "/resolve/" in line}

    def answer(self, path: str) -> tuple[int, dict, bytes]:
        """Status, headers and body for one path."""
        api, _, rest = path.removeprefix("/").partition("api/models/")
        if not api and rest:
            owner, name, what, *tail = rest.split("/")
            return self._api(f"{owner}/{name}", what, "/".join(tail))
        parts = path.removeprefix("/").split("/")
        if len(parts) < 5:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        owner, name, what, commit, *file = parts
        commit = self.names.get((f"{owner}/{name}", commit), commit)
        directory = self.commits.get((f"{owner}/{name}", commit))
        target = None if directory is None or what != "resolve" else directory.joinpath(*file)
        if target is None or not target.is_file():
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        data = target.read_bytes()
        return 200, {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X-Repo-Commit": commit}, data

    def _api(self, repo: str, what: str, revision: str) -> tuple[int, dict, bytes]:
        if not any(known == repo for known, _ in self.names):
            return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
        commit = self.names.get((repo, revision), revision)
        directory = self.commits.get((repo, commit))
        if directory is None:
            return 404, {"X-Error-Code": "RevisionNotFound"}, b"{}"
        files = [path for path in sorted(directory.rglob("*")) if path.is_file()]
        if what == "revision":
            siblings = [{"rfilename": str(path.relative_to(directory))} for path in files]
            return 200, {}, json.dumps({"id": repo, "sha": commit, "siblings": siblings}).encode()
        tree = [
            {
                "type": "file",
                "path": str(path.relative_to(directory)),
                "size": path.stat().st_size,
                "oid": hashlib.sha1(path.read_bytes()).hexdigest(),
            }
            for path in files
        ]
        return 200, {}, json.dumps(tree).encode()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                path = unquote(urlsplit(self.path).path)
                hub.requests.append(f"{self.command} {path}")
                status, headers, body = hub.answer(path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *args) -> None:
                pass

        return Handler
