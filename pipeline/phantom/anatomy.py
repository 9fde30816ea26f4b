"""Surfaces of the chest as depth fields: positive inside, in mm, on a coarse grid.

Every field is smooth, so the image's grid gets it by interpolation and cuts it at zero with a soft edge.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from pneumonai.pipeline.phantom.grid import Grid, smooth_noise
from pneumonai.pipeline.phantom.patient import Patient

COARSE_MM = 5.0


@dataclass(frozen=True)
class Frame:
    """Coordinates of a grid in the patient's own axes (turned with the patient), and the cavity's outline there."""

    x: np.ndarray
    y: np.ndarray
    z: np.ndarray
    half_width: np.ndarray
    half_depth: np.ndarray
    centre_y: np.ndarray


@dataclass(frozen=True)
class Anatomy:
    """Depth fields in mm (float32, coarse grid) of what the image shows."""

    skin: np.ndarray
    muscle: np.ndarray
    cavity: np.ndarray
    right_lung: np.ndarray
    left_lung: np.ndarray
    mediastinum: np.ndarray
    organs: np.ndarray
    stomach: np.ndarray
    gas: np.ndarray
    vertebrae: np.ndarray


def turn_to_image(patient: Patient, points: np.ndarray) -> np.ndarray:
    """Points ``[..., 3]`` of the patient's own axes in the image's axes, mm."""
    cos, sin = np.cos(patient.turn), np.sin(patient.turn)
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    return np.stack([cos * x - sin * y, sin * x + cos * y, z], axis=-1)


def cavity_profile(patient: Patient, z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Half width, half depth and centre (towards posterior) of the thoracic cavity at heights ``z``, mm."""
    t = np.clip(z / patient.height, -0.4, 0.999)
    width = np.sqrt(1 - np.clip((t - 0.15) / 0.85, 0, 1) ** 2.6)
    depth = np.sqrt(1 - np.clip((t - 0.2) / 0.8, 0, 1) ** 3.0)
    centre = 14.0 * np.clip(t, 0, 1) ** 2
    return patient.half_width * width, patient.half_depth * depth, centre


def make_frame(patient: Patient, grid: Grid) -> Frame:
    """Coordinates of ``grid`` in the patient's axes."""
    x, y, z = grid.axes()
    cos, sin = np.float32(np.cos(patient.turn)), np.float32(np.sin(patient.turn))
    width, depth, centre = (part.astype(np.float32) for part in cavity_profile(patient, z))
    return Frame(cos * x + sin * y, -sin * x + cos * y, z, width, depth, centre)


def _outline(
    x: np.ndarray, y: np.ndarray, half_x: np.ndarray | np.float32, half_y: np.ndarray | np.float32, power: float
) -> np.ndarray:
    """Depth inside a superellipse along the ray from its centre, mm."""
    radius = np.sqrt(x * x + y * y) + 1e-3
    rho = ((np.abs(x) / half_x) ** power + (np.abs(y) / half_y) ** power) ** (1 / power) + 1e-3
    return (radius * (1 / rho - 1)).astype(np.float32)


def _ellipsoid(frame: Frame, centre: tuple[float, float, float], radii: tuple[float, float, float]) -> np.ndarray:
    """Approximate depth inside an ellipsoid, mm."""
    dx, dy, dz = ((axis - c) / r for axis, c, r in zip((frame.x, frame.y, frame.z), centre, radii, strict=True))
    return (1 - np.sqrt(dx * dx + dy * dy + dz * dz)) * np.float32(min(radii))


def _tube(frame: Frame, points: Sequence[tuple[float, float, float]], radius: float) -> np.ndarray:
    """Depth inside a tube along a polyline, mm."""
    depth = np.full(np.broadcast_shapes(frame.x.shape, frame.z.shape), -1e3, np.float32)
    for start, end in pairwise(points):
        step = [float(b - a) for a, b in zip(start, end, strict=True)]
        dx, dy, dz = frame.x - start[0], frame.y - start[1], frame.z - start[2]
        along = np.clip((dx * step[0] + dy * step[1] + dz * step[2]) / sum(s * s for s in step), 0, 1)
        distance = (dx - along * step[0]) ** 2 + (dy - along * step[1]) ** 2 + (dz - along * step[2]) ** 2
        np.maximum(depth, np.float32(radius) - np.sqrt(distance), out=depth)
    return depth.astype(np.float32)


def _diaphragm(patient: Patient, frame: Frame) -> np.ndarray:
    """Height above the diaphragm, mm: positive in the chest."""
    heights = []
    for side, top in ((-1, patient.dome_right), (1, patient.dome_left)):
        dx = (frame.x - side * 0.47 * patient.half_width) / (0.62 * patient.half_width)
        dy = (frame.y + 0.12 * patient.half_depth) / (0.98 * patient.half_depth)
        rho = np.clip(dx * dx + dy * dy, 0, 1.0)
        # The recess behind reaches lower than the one in front.
        fall = top * (1.0 + 0.12 * np.clip(frame.y / patient.half_depth, -1, 1))
        heights.append(top - fall * rho**1.35)
    # A soft maximum joins the domes under the heart.
    return frame.z - np.logaddexp(heights[0] / 6, heights[1] / 6) * 6


def _heart(patient: Patient, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
    """Depth inside the heart and inside the great vessels, mm."""
    base = 0.5 * (patient.dome_right + patient.dome_left)
    centre_y, centre_z = -0.26 * patient.half_depth, base + 0.62 * patient.heart[2]
    cos, sin = float(np.cos(0.55)), float(np.sin(0.55))
    dx, dy = frame.x - patient.heart_shift, frame.y - centre_y
    turned = Frame(cos * dx - sin * dy, sin * dx + cos * dy, frame.z - centre_z + 0.25 * dx, *([frame.z] * 3))
    heart = _ellipsoid(turned, (0, 0, 0), patient.heart)
    h, behind = patient.height, patient.spine
    arch = 0.74 * h
    aorta = _tube(frame, [(22, behind - 12, -60), (22, behind - 12, arch - 22)], 12.5)
    curve = [
        (22, behind - 12, arch - 22), (19, behind - 22, arch - 3), (8, 5, arch + 5), (-8, -18, arch - 8),
        (-10, -24, arch - 38), (2, -20, centre_z + 15),
    ]  # fmt: skip
    aorta = np.maximum(aorta, _tube(frame, curve, 14.0))
    caval = _tube(frame, [(-24, -8, 0.92 * h), (-25, -10, centre_z)], 9.5)
    caval = np.maximum(caval, _tube(frame, [(-18, 8, centre_z), (-18, 12, -60)], 11.0))
    pulmonary = _tube(frame, [(10, -24, 0.5 * h), (16, -8, 0.58 * h), (30, 10, 0.58 * h)], 12.5)
    pulmonary = np.maximum(pulmonary, _tube(frame, [(12, -10, 0.57 * h), (-32, 6, 0.55 * h)], 11.0))
    heads = _tube(frame, [(6, 2, arch), (18, 8, 1.15 * h)], 6.0)
    heads = np.maximum(heads, _tube(frame, [(-8, -8, arch), (-20, 0, 1.15 * h)], 6.5))
    oesophagus = _tube(frame, [(4, behind - 24, 1.2 * h), (6, behind - 24, 0.4 * h), (14, behind - 26, -20)], 7.0)
    vessels = [aorta, caval, pulmonary, heads, oesophagus]
    return heart, np.maximum.reduce(vessels)


def _lung(
    patient: Patient, frame: Frame, side: int, cavity: np.ndarray, above: np.ndarray, soft: np.ndarray
) -> np.ndarray:
    """Depth inside the right (side -1) or left (side 1) lung, mm."""
    u = (frame.y - frame.centre_y) / np.maximum(frame.half_depth, 20.0)
    t = np.clip(frame.z / patient.height, -0.1, 1.05)
    middle = patient.mediastinum
    knots = [-1.2, -0.62, -0.28, 0.1, 0.38, 0.62, 0.85, 1.2]
    widths = [patient.junction, patient.junction, 0.55 * middle, middle, 0.82 * middle, 18.0, 24.0, 30.0]
    half = np.interp(u, knots, widths).astype(np.float32)
    front = np.clip((-u - 0.1) / 0.5, 0, 1)
    # Above the manubrium and at the diaphragm the lungs part again.
    half = half + front * (16 * np.clip((t - 0.80) / 0.15, 0, 1) + 20 * np.clip((0.34 - t) / 0.2, 0, 1))
    half = half + (9.0 if side == 1 else -2.0) * (1 - front)
    shifted = frame.x - front * np.float32(patient.junction_shift)
    lung = np.minimum(cavity - 1.5, side * shifted - half)
    lung = np.minimum(lung, 0.85 * above - 1.0)
    return np.minimum(lung, -soft - 2.0).astype(np.float32)


def _abdomen(
    patient: Patient, rng: np.random.Generator, frame: Frame, below: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Depth inside solid organs with the diaphragm, inside the stomach, and inside gas, mm."""
    width, depth = patient.half_width, patient.half_depth
    liver = np.minimum(below - 2, 0.34 * width - frame.x - 0.35 * (frame.y + 0.2 * depth))
    spleen = _ellipsoid(frame, (0.66 * width, 0.42 * depth, patient.dome_left - 42), (34, 42, 48))
    diaphragm = 2.2 - np.abs(below - 2.0)
    organs = np.maximum(np.maximum(liver, np.minimum(spleen, below - 2)), diaphragm)
    top = patient.dome_left - rng.uniform(34, 46)
    centre = (0.42 * width + rng.uniform(-8, 8), -0.25 * depth + rng.uniform(-10, 10), top)
    stomach = np.minimum(_ellipsoid(frame, centre, (rng.uniform(32, 44), 36, 34)), below - 4)
    # Gas rises to the front of the stomach and leaves a level behind it.
    level = centre[1] + rng.uniform(-14, 14)
    gas = np.minimum(stomach - 4, level - frame.y)
    colon = (0.68 * width, -0.42 * depth, patient.dome_left - rng.uniform(38, 60))
    bend = [colon, (0.35 * width, -0.70 * depth, colon[2] - 18), (-0.3 * width, -0.74 * depth, colon[2] - 26)]
    loops = np.minimum(_tube(frame, bend, rng.uniform(13, 20)), below - 5)
    gas = np.maximum(gas, loops) if patient.gas > 0.5 else gas
    if patient.gas == 0:
        gas = np.minimum(gas, -5.0)
    wall = np.maximum(stomach, loops + 3)
    return organs.astype(np.float32), wall.astype(np.float32), gas.astype(np.float32)


def _vertebrae(patient: Patient, frame: Frame) -> np.ndarray:
    """Depth inside vertebral bodies, arches and spinous processes, mm."""
    behind = patient.spine
    phase = frame.z / 24.0 + 0.3
    within = np.abs(phase - np.round(phase)) * 24.0
    body = np.minimum(_outline(frame.x, frame.y - behind, np.float32(18), np.float32(15), 2.4), 9.8 - within)
    canal = 9.0 - np.hypot(frame.x, frame.y - behind - 24)
    arch = np.minimum(15.0 - np.hypot(frame.x, frame.y - behind - 24), np.minimum(8.5 - within, -canal))
    spinous = np.minimum(3.5 - np.abs(frame.x), np.minimum(frame.y - behind - 30, behind + 58 - frame.y))
    spinous = np.minimum(spinous, 8.0 - within)
    transverse = np.minimum(4.5 - np.abs(frame.y - behind - 20), np.minimum(34 - np.abs(frame.x), 5.0 - within))
    return np.maximum.reduce([body, arch, spinous, np.minimum(transverse, -canal)]).astype(np.float32)


def build_anatomy(patient: Patient, rng: np.random.Generator, grid: Grid) -> Anatomy:
    """All depth fields of a patient on ``grid`` (coarse), float32 mm."""
    frame = make_frame(patient, grid)
    cavity = _outline(frame.x, frame.y - frame.centre_y, frame.half_width, frame.half_depth, patient.squareness)
    cavity += 1.8 * smooth_noise(rng, grid, 45.0)
    above = _diaphragm(patient, frame) + 2.0 * smooth_noise(rng, grid, 40.0)
    heart, vessels = _heart(patient, frame)
    wobble = smooth_noise(rng, grid, 25.0)
    soft = np.maximum(heart, np.minimum(vessels, cavity)) + 0.8 * wobble
    spread = 1.0 - 0.10 * np.clip(frame.z / patient.height, 0, 1.2) ** 3
    wall = patient.muscle + patient.fat
    front = np.clip(-frame.y / patient.half_depth, 0, 1)
    bulge = np.exp(-(((np.abs(frame.x) - 62) / 42) ** 2) - ((frame.z / patient.height - 0.42) / 0.2) ** 2)
    skin = _outline(
        frame.x, frame.y - 8, (patient.half_width + wall) * spread, (patient.half_depth + wall) * spread**1.6, 2.4
    )
    skin = skin + patient.breast * front * bulge + 2.0 * smooth_noise(rng, grid, 60.0)
    muscle = skin - patient.fat * (1 + 0.25 * smooth_noise(rng, grid, 50.0)) - patient.breast * front * bulge
    muscle = np.maximum(muscle, cavity + 6.0)
    right, left = (_lung(patient, frame, side, cavity, above, soft) for side in (-1, 1))
    organs, stomach, gas = _abdomen(patient, rng, frame, -above)
    inner = np.maximum(soft, 4.0 - np.hypot(frame.x, frame.y + 0.5 * patient.half_depth))
    fields = [skin, muscle, cavity, right, left, inner, np.minimum(organs, cavity - 1), np.minimum(stomach, cavity - 2)]
    fields += [np.minimum(gas, cavity - 4), _vertebrae(patient, frame)]
    return Anatomy(*(np.broadcast_to(field, grid.shape).astype(np.float32) for field in fields))
