"""Exported encoders run without cryozoo and give what the encoder gives: every backbone and head, in both formats."""

import copy
import itertools
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from encoder_fixtures import make_entry
from torch import Tensor

from cryozoo.heads.base import Head
from cryozoo.models.stems import LowPassStem
from cryozoo.particles.errors import BadInput
from cryozoo.zoo import _onnx_operators as operators
from cryozoo.zoo.encoder import PoseEncoder, create_encoder
from cryozoo.zoo.entry import Molecule
from cryozoo.zoo.export import ExportError, _without_fourier, export
from cryozoo.zoo.registry import list_parts

# Even, so that equivariant backbones extend it, and halved to odd maps, which are padded.
SIZE = 26
FORMATS = ("pt2", "onnx")
SMALL = {"embedding": {"dim": 8}, "so3_harmonic": {"lmax": 2, "order": 1}}
# What others do in another size: test_d4_cnn, sixd_svd.
ALIKE = {"test_c4_cnn", "nined_svd"}
# Their unrolled iterations are graphs of a thousand nodes, which take ten seconds to trace or to translate.
LONG = {"pt2": {"so3_harmonic"}, "onnx": {"so3_harmonic", "sixd_svd"}}
# Backbones that have no small variant for tests.
OTHERS = {
    "vgg_gem-quaternion": {"width": 0.05, "stem": "gaussian"},
    "c4_vgg_gem-sixd_gs": {"width": 0.05},
    "d4_vgg_gem-sixd_gs": {"width": 0.05},
    "c8_cnn-sixd_gs": {"width": 0.1},
    "d8_cnn-sixd_gs": {"width": 0.1},
}


def combinations():
    """Every backbone with every head, in both formats; quick are those in which one of the two is new."""
    found = []
    for kind in FORMATS:
        backbones, heads = list_parts("backbone", "test_*"), list_parts("head")
        short = [head for head in heads if head not in ALIKE | LONG[kind]]
        different = [backbone for backbone in backbones if backbone not in ALIKE]
        count = max(len(different), len(short))
        quick = set(itertools.islice(zip(itertools.cycle(different), itertools.cycle(short), strict=False), count))
        for pair in itertools.product(backbones, heads):
            found.append(pytest.param("-".join(pair), kind, marks=() if pair in quick else pytest.mark.slow))
    return found


def make(name: str, size: int = SIZE, **backbone_args: object) -> PoseEncoder:
    """An encoder with random weights that has seen images, in evaluation mode."""
    torch.manual_seed(0)
    head_args = SMALL.get(name.split("-")[1], {})
    encoder = create_encoder(
        name, image_size=size, pixel_size=3.0, backbone_args=backbone_args, head_args=head_args, shift=True
    )
    with torch.no_grad():
        encoder.train()(torch.randn(16, 1, size, size))
    return encoder.eval()


def load(path: Path):
    """What a program that has the file alone can do: images in, named arrays out."""
    if path.suffix == ".pt2":
        return torch.export.load(path).module()
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda images: {
        name: torch.from_numpy(value)
        for name, value in zip(names, session.run(None, {"images": images.numpy()}), strict=True)
    }


def facts_of(path: Path) -> dict:
    if path.suffix == ".pt2":
        files = {"cryozoo.json": ""}
        torch.export.load(path, extra_files=files)
        return json.loads(files["cryozoo.json"])
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return json.loads(session.get_modelmeta().custom_metadata_map["cryozoo"])


def check(encoder: PoseEncoder, path: Path) -> None:
    """Export, run batches of several sizes, compare with the encoder."""
    layers = [type(module) for module in encoder.modules()]
    export(encoder, path)
    assert [type(module) for module in encoder.modules()] == layers
    run, double = load(path), copy.deepcopy(encoder).double()
    for n in (1, 7):
        images = torch.randn(n, 1, *2 * (encoder.preprocessing.image_size,), generator=torch.Generator().manual_seed(n))
        found = run(images)
        with torch.no_grad():
            raw, exact = encoder.raw(images), double.raw(images.double())
            exported = torch.cat([found["raw"], found["shift"] / encoder.shift_scale], 1)
            # All entries are sums over the same features: they round alike, whatever their own size. In an equivariant
            # network that has learnt nothing most of each sum cancels, and the encoder itself is less exact.
            rounding = (raw - exact).abs().max()
            assert (exported - exact).abs().max() <= max(1e-5 * exact.abs().max(), 4 * rounding)
            # From the same raw vector: of a short one, or one with close eigenvalues, the rotation is less exact.
            expected = encoder.head(found["raw"])._replace(shift=found["shift"])._asdict()
            exact_pose = double.head(found["raw"].double())._replace(shift=found["shift"].double())._asdict()
        assert list(found) == [name for name, value in expected.items() if value is not None]
        for name, value in found.items():
            rounding = (expected[name] - exact_pose[name]).abs().max()
            largest = exact_pose[name].abs().max()
            assert (value - exact_pose[name]).abs().max() <= max(1e-5 * (1 + largest), 4 * rounding), name


@pytest.mark.parametrize(("name", "kind"), combinations())
def test_gives_what_the_encoder_gives(tmp_path, name, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    check(make(name), tmp_path / f"encoder.{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [24, 25])
@pytest.mark.parametrize("name", sorted(OTHERS))
def test_the_other_backbones(tmp_path, name, size, kind):
    check(make(name, size, **OTHERS[name]), tmp_path / f"encoder.{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("confidence", ["entropy", "probability"])
def test_confidences_that_sum_over_all_rotations(tmp_path, confidence, kind):
    args = {**SMALL["so3_harmonic"], "confidence": confidence}
    check(make("test_d4_cnn-so3_harmonic").with_head("so3_harmonic", **args), tmp_path / f"encoder.{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
def test_a_network_of_timm(tmp_path, kind):
    pytest.importorskip("timm")
    check(make("timm_resnet18-sixd_gs", 32), tmp_path / f"encoder.{kind}")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["test_d4_cnn-qcqp_bingham", "test_vgg_gem-sixd_svd"])
def test_compiles_as_one_graph(tmp_path, name):
    encoder = make(name)
    export(encoder, tmp_path / "encoder.pt2")
    compiled = torch.compile(load(tmp_path / "encoder.pt2"), fullgraph=True)
    images = torch.randn(3, 1, SIZE, SIZE)
    with torch.no_grad():
        expected = encoder(images)
        found = compiled(images)
    torch.testing.assert_close(found["raw"], expected.raw, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found["rotation"], expected.rotation, atol=1e-4, rtol=0)


@pytest.fixture(scope="module", params=FORMATS)
def exported(request, tmp_path_factory):
    """The encoder, its file, and what export returned."""
    if request.param == "onnx":
        pytest.importorskip("onnxruntime")
    encoder = make("test_siamese_cnn-sixd_gs").train()
    molecule = Molecule("ribosome", "EMD-1", "C1")
    encoder.entry = make_entry(name=encoder.name, tag="toy", molecule=molecule)
    path = tmp_path_factory.mktemp("export") / f"encoder.{request.param}"
    return encoder, path, export(encoder, path)


class TestFile:
    def test_states_what_goes_in_and_comes_out(self, exported):
        encoder, path, returned = exported
        facts = facts_of(path)
        assert facts == returned
        assert facts["encoder"] == "test_siamese_cnn-sixd_gs"
        assert facts["tag"] == "toy"
        assert facts["molecule"]["name"] == "ribosome"
        assert facts["inputs"] == {"images": ["batch", 1, SIZE, SIZE]}
        assert facts["outputs"] == {"rotation": ["batch", 3, 3], "shift": ["batch", 2], "raw": ["batch", 6]}
        assert facts["meaning"].keys() == facts["outputs"].keys()
        assert facts["preprocessing"].items() >= encoder.preprocessing.to_dict().items()

    def test_names_no_path_of_this_machine(self, exported):
        _, path, _ = exported
        content = path.read_bytes()
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                content = b"".join(archive.read(name) for name in archive.namelist())
        folders = {str(Path(torch.__file__).parents[1]), str(Path(__file__).parents[2]), str(Path.home())}
        assert [folder for folder in folders if len(folder) > 1 and folder.encode() in content] == []

    def test_leaves_the_encoder_as_it_was(self, exported):
        encoder, _, _ = exported
        assert encoder.training
        assert all(p.requires_grad for p in encoder.parameters())

    def test_an_image_that_is_not_finite_spoils_its_own_pose_only(self, exported):
        _, path, _ = exported
        images = torch.randn(3, 1, SIZE, SIZE)
        images[1, 0, 4, 4] = torch.nan
        rotation = load(path)(images)["rotation"]
        assert rotation[1].isnan().all()
        assert rotation[::2].isfinite().all()


class TestRefusals:
    @pytest.fixture
    def encoder(self):
        return make("test_siamese_cnn-quaternion")

    def test_a_file_that_exists(self, encoder, tmp_path):
        path = tmp_path / "encoder.pt2"
        path.write_text("old")
        with pytest.raises(BadInput, match="exists already"):
            export(encoder, path)
        assert path.read_text() == "old"
        export(encoder, path, overwrite=True)
        assert zipfile.is_zipfile(path)

    def test_a_name_that_says_no_format(self, encoder, tmp_path):
        with pytest.raises(BadInput, match=r"the suffix '\.pth'.*\.pt2 or \.onnx"):
            export(encoder, tmp_path / "encoder.pth")
        with pytest.raises(ValueError, match="format 'tflite', expected pt2 or onnx"):
            export(encoder, tmp_path / "encoder.pt2", format="tflite")
        export(encoder, tmp_path / "encoder.bin", format="pt2")
        assert zipfile.is_zipfile(tmp_path / "encoder.bin")

    @pytest.mark.parametrize(
        ("kind", "rotation", "reason"),
        [
            ("pt2", lambda raw: raw if raw.sum() > 0 else -raw, "data-dependent"),
            ("onnx", lambda raw: torch.linalg.eigh(raw[:, :, None] * raw[:, None]).eigenvalues, "4 x 4 .* not 6"),
            ("onnx", lambda raw: torch.special.bessel_j0(raw), "bessel_j0"),
        ],
    )
    def test_a_head_that_has_no_counterpart(self, tmp_path, kind, rotation, reason):
        """The control: what cannot be exported is not exported."""
        pytest.importorskip("onnxscript")

        class Stubborn(Head):
            raw_dim = 6

            def rotation(self, raw):
                return rotation(raw)[:, :3, None].expand(-1, 3, 3), None

        encoder = make("test_siamese_cnn-sixd_gs")
        encoder.head = Stubborn()
        with pytest.raises(ExportError, match=f"(?s){encoder.name} cannot be exported to {kind}: .*{reason}"):
            export(encoder, tmp_path / f"encoder.{kind}")
        assert list(tmp_path.iterdir()) == []

    def test_onnx_without_onnxscript_says_what_to_install(self, encoder, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxscript", None)
        with pytest.raises(ImportError, match=r"pip install 'cryozoo\[export\]'"):
            export(encoder, tmp_path / "encoder.onnx")
        export(encoder, tmp_path / "encoder.pt2")


def assert_eigenvectors(matrix: Tensor) -> None:
    """Those of ``jacobi_eigh``, against LAPACK in double precision."""
    values, vectors = operators.jacobi_eigh(matrix)
    scale = matrix.abs().amax((-2, -1), keepdim=True).clamp_min(1e-38)
    expected = np.linalg.eigvalsh((matrix / scale).double().numpy())
    np.testing.assert_allclose((values / scale[..., 0]).numpy(), expected, atol=4e-6)
    eye = torch.eye(matrix.shape[-1]).expand_as(vectors)
    torch.testing.assert_close(vectors.mT @ vectors, eye, atol=4e-6, rtol=0)
    residual = matrix / scale @ vectors - vectors * (values / scale[..., 0])[..., None, :]
    assert residual.abs().max() < 5e-6


class TestOperators:
    def test_eigenvectors_against_lapack(self):
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(20_000, 4, 4, generator=generator)
        basis = torch.linalg.qr(random[:1000]).Q
        spectra = torch.tensor([[0, 1, 1, 1], [0, 0, 1, 1], [0, 0, 0, 1], [-1, -1 + 1e-4, 1, 1], [1e-9, 1e-6, 1e-3, 1]])
        small_whole = torch.randint(-2, 3, (5000, 4, 4), generator=generator).float()
        for matrix in (
            random + random.mT,
            (random + random.mT) * 1e-30,
            (random + random.mT) * 1e30,
            basis @ spectra[:, None].diag_embed() @ basis.mT,
            small_whole + small_whole.mT,
            torch.zeros(1, 4, 4),
            torch.eye(4)[None],
        ):
            assert_eigenvectors((matrix + matrix.mT) / 2)

    def test_eigenvectors_of_smaller_matrices(self):
        generator = torch.Generator().manual_seed(0)
        random = torch.randn(5000, 3, 3, generator=generator)
        low = random[..., :1] @ random[..., :1].mT
        for matrix in (random + random.mT, low, -low, 1e-20 * low, torch.zeros(1, 3, 3), torch.eye(3)[None]):
            assert_eigenvectors(matrix)

    def test_hypot_and_copysign(self):
        numbers = torch.tensor([0.0, 1e-37, -3e-25, 1.0, -2.5, 4e20, -1e38])
        a, b = torch.cartesian_prod(numbers, numbers).unbind(1)
        hypot = operators.DECOMPOSITIONS[torch.ops.aten.hypot.default]
        copysign = operators.DECOMPOSITIONS[torch.ops.aten.copysign.Tensor]
        torch.testing.assert_close(hypot(a, b), torch.hypot(a, b), atol=0, rtol=1e-6)
        torch.testing.assert_close(copysign(a, b), torch.copysign(a, b), atol=0, rtol=0)

    @pytest.mark.parametrize("size", [24, 25, 64])
    def test_low_pass_without_fourier(self, size):
        stem = LowPassStem(size, 2)
        plain = _without_fourier(torch.nn.Sequential(stem))
        assert not isinstance(plain[0], LowPassStem)
        images = torch.randn(3, 2, size, size)
        torch.testing.assert_close(plain(images), stem(images), atol=1e-5, rtol=0)


class TestCommand:
    def test_writes_a_file_and_says_what_it_takes_and_gives(self, run, tiny, tiny_folder, tmp_path):
        out = tmp_path / "encoder.pt2"
        done = run("export", tiny_folder, "-o", out)
        assert (done.code, done.err) == (0, "")
        shapes = "rotation (batch, 3, 3), shift (batch, 2), confidence (batch), raw (batch, 10)"
        assert done.out.startswith(f"{out}: images (batch, 1, 32, 32) -> {shapes}; ")
        assert done.out.endswith(" MB\n")
        images = torch.randn(2, 1, 32, 32)
        with torch.no_grad():
            expected = tiny(images).raw
        torch.testing.assert_close(load(out)(images)["raw"], expected, atol=1e-5, rtol=1e-5)

    def test_refuses_before_it_works(self, run, tiny_folder, tmp_path):
        out = tmp_path / "encoder.onnx"
        out.write_text("old")
        done = run("export", tiny_folder, "-o", out)
        assert done.code == 3
        assert "exists already" in done.err
        assert "--overwrite" in done.err
        done = run("export", tiny_folder, "-o", tmp_path / "encoder.h5")
        assert done.code == 3
        assert ".pt2 or .onnx" in done.err
        assert list(tmp_path.iterdir()) == [out]
        assert run("export", "test_nothing-sixd_svd.toy", "-o", tmp_path / "a.pt2").code == 2
