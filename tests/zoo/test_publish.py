"""Publishing to a loopback server that speaks the Hub's API, with a fault in every request."""

import base64
import hashlib
import json
import logging
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard, constants

from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput
from cryozoo.zoo.embed import embed
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.entries import get_entry
from cryozoo.zoo.pretrained import HubError, load_pretrained, save_pretrained
from cryozoo.zoo.publish import main, publish, push_to_hub

REPOSITORY = "owner/repo"
REQUESTS = {
    "create": "/api/repos/create",
    "info": "/api/models/{}",
    "preupload": "/api/models/{}/preupload/main",
    "commit": "/api/models/{}/commit/main",
}


class Hub:
    """One repository.

    Attributes:
        repository: its name.
        commits: files by commit; the last one is the newest. None while there is no repository.
        faults: by path: a status to answer with, or 0 to hang up.
        damage: keep other weights than those that were sent.
    """

    def __init__(self):
        self.repository, self.commits, self.faults, self.damage = REPOSITORY, None, {}, False
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def answer(self, status, body=b"", **headers):
                body = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                for key, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def respond(self):
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                path = self.path.partition("?")[0]
                fault = hub.faults.get(path)
                if fault == 0:
                    self.close_connection = True
                    self.connection.close()
                elif fault:
                    self.answer(fault)
                else:
                    hub.serve(self, path, data)

            do_GET = do_HEAD = do_POST = respond

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def path(self, request):
        return REQUESTS[request].format(self.repository)

    @property
    def head(self):
        return list(self.commits)[-1]

    def serve(self, request, path, data):
        if path == self.path("create"):
            if self.commits is None:
                self.commits = {"0" * 40: {".gitattributes": b""}}
            request.answer(200, {"url": f"{self.url}/{self.repository}"})
        elif path == self.path("info"):
            siblings = [{"rfilename": name} for name in self.commits[self.head]]
            request.answer(200, {"id": self.repository, "sha": self.head, "siblings": siblings})
        elif path == "/api/validate-yaml":
            request.answer(200, {"errors": [], "warnings": []})
        elif path == self.path("preupload"):
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]
            request.answer(200, {"files": modes})
        elif path == self.path("commit"):
            lines = [json.loads(line) for line in data.splitlines()]
            sent = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            if self.damage:
                sent["model.safetensors"] = bytes(len(sent["model.safetensors"]))
            commit = hashlib.sha1(data).hexdigest()
            self.commits[commit] = {**self.commits[self.head], **sent}
            request.answer(200, {"commitOid": commit, "commitUrl": f"{self.url}/{self.repository}/commit/{commit}"})
        elif f"/{self.repository}/resolve/" in path:
            *_, revision, name = path.split("/")
            content = self.commits[self.head if revision == "main" else revision][name]
            request.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"', X_Repo_Commit=revision)
        else:
            request.answer(404)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = Hub()
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", "hf_test")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # before it tries again
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    yield hub
    hub.server.shutdown()
    hub.server.server_close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    encoder = create_encoder("test_siamese_cnn-sixd_svd", image_size=16)
    encoder.frame_map = Volume.phantom(size=16, pixel_size=5.0)
    molecule = {"name": "a phantom", "source": "phantom:0", "symmetry": "C1"}
    save_pretrained(encoder, folder, tag="toy", molecule=molecule, half=True)
    return folder


def test_what_is_loaded_from_there_is_what_was_sent(hub, folder):
    published = publish(f"local-dir:{folder}", REPOSITORY)
    assert published == (f"hf-hub:{REPOSITORY}@{hub.head}", True)
    sent, found = load_pretrained(f"local-dir:{folder}"), load_pretrained(published.source)
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(sent(images).rotation, found(images).rotation)
    assert torch.equal(sent.frame_map.data, found.frame_map.data)
    assert found.entry.molecule == sent.entry.molecule
    names = {*(path.name for path in folder.iterdir()), "map.png", ".gitattributes"}
    assert set(hub.commits[hub.head]) == names
    assert hub.commits[hub.head]["map.png"].startswith(b"\x89PNG")
    card = ModelCard(hub.commits[hub.head]["README.md"].decode())
    assert 'load_pretrained("hf-hub:owner/repo", revision="main")' in card.text
    assert 'refine="frame"' in card.text
    assert "![map](map.png)" in card.text
    assert "map.png" not in (folder / "README.md").read_text()


def test_the_same_again_changes_nothing(hub, folder):
    first = publish(f"local-dir:{folder}", REPOSITORY)
    assert publish(f"local-dir:{folder}", REPOSITORY) == (first.source, False)
    assert len(hub.commits) == 2


@pytest.mark.parametrize(
    ("request_", "fault"),
    [
        *(("create", fault) for fault in (0, 500)),  # who may not make repositories may write into them
        *((request, fault) for request in ("info", "preupload", "commit") for fault in (0, 401, 403, 500)),
    ],
)
def test_a_fault_leaves_the_old_repository(hub, folder, request_, fault):
    before = publish(f"local-dir:{folder}", REPOSITORY).source
    encoder = load_pretrained(before)
    with torch.no_grad():
        encoder.projection.bias += 1
    save_pretrained(encoder, folder.parent / "changed", tag="toy", overwrite=True)
    hub.faults[hub.path(request_)] = fault
    with pytest.raises(HubError, match=r"^hf-hub:owner/repo: .*(cannot be reached|answers with status)"):
        publish(f"local-dir:{folder.parent / 'changed'}", REPOSITORY)
    assert load_pretrained(f"hf-hub:{REPOSITORY}@{hub.head}").entry.source == before
    hub.faults.clear()
    after = publish(f"local-dir:{folder.parent / 'changed'}", REPOSITORY)
    assert after.changed
    assert torch.equal(load_pretrained(after.source).projection.bias, encoder.projection.bias)


def test_what_arrives_damaged_is_said(hub, folder):
    hub.damage = True
    with pytest.raises(BadInput, match="sha256"):
        publish(f"local-dir:{folder}", REPOSITORY)


def test_other_peoples_repositories_are_left_alone(hub, folder):
    hub.commits = {"0" * 40: {"pytorch_model.bin": b"x"}}
    with pytest.raises(BadInput, match=r"holds pytorch_model\.bin, which is no part of an encoder"):
        publish(f"local-dir:{folder}", REPOSITORY)
    assert len(hub.commits) == 1


@pytest.mark.parametrize("name", ["repo with blanks", "owner/repo/more", "owner/.."])
def test_names_that_are_none(hub, folder, name):
    with pytest.raises((BadInput, HubError)):
        publish(f"local-dir:{folder}", name)
    assert hub.commits is None


def test_the_verb(hub, folder, run):
    done = run("publish", folder, "--to", REPOSITORY, "--dry-run")
    assert done.code == 0
    assert "model.safetensors" in done.out
    assert "# test_siamese_cnn-sixd_svd.toy" in done.out
    assert hub.commits is None
    assert run("publish", folder, "--to", REPOSITORY).out == f"hf-hub:{REPOSITORY}@{hub.head}\n"
    assert "has it already" in run("publish", folder, "--to", REPOSITORY).out


def test_an_encoder_in_memory(hub, folder):
    encoder = load_pretrained(f"local-dir:{folder}")
    source = push_to_hub(encoder, REPOSITORY, tag="toy", metrics={"median_deg": 3.0})
    found = load_pretrained(source)
    assert found.entry.median_deg == 3.0
    assert torch.equal(found.frame_map.data, encoder.frame_map.data)


def test_what_ships_is_published_and_pinned(hub, folder, tmp_path, monkeypatch):
    for module in ("embed", "entries"):
        monkeypatch.setattr(f"cryozoo.zoo.{module}.WEIGHTS", tmp_path / "weights")
    (tmp_path / "weights").mkdir()
    name = embed(folder, "toy")
    hub.repository = "owner/cryozoo-toy"
    result = CliRunner().invoke(main, ["owner"], catch_exceptions=False)
    pinned = f"hf-hub:owner/cryozoo-toy@{hub.head}"
    assert result.output == f"{name}: {pinned}\n"
    entry = get_entry(name)
    assert (entry.source, entry.more) == ("embedded", {"published": pinned})
    assert load_pretrained(pinned).entry.full_name == name
    assert "has it already" in CliRunner().invoke(main, ["owner"]).output  # the pin itself is not published
