"""Saved encoders that must not load: rows WTS (97 to 106) of the catalogue of bad inputs, the row first in each id.

Every refusal is one line that names the file and the field, takes less than 5 s and little memory. Where the manifest
agrees with a bad file ("restated"), somebody made it on purpose: sha256 does not help there.
"""

import hashlib
import json
import os
import resource
import shutil
import struct
import sys
import time
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
from hypothesis import strategies as st

from cryozoo.particles.errors import BadInput
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.pretrained import load_pretrained, save_pretrained

MODEL, GOLDEN, CONFIG = "model.safetensors", "golden.safetensors", "config.json"
NAME = "test_vgg_gem-qcqp_bingham"  # with weights of two types: float32, and the counters of batch normalisations


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("original") / "encoder"
    torch.manual_seed(0)
    save_pretrained(create_encoder(NAME, image_size=24), folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "encoder"))


def load(folder):
    return load_pretrained(f"local-dir:{folder}")


def change_config(folder, change):
    config = json.loads((folder / CONFIG).read_text())
    change(config)
    (folder / CONFIG).write_text(json.dumps(config))


def replace(folder, data, name=MODEL):
    """Replace a file and restate it in the manifest."""
    (folder / name).write_bytes(data)
    stated = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    change_config(folder, lambda config: config["files"].update({name: stated}))


def tensors_of(folder, name=MODEL):
    return safetensors.torch.load((folder / name).read_bytes())


def refusal(folder, *words):
    """The message with which loading is refused: one line, with ``words``, in good time and without much memory."""
    peak, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(BadInput) as caught:
        load(folder)
    assert time.process_time() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 500_000  # kilobytes
    message = str(caught.value)
    for word in (str(folder), *words):
        assert word in message
    assert len(message) < 1000
    assert message.isprintable()
    return caught.value


def refused_or_same(folder, original):
    """Loading refuses one of the files by name, or gives the original weights."""
    try:
        found = load(folder).state_dict()
    except BadInput as error:
        refused = error.source
    else:
        refused = str(folder / MODEL)
        torch.testing.assert_close(dict(found), tensors_of(original), rtol=0, atol=0)
    assert refused in [str(folder / name) for name in (MODEL, GOLDEN, CONFIG)]


def test_the_original_loads(folder):
    assert load(folder).name == NAME


# 97 and 98: the file format. A case maps header (a mapping) and data to the bytes of a file.


def parts(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def changed(header, data, **fields):
    """The file with fields of its first tensor changed."""
    first = next(name for name in header if name != "__metadata__")
    return join({**header, first: {**header[first], **fields}}, data)


def moved(header, data, begin, end):
    """The file with the span of the tensor that comes second in the data moved by so many bytes."""
    second = sorted(header, key=lambda name: header[name]["data_offsets"])[1]
    old = header[second]["data_offsets"]
    return join({**header, second: {**header[second], "data_offsets": [old[0] + begin, old[1] + end]}}, data)


REJECTED = {
    "97-empty": (lambda h, d: b"", "0 bytes"),
    "97-under-8-bytes": (lambda h, d: b"\0" * 7, "7 bytes"),
    "97-header-beyond-the-end": (lambda h, d: join(h, d)[:200], "claims a header of"),
    "97-header-over-100-MB": (lambda h, d: struct.pack("<Q", 200_000_000) + b"{}" + d, "claims a header of 200000000"),
    "97-header-of-2^63": (lambda h, d: struct.pack("<Q", 2**63) + b"{}" + d, "claims a header of 9223372036854775808"),
    "97-not-json": (lambda h, d: join(b"{'a': 1}", d), "not valid JSON"),
    "97-not-utf8": (lambda h, d: join(b'{"\xff": 1}', d), "not valid JSON"),
    "97-truncated": (lambda h, d: join(h, d[:-1]), "not readable"),
    "97-trailing-bytes": (lambda h, d: join(h, d + b"\0"), "not readable"),
    "97-hole": (lambda h, d: moved(h, d + b"\0" * 4, 4, 4), "not readable"),
    "97-overlap": (lambda h, d: moved(h, d, -4, -4), "not readable"),
    "97-reversed-offsets": (lambda h, d: changed(h, d, data_offsets=[8, 0]), "not readable"),
    "97-shape-against-size": (lambda h, d: changed(h, d, shape=[3]), "not readable"),
    "97-shape-overflows": (lambda h, d: changed(h, d, shape=[2**62, 4]), "not readable"),
    "97-negative-shape": (lambda h, d: changed(h, d, shape=[-8]), "not readable"),
    "97-unknown-dtype": (lambda h, d: changed(h, d, dtype="F33"), "F33"),
    "97-metadata-not-text": (lambda h, d: join({"__metadata__": {"a": 1}, **h}, d), "not readable"),
}
ACCEPTED_ELSEWHERE = {
    "98-key-twice": (
        lambda h, d: join(json.dumps(h).encode()[:-1] + b"," + json.dumps(h).encode()[1:], d),
        "comes twice",
    ),
    "98-space-first": (lambda h, d: join(b" " + json.dumps(h).encode(), d), "padded"),
    "98-padded": (lambda h, d: join(json.dumps(h).encode() + b" " * 1000, d), "padded"),
    "98-padded-by-90-MB": (lambda h, d: join(json.dumps(h).encode() + b" " * 90_000_000, d), "claims a header of"),
}


@pytest.mark.parametrize(("make", "words"), [pytest.param(*case, id=name) for name, case in REJECTED.items()])
def test_bad_file_format(folder, make, words):
    data = make(*parts((folder / MODEL).read_bytes()))
    with pytest.raises(safetensors.SafetensorError):  # the referee agrees
        safetensors.torch.load(data)
    replace(folder, data)
    refusal(folder, MODEL, words)


@pytest.mark.parametrize(("make", "words"), [pytest.param(*case, id=name) for name, case in ACCEPTED_ELSEWHERE.items()])
def test_file_format_that_safetensors_lets_pass(folder, make, words):
    data = make(*parts((folder / MODEL).read_bytes()))
    safetensors.torch.load(data)
    replace(folder, data)
    refusal(folder, MODEL, words)


@pytest.mark.parametrize(
    ("dtype", "shape", "size"),
    [("F32", [0, 2**63], 0), ("F4", [2], 1), ("F32", [1] * 1000, 4), ("F32", [1] * 100_000, 4)],
)
def test_97_tensors_that_torch_cannot_hold(folder, dtype, shape, size):
    """The format allows them."""
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, size]}}
    replace(folder, join(header, bytes(size)))
    refusal(folder, MODEL)


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=60, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_97_any_byte_of_a_header(folder, original, name, data):
    """Whatever one byte of a header becomes, the encoder is refused or is the same."""
    content = bytearray((original / name).read_bytes())
    (length,) = struct.unpack("<Q", content[:8])
    content[data.draw(st.integers(0, 7 + length))] = data.draw(st.integers(0, 255))
    replace(folder, bytes(content), name)
    refused_or_same(folder, original)


# 99, 100, 102: files in order whose tensors are not the encoder's.


def without(tensors):
    del tensors["projection.bias"]


def with_another(tensors):
    tensors["../../x\n\x1b[31m"] = torch.zeros(1)


def transposed(tensors):
    tensors["projection.weight"] = tensors["projection.weight"].T.contiguous()


def counter_as_float(tensors):
    name = next(name for name in tensors if name.endswith("num_batches_tracked"))
    tensors[name] = tensors[name].float()


def weight_as_integer(tensors):
    tensors["projection.bias"] = tensors["projection.bias"].long()


def narrower(tensors):
    tensors["projection.weight"] = tensors["projection.weight"][:, :-1].contiguous()


TENSORS = {
    "99-missing-key": (without, ["lacks 'projection.bias'"]),
    "99-extra-key": (with_another, ["has '../../x"]),
    "100-shape": (transposed, ["'projection.weight'", "float32 [32, 10]", "float32 [10, 32]"]),
    "100-smaller": (narrower, ["'projection.weight'", "float32 [10, 31]", "float32 [10, 32]"]),
    "100-type-of-a-counter": (counter_as_float, ["num_batches_tracked", "float32 []", "int64 []"]),
    "100-type-of-a-weight": (weight_as_integer, ["projection.bias", "int64 [10]", "float32 [10]"]),
    "102-nan": (lambda tensors: tensors["projection.bias"].fill_(float("nan")), ["'projection.bias'", "NaN"]),
    "102-inf": (
        lambda tensors: tensors["projection.weight"][3, 3].fill_(float("-inf")),
        ["'projection.weight'", "NaN"],
    ),
}


@pytest.mark.parametrize(("change", "words"), [pytest.param(*case, id=name) for name, case in TENSORS.items()])
def test_other_tensors(folder, change, words):
    tensors = tensors_of(folder)
    change(tensors)
    replace(folder, safetensors.torch.save(tensors))
    refusal(folder, *words)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64, torch.uint8])
def test_100_types_that_are_not_saved(folder, dtype):
    replace(folder, safetensors.torch.save({name: tensor.to(dtype) for name, tensor in tensors_of(folder).items()}))
    refusal(folder, MODEL, "dtype", "F32")


# 101, 105, 106: the configuration. A case is a function that changes it.


def set_to(*path_and_value):
    *path, last, value = path_and_value

    def change(config):
        for key in path:
            config = config[key]
        config[last] = value

    return change


HUGE = {
    "101-width-by-schema": (set_to("backbone_args", "width", 100_000), ["backbone_args.width", "65536"]),
    "101-width-by-parameters": (set_to("backbone_args", "width", 2000), ["asks for", "backbone_args"]),
    "101-width-a-little": (set_to("backbone_args", "width", 2), ["field parameters"]),
    "101-channels": (set_to("backbone_args", "channels", [65536] * 3), ["backbone_args"]),
    "101-one-layer-of-38-GB": (
        set_to("backbone_args", {"channels": [40_000] * 3, "kernels": [199, 3, 3]}),
        ["backbone_args"],
    ),
    "101-depth": (set_to("backbone_args", "depths", [1, 1, 65536]), ["asks for", "backbone_args"]),
    "101-list": (set_to("backbone_args", "channels", [1] * 65), ["backbone_args.channels", "64"]),
    "101-nested-list": (set_to("backbone_args", "channels", [[8], [8], [8]]), ["backbone_args.channels"]),
    "101-image-size": (set_to("image_size", 10**9), ["field image_size", "4,096"]),
    "101-image-size-golden": (set_to("image_size", 4000), [GOLDEN]),
    "101-channels-of-the-image": (set_to("in_chans", 10**6), ["field in_chans"]),
    "101-parameters": (set_to("parameters", 10**12), ["field parameters"]),
    "101-parameters-and-width": (
        lambda c: c.update(parameters=10**9, backbone_args={"width": 1000}),
        ["field parameters", "at most"],
    ),
    "101-basis-of-filters": (
        lambda c: c.update(name="test_d4_cnn-sixd_svd", backbone_args={"kernels": [255, 3, 3]}),
        ["kernels of 255 pixels"],
    ),
    "101-basis-of-a-group": (
        lambda c: c.update(name="test_d4_cnn-sixd_svd", backbone_args={"group": "D64", "kernels": [9, 9, 9]}),
        ["128 elements of D64"],
    ),
    "101-tables-of-a-degree": (
        lambda c: c.update(name="test_vgg_gem-so3_harmonic", head_args={"lmax": 60}),
        ["lmax 60", "at most 16"],
    ),
    "101-tables-of-a-grid": (
        lambda c: c.update(name="test_vgg_gem-so3_harmonic", head_args={"lmax": 2, "order": 8}),
        ["order 8", "5"],
    ),
    "101-integer-of-4000-digits": (set_to("backbone_args", "width", 10**4000), ["backbone_args.width"]),
    "101-golden-size": (set_to("files", GOLDEN, "size", 10**12), [GOLDEN, "10000000000"]),
    "101-model-size": (set_to("files", MODEL, "size", 10**12), [MODEL, "1000000000000 bytes"]),
}
CONTENT = {
    "105-unknown-backbone": (set_to("name", "test_vgg_gen-qcqp_bingham"), ["field name", "test_vgg_gem"]),
    "105-unknown-head": (set_to("name", "test_vgg_gem-qcqp"), ["field name", "qcqp_bingham"]),
    "105-no-name": (set_to("name", "../../etc/passwd"), ["field name"]),
    "105-name-a-number": (set_to("name", 3), ["field name"]),
    "105-name-with-tag": (set_to("name", f"{NAME}.toy"), ["field name", "tag"]),
    "105-newer-format": (set_to("format", "cryozoo-encoder-3"), ["'cryozoo-encoder-3'", "newer", "cryozoo-encoder-2"]),
    "105-another-format": (set_to("format", "timm"), ["field format", "cryozoo-encoder-2"]),
    "105-format-a-list": (set_to("format", []), ["field format"]),
    "105-unknown-argument": (set_to("backbone_args", "colour", 3), ["backbone_args", "colour"]),
    "105-argument-twice": (set_to("backbone_args", "in_chans", 1), ["backbone_args", "in_chans"]),
    "105-argument-out-of-range": (set_to("backbone_args", "gem_p", -3.0), ["backbone_args", "exponent"]),
    "105-argument-of-another-type": (set_to("backbone_args", "channels", "wide"), ["backbone_args"]),
    "105-argument-not-a-name": (set_to("backbone_args", "a b\n", 1), ["backbone_args"]),
    "105-kernels-too-large": (set_to("backbone_args", "kernels", [-1, 3, 3]), ["backbone_args"]),
    "105-image-size-a-float": (set_to("image_size", 24.0), ["field image_size"]),
    "105-image-size-true": (set_to("image_size", True), ["field image_size"]),
    "105-image-size-too-small": (set_to("image_size", 12), ["24 pixels"]),
    "105-pixel-size-zero": (set_to("pixel_size", 0), ["field pixel_size"]),
    "105-pixel-size-text": (set_to("pixel_size", "1"), ["field pixel_size"]),
    "105-parameters-zero": (set_to("parameters", 0), ["field parameters"]),
    "105-files-a-list": (set_to("files", []), ["field files"]),
    "105-no-golden": (lambda c: c["files"].pop(GOLDEN), [GOLDEN, "missing"]),
    "105-sha256": (set_to("files", MODEL, "sha256", "0" * 63), [MODEL, "sha256"]),
    "105-size-negative": (set_to("files", MODEL, "size", -1), [MODEL, "size"]),
    "105-tag": (set_to("tag", "../x"), ["field tag"]),
    "105-molecule": (set_to("molecule", {"name": "x"}), ["field molecule.source", "missing"]),
    "105-molecule-a-text": (set_to("molecule", "x"), ["field molecule", "name and source and symmetry"]),
    "105-shift": (set_to("shift", 1), ["field shift", "true or false"]),
    "105-shift-in-the-head": (set_to("head_args", "shift", True), ["field head_args.shift", "the field shift"]),
    "105-shift-in-the-head-of-format-1": (
        lambda c: (c.update(format="cryozoo-encoder-1"), set_to("head_args", "shift", 1)(c)),
        ["field shift", "true or false"],
    ),
    "105-metrics-a-list": (set_to("metrics", []), ["field metrics"]),
    "105-parts-a-list": (set_to("parts", []), ["field parts"]),
    "105-parts-a-text": (set_to("parts", {"head": "x"}), ["field parts.head"]),
    "105-parts-an-option": (set_to("parts", {"head": {"distribution": "--index-url"}}), ["parts.head.distribution"]),
    "105-parts-a-command": (set_to("parts", {"head": {"version": "1; rm x"}}), ["parts.head.version"]),
    "105-molecule-a-number": (set_to("molecule", {"name": 1, "source": "x", "symmetry": "C1"}), ["molecule.name"]),
    **{
        f"105-no-{field}": ((lambda config, field=field: config.pop(field)), [f"field {field}", "missing"])
        for field in (
            "format",
            "name",
            "image_size",
            "in_chans",
            "pixel_size",
            "parameters",
            "backbone_args",
            "shift",
            "files",
        )
    },
    "106-auto-map": (set_to("auto_map", {"AutoModel": "evil.Model"}), ["auto_map", "code"]),
    "106-target": (set_to("backbone_args", "stem", {"_target_": "evil.run"}), ["_target_", "code"]),
    "106-nested": (set_to("metrics", [[{"trust_remote_code": True}]]), ["trust_remote_code", "code"]),
    "106-module-and-attribute": (set_to("head_args", "confidence", "evil:run"), ["head_args.confidence", "'evil:run'"]),
    "106-path": (set_to("backbone_args", "stem", "/etc/passwd"), ["backbone_args.stem"]),
    "106-address": (set_to("backbone_args", "stem", "https://example.org/x"), ["backbone_args.stem"]),
    "106-name-of-a-module": (set_to("name", "evil:run-qcqp_bingham"), ["field name"]),
}


@pytest.mark.parametrize(
    ("change", "words"), [pytest.param(*case, id=name) for name, case in {**HUGE, **CONTENT}.items()]
)
def test_bad_config(folder, monkeypatch, change, words):
    (folder / "evil.py").write_text("open('canary', 'w').close()\ndef run(*a, **k): pass\nModel = run\n")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    change_config(folder, change)
    refusal(folder, *words)
    assert "evil" not in sys.modules
    assert not (folder / "canary").exists()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b"", id="105-empty"),
        pytest.param(b"{", id="105-cut"),
        pytest.param(b"[]", id="105-list"),
        pytest.param(b"null", id="105-null"),
        pytest.param(b'{"format": 1, "format": 2}', id="105-key-twice"),
        pytest.param(b'{"format": NaN}', id="105-nan"),
        pytest.param('{"format": 1}'.encode("utf-16"), id="105-utf16"),
        pytest.param(b"\xef\xbb\xbf{}", id="105-byte-order-mark"),
        pytest.param(b'{"a":' * 100_000, id="105-deep"),
        pytest.param(b'{"a": ' + b"9" * 5000 + b"}", id="105-long-number"),
        pytest.param(b" " * 3_000_000 + b"{}", id="105-over-1-MB"),
        pytest.param(bytes(range(256)), id="105-binary"),
    ],
)
def test_bad_json(folder, text):
    (folder / CONFIG).write_bytes(text)
    refusal(folder, CONFIG)


def test_105_deep_but_valid_json_is_read_without_recursion(folder):
    """As deep as the parser goes, and the check for code at the bottom still works."""
    depth = 900
    text = (folder / CONFIG).read_text()
    deep = '{"x":' * depth + '{"auto_map": 1}' + "}" * depth
    (folder / CONFIG).write_text(text[: text.rindex("}")] + f', "notes": {deep}}}')
    refusal(folder, CONFIG)


@pytest.mark.filterwarnings("ignore:.*, field parts:cryozoo.particles.errors.BadInputWarning")
@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=100, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
def test_105_any_byte_of_the_config(folder, original, data):
    """Whatever one byte of the configuration becomes, it is refused or builds the same outputs."""
    content = bytearray((original / CONFIG).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / CONFIG).write_bytes(content)
    refused_or_same(folder, original)


# 103 and 104: damage, and other people's files.


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
@pytest.mark.parametrize("where", [0, 100, -1])
def test_103_bit_flip(folder, name, where):
    data = bytearray((folder / name).read_bytes())
    data[where] ^= 1
    (folder / name).write_bytes(data)
    refusal(folder, name, "sha256", "get it again")


@pytest.mark.parametrize("name", [MODEL, GOLDEN])
def test_103_cut_or_grown(folder, name):
    data = (folder / name).read_bytes()
    for damaged in (data[:-1], data + b"\0", b""):
        (folder / name).write_bytes(damaged)
        refusal(folder, name, f"{len(damaged)} bytes", f"{len(data)} bytes")


@pytest.mark.parametrize("config", [True, False])
def test_104_pickles(folder, config):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(folder / "canary"),)

    (folder / MODEL).unlink()
    torch.save(Evil(), folder / "pytorch_model.bin")
    if not config:
        (folder / CONFIG).unlink()
    refusal(folder, MODEL if config else CONFIG, "pytorch_model.bin", "safetensors only")
    assert not (folder / "canary").exists()


def test_104_pickle_named_safetensors(folder):
    torch.save(dict(tensors_of(folder)), folder / MODEL)
    replace(folder, (folder / MODEL).read_bytes())
    refusal(folder, MODEL, "zip archive")


@pytest.mark.parametrize("name", [CONFIG, MODEL, GOLDEN])
def test_not_a_file(folder, name):
    (folder / name).unlink()
    refusal(folder, name)
    os.mkfifo(folder / name)
    refusal(folder, name, "named pipe")  # without waiting for somebody who writes into it
    (folder / name).unlink()
    (folder / name).mkdir()
    refusal(folder, name, "folder")


def test_not_a_folder(tmp_path):
    refusal(tmp_path / "nothing", "not a folder")
    (tmp_path / "file").touch()
    refusal(tmp_path / "file", "not a folder")


# The golden outputs: hostile ones; test_pretrained.py tests what they are for.


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(lambda t: t.pop("raw"), ["raw"], id="no-raw"),
        pytest.param(lambda t: t.pop("images"), ["images"], id="no-images"),
        pytest.param(lambda t: t.update(more=torch.zeros(1)), ["more"], id="more"),
        pytest.param(lambda t: t.update({k: v[:0] for k, v in t.items()}), ["float32 [0"], id="no-image"),
        pytest.param(lambda t: t.update(raw=t["raw"][:2]), ["float32 [2, 10]"], id="fewer"),
        pytest.param(lambda t: t.update(images=torch.zeros(4, 1, 12, 12)), ["[4, 1, 12, 12]"], id="box"),
        pytest.param(lambda t: t.update(images=torch.zeros(())), ["float32 []"], id="scalar"),
        pytest.param(lambda t: t["raw"].fill_(float("nan")), ["NaN", "'raw'"], id="nan"),
        pytest.param(lambda t: t["rotation"].neg_(), ["'rotation'", "does not repeat"], id="rotation"),
        pytest.param(lambda t: t["raw"].zero_(), ["'raw'", "does not repeat"], id="zero"),
        pytest.param(lambda t: t["images"].fill_(3e38), ["'raw'", "does not repeat"], id="overflow"),
    ],
)
def test_bad_golden(folder, change, words):
    tensors = tensors_of(folder, GOLDEN)
    change(tensors)
    replace(folder, safetensors.torch.save(tensors), GOLDEN)
    refusal(folder, GOLDEN, *words)


def test_golden_of_too_many_images(folder):
    many = {
        name: tensor[:1].repeat(600, *[1] * (tensor.ndim - 1)) for name, tensor in tensors_of(folder, GOLDEN).items()
    }
    replace(folder, safetensors.torch.save(many), GOLDEN)
    assert np.prod(many["images"].shape) * 4 > 2**20
    refusal(folder, GOLDEN, "at most")


@pytest.fixture
def equivariant(tmp_path):
    folder = tmp_path / "equivariant"
    torch.manual_seed(0)
    save_pretrained(create_encoder("test_d4_cnn-sixd_svd", image_size=24), folder)
    return folder


def test_weights_of_another_group(equivariant):
    def to_c4(config):
        config["name"] = "test_c4_cnn-sixd_svd"
        config["backbone_args"] = {"fields": [1, 2, 4], "connected": [4]}

    change_config(equivariant, to_c4)
    refusal(equivariant, "parameters: 2204", "expected 1204")
    change_config(equivariant, lambda config: config.update(parameters=1204))
    refusal(equivariant, "backbone.blocks.4.weight", "[2, 1, 72]", "[2, 1, 36]")


def test_weights_with_expanded_filters(equivariant):
    """What other libraries add to their keys in evaluation mode."""
    tensors = tensors_of(equivariant)
    tensors["backbone.blocks.0.filter"] = torch.zeros(8, 1, 5, 5)
    replace(equivariant, safetensors.torch.save(tensors))
    refusal(equivariant, "backbone.blocks.0.filter")


def test_the_equivariant_original_loads(equivariant):
    assert load(equivariant).group == "D4"
