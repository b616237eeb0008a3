import math
from typing import Literal

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from scipy.special import xlogy

from cryozoo.geometry import (
    geodesic_distance,
    point_group,
    random_rotations,
    rotvec_to_matrix,
    so3_grid,
    special_procrustes,
    symmetric_distance,
)
from cryozoo.geometry.harmonics.series import SO3Series
from cryozoo.geometry.harmonics.wigner import WignerD, wigner_d
from cryozoo.geometry.plane_groups import PlaneGroup
from cryozoo.heads.so3_harmonic import SO3Harmonic, harmonic_degree, harmonic_dim

Confidence = Literal["height", "entropy", "probability"]
CONFIDENCES: list[Confidence] = ["height", "entropy", "probability"]
HEAD = SO3Harmonic()
GRID = so3_grid(3)


def rotations(n: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(Rotation.random(n, rng=np.random.default_rng(seed)).as_matrix())


def raw_vectors(n: int, dtype: torch.dtype = torch.float32, scale: float = 1.0, lmax: int = 6) -> torch.Tensor:
    return torch.from_numpy(scale * np.random.default_rng(0).standard_normal((n, harmonic_dim(lmax)))).to(dtype)


def series(raw: torch.Tensor, rotation: torch.Tensor, lmax: int = 6) -> torch.Tensor:
    """F of every raw vector at every rotation by its definition, (B, K) and (M, 3, 3) -> (B, M)."""
    total, start = torch.zeros(len(raw), len(rotation), dtype=raw.dtype), 0
    for degree in range(lmax + 1):
        size = 2 * degree + 1
        f = raw[:, start : start + size**2].reshape(-1, size, size)  # [b, n, m]: column n after column
        total += torch.einsum("bnm,rmn->br", f, wigner_d(degree, rotation.to(raw.dtype)))
        start += size**2
    return total


def peaks(*centres: torch.Tensor, height: float = 60.0) -> torch.Tensor:
    """Raw vectors (B, 455) of F = sum over centres (B, 3, 3) of height x (sum of characters of R^T centre) / 49."""
    return sum((WignerD(6)(centre) for centre in centres), torch.zeros(455)) * height / 49


def act(head: SO3Harmonic, raw: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
    """The raw vector's representation applied to it."""
    moved, start = [], 0
    for copies, (matrix,) in head.representation(phi[None]):
        size = len(matrix)
        block = raw[:, start : start + copies * size].unflatten(1, (copies, size))
        moved.append((block @ matrix.mT).flatten(1))
        start += copies * size
    assert start == raw.shape[1]
    return torch.cat(moved, 1)


@pytest.mark.parametrize("lmax", [2, 3, 6, 9])
def test_length_of_the_raw_vector(lmax: int) -> None:
    assert harmonic_dim(lmax) == sum((2 * degree + 1) ** 2 for degree in range(lmax + 1))
    assert harmonic_degree(harmonic_dim(lmax)) == lmax
    assert SO3Harmonic(lmax=lmax, order=1).raw_dim == harmonic_dim(lmax)
    for dim in (0, 1, 9, 10, harmonic_dim(lmax) + 1):
        assert harmonic_degree(dim) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("lmax", "order"), [(6, 0), (2, 1), (3, 2), (6, 2), (8, 2)])
def test_density_on_the_grid_is_the_dense_evaluation(lmax: int, order: int, dtype: torch.dtype) -> None:
    raw = raw_vectors(5, dtype, lmax=lmax)
    log_prob = SO3Harmonic(lmax=lmax, order=order).log_prob_grid(raw)
    assert log_prob.dtype == dtype
    values = series(raw.double(), so3_grid(order), lmax)
    expected = values - torch.logsumexp(values, 1, keepdim=True) + math.log(values.shape[1])
    torch.testing.assert_close(log_prob.double(), expected, rtol=0, atol=1e-5 * values.abs().max().item())
    torch.testing.assert_close(log_prob.exp().mean(1), torch.ones(5, dtype=dtype), rtol=0, atol=1e-5)


def test_density_on_the_default_grid() -> None:
    raw = raw_vectors(3)
    some = torch.arange(0, len(GRID), 37)
    expected = series(raw.double(), GRID[some])
    found = HEAD.log_prob_grid(raw)[:, some].double()
    difference = found - expected
    torch.testing.assert_close(difference, difference[:, :1].expand_as(difference), rtol=0, atol=1e-4)


@pytest.mark.parametrize("lmax", [2, 3, 6])
def test_mode_is_the_highest_point(lmax: int) -> None:
    """Of white noise, which has many peaks about as high as the highest, in 40 of 40 cases."""
    head, raw = SO3Harmonic(lmax=lmax), raw_vectors(40, torch.float64, lmax=lmax)
    mode = head(raw).rotation
    height = series(raw, mode, lmax).diagonal()
    assert (height > head.series.values(raw).amax(1)).all()
    assert (height[:, None] > series(raw, rotations(3000), lmax)).all()
    for axis in np.eye(3):
        for angle in (1e-4, -1e-4):
            turn = torch.from_numpy(Rotation.from_rotvec(angle * axis).as_matrix())
            assert (height >= series(raw, mode @ turn, lmax).diagonal()).all()


@pytest.mark.parametrize("lmax", [2, 4, 6, 8])
def test_the_highest_of_several_peaks_is_hardly_ever_missed(lmax: int) -> None:
    head, k = SO3Harmonic(lmax=lmax, order=0), harmonic_dim(lmax)
    raw = WignerD(lmax)(rotations(2000).unflatten(0, (400, 5))).sum(1).float()
    raw = torch.cat([raw, raw_vectors(400, lmax=lmax)]) / k
    height = (raw * WignerD(lmax)(head(raw).rotation)).sum(1)
    finer = SO3Series(lmax, 3)
    highest = torch.cat([finer.values(part).amax(1) for part in finer.parts(raw)])
    assert (height < highest).double().mean() < 0.01


def test_of_peaks_nearly_as_high_the_higher_counts() -> None:
    """All but 1 in 1000. The grid says otherwise in half of the cases, and one step uphill in 7 %."""
    centres = rotations(4000).unflatten(0, (2000, 2))
    shape = torch.cat([torch.full((n * n,), n * math.exp(-(n * n - 1) / 400)) for n in range(1, 14, 2)])
    raw = (shape * WignerD(6)(centres) * torch.tensor([1.0, 0.99])[:, None]).sum(1)
    raw = raw / raw.norm(dim=1, keepdim=True)
    expansion = HEAD.maxima.expansion(raw)
    higher = HEAD.maxima.ascend(expansion, HEAD.maxima.at(expansion, centres), 12).height.amax(1)
    height = (raw * WignerD(6)(HEAD(raw).rotation)).sum(1)
    assert (height < higher * (1 - 1e-5)).double().mean() < 0.001


def test_mode_is_exact_where_the_grid_is_degrees_off() -> None:
    centres = rotations(60)
    raw = peaks(centres)
    on_grid = torch.rad2deg(geodesic_distance(GRID[HEAD.series.values(raw.float()).argmax(1)], centres))
    assert on_grid.mean() > 3
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.float64, 1e-9)):
        refined = HEAD(raw.to(dtype)).rotation.double()
        assert torch.rad2deg(geodesic_distance(refined, centres)).max() < tolerance


def test_predictions_do_not_depend_on_the_call_or_the_batch() -> None:
    raw = raw_vectors(20)
    first, again = HEAD(raw), HEAD(raw)
    assert torch.equal(first.rotation, again.rotation)
    assert torch.equal(first.confidence, again.confidence)
    single = [HEAD(one[None]) for one in raw]
    torch.testing.assert_close(torch.cat([p.rotation for p in single]), first.rotation, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.cat([p.confidence for p in single]), first.confidence, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_any_rotation_on_the_left_acts_by_the_representation(dtype: torch.dtype, tolerance: float) -> None:
    raw = (peaks(rotations(30)) + raw_vectors(30, torch.float64, 0.3)).to(dtype)
    mode = HEAD(raw).rotation
    for phi in rotations(4, 1).to(dtype):
        error = (HEAD(act(HEAD, raw, phi)).rotation - phi @ mode).abs().amax()
        assert error < tolerance
        assert (HEAD(act(HEAD, raw, phi.mT)).rotation - phi @ mode).abs().amax() > 0.5
    assert [copies for copies, _ in HEAD.representation(torch.eye(3)[None])] == [1, 3, 5, 7, 9, 11, 13]


def test_entropy_of_a_wide_density_is_that_on_the_grid() -> None:
    raw = raw_vectors(4, torch.float64) * torch.tensor([0.0, 0.01, 0.05, 0.1], dtype=torch.float64)[:, None]
    p = HEAD.log_prob_grid(raw).exp().numpy() / len(GRID)
    naive = [-sum(x * math.log(x * len(GRID)) for x in row if x > 0) for row in p]
    entropy = HEAD.entropy(raw)
    np.testing.assert_allclose(entropy, naive, rtol=1e-6, atol=1e-6)
    assert entropy[0] == 0
    entropy = HEAD.entropy(raw[-1:] * torch.tensor([1.0, 10, 100, 1e4])[:, None])
    assert (entropy.diff() < -1).all()
    torch.testing.assert_close(SO3Harmonic(confidence="entropy")(raw).confidence, -HEAD.entropy(raw))


def test_height_is_the_log_density_at_the_mode_less_its_mean() -> None:
    raw = raw_vectors(6, torch.float64)
    pose, log_prob = HEAD(raw), HEAD.log_prob_grid(raw)
    at_mode = series(raw, pose.rotation).diagonal() - series(raw, GRID[:1])[:, 0] + log_prob[:, 0]
    torch.testing.assert_close(pose.confidence, at_mode - log_prob.mean(1), rtol=0, atol=5e-3)
    raw[:, 0] += 100  # a constant changes no density
    torch.testing.assert_close(HEAD(raw).confidence, pose.confidence)
    torch.testing.assert_close(HEAD(2 * raw).confidence, 2 * pose.confidence)


def test_derivatives_of_the_mode_and_of_the_confidence() -> None:
    raw = raw_vectors(3, torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda r: HEAD(r).rotation, raw, fast_mode=True)
    for confidence in CONFIDENCES:
        head = SO3Harmonic(order=2, confidence=confidence)
        # wide enough for the grid, else lattices move with the raw vector
        wide = (0.1 * raw).detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda r, head=head: head(r).confidence, wide, fast_mode=True)


@pytest.mark.parametrize("confidence", CONFIDENCES)
def test_confidence_is_the_same_of_turned_and_mirrored_images(confidence: Confidence) -> None:
    head, phi = SO3Harmonic(confidence=confidence), PlaneGroup("D4").phi
    for height in (10.0, 60.0, 200.0):
        raw = peaks(rotations(40), height=height).double()
        expected = head(raw).confidence
        for element in phi:
            torch.testing.assert_close(head(act(head, raw, element)).confidence, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("confidence", CONFIDENCES)
@pytest.mark.parametrize("scale", [0.0, 1e-40, 1e-20, 1e-3, 1e3, 1e30])
def test_everything_is_finite_at_any_scale(scale: float, confidence: Confidence) -> None:
    raw = (raw_vectors(4) * scale).requires_grad_()
    pose = SO3Harmonic(order=2, confidence=confidence)(raw)
    for output in (pose.rotation.sum(), pose.confidence.sum()):
        raw.grad = None
        output.backward(retain_graph=True)
        assert output.isfinite()
        assert raw.grad is not None
        assert raw.grad.isfinite().all()
    assert HEAD.log_prob_grid(raw).isfinite().all()


# Flat along a circle or a ball of rotations: no unique mode, and a Hessian that cannot be inverted.
@pytest.mark.parametrize("entries", [[0], [1], [5], [9], [1, 9], [10]])
def test_ridges_give_a_rotation_and_finite_gradients(entries: list[int]) -> None:
    raw = torch.zeros(1, 455)
    raw[0, entries] = 1.0
    raw.requires_grad_()
    rotation = HEAD(raw).rotation
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3)[None], rtol=0, atol=1e-6)
    rotation.sum().backward()
    assert raw.grad is not None
    assert raw.grad.isfinite().all()


def test_modes_of_one_two_and_no_peak() -> None:
    a, b = rotations(8, 2), rotations(8, 3)
    apart = torch.rad2deg(geodesic_distance(a, b)) > 60
    a, b = a[apart], b[apart]
    raw = peaks(a) + peaks(b, height=58.0)
    modes = HEAD.modes(raw.float(), 2)
    torch.testing.assert_close(modes.rotation[:, 0].float(), HEAD(raw.float()).rotation, rtol=0, atol=1e-5)
    for found, true in zip(modes.rotation.unbind(1), (a, b), strict=True):
        assert torch.rad2deg(geodesic_distance(found.double(), true)).max() < 3
    assert (modes.probability[:, 0] > 2 * modes.probability[:, 1]).all()
    assert (modes.probability[:, 1] > 0.02).all()
    # tr(M^T R) has one maximum, and a constant has none
    single = torch.zeros(2, 455)
    single[0, 1:10] = torch.randn(9, generator=torch.Generator().manual_seed(0))
    modes = HEAD.modes(single, 3)
    assert modes.rotation.isfinite().all((2, 3)).tolist() == [[True, False, False], [False, False, False]]
    assert (modes.probability > 0).tolist() == [[True, False, False], [False, False, False]]


# Standard deviations from 20 to 0.7 degrees.
@pytest.mark.parametrize("height", [1.0, 4.0, 8.0, 30.0, 300.0, 1000.0])
def test_probability_and_entropy_of_one_peak_are_integrals_over_its_angle(height: float) -> None:
    """F depends on the angle t from the centre alone, whose uniform density is (1 - cos t) / pi."""
    t = np.radians(np.linspace(0, 180, 100_001)[1:])
    f = height / 49 * sum(np.sin((degree + 0.5) * t) / np.sin(t / 2) for degree in range(7))
    uniform = (1 - np.cos(t)) / (1 - np.cos(t)).sum()
    density = np.exp(f - height) / (uniform * np.exp(f - height)).sum()
    inside = (uniform * density)[t < math.radians(15)].sum()
    information = xlogy(uniform * density, density).sum()
    raw = peaks(rotations(5, 5), height=height).float()
    np.testing.assert_allclose(HEAD.modes(raw, 1).probability[:, 0], inside, rtol=0, atol=0.02)
    np.testing.assert_allclose(SO3Harmonic(confidence="probability")(raw).confidence, inside, rtol=0, atol=0.02)
    np.testing.assert_allclose(HEAD.entropy(raw), -information, rtol=0, atol=0.02)


def test_a_molecule_with_d2_shows_four_modes() -> None:
    """Four peaks as one learns them without knowing the symmetry; one peak, made symmetric by the head; one alone."""
    centre, group = rotations(5, 7), point_group("D2")
    mates = [centre @ g for g in group]
    four = peaks(*mates, height=30.0)
    symmetric = SO3Harmonic(symmetry="D2")
    for head, raw in ((HEAD, four), (symmetric, 4 * peaks(centre, height=30.0)), (symmetric, four)):
        modes = head.modes(raw.float(), 5)
        assert modes.probability[:, :4].sum(1).min() > 0.6
        np.testing.assert_allclose(modes.probability[:, :4], modes.probability[:, :1].expand(-1, 4), rtol=0.1)
        assert (modes.probability[:, 4] < 0.05 * modes.probability[:, 0]).all()
        for found in modes.rotation[:, :4].double().unbind(1):
            assert torch.rad2deg(symmetric_distance(found, centre, group)).max() < 0.1
        distances = torch.rad2deg(geodesic_distance(modes.rotation[:, :4, None], modes.rotation[:, None, :4]))
        assert (distances + 180 * torch.eye(4) > 179).all()
    alone = HEAD.modes(peaks(centre).float(), 2).probability
    assert (alone[:, 1] < 0.01 * alone[:, 0]).all()


@pytest.mark.parametrize("symmetry", ["C1", "C3", "D2", "T"])
def test_symmetry_averages_over_the_mates(symmetry: str) -> None:
    group = point_group(symmetry)
    head = SO3Harmonic(symmetry=symmetry, order=2)
    raw, points = raw_vectors(4, torch.float64), rotations(30, 8)
    mean = sum(series(raw, points @ g) for g in group) / len(group)
    averaged = head.symmetrised(raw)
    torch.testing.assert_close(series(averaged, points), mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(head.symmetrised(averaged), averaged, rtol=0, atol=1e-6)
    # the pose carries what its density is made of
    torch.testing.assert_close(head(raw).raw, averaged)
    plain = SO3Harmonic(order=2)
    torch.testing.assert_close(head.log_prob_grid(raw), plain.log_prob_grid(averaged), rtol=0, atol=1e-5)
    torch.testing.assert_close(head.entropy(raw), plain.entropy(averaged), rtol=0, atol=1e-5)
    height, least = series(averaged, head(raw).rotation).diagonal(), series(averaged, points).amax(1)
    assert (height > least).all()
    # and commutes with what is done to the image
    phi = rotations(1, 9)[0]
    torch.testing.assert_close(head.symmetrised(act(head, raw, phi)), act(head, averaged, phi), rtol=0, atol=1e-5)


def test_nothing_is_saved_with_the_weights() -> None:
    assert not SO3Harmonic(symmetry="D2").state_dict()
    buffers = sum(b.numel() * b.element_size() for b in HEAD.buffers())
    assert buffers < 4e6


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="lmax 1, expected at least 2"):
        SO3Harmonic(lmax=1)
    with pytest.raises(ValueError, match="order -1"):
        SO3Harmonic(order=-1)
    with pytest.raises(ValueError, match="'gap', expected 'height', 'entropy' or 'probability'"):
        SO3Harmonic(confidence="gap")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="X7"):
        SO3Harmonic(symmetry="X7")


@pytest.mark.parametrize(("symmetry", "lowest"), [("C7", 7), ("D7", 7), ("C3", 3), ("T", 3), ("O", 4), ("I1", 6)])
def test_degrees_too_low_for_a_symmetry_are_refused(symmetry: str, lowest: int) -> None:
    """Below, the means of random functions over the group are constant, or constant about the axis."""
    rotations = random_rotations(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wigner = WignerD(lowest)
    degree = torch.cat([torch.full(((2 * k + 1) ** 2,), k) for k in range(lowest + 1)])
    mean = sum(wigner(rotations @ element) for element in point_group(symmetry)) / len(point_group(symmetry))
    about = rotvec_to_matrix(torch.tensor([0.0, 0, 0.1], dtype=torch.float64))
    turned = sum(wigner(rotations @ about @ element) for element in point_group(symmetry)) / len(point_group(symmetry))
    changes = (mean - turned).abs().amax(0)
    assert changes[degree < lowest].max() < 1e-10
    assert changes[degree == lowest].max() > 1e-3
    if lowest > 2:
        with pytest.raises(ValueError, match=f"expected at least {lowest}"):
            SO3Harmonic(lmax=max(lowest - 1, 2), symmetry=symmetry)
    SO3Harmonic(lmax=lowest, symmetry=symmetry)


def test_the_mean_lies_between_two_minds() -> None:
    """Against the mean over a dense grid; of one mind it is the mode, and of two as likely halfway."""
    lmax, angle = 6, math.radians(50)
    one = random_rotations(8, generator=torch.Generator().manual_seed(0))
    turn, half = (rotvec_to_matrix(torch.tensor([0.0, a, 0.0])) for a in (angle, angle / 2))
    wigner = WignerD(lmax)
    mode, mean = SO3Harmonic(lmax=lmax), SO3Harmonic(lmax=lmax, decode="mean")
    narrow = 3 * wigner(one)
    assert float(geodesic_distance(mean(narrow).rotation, one).max()) < math.radians(0.5)
    wide = 0.4 * (wigner(one) + wigner(turn @ one))
    assert float(geodesic_distance(mean(wide).rotation, half @ one).max()) < math.radians(0.5)
    assert float(geodesic_distance(mode(wide).rotation, half @ one).min()) > math.radians(15)
    grid = so3_grid(3).float()
    weights = (wide @ wigner(grid).T).softmax(1)
    expected = special_procrustes((weights @ grid.flatten(1)).unflatten(1, (3, 3)))
    assert float(geodesic_distance(mean(wide).rotation, expected).max()) < math.radians(0.2)


def test_only_densities_without_symmetry_have_a_mean() -> None:
    with pytest.raises(ValueError, match="decode 'mean', expected 'mode', or 'mean' of densities without symmetry"):
        SO3Harmonic(symmetry="D2", decode="mean")
