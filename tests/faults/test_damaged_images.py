"""Damaged image files give Pillow's pixels or a named error, whatever the damage; broken metadata are no damage."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from faults.damage import CHANGES, DAMAGE, FLIPS, damaged, fuzz, in_memory, in_time, one_line
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageCms

from conftest import encoded, picture
from tll_utils.data.images import FORMATS, MAX_PIXELS, ImageError, decode, decode_with_conversions

pytestmark = pytest.mark.filterwarnings("ignore")  # Pillow's, of odd metadata
SMALL = Image.fromarray(picture(0)).resize((61, 47))
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
EXIF = Image.Exif()
EXIF.update({ExifTags.Base.Make: "camera", ExifTags.Base.Orientation: 6, ExifTags.Base.XResolution: 72.0})
METADATA = {"exif": EXIF, "icc_profile": PROFILE}
FILES = {
    "JPEG": encoded(picture(0)),
    "JPEG progressive": encoded(picture(1), progressive=True),
    "JPEG with metadata": encoded(SMALL, **METADATA),
    "JPEG gray": encoded(SMALL.convert("L")),
    "JPEG CMYK": encoded(SMALL.convert("CMYK")),
    "PNG": encoded(SMALL, "PNG", **METADATA),
    "PNG palette": encoded(SMALL.quantize(16), "PNG", transparency=3),
    "WebP": encoded(SMALL, "WEBP", **METADATA),
    "WebP lossless": encoded(SMALL.convert("RGBA"), "WEBP", lossless=True),
    "GIF": encoded(SMALL, "GIF"),
    "BMP": encoded(SMALL, "BMP"),
    "TIFF": encoded(SMALL, "TIFF", **METADATA),
    "TIFF LZW": encoded(SMALL, "TIFF", compression="tiff_lzw"),
    "TIFF JPEG": encoded(SMALL, "TIFF", compression="jpeg"),
}


TURNS = {  # what is done to show a picture upright, by EXIF orientation
    2: [Image.Transpose.FLIP_LEFT_RIGHT],
    3: [Image.Transpose.ROTATE_180],
    4: [Image.Transpose.FLIP_TOP_BOTTOM],
    5: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_90],
    6: [Image.Transpose.ROTATE_270],
    7: [Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_270],
    8: [Image.Transpose.ROTATE_90],
}


def reference(data: bytes) -> np.ndarray:
    """Pillow's pixels of a sound file: turned upright, on white, brought to the size of the data set."""
    with Image.open(BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS or image.mode.startswith(("I", "F")):
            raise ValueError("too large or of 16 bits")
        image.load()
        try:
            turns = TURNS.get(image.getexif().get(ExifTags.Base.Orientation), [])
        except Exception:  # the metadata are broken, and are not the pixels
            turns = []
    for turn in turns:
        image = image.transpose(turn)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    return np.array(image if image.size == (200, 245) else image.resize((200, 245), Image.Resampling.LANCZOS))


def outcome(data: bytes, name: str = "a.jpg") -> str:
    """Both ways into the decoder agree with the reference: on the pixels, or that there are none."""
    try:
        expected = reference(data)
    except Exception:  # whatever Pillow raises
        expected = None
    try:
        pixels = decode(data, name)
    except ImageError as error:
        assert one_line(error).startswith(f"{name}: ") and (" — " in str(error)) and expected is None, error
        return "named"
    assert pixels.dtype == np.uint8 and pixels.shape == (245, 200, 3)
    np.testing.assert_array_equal(pixels, decode_with_conversions(data, name)[0])
    if expected is None:
        return "right without metadata"
    np.testing.assert_array_equal(pixels, expected)
    return "right"


@pytest.mark.parametrize("name", FILES)
def test_damaged_images_are_right_or_named(name, volume):
    def image(changes):
        return outcome(damaged(FILES[name], changes))

    fuzz(image, 600 if volume else 20, changes=st.one_of(FLIPS, DAMAGE))


# --- metadata -------------------------------------------------------------------

PLAIN = {name: encoded(SMALL, name) for name in ("JPEG", "PNG", "WEBP", "TIFF")}
UPRIGHT = Image.Exif()
UPRIGHT.update({ExifTags.Base.Make: "camera", ExifTags.Base.XResolution: 72.0, ExifTags.Base.Artist: "nobody"})


def span(data: bytes, metadata: str) -> slice:
    """Where the metadata lie in a file: EXIF behind its mark, a profile (of PNG compressed) whole."""
    if metadata == "exif":
        start = data.index(b"camera") - 30
        return slice(start, data.index(b"nobody") + 6)
    at = data.find(PROFILE)
    if at >= 0:
        return slice(at, at + len(PROFILE))
    start = data.index(b"iCCP") + 4
    return slice(start, start + int.from_bytes(data[start - 8 : start - 4], "big"))


@pytest.mark.parametrize(
    ("name", "metadata"),
    [(name, metadata) for name in PLAIN for metadata in METADATA if (name, metadata) != ("TIFF", "exif")],
)  # of a TIFF the tags are the description of its pixels
def test_damaged_metadata_change_no_pixel(name, metadata, volume):
    data = encoded(SMALL, name, exif=UPRIGHT, icc_profile=PROFILE)
    where, expected = span(data, metadata), decode(PLAIN[name], "plain")

    def metadata_of(changes):
        broken = damaged(data[where], [change for change in changes if change[0] in ("flip", "overwrite")])
        decoded = decode(data[: where.start] + broken + data[where.stop :], "a.jpg")
        turned = [np.array_equal(decoded, reference(turned_by(name, turn))) for turn in (1, *TURNS)]
        assert np.array_equal(decoded, expected) or (metadata == "exif" and any(turned))
        return "right"

    fuzz(metadata_of, 500 if volume else 15, changes=st.lists(CHANGES, min_size=1, max_size=4))


def turned_by(name: str, orientation: int) -> bytes:
    """The plain picture with a sound orientation, which damage may happen to give."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return encoded(SMALL, name, exif=exif)


def with_chunk(data: bytes, kind: bytes, body: bytes, checksum: int | None = None) -> bytes:
    """A PNG with one more chunk behind its header."""
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return data[:33] + struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum) + data[33:]


def test_broken_chunks_of_a_png_are_passed_over_unless_they_are_pixels():
    """A profile that expands to 2 MB is no damage either; the EXIF beside a broken text is still heeded."""
    plain, turned = encoded(SMALL, "PNG"), encoded(SMALL, "PNG", exif=EXIF)
    profile = b"huge\0\0" + zlib.compress(bytes(2 * 2**20))
    for broken in (with_chunk(plain, b"tEXt", b"a\0b", checksum=1), with_chunk(plain, b"iCCP", profile)):
        np.testing.assert_array_equal(decode(broken, "a.png"), decode(plain, "a.png"))
    broken = with_chunk(turned, b"tEXt", b"a\0b", checksum=1)
    np.testing.assert_array_equal(decode(broken, "a.png"), decode(turned, "a.png"))
    with pytest.raises(ImageError, match=r"damaged|not a readable image"):
        decode(with_chunk(plain, b"tRNS", b"\0\1\0\1\0\1", checksum=1), "a.png")


# --- bombs and swaps ------------------------------------------------------------


def tiled(side: int) -> bytes:
    """A TIFF of 200×245 gray pixels in one tile of side × side, of which little is there."""
    body = zlib.compress(bytes(2**20))
    tags = {256: 200, 257: 245, 258: 8, 259: 8, 262: 1, 277: 1, 322: side, 323: side, 324: 8, 325: len(body)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + bytes(4)


def run_lengths(side: int) -> bytes:
    """A BMP of one pixel in each line, the rest left out."""
    body = b"\1\5\0\0" * side
    size = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(body), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", size + len(body), 0, 0, size) + header + bytes(1024) + body


def scans(n: int) -> bytes:
    """A progressive JPEG whose last scan comes n times."""
    data = encoded(Image.new("RGB", (3000, 3000)), progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * n + b"\xff\xd9"


BOMBS = {
    "tiles": (tiled(60_000), r"huge \(tiles of 60000×60000 pixels\), the limit is 25 megapixels — resize it"),
    "run lengths": (run_lengths(5000), "a BMP compressed by run lengths — save it as JPEG or PNG"),
    "scans": (scans(5000), "a JPEG of 50[0-9]+ scans, the limit is 100 — save it anew"),
    "small scans": (encoded(picture(0), progressive=True).replace(b"\xff\xda", b"\xff\xda" * 99), "a JPEG of|damaged"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_small_files_that_are_much_work_are_refused(name):
    data, message = BOMBS[name]
    with in_time(), in_memory(), pytest.raises(ImageError, match=rf"^a\.jpg: ({message})"):
        decode(data, "a.jpg")


SIZES = {  # where the width and the height stand, and how
    "PNG": (16, ">II"),
    "GIF": (6, "<HH"),
    "BMP": (18, "<ii"),
}
SIDES = st.one_of(st.integers(0, 300), st.sampled_from([4999, 5000, 5001, 9000, 30_000, 65_535]))


@pytest.mark.parametrize("name", SIZES)
def test_patched_sizes_are_right_or_named(name, volume):
    """The declared size is another one; the PNG's checksum fits."""
    at, form = SIZES[name]

    def size(width, height):
        data = bytearray(FILES[name])
        struct.pack_into(form, data, at, width, height)
        if name == "PNG":
            struct.pack_into(">I", data, 29, zlib.crc32(data[12:29]))
        return outcome(bytes(data))

    fuzz(size, 300 if volume else 15, width=SIDES, height=SIDES)


def test_the_content_counts_not_the_suffix():
    for name, data in FILES.items():
        for suffix in ("jpg", "png", "gif", "txt"):
            assert outcome(data, f"a.{suffix}") == "right", name


@pytest.mark.parametrize("kind", ["texts", "starts"])
def test_what_is_no_image_is_named(kind, volume):
    """Random bytes, and random bytes behind the start of a real file."""
    starts = st.sampled_from([data[:n] for data in FILES.values() for n in (4, 12, 40)])

    def garbage(start, data):
        return outcome((start if kind == "starts" else b"") + data)

    fuzz(garbage, 1000 if volume else 20, start=starts, data=st.binary(max_size=300))
