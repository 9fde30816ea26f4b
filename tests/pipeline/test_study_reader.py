"""The seam to MONAI: LoadImage with StudyReader gives the study's grid, or our refusal and nothing else."""

from __future__ import annotations

import runpy
import threading
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import ITKReader, MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImage, LoadImaged, Orientationd

from pneumonai.pipeline.errors import StudyError, our_error
from pneumonai.pipeline.study import InputKind, Modality, Study, open_study
from pneumonai.pipeline.study_reader import StudyReader

made = runpy.run_path(str(Path(__file__).with_name("dicom_files.py")))
write_series, chest = made["write_series"], made["chest"]
ORIENTATIONS = {
    "plain": (1, 0, 0, 0, 1, 0),
    "flipped": (1, 0, 0, 0, -1, 0),
    "feet first": (-1, 0, 0, 0, 1, 0),
    "oblique": tuple(np.array([[0.96, 0.28, 0.0], [-0.2688, 0.9216, 0.28]]).ravel()),
}


def load(path: Any, reader: Any, axcodes: str = "SPL") -> MetaTensor:
    transforms = [
        LoadImaged("image", reader=reader, dtype=None),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes=axcodes, labels=None),
    ]
    return Compose(transforms)({"image": str(path)})["image"]


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_clean_series_is_the_same_by_itk(tmp_path: Path, name: str) -> None:
    write_series(tmp_path, chest(24), orientation=ORIENTATIONS[name], spacing=(4.0, 5.0, 6.0))
    ours, itk = load(tmp_path, StudyReader()), load(tmp_path, ITKReader())
    assert ours.shape == (1, 24, 64, 64)
    assert torch.equal(ours.as_tensor(), itk.as_tensor().to(ours.dtype))
    assert np.allclose(ours.affine, itk.affine, atol=1e-3)


def test_the_tensor_lies_on_the_studys_own_grid(tmp_path: Path) -> None:
    write_series(tmp_path, chest(24))
    study = open_study(tmp_path)
    image = LoadImage(reader=StudyReader(), dtype=None)(str(tmp_path))
    assert image.dtype == torch.int16
    assert np.array_equal(image.numpy(), study.image)
    assert np.allclose(image.affine, study.affine)
    assert image.meta["original_channel_dim"] == "no_channel"
    assert image.meta["filename_or_obj"] == str(tmp_path)
    few = "only 24 slices through the lungs: small findings may not show; send the thinner series if there is one"
    assert image.meta["warnings"] == ["the slices cover only 120 mm from head to foot", few]
    assert image.meta["converted"] == study.converted
    assert load(tmp_path, StudyReader()).is_contiguous()  # the slices' memory order needs no transposition


def test_refused_studies_raise_and_are_left_to_no_other_reader(tmp_path: Path) -> None:
    values = made["chest"]().transpose(2, 1, 0).astype(np.float32)
    values[3, 4, 5] = np.nan
    nib.save(nib.Nifti1Image(values, np.diag([5.0, 5, 5, 1])), tmp_path / "nan.nii.gz")
    write_series(tmp_path / "gap", chest(24))[10].unlink()
    for path, gist in ((tmp_path / "nan.nii.gz", "no numbers (NaN"), (tmp_path / "gap", "a gap in the slices")):
        with pytest.raises(RuntimeError) as caught:
            load(path, StudyReader())
        cause = our_error(caught.value)
        assert isinstance(cause, StudyError)
        assert gist in cause.line()
    with pytest.raises(StudyError, match="no such file"):
        LoadImage(reader=StudyReader(), dtype=None)(str(tmp_path / "none"))


def test_pictures(tmp_path: Path) -> None:
    from PIL import Image

    grey = np.arange(80 * 100, dtype=np.uint8).reshape(80, 100)
    Image.fromarray(grey).save(tmp_path / "a.png")
    reader = StudyReader(modality="CXR", input_kind="picture")
    image = LoadImage(reader=reader, dtype=None, ensure_channel_first=True)(str(tmp_path / "a.png"))
    assert image.shape == (1, 80, 100)
    assert np.array_equal(image[0].numpy(), grey)
    with pytest.raises(StudyError, match="is a picture, where a CT volume is wanted"):
        LoadImage(reader=StudyReader(), dtype=None)(str(tmp_path / "a.png"))


def test_several_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="2 files given as one image; give one study"):
        LoadImage(reader=StudyReader(), dtype=None)(["a.nii", "b.nii"])


def test_a_study_that_is_handed_over_is_taken_once() -> None:
    def study(value: int) -> Study:
        image = np.full((4, 5, 6), value, np.int16)
        return Study("s", "p", Modality.CT, InputKind.VOLUME, image, np.diag([2.0, 2, 2, 1]))

    loader = LoadImage(reader=StudyReader(), dtype=None)
    found: dict[int, int] = {}

    def run(number: int) -> None:
        StudyReader.hand_over(f"./nowhere//{number}", study(number))
        found[number] = int(loader(f"nowhere/{number}")[0, 0, 0])

    threads = [threading.Thread(target=run, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {n: n for n in range(8)}
    with pytest.raises(StudyError, match="no such file"):
        loader("nowhere/1")
    StudyReader.hand_over("nowhere/2", study(2))
    StudyReader.take_back("nowhere/2")
    with pytest.raises(StudyError, match="no such file"):
        loader("nowhere/2")
