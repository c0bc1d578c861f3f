"""A folder, zip or file of pictures of any format and size → `Images`, through a normalised copy in the cache."""

import os
import threading
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from PIL import Image, ImageOps, UnidentifiedImageError

from tll_utils.data.checks import IMAGE_SUFFIXES
from tll_utils.data.dataset import COMPRESSIONS, problem_of_names
from tll_utils.data.images import (
    FORMATS,
    HEIGHT,
    PNG,
    SCAN,
    WIDTH,
    ImageError,
    Images,
    costly,
    orientation,
    read_bytes,
    sound,
    to_rgb,
    turned_upright,
)
from tll_utils.runtime import DAMAGED, atomic_write, cache_dir, prefetch, progress

SUFFIXES = IMAGE_SUFFIXES | {".jfif", ".avif", ".heic", ".heif"}  # HEIC is not read: reported, not passed over
READABLE = "JPEG, PNG, WebP, GIF, BMP, TIFF or AVIF"
PAGE_MARK = "look-alikes.csv"  # marks a folder written by `gallery.write_page`: its thumbnails are no pictures

MAX_PIXELS = 80_000_000  # decoded: 4 bytes each, and as many again while they are reduced, are 640 MB
LARGE = 12_000_000  # pixels beyond which pictures are decoded one after the other
MAX_MEMBER = 2**27  # bytes of a picture in a zip, which is read whole
WORKERS = min(4, os.cpu_count() or 1)
_ONE_LARGE = threading.Lock()
Image.MAX_IMAGE_PIXELS = None  # Pillow would refuse JPEGs that are reduced while they are decoded; MAX_PIXELS guards


class NoPicturesError(ValueError):
    """A source without a picture that can be read; the text names it and what can be read."""


class Collection(NamedTuple):
    """The pictures of a source, and its files that should be pictures but cannot be used."""

    images: Images  # ids: paths relative to the source with "/" between folders, sorted
    unreadable: pd.DataFrame  # columns file, problem


class Picture(NamedTuple):
    """A file that should be a picture."""

    id: str
    file: Path | zipfile.Path
    member: zipfile.ZipInfo | None = None


def collect(source: Path) -> Collection:
    """All pictures of a folder and its sub-folders, of a zip, or one image file, as 200×245 (width×height) JPEGs.

    Each is decoded once: EXIF rotation applied, 16 bits scaled to 8, the first frame of an animation, transparency
    white. A centred crop gives it the proportions of the images that methods were trained on: a stretched face would be
    another face. The copies stay in `runtime.cache_dir()`, so later runs decode only new and changed pictures. Hidden
    files, links to folders and files without an image suffix are passed over. Raises NoPicturesError.
    """
    found, problems = find(source)
    folder = cache_dir() / "pictures" / _key(source.resolve())
    copies = {}
    with progress(total=len(found), desc="pictures", unit="picture") as bar:
        for picture, copy in prefetch(partial(copied, folder), found, workers=WORKERS, n_ahead=4 * WORKERS):
            if isinstance(copy, Path):
                copies[picture.id] = copy
            else:
                problems.append((picture.id, copy))
            bar.update()
    if not copies:
        first = f" that can be read ({': '.join(problems[0])})" if problems else ""
        raise NoPicturesError(f"{source} holds no picture{first}: give a folder, zip or file of {READABLE} pictures")
    return Collection(Images(copies, copies.values()), pd.DataFrame(problems, columns=["file", "problem"]))


def find(source: Path) -> tuple[list[Picture], list[tuple[str, str]]]:
    """The pictures of the source, sorted, and the folders that cannot be opened with the reason."""
    if not source.exists():
        raise NoPicturesError(f"{source}: there is no such folder or file")
    if source.is_file() and source.suffix.lower() != ".zip":
        return [Picture(_text(source.name), source)], []
    try:
        errors: list[OSError] = []
        pictures = _members(source) if source.is_file() else _files(source, errors)
        found = sorted(pictures, key=lambda picture: picture.id)
    except NoPicturesError:
        raise
    except DAMAGED as error:  # BadZipFile, NotImplementedError, UnicodeDecodeError …
        raise NoPicturesError(
            f"{source} is a damaged zip ({' '.join(str(error).split())}): copy or download it again"
        ) from error
    problems = [
        (_text(os.path.relpath(error.filename, source)), "may not be opened — change its permissions")
        for error in errors
    ]
    return found, problems


def _files(source: Path, errors: list[OSError]) -> Iterator[Picture]:
    for parent, folders, names in os.walk(source, onerror=errors.append):
        if PAGE_MARK in names or Path(parent).resolve() == cache_dir().resolve():
            folders.clear()
            continue
        folders[:] = [folder for folder in folders if not folder.startswith(".")]
        files = (Path(parent, name) for name in names)
        yield from (Picture(_text(file.relative_to(source).as_posix()), file) for file in files if is_meant(file))


def _members(source: Path) -> Iterator[Picture]:
    archive = zipfile.ZipFile(source)
    if problem := problem_of_names(archive.infolist()):
        raise NoPicturesError(f"{source}: {problem} — unpack it, and give the folder")
    for name, member in archive.NameToInfo.items():
        if is_meant(Path(name)) and not any(part == "__MACOSX" or part[0] == "." for part in Path(name).parts):
            yield Picture(_text(name), zipfile.Path(archive, name), member)


def is_meant(file: Path) -> bool:
    """Whether a file should be a picture by its name."""
    return file.suffix.lower() in SUFFIXES and not file.name.startswith(".")


def _text(name: str) -> str:
    """A file name as valid text: bytes that are no UTF-8 become �."""
    return os.fsencode(name).decode("utf-8", "replace")


def _key(*facts: object) -> str:
    return sha256(os.fsencode("\n".join(map(str, facts)))).hexdigest()[:32]


# --- one picture ----------------------------------------------------------------


def copied(folder: Path, picture: Picture) -> tuple[Picture, Path | str]:
    """The picture's normalised copy, made where it is missing; or in one line why there is none."""
    try:
        copy = folder / f"{_content_key(picture)}.jpg"
        if not _is_whole(copy):
            _write_copy(picture, copy)
        return picture, copy
    except Exception as error:  # readers raise OSError, SyntaxError, struct.error, zlib.error, … on damaged files
        return picture, " ".join(problem_of(error, picture).split())


def _is_whole(copy: Path) -> bool:
    """Whether a JPEG is there to its end mark: a full disk or a power cut may have cut it off."""
    return copy.is_file() and copy.read_bytes().endswith(b"\xff\xd9")


def _content_key(picture: Picture) -> str:
    """What tells the contents of a file apart without reading it."""
    if picture.member:
        return _key(picture.id, picture.member.CRC, picture.member.file_size)
    path = Path(str(picture.file))
    if not path.is_file():
        raise ImageError("no file, or a link that leads nowhere — restore or remove it")
    return _key(path, path.stat().st_size, path.stat().st_mtime_ns)


def _write_copy(picture: Picture, copy: Path) -> None:
    with _opened(picture) as stream, Image.open(_readable(stream), formats=(*FORMATS, "AVIF")) as image:
        size = image.size
        image.draft(None, (2 * HEIGHT, 2 * HEIGHT))  # a JPEG is decoded at a half, a quarter or an eighth
        held = size if "progressive" in image.info else image.size  # a progressive one is held whole all the same
        if (n_pixels := held[0] * held[1]) > MAX_PIXELS:
            raise ImageError(f"{n_pixels / 1e6:.0f} megapixels, the limit is {MAX_PIXELS // 10**6} — make it smaller")
        if problem := costly(image, _scans(stream) if image.format in ("JPEG", "MPO") else 0):
            raise ImageError(problem)
        with _ONE_LARGE if n_pixels > LARGE else nullcontext():
            is_upright = orientation(image) == 1  # decodes a PNG, where it may come last
            normalised = _normalised(image)
            image.close()  # its pixels go before those of the next large one come
        with atomic_write(copy) as partial_copy:
            if image.format == "JPEG" and size == (WIDTH, HEIGHT) and is_upright:
                stream.seek(0)
                partial_copy.write_bytes(stream.read())
            else:
                normalised.save(partial_copy, "JPEG", quality=95)


def _readable(stream: BinaryIO) -> BinaryIO:
    """The file; of a PNG, unless it is enormous, without metadata that may be broken."""
    is_png, size, _ = stream.read(8) == PNG, stream.seek(0, os.SEEK_END), stream.seek(0)
    return BytesIO(sound(stream.read())) if is_png and size <= MAX_MEMBER else stream


def _scans(stream: BinaryIO) -> int:
    """Scans of a JPEG, counted without holding it; Pillow finds its place again."""
    place, _ = stream.tell(), stream.seek(0)
    n_scans = sum(part.count(SCAN) for part in iter(partial(stream.read, 2**20), b""))
    stream.seek(place)
    return n_scans


def _opened(picture: Picture):
    if picture.member is None:
        return open(str(picture.file), "rb")
    if picture.member.flag_bits & 1:
        raise ImageError("encrypted — unpack the zip with its password")
    if picture.member.compress_type not in COMPRESSIONS:
        raise ImageError("compressed in a way that is not known here — unpack the zip")
    if picture.member.file_size > MAX_MEMBER:
        raise ImageError(f"more than {MAX_MEMBER // 2**20} MB in a zip — unpack it")
    return BytesIO(read_bytes(picture.file))


def _normalised(image: Image.Image) -> Image.Image:
    """RGB of 200×245, upright; a large picture is reduced before it is composed and resampled."""
    image = turned_upright(image)
    image = _eight_bit(image) if image.mode.startswith(("I", "F")) else image
    mode = "RGBA" if image.has_transparency_data else "RGB"
    image = image if image.mode == mode else image.convert(mode)  # of equal modes it would be a copy
    image = image.reduce(max(1, min(image.size) // (2 * HEIGHT)))
    return to_rgb(ImageOps.fit(image, (WIDTH, HEIGHT), Image.Resampling.LANCZOS))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Integers of 16 bits by their upper byte, other numbers from their least to their greatest."""
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind in "iu" and low >= 0 and high < 2**16:
        low, high = 0, 2**16 - 1
    scaled = np.subtract(values, low, dtype=np.float32, casting="unsafe")
    scaled *= 255 / ((high - low) or 1)
    return Image.fromarray(scaled.astype(np.uint8))


def problem_of(error: Exception, picture: Picture) -> str:
    match error:
        case ImageError():
            return str(error)
        case UnidentifiedImageError() if picture.id.lower().endswith((".heic", ".heif")):
            return "HEIC cannot be read here — save it as JPEG"
        case UnidentifiedImageError():
            return f"empty or no picture in spite of its name — replace it by a {READABLE} file"
        case PermissionError():
            return "may not be read — change its permissions"
    return f"damaged or truncated ({error}) — copy or download it again"
