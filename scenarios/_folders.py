"""Readers of image folders, of tiny-ImageNet's layout, and of .npz files.

Literature: Le and Yang, Tiny ImageNet visual recognition challenge, CS 231N, 2015.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cl_framework import DataError
from cl_framework.machine import available_memory
from cl_framework.plain_files import check_file

from ._picture_files import picture
from ._readers import Bytes, check_md5, content_of

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}


_MOST_OF_MEMBER = 64 << 20


class Labelled(NamedTuple):
    """Rows with labels as their owner wrote them, and held-out rows where there are any."""

    x: NDArray[Any]
    y: NDArray[Any]
    test_x: NDArray[Any] | None = None
    test_y: NDArray[Any] | None = None


def decode(content: bytes, name: str, mode: str | None = None) -> Bytes:
    """One image file as uint8 [C, H, W].

    Args:
        content: of the file.
        name: for the message.
        mode: "L" or "RGB"; None keeps grey images grey and makes everything else RGB.

    Raises:
        DataError: Pillow cannot read it.
    """
    with picture(io.BytesIO(content), name) as image:
        is_grey = image.mode in {"1", "L", "LA"}
        pixels = np.asarray(image.convert(mode or ("L" if is_grey else "RGB")))
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _stack(names: Sequence[str], read: Callable[[str], bytes], mode: str | None = None) -> Bytes:
    """All images in one array [N, C, H, W]; they must have one shape."""
    first = decode(read(names[0]), names[0], mode)
    images = np.empty((len(names), *first.shape), np.uint8)
    for at, name in enumerate(names):
        image = decode(read(name), name, mode)
        if image.shape != first.shape:
            raise DataError(f"{name} has shape {image.shape} (channels, height, width), but {names[0]} has "
                            f"{first.shape}; give all images one size and one number of channels")
        images[at] = image
    return images


def read_tiny_imagenet(folder: Path, *, archive: str, inner: str, md5: Mapping[str, str]) -> dict[str, NDArray[Any]]:
    """Tiny-ImageNet from its zip or its extracted folder; the official validation part is the test part.

    Labels number the lines of `wnids.txt`, as Avalanche's do.
    """
    if (folder / inner).is_dir():
        root = folder / inner
        names = [path.relative_to(root).as_posix() for path in root.glob("train/*/images/*")]
        return _tiny_imagenet(names, lambda name: content_of(root / name))
    with (folder / archive).open("rb") as file:
        if archive in md5:
            check_md5(file.read(), archive, md5)
        try:
            with zipfile.ZipFile(file) as packed:
                names = [name.removeprefix(f"{inner}/") for name in packed.namelist() if not name.endswith("/")]
                return _tiny_imagenet(names, lambda name: _member(packed, f"{inner}/{name}"))
        except (zipfile.BadZipFile, KeyError, EOFError, zlib.error, RuntimeError, ValueError) as error:
            raise DataError(f"{archive} is damaged or cut short ({error})") from None


def _member(packed: zipfile.ZipFile, name: str) -> bytes:
    """A file of a zip, whose declared size bounds what is unpacked."""
    if packed.getinfo(name).file_size > _MOST_OF_MEMBER:
        raise ValueError(f"{name} unpacks to {packed.getinfo(name).file_size:,} bytes")
    return packed.read(name)


def _tiny_imagenet(names: Sequence[str], read: Callable[[str], bytes]) -> dict[str, NDArray[Any]]:
    wnids = read("wnids.txt").decode().split()
    label_of = {wnid: label for label, wnid in enumerate(wnids)}
    train = sorted((label_of[parts[1]], name) for name in names
                   if len(parts := name.split("/")) == 4 and parts[0] == "train" and parts[2] == "images"
                   and parts[1] in label_of)
    test = []
    for line in read("val/val_annotations.txt").decode().splitlines():
        image, wnid = (*line.split("\t"), "", "")[:2]
        if wnid not in label_of:
            raise DataError(f"val/val_annotations.txt names the class {wnid!r}, which is not in wnids.txt")
        test.append((label_of[wnid], f"val/images/{image}"))
    if len({label for label, _ in train}) != len(wnids) or not test:
        raise DataError(f"wnids.txt names {len(wnids)} classes, but train/ has images of "
                        f"{len({label for label, _ in train})} of them: files are missing")
    arrays: dict[str, NDArray[Any]] = {}
    for split, rows in (("train", train), ("test", test)):
        arrays[f"{split}_x"] = _stack([name for _, name in rows], read, "RGB")
        arrays[f"{split}_y"] = np.array([label for label, _ in rows], np.int64)
    return arrays


def read_npz(path: Path) -> Labelled:
    """`x` and `y`, and `x_test` and `y_test` where given, of an .npz file; pickled objects are refused.

    Raises:
        DataError: it is damaged, or an array is missing.
    """
    try:
        check_file(path, most=None)
        with np.load(path, allow_pickle=False) as file:
            _refuse_larger_than_memory(path, sum(entry.file_size for entry in file.zip.infolist()))
            arrays = {name: file[name] for name in file.files}
    except DataError:
        raise
    except Exception as error:  # numpy's and zip's readers fail in many ways
        is_pickled = "allow_pickle" in str(error) and path.suffix == ".npz"
        reason = "arrays of Python objects are refused" if is_pickled else "it is damaged, or of another kind"
        raise DataError(f"{path} is no readable .npz file: {reason}; write it with np.savez(path, x=x, y=y)") from None
    strangers = sorted(set(arrays) - {"x", "y", "x_test", "y_test"})
    if strangers:
        raise DataError(f"{path} holds the array {strangers[0]!r}, which has no meaning here; the names are x, y, "
                        "x_test and y_test: np.savez(path, x=x, y=y)")
    for names in (("x", "y"), ("x_test", "y_test")):
        missing = [name for name in names if name not in arrays]
        if missing and (names[0] == "x" or len(missing) == 1):
            raise DataError(f"{path} lacks the array {missing[0]!r}; write it with "
                            "np.savez(path, x=x, y=y) or np.savez(path, x=x, y=y, x_test=x_test, y_test=y_test)")
    return Labelled(arrays["x"], arrays["y"], arrays.get("x_test"), arrays.get("y_test"))


def _refuse_larger_than_memory(path: Path, n_bytes: int) -> None:
    """A small file may unpack to more than the machine has."""
    free = available_memory()
    if free is not None and n_bytes > free:
        raise DataError(f"{path} unpacks to {n_bytes:,} bytes, and {free:,} bytes of memory are free; give fewer rows, "
                        "or a machine with more memory")


def read_image_folder(path: Path) -> Labelled:
    """A folder with one folder of images a class, or with two such trees called `train` and `test`.

    Raises:
        DataError: there are no images, one cannot be read, or they differ in shape.
    """
    if (path / "train").is_dir() and (path / "test").is_dir():
        train, test = _class_folders(path / "train"), _class_folders(path / "test")
        return Labelled(*train, *test)
    return Labelled(*_class_folders(path))


def _class_folders(path: Path) -> tuple[Bytes, NDArray[Any]]:
    files = [file for folder in sorted(path.iterdir()) if folder.is_dir()
             for file in sorted(folder.iterdir()) if file.suffix.lower() in IMAGE_SUFFIXES]
    if not files:
        raise DataError(f"{path} holds no images; expected one folder a class with images in it, "
                        f"such as {path}/cat/1.png, or such folders below train/ and test/")
    empty = [folder.name for folder in sorted(path.iterdir())
             if folder.is_dir() and folder.name not in {file.parent.name for file in files}]
    if empty:
        raise DataError(f"the class folder {empty[0]!r} of {path} holds no images; fill or remove it")
    images = _stack([str(file) for file in files], lambda name: content_of(Path(name)))
    return images, np.array([file.parent.name for file in files])
