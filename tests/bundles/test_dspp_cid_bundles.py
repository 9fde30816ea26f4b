"""The D-SPP + CID bundles, of CT slices and of X-rays: their variants, pictures in every form, fine-tuning, maps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bundle_runs import run_config
from PIL import Image

from pneumonai.pipeline import bundle_checks
from pneumonai.pipeline.bundle import find_bundle, inference_config
from pneumonai.pipeline.model import Model
from pneumonai.pipeline.phantom.write import write_slices, write_xray
from pneumonai.pipeline.predict import Options, predict_study

CT, CXR = "dspp_cid_ct_classification", "dspp_cid_cxr_classification"
SIZES = {CT: "slice_size", CXR: "picture_size"}
# A whole backbone, an eighth as wide.
NARROW = {"_target_": "pneumonai.networks.nets.ResNet", "spatial_dims": 2, "in_channels": 1, "num_classes": 0}
NARROW |= {"depth": 18, "base_channels": 8}
both = pytest.mark.parametrize("name", [CT, CXR])
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(small_copy: Any) -> dict[str, Path]:
    """Copies of both bundles with a narrow backbone."""
    return {name: small_copy(name, backbone=NARROW, width=8, **{size: [96, 96]}) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def pictures(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A CT slice and an X-ray, each with black and white in it, so that 16 bits are scaled to the same greys."""
    folder = tmp_path_factory.mktemp("pictures")
    sources = {CT: write_slices(small_phantom, folder / "ct", count=3)[1], CXR: write_xray(small_phantom, folder)[0]}
    for name, source in sources.items():
        grey = np.array(Image.open(source))
        grey[:10, :], grey[-10:, :] = 0, 255
        sources[name] = folder / f"{name}.png"
        Image.fromarray(grey).save(sources[name])
    return sources


@pytest.fixture(scope="module")
def xrays(small_phantom: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four X-rays of a phantom, each cut in another way; the same in each part."""
    folder = tmp_path_factory.mktemp("xrays")
    grey = np.asarray(Image.open(write_xray(small_phantom, folder / "made")[0]))
    items = []
    for number in range(4):
        Image.fromarray(grey[number:, 2 * number :]).save(folder / f"{number}.png")
        items.append({"image": f"{number}.png", "label": number % 2, "patient_id": f"P{number}"})
    (folder / "datalist.json").write_text(json.dumps({"training": items, "validation": items, "test": items}))
    return folder


@both
def test_verify_passes_a_small_copy(name: str, small: dict[str, Path]) -> None:
    """But for inference in other processes, which ``pneumonai bundle verify --all`` runs in CI."""
    root = small[name]
    path = root / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] = [96, 96]
    path.write_text(json.dumps(metadata))
    assert [check for check in bundle_checks.verify(find_bundle(root), inference=False) if check.problem] == []


def counted(name: str, *overlays: str, classes: int = 2) -> int:
    """Parameters of a bundle's network under overlays."""
    root = find_bundle(name).root
    changes: dict[str, Any] = {"class_names": [str(number) for number in range(classes)]}
    for overlay in overlays:
        changes |= json.loads((root / "configs" / f"{overlay}.json").read_text())
    with torch.device("meta"):
        network = inference_config(root, **changes).get_parsed_content("network_def")
    return sum(parameter.numel() for parameter in network.parameters())


@both
@pytest.mark.parametrize(
    ("overlay", "published", "first"),
    [
        ("paper", 3_504_872, 32 * 9),
        ("resnet18", 11_689_512, 64 * 49),
        ("resnet34", 21_797_672, 64 * 49),
        ("resnet50", 25_557_032, 64 * 49),
        ("vgg19", 143_667_240, 64 * 9),
        ("efficientnet_lite0", 4_652_008, 32 * 9),
    ],
)
def test_a_backbone_alone_has_its_published_count_but_for_two_planes_of_the_first_convolution(
    name: str, overlay: str, published: int, first: int
) -> None:
    assert counted(name, overlay, "none", classes=1000) == published - 2 * first


@both
def test_the_rows_of_the_papers_ablation_are_overlays(name: str) -> None:
    """MobileNetV2 with modules 256 wide, by their wiring: branches, fusion, CID's two convolutions, a linear layer."""
    branches = {4: 9 * 32 * 256 + 512, 5: 9 * 96 * 256 + 512, 6: 9 * 1280 * 256 + 512}
    rows = {"none": (), "cid": (), "dspp6": (6,), "dspp56": (5, 6), "dspp456": (4, 5, 6), "paper": (4, 5, 6)}
    for row, stages in (rows | {"dspp6_cid": (6,), "dspp56_cid": (5, 6)}).items():
        channels = 1280 + 256 * bool(stages)
        expected = 2_223_872 - 2 * 32 * 9 + 2 * channels + 2 + sum(branches[stage] for stage in stages)
        expected += len(stages) * 256 * 256 + 512 if stages else 0
        if row in ("cid", "dspp6_cid", "dspp56_cid", "paper"):
            expected += channels * (channels // 4) + channels // 4 + channels // 4 + 1
        assert counted(name, "paper", row) == expected, row
    assert counted(name, "paper") / 1e6 == pytest.approx(6.26, abs=0.005)


@both
def test_a_picture_in_any_form_has_the_plain_ones_answer(
    name: str, small: dict[str, Path], pictures: dict[str, Path], tmp_path: Path
) -> None:
    grey = np.asarray(Image.open(pictures[name]))
    colours = Image.new("P", grey.shape[::-1])
    colours.putpalette([255 - value // 3 for value in range(768)])
    colours.putdata((255 - grey).ravel().tolist())
    turned = Image.fromarray(np.rot90(grey))
    exif = turned.getexif()
    exif[0x0112] = 6  # shown a quarter turn clockwise
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "16_bit.png")
    Image.fromarray(np.repeat(grey[..., None], 3, axis=2)).save(tmp_path / "rgb.png")
    colours.save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([grey, np.full_like(grey, 255)]), mode="LA").save(tmp_path / "alpha.png")
    turned.save(tmp_path / "turned.png", exif=exif)
    model = Model(find_bundle(small[name]), device="cpu", precision="fp32")
    plain = predict_study(pictures[name], model=model)
    assert plain.classes is not None and 0.01 < plain.classes[1]["probability"] < 0.99
    for path in sorted(tmp_path.iterdir()):
        found = predict_study(path, model=model)
        assert found.classes is not None
        assert found.classes[1]["probability"] == pytest.approx(plain.classes[1]["probability"], abs=1e-4), path.name


def test_what_lies_beside_an_xrays_middle_square_changes_nothing(
    small: dict[str, Path], pictures: dict[str, Path], tmp_path: Path
) -> None:
    """A picture's shape tells its source: it is neither stretched nor given borders to become square."""
    grey = np.asarray(Image.open(pictures[CXR]))
    side = min(grey.shape)
    rows, columns = ((length - side) // 2 for length in grey.shape)
    square = grey[rows : rows + side, columns : columns + side]
    model = Model(find_bundle(small[CXR]), device="cpu", precision="fp32")
    answers = []
    for number, margin in enumerate(((0, 0), (0, 31), (24, 0))):
        padded = np.pad(square, [(pad, pad) for pad in margin], mode="reflect")
        Image.fromarray(padded).save(tmp_path / f"{number}.png")
        result = predict_study(tmp_path / f"{number}.png", model=model, output=tmp_path / "out")
        assert result.classes is not None
        answers.append(result.classes[1]["probability"])
        map_ = np.asarray(Image.open(tmp_path / "out" / str(number) / "heat_map.png"))
        assert map_.shape == padded.shape
        beside = np.ones(padded.shape, bool)
        beside[margin[0] : margin[0] + side, margin[1] : margin[1] + side] = False
        assert map_.any() and not map_[beside].any()
    assert answers == pytest.approx([answers[0]] * 3, abs=1e-6)


@both
def test_the_report_shows_gradcam_with_and_without_the_modules_and_cids_map(
    name: str, small: dict[str, Path], pictures: dict[str, Path], tmp_path: Path
) -> None:
    options = Options(explain=("gradcam-backbone", "cid"))
    result = predict_study(pictures[name], bundle=small[name], options=options, output=tmp_path)
    folder = tmp_path / pictures[name].stem
    shape = np.asarray(Image.open(pictures[name])).shape
    maps = [np.asarray(Image.open(folder / f"heat_map{which}.png")) for which in ("", "_gradcam-backbone", "_cid")]
    assert [map_.shape for map_ in maps] == [shape] * 3
    # Of random weights the own map may be empty: Grad-CAM shows only what speaks for the class.
    assert min(maps[1].max(), maps[2].max()) > 250
    assert not any(np.array_equal(maps[one], maps[other]) for one, other in ((0, 1), (0, 2), (1, 2)))
    report = (folder / "report.html").read_text()
    for method in ("Grad-CAM", "Grad-CAM before D-SPP and CID", "map of the CID module"):
        assert method in report
    assert "not for clinical use" in result.notice


@both
def test_a_network_without_modules_is_explained_by_gradcam_alone(
    name: str, small_copy: Any, pictures: dict[str, Path], tmp_path: Path
) -> None:
    changes = json.loads((find_bundle(name).root / "configs" / "none.json").read_text())
    root = small_copy(name, folder="none", backbone="mobilenet_v2", **changes, **{SIZES[name]: [64, 64]})
    model = Model(find_bundle(root), device="cpu", precision="fp32")
    assert model.allowed_explanations(("gradcam-backbone", "cid", "gradcam++")) == ("gradcam++",)
    predict_study(pictures[name], model=model, output=tmp_path)
    assert (tmp_path / pictures[name].stem / "heat_map.png").exists()


@both
def test_trained_and_fine_tuned_from_a_checkpoint(
    name: str, dataset: Path, xrays: Path, train_and_use: Any, tmp_path: Path
) -> None:
    """Training, scoring, a bundle of it; and a second training starts from the first one's weights, as Table V's do."""
    data = {CT: dataset, CXR: xrays}[name]
    changes = {"backbone": "mobilenet_v2", "width": 8, SIZES[name]: [64, 64]}
    train_and_use(name, data, changes, average_decay=0.9)
    still = {"learning_rate": 0.0, "weight_decay": 0.0, "max_epochs": 1, "batch_size": 4}
    first = tmp_path / "out" / "model.pt"
    root = find_bundle(name).root
    run_config(root, "train", data=data, output_dir=tmp_path / "more", pretrained=first, **still, **changes)
    before, after = (torch.load(path, weights_only=True) for path in (first, tmp_path / "more" / "model.pt"))
    weights = [key for key in before if key.endswith("weight")]
    assert len(weights) > 100 and all(torch.equal(before[key], after[key]) for key in weights)
