"""Images: bytes → RGB pixels of one size, their black letterbox borders, and a folder of them as a sequence."""

import copy
import logging
import threading
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from contextlib import nullcontext, suppress
from functools import cached_property
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from zlib import crc32

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image

HEIGHT, WIDTH = 245, 200
PLAIN = (HEIGHT, WIDTH, "YCbCr")  # what nearly every file is: its pixels need no conversion
MAY_BE_ROTATED = b"Exif\0", b"tiff:Orientation"  # where a JPEG says which way is up
PNG, SCAN = b"\x89PNG\r\n\x1a\n", b"\xff\xda"  # how a PNG starts, and every scan of a JPEG
MAX_PIXELS = 25_000_000  # a 200×245 image has 49,000; beyond this a file is a mistake or an attack
MAX_SCANS = 100  # of a progressive JPEG: ten are usual, and each costs as much as the whole picture
LIMIT = f"the limit is {MAX_PIXELS // 1_000_000} megapixels — resize it to {WIDTH}×{HEIGHT}"
TURNED = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # EXIF orientation → Image.Transpose
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")  # what browsers save; Pillow's exotic readers stay shut

DARK = 24  # JPEG noise beside a sharp edge lifts pure black to about 20
DARK_SHARE = 0.98  # of the pixels of a border row or column
MIN_CONTENT = 0.3  # of the height and of the width: an image with less content than that is dark, not bordered
MARGIN = 2  # pixels cropped besides: the blended edge of a border, the dark line most TLL images end in

File = Path | zipfile.Path
warnings.filterwarnings("ignore", module=r"PIL\.")  # of odd metadata; what counts is raised, and names the file
logging.getLogger("PIL").setLevel(logging.CRITICAL)
_ZIP_LOCK = threading.Lock()  # ZipFile counts its open members without one; a lost count closes it under other threads


class ImageError(ValueError):
    """An image file that cannot be used; the text names the file, what is wrong and the remedy."""


def read_bytes(file: File) -> bytes:
    """The content of a file on disk or in a zip; safe in threads."""
    with _ZIP_LOCK if isinstance(file, zipfile.Path) else nullcontext():
        return file.read_bytes()


class Images(Sequence):
    """Images of one folder, or a view of them; `images[i]` is decoded on access and never kept. Safe in threads.

    ids, files: tuples; base, rows: the whole folder's Images without views, and int (n,) rows into it;
    is_cropped: borders are found and cut away, the rest stretched back; is_mirrored: flipped left to right.
    """

    def __init__(self, ids: Iterable[str], files: Iterable[File], *, hashes: Iterable[str] | None = None):
        self.ids, self.files = tuple(ids), tuple(files)
        self.base, self.rows = self, np.arange(len(self.ids))
        self.is_cropped = self.is_mirrored = False
        self._hashes = hashes

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> np.ndarray:
        """RGB pixels, uint8 (245, 200, 3). Raises ImageError where the file cannot be used."""
        return cv2.resize(self.content(i), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)

    def __repr__(self) -> str:
        return f"Images({len(self)} of {len(self.base)}{self.view and ', '}{self.view})"

    def content(self, i: int) -> np.ndarray:
        """RGB pixels, uint8 (h, w, 3), contiguous: where the view is cropped they are cut but not stretched."""
        image = decode(self.read_bytes(i), self.files[i].name)
        image = border_content(image) if self.is_cropped else image
        return np.ascontiguousarray(image[:, ::-1]) if self.is_mirrored else image

    def read_bytes(self, i: int) -> bytes:
        """The image file, whatever the view."""
        return read_bytes(self.files[i])

    def take(self, rows: np.ndarray | Sequence[int]) -> "Images":
        """A view of some rows (int or bool array), in that order."""
        rows = self.rows[np.asarray(rows)]
        ids, files = (tuple(values[i] for i in rows) for values in (self.base.ids, self.base.files))
        return self._changed(ids=ids, files=files, rows=rows)

    def cropped(self) -> "Images":
        return self._changed(is_cropped=True)

    def mirrored(self) -> "Images":
        """The same images flipped left to right; mirrored twice they are unflipped."""
        return self._changed(is_mirrored=not self.is_mirrored)

    def joined(self, other: "Images") -> "Images":
        """All images of both folders as those of one, in this view."""
        whole = Images(self.base.ids + other.base.ids, self.base.files + other.base.files)
        return whole._changed(is_cropped=self.is_cropped, is_mirrored=self.is_mirrored)

    @property
    def raw(self) -> "Images":
        """The same rows without a view."""
        return self.base.take(self.rows)

    @property
    def whole(self) -> "Images":
        """The whole folder in the same view."""
        return self.base._changed(is_cropped=self.is_cropped, is_mirrored=self.is_mirrored)

    @property
    def view(self) -> str:
        """Empty, "border-neutral", "mirrored" or "border-neutral mirrored": part of cache keys."""
        return " ".join(["border-neutral"] * self.is_cropped + ["mirrored"] * self.is_mirrored)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over ids and file contents of `base`, in order; the same for folder and zip."""
        if self.base is not self:
            return self.base.fingerprint
        hashes = self._hashes or (sha256(read_bytes(file)).hexdigest() for file in self.files)
        return sha256("\n".join(f"{i} {h}" for i, h in zip(self.ids, hashes, strict=True)).encode()).hexdigest()

    @property
    def key(self) -> str:
        """16 characters that identify view, rows and fingerprint."""
        return sha256(f"{self.view}\n{self.rows.tolist()}\n{self.fingerprint}".encode()).hexdigest()[:16]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Images) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def _changed(self, **attributes) -> "Images":
        view = copy.copy(self)
        vars(view).update(attributes)
        return view


def decode(data: bytes, name: str) -> np.ndarray:
    """RGB pixels of an image file, uint8 (245, 200, 3).

    Grayscale, palette and CMYK become RGB, transparency white (as on web pages), EXIF rotation is applied, other sizes
    are resized. Raises ImageError naming an empty, truncated, non-image, more-than-8-bit or over-25-megapixel file.
    """
    with suppress(ValueError):  # no JPEG or not a whole one: Pillow reads it, or says what is wrong
        is_plain = simplejpeg.decode_jpeg_header(data)[:3] == PLAIN and data.count(SCAN) <= MAX_SCANS
        if is_plain and not any(mark in data for mark in MAY_BE_ROTATED):
            return simplejpeg.decode_jpeg(data, "RGB")  # in half of Pillow's time for the same pixels
    return decode_with_conversions(data, name)[0]


def decode_with_conversions(data: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """The pixels as from `decode`, and what was converted, such as ["grayscale", "wrong size"]."""
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes) — copy or download it again")
    try:
        with Image.open(BytesIO(sound(data)), formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                problem = f"huge ({image.width}×{image.height} pixels), {LIMIT}"
            elif not (problem := costly(image, data.count(SCAN))) and image.mode.startswith(("I", "F")):
                problem = "more than 8 bits per channel — save it as an 8-bit JPEG"
            elif not problem:
                upright = turned_upright(image)
                return np.array(to_rgb(upright)), _conversions(image, upright)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        problem = f"huge, {LIMIT}"
    except Image.UnidentifiedImageError:
        problem = f"not a readable image (it starts with {data[:8]!r}) — replace it by a JPEG"
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, … on damaged files
        problem = f"damaged or truncated ({error}) — copy or download it again"
    raise ImageError(f"{name}: {problem}")


def costly(image: Image.Image, n_scans: int) -> str:
    """Why an opened file, however small, would take minutes or gigabytes to decode; empty if it would not."""
    if "bmp_rle" in str(getattr(image, "tile", "")):  # which Pillow decodes in Python, byte by byte
        return "a BMP compressed by run lengths — save it as JPEG or PNG"
    tile = [getattr(image, "tag_v2", {}).get(tag, 0) for tag in (322, 323)]  # of a TIFF; each is decoded whole
    if tile[0] * tile[1] > MAX_PIXELS:
        return f"huge (tiles of {tile[0]}×{tile[1]} pixels), {LIMIT}"
    is_many = n_scans > MAX_SCANS and image.format in ("JPEG", "MPO")
    return f"a JPEG of {n_scans} scans, the limit is {MAX_SCANS} — save it anew" * is_many


def sound(data: bytes) -> bytes:
    """Of a PNG its pixels and whole EXIF or XMP, since Pillow refuses it for broken metadata; other files unchanged."""
    kept, at = [data[:8]], 8
    while data.startswith(PNG) and at < len(data):
        chunk = data[at : at + 12 + int.from_bytes(data[at : at + 4], "big")]
        is_whole = crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:], "big")
        is_pixels = chunk[4:5].isupper() or chunk[4:8] == b"tRNS"
        kept += [chunk] * (is_pixels or (is_whole and chunk[4:8] in (b"eXIf", b"iTXt")))
        at += len(chunk)
    return b"".join(kept) if data.startswith(PNG) else data


def orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 for upright; where the metadata are broken, since they are not the pixels, 1 too."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow's readers raise nearly any
        return 1


def turned_upright(image: Image.Image) -> Image.Image:
    image.load()  # Pillow turns a TIFF while it loads it
    how = TURNED.get(orientation(image))
    return image if how is None else image.transpose(Image.Transpose(how))


def to_rgb(image: Image.Image) -> Image.Image:
    """The image in RGB and of 200×245: transparency becomes white, other sizes are resized."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image if image.size == (WIDTH, HEIGHT) else image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _conversions(image: Image.Image, upright: Image.Image) -> list[str]:
    found = {
        "not JPEG": image.format not in ("JPEG", "MPO"), "EXIF-rotated": orientation(image) in TURNED,
        "grayscale": image.mode in ("1", "L", "LA"), "palette": image.mode == "P", "CMYK": image.mode == "CMYK",
        "transparent": image.has_transparency_data, "wrong size": upright.size != (WIDTH, HEIGHT),
    }  # fmt: skip
    return [conversion for conversion, is_so in found.items() if is_so]


def find_borders(image: np.ndarray) -> np.ndarray:
    """Widths in pixels of the near-black borders: top, bottom, left, right, int (4,).

    image uint8 (h, w, 3). A border row or column has 98 % of its pixels at most 24 in every channel. A dark image
    without visible content has none. Of the TLL images 31 % have one of 8 pixels or more, 4 in 5 at least one pixel.
    """
    dark = cv2.inRange(image, (0, 0, 0), (DARK, DARK, DARK)) > 0
    top, bottom = _dark_ends(dark.mean(axis=1) >= DARK_SHARE)
    left, right = _dark_ends(dark[top : len(dark) - bottom].mean(axis=0) >= DARK_SHARE)
    return np.array([top, bottom, left, right])


def _dark_ends(is_dark: np.ndarray) -> tuple[int, int]:
    """Lengths of the runs of True at the start and at the end; (0, 0) where too little is left between."""
    content = np.flatnonzero(~is_dark)
    if len(content) == 0 or content[-1] - content[0] + 1 < MIN_CONTENT * len(is_dark):
        return 0, 0
    return int(content[0]), int(len(is_dark) - 1 - content[-1])


def border_content(image: np.ndarray) -> np.ndarray:
    """What lies inside the borders, uint8 (h, w, 3), contiguous, not stretched.

    Two pixels more are cut on every side of every image, bordered or not: they hold the borders' blended
    edges, and left in place they still tell which images had the same borders.
    """
    top, bottom, left, right = find_borders(image) + MARGIN
    return np.ascontiguousarray(image[top : len(image) - bottom, left : image.shape[1] - right])


def crop_borders(image: np.ndarray) -> np.ndarray:
    """The `border_content` stretched back to uint8 (245, 200, 3)."""
    return cv2.resize(border_content(image), (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
