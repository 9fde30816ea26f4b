"""A PNG, JPEG, TIFF or BMP picture into a :class:`~pneumonai.pipeline.study.Study`."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from pneumonai.pipeline.errors import StudyError
from pneumonai.pipeline.sources import fingerprint
from pneumonai.pipeline.study import InputKind, Modality, Study
from pneumonai.pipeline.synthetic import says_synthetic
from pneumonai.pipeline.xray_checks import PICTURE_LOOKS

PERCENTILES = (0.5, 99.5)
# A screen's colours differ by a few levels after JPEG; beyond this the picture is painted on.
COLOURED = 24
# Drawings on a scan colour a few per cent of it, and a photograph nearly all of itself.
MOSTLY = 0.3


def open_picture(path: str, study_id: str, modality: Modality = Modality.CXR) -> Study:
    """Read a grey picture, as displayed (EXIF orientation applied), into grey values 0..255.

    Colour becomes grey by luminance, 16 bit is scaled between its 0.5 and 99.5 percentiles; both are listed in
    ``converted``.

    Raises:
        StudyError: damaged file, several pages, black and white only.
    """
    try:
        data = Path(path).read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            pages = getattr(picture, "n_frames", 1)
            if pages > 1:
                raise StudyError(path, f"holds {pages} pictures", "send one picture a file")
            if picture.mode == "1":
                raise StudyError(path, "is black and white, without greys", "send the grey picture")
            synthetic = says_synthetic(str(picture.info.get("Description", "")))
            turned = picture.getexif().get(0x0112, 1) not in (0, 1)
            picture.load()
            upright = ImageOps.exif_transpose(picture)
            values, converted, warnings = _as_grey(upright)
    except StudyError:
        raise
    except PermissionError as error:
        raise StudyError(path, "may not be read (no permission)", "change its permissions") from error
    except Image.DecompressionBombError as error:
        raise StudyError(path, "has more pixels than any X-ray", "send the picture at its own size") from error
    except Exception as error:
        raise StudyError(path, "is damaged or no picture", "copy it again") from error
    if turned:
        converted.insert(0, "turned as its EXIF orientation says")
    return Study(
        id=study_id,
        path=path,
        modality=modality,
        kind=InputKind.PICTURE,
        image=values,
        affine=np.eye(4),
        converted=converted,
        warnings=warnings,
        assumed_geometry=True,
        assumed_modality=True,
        synthetic=synthetic,
        fingerprint=fingerprint([path], path, {path: hashlib.sha256(data).hexdigest()}),
    )


def _as_grey(picture: Image.Image) -> tuple[np.ndarray, list[str], list[str]]:
    converted: list[str] = []
    warnings: list[str] = []
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture).astype(np.float32)
        if not np.isfinite(values).all():
            raise ValueError("values that are no numbers")
        if picture.mode != "F" and values.min() >= 0 and values.max() <= 255:
            return values.astype(np.uint8), converted, warnings
        return scale_to_grey(values), [f"scaled from the {_percent()} percentiles to 0..255"], warnings
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    if picture.mode in ("LA", "La", "RGBA", "RGBa"):
        under = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        picture = Image.alpha_composite(under, picture.convert("RGBA"))
        picture = picture.convert("L" if picture.mode.startswith("L") else "RGB")
        converted.append("transparency laid on black")
    if picture.mode == "L":
        return np.array(picture), converted, warnings
    colours = np.asarray(picture.convert("RGB"))
    spread = colours.max(axis=2).astype(np.int16) - colours.min(axis=2)
    coloured = float(np.mean(spread > COLOURED))
    if coloured > MOSTLY:
        warnings.append(f"{PICTURE_LOOKS} like a photograph or a colour map: it is coloured, its greys are not its own")
    elif coloured > 0.001:
        warnings.append("the picture has colours (drawings or a colour map): grey values there are not the image's own")
    converted.append(f"{picture.mode} to grey by luminance")
    return np.array(picture.convert("L")), converted, warnings


def _percent() -> str:
    return " and ".join(f"{p:g}" for p in PERCENTILES)


def scale_to_grey(values: np.ndarray) -> np.ndarray:
    """Scale values linearly so that their 0.5 and 99.5 percentiles become 0 and 255, and cut there; float32."""
    low, high = (float(v) for v in np.percentile(values, PERCENTILES))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    scale = 255.0 / (high - low) if high > low else 0.0
    return np.clip((values.astype(np.float32) - np.float32(low)) * np.float32(scale), 0.0, 255.0)
