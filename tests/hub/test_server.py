"""The real `huggingface_hub` client pushes to and pulls from the loopback Hub, over LFS and over Xet."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from tests.hub.server import client

FILES = {
    "README.md": b"---\nlicense: mit\n---\n# A model\n",
    "config.json": b"{}",
    "model.safetensors": bytes(range(256)) * 2000,
    "weights/extra.bin": b"extra" * 1000,
}


BROKEN = r"(?i)disconnected|reset|broken pipe"


def call(method, token, *args, **kwargs):
    """A method of `HfApi`; its result as it prints."""
    return str(getattr(HfApi(token=token), method)(*args, **kwargs))


def push(token, repo, files, folder, **kwargs):
    for name, content in files.items():
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    api = HfApi(token=token)
    api.create_repo(repo, exist_ok=True, private=True)
    return api.upload_folder(repo_id=repo, folder_path=folder, commit_message="push", **kwargs).oid


def pull(token, repo, folder, **kwargs):
    api = HfApi(token=token)
    path = Path(api.snapshot_download(repo, local_dir=folder, **kwargs))
    names = [name for name in api.list_repo_files(repo, **kwargs) if name != ".gitattributes"]
    return {name: (path / name).read_bytes() for name in names}


def read_range(token, path, start, stop):
    with HfFileSystem(token=token).open(path) as file:
        file.seek(start)
        return file.read(stop - start)


def download(token, repo, name, **kwargs):
    with TemporaryDirectory() as cache:  # what another account may read is not found in it
        return Path(hf_hub_download(repo, name, token=token, cache_dir=cache, **kwargs)).read_bytes()


@pytest.fixture(scope="module")
def lfs(hub, tmp_path_factory):
    with client(hub, tmp_path_factory.mktemp("lfs") / "home", xet=False) as run:
        yield run


@pytest.fixture(scope="module")
def xet(hub, tmp_path_factory):
    with client(hub, tmp_path_factory.mktemp("xet") / "home") as run:
        yield run


@pytest.fixture(params=["lfs", "xet"])
def run(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def repo(request):
    return "alice/" + request.node.name.removeprefix("test_").replace("[", "-").replace("]", "")[:90]


@pytest.fixture
def pushed(lfs, alice, repo, tmp_path):
    """A private repository with the files, and its first commit."""
    return repo, lfs(push, alice, repo, FILES, str(tmp_path / "pushed"))


def asked(hub, since, words):
    return [request for origin, request, *_ in hub.requests[since:] if words in f"{origin} {request}"]


# ---------------------------------------------------------------------------------------------- content


def test_what_is_pushed_comes_back(run, hub, alice, repo, tmp_path):
    since = len(hub.requests)
    oid = run(push, alice, repo, FILES, str(tmp_path / "out"))
    assert {name: hub.repos[repo].at(oid).files[name] for name in FILES} == FILES
    assert run(pull, alice, repo, str(tmp_path / "back")) == FILES
    over_xet = [bool(asked(hub, since, words)) for words in ("xet-write-token", "xet-read-token")]
    over_lfs = [bool(asked(hub, since, words)) for words in ("StorageHandler PUT", "StorageHandler GET")]
    assert (all(over_xet) and not any(over_lfs)) or (all(over_lfs) and not any(over_xet))


@pytest.mark.parametrize(("writer", "reader"), [("lfs", "xet"), ("xet", "lfs")])
def test_each_client_reads_what_the_other_has_written(writer, reader, request, alice, repo, tmp_path):
    files = {"model.safetensors": writer.encode() * 10_000}
    request.getfixturevalue(writer)(push, alice, repo, files, str(tmp_path / "out"))
    assert request.getfixturevalue(reader)(pull, alice, repo, str(tmp_path / "back")) == files


def test_nothing_new_makes_no_commit(run, hub, alice, repo, tmp_path):
    first = run(push, alice, repo, FILES, str(tmp_path))
    assert run(push, alice, repo, FILES, str(tmp_path)) == first


def test_a_commit_changes_and_deletes(run, hub, alice, repo, tmp_path):
    first = run(push, alice, repo, FILES, str(tmp_path / "first"))
    second = run(push, alice, repo, {"config.json": b"[]"}, str(tmp_path / "second"), delete_patterns="weights/*")
    commit = hub.repos[repo].at(second)
    assert commit.parent.id == first and commit.files["config.json"] == b"[]"
    assert FILES.keys() - commit.files.keys() == {"weights/extra.bin"}


@pytest.mark.parametrize("name", ["README.md", "model.safetensors"])
def test_a_part_of_a_file_is_read(name, lfs, alice, pushed):
    assert lfs(read_range, alice, f"{pushed[0]}/{name}", 5, 15) == FILES[name][5:15]


# ---------------------------------------------------------------------------------------------- the API


def test_an_account_and_its_repositories(lfs, hub, alice, repo):
    assert "'name': 'alice'" in lfs(call, "whoami", alice)
    url = lfs(call, "create_repo", alice, repo, repo_type="dataset")
    assert (
        url == f"{hub.url}/datasets/{repo}" == lfs(call, "create_repo", alice, repo, repo_type="dataset", exist_ok=True)
    )
    with pytest.raises(HfHubHTTPError, match=r"You already created"):
        lfs(call, "create_repo", alice, repo, repo_type="dataset")


def test_what_a_repository_tells_of_itself(lfs, alice, pushed):
    repo, oid = pushed
    info = lfs(call, "repo_info", alice, repo)
    assert f"sha='{oid}'" in info and "private=True" in info and "license': 'mit'" in info.replace("ModelCardData", "")
    tree = lfs(call, "list_repo_files", alice, repo)
    assert all(name in tree for name in FILES)
    paths = lfs(call, "get_paths_info", alice, repo, ["weights", "config.json", "absent"])
    assert "RepoFolder(path='weights'" in paths and "RepoFile(path='config.json', size=2" in paths
    assert "absent" not in paths
    assert "title='push'" in lfs(call, "list_repo_commits", alice, repo)


def test_branches_and_tags_are_revisions(lfs, alice, pushed, tmp_path):
    repo, oid = pushed
    lfs(call, "create_branch", alice, repo, branch="next")
    lfs(call, "create_branch", alice, repo, branch="next", exist_ok=True)
    lfs(call, "create_tag", alice, repo, tag="v1")
    later = lfs(push, alice, repo, {"config.json": b"[2]"}, str(tmp_path / "more"), revision="next")
    refs = lfs(call, "list_repo_refs", alice, repo)
    for ref, target in (("heads/main", oid), ("heads/next", later), ("tags/v1", oid)):
        assert f"ref='refs/{ref}', target_commit='{target}'" in refs
    found = {name: lfs(pull, alice, repo, str(tmp_path / name), revision=name) for name in ("v1", "next", oid)}
    assert found["v1"] == found[oid] == FILES and found["next"] == {**FILES, "config.json": b"[2]"}


def test_a_card_with_broken_metadata_is_refused(lfs, alice, repo, tmp_path):
    with pytest.raises(ValueError, match=r"Invalid metadata in README.md"):
        lfs(push, alice, repo, {"README.md": b"---\na: [\n---\n"}, str(tmp_path))


# ---------------------------------------------------------------------------------------------- refusals


def test_who_may_read(lfs, hub, alice, pushed):
    repo, _ = pushed
    assert lfs(download, hub.token("alice", "read"), repo, "config.json") == FILES["config.json"]
    for stranger in (False, hub.token("bob")):
        with pytest.raises(RepositoryNotFoundError, match=r"404"):
            lfs(download, stranger, repo, "config.json")
    hub.repos[repo].private, hub.repos[repo].gated = False, True
    with pytest.raises(GatedRepoError, match=r"not in the authorized list"):
        lfs(download, hub.token("bob"), repo, "config.json")
    with pytest.raises(RevisionNotFoundError):
        lfs(download, alice, repo, "config.json", revision="absent")
    with pytest.raises(RemoteEntryNotFoundError):
        lfs(download, alice, repo, "absent.json")


def test_who_may_write(run, hub, pushed, tmp_path):
    repo, oid = pushed
    hub.repos[repo].private = False
    for token, words in (
        (hub.token("alice", "read"), "403 Forbidden.*write access"),
        (hub.token("bob"), "403 Forbidden.*write access"),
        (hub.token("alice", "expired"), "401.*expired"),
        ("hf_unknown", "401.*Invalid credentials"),
    ):
        with pytest.raises(HfHubHTTPError, match=f"(?s){words}"):
            run(push, token, repo, {"model.safetensors": b"mine"}, str(tmp_path))
    assert hub.repos[repo].at("main").id == oid


def test_a_commit_on_an_outdated_parent_is_refused(run, hub, alice, pushed, tmp_path):
    repo, oid = pushed
    run(push, alice, repo, {"config.json": b"[1]"}, str(tmp_path), parent_commit=oid)
    with pytest.raises(HfHubHTTPError, match=r"(?s)412.*A commit has happened since"):
        run(push, alice, repo, {"config.json": b"[2]"}, str(tmp_path), parent_commit=oid)
    assert hub.repos[repo].at("main").files["config.json"] == b"[1]"


# ---------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("what", [503, "drop"])
def test_the_client_repeats_an_upload_that_broke_off(what, lfs, hub, alice, repo, tmp_path):
    files = {"model.safetensors": str(what).encode() * 100_000}
    with hub.fault("PUT /", what) as fault:
        lfs(push, alice, repo, files, str(tmp_path))
    assert fault.times == 0 and hub.repos[repo].at("main").files["model.safetensors"] == files["model.safetensors"]


def test_a_commit_that_broke_off_over_lfs_is_an_error_and_the_next_completes_it(lfs, hub, alice, repo, tmp_path):
    files = {"config.json": b"{}", "model.safetensors": b"new" * 100_000}  # one file that no other test has stored
    since = len(hub.requests)
    with hub.fault("/commit/", "drop"), pytest.raises(Exception, match=BROKEN):
        lfs(push, alice, repo, files, str(tmp_path))
    assert "config.json" not in hub.repos[repo].at("main").files
    lfs(push, alice, repo, files, str(tmp_path))
    assert hub.repos[repo].at("main").files["model.safetensors"] == files["model.safetensors"]
    assert len(asked(hub, since, "StorageHandler PUT")) == 1  # not sent again


def test_a_commit_that_broke_off_over_xet_is_repeated(xet, hub, alice, repo, tmp_path):
    with hub.fault("/commit/", "drop") as fault:
        xet(push, alice, repo, FILES, str(tmp_path))
    assert fault.times == 0 and "config.json" in hub.repos[repo].at("main").files


def test_without_access_to_xet_nothing_is_committed(xet, hub, alice, repo, tmp_path):
    with hub.fault("xet-write-token", 403), pytest.raises(ConnectionError, match="403 Forbidden"):
        xet(push, alice, repo, FILES, str(tmp_path))
    assert [*hub.repos[repo].at("main").files] == [".gitattributes"]


def test_a_commit_whose_answer_was_lost_is_found_by_the_next(lfs, hub, alice, repo, tmp_path):
    with hub.fault("/commit/", "lose"), pytest.raises(Exception, match=BROKEN):
        lfs(push, alice, repo, FILES, str(tmp_path))
    there = hub.repos[repo].at("main")
    assert "config.json" in there.files
    assert lfs(push, alice, repo, FILES, str(tmp_path)) == there.id


# ---------------------------------------------------------------------------------------------- after all of these


def test_no_token_reached_the_storage_and_the_hub_knew_every_address(hub):
    for origin, request, status, authorized in hub.requests:
        assert not (origin == "StorageHandler" and authorized), request
        assert status != 501, request
