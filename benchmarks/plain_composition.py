"""The straightforward composition that study.py compares with: public recipes one after the other, one study.

MONAI's LoadImage with ITKReader, the usual scikit-image lung segmentation at full resolution, scikit-image's CLAHE,
the eager fp32 network of width 64, nibabel's writing. Prints the seconds of each step as JSON.

    python benchmarks/plain_composition.py STUDY OUTPUT WEIGHTS
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def main(study: str, output: str, weights: str) -> None:
    """Run the composition and print its steps."""
    seconds: dict[str, float] = {}
    start = time.perf_counter()

    def lap(step: str) -> None:
        nonlocal start
        seconds[step] = round(time.perf_counter() - start, 3)
        start = time.perf_counter()

    import nibabel as nib
    import numpy as np
    import torch
    from monai.data import ITKReader
    from monai.transforms import LoadImage, Orientation
    from scipy import ndimage
    from skimage import exposure, filters, measure, morphology, segmentation
    from skimage.transform import resize

    from pneumonai.networks.nets import NLRAN

    lap("imports")
    image = LoadImage(reader=ITKReader(), image_only=True, ensure_channel_first=True)(study)
    volume = Orientation(axcodes="SPL")(image)[0]
    lap("read")

    hu = volume.numpy()
    mask = np.zeros(hu.shape, bool)
    for index, section in enumerate(hu):
        lungs = segmentation.clear_border(section < -400)
        labels = measure.label(lungs)
        areas = sorted(region.area for region in measure.regionprops(labels))
        for region in measure.regionprops(labels):
            if len(areas) > 2 and region.area < areas[-2]:
                lungs[labels == region.label] = False
        lungs = morphology.closing(morphology.erosion(lungs, morphology.disk(2)), morphology.disk(10))
        mask[index] = ndimage.binary_fill_holes(filters.roberts(lungs)) if lungs.any() else lungs
    lap("lungs")

    rows, columns = np.flatnonzero(mask.any((0, 2))), np.flatnonzero(mask.any((0, 1)))
    box = (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
    slices = np.flatnonzero(mask.any((1, 2)))
    chosen = slices[np.linspace(0, len(slices) - 1, 64).round().astype(int)]
    grey = np.clip((hu[(chosen, *box)] + 1350) / 1500, 0, 1)
    small = resize(grey, (64, 160, 160), order=1, anti_aliasing=True)
    inside = resize(mask[(chosen, *box)].astype(np.float32), (64, 160, 160), order=0) > 0.5
    lap("crop")

    equal = np.stack([exposure.equalize_adapthist(section, kernel_size=20, clip_limit=0.01) for section in small])
    lap("CLAHE")

    network = NLRAN(base_channels=64)
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    lap("build network")
    with torch.inference_mode():
        images = torch.from_numpy((equal * inside).astype(np.float32))[None, None]
        network(images).softmax(1)
        attention = network.attention_maps(images)[0].mean(1, keepdim=True)
    lap("network")

    with torch.inference_mode():
        attention = torch.nn.functional.interpolate(attention, size=(64, *grey.shape[1:]), mode="trilinear")[0, 0]
    heat_map = np.zeros(hu.shape, np.float32)
    heat_map[(chosen, *box)] = attention.numpy()
    heat_map = np.where(mask, heat_map, 0)
    Path(output).mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask.astype(np.uint8), np.eye(4)), Path(output) / "lungs.nii.gz")
    nib.save(nib.Nifti1Image(heat_map, np.eye(4)), Path(output) / "heat_map.nii.gz")
    lap("write")
    print(json.dumps(seconds))


if __name__ == "__main__":
    main(*sys.argv[1:])
