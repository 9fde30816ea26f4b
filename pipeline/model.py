"""A bundle ready to answer: its own preprocessing, network, explainer and postprocessing, as its config names them."""

from __future__ import annotations

import hashlib
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.transforms import LoadImage

from pneumonai.pipeline.bundle import Bundle, inference_config, weights_sha256
from pneumonai.pipeline.errors import BundleError, StudyError, our_error
from pneumonai.pipeline.explain import EXPLAINERS, Explainer, SliceBySlice, make_explainers
from pneumonai.pipeline.precision import PrecisionRequest, choose_precision, run_network
from pneumonai.pipeline.slice_inferers import SliceClassifier
from pneumonai.pipeline.study import Study
from pneumonai.pipeline.weights import load_weights
from pneumonai.transforms import PictureLungSegmentd
from pneumonai.transforms.picture_lungs import PictureLungSegment, lungs_not_found


@dataclass
class Answer:
    """What a network said of one study; what a bundle does not give is empty or None.

    Attributes:
        probabilities: after temperature scaling, one a class.
        raw_probabilities: softmax of the logits as they are.
        slice_probabilities: ``[S, K]`` after temperature scaling, of the slices of the network's input.
        infection: uint8 on the study's own grid, 0 or 1.
        lungs: uint8 on the study's own grid, 0, 1 right, 2 left; of a bundle that marks lungs.
        heat_map: uint8 on the study's own grid, 0..255 for 0..1.
        more_heat_maps: by the explainers that were asked for beside the bundle's own, likewise, by name.
    """

    probabilities: list[float] = field(default_factory=list)
    raw_probabilities: list[float] = field(default_factory=list)
    slice_probabilities: np.ndarray | None = None
    infection: np.ndarray | None = None
    lungs: np.ndarray | None = None
    heat_map: np.ndarray | None = None
    more_heat_maps: dict[str, np.ndarray] = field(default_factory=dict)


class Model:
    """A bundle's inference, from an opened study to probabilities and a heat map on the study's grid.

    The preprocessing and postprocessing are those that ``monai.bundle run`` uses: both come from the bundle's
    ``configs/inference.json``, whose StudyReader is handed the study that was opened and checked already.

    Args:
        bundle: which bundle.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...; None takes a GPU where there is one.
        precision: ``auto``, ``fp32`` or ``bf16`` (see :func:`pneumonai.pipeline.precision.choose_precision`).
        lungs: a bundle that finds the lungs of X-rays for this one, instead of what its preprocessing may have.

    Raises:
        BundleError: the config is wrong, or the weights are missing, corrupt or of another network.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        device: str | None = None,
        precision: PrecisionRequest = "auto",
        lungs: Bundle | None = None,
    ) -> None:
        self.bundle = bundle
        self.device = usable_device(bundle.name, device)
        try:
            with _without_codec_messages():
                config = inference_config(bundle.root, device=str(self.device))
                self.preprocessing = config.get_parsed_content("preprocessing")
            self.network = config.get_parsed_content("network").to(self.device).eval()
            self.inferer = config.get_parsed_content("inferer")
            self.explainer: Explainer | None = (
                config.get_parsed_content("explainer") if config.get("explainer") is not None else None
            )
            # Shown beside it in a report, by name.
            self.comparison_explainers = _allowed_explainers(config)
            self.postprocessing = config.get_parsed_content("postprocessing")
        except Exception as error:
            named = our_error(error) or last_cause(error)
            raise BundleError(bundle.name, f"its inference.json does not work ({named})", "check the config") from error
        load_weights(self.network, bundle.weights, subject=bundle.name)
        self.weights_sha256 = weights_sha256(bundle.weights)
        self.precision = choose_precision(
            self.network, self._input_shape(), self.device, weights_path=bundle.weights, requested=precision
        )
        self._reader = _study_reader(self.preprocessing, bundle)
        self._lungs = None if lungs is None else Model(lungs, device=device, precision="fp32")
        # Each is made once, since an attention map listens to its network from then on.
        self._more_explainers: dict[tuple[str, ...], dict[str, Explainer]] = {}

    def more_explainers(self, names: Sequence[str]) -> dict[str, Explainer]:
        """The explainers of these names that are not the bundle's own, in the order in which they are shown.

        Args:
            names: of :data:`pneumonai.pipeline.explain.EXPLAINERS` or of ``comparison_explainers``; ``all`` for those
                that the network allows. Of a volume that is answered slice by slice the highest slices alone are
                explained.

        Raises:
            BundleError: an unknown name, or one that the bundle's network does not allow.
        """
        if not names:
            return {}
        chosen = tuple(names)
        if chosen not in self._more_explainers:
            own = {} if self.explainer is None else {getattr(self.explainer, "name", ""): self.explainer}
            given = self.comparison_explainers | own
            try:
                if self.bundle.is_segmentation:
                    raise ValueError("it marks regions and has no class to explain")
                made = make_explainers(self.network, chosen, given=given)
            except ValueError as error:
                raise BundleError(self.bundle.name, str(error), "choose another --explain") from error
            others = {name: explainer for name, explainer in made.items() if explainer is not self.explainer}
            if isinstance(self.inferer, SliceClassifier):
                size, highest = self.inferer.batch_size, self.inferer.highest
                others = {name: SliceBySlice(self.network, one, size, highest) for name, one in others.items()}
            self._more_explainers[chosen] = others
        return self._more_explainers[chosen]

    def allowed_explanations(self, names: Sequence[str]) -> tuple[str, ...]:
        """Those of some explainers that the bundle's network allows; none for a segmentation.

        Args:
            names: as for :meth:`more_explainers`.

        Raises:
            BundleError: a name that no explainer has.
        """
        unknown = [name for name in names if name not in (*EXPLAINERS, *self.comparison_explainers, "all")]
        if unknown:
            known = ", ".join(EXPLAINERS)
            reason = f"an explanation must be one of {known} or all, got {unknown[0]!r}"
            raise BundleError(self.bundle.name, reason, "choose another --explain")
        try:
            allowed = {getattr(self.explainer, "name", ""), *self.more_explainers(("all",)), "all"}
        except BundleError:
            return ()
        return tuple(name for name in names if name in allowed)

    @cached_property
    def finds_lungs_by(self) -> str | None:
        """What :meth:`find_lungs` finds the lungs of X-rays by: equal for two bundles whose lungs are the same."""
        if self._lungs is not None:
            return self._lungs.weights_sha256
        for transform in self.preprocessing.transforms:
            if isinstance(transform, PictureLungSegmentd):
                segment = cast(PictureLungSegment, transform.segment)
                digest = hashlib.sha256(str(segment.resize.spatial_size).encode())
                for name, tensor in segment.network.state_dict().items():
                    digest.update(name.encode() + tensor.numpy().tobytes())
                return digest.hexdigest()
        return None

    def find_lungs(self, study: Study) -> tuple[np.ndarray, list[str]] | None:
        """The lungs of an X-ray, 0, 1 right, 2 left, on its own grid, with warnings; None where nothing finds them.

        Raises:
            StudyError: there are no lungs.
        """
        if self._lungs is not None:
            lungs = self._lungs.answer(self._lungs.prepare(study)).lungs
            if lungs is None or not lungs.any():
                raise StudyError(study.id, "no lungs found in the picture", "send a frontal chest X-ray, or a mask")
            return lungs, lungs_not_found(lungs)
        for transform in self.preprocessing.transforms:
            if isinstance(transform, PictureLungSegmentd):
                try:
                    labels, warnings = transform.segment.with_warnings(study.image[None])
                except ValueError as error:
                    raise study_error(study.id, error) from error
                return np.asarray(labels)[0], warnings
        return None

    def _input_shape(self) -> tuple[int, ...]:
        image = self.bundle.metadata["network_data_format"]["inputs"]["image"]
        return (1, image["num_channels"], *image["spatial_shape"])

    def prepare(self, study: Study, lungs: np.ndarray | None = None) -> dict[str, Any]:
        """The bundle's preprocessing on an opened and checked study; any thread may call it.

        Args:
            study: the study.
            lungs: label map on the study's grid (1 right, 2 left), so that the lungs are found once a study.

        Returns:
            The batch's item; ``image`` is the network's input ``[C, *spatial]``.

        Raises:
            StudyError: a transform refused the study.
        """
        self._reader.hand_over(study.path, study)
        item: dict[str, Any] = {"image": study.path}
        if lungs is not None:
            item["lungs"] = MetaTensor(torch.from_numpy(lungs)[None], affine=torch.from_numpy(study.affine))
        try:
            return self.preprocessing(item)
        except Exception as error:
            raise study_error(study.id, error) from error

    @torch.inference_mode()
    def answer(self, item: dict[str, Any], explain: Sequence[str] = ()) -> Answer:
        """Network, explanation and postprocessing of one prepared study.

        Args:
            item: of :meth:`prepare`.
            explain: explainers beside the bundle's own, see :meth:`more_explainers`.

        Raises:
            BundleError: an explainer that the bundle's network does not allow.
        """
        explainers = self.more_explainers(explain)
        images = item["image"].as_tensor()[None].to(self.device)
        if self.bundle.is_segmentation:
            done = self._postprocess(item, pred=self.inferer(images, self._run)[0].cpu())
            marked = done["pred"].as_tensor()[0].to(torch.uint8).numpy()
            return Answer(lungs=marked) if self.bundle.marks_lungs else Answer(infection=marked)
        slice_logits = None
        if isinstance(self.inferer, SliceClassifier):
            slice_logits = self.inferer.slice_logits(images, self._run)
            logits = self.inferer.volume_logits(slice_logits)
        else:
            logits = self.inferer(images, self._run)
        # The bundle's own comes first, while the network's last pass is still the one that it may have listened to.
        own = {} if self.explainer is None else {"heat_map": self._own_heat_map(images, slice_logits)[0].cpu()}
        done = self._postprocess(item, pred=logits[0].cpu(), **own)
        return Answer(
            probabilities=done["pred"].flatten().tolist(),
            raw_probabilities=logits[0].softmax(dim=0).tolist(),
            slice_probabilities=None if slice_logits is None else self._slice_probabilities(slice_logits),
            heat_map=_as_bytes(done["heat_map"]) if own else None,
            more_heat_maps={
                name: self._more_heat_map(item, logits, self._explain(explainer, images, logits, slice_logits))
                for name, explainer in explainers.items()
            },
        )

    def _more_heat_map(self, item: dict[str, Any], logits: torch.Tensor, heat_map: torch.Tensor) -> np.ndarray:
        """One map on the study's grid as bytes, so that no two are held there in floats."""
        return _as_bytes(self._postprocess(item, pred=logits[0].cpu(), heat_map=heat_map[0].cpu())["heat_map"])

    def _run(self, images: torch.Tensor) -> torch.Tensor:
        return run_network(self.network, images, self.precision)

    def _slice_probabilities(self, slice_logits: torch.Tensor) -> np.ndarray:
        """Of one study, ``[S, K]``, scaled by the temperature as the study's are."""
        scaled = slice_logits[0].T / float(self.bundle.settings.get("temperature") or 1.0)
        probabilities: np.ndarray = scaled.softmax(dim=1).cpu().numpy()
        return probabilities

    def _postprocess(self, item: dict[str, Any], **outputs: torch.Tensor) -> dict[str, Any]:
        given = {key: item[key] for key in ("image", "lungs") if key in item}
        done: dict[str, Any] = self.postprocessing(given | outputs)
        return done

    def _own_heat_map(self, images: torch.Tensor, slice_logits: torch.Tensor | None) -> torch.Tensor:
        """The map of the bundle's own explainer."""
        if isinstance(self.explainer, SliceBySlice):
            return self.explainer(images, slice_logits=slice_logits)
        return self.explainer(images)  # type: ignore[misc]

    def _explain(
        self, explainer: Explainer, images: torch.Tensor, logits: torch.Tensor, slice_logits: torch.Tensor | None
    ) -> torch.Tensor:
        """A map for the class that was answered, at the precision of the answer."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision.name == "bf16"):
            if isinstance(explainer, SliceBySlice):
                return explainer(images, slice_logits=slice_logits)
            return explainer(images, logits.argmax(dim=1))


def usable_device(subject: str, device: str | None) -> torch.device:
    """The device of a name; a GPU where there is one when None.

    Raises:
        BundleError: there is no such device; ``subject`` is what cannot run on it.
    """
    try:
        found = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise BundleError(subject, f"cannot run on device {device!r} ({reason})", "try --device cpu") from None
    return found


def _as_bytes(heat_map: MetaTensor) -> np.ndarray:
    """A heat map ``[1, *spatial]`` in 0..1 as uint8 0..255."""
    scaled: np.ndarray = heat_map.as_tensor()[0].clamp_(0, 1).mul_(255).round_().to(torch.uint8).numpy()
    return scaled


def _allowed_explainers(config: ConfigParser) -> dict[str, Explainer]:
    """A config's ``comparison_explainers``, but those that its network does not allow: an overlay's may be another."""
    made: dict[str, Explainer] = {}
    for name in config.get("comparison_explainers") or {}:
        try:
            made[name] = config.get_parsed_content(f"comparison_explainers::{name}")
        except Exception as error:
            if not isinstance(last_cause(error), ValueError):
                raise
    return made


def study_error(study: str, error: BaseException) -> StudyError:
    """What went wrong with a study, as a StudyError that names it: our own error in the chain, or the last cause."""
    ours = our_error(error)
    if isinstance(ours, StudyError):
        return ours
    cause = last_cause(error)
    if isinstance(cause, ValueError):
        return StudyError(study, str(cause).rstrip("."), "look at it with `pneumonai inspect`")
    if isinstance(cause, MemoryError):
        return StudyError(study, "not enough memory", "close other programs, or use a larger machine")
    return StudyError(study, f"could not be answered ({type(cause).__name__}: {cause})", "run again with --debug")


def last_cause(error: BaseException) -> BaseException:
    """Where a chain of causes began: MONAI wraps what a transform or a config raises."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


@contextmanager
def _without_codec_messages() -> Iterator[None]:
    """LoadImage tries all of MONAI's readers, and one warns that NVIDIA's codecs are missing; ours needs none."""
    codec_log = logging.getLogger("monai.data.nvimgcodec_pydicom_plugin")
    level = codec_log.level
    codec_log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="NvImgCodecPydicomReader")
            yield
    finally:
        codec_log.setLevel(level)


def _study_reader(preprocessing: Any, bundle: Bundle) -> Any:
    """The StudyReader inside the first LoadImage of a preprocessing."""
    for transform in preprocessing.transforms:
        loader = getattr(transform, "_loader", None)
        if isinstance(loader, LoadImage):
            for reader in loader.readers:
                if hasattr(reader, "hand_over"):
                    return reader
    raise BundleError(
        bundle.name,
        "its preprocessing does not read with StudyReader",
        "begin it with LoadImaged(reader=pneumonai.pipeline.study.StudyReader)",
    )
