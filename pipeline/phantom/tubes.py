"""Tube-shaped anatomy as segments: airways, branching vessels, ribs, sternum and shoulder girdle."""

from __future__ import annotations

import numpy as np

from pneumonai.pipeline.phantom.anatomy import cavity_profile, turn_to_image
from pneumonai.pipeline.phantom.grid import Segment
from pneumonai.pipeline.phantom.patient import Patient


def _polyline(patient: Patient, points: list[tuple[float, float, float]], radii: list[float]) -> list[Segment]:
    """Segments along points given in the patient's axes."""
    turned = turn_to_image(patient, np.array(points))
    ends = zip(turned[:-1], turned[1:], radii[:-1], radii[1:], strict=True)
    return [(start, end, first, last) for start, end, first, last in ends]


def hila(patient: Patient) -> dict[int, np.ndarray]:
    """Where bronchi and vessels enter the right (-1) and left (1) lung, image's axes, mm."""
    reach, h = patient.mediastinum + 10, patient.height
    points = {-1: (-reach, 0.12 * patient.half_depth, 0.52 * h), 1: (reach, 0.14 * patient.half_depth, 0.54 * h)}
    return {side: turn_to_image(patient, np.array(point)) for side, point in points.items()}


def main_airways(patient: Patient) -> list[Segment]:
    """Trachea and main bronchi as air-filled tubes."""
    r, h, y = patient.trachea, patient.height, 0.10 * patient.half_depth
    carina, reach = (-2.0, y + 4, 0.63 * h), patient.mediastinum
    trachea = _polyline(patient, [(0, y - 14, 1.25 * h), (0, y - 8, h), (-1, y, 0.8 * h), carina], [r, r, r, r])
    right = _polyline(patient, [carina, (-reach - 4, y + 4, 0.54 * h)], [0.85 * r, 0.72 * r])
    left = _polyline(patient, [carina, (reach + 5, y + 7, 0.555 * h)], [0.8 * r, 0.65 * r])
    return trachea + right + left


def branch(rng: np.random.Generator, root: np.ndarray, targets: np.ndarray, radius: float) -> list[Segment]:
    """A tree from ``root`` to all ``targets`` ``[n, 3]`` that halves them along their longest axis at each fork.

    Radii follow Murray's law (the cube of the radius is shared out among the branches), with 0.6 mm at least.
    """
    total, segments = len(targets), []
    stack = [(np.asarray(root, float), targets, radius)]
    while stack:
        start, group, width = stack.pop()
        if len(group) == 1:
            bend = 0.5 * (start + group[0]) + rng.normal(0, 0.06, 3) * np.linalg.norm(group[0] - start)
            segments += [(start, bend, width, 0.8 * width), (bend, group[0], 0.8 * width, 0.6)]
            continue
        fork = start + rng.uniform(0.32, 0.5) * (group.mean(axis=0) - start) + rng.normal(0, 1.0, 3)
        own = max(0.6, radius * (len(group) / total) ** (1 / 3))
        segments.append((start, fork, width, own))
        axis = int(np.argmax(group.std(axis=0)))
        order = np.argsort(group[:, axis], kind="stable")
        cut = int(np.clip(round(len(group) * rng.uniform(0.35, 0.65)), 1, len(group) - 1))
        stack += [(fork, group[order[:cut]], own), (fork, group[order[cut:]], own)]
    return segments


def ribs(patient: Patient) -> tuple[list[Segment], list[Segment]]:
    """Bony ribs with the shoulder girdle and sternum, and their cartilages, as segments."""
    bones: list[Segment] = []
    cartilage: list[Segment] = []
    h = patient.height
    for side in (-1, 1):
        for number in range(12):
            head = h * (0.97 - 0.085 * number)
            drop = h * (0.16 + 0.012 * number)
            last = 0.80 if number < 10 else 0.55
            course = np.linspace(0.06, 1.0 if number < 7 else last, 22)
            angle = np.pi * (0.5 - course)  # from behind (90 degrees) over the side to the front (-90 degrees)
            z = head - drop * np.clip(course, 0, 0.85)
            width, depth, centre = cavity_profile(patient, np.clip(z, None, 0.93 * h))
            power = 2 / patient.squareness
            x = side * (width + 5) * np.abs(np.cos(angle)) ** power
            y = centre + (depth + 5) * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
            points = [(float(a), float(b), float(c)) for a, b, c in zip(x, y, z, strict=True)]
            points[0] = (side * 22.0, patient.spine + 16, float(z[0]))
            bony = 17
            bones += _polyline(patient, points[:bony], [4.2] * len(points[:bony]))
            if len(points) > bony:
                cartilage += _polyline(patient, points[bony - 1 :], [4.6] * len(points[bony - 1 :]))
    return bones + _girdle(patient), cartilage


def _girdle(patient: Patient) -> list[Segment]:
    """Sternum, clavicles and scapulae as bundles of thin tubes."""
    h, segments = patient.height, []
    for x in (-11, -5.5, 0, 5.5, 11):
        heights = np.linspace(0.36, 0.84, 8) * h
        _, depth, centre = cavity_profile(patient, heights)
        front = [(float(x), float(c - d - 7), float(z)) for c, d, z in zip(centre, depth, heights, strict=True)]
        segments += _polyline(patient, front, [5.0] * len(front))
    _, depth, _ = cavity_profile(patient, np.array([0.8 * h]))
    for side in (-1, 1):
        inner = (side * 16.0, float(-depth[0]) - 2, 0.86 * h)
        outer = (side * (0.95 * patient.half_width), -10.0, 1.02 * h)
        segments += _polyline(patient, [inner, (side * 60.0, float(-depth[0]) - 4, 0.92 * h), outer], [5.5, 5.0, 5.5])
        for step in np.linspace(0, 1, 15):
            top = (side * (62 + 44 * step), patient.half_depth * (1.02 - 0.30 * step), (0.93 - 0.04 * step) * h)
            bottom = (side * (72 + 38 * step), patient.half_depth * (1.16 - 0.30 * step), (0.60 + 0.20 * step) * h)
            segments += _polyline(patient, [top, bottom], [2.8, 2.4])
    return segments
