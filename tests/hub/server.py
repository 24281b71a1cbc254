"""A Hub on the loopback: what pushing and pulling need of the protocol, for the real `huggingface_hub` client.

Two origins, as there: the Hub answers the API and serves small files; large files lie on a storage host, behind signed
addresses that refuse an `Authorization` header. With Xet the client writes and reads chunks through `hf_xet` itself,
in `local://` folders that the Hub hands out. Written after the sources of huggingface_hub 2.4 (`hf_api.py`,
`_commit_api.py`, `lfs.py`, `file_download.py`, `utils/_http.py`, `utils/_xet.py`) and the Git LFS batch API.
"""

from __future__ import annotations

import atexit
import base64
import hashlib
import json
import os
import re
import secrets
import shutil
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch
from urllib.parse import parse_qs, unquote, urlsplit

import hf_xet
import yaml

LARGE = (".safetensors", ".bin", ".pt", ".pth", ".parquet", ".arrow", ".png")  # part of the Hub's .gitattributes
KINDS = {"models": "", "datasets": "datasets/"}  # in the path of the API, and before the id in other paths
DATE = "2026-01-01T00:00:00.000Z"


class Commit(NamedTuple):
    id: str
    title: str
    files: dict[str, bytes]
    parent: Commit | None

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]]:
        """Files and folders below a folder, as the API lists them."""
        prefix, entries = folder + "/" if folder else "", {}
        for path, content in sorted(self.files.items()):
            if path.startswith(prefix):
                *parents, _ = path.removeprefix(prefix).split("/")
                for depth in range(1, len(parents) + 1 if recursive else min(2, len(parents) + 1)):
                    inner = prefix + "/".join(parents[:depth])
                    entries[inner] = {"type": "directory", "path": inner, "size": 0, "oid": sha256_of(inner.encode())}
                if recursive or not parents:
                    entries[path] = file_entry(path, content)
        if folder and not entries:
            raise Refusal(404, f"{folder} does not exist", "EntryNotFound")
        return [
            {**entry, "lastCommit": {"id": self.id, "title": self.title, "date": DATE}} for entry in entries.values()
        ]


@dataclass
class Repo:
    """`name` is the path of its page: the id, after "datasets/" for a data set."""

    name: str
    private: bool = False
    gated: bool = False
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.id = self.name.removeprefix("datasets/")
        self.kind = "models" if self.id == self.name else "datasets"
        self.owner = self.id.split("/")[0]

    def at(self, revision: str) -> Commit:
        for commits in (self.branches, self.tags, self.commits):
            if revision in commits:
                return commits[revision]
        raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, title: str, files: dict[str, bytes], branch: str = "main") -> Commit:
        commit = Commit(secrets.token_hex(20), title, files, self.branches.get(branch))
        self.branches[branch] = self.commits[commit.id] = commit
        return commit

    def info(self, revision: str) -> dict[str, Any]:
        commit = self.at(revision)
        return {
            "id": self.id,
            "sha": commit.id,
            "lastModified": DATE,
            "private": self.private,
            "gated": "manual" if self.gated else False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "cardData": front_matter(commit.files.get("README.md", b"").decode()),
            "siblings": [{"rfilename": path} for path in commit.files],
        }


@dataclass
class Fault:
    """What happens to the next `times` requests whose "METHOD path" matches `route`.

    An error status; "drop", the connection breaks in the middle of the request; "lose", it breaks after the request
    has taken effect; or a function, called before the request is answered as usual.
    """

    route: str
    what: int | str | Callable[[], object]
    times: int = 1


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str = "", headers: Mapping[str, str] = {}, **body: str):
        errors = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
        self.reply = as_json({"error": message, **body}, status, {**errors, **headers})


def as_json(content: Any, status: int = 200, headers: Mapping[str, str] = {}) -> Reply:
    return Reply(status, json.dumps(content).encode(), {"Content-Type": "application/json", **headers})


def sha256_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_entry(path: str, content: bytes) -> dict[str, Any]:
    """A file as a tree lists it; git's hash of a large file is that of the pointer in its place."""
    entry: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    if path.endswith(LARGE):
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256_of(content)}\nsize {len(content)}\n"
        entry["lfs"] = {"oid": sha256_of(content), "size": len(content), "pointerSize": len(pointer)}
        content = pointer.encode()
    return {**entry, "oid": hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()}


class Hub:
    """The state, and the two servers while it is entered.

    `tokens` maps a token to (user, role); roles are "write", "read" and "expired". `requests` lists
    (origin, "METHOD path", status, whether a token came with it).
    """

    def __init__(self, folder: Path):
        self.xet = Xet(folder)
        self.repos: dict[str, Repo] = {}  # by name
        self.tokens: dict[str, tuple[str, str]] = {}
        self.storage: dict[str, bytes] = {}  # large files by sha256
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str, int, bool]] = []
        self.signature = secrets.token_hex(8)
        self.lock = threading.RLock()

    def __enter__(self) -> Hub:
        self.servers = []
        for handler in (HubHandler, StorageHandler):
            server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": self}))
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            self.servers.append(server)
        self.url, self.storage_url = (f"http://127.0.0.1:{server.server_port}" for server in self.servers)
        return self

    def __exit__(self, *error: object) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def token(self, user: str, role: str = "write") -> str:
        token = "hf_" + secrets.token_hex(17)
        self.tokens[token] = (user, role)
        return token

    @contextmanager
    def fault(self, route: str, what: int | str | Callable[[], object], times: int = 1) -> Iterator[Fault]:
        self.faults.append(Fault(route, what, times))
        try:
            yield self.faults[-1]
        finally:
            self.faults.pop()

    def large_file(self, sha256: str, size: int) -> bytes:
        """A file of the storage, taken over from a client's folder if it was written through Xet."""
        if sha256 not in self.storage:
            written = self.xet.read(sha256, size)
            if written is None:
                raise Refusal(400, f"the large file {sha256} has not been uploaded")
            self.storage[sha256] = written
        return self.storage[sha256]


class Xet:
    """`local://` folders of `hf_xet`. Its database is locked while the process that opened it lives, so every token to
    write gets an empty folder, and every token to read a folder written for it."""

    def __init__(self, folder: Path):
        self.folder = folder

    def new(self, contents: list[bytes]) -> str:
        """Address of a folder with these files."""
        folder = self.folder / secrets.token_hex(8)
        folder.mkdir(parents=True)
        if contents:
            with hf_xet.XetSession().new_upload_commit(**self.access(folder)) as commit:
                for content in contents:
                    commit.start_upload_bytes(content, sha256=hf_xet.SKIP_SHA256)
        return f"local://{folder}"

    def files(self) -> dict[str, tuple[Path, str]]:
        """sha256 -> (folder, Xet hash) of what clients have written."""
        shards = self.folder.glob("*/xet/xorbs/shards/*.mdb")
        return {
            sha256: (shard.parents[3], hash) for shard in shards for sha256, hash in hashes(shard.read_bytes()).items()
        }

    def read(self, sha256: str, size: int) -> bytes | None:
        folder, hash = self.files().get(sha256, (None, ""))
        if folder is None:
            return None
        copy = self.folder / "copy"  # not locked
        shutil.copytree(folder, copy)
        with hf_xet.XetSession().new_file_download_group(**self.access(copy)) as group:
            group.start_download_file(hf_xet.XetFileInfo(hash, size), str(copy / "file"))
        content = (copy / "file").read_bytes()
        shutil.rmtree(copy)
        assert sha256_of(content) == sha256
        return content

    @staticmethod
    def access(folder: Path) -> dict[str, Any]:
        return {"endpoint": f"local://{folder}", "token": "xet", "token_expiry_unix_secs": int(time.time()) + 3600}


def hashes(shard: bytes) -> dict[str, str]:
    """sha256 -> Xet hash of a shard's files. Records of 48 bytes: for each file a header, its segments, as many
    checksums if bit 31 of the header's flags is set, its sha256 if bit 30 is; a header of ones ends the list."""

    def hash_at(record: int) -> str:
        return "".join(f"{word:016x}" for word in struct.unpack_from("<4Q", shard, 48 * record))

    found, record = {}, 1
    while hash_at(record) != "f" * 64:
        flags, segments = struct.unpack_from("<2I", shard, 48 * record + 32)
        last = record + segments * (2 if flags >> 31 else 1) + 1
        if flags >> 30 & 1:
            found[hash_at(last)] = hash_at(record)
        record = last + (flags >> 30 & 1)
    return found


# ---------------------------------------------------------------------------------------------- HTTP


class Handler(BaseHTTPRequestHandler):
    """Reads a request, and sends the reply of `route(method, path's parts, query, body)`, if no fault intervenes."""

    hub: Hub
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_GET(self) -> None:
        request, what = f"{self.command} {self.path}", None
        with self.hub.lock:
            for fault in self.hub.faults:
                if what is None and fault.times > 0 and re.search(fault.route, request):
                    fault.times -= 1
                    what = fault.what
        if what == "drop":
            self.close_connection = True
            if self.command in ("POST", "PUT"):
                self.rfile.read1(1024)
            return
        if callable(what):
            what()
        body = self._body()
        try:
            if isinstance(what, int):
                raise Refusal(what, "something went wrong")
            url = urlsplit(self.path)
            parts = [unquote(part) for part in url.path.strip("/").split("/")]
            with self.hub.lock:
                reply = self.route(self.command, parts, parse_qs(url.query), body)
        except Refusal as refusal:
            reply = refusal.reply
        self.hub.requests.append((type(self).__name__, request, reply.status, "Authorization" in self.headers))
        if what == "lose":
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    do_HEAD = do_POST = do_PUT = do_GET

    def route(self, method: str, parts: list[str], query: dict[str, list[str]], body: bytes) -> Reply:
        raise NotImplementedError

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def content(self, content: bytes, **headers: str) -> Reply:
        """All of it, or the range that was asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return Reply(200, content, headers)
        start, stop = int(asked[1]), min(int(asked[2] or len(content)) + 1, len(content))
        return Reply(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    def log_message(self, *args: object) -> None:
        """Nothing on standard error: `Hub.requests` is the log."""


class StorageHandler(Handler):
    """The storage host: a large file lies at its sha256."""

    def route(self, method: str, parts: list[str], query: dict[str, list[str]], body: bytes) -> Reply:
        storage, sha256 = self.hub.storage, parts[0]
        if "Authorization" in self.headers:
            raise Refusal(400, "only one auth mechanism is allowed")
        if query.get("signature") != [self.hub.signature]:
            raise Refusal(403, "the address is not signed")
        if method in ("GET", "HEAD"):
            return self.content(storage[sha256], ETag=f'"{sha256}"')
        if sha256_of(body) != sha256:
            raise Refusal(400, "the content is not that of the address")
        storage[sha256] = body
        return Reply(200, b"", {})


class HubHandler(Handler):
    """The API, and the files."""

    def route(self, method: str, parts: list[str], query: dict[str, list[str]], body: bytes) -> Reply:
        match [method, *parts]:
            case ["GET", "api", "whoami-v2"]:
                user, role = self.account(required=True)
                return as_json({"type": "user", "name": user, "orgs": [], "auth": {"accessToken": {"role": role}}})
            case ["POST", "api", "validate-yaml"]:
                try:
                    found = front_matter(json.loads(body)["content"])
                except yaml.YAMLError as error:
                    return as_json({"errors": [{"message": str(error)}]}, 400)
                return as_json({"warnings": [] if found else [{"message": "empty or missing yaml metadata"}]})
            case ["POST", "api", "repos", "create"]:
                return self.create(json.loads(body))
            case [_, "api", ("models" | "datasets") as kind, owner, name, *rest]:
                return self.repo_api(f"{KINDS[kind]}{owner}/{name}", [method, *rest], query, body)
            case ["POST", *path, "info", "lfs", "objects", action]:
                self.repo("/".join(path).removesuffix(".git"), write=True)
                return self.lfs(action, json.loads(body))
            case [("GET" | "HEAD"), *path] if "resolve" in path:
                cut = path.index("resolve")
                return self.resolve("/".join(path[:cut]), path[cut + 1], "/".join(path[cut + 2 :]))
        raise Refusal(501, "not part of this Hub")

    def account(self, required: bool = False) -> tuple[str, str]:
        """User and role of the request's token."""
        header = self.headers.get("Authorization")
        if header is None:
            if required:
                raise Refusal(401, "Invalid username or password.")
            return "", "anonymous"
        user, role = self.hub.tokens.get(header.removeprefix("Bearer "), ("", "unknown"))
        if role == "unknown":
            raise Refusal(401, "Invalid credentials in Authorization header")
        if role == "expired":
            raise Refusal(401, f"User Access Token of {user} is expired")
        return user, role

    def repo(self, name: str, write: bool = False) -> Repo:
        user, role = self.account(required=write)
        repo = self.hub.repos.get(name)
        if repo is None or (repo.private and user != repo.owner):
            raise Refusal(404, "Repository not found", "RepoNotFound")
        if write and (user != repo.owner or role != "write"):
            raise Refusal(403, "Forbidden: you need a token with write access to this repository")
        return repo

    def create(self, asked: dict[str, Any]) -> Reply:
        user, role = self.account(required=True)
        owner = asked.get("organization") or user
        if owner != user or role != "write":
            raise Refusal(403, f"You don't have the rights to create a repository under the namespace {owner}")
        name = f"{KINDS[asked.get('type', 'model') + 's']}{owner}/{asked['name']}"
        url = f"{self.hub.url}/{name}"
        if name in self.hub.repos:
            raise Refusal(409, "You already created this repository", url=url)
        self.hub.repos[name] = Repo(name, private=asked.get("visibility") == "private")
        self.hub.repos[name].commit("initial commit", {".gitattributes": b"*.bin filter=lfs\n"})
        return as_json({"url": url})

    def repo_api(self, name: str, request: list[str], query: dict[str, list[str]], body: bytes) -> Reply:
        writes = "xet-write-token" in request or (request[0] == "POST" and "paths-info" not in request)
        repo = self.repo(name, writes)
        match request:
            case ["GET"] | ["GET", "revision", _]:
                return as_json(repo.info(request[2] if len(request) > 1 else "main"))
            case ["GET", "refs"]:
                heads, tags = (
                    [{"name": ref, "ref": f"refs/{folder}/{ref}", "targetCommit": to.id} for ref, to in refs.items()]
                    for folder, refs in (("heads", repo.branches), ("tags", repo.tags))
                )
                return as_json({"branches": heads, "tags": tags, "converts": []})
            case ["GET", "commits", revision]:
                commit: Commit | None = repo.at(revision)
                listed = []
                while commit:
                    listed.append({"id": commit.id, "title": commit.title, "message": "", "date": DATE, "authors": []})
                    commit = commit.parent
                return as_json(listed)
            case ["GET", "tree", revision, *folder]:
                recursive = query["recursive"] == ["true"]
                return as_json(repo.at(revision).tree("".join(folder), recursive))
            case ["POST", "paths-info", revision]:
                asked = parse_qs(body.decode())["paths"]
                return as_json([entry for entry in repo.at(revision).tree("", True) if entry["path"] in asked])
            case ["POST", "preupload", revision]:
                entries = {entry["path"]: entry for entry in repo.at(revision).tree("", True)}
                return as_json({"files": [upload_mode(file["path"], entries) for file in json.loads(body)["files"]]})
            case ["POST", "commit", branch]:
                return self.commit(repo, branch, [json.loads(line) for line in body.splitlines()])
            case ["POST", "branch", ref]:
                return add_ref(repo.branches, ref, repo.at(json.loads(body).get("startingPoint", "main")))
            case ["POST", "tag", revision]:
                return add_ref(repo.tags, json.loads(body)["tag"], repo.at(revision))
            case ["GET", "xet-write-token", _]:
                return self.xet_token([])
            case ["GET", "xet-read-token", revision]:
                files = repo.at(revision).files
                return self.xet_token([content for path, content in files.items() if path.endswith(LARGE)])
        raise Refusal(501, "not part of this Hub")

    def commit(self, repo: Repo, branch: str, lines: list[dict[str, Any]]) -> Reply:
        if branch not in repo.branches:
            raise Refusal(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head, title = repo.branches[branch], ""
        files = dict(head.files)
        for key, value in ((line["key"], line["value"]) for line in lines):
            path = value.get("path", "")
            if key == "header":
                title = value["summary"]
                if not head.id.startswith(value.get("parentCommit", "")):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[path] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[path] = self.hub.large_file(value["oid"], value["size"])
            else:  # deletedFile, deletedFolder
                files = {name: files[name] for name in files if not f"{name}/".startswith(path.rstrip("/") + "/")}
        commit = repo.commit(title, files, branch)
        url = f"{self.hub.url}/{repo.name}/commit/{commit.id}"
        return as_json({"success": True, "commitOid": commit.id, "commitUrl": url})

    def lfs(self, action: str, asked: dict[str, Any]) -> Reply:
        storage, objects = self.hub.storage, asked.get("objects", [])
        if action == "verify" and len(storage.get(asked["oid"], b"")) != asked["size"]:
            raise Refusal(404, "the upload is not complete")
        for item in objects:
            if item["oid"] not in storage:
                address = f"{self.hub.storage_url}/{item['oid']}?signature={self.hub.signature}"
                verify = self.hub.url + self.path.replace("batch", "verify")
                item["actions"] = {"upload": {"href": address}, "verify": {"href": verify}}
        return as_json({"transfer": "basic", "objects": objects})

    def xet_token(self, contents: list[bytes]) -> Reply:
        address, expiry = self.hub.xet.new(contents), int(time.time()) + 3600
        headers = {"X-Xet-Cas-Url": address, "X-Xet-Access-Token": "xet", "X-Xet-Token-Expiration": str(expiry)}
        return as_json({"casUrl": address, "exp": expiry, "accessToken": "xet"}, headers=headers)

    def resolve(self, name: str, revision: str, path: str) -> Reply:
        repo = self.repo(name)
        if repo.gated and self.account()[0] != repo.owner:
            raise Refusal(403, "Access is restricted and you are not in the authorized list", "GatedRepo")
        commit = repo.at(revision)
        headers = {"X-Repo-Commit": commit.id, "Accept-Ranges": "bytes"}
        if path not in commit.files:
            raise Refusal(404, "Entry not found", "EntryNotFound", headers)
        entry = file_entry(path, commit.files[path])
        if "lfs" not in entry:
            return self.content(commit.files[path], ETag=f'"{entry["oid"]}"', **headers)
        sha256 = entry["lfs"]["oid"]
        headers["Location"] = f"{self.hub.storage_url}/{sha256}?signature={self.hub.signature}"
        headers |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(entry["size"])}
        if sha256 in (written := self.hub.xet.files()):
            route = f"{self.hub.url}/api/{repo.kind}/{repo.id}/xet-read-token/{commit.id}"
            headers |= {"X-Xet-Hash": written[sha256][1], "Link": f'<{route}>; rel="xet-auth"'}
        return Reply(302, b"", headers)


def upload_mode(path: str, entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    old = entries.get(path, {})
    mode = "lfs" if path.endswith(LARGE) else "regular"
    return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old.get("lfs", old).get("oid")}


def add_ref(refs: dict[str, Commit], name: str, commit: Commit) -> Reply:
    if name in refs:
        raise Refusal(409, f"Reference {name} already exists")
    refs[name] = commit
    return as_json({})


def front_matter(card: str) -> Any:
    found = re.match(r"---\n(.*?\n)---(\n|$)", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


# ---------------------------------------------------------------------------------------------- clients


def environment(hub: Hub, home: Path, xet: bool = True) -> dict[str, str]:
    """The environment of a process that knows this Hub and a new cache, and no other; read at import."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING"))}
    return {
        **kept,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(home),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": str(int(not xet)),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }


@contextmanager
def client(hub: Hub, home: Path, xet: bool = True) -> Iterator[Callable[..., Any]]:
    """`run(function, *args)`, which calls it in one process of its own; what is printed there is in `home/output`."""
    home.mkdir(parents=True)
    with patch.dict(os.environ, environment(hub, home, xet), clear=True):
        pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=redirect, initargs=(str(home / "output"),))
        pool.submit(int).result()  # starts the process, with this environment
    with pool:
        yield lambda function, *args, **kwargs: pool.submit(function, *args, **kwargs).result(timeout=300)


def redirect(path: str) -> None:
    atexit.register(os._exit, 0)  # the libraries take seconds to be torn down
    with Path(path).open("w") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
