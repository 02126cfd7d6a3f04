"""Local server on 127.0.0.1 that replaces the hub in a push: the API of `huggingface_hub`, kept in memory."""

import base64
import hashlib
import json
import re
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"


class PushHub:
    """Repositories by name and branch, recorded requests, and responses to refuse."""

    def __init__(self):
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> branch -> path -> content
        self.created: list[dict] = []
        self.messages: list[str] = []
        self.log: list[str] = []
        self.objects: dict[str, bytes] = {}  # sha256 -> large file
        self.refused: dict[str, int] = {}  # pattern -> status
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        server.hub, server.daemon_threads = self, True
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        self._server = server
        Thread(target=server.serve_forever, args=[0.01], daemon=True).start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._serve()

    def do_PUT(self):
        self._serve()

    def do_POST(self):
        self._serve()

    def _serve(self):
        hub: PushHub = self.server.hub
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = unquote(urlsplit(self.path).path)
        line = f"{self.command} {path}"
        hub.log.append(line)
        for pattern, status in hub.refused.items():
            if re.search(pattern, line):
                return self._answer({"error": "refused by the test"}, status)
        if not path.startswith("/large/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer({"error": "Invalid username or password."}, 401)
        for pattern, answer in ROUTES.items():
            if match := re.fullmatch(pattern, line):
                return self._answer(*answer(hub, body, *match.groups()))
        return self._answer({"error": f"the stand-in knows no {line}"}, 404)

    def _answer(self, values, status=200):
        body = json.dumps(values).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def create(hub, body):
    values = json.loads(body)
    name = f"{values['organization']}/{values['name']}"
    if name in hub.repos:
        return {"error": "You already created this model repo", "url": f"{hub.url}/{name}"}, 409
    hub.created.append(values)
    hub.repos[name] = {"main": {}}
    return ({"url": f"{hub.url}/{name}"},)


def info(hub, body, repo):
    if repo not in hub.repos:
        return {"error": "Repository not found"}, 404
    private = any(f"{a['organization']}/{a['name']}" == repo and a.get("visibility") == "private" for a in hub.created)
    return ({"id": repo, "private": private},)


def tree(hub, body, repo, revision):
    files = hub.repos[repo][revision].items()
    return ([{"type": "file", "path": path, "size": len(data), "oid": "0" * 40} for path, data in files],)


def branch(hub, body, repo, name):
    hub.repos[repo].setdefault(name, dict(hub.repos[repo]["main"]))
    return ({},)


def preupload(hub, body, repo, revision):
    def mode(file):
        return "lfs" if file["path"].endswith(".safetensors") else "regular"

    files = json.loads(body)["files"]
    return ({"files": [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in files]},)


def batch(hub, body, repo):
    def action(oid):
        return {"upload": {"href": f"{hub.url}/large/{oid}"}}

    objects = [{**o, "actions": action(o["oid"])} for o in json.loads(body)["objects"]]
    return ({"transfer": "basic", "objects": objects},)


def put(hub, body, oid):
    assert hashlib.sha256(body).hexdigest() == oid
    hub.objects[oid] = body
    return ({},)


def commit(hub, body, repo, revision):
    files = hub.repos[repo][revision]
    for line in body.decode().splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "header":
            hub.messages.append(value["summary"])
        elif entry["key"] == "deletedFile":
            del files[value["path"]]
        elif entry["key"] == "file":
            files[value["path"]] = base64.b64decode(value["content"])
        else:
            files[value["path"]] = hub.objects[value["oid"]]
    oid = hashlib.sha1(body).hexdigest()
    return ({"commitUrl": f"{hub.url}/{repo}/commit/{oid}", "commitOid": oid},)


ROUTES = {
    r"GET /api/whoami-v2": lambda hub, body: ({"type": "user", "name": "me"},),
    r"POST /api/repos/create": create,
    r"POST /api/validate-yaml": lambda hub, body: ({"errors": [], "warnings": []},),
    r"GET /api/models/([^/]+/[^/]+)": info,
    r"GET /api/models/([^/]+/[^/]+)/tree/(.+)": tree,
    r"POST /api/models/([^/]+/[^/]+)/branch/(.+)": branch,
    r"POST /api/models/([^/]+/[^/]+)/preupload/(.+)": preupload,
    r"POST /([^/]+/[^/]+)\.git/info/lfs/objects/batch": batch,
    r"PUT /large/(\w+)": put,
    r"POST /api/models/([^/]+/[^/]+)/commit/(.+)": commit,
}
