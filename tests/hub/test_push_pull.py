"""Models and data sets go to the Hub and come back whole; no token goes with them. See `hub_server.py`."""

import json
import logging
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from datasets import Image, List, load_dataset, load_from_disk
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForImageClassification, ViTImageProcessor

from hf_pgg import CutMix, PGGConfig, PGGTrainer
from hf_pgg.reports.model_card import model_card
from hf_pgg.reports.record import environment as machine
from hf_pgg.training.checkpoints import staging_folder
from tests.conftest import SIZE, tiny_model
from tests.hub.server import client, environment

pytestmark = pytest.mark.xdist_group("push")  # one worker: the tests share processes

BROKEN = r"(?i)disconnected|reset|broken pipe"
MODEL_FILES = {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"}


# ---------------------------------------------------------------------------------------------- what clients do


def make_trainer(rows, folder, repo, token, **options):
    args = PGGConfig(
        output_dir=folder,
        hub_model_id=repo,
        hub_token=token,
        push_to_hub=True,
        max_steps=4,
        per_device_train_batch_size=4,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        **{"save_strategy": "no", **options},
    )
    processor = ViTImageProcessor(size={"height": SIZE, "width": SIZE})
    return PGGTrainer(tiny_model("convnext"), args, train_dataset=load_from_disk(rows), processing_class=processor)


def train_and_push(rows, folder, repo, token, card=None, **options):
    """Pushes a trained model, with a card if there is one; returns its logits of fixed pixels."""
    trainer = make_trainer(rows, folder, repo, token, **options)
    trainer.train()
    if card is not None:
        Path(folder, "README.md").write_text(card)
    trainer.push_to_hub()
    return logits_of(trainer.model)


def logits_of(model):
    pixels = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model.eval()(pixel_values=pixels).logits.tolist()


def push_twice(rows, folder, repo, token, **options):
    """The error of the first push, the logits of what it left in the folder, and those of the trained model."""
    trainer = make_trainer(rows, folder, repo, token, **options)
    trainer.train()
    with pytest.raises(Exception) as error:
        trainer.push_to_hub()
    kept = logits_of(AutoModelForImageClassification.from_pretrained(folder))
    trainer.push_to_hub()
    return str(error.value), kept, logits_of(trainer.model)


def pull_logits(repo, token, **options):
    return logits_of(AutoModelForImageClassification.from_pretrained(repo, token=token, **options))


def push_rows(rows, repo, token, **options):
    return load_from_disk(rows).push_to_hub(repo, token=token, **options).oid


def pull_rows(repo, token, folder, **options):
    load_dataset(repo, token=token, split="train", **options).save_to_disk(folder)


def push_loudly(rows, folder, repo, token, **options):
    for library in (transformers, huggingface_hub):
        library.logging.set_verbosity_debug()
    logging.basicConfig(level=logging.DEBUG)
    return train_and_push(rows, folder, repo, token, **options)


# ---------------------------------------------------------------------------------------------- the Hub and its users


@pytest.fixture(scope="module")
def homes(tmp_path_factory):
    return tmp_path_factory.mktemp("homes")


@pytest.fixture(scope="module")
def xet(hub, homes):
    with client(hub, homes / "xet") as run:
        yield run


@pytest.fixture(scope="module")
def lfs(hub, homes):
    with client(hub, homes / "lfs", xet=False) as run:
        yield run


@pytest.fixture(scope="module")
def rows(guided_photos, tmp_path_factory):
    path = str(tmp_path_factory.mktemp("rows"))
    guided_photos.save_to_disk(path)
    return path


@pytest.fixture(scope="module")
def mixed(photos, tmp_path_factory):
    """Synthesized rows with provenance."""
    path = str(tmp_path_factory.mktemp("mixed"))
    CutMix(source=photos, seed=1).map(photos).save_to_disk(path)
    return path


@pytest.fixture
def repo(request):
    return "alice/" + request.node.name.removeprefix("test_")[:90]


@pytest.fixture(scope="module")
def card():
    record = {
        "model": {"name": "guided", "base_model": None},
        "data": {"name": "photos", "fingerprint": "abc", "train_rows": 24, "test_rows": 24, "classes": ["a"]},
        "method": {"name": "guided", "alpha": 10.0, "form": "share", "mode": "exact", "synthesis": "none", "seed": 42,
                   "steps": 4, "epochs": 1.0, "batch_size": 4, "learning_rate": 1e-3, "image_size": SIZE,
                   "train_seconds": 1.0},
        "results": {"accuracy": 0.75, "worst_group_accuracy": 0.5},
        "comparison": [],
        "figures": [],
        "collapsed_at": None,
        "nonfinite_steps": 0,
        "environment": machine(),
    }  # fmt: skip
    return model_card(record).content


@pytest.fixture(scope="module")
def pushed(xet, hub, rows, alice, card, tmp_path_factory):
    """A private model, pushed after training with its card: repository, files, and logits of the local model."""
    repo = "alice/guided"
    folder = str(tmp_path_factory.mktemp("run") / "out")
    logits = xet(train_and_push, rows, folder, repo, alice, card, hub_private_repo=True)
    return repo, hub.repos[repo].at("main").files, logits


# ---------------------------------------------------------------------------------------------- a model


def test_a_pushed_model_holds_what_loading_needs_and_no_pickle(pushed):
    _, files, _ = pushed
    assert files.keys() >= MODEL_FILES
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pth", ".pkl"))]


def test_a_pushed_model_keeps_its_card(pushed, hub, card):
    repo, files, _ = pushed
    assert files["README.md"].decode() == card
    assert hub.repos[repo].info("main")["cardData"]["pipeline_tag"] == "image-classification"


def test_a_pushed_model_needs_no_hf_pgg(pushed, hub, alice, homes, tmp_path):
    repo, _, logits = pushed
    code = f"""
import json, sys
sys.modules["hf_pgg"] = None
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForImageClassification, pipeline
model = AutoModelForImageClassification.from_pretrained({repo!r}).eval()
processor = AutoImageProcessor.from_pretrained({repo!r})
image = Image.effect_noise((50, 40), 60).convert("RGB")
with torch.no_grad():
    pixels = torch.randn(2, 3, {SIZE}, {SIZE}, generator=torch.Generator().manual_seed(0))
    logits = model(pixel_values=pixels).logits
    shares = model(**processor(image, return_tensors="pt")).logits.softmax(1)[0]
answers = pipeline("image-classification", model={repo!r})(image)
expected = {{model.config.id2label[i]: share for i, share in enumerate(shares.tolist())}}
print(json.dumps([logits.tolist(), {{answer["label"]: answer["score"] for answer in answers}}, expected]))
"""
    env = environment(hub, homes / "bare") | {"HF_TOKEN": alice}
    run = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    found, answers, expected = json.loads(run.stdout)
    torch.testing.assert_close(torch.tensor(found), torch.tensor(logits))
    assert answers == pytest.approx(expected, rel=1e-5)
    (homes / "bare" / "output").write_text(run.stdout + run.stderr)


def test_a_private_model_is_there_for_its_owner_only(pushed, xet, hub, alice):
    repo, _, logits = pushed
    assert hub.repos[repo].private and xet(pull_logits, repo, alice) == logits
    for stranger in (hub.token("bob"), False):
        with pytest.raises(OSError, match="is not a local folder"):
            xet(pull_logits, repo, stranger, force_download=True)


def test_a_push_goes_to_its_revision(pushed, xet, hub, rows, alice, tmp_path):
    repo, _, first = pushed
    hub.repos[repo].branches["next"] = before = hub.repos[repo].at("main")
    logits = xet(train_and_push, rows, str(tmp_path / "out"), repo, alice, hub_revision="next", learning_rate=1e-2)
    assert hub.repos[repo].at("main") is before and hub.repos[repo].at("next").parent is before
    assert xet(pull_logits, repo, alice) == first != logits == xet(pull_logits, repo, alice, revision="next")


# ---------------------------------------------------------------------------------------------- while training


def history(repo):
    commit, commits = repo.at("main"), []
    while commit:
        commits.insert(0, commit)
        commit = commit.parent
    return commits


@pytest.mark.parametrize("strategy", ["every_save", "checkpoint"])
def test_every_save_is_pushed_complete(strategy, xet, hub, rows, alice, tmp_path):
    repo, folder = f"alice/{strategy}", tmp_path / "out"
    xet(train_and_push, rows, str(folder), repo, alice, hub_strategy=strategy, hub_always_push=True,
        save_strategy="steps", save_steps=2)  # fmt: skip
    commits = history(hub.repos[repo])
    for step in (2, 4):
        (commit,) = (c for c in commits if c.title == f"Training in progress, step {step}")
        assert commit.files["model.safetensors"] == (folder / f"checkpoint-{step}/model.safetensors").read_bytes()
    files = hub.repos[repo].at("main").files
    kept = {"last-checkpoint/trainer_state.json", "last-checkpoint/optimizer.pt"} if strategy == "checkpoint" else set()
    assert MODEL_FILES | kept <= files.keys()
    for commit in commits:
        assert not [name for name in commit.files if "training_args" in name or staging_folder("").name in name]


def test_what_a_crash_left_is_not_pushed(xet, hub, rows, alice, repo, tmp_path):
    left = staging_folder(tmp_path / "out") / "checkpoint-2"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    xet(train_and_push, rows, str(tmp_path / "out"), repo, alice)
    assert not [name for name in hub.repos[repo].at("main").files if "checkpoint" in name]


def test_a_push_that_fails_while_training_is_reported(lfs, hub, homes, rows, alice, repo, tmp_path):
    """Training goes on; the log names the error; the push at the end completes the repository."""
    with hub.fault("/commit/", "drop") as fault:
        lfs(train_and_push, rows, str(tmp_path / "out"), repo, alice, hub_strategy="every_save",
            save_strategy="steps", save_steps=4)  # fmt: skip
    assert fault.times == 0 and hub.repos[repo].at("main").files.keys() >= MODEL_FILES
    assert f"push to {repo} failed" in (homes / "lfs" / "output").read_text()


# ---------------------------------------------------------------------------------------------- refusals


def test_a_token_that_may_not_create_stops_before_training(xet, hub, rows, repo, tmp_path):
    for token, words in (
        ("hf_wrong", "401.*Invalid credentials"),
        (hub.token("alice", "expired"), "401.*expired"),
        (hub.token("alice", "read"), "403 Forbidden.*rights to create"),
        (hub.token("bob"), "403 Forbidden.*namespace alice"),
    ):
        with pytest.raises(HfHubHTTPError, match=f"(?s){words}"):
            xet(make_trainer, rows, str(tmp_path / "out"), repo, token)
    assert repo not in hub.repos and not (tmp_path / "out").exists()


def test_a_token_that_may_not_write_pushes_nothing_and_costs_nothing(pushed, xet, hub, rows, tmp_path):
    repo = hub.repos[pushed[0]]
    before = repo.at("main")
    with pytest.raises(HfHubHTTPError, match=r"(?s)403 Forbidden.*write access"):
        xet(train_and_push, rows, str(tmp_path / "out"), repo.id, hub.token("alice", "read"))
    assert repo.at("main") is before
    AutoModelForImageClassification.from_pretrained(tmp_path / "out")


# ---------------------------------------------------------------------------------------------- a Hub that breaks off


@pytest.mark.parametrize(
    ("route", "what", "words"),
    [
        pytest.param("PUT /", 403, "Error while uploading 'model.safetensors'", id="upload refused"),
        pytest.param("/commit/", "drop", BROKEN, id="commit broke off"),
        pytest.param("/commit/", "lose", BROKEN, id="answer to commit lost"),
    ],
)
def test_a_push_that_breaks_off_loses_nothing_and_the_next_completes_it(
    route, what, words, lfs, hub, rows, alice, tmp_path
):
    repo = f"alice/breaks-off-{what}"
    with hub.fault(route, what) as fault:  # a seed of its own: weights that the storage does not know yet
        error, kept, logits = lfs(push_twice, rows, str(tmp_path / "out"), repo, alice, seed=len(words))
    assert fault.times == 0 and re.search(words, error)
    assert kept == logits == lfs(pull_logits, repo, alice)
    assert [commit.title for commit in history(hub.repos[repo])] == ["initial commit", "End of training"]


@pytest.mark.slow
def test_a_hub_that_is_gone_for_good_is_an_error_in_half_a_minute(lfs, hub, rows, alice, repo, tmp_path):
    with hub.fault("PUT /", "drop", times=6):  # as often as the client tries
        error, kept, logits = lfs(push_twice, rows, str(tmp_path / "out"), repo, alice, seed=1)
    assert "Error while uploading 'model.safetensors'" in error
    assert kept == logits == lfs(pull_logits, repo, alice)


def test_xet_repeats_a_commit_that_broke_off(xet, hub, rows, alice, repo, tmp_path):
    with hub.fault("/commit/", 503) as fault:
        logits = xet(train_and_push, rows, str(tmp_path / "out"), repo, alice)
    assert fault.times == 0 and xet(pull_logits, repo, alice) == logits


def test_a_commit_in_between_is_kept(xet, hub, rows, alice, repo, tmp_path):
    def interfere():
        here = hub.repos[repo]
        here.commit("of someone else", {**here.at("main").files, "notes.txt": b"mine"})

    with hub.fault("/commit/", interfere):
        xet(train_and_push, rows, str(tmp_path / "out"), repo, alice)
    assert [c.title for c in history(hub.repos[repo])][1:] == ["of someone else", "End of training"]
    assert MODEL_FILES | {"notes.txt"} <= hub.repos[repo].at("main").files.keys()


# ---------------------------------------------------------------------------------------------- a data set


def stored(path):
    """The data set, with its images and masks as the bytes that are stored."""
    data = load_from_disk(path) if isinstance(path, str) else path
    return data.cast_column("image", Image(decode=False)).cast_column("provenance", List(Image(decode=False)))


@pytest.mark.parametrize("name", ["lfs", "xet"])
def test_a_data_set_with_provenance_comes_back_byte_for_byte(name, request, hub, alice, mixed, tmp_path):
    run, repo = request.getfixturevalue(name), f"alice/mixed-{name}"
    run(push_rows, mixed, repo, alice, private=True)
    run(pull_rows, repo, alice, str(tmp_path / "back"))
    sent, back = load_from_disk(mixed), load_from_disk(tmp_path / "back")
    assert back.features == sent.features
    for ours, theirs in zip(stored(sent), stored(back), strict=True):
        assert [mask["bytes"] for mask in ours.pop("provenance")] == [
            mask["bytes"] for mask in theirs.pop("provenance")
        ]
        assert ours.pop("image")["bytes"] == theirs.pop("image")["bytes"] and ours == theirs
    assert hub.repos[f"datasets/{repo}"].private


def test_a_data_set_that_breaks_off_is_completed_by_the_next(lfs, hub, alice, mixed, repo, tmp_path):
    with hub.fault("/commit/", "drop"), pytest.raises(Exception, match=BROKEN):
        lfs(push_rows, mixed, repo, alice)
    lfs(push_rows, mixed, repo, alice, revision="v1")
    lfs(pull_rows, repo, alice, str(tmp_path / "back"), revision="v1")
    assert len(load_from_disk(tmp_path / "back")) == 24


def test_a_commit_in_between_is_kept_by_a_data_set(lfs, hub, alice, mixed, repo):
    """`push_to_hub` names the commit that it builds on: the Hub refuses it when there is another."""

    def interfere():
        here = hub.repos[f"datasets/{repo}"]
        here.commit("of someone else", {**here.at("main").files, "notes.txt": b"mine"})

    with hub.fault("/commit/", interfere), suppress(HfHubHTTPError):
        lfs(push_rows, mixed, repo, alice)
    assert 412 in [status for _, request, status, _ in hub.requests if f"datasets/{repo}/commit/" in request]
    lfs(push_rows, mixed, repo, alice)
    files = hub.repos[f"datasets/{repo}"].at("main").files
    assert {"notes.txt", "README.md", "data/train-00000-of-00001.parquet"} <= files.keys()


# ---------------------------------------------------------------------------------------------- after all of these


def test_no_token_is_in_what_was_sent_or_printed(xet, hub, rows, alice, repo, homes, tmp_path):
    xet(
        push_loudly,
        rows,
        str(tmp_path / "out"),
        repo,
        alice,
        hub_strategy="checkpoint",
        save_strategy="steps",
        save_steps=4,
    )
    sent = dict(hub.storage)
    for name, place in hub.repos.items():
        for commit in place.commits.values():
            sent |= {f"{name}/{path}": content for path, content in commit.files.items()}
    printed = {path: path.read_bytes() for path in homes.glob("*/output")}
    written = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert sent and printed and written
    found = [
        where
        for where, content in (sent | printed | written).items()
        for token in hub.tokens
        if token.encode() in content
    ]
    assert not found


def test_no_token_reached_the_storage_and_the_hub_knew_every_address(hub):
    for origin, request, status, authorized in hub.requests:
        assert not (origin == "StorageHandler" and authorized), request
        assert status != 501, request
