"""A Hugging Face Hub on the loopback: as much of its HTTP protocol as the official client speaks.

Repositories are commits of path to content, in memory. `before` sees every request first and may
answer in the Hub's stead; large files whose hash is in `flipped` come with a wrong bit.
"""

import base64
import hashlib
import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from huggingface_hub import ModelCard

TOKEN = "hf_of_the_team"
ATTRIBUTES = ".gitattributes"

_LARGE = (".gguf", ".onnx")
_PAGE = 2
_MODEL = r"/api/models/(?P<repo>[^/]+/[^/]+)"


@dataclass(frozen=True)
class Blob:
    """A file of a commit."""

    content: bytes
    is_large: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @property
    def oid(self) -> str:
        stored = self.pointer if self.is_large else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()


@dataclass(frozen=True)
class Commit:
    """Files at one moment."""

    id: str
    parent: "Commit | None"
    title: str
    files: Mapping[str, Blob]

    def history(self) -> "Iterator[Commit]":
        commit: Commit | None = self
        while commit is not None:
            yield commit
            commit = commit.parent


@dataclass
class Repo:
    """Branches and all commits that ever were."""

    branches: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.commit("main", "initial commit", {ATTRIBUTES: Blob(b"*.gguf filter=lfs\n")})

    def commit(self, branch: str, title: str, files: Mapping[str, Blob]) -> Commit:
        made = Commit(uuid.uuid4().hex + "00000000", self.branches.get(branch), title, dict(files))
        self.branches[branch] = self.commits[made.id] = made
        return made

    def find(self, revision: str) -> Commit | None:
        return self.branches.get(revision) or self.commits.get(revision)


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """What it is told."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: object, **headers: str) -> "Reply":
        return cls(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})

    @classmethod
    def error(cls, status: int, message: str, code: str = "") -> "Reply":
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        return cls(status, json.dumps({"error": message}).encode(), headers)


NO_REPO = Reply.error(404, "Repository not found", "RepoNotFound")
NO_REVISION = Reply.error(404, "Invalid rev id", "RevisionNotFound")
NO_ENTRY = Reply.error(404, "Entry not found", "EntryNotFound")
MOVED_ON = Reply.error(412, "A commit has happened since. Please refresh and try again.")


@dataclass
class Hub:
    """The repositories, and what was asked of them."""

    repos: dict[str, Repo] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)
    flipped: set[str] = field(default_factory=set)
    requests: list[str] = field(default_factory=list)
    before: Callable[[Request], Reply | None] = lambda _: None
    endpoint: str = ""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def answer(self, request: Request) -> Reply:
        self.requests.append(f"{request.method} {request.path}")
        if (reply := self.before(request)) is not None:
            return reply
        url = urlsplit(request.path)
        query = {name: values[0] for name, values in parse_qs(url.query).items()}
        for method, pattern, respond in ROUTES:
            if request.method in method and (match := re.fullmatch(pattern, url.path)):
                found = {name: unquote(value) for name, value in match.groupdict().items()}
                with self.lock:
                    return respond(self, request, query | found)
        return Reply.error(404, f"no route {request.method} {url.path}")

    def store(self, content: bytes) -> str:
        sha256 = hashlib.sha256(content).hexdigest()
        self.large[sha256] = content
        return sha256

    def page(self, request: Request, rows: list[Any], query: Mapping[str, str]) -> Reply:
        start = int(query.get("cursor", 0))
        headers = {}
        if len(rows) > start + _PAGE:
            there = urlsplit(request.path).path
            link = f"{self.endpoint}{there}?recursive=true&cursor={start + _PAGE}"
            headers["Link"] = f'<{link}>; rel="next"'
        return Reply.json(rows[start : start + _PAGE], **headers)


Respond = Callable[[Hub, Request, Mapping[str, str]], Reply]


def needs_rights(respond: Respond) -> Respond:
    def checked(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
        given = request.headers.get("authorization")
        if given is None:
            return Reply.error(401, "Invalid username or password.")
        if given != f"Bearer {TOKEN}":
            return Reply.error(403, "Forbidden: you don't have the required permission")
        return respond(hub, request, found)

    return checked


def at_revision(respond: Callable[[Hub, Request, Mapping[str, str], Commit], Reply]) -> Respond:
    def resolved(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
        repo = hub.repos.get(found["repo"])
        if repo is None:
            return NO_REPO
        commit = repo.find(found.get("rev", "main"))
        return NO_REVISION if commit is None else respond(hub, request, found, commit)

    return resolved


@at_revision
def model_info(hub: Hub, request: Request, found: Mapping[str, str], commit: Commit) -> Reply:
    siblings = [{"rfilename": path} for path in commit.files]
    return Reply.json({"id": found["repo"], "sha": commit.id, "siblings": siblings})


@at_revision
def refs(hub: Hub, request: Request, found: Mapping[str, str], _: Commit) -> Reply:
    branches = [
        {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit.id}
        for name, commit in hub.repos[found["repo"]].branches.items()
    ]
    return Reply.json({"branches": branches, "converts": [], "tags": []})


@at_revision
def commits(hub: Hub, request: Request, found: Mapping[str, str], commit: Commit) -> Reply:
    date = "2025-01-01T00:00:00.000Z"
    rows = [
        {"id": one.id, "title": one.title, "message": "", "authors": [], "date": date}
        for one in commit.history()
    ]
    return hub.page(request, rows, found)


def file_info(path: str, blob: Blob) -> dict[str, Any]:
    info = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
    if not blob.is_large:
        return info
    size, pointer = len(blob.content), len(blob.pointer)
    return info | {"lfs": {"oid": blob.sha256, "size": size, "pointerSize": pointer}}


@at_revision
def tree(hub: Hub, request: Request, found: Mapping[str, str], commit: Commit) -> Reply:
    folders = sorted({path.rpartition("/")[0] for path in commit.files} - {""})
    rows = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": path} for path in folders]
    rows += [file_info(path, blob) for path, blob in commit.files.items()]
    return hub.page(request, rows, found)


@at_revision
def paths_info(hub: Hub, request: Request, found: Mapping[str, str], commit: Commit) -> Reply:
    paths = parse_qs(request.body.decode())["paths"]
    return Reply.json([file_info(p, commit.files[p]) for p in paths if p in commit.files])


@needs_rights
@at_revision
def make_branch(hub: Hub, request: Request, found: Mapping[str, str], _: Commit) -> Reply:
    repo = hub.repos[found["repo"]]
    if found["branch"] in repo.branches:
        return Reply.error(409, "Reference already exists")
    start = repo.find(request.json().get("startingPoint", "main"))
    if start is None:
        return NO_REVISION
    repo.branches[found["branch"]] = start
    return Reply.json({})


@needs_rights
@at_revision
def delete_branch(hub: Hub, request: Request, found: Mapping[str, str], _: Commit) -> Reply:
    if hub.repos[found["repo"]].branches.pop(found["branch"], None) is None:
        return NO_REVISION
    return Reply.json({})


@needs_rights
@at_revision
def preupload(hub: Hub, request: Request, found: Mapping[str, str], commit: Commit) -> Reply:
    rows = []
    for file in request.json()["files"]:
        path, there = file["path"], commit.files.get(file["path"])
        mode = "lfs" if path.endswith(_LARGE) else "regular"
        row = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if there is not None:
            row["oid"] = there.sha256 if there.is_large else there.oid
        rows.append(row)
    return Reply.json({"files": rows})


@needs_rights
def batch(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
    objects = []
    for wanted in request.json()["objects"]:
        upload = {"href": f"{hub.endpoint}/lfs/{wanted['oid']}"}
        verify = {"href": f"{hub.endpoint}/lfs/{wanted['oid']}/verify"}
        is_there = wanted["oid"] in hub.large
        objects.append(
            wanted | ({} if is_there else {"actions": {"upload": upload, "verify": verify}})
        )
    return Reply.json({"transfer": "basic", "objects": objects})


def put_large(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
    if hashlib.sha256(request.body).hexdigest() != found["oid"]:
        return Reply.error(400, "BadDigest")
    hub.store(request.body)
    return Reply()


def verify_large(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
    return Reply() if found["oid"] in hub.large else Reply.error(404, "not uploaded")


@needs_rights
@at_revision
def commit_files(hub: Hub, request: Request, found: Mapping[str, str], parent: Commit) -> Reply:
    repo = hub.repos[found["repo"]]
    header, *operations = [json.loads(line) for line in request.body.splitlines()]
    if header["value"].get("parentCommit", parent.id) != parent.id:
        return MOVED_ON
    files = dict(parent.files)
    for operation in operations:
        value = operation["value"]
        if operation["key"] == "file":
            files[value["path"]] = Blob(base64.b64decode(value["content"]))
        elif operation["key"] == "lfsFile":
            if value["oid"] not in hub.large:
                return Reply.error(400, f"LFS object {value['oid']} does not exist")
            files[value["path"]] = Blob(hub.large[value["oid"]], is_large=True)
        elif files.pop(value["path"], None) is None:
            return NO_ENTRY
    made = repo.commit(found["rev"], header["value"]["summary"], files)
    # No host: the client holds it against the HF_ENDPOINT of the moment when it was imported.
    url = f"{found['repo']}/commit/{made.id}"
    return Reply.json({"success": True, "commitOid": made.id, "commitUrl": url, "hookOutput": ""})


@at_revision
def resolve(hub: Hub, request: Request, found: Mapping[str, str], commit: Commit) -> Reply:
    blob = commit.files.get(found["path"])
    if blob is None:
        return NO_ENTRY
    headers = {"X-Repo-Commit": commit.id}
    if not blob.is_large:
        return Reply(200, blob.content, headers | {"ETag": f'"{blob.oid}"'})
    headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    return Reply(302, b"", headers | {"Location": f"{hub.endpoint}/cdn/{blob.sha256}"})


def deliver(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
    content = hub.large[found["oid"]]
    if found["oid"] in hub.flipped:
        content = content[:-1] + bytes([content[-1] ^ 1])
    return Reply(200, content, {"ETag": f'"{found["oid"]}"'})


def validate_yaml(hub: Hub, request: Request, found: Mapping[str, str]) -> Reply:
    try:
        ModelCard(request.json()["content"])
    except (ValueError, TypeError) as error:
        return Reply(400, json.dumps({"errors": [{"message": str(error)}]}).encode())
    return Reply.json({"errors": [], "warnings": []})


ROUTES: list[tuple[str, str, Respond]] = [
    ("GET", f"{_MODEL}", model_info),
    ("GET", f"{_MODEL}/revision/(?P<rev>[^/]+)", model_info),
    ("GET", f"{_MODEL}/refs", refs),
    ("GET", f"{_MODEL}/commits/(?P<rev>[^/]+)", commits),
    ("GET", f"{_MODEL}/tree/(?P<rev>[^/]+)", tree),
    ("POST", f"{_MODEL}/paths-info/(?P<rev>[^/]+)", paths_info),
    ("POST", f"{_MODEL}/branch/(?P<branch>[^/]+)", make_branch),
    ("DELETE", f"{_MODEL}/branch/(?P<branch>[^/]+)", delete_branch),
    ("POST", f"{_MODEL}/preupload/(?P<rev>[^/]+)", preupload),
    ("POST", f"{_MODEL}/commit/(?P<rev>[^/]+)", commit_files),
    ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", put_large),
    ("POST", r"/lfs/(?P<oid>\w+)/verify", verify_large),
    ("HEAD GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<rev>[^/]+)/(?P<path>.+)", resolve),
    ("HEAD GET", r"/cdn/(?P<oid>\w+)", deliver),
    ("POST", "/api/validate-yaml", validate_yaml),
]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A Hub that listens; its `endpoint` is what HF_ENDPOINT has to be."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            request = Request(self.command, self.path, headers, self.rfile.read(length))
            reply = hub.answer(request)
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(reply.body)

        do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_one  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that was killed

    with Server(("127.0.0.1", 0), Handler) as server:
        hub.endpoint = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
