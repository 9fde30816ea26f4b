"""Whether an image can be opened: headers only, so that ten thousand take seconds; ``check`` decodes the pixels."""

from __future__ import annotations

from pathlib import Path

NIFTI = (".nii", ".nii.gz")
PICTURES = (".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".gif", ".tif", ".tiff", ".webp")


def unreadable(path: Path) -> str | None:
    """Why an image cannot be opened, in words, or None when it can.

    A folder is a volume: its first file, by name, is opened. Unknown endings are taken for DICOM.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        reason = unreadable(files[0]) if files else "an empty folder"
        return f"{reason} ({files[0].name})" if files and reason else reason
    if not path.exists():
        return "no such file"
    if path.stat().st_size == 0:
        return "an empty file"
    name = path.name.lower()
    try:
        if name.endswith(NIFTI):
            import nibabel

            nibabel.load(path).header.get_data_shape()
        elif name.endswith(PICTURES):
            from PIL import Image

            with Image.open(path) as picture:
                picture.size  # noqa: B018
        else:
            import pydicom

            pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows"])
    except Exception as error:
        # Every library has errors of its own for a broken file.
        return f"cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
    return None
