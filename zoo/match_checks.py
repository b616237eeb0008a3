"""What can be matched, and what is to be doubted of it: maps, arguments, how the map fits, which images are junk."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from ..geometry.point_groups import point_group
from ..geometry.sampling import random_rotations
from ..imaging.extent import check_fits, measure_extent
from ..imaging.fourier import crop_or_zero_pad
from ..imaging.map_fit import MapFit
from ..imaging.masks import blurred, otsu_threshold
from ..imaging.pose_posterior import Matches
from ..imaging.projector import Projector
from ..imaging.volumes import Volume, load_volume
from ..particles.errors import BadInput, BadInputWarning

_STRANGE, _AKIN, _BLURRED = 0.4, 0.9, 1.25  # agreement of another molecule, another state, a map without its detail
_GAIN = 0.002  # share of the score by which something else has to fit better
_SCALED, _CLEARLY = 0.01, 5.0  # share by which pixel sizes differ that is worth a word, and in standard errors
FEWEST = 16  # images of which such things are said
_LARGEST = 1e15  # value of a map; squares of larger ones leave the range of float32
_SMALL = 6  # times that a molecule fits across its images
_CUT = 0.02  # share of the box's faces that may be inside of the molecule
_SYMMETRIC = 0.9  # correlation of projections at mates, below which they are none
_LOST = math.radians(30)  # expected error of an image that tells nothing
_FAINT, _ODD = 1 / 9, 1.5  # merit, of the median, and misfit that make an image look like no particle


def check_arguments(path: str | Path, reach: float | None, resolution: float | None, box: float) -> None:
    """Refuse a reach or resolution in Angstrom that images of this box, in Angstrom, do not have.

    Raises:
        BadInput: naming the file of the images.
    """
    if reach is not None and not 0 <= reach <= box / 2:
        raise BadInput(path, f"reach {reach:g}", expected=f"0 to {box / 2:g} Angstrom, half of the images' box")
    if resolution is not None and not 0 < resolution <= box / 8:
        expected = f"above 0 to {box / 8:g} Angstrom, an eighth of the images' box"
        raise BadInput(path, f"resolution {resolution:g}", expected=expected)


def opened_map(map: str | Path | Volume, size: int, pixel_size: float) -> tuple[Volume, str]:
    """A map for images of this box, its own box cut to about theirs and without a constant background; and its name.

    Raises:
        BadInput: it is no map of a molecule that the images can hold.

    Warns:
        BadInputWarning: it is cut off by its box, or small in the images'.
    """
    if not isinstance(map, str | Path | Volume):
        raise TypeError(f"map {type(map).__name__}, expected a file or a Volume")
    name = "the map" if isinstance(map, Volume) else str(map)
    volume = map if isinstance(map, Volume) else load_volume(name, image_size=size, pixel_size=pixel_size)
    shape, data = tuple(volume.data.shape), volume.data
    if len(set(shape)) > 1:
        raise BadInput(name, f"{' x '.join(str(n) for n in shape)} voxels", expected="a cube")
    if not volume.pixel_size > 0:
        raise BadInput(name, f"voxels of {volume.pixel_size:g} A", expected="their edge in Angstrom")
    if not data.isfinite().all():
        raise BadInput(name, "voxels that are NaN or infinite")
    if data.min() == data.max():
        raise BadInput(name, "a constant map, against which all poses are the same")
    largest = float(data.abs().max())
    if not 1 / _LARGEST < largest < _LARGEST:
        raise BadInput(name, f"values up to {largest:.2g}", expected=f"some between {1 / _LARGEST:g} and {_LARGEST:g}")
    background = _faces(data).median()
    if (data - background).abs().max() < 100 * background.abs():
        data = data - background  # it projects to a disc or a square, which no image shows
    if -data.min() > 1.5 * data.max():
        raise BadInput(name, "a molecule that is darker than what is around it", hint="multiply the map by -1")
    volume = Volume(data, volume.pixel_size, volume.reach)
    check_fits(volume, size, pixel_size, name=name)
    _warn_of_its_box(volume, name, size * pixel_size)
    box = min(volume.size, 2 * math.ceil(size * pixel_size / volume.pixel_size / 2))
    return Volume(crop_or_zero_pad(data, box), volume.pixel_size, volume.reach), name


def _warn_of_its_box(volume: Volume, name: str, box: float) -> None:
    diameter = measure_extent(volume).diameter
    if _SMALL * diameter < box:
        said = f"a molecule of {diameter:.0f} A in images of {box:.0f} A: is a voxel {volume.pixel_size:g} A wide?"
        warnings.warn(BadInputWarning(f"{name}: {said}"), stacklevel=5)
    # What is inside on a face is at least half an edge from the centre: other maps need no look at their faces.
    if volume.reach is None and diameter > 0.9 * volume.size * volume.pixel_size:
        density = blurred(volume, max(15.0, volume.size * volume.pixel_size / 16))
        if (_faces(density) >= otsu_threshold(density)).double().mean() > _CUT:
            said = "the molecule is cut off by the map's box: poses are those of what is left of it"
            warnings.warn(BadInputWarning(f"{name}: {said}"), stacklevel=5)


def _faces(data: Tensor) -> Tensor:
    """The voxels (N,) on the faces of a box."""
    return torch.cat([data.select(axis, end).flatten() for axis in range(3) for end in (0, -1)])


def symmetry_doubt(projector: Projector, name: str, symmetry: str) -> Iterator[str]:
    """What speaks against the point group of a map: projections that differ between mates."""
    if len(group := point_group(symmetry)) > 1:
        rotation = random_rotations(8, generator=torch.Generator().manual_seed(0)).to(projector.frequency.device)
        mates = [projector(rotation @ mate.to(rotation)).flatten(1) for mate in group]
        first, *others = [(images - images.mean(1, keepdim=True)) for images in mates]
        alike = min(float(torch.cosine_similarity(first, other).mean()) for other in others)
        if alike < _SYMMETRIC:
            yield (
                f"{name} is not {symmetry} in RELION's axes: projections of its mates correlate to {alike:.2f}; poses "
                "may be those of false mates (cryozoo align-symmetry turns a map to these axes; C1 has none)"
            )


def fit_doubts(fit: MapFit, name: str, pixel_size: float, *, given: bool, has_ctf: bool) -> Iterator[str]:
    """What speaks against a map, or what the table says of the images; ``given``: that poses were refined."""
    if fit.images < FEWEST:
        return
    hints = {
        "negatives": f"the negatives of the images fit {name} better: invert=True (--invert) takes them",
        "no CTF": "the images fit better without the CTF of their table, as if they had none",
        "phases flipped": "the images fit better as if their phases were flipped, which their table does not say",
        "multiplied by the CTF": "the images fit better as if multiplied by their CTF, which their table does not say",
        "mirrored map": f"the given poses fit the mirror image of {name} better: it is of the other hand",
    }
    agreement = f"agreement {fit.agreement:.2f} +- {fit.agreement_error:.2f}, of 1 for the right map"
    far = ", or the given poses are far off, and match finds better ones" if given else ""
    # Of a map that does not agree, only the whole sign of the images or the map's hand can be told, not details.
    told = [
        kind
        for kind, gain in fit.better.items()
        if gain > _GAIN and (fit.agreement >= _STRANGE or kind in ("negatives", "mirrored map"))
    ]
    off = fit.pixel_size / pixel_size - 1
    if told:
        best = max(told, key=fit.better.__getitem__)
        yield f"{hints[best]} (by {100 * fit.better[best]:.0f} % of the score)"
    elif fit.agreement < _STRANGE:
        yield f"{name} seems to be of another molecule, or the images tell too little{far} ({agreement})"
    elif fit.agreement + 3 * fit.agreement_error < _AKIN:
        yield (
            f"{name} is like the molecule in the images, and not the same ({agreement}): a relative, another state, or "
            f"sharper than what is in the images{far}; poses have larger errors than expected"
        )
    elif abs(off) > _SCALED and abs(off) * pixel_size > _CLEARLY * fit.pixel_size_error:
        yield (
            f"{name} fits best with voxels of {fit.pixel_size:.4g} A ({100 * off:+.1f} %), and has {pixel_size:.4g} A: "
            "one of the pixel sizes, that of the map or that of the images, may be wrong"
        )
    elif fit.agreement - 3 * fit.agreement_error > _BLURRED:
        ctf = "" if has_ctf else ", or the images have a CTF, of which their table says nothing"
        yield f"the images have more detail than {name} ({agreement}): a sharper map gives better poses{ctf}"


def looks_like_no_particle(matches: Matches) -> Tensor:
    """(B,) whether images are faint, or leave much more than noise when the map's projection is taken off.

    Where most leave more, it is the map that is wrong, or coarse, and not they.
    """
    usual = matches.misfit.median().clamp_min(1)
    return (matches.merit < _FAINT * matches.merit.median()) | (matches.misfit > _ODD * usual)


def junk_doubt(odd: Tensor) -> Iterator[str]:
    """What is said where many images, (B,), look like no particles."""
    junk, count = int(odd.sum()), len(odd)
    if junk > count / 20:
        yield (
            f"{junk:,} of {count:,} images look like no particles: they fit by less than a ninth of what is usual, "
            f"or differ from the projection by more than others (misfit above {_ODD:g} times the usual)"
        )


def image_doubts(matches: Matches, reach: float | None) -> Iterator[str]:
    """What many of the images are not."""
    count = len(matches.score)
    lost, odd = int((matches.error > _LOST).sum()), looks_like_no_particle(matches)
    far = 0 if reach is None else int((matches.shift[~odd].norm(dim=1) > reach).sum())
    if lost > count / 2:
        yield f"{lost:,} of {count:,} images tell nothing about their pose: junk, another molecule, or too much noise"
    yield from junk_doubt(odd)
    if (usual := float(matches.misfit.median())) > _ODD:
        yield (
            f"most images differ from the projection by more than noise (misfit {usual:.1f}, where 1 is noise alone): "
            "the map is wrong or coarse, or most are junk"
        )
    if far > count / 10:
        yield f"{far:,} of {count:,} particles are more than {reach:.3g} A off: a larger reach (--reach) finds them all"
