"""Drawing a fixed number of slices from a scan, evenly over those that hold lung."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection, NdarrayOrTensor
from monai.data import MetaTensor
from monai.transforms import InvertibleTransform, MapTransform
from monai.utils import TraceKeys, TransformBackends, convert_to_dst_type, convert_to_tensor, ensure_tuple_rep

from pneumonai.transforms.resize import check_interpolation
from pneumonai.transforms.spatial_trace import cast_like, image_and_voxels, traced_affine, with_affine

__all__ = ["SampleSlices", "SampleSlicesD", "SampleSlicesDict", "SampleSlicesd"]


class SampleSlices(InvertibleTransform):
    """Draw ``num_slices`` slices from the first to the last that holds lung (NL-RAN's interval sampling). Invertible.

    Of ``n`` slices, sample ``i`` is slice ``round(i * (n - 1) / (num_slices - 1))``, computed in whole numbers, a
    half rounded up (with 64 slices no half occurs). Where ``n < num_slices``, slices repeat. That the samples are
    those with lung is this project's choice.

    The affine becomes that of evenly spaced slices, their distance multiplied by ``(n - 1) / (num_slices - 1)``:
    exact for the first and the last, and elsewhere off by at most half a source slice, as sampled positions are
    rounded (a single slice counts as two, so that the affine stays invertible). The inverse uses the rounded positions
    themselves: it interpolates linearly between sampled slices, takes the mean of repeated ones, gives 0 before the
    first and after the last, and restores the affine to the last bit.

    Args:
        num_slices: number of slices drawn, 2 or more.
        interp_mode: how the inverse fills the slices between samples: ``linear``, or ``nearest`` for labels (of two
            equally near samples the lower).

    Raises:
        ValueError: for fewer than 2 slices, or an unknown interpolation.

    Example: 4 of 6 slices are ``round(0, 5/3, 10/3, 5) = 0, 2, 3, 5``; the way back fills slices 1 and 4::

        >>> scan = torch.tensor([10.0, 11, 12, 13, 14, 99]).reshape(1, 6, 1, 1)
        >>> sample = SampleSlices(num_slices=4)
        >>> drawn = sample(scan)
        >>> drawn.flatten().tolist()
        [10.0, 12.0, 13.0, 99.0]
        >>> sample.inverse(drawn).flatten().tolist()
        [10.0, 11.0, 12.0, 13.0, 56.0, 99.0]
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012

    def __init__(self, num_slices: int = 64, interp_mode: str = "linear") -> None:
        if int(num_slices) != num_slices or num_slices < 2:
            raise ValueError(f"SampleSlices needs a whole num_slices of 2 or more, got {num_slices}.")
        self.num_slices = int(num_slices)
        self.interp_mode = check_interpolation(interp_mode, "SampleSlices", linear="linear")

    def find_span(self, lungs: NdarrayOrTensor) -> tuple[int, int]:
        """First and last slice with lung (above 0) of ``[C, D, H, W]``.

        Raises:
            ValueError: where nothing is above 0, or for another number of dimensions.
        """
        mask: torch.Tensor = convert_to_tensor(lungs, track_meta=False)
        if mask.ndim != 4:
            raise ValueError(f"SampleSlices needs lungs [C, D, H, W], got {tuple(mask.shape)}.")
        slices = (mask.flatten(2).amax(2) > 0).any(0).nonzero().flatten().tolist()
        if not slices:
            raise ValueError(
                f"SampleSlices needs at least one lung voxel (above 0), got an empty mask of shape "
                f"{tuple(mask.shape)}; segment the lungs again or leave the scan out."
            )
        return slices[0], slices[-1]

    def __call__(
        self,
        img: NdarrayOrTensor,
        lungs: NdarrayOrTensor | None = None,
        span: tuple[int, int] | None = None,
        interp_mode: str | None = None,
    ) -> torch.Tensor:
        """Draw slices.

        Args:
            img: ``[C, D, H, W]``.
            lungs: mask ``[C, D, H, W]`` with the image's D; without it all slices are sampled from.
            span: first and last slice instead.
            interp_mode: instead of the constructor's.

        Returns:
            ``[C, num_slices, H, W]`` of the same data type.

        Raises:
            ValueError: for another number of dimensions or slices, or an empty mask.
        """
        interp_mode = (
            self.interp_mode
            if interp_mode is None
            else check_interpolation(interp_mode, "SampleSlices", linear="linear")
        )
        img, voxels = image_and_voxels(img)
        if voxels.ndim != 4 or voxels.numel() == 0:
            raise ValueError(f"SampleSlices needs [C, D, H, W] with voxels in it, got {tuple(voxels.shape)}.")
        depth = voxels.shape[1]
        if span is None and lungs is not None:
            if lungs.shape[1] != depth:
                raise ValueError(f"SampleSlices needs lungs of the image's {depth} slices, got {lungs.shape[1]}.")
            span = self.find_span(lungs)
        first, last = (0, depth - 1) if span is None else span
        if not 0 <= first <= last < depth:
            raise ValueError(f"SampleSlices needs a span within slices 0 to {depth - 1}, got {first} to {last}.")

        index = first + self._positions(last - first + 1)
        out = convert_to_dst_type(voxels.index_select(1, index.to(voxels.device)), dst=img, dtype=voxels.dtype)[0]
        affine = np.eye(4)
        affine[0, 0] = max(last - first, 1) / (self.num_slices - 1)
        affine[0, 3] = first
        info = {"mode": interp_mode, "first": first, "last": last, "affine": traced_affine(img)}
        return self.push_transform(out, affine=affine, orig_size=tuple(voxels.shape[1:]), extra_info=info)

    def _positions(self, number: int) -> torch.Tensor:
        """The sampled slices of ``number``, counted from 0."""
        steps = self.num_slices - 1
        return (2 * torch.arange(self.num_slices) * (number - 1) + steps) // (2 * steps)

    def inverse(self, data: torch.Tensor) -> torch.Tensor:
        """Fill the slices between the sampled ones; 0 outside the sampled span.

        Args:
            data: ``[C, num_slices, H, W]`` with the trace of the sampled image; any H and W, number of channels and
                data type; whole numbers stay whole (rounded).

        Returns:
            ``[C, D, H, W]`` with the source's D and affine.

        Raises:
            ValueError: for another number of slices or dimensions.
        """
        transform = self.pop_transform(data)
        info = transform[TraceKeys.EXTRA_INFO]
        voxels = convert_to_tensor(data, track_meta=False)
        if voxels.ndim != 4 or voxels.shape[1] != self.num_slices:
            raise ValueError(f"SampleSlices' inverse needs [C, {self.num_slices}, H, W], got {tuple(voxels.shape)}.")
        first, last = int(info["first"]), int(info["last"])
        depth = int(transform[TraceKeys.ORIG_SIZE][0])
        result = voxels.new_zeros((voxels.shape[0], depth, *voxels.shape[2:]))
        weights = self._weights(last - first + 1)
        if info["mode"] == "nearest":
            result[:, first : last + 1] = voxels.index_select(1, weights.argmax(1).to(voxels.device))
        else:
            values = voxels if voxels.dtype == torch.float64 else voxels.float()
            weights = weights.to(device=values.device, dtype=values.dtype)
            filled = (weights @ values.flatten(2)).reshape(voxels.shape[0], -1, *voxels.shape[2:])
            result[:, first : last + 1] = cast_like(filled, voxels.dtype)
        return with_affine(result, data, info["affine"])

    def _weights(self, number: int) -> torch.Tensor:
        """What each sample adds to each of ``number`` slices, ``[number, num_slices]``, float64, rows adding up to 1.

        Linear interpolation over the distinct sampled slices; repeated samples share the weight of theirs.
        """
        positions = self._positions(number).numpy()
        distinct, which, times = np.unique(positions, return_inverse=True, return_counts=True)
        hats = np.stack([np.interp(np.arange(number), distinct, one) for one in np.eye(len(distinct))], axis=1)
        return torch.from_numpy(hats[:, which] / times[which])


class SampleSlicesd(MapTransform, InvertibleTransform):
    """Dictionary form of :py:class:`SampleSlices`: the same slices for all keys.

    Args:
        keys: keys to draw slices from.
        source_key: key of the lungs; it may be one of ``keys``. None: sample from all slices.
        num_slices: see :py:class:`SampleSlices`.
        interp_mode: ``linear`` or ``nearest``, one for all or one a key. None: ``nearest`` for ``source_key``,
            ``linear`` for the others.
        allow_missing_keys: pass over keys that are not there.
    """

    backend = SampleSlices.backend

    def __init__(
        self,
        keys: KeysCollection,
        source_key: Hashable | None = "lungs",
        num_slices: int = 64,
        interp_mode: Sequence[str] | str | None = None,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.source_key = source_key
        self.sampler = SampleSlices(num_slices=num_slices)
        if interp_mode is None:
            interp_mode = ["nearest" if key == source_key else "linear" for key in self.keys]
        self.interp_mode = tuple(
            check_interpolation(each, "SampleSlices", linear="linear")
            for each in ensure_tuple_rep(interp_mode, len(self.keys))
        )

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Draw the slices of every key."""
        d = dict(data)
        span = None
        if self.source_key is not None:
            if self.source_key not in d:
                raise KeyError(
                    f"SampleSlicesd needs the lungs at the key {self.source_key!r}, got {sorted(map(str, d))}."
                )
            lungs = d[self.source_key]
            span = self.sampler.find_span(lungs)
            for key in self.key_iterator(d):
                if d[key].shape[1] != lungs.shape[1]:
                    raise ValueError(
                        f"SampleSlicesd needs all keys with the same slices, got {d[key].shape[1]} for {key!r} "
                        f"and {lungs.shape[1]} for {self.source_key!r}."
                    )
        for key, interp_mode in self.key_iterator(d, self.interp_mode):
            d[key] = self.sampler(d[key], span=span, interp_mode=interp_mode)
        return d

    def inverse(self, data: Mapping[Hashable, MetaTensor]) -> dict[Hashable, Any]:
        """Fill the slices of every key again."""
        d: dict[Hashable, Any] = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.sampler.inverse(d[key])
        return d


SampleSlicesD = SampleSlicesDict = SampleSlicesd
