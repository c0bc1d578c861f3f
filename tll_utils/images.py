"""One image: bytes → RGB pixels of one size, and its black letterbox borders."""

from io import BytesIO

import cv2
import numpy as np
import simplejpeg
from PIL import ExifTags, Image, ImageOps

HEIGHT, WIDTH = 245, 200
PLAIN = (HEIGHT, WIDTH, "YCbCr")  # what nearly every file is: its pixels need no conversion
MAY_BE_ROTATED = b"Exif\0", b"tiff:Orientation"  # where a JPEG says which way is up
MAX_PIXELS = 25_000_000  # a 200×245 image has 49,000; beyond this a file is a mistake or an attack
# What browsers save; keeps Pillow's exotic readers shut.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

DARK = 24  # JPEG noise beside a sharp edge lifts pure black to about 20
DARK_SHARE = 0.98  # of the pixels of a border row or column
MIN_CONTENT = 0.3  # of the height and of the width: an image with less content than that is dark, not bordered
MARGIN = 2  # pixels cropped besides: the blended edge of a border, the dark line most TLL images end in


class ImageError(ValueError):
    """An image file that cannot be used; the text names the file, what is wrong and the remedy."""


def decode(data: bytes, name: str) -> np.ndarray:
    """RGB pixels of an image file, uint8 (245, 200, 3).

    Grayscale, palette and CMYK become RGB, transparency is laid on white (as web pages show it), EXIF
    rotation is applied, any other size is resized to 200 wide × 245 high. `name` is the file's name in errors.
    Raises ImageError on empty, truncated, non-image, more-than-8-bit and huge (over 25 megapixels) files.
    """
    try:  # libjpeg alone needs half of Pillow's time for the same pixels
        if simplejpeg.decode_jpeg_header(data)[:3] == PLAIN and not any(mark in data for mark in MAY_BE_ROTATED):
            return simplejpeg.decode_jpeg(data, "RGB")
    except ValueError:
        pass  # no JPEG or not a whole one: Pillow reads it, or says what is wrong
    return decode_with_oddities(data, name)[0]


def decode_with_oddities(data: bytes, name: str) -> tuple[np.ndarray, list[str]]:
    """The pixels as from `decode`, and what was converted, such as ["grayscale", "wrong size"]."""
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes) — copy or download it again")
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:
            _refuse_unusable(image, name)
            upright = ImageOps.exif_transpose(image)
            return np.array(_standardise(upright)), _oddities(image, upright)
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(_huge(name)) from error
    except Image.UnidentifiedImageError as error:
        start = f"it starts with {data[:8]!r}"
        raise ImageError(f"{name}: not a readable image ({start}) — replace it by a JPEG") from error
    except Exception as error:  # Pillow's readers raise OSError, SyntaxError, struct.error, … on damaged files
        raise ImageError(f"{name}: damaged or truncated ({error}) — copy or download it again") from error


def _refuse_unusable(image: Image.Image, name: str) -> None:
    if image.width * image.height > MAX_PIXELS:
        raise ImageError(_huge(name, f" ({image.width}×{image.height} pixels)"))
    if image.mode.startswith(("I", "F")):  # Pillow would clip these to white without a word
        raise ImageError(f"{name}: more than 8 bits per channel — save it as an 8-bit JPEG")


def _huge(name: str, size: str = "") -> str:
    limit = MAX_PIXELS // 1_000_000
    return f"{name}: huge{size}, the limit is {limit} megapixels — resize it to {WIDTH}×{HEIGHT}"


def _standardise(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return image if image.size == (WIDTH, HEIGHT) else image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _oddities(image: Image.Image, upright: Image.Image) -> list[str]:
    found = {
        "not JPEG": image.format not in ("JPEG", "MPO"),
        "EXIF-rotated": image.getexif().get(ExifTags.Base.Orientation) in range(2, 9),
        "grayscale": image.mode in ("1", "L", "LA"),
        "palette": image.mode == "P",
        "CMYK": image.mode == "CMYK",
        "transparent": image.has_transparency_data,
        "wrong size": upright.size != (WIDTH, HEIGHT),
    }
    return [oddity for oddity, is_so in found.items() if is_so]


def find_borders(image: np.ndarray) -> np.ndarray:
    """Widths in pixels of the near-black borders: top, bottom, left, right, int (4,).

    image uint8 (h, w, 3). A border row or column has 98 % of its pixels at most 24 in every channel. A dark
    image without visible content has no borders. Of the TLL images 31 % have a border of 8 pixels or more
    (letterboxes); 4 in 5 have at least a dark line of one pixel.
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


def crop_borders(image: np.ndarray) -> np.ndarray:
    """The image without its borders, the content stretched back to uint8 (245, 200, 3).

    Two pixels more are cut on every side of every image, bordered or not: they hold the borders' blended
    edges, and left in place they still tell which images had the same borders.
    """
    top, bottom, left, right = find_borders(image) + MARGIN
    content = image[top : len(image) - bottom, left : image.shape[1] - right]
    return cv2.resize(content, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
