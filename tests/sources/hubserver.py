"""Local server on 127.0.0.1 that replaces the hub: the API of the libraries, and faults on request."""

import hashlib
import json
import re
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit


class Hub:
    """Data sets and models by name and revision, recorded requests, and faults to inject."""

    def __init__(self):
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> revision -> path -> content
        self.commits: dict[tuple[str, str], str] = {}
        self.hashes: dict[int, str] = {}
        self.log: list[tuple[str, str, str | None]] = []  # method, path, Range
        self.sent = Counter()  # path of a file -> bytes of it
        self.faults: list[list] = []  # [pattern, remaining times, fault, after how many requests]
        self.tokens: set[str | None] = set()
        self.token: str | None = None  # without it, every request is 404
        self.elsewhere = False  # whether files are on another host, like large files of the hub
        self.tokens_elsewhere: set[str | None] = set()
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.hub = self
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self._server = server
        Thread(target=server.serve_forever, daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()

    def put(self, repo: str, files: dict[str, bytes], revision: str = "main") -> None:
        self.repos.setdefault(repo, {})[revision] = files
        self.hashes |= {id(body): hashlib.sha1(body).hexdigest() for body in files.values()}
        listed = [f"{path} {self.hashes[id(body)]}" for path, body in sorted(files.items())]
        commit = hashlib.sha1("\n".join([repo, revision, *listed]).encode()).hexdigest()
        self.commits[repo, revision] = commit

    def commit(self, repo: str, revision: str = "main") -> str:
        return self.commits[repo, revision]

    def fault(self, pattern: str, what: object, times: int = 10**9, after: int = 0) -> None:
        """`what` is (status, headers), "cut" (half the body, then the end of the connection) or "drop" (none)."""
        self.faults.append([re.compile(pattern), times, what, after])

    def files(self, repo: str, revision: str) -> dict[str, bytes] | None:
        for name, files in self.repos[repo].items():
            if revision in (name, self.commit(repo, name)):
                return files
        return None


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer in one packet: two would wait for each other
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self._serve()

    def do_GET(self):
        self._serve()

    def do_POST(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._serve()

    def _serve(self):
        hub: Hub = self.server.hub
        address = urlsplit(self.path)
        path = unquote(address.path)
        hub.log.append((self.command, path, self.headers.get("Range")))
        self.moved = path.startswith("/elsewhere/")
        path = path.removeprefix("/elsewhere")
        (hub.tokens_elsewhere if self.moved else hub.tokens).add(self.headers.get("Authorization"))
        self.cut = False
        for fault in hub.faults:
            if fault[1] > 0 and fault[0].search(f"{self.command} {path}"):
                if fault[3] > 0:
                    fault[3] -= 1
                    continue
                fault[1] -= 1
                if fault[2] == "drop":
                    self.close_connection = True
                    self.connection.close()
                    return
                if fault[2] != "cut":
                    self._answer(fault[2][0], b'{"error": "a fault on request"}', fault[2][1])
                    return
                self.cut = True
        if hub.token and not self.moved and self.headers.get("Authorization") != f"Bearer {hub.token}":
            self._answer(401, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._info(match[1], match[2] or "main")
        elif match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/(refs/[^/]+/[^/]+|[^/]+)(?:/(.*))?", path):
            self._tree(match[1], match[2], match[3] or "", parse_qs(address.query))
        elif match := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/(refs/[^/]+/[^/]+|[^/]+)/(.+)", path):
            self._file(match[1], match[2], match[3])
        else:
            self._answer(404, b"{}")

    def _known(self, repo: str, revision: str) -> dict[str, bytes] | None:
        hub: Hub = self.server.hub
        if repo not in hub.repos:
            self._answer(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        elif (files := hub.files(repo, revision)) is None:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            return files
        return None

    def _info(self, repo: str, revision: str):
        if (files := self._known(repo, revision)) is not None:
            hub: Hub = self.server.hub
            sha = next(hub.commit(repo, name) for name, found in hub.repos[repo].items() if found is files)
            siblings = [{"rfilename": path} for path in files]
            body = {"_id": "1", "id": repo, "sha": sha, "private": False, "gated": False, "disabled": False}
            body |= {"downloads": 0, "likes": 0, "tags": [], "siblings": siblings}
            self._answer(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _tree(self, repo: str, revision: str, folder: str, query: dict[str, list[str]]):
        if (files := self._known(repo, revision)) is None:
            return
        hub: Hub = self.server.hub
        inside = f"{folder}/" if folder else ""
        deep = query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = {}
        for path, body in sorted(files.items()):
            if path.startswith(inside):
                parts = path.removeprefix(inside).split("/")
                for depth in range(1, len(parts) if deep else min(2, len(parts))):
                    sub = inside + "/".join(parts[:depth])
                    entries[sub] = {"type": "directory", "oid": "0" * 40, "size": 0, "path": sub}
                if deep or len(parts) == 1:
                    entries[path] = {
                        "type": "file",
                        "oid": hub.hashes[id(body)],
                        "size": len(body),
                        "path": path,
                    }
        if folder and not entries:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        else:
            self._answer(200, json.dumps(list(entries.values())).encode(), {"Content-Type": "application/json"})

    def _file(self, repo: str, revision: str, path: str):
        if (files := self._known(repo, revision)) is None:
            return
        hub: Hub = self.server.hub
        if path not in files:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
        elif hub.elsewhere and not self.moved:
            port = self.server.server_address[1]
            self._answer(302, b"", {"Location": f"http://localhost:{port}/elsewhere{self.path}"})
        else:
            body = files[path]
            headers = {
                "ETag": f'"{hub.hashes[id(body)]}"',
                "X-Repo-Commit": next(hub.commit(repo, n) for n, found in hub.repos[repo].items() if found is files),
                "Accept-Ranges": "bytes",
            }
            status, part = 200, body
            if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or ""):
                start = int(match[1]) if match[1] else max(len(body) - int(match[2]), 0)
                stop = min(int(match[2]) + 1, len(body)) if match[1] and match[2] else len(body)
                status, part = 206, body[start:stop]
                headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(body)}"
            if self.command == "GET":
                hub.sent[path] += len(part)
            self._answer(status, part, headers)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.cut else body)
        if self.cut:
            self.wfile.flush()
            self.close_connection = True
