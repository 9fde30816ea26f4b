"""The phantom itself: anatomy and disease put together as a CT volume in Hounsfield units with known truth."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pneumonai.pipeline.phantom.anatomy import COARSE_MM, Anatomy, build_anatomy, make_frame
from pneumonai.pipeline.phantom.faint import add_faint_pneumonia, add_faint_viral
from pneumonai.pipeline.phantom.grid import Grid, interpolate, occupancy, paint_tubes, smooth_noise
from pneumonai.pipeline.phantom.lesions import Chest, add_lobar, add_variants, add_viral
from pneumonai.pipeline.phantom.lookalikes import add_lookalikes
from pneumonai.pipeline.phantom.patient import Difficulty, Kind, Patient, draw_patient
from pneumonai.pipeline.phantom.tubes import branch, hila, main_airways, ribs

SMALLEST_SIDE = 32
"""Voxels; a thorax in fewer has no shape."""


@dataclass(frozen=True)
class Phantom:
    """One synthetic patient. All arrays are indexed ``[i, j, k]``: towards the patient's left, posterior, head.

    Attributes:
        kind: what it shows.
        seed: which patient of that kind.
        image: int16, HU.
        lungs: uint8, 0, 1 right, 2 left; lesions and vessels inside the lung are part of it.
        lobes: uint8, 0, 1 right upper, 2 middle, 3 right lower, 4 left upper, 5 left lower.
        infection: uint8, 0 or 1.
        airway: uint8, trachea and main bronchi.
        affine: 4 x 4, voxel index -> mm, RAS+.
        label: class index (normal 0, ncp 1, cp 2).
        difficulty: how plainly it shows what it shows.
    """

    kind: Kind
    seed: int
    image: np.ndarray
    lungs: np.ndarray
    lobes: np.ndarray
    infection: np.ndarray
    airway: np.ndarray
    affine: np.ndarray
    label: int
    difficulty: Difficulty = Difficulty.USUAL

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Millimetres between voxels along ``i, j, k``."""
        si, sj, sk = (float(length) for length in np.linalg.norm(self.affine[:3, :3], axis=0))
        return si, sj, sk

    @property
    def name(self) -> str:
        """File name without ending, such as ``ncp_0007``."""
        return f"{self.kind.value}_{self.seed:04d}"


def make_phantom(
    kind: Kind | str,
    seed: int,
    *,
    shape: tuple[int, int, int] = (256, 256, 96),
    spacing: tuple[float, float, float] | None = None,
    difficulty: Difficulty | str = Difficulty.USUAL,
) -> Phantom:
    """Make the phantom of a seed; the same call gives the same voxels.

    A hard one is the same patient's anatomy with small and faint lesions in a noisier image, and with what healthy
    lungs show that looks like disease, drawn in the same way for every kind; ``infection`` holds the lesions alone.

    Args:
        kind: normal, ncp or cp.
        seed: which patient, 0 or more.
        shape: voxels along ``i, j, k``, at least 32 each.
        spacing: mm along ``i, j, k``; by default such that the thorax fits the volume.
        difficulty: usual, hard, or mixed: hard for an odd seed, usual for an even one.

    Raises:
        ValueError: for an unknown kind or difficulty, a negative seed, a shape under 32 or a spacing that is not
            positive.
    """
    kind, difficulty = Kind(kind), Difficulty(difficulty).of_seed(seed)
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    if len(shape) != 3 or min(shape) < SMALLEST_SIDE:
        raise ValueError(f"shape must be three numbers of at least {SMALLEST_SIDE}, got {tuple(shape)}")
    if spacing is not None and (len(spacing) != 3 or min(spacing) <= 0):
        raise ValueError(f"spacing must be three positive numbers in mm, got {tuple(spacing)}")
    # The first six streams are those of every usual phantom; what is hard draws from its own.
    streams = [np.random.default_rng(child) for child in np.random.SeedSequence([seed, kind.label]).spawn(8)]
    patient = draw_patient(streams[0])
    if difficulty is Difficulty.HARD:
        patient = _harder(patient, streams[6])
    grid = _place_grid(patient, streams[1], shape, spacing)
    image, chest, airway = _healthy_chest(patient, grid, streams)
    add_variants(
        chest,
        streams[4],
        image,
        dependent=patient.dependent,
        band=patient.band,
        emphysema=patient.emphysema,
    )
    if difficulty is Difficulty.HARD:
        add_lookalikes(chest, streams[6], image, roots=hila(patient))
        infection = _HARD_DISEASE[kind](chest, streams[7], image)
    else:
        infection = _DISEASE[kind](chest, streams[4], image)
    affine = np.diag([-grid.spacing[0], -grid.spacing[1], grid.spacing[2], 1.0])
    affine[:3, 3] = -grid.origin[0], -grid.origin[1], grid.origin[2]
    return Phantom(
        kind=kind,
        seed=int(seed),
        image=_scan(patient, grid, streams[5], image),
        lungs=chest.lungs,
        lobes=chest.lobes,
        infection=infection,
        airway=airway,
        affine=affine,
        label=kind.label,
        difficulty=difficulty,
    )


def _add_nothing(chest: Chest, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """No disease: an empty mask."""
    return np.zeros(chest.grid.shape, np.uint8)


_DISEASE = {Kind.NORMAL: _add_nothing, Kind.NCP: add_viral, Kind.CP: add_lobar}
_HARD_DISEASE = {Kind.NORMAL: _add_nothing, Kind.NCP: add_faint_viral, Kind.CP: add_faint_pneumonia}


def _harder(patient: Patient, rng: np.random.Generator) -> Patient:
    """The same patient in a noisier image, with a density that says less of the class."""
    return replace(
        patient,
        noise_hu=patient.noise_hu + rng.uniform(8, 20),
        lung_hu=float(np.clip(patient.lung_hu + rng.normal(0, 22), -890, -720)),
        side_hu=patient.side_hu + rng.normal(0, 16),
    )


def _place_grid(
    patient: Patient,
    rng: np.random.Generator,
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float] | None,
) -> Grid:
    """A grid around the chest: as wide as the body with some air, from under the recesses to over the apices."""
    wall = patient.fat + patient.muscle
    field = 2 * (patient.half_width + wall) * rng.uniform(1.06, 1.16)
    below, over = rng.uniform(20, 34), rng.uniform(12, 28)
    if spacing is None:
        height = patient.height + below + over
        # In-plane voxels are square, as in a scanner, and the narrower side still holds the chest.
        spacing = (field / min(shape[:2]), field / min(shape[:2]), height / (shape[2] - 1))
    centre = (rng.uniform(-6, 6), 12.0 + rng.uniform(0, 14), 0.5 * (patient.height + over - below))
    origin = tuple(c - 0.5 * (n - 1) * s for c, n, s in zip(centre, shape, spacing, strict=True))
    ints, steps = tuple(int(n) for n in shape), tuple(float(s) for s in spacing)
    return Grid((ints[0], ints[1], ints[2]), (steps[0], steps[1], steps[2]), (origin[0], origin[1], origin[2]))


def _lay(image: np.ndarray, depth: np.ndarray, edge: float, hu: float | np.ndarray) -> None:
    """Replace what lies inside a surface by ``hu``, with a soft edge."""
    image += occupancy(depth, edge) * (hu - image)


def _body(patient: Patient, grid: Grid, coarse: Grid, anatomy: Anatomy, rng: np.random.Generator) -> np.ndarray:
    """Everything but the lungs: air, table, chest wall, mediastinum, abdomen, bones; float32 HU."""
    edge = grid.edge_mm
    x, y, z = grid.axes()
    texture = smooth_noise(rng, grid, 9.0)
    image = np.full(grid.shape, -1000.0, np.float32)
    table = patient.half_depth + patient.muscle + patient.fat + 14.0 - 34.0 * (x / 200.0) ** 2
    inner = np.minimum(y - table, table + 26.0 - y)
    inner = np.minimum(inner, 205.0 - np.abs(x))
    plate = occupancy(inner, edge) * 90 + occupancy(1.8 - np.abs(y - table), edge) * 720
    image += plate + 0 * z
    full = {
        name: interpolate(getattr(anatomy, name), coarse, grid)
        for name in ("skin", "muscle", "cavity", "mediastinum", "organs", "stomach", "gas", "vertebrae")
    }
    _lay(image, full["skin"], edge, -102.0 + 6 * texture)
    _lay(image, 3.0 - np.abs(full["skin"] - 1.0), edge, 15.0)
    # Planes of fat run between the muscles outside the ribs.
    _lay(image, full["muscle"], edge, 50 - 95 * np.clip(1.4 - np.abs(texture - 0.9) / 0.12, 0, 1))
    # Fat around the heart and vessels; muscle beside the spine and above the inlet of the chest.
    solid = np.maximum(occupancy(y - patient.spine + 8, 12.0), occupancy(z - 0.9 * patient.height, 20.0))
    _lay(image, full["cavity"] - 2.0, edge, 140 * solid - 92.0 + 6 * texture)
    _lay(image, full["organs"], edge, 55.0 + 3 * texture)
    _lay(image, full["stomach"], edge, 25.0 + 8 * texture)
    _lay(image, full["gas"], edge, -960.0)
    _lay(image, full["mediastinum"], edge, 42.0 + 3 * texture)
    _lay(image, full["vertebrae"], edge, 420.0)
    _lay(image, full["vertebrae"] - 2.5, edge, 190.0 + 25 * texture)
    bones, cartilage = ribs(patient)
    for segments, hu in ((cartilage, 95.0), (bones, 560.0)):
        share = np.zeros(grid.shape, np.float32)
        paint_tubes(share, grid, segments)
        image += share * (hu - image)
    marrow = np.zeros(grid.shape, np.float32)
    paint_tubes(marrow, grid, [(a, b, r - 2.2, s - 2.2) for a, b, r, s in bones if min(r, s) > 3])
    image += marrow * (180 - image)
    return image


def _healthy_chest(
    patient: Patient, grid: Grid, streams: list[np.random.Generator]
) -> tuple[np.ndarray, Chest, np.ndarray]:
    """The image without disease or scanner (float32 HU), what lesions need to know, and the airway mask."""
    edge = grid.edge_mm
    coarse = grid.coarsened(COARSE_MM)
    anatomy = build_anatomy(patient, streams[2], coarse)
    image = _body(patient, grid, coarse, anatomy, streams[2])
    air, wall = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.float32)
    tubes = main_airways(patient)
    paint_tubes(air, grid, tubes)
    paint_tubes(wall, grid, [(a, b, r + 2.0, s + 2.0) for a, b, r, s in tubes])
    right, left = (interpolate(field, coarse, grid) for field in (anatomy.right_lung, anatomy.left_lung))
    depth = np.maximum(right, left)
    lungs = np.where(right > left, np.uint8(1), np.uint8(2)) * (depth > 0)
    lungs[wall > 0.5] = 0
    lungs = lungs.astype(np.uint8)
    parenchyma, inner_air = _parenchyma(patient, grid, coarse, anatomy, streams[3])
    image += occupancy(depth, edge) * (parenchyma - image)
    image += wall * (30 - image)
    image += air * (-985 - image)
    costal = np.minimum(interpolate(anatomy.cavity, coarse, grid) - 1.5, depth + 4)
    chest = Chest(
        grid=grid,
        lungs=lungs,
        lobes=_lobes(patient, grid, lungs, smooth_noise(streams[3], grid, 50.0)),
        depth=depth,
        costal=costal,
        fine=smooth_noise(streams[3], grid, 6.0),
        coarse=smooth_noise(streams[3], grid, 18.0),
        air=inner_air,
    )
    if patient.fissures:
        _draw_fissures(patient, chest, image)
    airway = (air > 0.5).astype(np.uint8)
    return image, chest, airway


def _parenchyma(
    patient: Patient, grid: Grid, coarse: Grid, anatomy: Anatomy, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Aerated lung with vessels and airways (float32 HU everywhere), and the share of airway in each voxel."""
    x, y, _ = grid.axes()
    tissue = patient.lung_hu + 14 * smooth_noise(rng, grid, 30.0)
    tissue += patient.gradient_hu * np.clip(y / (2 * patient.half_depth), -0.5, 0.5)
    tissue -= 0.5 * patient.side_hu * np.tanh(x / 10)
    vessels, wall, air = (np.zeros(grid.shape, np.float32) for _ in range(3))
    for side, field in ((-1, anatomy.right_lung), (1, anatomy.left_lung)):
        root = hila(patient)[side]
        places = np.argwhere(field > 2.5)
        draw = places[rng.choice(len(places), 520, replace=False)] + rng.uniform(-0.5, 0.5, (520, 3))
        targets = np.array(coarse.origin) + draw * COARSE_MM
        arteries = branch(rng, root + np.array([0, -4, 2]), targets[:280], 7.0 * patient.vessels)
        veins = branch(rng, root + np.array([0, -10, -22]), targets[280:470], 6.0 * patient.vessels)
        paint_tubes(vessels, grid, arteries + veins)
        bronchi = branch(rng, root, targets[470:], 4.6)
        paint_tubes(wall, grid, [(a, b, r + 0.9, s + 0.7) for a, b, r, s in bronchi])
        paint_tubes(air, grid, bronchi)
    np.maximum(vessels, 0.55 * wall, out=vessels)
    tissue += vessels * (40 - tissue)
    tissue += air * (-960 - tissue)
    return tissue, air


def _fissure_depths(patient: Patient, grid: Grid, noise: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
    """Height above the oblique and above the horizontal fissure, mm."""
    frame = make_frame(patient, grid)
    slope = 0.40 * patient.height / patient.half_depth
    oblique = (frame.z - patient.oblique * patient.height - slope * frame.y) / float(np.hypot(1, slope))
    across = np.abs(frame.x) / patient.half_width
    horizontal = frame.z - patient.horizontal * patient.height + 14 * across**2
    return oblique + 2.5 * noise, horizontal + 2.5 * noise


def _lobes(patient: Patient, grid: Grid, lungs: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """Lobes 1..5 of the lung mask."""
    oblique, horizontal = _fissure_depths(patient, grid, noise)
    right = np.where(oblique < 0, np.uint8(3), np.where(horizontal < 0, np.uint8(2), np.uint8(1)))
    left = np.where(oblique < 0, np.uint8(5), np.uint8(4))
    return np.where(lungs == 1, right, np.where(lungs == 2, left, np.uint8(0))).astype(np.uint8)


def _draw_fissures(patient: Patient, chest: Chest, image: np.ndarray) -> None:
    """Thin lines between the lobes, as thick as the scanner shows them."""
    for axis in range(3):
        ahead, behind = [slice(None)] * 3, [slice(None)] * 3
        ahead[axis], behind[axis] = slice(1, None), slice(None, -1)
        first, second = chest.lobes[tuple(ahead)], chest.lobes[tuple(behind)]
        line = (first != second) & (chest.lungs[tuple(ahead)] == chest.lungs[tuple(behind)]) & (first > 0)
        image[tuple(ahead)] += np.float32(70 * patient.fissures) * line


def _scan(patient: Patient, grid: Grid, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """Add motion and noise as a scanner would and round to int16 HU."""
    if patient.motion:
        # Breathing blurs the slices over the diaphragm.
        top = int(0.45 * grid.shape[2])
        shift = max(1, round(2.5 * patient.motion / grid.spacing[1]))
        moved = image[:, shift:, :top] * 0.5 + image[:, :-shift, :top] * 0.5
        image[:, shift:, :top] = moved
    noise = rng.standard_normal(grid.shape, dtype=np.float32)
    noise[1:] += 0.45 * noise[:-1]
    noise[:, 1:] += 0.45 * noise[:, :-1]
    image += noise * np.float32(patient.noise_hu / 1.2)
    np.clip(image, -1024, 1800, out=image)
    return np.rint(image, out=image).astype(np.int16)
