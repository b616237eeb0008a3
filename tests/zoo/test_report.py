"""The report of matched poses: what it says, that it needs nothing else, and what it is made of."""

import base64
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch

from cryozoo.geometry.point_groups import point_group
from cryozoo.imaging.coverage import Views
from cryozoo.imaging.map_fit import MapFit
from cryozoo.imaging.pose_posterior import Matches
from cryozoo.imaging.simulate import Imaging, Simulator
from cryozoo.imaging.simulate_files import write_simulated_stack
from cryozoo.imaging.volumes import Volume
from cryozoo.particles.errors import BadInput
from cryozoo.particles.stack import ParticleStack
from cryozoo.zoo import report
from cryozoo.zoo._source import Images
from cryozoo.zoo.match import Compared, MatchedTable
from cryozoo.zoo.report import write_report

pytest.importorskip("matplotlib")

SIZE, PIXEL, N = 32, 6.0, 40
VOLUME = Volume.phantom(size=SIZE, pixel_size=PIXEL)


def table(images: ParticleStack | Images, *, symmetry: str = "C1", doubts: tuple[str, ...] = ()) -> MatchedTable:
    """Poses as if they had been matched: the true ones where they are known, and made-up likelihoods."""
    rng, n = np.random.default_rng(0), len(images)
    stack = images if isinstance(images, ParticleStack) else None
    rotation = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    rotation *= np.linalg.det(rotation)[:, None, None]
    shift = rng.normal(scale=5, size=(n, 2))
    if stack is not None and stack.poses is not None:
        rotation, shift = stack.poses.rotation, stack.poses.shift
    particles = None if stack is None else stack.table
    poses = MatchedTable(rotation, shift, image_size=SIZE, pixel_size=PIXEL, particles=particles, source=images.path)
    found = [torch.from_numpy(values).float() for values in (rotation, shift, *rng.uniform(1, 2, size=(3, n)))]
    score = 100 * found[4]
    score[: n // 10] = 2.0
    poses.matches = Matches(
        found[0],
        found[1],
        torch.eye(5).expand(n, 5, 5),
        found[2] / 2,
        found[3] / 50,
        score,
        torch.ones(n),
        torch.ones(n),
    )
    poses.fit = MapFit(0.97, 0.02, 5.98, 0.01, {}, 48)
    poses.compared = Compared(images, VOLUME, "map.mrc", symmetry, 19.2, 13.0, doubts)
    return poses


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> ParticleStack:
    folder = tmp_path_factory.mktemp("report")
    imaging = Imaging(snr=1.0, shift_sigma=6.0, defocus=(15000.0, 25000.0))
    write_simulated_stack(folder / "particles.mrcs", Simulator(VOLUME, imaging), N)
    return ParticleStack.open(folder / "particles.star")


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time."""
    monkeypatch.setattr(report, "png", lambda draw, paper: b"")


def memory(n: int) -> Images:
    return Images(Simulator(VOLUME, Imaging(snr=1.0))(n, torch.Generator().manual_seed(0)).images, PIXEL)


class Reader(HTMLParser):
    """Text, addresses of what is loaded, and whether every element is closed in its turn."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.loaded: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "href")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag not in ("meta", "img", "source", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_needs_nothing_else(stack: ParticleStack, tmp_path: Path) -> None:
    write_report(tmp_path / "first.html", table(stack), saved="out/poses.star")
    page = (tmp_path / "first.html").read_text()
    read = Reader(page)
    assert read.open == []
    pictures = {
        base64.b64decode(address.removeprefix("data:image/png;base64,"), validate=True) for address in read.loaded
    }
    files = sorted((tmp_path / "first_files").iterdir())
    assert pictures == {file.read_bytes() for file in files}
    assert len(pictures) == len(files) == 3 + 2 * 6
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert "url(" not in page
    assert "@import" not in page
    assert "What is doubted" not in page
    assert "Optics groups" not in page
    assert page.startswith("<!DOCTYPE html>")

    write_report(tmp_path / "second.html", table(stack), saved="out/poses.star")
    assert (tmp_path / "second.html").read_bytes() == (tmp_path / "first.html").read_bytes()


@pytest.mark.usefixtures("undrawn")
def test_what_it_says(stack: ParticleStack, tmp_path: Path) -> None:
    poses = table(stack, doubts=("the map is <odd>",))
    group = np.arange(N) % 2 + 7
    assert poses.particles is not None
    poses.particles = replace(poses.particles, group=group)
    write_report(tmp_path / "report.html", poses, saved="out/poses.star")
    text = Reader((tmp_path / "report.html").read_text()).text
    assert text.index("the map is <odd>") < text.index("At a glance")
    error = np.rad2deg(poses.matches.error.numpy())
    assert f"{np.median(error):.2f}\u00b0median expected error" in text
    below = int((poses.matches.probability < 0.9).sum())
    assert f"{100 * below / N:.1f} %have a probability below 0.9" in text
    assert f"{N // 10} of {N} look like no particles" in text
    factor, least = Views(torch.from_numpy(poses.rotation), point_group("C1")).compensation()
    assert f"least has {least:.2f} times the mean" in text
    assert f"factor is {factor:.2f}" in text
    for number in (7, 8):
        own = group == number
        score = np.median(poses.matches.score.numpy()[own])
        shift = np.median(np.linalg.norm(poses.shift[own], axis=1))
        assert f"{number}{own.sum()}{np.median(error[own]):.2f}{shift:.1f}1.00{score:,.0f}" in text
    assert "cryozoo reconstruct out/poses.star --halves -o reconstruction.mrc" in text
    assert "relion_refine --i out/poses.star --ref map.mrc" in text
    assert (
        f"rows {', '.join(str(row + 1) for row in poses.matches.score.argsort(descending=True)[:4].tolist())}" in text
    )


@pytest.mark.usefixtures("undrawn")
def test_a_symmetric_map(tmp_path: Path) -> None:
    poses = table(memory(20), symmetry="D2")
    write_report(tmp_path / "report.html", poses, saved="poses.npz")
    text = Reader((tmp_path / "report.html").read_text()).text
    assert f"factor is {Views(torch.from_numpy(poses.rotation), point_group('D2')).compensation()[0]:.2f}" in text
    assert "with its 4 mates" in text
    assert "cryozoo reconstruct images --poses poses.npz --halves --symmetry D2" in text
    assert "cryozoo convert poses.npz poses.star\nrelion_refine --i poses.star" in text
    assert re.search(r"relion_refine .* --sym D2", text)


def test_one_image_in_memory_without_a_ctf(tmp_path: Path) -> None:
    poses = table(memory(1))
    poses.fit = replace(poses.fit, agreement_error=math.nan)
    poses.compared = replace(poses.compared, reach=None)
    write_report(tmp_path / "report.html", poses)
    text = Reader((tmp_path / "report.html").read_text()).text
    assert "Poses of images" in text
    assert "dashed circle" not in text
    assert "nan" not in text


def test_many_particles_and_few_are_read(tmp_path: Path) -> None:
    images = memory(N)
    poses, n = table(images), 20_000
    rows = torch.arange(n) % N
    many = MatchedTable(poses.rotation[rows], poses.shift[rows], image_size=SIZE, pixel_size=PIXEL, source="images")
    many.matches = Matches(**{name: values[rows] for name, values in vars(poses.matches).items()})
    many.fit = poses.fit
    asked: list[int] = []

    class Many(Images):
        def images(self, rows: range | np.ndarray) -> torch.Tensor:
            asked.extend(rows)
            return super().images(np.asarray(rows) % N)

    many.compared = replace(poses.compared, images=Many(images.images(np.arange(N)), PIXEL))
    write_report(tmp_path / "report.html", many)
    assert len(asked) == 12


@pytest.mark.usefixtures("undrawn")
def test_names_are_escaped(tmp_path: Path) -> None:
    poses = table(memory(3), doubts=("<script>alert(1)</script>",))
    poses.source = '"><script>alert(1)</script>.star'
    poses.compared = replace(poses.compared, map_name="<img src=http://example.org/x>&.mrc")
    write_report(tmp_path / "report.html", poses, saved="<b>'$(x).star")
    read = Reader((tmp_path / "report.html").read_text())  # which lets no script pass
    assert all(address.startswith("data:image/png;base64,") for address in read.loaded)
    assert "<img src=http://example.org/x>&.mrc, symmetry C1" in read.text
    assert """reconstruct '<b>'"'"'$(x).star' --halves""" in read.text


@pytest.mark.usefixtures("undrawn")
def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    poses = table(memory(3))
    (tmp_path / "a_files").mkdir()
    (tmp_path / "b.html").write_text("mine")
    for name, message in (("a.html", "a_files: exists already"), ("b.html", r"b\.html: exists"), ("c.pdf", "'.pdf'")):
        with pytest.raises(BadInput, match=message):
            write_report(tmp_path / name, poses)
    assert (tmp_path / "b.html").read_text() == "mine"
    assert not (tmp_path / "b_files").exists()
    write_report(tmp_path / "b.html", poses, overwrite=True)
    write_report(tmp_path / "b.html", poses, overwrite=True)
    assert "Poses of images" in (tmp_path / "b.html").read_text()
