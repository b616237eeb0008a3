"""The report of poses and a map that were found from images alone, and the picture of the work while it goes on."""

from __future__ import annotations

import shlex
from html import escape
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..geometry.point_groups import point_group
from ..imaging.coverage import Views
from ..imaging.volumes import Volume
from .ab_initio import AbInitioResult
from .figures import draw_directions, pyplot, save_figure, show_image
from .report_figures import LIGHT, Pictures, draw_curves, hemispheres, panels, png
from .report_page import page, section, table

_MOST = 2000  # directions that are drawn


def save_progress(path: Path, volume: Volume, rotation: Tensor, title: str) -> None:
    """Draw slices through the map of the moment, and from where some images see it, as PNG."""
    figure = pyplot().figure(figsize=(11.0, 3.1), facecolor="white")
    figure.suptitle(title, x=0.01, y=0.98, ha="left", fontsize=12)
    places = figure.add_gridspec(
        1, 4, left=0.01, right=0.99, top=0.82, bottom=0.03, wspace=0.08, width_ratios=(1, 1, 1, 2)
    )
    for place, name, image in zip(places, "zyx", _slices(volume), strict=False):
        axes = figure.add_subplot(place)
        show_image(axes, image, *np.quantile(image, (0.01, 0.998)), smooth=True)
        axes.set_title(f"slice along {name}", loc="left", fontsize=10)
    step = max(1, len(rotation) // _MOST)
    draw_directions(figure.add_subplot(places[3], projection="mollweide"), rotation[::step].double().cpu().numpy())
    save_figure(figure, path, dpi=100)
    pyplot().close(figure)


def write_ab_initio_report(
    path: str | Path, found: AbInitioResult, *, saved: str | Path = "poses.star", overwrite: bool = False
) -> None:
    """Write a page about what :func:`cryozoo.abinitio` found; it needs no other file, and its figures lie beside it.

    Args:
        path: the page, .html.
        found: what it is about.
        saved: the file of the poses, which the commands at the end of the page name.
        overwrite: replace what is there already.

    Raises:
        BadInput: something is there already.
        ImportError: matplotlib is missing.
    """
    pictures = Pictures()
    sections = [
        _facts(found),
        _map(found, pictures),
        _correlation(found, pictures),
        _directions(found, pictures),
        _starts(found),
        _next(found, Path(saved)),
    ]
    text = page(f"Poses and a map of {Path(found.poses.source).name}", found.doubts, sections)
    pictures.write(Path(path), text, overwrite=overwrite)


def _slices(volume: Volume) -> list[NDArray[np.float32]]:
    data = volume.data.cpu().numpy()
    return [data.take(len(data) // 2, axis=axis) for axis in range(3)]


def _facts(found: AbInitioResult) -> str:
    made = found.reconstruction
    confidence = found.poses.confidence
    error = "" if confidence is None else f"{np.degrees(np.median(1 / confidence)):.2f}\u00b0"
    tiles = (
        (f"{len(found.poses):,}", "particles"),
        (f"{made.resolution:.1f} \u00c5", "where the half maps agree to 0.143"),
        (f"{found.diameter:.0f} \u00c5", "across the molecule"),
        (error, "median expected error of a pose"),
    )
    rows = (
        ("Particles", str(found.poses.source)),
        ("Symmetry", found.symmetry),
        ("Images", f"{made.map.size} \u00d7 {made.map.size} pixels of {made.map.pixel_size:.4g} \u00c5"),
        ("Half maps", " \u2192 ".join(f"{resolution:.1f} \u00c5" for resolution in found.resolutions)),
        ("Its own mirror image", f"to {found.mirror_resolution:.1f} \u00c5"),
        ("Look like no particles", f"{found.junk.sum():,}, left out of the map"),
    )
    how = (
        "All of it is of the images alone. Frame and hand are arbitrary: the molecule may be the mirror image of this "
        "map, which has the same projections."
    )
    shown = "".join(f"<div><b>{value}</b><span>{what}</span></div>" for value, what in tiles if value)
    listed = "".join(f"<dt>{what}</dt><dd>{escape(value)}</dd>" for what, value in rows)
    return section("At a glance", how, f'<div class="tiles">{shown}</div><dl>{listed}</dl>')


def _map(found: AbInitioResult, pictures: Pictures) -> str:
    shown = ""
    for title, volume in (("First map", found.start), ("Map", found.reconstruction.map)):
        data = volume.data.cpu().numpy()
        rows = [np.stack(_slices(volume)), np.stack([data.sum(axis) for axis in range(3)])]
        name = title.lower().replace(" ", "-")
        image = pictures.embedded(name, png(panels(rows), LIGHT))
        size = f"{volume.size} voxels of {volume.pixel_size:.3g} \u00c5"
        shown += (
            '<figure><div class="panels"><div><span>slices</span><span>projections</span></div>'
            f'<img src="{image}" alt="{name}"></div><figcaption><b>{title}</b>, {size}</figcaption></figure>'
        )
    how = (
        "Through the middle and along z, y and x. A molecule has edges, and detail inside; a smooth ball, streaks, or "
        "a shell that is hollow show that the poses are wrong."
    )
    return section("The map", how, f'<div class="wide">{shown}</div>')


def _correlation(found: AbInitioResult, pictures: Pictures) -> str:
    made = found.reconstruction
    box = made.map.size * made.map.pixel_size
    draw = draw_curves({"half maps": made.fsc.double().numpy()}, box, (0.143, 0.5))
    how = (
        "Two maps of half of the particles each, whose poses were refined against their own map; they share the first "
        "one, whose detail is about a tenth of the molecule. No mask was used but the sphere that the box holds."
    )
    return section("How far the half maps agree", how, pictures.figure("fsc", draw))


def _directions(found: AbInitioResult, pictures: Pictures) -> str:
    views = Views(torch.from_numpy(found.poses.rotation), point_group(found.symmetry))
    factor, least = views.compensation()
    how = (
        "How often the molecule is seen from each direction, over what it would be if it were seen evenly: two halves "
        "of the sphere, on discs of equal area. A few directions that all images share are a sign of wrong poses, or "
        "of a specimen that lies on the ice's surface."
    )
    what = (
        f"The sampling compensation factor is <b>{factor:.2f}</b> (views at random: about "
        f"{views.compensation_at_random():.2f}); the direction of Fourier space that is covered least has "
        f"<b>{least:.2f}</b> times the mean."
    )
    seen = hemispheres(views.density, ("seen from +z (x right, y up)", "seen from \u2212z"), "times even views")
    return section("Directions of view", how, f"{pictures.figure('directions', seen)}<p>{what}</p>")


def _starts(found: AbInitioResult) -> str:
    rows = [("start", "images that were left out fit by", "standard error")]
    rows += [(f"{k}", f"{mean:.2f}", f"{error:.2f}") for k, (mean, error) in enumerate(found.evidence, 1)]
    how = (
        "The mean log-likelihood, over that of noise alone, of images that the first map was not made of. The best "
        "start was kept; where others are as good, it was found more than once."
    )
    return section("Random starts", how, table(rows))


def _next(found: AbInitioResult, saved: Path) -> str:
    name = shlex.quote(str(saved))
    volume = shlex.quote(str(saved.with_name("map.mrc")))
    own, theirs = ("" if found.symmetry == "C1" else f" {o} {found.symmetry}" for o in ("--symmetry", "--sym"))
    diameter = round(1.15 * found.diameter)
    low = max(10.0, 1.2 * found.reconstruction.resolution)
    refine = (
        f"relion_refine --i {name} --ref {volume} --o refined --iter 5{theirs} \\\n"
        f"  --healpix_order 4 --sigma_ang 5 --ini_high {low:.0f} --ctf --particle_diameter {diameter} \\\n"
        "  --zero_mask --flatten_solvent --norm --scale"
    )
    content = (
        "<p>The hand: compare <code>map.mrc</code> with its mirror image, and keep the one whose helices are "
        "right-handed.</p><p>New particles of this molecule, against the map:</p>"
        f"<pre><code>{escape(f'cryozoo match more.star --map {volume}{own} -o more_poses.star')}</code></pre>"
        "<p>An encoder of its own, for millions of particles:</p>"
        f"<pre><code>{escape(f'cryozoo train --map {volume}{own} --particles {name} --out encoder')}</code></pre>"
        f"<p>RELION, local searches from these poses:</p><pre><code>{escape(refine)}</code></pre>"
        f"<p>cryoSPARC: <i>Import Particle Stack</i> with <code>{escape(str(saved))}</code>, which brings the "
        "alignments, then <i>Local Refinement</i> with this map and a mask.</p>"
    )
    return section("What to do next", "Half-sets are in the table: they stay apart in what follows.", content)
