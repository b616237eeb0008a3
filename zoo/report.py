"""The report of matched poses: one page that says how good they are, and what to do with them."""

from __future__ import annotations

import math
import shlex
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry.point_groups import point_group
from ..imaging.coverage import Views
from ..imaging.extent import measure_extent
from ..imaging.fourier import filtered
from ..imaging.projector import Projector
from ..particles.errors import BadInput
from .figures import pyplot
from .match import MatchedTable, read_images
from .match_checks import looks_like_no_particle
from .report_figures import LIGHT, Pictures, folder_of, hemispheres, histogram, panels, png, shifts
from .report_page import page, section, table

_SHOWN = 4  # particles of each kind
_FINEST = 128  # voxels of the map that is projected for them
_MOST_GROUPS = 30  # rows of the table


def check_report(path: Path, *, overwrite: bool) -> None:
    """Refuse what could not be written in the end, before the work starts.

    Raises:
        BadInput: another suffix, or something is there already.
        ImportError: matplotlib is missing.
    """
    if path.suffix.lower() not in (".html", ".htm"):
        raise BadInput(path, f"the suffix {path.suffix!r}", expected="a page, .html")
    folder = folder_of(path)
    for there in (path, folder):
        if there.exists() and not overwrite:
            raise BadInput(there, "exists already", hint="choose another name, or --overwrite")
    if folder.exists() and not folder.is_dir():
        raise BadInput(folder, "cannot be written: it is not a folder")
    pyplot()


def write_report(
    path: str | Path, poses: MatchedTable, *, saved: str | Path = "poses.star", overwrite: bool = False
) -> None:
    """Write a page about poses that were matched with a map or refined against one, and its figures.

    The page needs no other file; its figures also lie beside it, in the folder ``NAME_files``. A dozen images are read
    for it. The same poses give the same bytes.

    Args:
        path: the page, .html.
        poses: of :func:`cryozoo.match` or :func:`cryozoo.refine`.
        saved: the file of the poses, which the commands at the end of the page name.
        overwrite: replace what is there already.

    Raises:
        BadInput: another suffix, or something is there already.
        ImportError: matplotlib is missing.
    """
    path = Path(path)
    check_report(path, overwrite=overwrite)
    report = _Report(poses)
    text = report.page(Path(saved))
    report.pictures.write(path, text, overwrite=overwrite)


class _Report:
    """What is said of poses; the figures are made on the way."""

    def __init__(self, poses: MatchedTable) -> None:
        self.poses, self.compared = poses, poses.compared
        self.pictures = Pictures()
        self._figure = self.pictures.figure
        found = poses.matches
        self.error = np.degrees(found.error.double().numpy())
        self.merit, self.misfit = found.merit.double().numpy(), found.misfit.double().numpy()
        self.odd = looks_like_no_particle(found).numpy()
        group = None if poses.particles is None else poses.particles.group
        self.group = np.zeros(len(poses), dtype=np.int64) if group is None else group

    def page(self, saved: Path) -> str:
        """The whole of it."""
        sections = [
            self._facts(),
            self._particles(),
            self._directions(),
            self._errors(),
            self._scores(),
            self._shifts(),
        ]
        if len(np.unique(self.group)) > 1:
            sections.append(self._groups())
        sections.append(self._next(saved))
        return page(f"Poses of {Path(self.poses.source).name}", self.compared.doubts, sections)

    def _facts(self) -> str:
        compared, fit = self.compared, self.poses.fit
        images, voxel = compared.images, compared.volume.pixel_size
        unsure = float((self.poses.matches.probability < 0.9).double().mean())
        spread = f" \u00b1 {fit.agreement_error:.2f}" if math.isfinite(fit.agreement_error) else ""
        tiles = (
            (f"{len(self.poses):,}", "particles"),
            (f"{np.median(self.error):.2f}\u00b0", "median expected error"),
            (f"{100 * unsure:.1f} %", "have a probability below 0.9"),
            (f"{fit.agreement:.2f}{spread}", "agreement of the map's finer half"),
        )
        fitted = f"fit best with {fit.pixel_size:.4g} \u00b1 {fit.pixel_size_error:.1g} \u00c5"
        fitted = fitted if math.isfinite(fit.pixel_size_error) else "no size fits best"
        rows = (
            ("Particles", str(self.poses.source)),
            ("Map", f"{compared.map_name}, symmetry {compared.symmetry}"),
            ("Images", f"{images.image_size} \u00d7 {images.image_size} pixels of {images.pixel_size:.4g} \u00c5"),
            ("Voxels of the map", f"{voxel:.4g} \u00c5; {fitted}"),
            ("Compared", f"down to details of {compared.resolution:.3g} \u00c5"),
        )
        how = (
            "The expected error is how far a pose may be from the true one, by its likelihood; the probability is that "
            "of the pose among the others that fit. The agreement is 1 for the right map and 0 for another molecule."
        )
        shown = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in tiles)
        listed = "".join(f"<dt>{what}</dt><dd>{escape(value)}</dd>" for what, value in rows)
        return section("At a glance", how, f'<div class="tiles">{shown}</div><dl>{listed}</dl>')

    def _particles(self) -> str:
        n = len(self.poses)
        order, k = np.argsort(-self.merit, kind="stable"), min(_SHOWN, n // 3)
        kinds = (
            {"Best": order[:k], "Median": order[(n - k) // 2 :][:k], "Worst": order[n - k :]} if k else {"All": order}
        )
        pixel_size = self.compared.images.pixel_size
        blur = max(20.0, 1.5 * self.compared.resolution, 3 * pixel_size)

        def smooth(images: Tensor) -> NDArray[np.float32]:
            return filtered(images, pixel_size, lambda k: (-k.square().sum(-1) * blur**2).exp()).numpy()

        shown = ""
        for (kind, rows), (images, projections) in zip(kinds.items(), self._seen(list(kinds.values())), strict=True):
            draw = panels([images.numpy(), smooth(images), smooth(projections)])
            name = f"particles-{kind.lower()}"
            scores, numbers = (", ".join(f"{x:,.0f}" for x in values) for values in (self.merit[rows], rows + 1))
            shown += (
                '<figure><div class="panels"><div><span>image</span><span>smoothed</span><span>projection</span></div>'
                f'<img src="{self.pictures.embedded(name, png(draw, LIGHT))}" alt="{name}"></div>'
                f"<figcaption><b>{kind}</b> scores: {scores}<br>rows {numbers}</figcaption></figure>"
            )
        how = (
            f"Each column is a particle: its image, the image smoothed to {blur:.0f} \u00c5, and the projection of the "
            "map at its pose, with its shift and CTF, smoothed alike. The lower two should look the same, apart from "
            "noise; where they do not, the pose is wrong or the image is junk."
        )
        return section("Particles beside their projections", how, f'<div class="wide">{shown}</div>')

    def _seen(self, rows: list[NDArray[np.int64]]) -> list[tuple[Tensor, Tensor]]:
        """Images and projections (k, L, L) of some sets of particles."""
        source, volume, found = self.compared.images, self.compared.volume, self.poses.matches
        volume = volume if volume.size <= _FINEST else volume.coarsen(_FINEST)
        projector = Projector(volume, image_size=source.image_size, pixel_size=source.pixel_size)
        seen = []
        for these in rows:
            images, ctf = read_images(source, these)
            with torch.inference_mode():
                seen.append((images, projector(found.rotation[these], found.shift[these], ctf)))
        return seen

    def _directions(self) -> str:
        group = point_group(self.compared.symmetry)
        views = Views(torch.from_numpy(self.poses.rotation), group)
        factor, least = views.compensation()
        mates = f" Each view counts with its {len(group)} mates." if len(group) > 1 else ""
        how = (
            "First, how often the particle is seen from each direction, over what it would be if it were seen evenly: "
            "two halves of the sphere, on discs of equal area. Then, how many views cover each direction of the map's "
            f"Fourier space, over their mean: a view covers what is perpendicular to it.{mates}"
        )
        what = (
            f"The direction that is covered least has <b>{least:.2f}</b> times the mean. The sampling compensation "
            f"factor is <b>{factor:.2f}</b>: in a map these particles count as {100 * factor:.0f} % of as many that "
            "are seen evenly. It is 0.81 for views from the side alone, 0 where a direction is not covered, along "
            f"which the map is smeared, and about {views.compensation_at_random():.2f} for {len(self.poses):,} views "
            "at random."
        )
        seen = hemispheres(views.density, ("seen from +z (x right, y up)", "seen from \u2212z"), "times even views")
        covered = hemispheres(views.coverage, ("Fourier space",), "times the mean")
        pictures = self._figure("directions", seen) + self._figure("coverage", covered)
        return section("Directions of view", how, f'<div class="discs">{pictures}</div><p>{what}</p>')

    def _errors(self) -> str:
        median = float(np.median(self.error))
        draw = histogram(self.error, "expected angular error (degrees)", median, f"median {median:.2f}\u00b0")
        how = (
            "How far each pose may be from the true one. A second hump at large errors is of particles that fit "
            "several poses. The outermost bars of all histograms hold what lies beyond their axis."
        )
        return section("Expected error", how, self._figure("errors", draw))

    def _scores(self) -> str:
        median, junk = float(np.median(self.merit)), int(self.odd.sum())
        how = (
            "The score is twice the log-likelihood of the particle over that of noise alone; the misfit is the power "
            "of what is left without the particle, over that of the noise: 1 for particles. Images without the "
            "particle have low scores, contaminated ones high misfits."
        )
        what = (
            f"<b>{junk:,} of {len(self.merit):,}</b> look like no particles: they have less than a ninth of the median "
            "score, or misfits above 1.5 times the usual. To leave particles out, select by the columns "
            "<code>rlnLogLikeliContribution</code> (half of the score) and <code>rlnMaxValueProbDistribution</code> "
            "(the probability) of the STAR file."
        )
        scores = histogram(self.merit, "score", median, f"median {median:,.0f}")
        misfits = histogram(self.misfit, "misfit", 1.0, "a particle")
        pictures = self._figure("scores", scores) + self._figure("misfits", misfits)
        return section("Scores and junk", how, f'<div class="pair">{pictures}</div><p>{what}</p>')

    def _shifts(self) -> str:
        reach = self.compared.reach
        circle = "" if reach is None else f" The dashed circle is how far was looked first, {reach:.4g} \u00c5."
        how = (
            "How far particles are from the centre of their images: a round cloud around zero is good. One beside zero "
            f"is of a map or of picks that are off-centre.{circle}"
        )
        return section("Shifts", how, self._figure("shifts", shifts(self.poses.shift, reach)))

    def _groups(self) -> str:
        numbers, counts = np.unique(self.group, return_counts=True)
        kept = np.sort(np.argsort(-counts, kind="stable")[:_MOST_GROUPS])
        columns = (self.error, np.linalg.norm(self.poses.shift, axis=1), self.misfit, self.merit)
        rows = [("group", "particles", "error (\u00b0)", "shift (\u00c5)", "misfit", "score")]
        for number, count in zip(numbers[kept], counts[kept], strict=True):
            error, shift, misfit, score = (float(np.median(column[self.group == number])) for column in columns)
            rows.append((f"{number}", f"{count:,}", f"{error:.2f}", f"{shift:.1f}", f"{misfit:.2f}", f"{score:,.0f}"))
        left = "" if len(kept) == len(numbers) else f" The largest {len(kept)} of {len(numbers):,} groups are shown."
        how = f"Medians of each group: one that stands out has other ice, or a mistake in its table.{left}"
        return section("Optics groups", how, table(rows))

    def _next(self, saved: Path) -> str:
        compared, star = self.compared, saved.with_suffix(".star")
        name, relion, source, volume = map(shlex.quote, map(str, (saved, star, self.poses.source, compared.map_name)))
        own, theirs = (
            "" if compared.symmetry == "C1" else f" {o} {compared.symmetry}" for o in ("--symmetry", "--sym")
        )
        particles = name if saved.suffix in (".star", ".cs") else f"{source} --poses {name}"
        converted = "" if saved == star else f"cryozoo convert {name} {relion}\n"
        # As RELION wants it: with some room around the molecule.
        box = compared.images.image_size * compared.images.pixel_size
        diameter = math.floor(min(1.15 * measure_extent(compared.volume).diameter, 0.95 * box))
        step = 3 * math.ceil(float(np.median(self.error)))
        reconstruct = f"cryozoo reconstruct {particles} --halves{own} -o reconstruction.mrc"
        refine = (
            f"{converted}relion_refine --i {relion} --ref {volume} --o refined --iter 5{theirs} \\\n"
            f"  --healpix_order 4 --sigma_ang {step} --ini_high {max(10.0, compared.resolution):.0f} --firstiter_cc "
            f"--ctf \\\n  --particle_diameter {diameter} --zero_mask --flatten_solvent --norm --scale"
        )
        content = (
            "<p>A map from these poses, with half maps and their FSC:</p>"
            f"<pre><code>{escape(reconstruct)}</code></pre><p>RELION, local searches from these poses:</p>"
            f"<pre><code>{escape(refine)}</code></pre><p>cryoSPARC: <i>Import Particle Stack</i> with "
            f"<code>{escape(str(star))}</code>, which brings the alignments, then <i>Local Refinement</i> with this "
            "map and a mask.</p><p>All poses come from one map, which half maps share: their FSC is optimistic.</p>"
        )
        return section("What to do next", "Poses are in the frame of the map, and of its hand.", content)
