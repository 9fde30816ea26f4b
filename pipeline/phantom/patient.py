"""Who the phantom is: the sizes and habits of one patient, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Kind(StrEnum):
    """What a phantom shows, in the order of the classes."""

    NORMAL = "normal"
    NCP = "ncp"
    CP = "cp"

    @property
    def label(self) -> int:
        """Index of the class: normal 0, ncp 1, cp 2."""
        return list(Kind).index(self)


class Difficulty(StrEnum):
    """How plainly a phantom shows what it shows; mixed is hard for odd seeds, usual for even ones."""

    USUAL = "usual"
    HARD = "hard"
    MIXED = "mixed"

    def of_seed(self, seed: int) -> Difficulty:
        """The difficulty of one seed's phantom: usual or hard."""
        if self is not Difficulty.MIXED:
            return self
        return Difficulty.HARD if seed % 2 else Difficulty.USUAL


@dataclass(frozen=True)
class Patient:
    """Sizes in mm, attenuations in HU; the thoracic cavity is centred on x = 0, y = 0 and rests on z = 0.

    Attributes:
        half_width, half_depth, height: of the thoracic cavity.
        squareness: exponent of the cavity's outline (2 is an ellipse).
        fat, muscle: thickness of the chest wall's layers.
        breast: bulge of fat in front.
        turn: rotation about the long axis in radians.
        dome_right, dome_left: height of the diaphragm's domes.
        junction: half of the distance between the lungs in front; ``junction_shift`` moves it to a side.
        mediastinum: half width of the mediastinum at the hila.
        heart: radii; ``heart_shift`` its centre left of the midline.
        trachea: radius.
        oblique, horizontal: heights of the fissures as shares of the lung's height.
        lung_hu: parenchyma at mid height; ``gradient_hu`` from front to back; ``side_hu`` right minus left.
        noise_hu: standard deviation of the image noise.
        emphysema, dependent, band, fissures, gas, motion: strength 0 (absent) to 1 of normal variants.
    """

    half_width: float
    half_depth: float
    height: float
    squareness: float
    fat: float
    muscle: float
    breast: float
    turn: float
    dome_right: float
    dome_left: float
    junction: float
    junction_shift: float
    mediastinum: float
    heart: tuple[float, float, float]
    heart_shift: float
    trachea: float
    oblique: float
    horizontal: float
    lung_hu: float
    gradient_hu: float
    side_hu: float
    noise_hu: float
    vessels: float
    emphysema: float
    dependent: float
    band: float
    fissures: float
    gas: float
    motion: float

    @property
    def spine(self) -> float:
        """Position of the vertebral bodies' centre behind the cavity's centre, in mm."""
        return 0.60 * self.half_depth


def draw_patient(rng: np.random.Generator) -> Patient:
    """Draw a patient; the habits that change the lung's density do not depend on the disease."""

    def some(share: float, low: float = 0.3, high: float = 1.0) -> float:
        present, strength = rng.random() < share, rng.uniform(low, high)
        return float(strength) if present else 0.0

    size = rng.normal(1.0, 0.06)
    height = float(np.clip(rng.normal(255, 16) * size, 205, 290))
    breath = float(rng.beta(2.2, 1.5))  # 0 poor, 1 full inspiration
    dome = height * (0.34 - 0.15 * breath)
    elevated = some(0.15, 0.08, 0.16) * height * rng.choice([-1, 1])
    elevated = min(elevated, 0.06 * height)  # the right lung stays the larger
    female = rng.random() < 0.5
    return Patient(
        half_width=float(np.clip(rng.normal(138, 7) * size, 116, 152)),
        half_depth=float(np.clip(rng.normal(97, 7) * size, 80, 110)),
        height=height,
        squareness=rng.uniform(2.05, 2.5),
        fat=float(np.clip(rng.lognormal(np.log(14), 0.5), 5, 38)),
        muscle=rng.uniform(14, 24),
        breast=rng.uniform(5, 38) if female else rng.uniform(0, 4),
        turn=float(np.deg2rad(np.clip(rng.normal(0, 2.5), -6, 6))),
        dome_right=dome + rng.uniform(3, 11) + max(elevated, 0.0),
        dome_left=dome + max(-elevated, 0.0),
        junction=rng.uniform(0.5, 1.3) if rng.random() < 0.5 else rng.uniform(1.3, 9.0),
        junction_shift=rng.uniform(-8, 10),
        mediastinum=rng.uniform(22, 30) * size,
        heart=(rng.uniform(54, 68) * size, rng.uniform(40, 49) * size, rng.uniform(46, 58) * size),
        heart_shift=rng.uniform(17, 29),
        trachea=rng.uniform(7, 9.5) * size,
        oblique=rng.uniform(0.36, 0.46),
        horizontal=rng.uniform(0.42, 0.54),
        lung_hu=-770 - 105 * breath + rng.normal(0, 12),
        gradient_hu=rng.uniform(20, 60) + 50 * (1 - breath),
        side_hu=rng.normal(0, 14) + 0.5 * elevated,
        noise_hu=rng.uniform(9, 34),
        vessels=rng.uniform(0.85, 1.25),
        emphysema=some(0.2),
        dependent=some(0.35),
        band=some(0.3) if elevated == 0 else some(0.8),
        fissures=some(0.7),
        gas=some(0.75),
        motion=some(0.25),
    )
