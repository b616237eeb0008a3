"""Encoders in a repository: a loopback server that answers like the Hugging Face Hub, and what can go wrong."""

import hashlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants

from cryozoo.particles.errors import BadInput
from cryozoo.zoo import entries
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.entries import get_entry
from cryozoo.zoo.entry import Entry
from cryozoo.zoo.pretrained import HubError, load_pretrained, save_pretrained

NAME = "test_siamese_cnn-sixd_svd"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SOURCE = f"hf-hub:owner/repo@{COMMIT}"


class Hub:
    """One repository, one commit, one branch.

    Attributes:
        files: content by name.
        asked: the (method, name) pairs that were asked for.
        answer: what to answer with a status other than 200, by name.
        damage: serve other bytes of the same length.
        moved: a repository that has another name now, and that; as the Hub answers for it.
    """

    def __init__(self, files):
        self.files, self.asked, self.answer, self.damage, self.moved = files, [], {}, False, None
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_HEAD(self):
                self.respond(body=False)

            def do_GET(self):
                self.respond(body=True)

            def respond(self, body):
                if hub.moved and self.path.startswith(f"/{hub.moved[0]}/"):
                    self.send_response(307)
                    self.send_header("Location", self.path.replace(*hub.moved))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                *_, revision, name = self.path.split("/")
                if revision in (COMMIT, "main"):  # the library asks for other things too
                    hub.asked.append((self.command, name))
                status, code = hub.answer.get(name, (200, None))
                if not self.path.startswith("/owner/repo/resolve/"):
                    status, code = 404, "RepoNotFound"
                elif revision not in (COMMIT, "main"):
                    status, code = 404, "RevisionNotFound"
                elif status == 200 and name not in hub.files:
                    status, code = 404, "EntryNotFound"
                data = hub.files.get(name, b"") if status == 200 else b""
                etag = hashlib.sha256(data).hexdigest()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.send_header("ETag", f'"{etag}"')
                self.send_header("X-Repo-Commit", COMMIT)
                if code:
                    self.send_header("X-Error-Code", code)
                self.end_headers()
                if body:
                    self.wfile.write(bytes(len(data)) if hub.damage and name == "model.safetensors" else data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def taken(self):
        """Names of the files that were sent since the last call."""
        names = [name for method, name in self.asked if method == "GET"]
        self.asked.clear()
        return names


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    save_pretrained(create_encoder(NAME, image_size=16), folder, tag="toy")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def hub(files, tmp_path, monkeypatch):
    hub = Hub(dict(files))
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    yield hub
    hub.stop()


NEEDED = ["config.json", "model.safetensors", "golden.safetensors"]


def cached(tmp_path, name):
    (path,) = (tmp_path / "cache").rglob(f"snapshots/{COMMIT}/{name}")
    return path.resolve()


def test_a_commit_is_downloaded_once(hub, files):
    loaded = load_pretrained(SOURCE)
    assert loaded.entry == Entry.from_config({**json.loads(files["config.json"]), "source": SOURCE}, "config.json")
    assert hub.taken() == NEEDED
    load_pretrained(SOURCE)
    load_pretrained(SOURCE, local_files_only=True)
    assert hub.asked == []  # not even a question


def test_a_branch_is_resolved_to_its_commit(hub):
    assert load_pretrained("hf-hub:owner/repo", revision="main").entry.source == SOURCE
    assert hub.taken() == NEEDED
    load_pretrained(SOURCE)
    assert hub.asked == []


def test_an_entry_of_the_package_can_live_in_a_repository(hub, files, tmp_path, monkeypatch):
    """Its configuration is the package's; the repository's is not asked."""
    monkeypatch.setattr(entries, "WEIGHTS", tmp_path)
    entry = {**json.loads(files["config.json"]), "source": SOURCE}
    (tmp_path / f"{NAME}.toy.json").write_text(json.dumps(entry))
    found = load_pretrained(f"{NAME}.toy").entry
    assert found == get_entry(f"{NAME}.toy") == Entry.from_config(entry, "config.json")
    assert hub.taken() == NEEDED[1:]


def test_107_a_damaged_copy_is_replaced(hub, tmp_path):
    load_pretrained(SOURCE)
    hub.taken()
    path = cached(tmp_path, "model.safetensors")
    for damage in (bytes(path.stat().st_size), b"short"):
        path.write_bytes(damage)
        with pytest.raises(BadInput, match=rf"{SOURCE}, model\.safetensors: "):
            load_pretrained(SOURCE, local_files_only=True)
        load_pretrained(SOURCE)
        assert hub.taken() == ["model.safetensors"]


def test_107_other_bytes_from_the_server_are_refused_after_one_more_try(hub):
    hub.damage = True
    with pytest.raises(BadInput, match=rf"{SOURCE}, model\.safetensors: sha256"):
        load_pretrained(SOURCE)
    assert hub.taken() == ["config.json", "model.safetensors", "model.safetensors"]


@pytest.mark.parametrize(
    ("source", "answer", "message"),
    [
        (f"hf-hub:owner/other@{COMMIT}", {}, "no such repository"),
        (f"hf-hub:owner/repo@{'0' * 40}", {}, "no such commit"),
        (SOURCE, {"config.json": (403, "GatedRepo")}, "granted"),
        (SOURCE, {"config.json": (401, "RepoNotFound")}, "hf auth login"),
        (SOURCE, {"config.json": (403, None)}, "status 403"),
    ],
)
def test_108_what_the_server_refuses(hub, source, answer, message):
    hub.answer = answer
    with pytest.raises(HubError, match=message) as caught:
        load_pretrained(source)
    assert str(caught.value).startswith(f"{source}, config.json: ")
    assert "\n" not in str(caught.value)


def test_108_a_repository_that_was_moved_is_followed(hub):
    hub.moved = ("owner/before", "owner/repo")
    assert load_pretrained(f"hf-hub:owner/before@{COMMIT}").name == NAME


def test_a_mirror_is_asked_in_place_of_the_hub(hub, tmp_path):
    """By the library's own setting, which is read once, when a process starts."""
    code = f"import cryozoo; print(cryozoo.load_pretrained({SOURCE!r}).name)"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == NAME, done.stderr


@pytest.mark.slow
def test_twenty_processes_at_once(hub, tmp_path):
    """With one empty cache: all load, none sees a part of a file."""
    code = f"import cryozoo; print(cryozoo.load_pretrained({SOURCE!r}).entry.files['model.safetensors'].sha256)"
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(20)
    ]
    said = [process.communicate(timeout=300) for process in running]
    sha256 = hashlib.sha256(hub.files["model.safetensors"]).hexdigest()
    assert {out.strip() for out, _ in said} == {sha256}, said


def test_108_a_file_that_the_repository_lacks(hub):
    del hub.files["model.safetensors"]
    with pytest.raises(BadInput, match=rf"{SOURCE}, model\.safetensors: no such file.*safetensors only"):
        load_pretrained(SOURCE)


@pytest.mark.parametrize(("name", "revision"), [(SOURCE, None), ("hf-hub:owner/repo", "main")])
def test_109_no_server(hub, name, revision):
    hub.stop()
    began = time.monotonic()
    with pytest.raises(HubError, match=r"cannot be reached.*local_files_only=True"):
        load_pretrained(name, revision=revision)
    with pytest.raises(HubError, match="not in the local cache"):
        load_pretrained(name, revision=revision, local_files_only=True)
    assert time.monotonic() - began < 10


def test_109_no_server_but_a_copy(hub):
    load_pretrained("hf-hub:owner/repo", revision="main")
    hub.stop()
    assert load_pretrained(SOURCE).name == NAME
    assert load_pretrained("hf-hub:owner/repo", revision="main", local_files_only=True).entry.source == SOURCE


def test_offline_by_the_environment(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="cannot be reached"):
        load_pretrained(SOURCE)
    assert hub.asked == []
