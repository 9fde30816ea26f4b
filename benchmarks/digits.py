"""What the discriminative cosine loss does to features: the attention-transfer paper's Fig. 11 on small digits.

scikit-learn's 1,797 pictures of 8 x 8 stand in for MNIST (they come with the package). One small network whose last
features are two numbers is trained with softmax cross entropy and with the DC loss, from the same weights, on the same
pictures in the same order; nothing is chosen on the pictures held out. Prints the table, writes the figure::

    python benchmarks/digits.py --figure docs/attention_transfer_digits.png
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.metrics import silhouette_score
from sklearn.model_selection import train_test_split
from torch import nn

from pneumonai.networks.blocks import NormalisedLinear
from pneumonai.networks.losses import DiscriminativeCosineLoss
from pneumonai.pipeline.metrics.figures import save_figure

LOSSES = {"softmax": "softmax cross entropy", "dc": "DC loss"}
#: Title of each measure, and whether more (1) or less (-1) of it is better.
MEASURES = {
    "training": ("training accuracy", 1),
    "accuracy": ("test accuracy", 1),
    "own": ("cosine with own class's mean", 1),
    "other": ("cosine with nearest other class's mean", -1),
    "gap": ("difference of the two", 1),
    "silhouette": ("silhouette of the angles", 1),
    "plane": ("silhouette of what the head reads", 1),
}
CLASSES = 10
BATCH = 64

Part = tuple[torch.Tensor, torch.Tensor]


class Digits(nn.Module):
    """Three convolutions, two features, and the classifier that belongs to the loss."""

    def __init__(self, cosine_head: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(512, 2),
        )
        self.head = NormalisedLinear(2, CLASSES) if cosine_head else nn.Linear(2, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map ``[B, 1, 8, 8]`` to logits ``[B, 10]``."""
        return self.head(self.features(x))


def split(seed: int) -> tuple[Part, Part]:
    """1,257 pictures in 0..1 with their digits for training, and 540 held out, digits in equal shares."""
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16.0).float()[:, None]
    known, unknown = train_test_split(np.arange(len(images)), test_size=0.3, stratify=digits.target, random_state=seed)
    labels = torch.from_numpy(digits.target)
    return (images[known], labels[known]), (images[unknown], labels[unknown])


def train(loss_name: str, part: Part, seed: int, epochs: int) -> Digits:
    torch.manual_seed(seed)
    network = Digits(cosine_head=loss_name == "dc")
    loss = DiscriminativeCosineLoss(network.head.weight) if loss_name == "dc" else nn.CrossEntropyLoss()
    images, labels = part
    optimizer = torch.optim.Adam(network.parameters())
    steps = len(images) // BATCH
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, epochs=epochs, steps_per_epoch=steps)
    # The heads draw different numbers of weights, so the order of the pictures has a generator of its own.
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=order)[: steps * BATCH].split(BATCH):
            optimizer.zero_grad()
            loss(network(images[chosen]), labels[chosen]).backward()
            optimizer.step()
            rates.step()
    return network.eval()


def unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@torch.no_grad()
def measure(network: Digits, known: Part, unknown: Part) -> tuple[dict[str, float], np.ndarray]:
    """The measures of the pictures held out, and their features; a class's mean is that of its training pictures."""
    features, labels = network.features(unknown[0]).numpy(), unknown[1].numpy()
    directions, train_directions = unit(features), unit(network.features(known[0]).numpy())
    means = unit(np.stack([train_directions[known[1].numpy() == digit].mean(axis=0) for digit in range(CLASSES)]))
    cosines = directions @ means.T
    own = cosines[np.arange(len(labels)), labels]
    cosines[np.arange(len(labels)), labels] = -np.inf
    other = cosines.max(axis=1)
    # The cosine head reads no lengths, so that its plane is the unit circle.
    read = directions if isinstance(network.head, NormalisedLinear) else features
    training, accuracy = ((network(x).argmax(dim=1) == y).float().mean() for x, y in (known, unknown))
    measures = {
        "training": training,
        "accuracy": accuracy,
        "own": own.mean(),
        "other": other.mean(),
        "gap": (own - other).mean(),
        "silhouette": silhouette_score(features, labels, metric="cosine"),
        "plane": silhouette_score(read, labels),
    }
    return {key: float(value) for key, value in measures.items()}, features


def table(results: dict[str, list[dict[str, float]]]) -> str:
    """Means and standard deviations over the seeds, and in how many of them a loss is better than the softmax."""
    lines = [f"| | {' | '.join(LOSSES[name] for name in results)} |", "| --- |" + " --- |" * len(results)]
    first = next(iter(results.values()))
    for key, (title, sign) in MEASURES.items():
        start, cells = np.array([row[key] for row in first]), []
        for rows in results.values():
            values = np.array([row[key] for row in rows])
            better = "" if rows is first else f" ({(sign * (values - start) > 0).sum()} of {len(rows)})"
            cells.append(f"{values.mean():.3f} ± {values.std(ddof=1):.3f}{better}")
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(axes: Axes, features: np.ndarray, labels: np.ndarray, title: str) -> None:
    for digit in range(CLASSES):
        rows, colour = features[labels == digit], colormaps["tab10"](digit)
        axes.scatter(rows[:, 0], rows[:, 1], s=5, color=[colour], linewidths=0)
        box = {"boxstyle": "circle,pad=0.15", "facecolor": "white", "edgecolor": colour}
        axes.annotate(str(digit), np.median(rows, axis=0), ha="center", va="center", fontsize=9, bbox=box)
    side = 1.05 * np.abs(features).max()
    axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal")
    axes.set_title(title, fontsize=10)
    axes.tick_params(labelsize=8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="at least 2")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--figure", type=Path, help="also draw the features of the first seed's held-out pictures")
    arguments = parser.parse_args()
    # Layers this small only wait for each other on several threads.
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, float]]] = {name: [] for name in LOSSES}
    figure = Figure(figsize=(9, 4.6), layout="constrained")
    panels = dict(zip(LOSSES, figure.subplots(1, 2), strict=True))
    for seed in range(arguments.seeds):
        known, unknown = split(seed)
        for name, rows in results.items():
            measures, features = measure(train(name, known, seed, arguments.epochs), known, unknown)
            rows.append(measures)
            if seed == 0:
                draw(panels[name], features, unknown[1].numpy(), LOSSES[name])
    print(table(results))
    print(f"{time.process_time():.0f} s of CPU time")
    if arguments.figure:
        save_figure(figure, arguments.figure)


if __name__ == "__main__":
    main()
