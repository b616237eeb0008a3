"""The GPU jobs: what can be checked without a GPU."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from cryozoo.benchmarks.gpu import __main__ as gpu
from cryozoo.benchmarks.gpu import jobs, throughput
from cryozoo.imaging.simulate import Imaging
from cryozoo.imaging.volumes import Volume
from cryozoo.training.data import Simulated
from cryozoo.training.recipe import Recipe
from cryozoo.training.run import simulated
from cryozoo.zoo.encoder import create_encoder


@pytest.mark.parametrize("name", jobs.JOBS)
def test_every_job_is_a_valid_recipe(name: str) -> None:
    recipe = jobs.JOBS[name]()
    assert Recipe.from_dict(recipe.to_dict()).to_dict() == recipe.to_dict()
    encoder = create_encoder(recipe.encoder, image_size=recipe.image_size, backbone_args=recipe.backbone_args)
    assert (encoder.group == "D4") == (recipe.encoder.startswith("d4") and encoder.head.has_rotation)


def test_the_protocol_is_as_long_as_theirs() -> None:
    job = jobs.forum("vgg_gem-qcqp_bingham")
    assert abs(job.steps * job.batch_size - jobs.IMAGE_PASSES) < job.batch_size
    assert simulated(job).images == 5000


@pytest.mark.parametrize("name", jobs.JOBS)
def test_the_ribosome_fits_the_box(name: str, data: Callable[[str], Path]) -> None:
    job = jobs.JOBS[name]()
    volume = Volume.load(data(simulated(job).volume), size=job.image_size, pixel_size=job.pixel_size)
    border = volume.data.abs().amax((0, 1))[[0, -1]].max()
    assert border < 0.01 * volume.data.max()


def test_pieces_make_the_file_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "PIECE_BYTES", 1000)
    content = bytes(range(256)) * 14
    (tmp_path / "a.bin").write_bytes(content)
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    assert gpu.split_file(tmp_path / "a.bin", pieces)
    assert sorted(p.stat().st_size for p in pieces.iterdir()) == [584, 1000, 1000, 1000]
    (tmp_path / "a.bin").unlink()
    gpu.join_file(pieces, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == content
    (tmp_path / "a.bin").write_bytes(content * 2)
    assert not gpu.split_file(tmp_path / "a.bin", pieces)
    (tmp_path / "small.bin").write_bytes(b"small")
    assert gpu.split_file(tmp_path / "small.bin", pieces)
    assert (pieces / "small.bin").read_bytes() == b"small"


def test_slices_end_where_one_run_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at once again and again, a job goes on from slice to slice, and ends with the undisturbed weights."""
    recipe = Recipe(
        "test_vgg_gem-nined_svd",
        24,
        Simulated("phantom:1", Imaging(snr=1.0), held_out=64),
        6,
        pixel_size=8.0,
        batch_size=8,
        validate_every=2,
    )
    monkeypatch.setitem(jobs.JOBS, "forum_d4", lambda: recipe)

    def slice_of(out: str, minutes: float, *words: str) -> Path:
        result = CliRunner().invoke(gpu.main, ["forum_d4", str(tmp_path / out), "--minutes", str(minutes), *words])
        assert result.exit_code == 0, result.output
        return tmp_path / out

    whole = slice_of("whole", 5)
    part = slice_of("part-0", 0)
    for number in range(1, 20):
        if (part / "result.json").exists():
            break
        part = slice_of(f"part-{number}", 0, "--resume", str(part))
    assert number > 1
    assert (part / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    metrics = [json.loads((folder / "result.json").read_text())["metrics"]["median_deg"] for folder in (part, whole)]
    assert metrics[0] == metrics[1]


def test_throughput_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "ENCODERS", ("test_d4_cnn-qcqp_bingham",))
    words = [str(tmp_path), "--size", "24", "--batch-size", "4", "--matrix", "64", "--seconds", "0.01"]
    result = CliRunner().invoke(throughput.main, words)
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "throughput.json").read_text())
    assert record["rows"][0]["training_images_per_s"] > 0
    assert record["rows"][0]["inference_share_of_peak"] > 0
