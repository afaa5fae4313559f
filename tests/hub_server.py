"""A server that speaks the hub's API as far as pushing a folder needs it."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

WRITER, READER = "hf_writer_secret", "hf_reader_secret"
"""Tokens: one may write, one may not; any other is not known."""

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: its files by branch, and the messages of all commits."""

    private: bool
    branches: dict[str, Files] = field(default_factory=lambda: {"main": {".gitattributes": b""}})
    messages: list[str] = field(default_factory=list)


@dataclass
class Hub:
    """What the server holds.

    Attributes:
        endpoint: its address.
        large: whether Parquet, tar, and safetensors files go by LFS, as on the hub.
        repositories: by kind and name, such as ``datasets/shop/shoes``.
        requests: method and path of each.
    """

    endpoint: str = ""
    large: bool = True
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    objects: Files = field(default_factory=dict)
    broken: bool = False

    def files(self, name: str, branch: str = "main") -> Files:
        return self.repositories[name].branches[branch]


def _error(status: int, message: str, code: str = "") -> Response:
    response = jsonify(error=message)
    response.status_code = status
    response.headers["X-Error-Message"] = message
    if code:
        response.headers["X-Error-Code"] = code
    return response


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _app(hub: Hub) -> Flask:
    app = Flask(__name__)
    kinds = "<any(models,datasets):kind>/<owner>/<repo>"

    def found(kind: str, owner: str, repo: str) -> Repository | None:
        return hub.repositories.get(f"{kind}/{owner}/{repo}")

    @app.before_request
    def authorized() -> Response | None:
        hub.requests.append(f"{request.method} {request.path}")
        if request.path.startswith("/objects/"):
            return None
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token not in (WRITER, READER):
            return _error(401, "Invalid credentials in Authorization header")
        if token == READER and request.method != "GET":
            return _error(403, "You don't have the rights to write here")
        if hub.broken and "/commit/" in request.path:
            return _error(507, "the storage is full")
        return None

    @app.get("/api/whoami-v2")
    def whoami() -> Response:
        return jsonify(name="shop", type="user")

    @app.post("/api/repos/create")
    def create() -> Response:
        asked = request.get_json()
        kind = f"{asked.get('type', 'model')}s"
        name = f"{asked['organization']}/{asked['name']}"
        url = f"{hub.endpoint}/{'datasets/' if kind == 'datasets' else ''}{name}"
        if f"{kind}/{name}" in hub.repositories:
            response = jsonify(url=url, error="You already created this repo")
            response.status_code = 409
            return response
        hub.repositories[f"{kind}/{name}"] = Repository(asked["visibility"] == "private")
        return jsonify(url=url)

    @app.get(f"/api/{kinds}")
    @app.get(f"/api/{kinds}/revision/<branch>")
    def info(kind: str, owner: str, repo: str, branch: str = "main") -> Response:
        repository = found(kind, owner, repo)
        if repository is None:
            return _error(404, "Repository not found", "RepoNotFound")
        return jsonify(id=f"{owner}/{repo}", private=repository.private, tags=[], sha="0" * 40)

    @app.get(f"/api/{kinds}/tree/<path:branch>")
    def tree(kind: str, owner: str, repo: str, branch: str) -> Response:
        repository = found(kind, owner, repo)
        assert repository is not None
        if branch not in repository.branches:
            return _error(404, "Invalid rev id", "RevisionNotFound")
        return jsonify([
            {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
            for path, content in repository.branches[branch].items()
        ])  # fmt: skip

    @app.post(f"/api/{kinds}/branch/<path:branch>")
    def create_branch(kind: str, owner: str, repo: str, branch: str) -> Response:
        repository = found(kind, owner, repo)
        assert repository is not None
        if branch in repository.branches:
            return _error(409, "Reference already exists")
        repository.branches[branch] = dict(repository.branches["main"])
        return jsonify({})

    @app.post("/api/validate-yaml")
    def validate() -> Response:
        return jsonify(errors=[], warnings=[])

    @app.post(f"/api/{kinds}/preupload/<path:branch>")
    def preupload(kind: str, owner: str, repo: str, branch: str) -> Response:
        repository = found(kind, owner, repo)
        assert repository is not None
        there = repository.branches[branch]
        large = (".parquet", ".tar", ".safetensors") if hub.large else ()
        return jsonify(files=[
            {
                "path": one["path"],
                "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                "shouldIgnore": False,
                "oid": _oid(there[one["path"]]) if one["path"] in there else None,
            }
            for one in request.get_json()["files"]
        ])  # fmt: skip

    @app.post("/<owner>/<repo>.git/info/lfs/objects/batch")
    @app.post("/datasets/<owner>/<repo>.git/info/lfs/objects/batch")
    def batch(owner: str, repo: str) -> Response:
        return jsonify(transfer="basic", objects=[
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{hub.endpoint}/objects/{one['oid']}"}},
            }
            for one in request.get_json()["objects"]
        ])  # fmt: skip

    @app.put("/objects/<oid>")
    def put(oid: str) -> Response:
        content = request.get_data()
        assert hashlib.sha256(content).hexdigest() == oid
        hub.objects[oid] = content
        return jsonify({})

    @app.post(f"/api/{kinds}/commit/<path:branch>")
    def commit(kind: str, owner: str, repo: str, branch: str) -> Response:
        repository = found(kind, owner, repo)
        assert repository is not None
        files = dict(repository.branches[branch])
        for line in request.get_data().splitlines():
            operation: dict[str, Any] = json.loads(line)
            value = operation["value"]
            if operation["key"] == "header":
                repository.messages.append(value["summary"])
            elif operation["key"] == "deletedFile":
                del files[value["path"]]
            elif operation["key"] == "lfsFile":
                files[value["path"]] = hub.objects[value["oid"]]
            else:
                files[value["path"]] = base64.b64decode(value["content"])
        repository.branches[branch] = files
        url = f"{hub.endpoint}/{kind}/{owner}/{repo}/commit/abc"
        return jsonify(commitUrl=url, commitOid="a" * 40)

    return app


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A hub on a port of this machine."""
    hub = Hub()
    server = make_server("127.0.0.1", 0, _app(hub), threaded=True)
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
