"""The GPU jobs: what can be checked without a GPU."""

from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from cryozoo.benchmarks.gpu.forum_128 import IMAGE_PASSES, SHARD_BYTES, recipe, save_shards
from cryozoo.particles.volumes import Volume
from cryozoo.zoo.encoder import create_encoder
from cryozoo.zoo.train import TrainingResult


def test_the_protocol_is_as_long_as_theirs() -> None:
    job = recipe("qcqp_bingham", "none")
    assert abs(job.steps * job.batch_size - IMAGE_PASSES) < job.batch_size
    assert job.data["images"] == 5000


def test_the_ribosome_fits_the_box(data: Callable[[str], Path]) -> None:
    job = recipe("qcqp_bingham", "none")
    volume = Volume.load(data(job.data["volume"]), size=job.image_size, pixel_size=job.pixel_size)
    border = volume.data.abs().amax((0, 1))[[0, -1]].max()
    assert border < 0.01 * volume.data.max()


def test_shards_are_small_and_make_the_weights_again(tmp_path: Path) -> None:
    encoder = create_encoder("test_vgg_gem-quaternion", image_size=32)
    encoder.projection = nn.Linear(4000, 4001)
    save_shards(TrainingResult(encoder, {}, []), tmp_path)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert len(files) > 2
    assert max(f.stat().st_size for f in files) < SHARD_BYTES + 100_000
    pieces = {k: v for f in files for k, v in safetensors.torch.load_file(f).items()}
    for name, tensor in encoder.state_dict().items():
        parts = [pieces[k] for k in sorted(pieces) if k.partition("#")[0] == name]
        whole = torch.cat([p.reshape(-1) for p in parts]).reshape(tensor.shape)
        assert torch.equal(whole, tensor.half() if tensor.is_floating_point() else tensor)
