import struct
import zlib
from io import BytesIO

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from conftest import encoded, picture
from tll_utils.data import images
from tll_utils.data.images import (
    ImageError,
    Images,
    border_content,
    crop_borders,
    decode,
    decode_with_conversions,
    find_borders,
)

RED = Image.new("RGB", (200, 245), (255, 0, 0))
TURNED = {0x0112: 6}  # EXIF orientation 6: show it turned 90° clockwise


def exif(tags: dict) -> Image.Exif:
    result = Image.Exif()
    result.update(tags)
    return result


def png_header(width: int, height: int) -> bytes:
    """The start of a PNG that claims any size: signature, IHDR chunk (8 bits, RGB), start of data."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + b"\0\0\0\0IDAT"


def letterboxed(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """A bright picture squeezed into black borders of these widths, after JPEG compression."""
    content = cv2.resize(picture(1), (200 - left - right, 245 - top - bottom))
    image = cv2.copyMakeBorder(content, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(0, 0, 0))
    return decode(encoded(image, quality=75), "letterboxed")


def test_an_ordinary_jpeg_keeps_its_pixels():
    """At quality 95 a soft picture changes by less than 4 grey levels on average."""
    image, conversions = decode_with_conversions(encoded(picture(0), quality=95), "a.jpg")
    assert image.shape == (245, 200, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture(0)).mean() < 4
    assert conversions == []


XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="3"/></rdf:RDF></x:xmpmeta>'
)


@pytest.mark.parametrize(
    "data, direct",
    [
        (encoded(picture(0)), True),
        (encoded(picture(0), progressive=True), True),
        (encoded(picture(0), subsampling=0), True),
        (encoded(picture(0), exif=exif({0x0112: 3})), False),
        (encoded(picture(0), xmp=XMP), False),
        (encoded(Image.fromarray(picture(0)).convert("L")), False),
        (encoded(Image.fromarray(picture(0)).resize((245, 200))), False),
        (encoded(picture(0))[:-900] + b"\xff\xd9", False),
    ],
    ids=["plain", "progressive", "4:4:4", "turned", "turned in XMP", "gray", "other size", "cut"],
)
def test_the_direct_way_gives_pillows_pixels(data, direct, monkeypatch):
    """Plain JPEGs never reach Pillow; what needs converting and what is damaged does, and looks as it says."""
    expected = decode_with_conversions(data, "a.jpg")[0]
    assert np.array_equal(decode(data, "a.jpg"), expected)
    monkeypatch.setattr(images, "decode_with_conversions", lambda *_: [None])
    assert (decode(data, "a.jpg") is not None) == direct


def test_damage_in_the_middle_is_refused():
    data, marker = encoded(picture(0)), b"\xff\xf7"  # one that belongs nowhere
    middle = len(data) // 2
    with pytest.raises(ImageError, match="damaged or truncated"):
        decode(data[:middle] + marker + data[middle + 2 :], "a.jpg")


@pytest.mark.parametrize(
    "data, conversions, colour",
    [
        (encoded(Image.new("L", (200, 245), 90)), ["grayscale"], (90, 90, 90)),
        (encoded(RED.convert("CMYK")), ["CMYK"], (255, 0, 0)),
        (encoded(RED.convert("P"), "GIF"), ["not JPEG", "palette"], (255, 0, 0)),
        (encoded(Image.new("RGBA", (200, 245), (255, 0, 0, 0)), "PNG"), ["not JPEG", "transparent"], (255,) * 3),
        (encoded(Image.new("LA", (200, 245), (90, 255)), "PNG"), ["not JPEG", "grayscale", "transparent"], (90,) * 3),
        (encoded(RED.resize((640, 480))), ["wrong size"], (255, 0, 0)),
        (encoded(RED.resize((1, 1))), ["wrong size"], (255, 0, 0)),
        (encoded(RED.resize((245, 200)), exif=exif(TURNED)), ["EXIF-rotated"], (255, 0, 0)),
    ],
    ids=["gray", "CMYK", "GIF", "transparent", "gray and opaque", "large", "one pixel", "turned"],
)
def test_unusual_images_are_converted_and_named(data, conversions, colour):
    """A uniform picture keeps its colour (JPEG: within 3 levels); full transparency shows the white page."""
    image, found = decode_with_conversions(data, "unusual.jpg")
    assert found == conversions
    assert image.shape == (245, 200, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - colour).max() <= 3


def test_exif_rotation_is_applied():
    """Stored lying with its left half red; turned 90° clockwise the left half comes to the top."""
    lying = Image.new("RGB", (245, 200), "blue")
    lying.paste((255, 0, 0), (0, 0, 122, 200))
    image = decode(encoded(lying, exif=exif(TURNED)), "lying.jpg")
    assert image[20, 100, 0] > 200 and image[220, 100, 2] > 200


def test_width_is_200_and_height_245():
    """A wide picture with a red left half stays red on the left after resizing."""
    wide = Image.new("RGB", (800, 100), "blue")
    wide.paste((255, 0, 0), (0, 0, 400, 100))
    image = decode(encoded(wide), "wide.jpg")
    assert (image[:, :90, 0] > 200).all() and (image[:, 110:, 2] > 200).all()


@pytest.mark.parametrize(
    "data, what, remedy",
    [
        (b"", "empty (0 bytes)", "download it again"),
        (encoded(picture(0))[:2000], "truncated", "download it again"),
        (encoded(picture(0))[:30], "damaged or truncated", "download it again"),
        (b"<html>no such page</html>", "not a readable image (it starts with b'<html>no')", "replace it by a JPEG"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a readable image", "replace it by a JPEG"),
        (png_header(5001, 5000), "huge (5001×5000 pixels), the limit is 25 megapixels", "resize it to 200×245"),
        (png_header(12_000, 9_000), "huge", "resize it to 200×245"),  # Pillow warns
        (png_header(60_000, 60_000), "huge", "resize it to 200×245"),  # Pillow raises
        (encoded(Image.new("I;16", (200, 245)), "PNG"), "more than 8 bits", "save it as an 8-bit JPEG"),
    ],
    ids=["empty", "truncated", "header only", "HTML", "EPS", "25 Mpx", "108 Mpx", "3600 Mpx", "16 bits"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_unusable_images_are_named_with_a_remedy(data, what, remedy):
    with pytest.raises(ImageError) as error:
        decode(data, "bad.jpg")
    assert str(error.value).startswith("bad.jpg: ")
    assert what in str(error.value) and remedy in str(error.value)


def test_25_megapixels_are_still_read(monkeypatch):
    """The limit is inclusive: 20 × 30 pixels pass a limit of 600."""
    monkeypatch.setattr(images, "MAX_PIXELS", 600)
    assert decode(encoded(RED.resize((20, 30))), "small.jpg").shape == (245, 200, 3)
    with pytest.raises(ImageError, match="huge"):
        decode(encoded(RED.resize((20, 31))), "large.jpg")


@pytest.mark.parametrize(
    "widths", [(30, 30, 0, 0), (0, 0, 21, 17), (37, 12, 5, 9), (8, 0, 0, 0), (0, 0, 0, 3), (80, 80, 0, 0)]
)
def test_borders_are_found_after_jpeg_compression(widths):
    """Noise may cost the outermost row beside the content, so each width is found up to 1 pixel."""
    found = find_borders(letterboxed(*widths))
    assert found.shape == (4,) and np.issubdtype(found.dtype, np.integer)
    assert np.abs(found - widths).max() <= 1
    assert (found[np.array(widths) == 0] == 0).all()


def test_jpeg_noise_in_a_border_is_ignored():
    """Border pixels up to 24, and 2 of 200 bright ones in a row (1 %), are noise; 10 (5 %) are content."""
    image = picture(2)
    image[:40] = np.random.default_rng(0).integers(0, 25, (40, 200, 3))
    image[10, :2] = 255
    assert find_borders(image).tolist() == [40, 0, 0, 0]
    image[10, :10] = 255
    assert find_borders(image).tolist() == [10, 0, 0, 0]


@pytest.mark.parametrize("content", [0, 1, 70])
def test_a_dark_image_has_no_borders(content):
    """70 bright rows of 245 are 29 %, just under the 30 % that count as content."""
    image = np.zeros((245, 200, 3), np.uint8)
    image[100 : 100 + content] = 200
    assert find_borders(image).tolist() == [0, 0, 0, 0]
    assert crop_borders(image).shape == (245, 200, 3)


def test_one_bright_channel_is_content():
    """Pure blue is dark in the mean but no border."""
    image = picture(3)
    image[:50] = (0, 0, 255)
    assert find_borders(image).tolist() == [0, 0, 0, 0]


def test_cropping_leaves_only_content():
    """Borders of 37, 12, 5 and 9 pixels gone, the stretched content equals the picture it was squeezed from."""
    cropped = crop_borders(letterboxed(37, 12, 5, 9))
    assert cropped.shape == (245, 200, 3) and cropped.dtype == np.uint8
    assert find_borders(cropped).tolist() == [0, 0, 0, 0]
    assert np.abs(cropped.astype(int) - picture(1)).mean() < 8


def test_cropping_takes_two_more_pixels_on_every_side():
    """The frame of 2 pixels around a uniform image disappears although it is no border."""
    image = np.full((245, 200, 3), 60, np.uint8)
    image[2:-2, 2:-2] = 200
    assert (crop_borders(image) == 200).all()


def test_content_is_cut_but_not_stretched():
    """Borders of 30 and 20 rows, 10 and no columns, and 2 pixels more on every side: 191 × 186 are left."""
    image = picture(1)
    image[:30] = image[-20:] = 0
    image[:, :10] = 0
    content = border_content(image)
    assert content.shape == (245 - 30 - 20 - 4, 200 - 10 - 4, 3) and content.flags.c_contiguous
    assert np.array_equal(content, image[32:-22, 12:-2])


# --- a folder of images and its views


@pytest.fixture
def folder(tmp_path):
    """Five pictures; the third has borders of 40 rows above and below."""
    for i in range(5):
        image = picture(i)
        if i == 2:
            image[:40] = image[-40:] = 0
        (tmp_path / f"{i}.png").write_bytes(encoded(image, "PNG"))
    return Images("abcde", [tmp_path / f"{i}.png" for i in range(5)])


def test_images_are_a_sequence_decoded_on_access(folder):
    assert len(folder) == 5 and folder.ids == ("a", "b", "c", "d", "e")
    assert np.array_equal(folder[1], picture(1)) and np.array_equal(folder[-1], picture(4))
    assert folder.read_bytes(0) == folder.files[0].read_bytes()
    folder.files[1].write_bytes(encoded(picture(9), "PNG"))
    assert np.array_equal(folder[1], picture(9))


def test_views_of_rows_know_the_whole_folder(folder):
    """Rows [4, 2, 0] and of these [2, 0] are rows [0, 4]; a bool mask takes rows as well."""
    view = folder.take(np.array([4, 2, 0])).take([2, 0])
    assert view.ids == ("a", "e") and view.rows.tolist() == [0, 4] and view.base is folder
    assert np.array_equal(view[1], picture(4)) and view.files == (folder.files[0], folder.files[4])
    assert folder.take(np.array([False, True, False, True, False])).ids == ("b", "d")
    assert repr(view.cropped()) == "Images(2 of 5, border-neutral)"


def test_a_cropped_view_shows_the_content(folder):
    """The letterboxed picture keeps 245 − 80 − 4 rows and 200 − 4 columns; access stretches them back."""
    cropped = folder.cropped()
    assert cropped.content(2).shape == (161, 196, 3) and folder.content(2).shape == (245, 200, 3)
    assert np.array_equal(cropped[2], crop_borders(folder[2]))
    assert np.array_equal(cropped.cropped()[2], cropped[2])
    assert cropped.read_bytes(2) == folder.read_bytes(2)


def test_a_mirrored_view_is_flipped_and_twice_mirrored_is_not(folder):
    mirrored = folder.mirrored()
    assert np.array_equal(mirrored[3], folder[3][:, ::-1]) and not np.array_equal(mirrored[3], folder[3])
    assert mirrored[3].flags.c_contiguous and mirrored.content(3).flags.c_contiguous
    assert np.array_equal(mirrored.mirrored()[3], folder[3])


def test_cropped_and_mirrored_views_combine_in_any_order(folder):
    expected = crop_borders(np.ascontiguousarray(folder[2][:, ::-1]))
    assert np.array_equal(folder.cropped().mirrored()[2], expected)
    assert np.array_equal(folder.mirrored().cropped().take([2])[0], expected)


def test_views_are_named(folder):
    views = [folder, folder.cropped(), folder.mirrored(), folder.mirrored().cropped(), folder.mirrored().mirrored()]
    assert [view.view for view in views] == ["", "border-neutral", "mirrored", "border-neutral mirrored", ""]
    assert [(v.is_cropped, v.is_mirrored) for v in views[:4]] == [(0, 0), (1, 0), (0, 1), (1, 1)]


def test_the_whole_folder_in_the_same_view(folder):
    whole = folder.take([3, 1]).cropped().whole
    assert whole.ids == folder.ids and whole.rows.tolist() == [0, 1, 2, 3, 4]
    assert whole.view == "border-neutral" and whole.base is folder
    assert folder.take([3]).whole.view == "" and folder.view == ""


def test_the_fingerprint_is_that_of_the_whole_folder(folder):
    """It depends on ids, contents and their order, not on the view."""
    assert folder.take([1]).cropped().mirrored().fingerprint == folder.fingerprint
    other = Images("abced", folder.files), Images("abcde", folder.files[::-1])
    assert len({folder.fingerprint, *(images.fingerprint for images in other)}) == 3


def test_the_key_tells_views_rows_and_folders_apart(folder):
    views = [folder, folder.cropped(), folder.mirrored(), folder.take([0, 1]), folder.take([1, 0])]
    assert len({view.key for view in [*views, Images("vwxyz", folder.files)]}) == 6
    assert folder.take([4, 0]).take([1]).key == folder.take([0]).key
    assert folder.mirrored().mirrored().key == folder.key == Images("abcde", folder.files).key


# --- metadata -------------------------------------------------------------------


def with_segment(data: bytes, segment: bytes, marker: bytes = b"\xff\xe1") -> bytes:
    """A JPEG with one more segment behind its start."""
    return data[:2] + marker + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


TAG = b"\x01\x12\x00\x02\x00\x00\x00\x02"  # orientation, of a type and a count that it never has
SEGMENTS = {
    "EXIF without content": (b"Exif\0\0", b"\xff\xe1"),
    "EXIF of garbage": (b"Exif\0\0" + bytes(range(200)), b"\xff\xe1"),
    "EXIF cut off": (b"Exif\0\0MM\x00*\x00\x00\x00\x08\x00\x09" + TAG, b"\xff\xe1"),
    "orientation as text": (b"Exif\0\0MM\x00*\x00\x00\x00\x08\x00\x01" + TAG + b"ab\0\0" + b"\0" * 4, b"\xff\xe1"),
    "EXIF that points outside": (b"Exif\0\0II*\x00\xff\xff\xff\x7f", b"\xff\xe1"),
    "XMP of garbage": (b"http://ns.adobe.com/xap/1.0/\0<tiff:Orientation=\xff", b"\xff\xe1"),
    "profile of garbage": (b"ICC_PROFILE\0\x01\x01" + b"\xff" * 40, b"\xff\xe2"),
    "Photoshop's, cut off": (b"Photoshop 3.0\x008BIM\x04\x04\0", b"\xff\xed"),
    "MPF of garbage": (b"MPF\0" + b"\xff" * 40, b"\xff\xe2"),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_broken_metadata_do_not_damage_a_picture(name, capfd):
    data = encoded(picture(0))
    pixels, conversions = decode_with_conversions(with_segment(data, *SEGMENTS[name]), "a.jpg")
    np.testing.assert_array_equal(pixels, decode_with_conversions(data, "a.jpg")[0])
    assert conversions == []
    np.testing.assert_array_equal(images.decode(with_segment(data, *SEGMENTS[name]), "a.jpg"), pixels)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_pillow_turns_them(orientation):
    image = Image.fromarray(picture(0)[:60, :40])
    image.getexif()[ExifTags.Base.Orientation] = orientation
    stored = Image.open(BytesIO(encoded(image, "PNG", exif=image.getexif())))
    assert images.orientation(stored) == orientation
    np.testing.assert_array_equal(images.turned_upright(stored), ImageOps.exif_transpose(stored))
