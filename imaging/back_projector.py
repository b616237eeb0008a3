"""Images put back into the Fourier transform of their volume: the Fourier slice theorem read backwards.

The Fourier transform of an image is the slice F[V](kx R[0] + ky R[1]) times the CTF. Every sample of the slice is
spread trilinearly over the eight voxels around it on a grid of half the step, once times the CTF and once as the square
of the CTF. The quotient of the two sums is the least-squares estimate of the transform, smoothed by the interpolation
kernel, whose own transform (sinc^2) is divided out in real space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from ..particles.ctf import CTF
from .fourier import shell_number, without_interpolation
from .masks import spherical_mask
from .volumes import Volume

_PADDING = 2  # steps of the grid in a step of the images' transform; the Projector's default
_FLOOR = 1e-3  # of a shell's mean weight: what is known less well is not amplified further
_EDGE = 3.0  # voxels; of the mask around the volume


class BackProjector:
    """Sums over images from which a volume is made; the volume has the images' box and pixels.

    Args:
        image_size: L, pixels along an edge, even or odd.
        pixel_size: Angstrom.
        group: (K, 3, 3) point group of the volume; every image counts as seen from all K mates of its orientation.
        device: where the sums are held, 12 (2 L + 1)^2 (L + 2) bytes.

    Attributes:
        numerator: (2 L + 1, 2 L + 1, L + 1) complex64, [z, y, x], the sum of CTF times image. The origin of Fourier
            space is at (L, L, 0); negative x would hold the conjugates.
        weight: the same shape in float32, the sum of CTF^2; 0 where no image has been.
        count: images that were inserted.

    On a GPU the order of the additions is not fixed, so results differ by rounding from run to run.
    """

    def __init__(
        self,
        image_size: int,
        pixel_size: float,
        *,
        group: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        self.image_size = image_size
        self.pixel_size = pixel_size
        self.count = 0
        edge = _PADDING * image_size + 1
        shape = (edge, edge, edge // 2 + 2)  # one column more, at x = -1, for what is not kept
        self._numerator = torch.zeros(shape, dtype=torch.complex64, device=device)
        self._weight = torch.zeros(shape, device=device)
        self.numerator, self.weight = self._numerator[:, :, 1:], self._weight[:, :, 1:]
        ky = torch.fft.fftfreq(image_size, pixel_size, device=device)
        kx = torch.fft.rfftfreq(image_size, pixel_size, device=device)
        frequency = torch.stack(torch.meshgrid(kx, ky, indexing="xy"), -1)
        # Inside the Nyquist ring all eight neighbours are on the grid; PoseTable lets pass what is a rotation to 0.001.
        self._inside = frequency.norm(dim=-1) < 0.5 / pixel_size * (1 - 1e-3)
        self._frequency = frequency[self._inside]
        # The half-plane holds both samples of a conjugate pair where kx is 0, elsewhere one.
        self._share = torch.where(self._frequency[:, 0] == 0, 0.5, 1.0)
        self._group = (torch.eye(3)[None] if group is None else group).to(self._frequency)

    @property
    def samples_per_image(self) -> int:
        """Fourier samples of an image that are used."""
        return len(self._frequency)

    def insert(
        self,
        images: Tensor,
        rotation: Tensor,
        shift: Tensor | None = None,
        ctf: CTF | None = None,
        weights: Tensor | None = None,
    ) -> None:
        """Add images.

        Args:
            images: (B, L, L).
            rotation: (B, 3, 3) object to camera.
            shift: (B, 2) in Angstrom, (x, y), where the content has moved; it is moved back.
            ctf: parameters of the B images; 1 without it.
            weights: (B,) factors of the images in both sums.
        """
        self.count += len(images)
        k = self._frequency
        values = torch.fft.rfft2(images.to(k))[:, self._inside]
        # The image's origin is at pixel L // 2, the FFT's at pixel 0.
        moved = k.new_full((len(images), 2), self.image_size // 2 * self.pixel_size)
        if shift is not None:
            moved = moved + shift.to(k)
        share = self._share.expand(len(images), -1)
        if weights is not None:
            share = share * weights.to(k)[:, None]
        values = values * torch.polar(share, 2 * torch.pi * moved @ k.T)
        if ctf is not None:
            transfer = ctf(k)
            values, share = values * transfer, share * transfer**2
        values, share = values.flatten(), share.flatten()
        steps = _PADDING * self.image_size * self.pixel_size * k
        for mate in self._group:
            self._spread((steps @ (rotation.to(k) @ mate)[:, :2]).flatten(0, 1), values, share)

    def _spread(self, points: Tensor, values: Tensor, shares: Tensor) -> None:
        """Add values (n,) and shares (n,) to the voxels around points (n, 3), xyz in steps of the grid."""
        other = points[:, 0] < 0  # the other half of Fourier space, where the transform is conjugate
        points = torch.where(other[:, None], -points, points)
        values = torch.where(other, values.conj(), values)
        # From beyond the border between the halves the conjugates reach it too.
        near = points[:, 0] < 1
        points = torch.cat([points, -points[near]])
        values = torch.cat([values, values[near].conj()])
        shares = torch.cat([shares, shares[near]])
        corner = points.floor()
        upper = points - corner
        x, y, z = corner.long().unbind(-1)
        edge, _, width = self._weight.shape
        first = ((z + edge // 2) * edge + y + edge // 2) * width + x + 1
        sides = torch.stack([1 - upper, upper]).unbind(-1)
        numerator, weight = self._numerator.view(-1), self._weight.view(-1)
        for corner_z in (0, 1):
            for corner_y in (0, 1):
                for corner_x in (0, 1):
                    part = sides[2][corner_z] * sides[1][corner_y] * sides[0][corner_x]
                    voxel = first + (corner_z * edge + corner_y) * width + corner_x
                    # In one dimension index_add is several times as fast as in more, or as any other scatter.
                    numerator.index_add_(0, voxel, values * part)
                    weight.index_add_(0, voxel, shares * part)

    def add(self, other: BackProjector) -> None:
        """Add the sums of another one of the same box and pixels."""
        self.count += other.count
        self._numerator += other._numerator
        self._weight += other._weight

    def state(self) -> dict[str, Tensor]:
        """The sums, to be kept."""
        return {"numerator": torch.view_as_real(self._numerator), "weight": self._weight}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the sums of :meth:`state`."""
        self._numerator.copy_(torch.view_as_complex(state["numerator"]))
        self._weight.copy_(state["weight"])

    def scale(self, factor: float) -> None:
        """Multiply the sums, so that what was inserted counts less, or more, than what comes."""
        self._numerator *= factor
        self._weight *= factor

    def shell_weights(self) -> tuple[Tensor, Tensor]:
        """What the images have covered, in shells as those of the FSC, (L // 2 + 1,) float64 each.

        Returns:
            the mean weight of a shell's voxels, and the share of them with more than a thousandth of it.
        """
        outside = self.image_size // 2 + 1
        count, total, seen = torch.zeros(3, outside + 1, dtype=torch.float64, device=self.weight.device)
        for shell, weight in zip(self._shells(), self.weight, strict=True):
            count += shell.bincount(minlength=outside + 1)
            total += shell.bincount(weight.flatten().double(), outside + 1)
        mean = total / count
        for shell, weight in zip(self._shells(), self.weight, strict=True):
            seen += shell[weight.flatten() > _FLOOR * mean[shell]].bincount(minlength=outside + 1)
        return mean[:outside], (seen / count)[:outside]

    def volume(self, noise_to_signal: Tensor | None = None) -> Volume:
        """The volume, inside the sphere that the images' box holds whatever the orientation.

        Args:
            noise_to_signal: (L // 2 + 1,) power of the noise over that of the signal in a shell's average voxel, for
                the Wiener filter: that much of the shell's mean weight is added to the weight. By default nothing is.
        """
        mean, _ = self.shell_weights()
        wiener = torch.zeros_like(mean) if noise_to_signal is None else mean * noise_to_signal.to(mean)
        beyond = mean.new_full((1,), torch.inf)  # so that it becomes 0
        added = torch.cat([wiener, beyond]).float()
        floor = torch.cat([_FLOOR * mean, beyond]).float().clamp_min(torch.finfo(torch.float32).tiny)
        size, padded = self.image_size, _PADDING * self.image_size
        spectrum = self.numerator.new_empty(padded, padded, size + 1)
        planes = zip(self._shells(), self.weight, self.numerator, strict=True)
        # At both ends of z and y is the Nyquist frequency, which is zero; once is enough.
        for estimate, (shell, weight, numerator) in zip(spectrum, planes, strict=False):
            divisor = weight.maximum(floor[shell].view_as(weight)) + added[shell].view_as(weight)
            estimate.copy_((numerator / divisor)[:-1])
        # The inverse transform, axis by axis, of which only the box is kept.
        kept = (torch.arange(size, device=spectrum.device) - size // 2) % padded
        for axis in (0, 1):
            spectrum = torch.fft.ifft(torch.fft.ifftshift(spectrum, axis), dim=axis).index_select(axis, kept)
        data = without_interpolation(torch.fft.irfft(spectrum, n=padded).index_select(2, kept), padded)
        return Volume(data * spherical_mask(size, size / 2 - _EDGE, _EDGE).to(data), self.pixel_size)

    def _shells(self) -> Iterator[Tensor]:
        """For every plane of the grid the shells of its voxels, flat; L // 2 + 1 from the Nyquist frequency on."""
        axis = torch.arange(-self.image_size, self.image_size + 1, device=self.weight.device) ** 2
        plane = axis[:, None] + axis[self.image_size :]
        for z in axis:
            squared = (plane + z).flatten()
            shell = shell_number(squared, _PADDING)
            yield torch.where(squared < self.image_size**2, shell, self.image_size // 2 + 1)
