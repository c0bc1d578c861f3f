"""Pictures of any kind of file, good and bad."""

import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from conftest import encoded, picture
from tll_utils.data.images import ImageError
from tll_utils.search import pictures
from tll_utils.search.pictures import NoPicturesError, collect


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder; the cache starts empty."""
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def only(folder, data: bytes, name: str = "a.png") -> np.ndarray:
    """The one picture of the folder, as pixels."""
    (folder / name).write_bytes(data)
    images, unreadable = collect(folder)
    assert images.ids == (name,) and unreadable.empty and images.files[0].suffix == ".jpg"
    assert Image.open(images.files[0]).size == (200, 245)
    return images[0]


def problem(folder, data: bytes, name: str = "bad.jpg") -> str:
    """Why a file cannot be used, beside a good one."""
    (folder / "good.png").write_bytes(encoded(picture(0), "PNG"))
    (folder / name).write_bytes(data)
    images, unreadable = collect(folder)
    assert images.ids == ("good.png",) and unreadable["file"].tolist() == [name]
    assert "\n" not in unreadable["problem"][0] and " — " in unreadable["problem"][0]
    return unreadable["problem"][0]


def assert_is(pixels, colour, tolerance=6):
    np.testing.assert_allclose(pixels.reshape(-1, 3).mean(axis=0), colour, atol=tolerance)


# --- what is found --------------------------------------------------------------


def test_folders_within_folders_and_names_of_all_kinds(folder):
    names = ["A.jpg", "a.jpg", "b/c/ü ä'\"#%<i>.JPEG", "b/日本.PNG", "z.jfif"]
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(picture(seed), "PNG" if name.endswith("PNG") else "JPEG", quality=95))
    images, unreadable = collect(folder)
    assert images.ids == tuple(sorted(names)) and unreadable.empty
    for i, name in enumerate(images.ids):
        assert np.abs(images[i].astype(float) - picture(names.index(name))).mean() < 3


def test_what_is_not_meant_is_passed_over(folder):
    for name in ["a.jpg", ".hidden.jpg", "._a.jpg", ".git/b.jpg", "Thumbs.db", "notes.txt", "film.mp4"]:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(encoded(picture(0)))
    (folder / "loop").symlink_to(folder)
    (folder / "page" / "thumbnails").mkdir(parents=True)
    (folder / "page" / "look-alikes.csv").touch()
    (folder / "page" / "thumbnails" / "1.jpg").write_bytes(encoded(picture(1)))
    images, unreadable = collect(folder)
    assert images.ids == ("a.jpg",) and unreadable.empty


def test_the_cache_within_the_folder_is_passed_over(folder, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)
    (folder / "a.jpg").write_bytes(encoded(picture(0)))
    assert collect(Path()).images.ids == collect(folder).images.ids == collect(folder).images.ids == ("a.jpg",)


def test_a_name_that_is_no_utf8_is_shown_with_replacements(folder):
    with open(os.fsencode(folder) + b"/\xff.jpg", "wb") as file:
        file.write(encoded(picture(0)))
    images, _ = collect(folder)
    assert images.ids == ("�.jpg",) and images.fingerprint and images[0].shape == (245, 200, 3)


def test_one_file_is_a_source_whatever_its_suffix(folder):
    (folder / "photo").write_bytes(encoded(picture(3)))
    images, _ = collect(folder / "photo")
    assert images.ids == ("photo",) and len(images) == 1


@pytest.mark.parametrize("data", [None, b"", b"no picture"])
def test_a_source_without_pictures_is_refused_in_one_line(folder, data):
    if data is not None:
        (folder / "a.jpg").write_bytes(data)
    with pytest.raises(NoPicturesError, match=r"own holds no picture.* JPEG, PNG") as error:
        collect(folder)
    assert "\n" not in str(error.value) and ("a.jpg" in str(error.value)) == (data is not None)


def test_a_source_that_is_not_there_is_refused(folder):
    with pytest.raises(NoPicturesError, match="nowhere: there is no such"):
        collect(folder / "nowhere")


# --- zips -----------------------------------------------------------------------


def test_zip_with_folders_and_an_encrypted_member(folder):
    path = folder / "own.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ["b/ä.jpg", "__MACOSX/b/._x.jpg", "__MACOSX/x.jpg", ".hid/x.jpg", "a.PNG", "secret.jpg", "no.txt"]:
            archive.writestr(name, encoded(picture(len(name))))
        archive.writestr("broken.jpg", encoded(picture(7))[:2000])
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("secret.jpg").header_offset
    data[offset + 6] |= 1  # the flag of encryption, in the local header and in the directory
    directory = data.rindex(b"secret.jpg") - 46
    assert data[directory : directory + 4] == b"PK\1\2"
    data[directory + 8] |= 1
    path.write_bytes(data)
    images, unreadable = collect(path)
    assert images.ids == ("a.PNG", "b/ä.jpg")
    problems = dict(unreadable.itertuples(index=False))
    assert problems.keys() == {"secret.jpg", "broken.jpg"} and "password" in problems["secret.jpg"]
    assert images[1].shape == (245, 200, 3)


def test_a_damaged_zip_is_refused(folder):
    (folder / "own.zip").write_bytes(b"PK\3\4 and nothing more")
    with pytest.raises(NoPicturesError, match="damaged zip"):
        collect(folder / "own.zip")


def test_members_are_told_apart_by_their_checksum(folder):
    path = folder / "own.zip"
    for seed in (1, 2):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.bmp", encoded(picture(seed), "BMP"))
        assert np.abs(collect(path).images[0].astype(float) - picture(seed)).mean() < 3


# --- formats --------------------------------------------------------------------


MODES = {
    "JPEG": "L RGB CMYK 1",
    "PNG": "L RGB 1 P LA RGBA",
    "TIFF": "L RGB CMYK 1 P LA RGBA",
    "GIF": "L RGB 1 P LA RGBA",
}
MODES |= {"WEBP": "L RGB P LA RGBA", "AVIF": "L RGB P LA RGBA", "BMP": "L RGB 1 P RGBA"}


@pytest.mark.parametrize(("format", "mode"), [(format, mode) for format in MODES for mode in MODES[format].split()])
def test_white_is_white_in_every_format_and_mode(folder, format, mode):
    image = Image.new("RGBA", (300, 300), "white").convert(mode)
    assert_is(only(folder, encoded(image, format)), (255, 255, 255))


def test_cmyk_colours(folder):
    image = Image.new("RGB", (240, 300), (200, 40, 40)).convert("CMYK")
    assert_is(only(folder, encoded(image), "a.jpg"), (200, 40, 40), tolerance=12)


def test_transparency_is_white(folder):
    palette = Image.new("P", (200, 245), 0)
    palette.putpalette([255, 0, 0, 0, 0, 255])
    assert_is(only(folder, encoded(palette, "PNG", transparency=0)), (255, 255, 255))
    assert_is(only(folder, encoded(Image.new("RGBA", (900, 900), (0, 0, 0, 0)), "PNG")), (255, 255, 255))


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_to_eight(folder, format):
    ramp = np.linspace(0, 2**16 - 1, 245).astype(np.uint16)[:, None].repeat(200, axis=1)
    pixels = only(folder, encoded(Image.fromarray(ramp), format))
    np.testing.assert_allclose(pixels[:, 100, 0], np.linspace(0, 255, 245), atol=4)


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_fractions_and_large_integers_are_scaled_between_their_extremes(folder, dtype):
    ramp = np.linspace(-100_000, 300_000, 245).astype(dtype)[:, None].repeat(200, axis=1)
    pixels = only(folder, encoded(Image.fromarray(ramp), "TIFF"), "a.tif")
    np.testing.assert_allclose(pixels[:, 100, 0], np.linspace(0, 255, 245), atol=4)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [(245, 200), (1960, 1600)])
def test_exif_rotation_is_applied(folder, format, size):
    """Red on the left of the file; turned by 90° clockwise for display it is on top."""
    image = Image.new("RGB", size, "blue")
    image.paste("red", (0, 0, size[0] // 2, size[1]))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    pixels = only(folder, encoded(image, format, exif=exif))
    assert_is(pixels[:110], (255, 0, 0), 15)
    assert_is(pixels[-110:], (0, 0, 255), 15)


@pytest.mark.parametrize("format", ["GIF", "WEBP"])
def test_first_frame_of_an_animation(folder, format):
    frames = [Image.new("RGB", (200, 245), colour) for colour in ("lime", "red", "blue")]
    assert_is(only(folder, encoded(frames[0], format, save_all=True, append_images=frames[1:])), (0, 255, 0))


@pytest.mark.parametrize("size", [(1, 1), (5000, 10), (10, 5000), (1, 4000), (3000, 2000)])
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_any_size_is_brought_to_one(folder, size, format):
    assert_is(only(folder, encoded(Image.new("RGB", size, (90, 160, 30)), format)), (90, 160, 30))


def test_the_crop_is_centred_and_does_not_stretch(folder):
    """A disc in the middle of a wide picture stays round: as wide as high."""
    y, x = np.mgrid[:490, :1600]
    disc = np.where((x - 800) ** 2 + (y - 245) ** 2 < 150**2, 255, 0).astype(np.uint8)
    pixels = only(folder, encoded(Image.fromarray(disc), "PNG"))[..., 0] > 128
    height, width = pixels.any(axis=1).sum(), pixels.any(axis=0).sum()
    assert abs(height - 150) <= 2 and abs(width - 150) <= 2
    assert abs(np.flatnonzero(pixels.any(axis=0)).mean() - 99.5) <= 1


def test_a_jpeg_of_the_right_size_is_copied_byte_for_byte(folder):
    data = encoded(picture(1), quality=61)
    (folder / "a.jpg").write_bytes(data)
    assert collect(folder).images.read_bytes(0) == data


# --- what cannot be used --------------------------------------------------------


@pytest.mark.parametrize("name", ["bad.jpg", "bad.png", "bad.avif", "bad.gif"])
def test_empty_files_and_texts_are_reported(folder, name):
    assert "no picture" in problem(folder, b"", name)
    assert "no picture" in problem(folder, b"Just text, called a picture.\n" * 50, name)


@pytest.mark.parametrize("size", [(245, 200), (1200, 900)])
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_truncated_files_are_reported(folder, size, format):
    noise = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    data = encoded(noise, format)
    assert "again" in problem(folder, data[: len(data) // 2])


def test_heic_is_reported_with_its_remedy(folder):
    assert "save it as JPEG" in problem(folder, b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" * 9, "bad.HEIC")


def test_more_pixels_than_the_limit_are_reported_unread(folder):
    """A PNG header that promises 40,000 × 40,000 pixels."""
    data = bytearray(encoded(Image.new("L", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", 40_000, 40_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    assert "1600 megapixels, the limit is 80" in problem(folder, bytes(data), "bad.png")


def test_a_large_jpeg_is_reduced_while_it_is_decoded(folder, monkeypatch):
    """6 megapixels at a quarter are 0.4, below a limit of 1; a progressive one is held whole."""
    monkeypatch.setattr(pictures, "MAX_PIXELS", 1_000_000)
    image = Image.new("RGB", (3000, 2000), (90, 160, 30))
    assert_is(only(folder, encoded(image), "a.jpg"), (90, 160, 30))
    (folder / "a.jpg").unlink()
    assert "6 megapixels, the limit is 1" in problem(folder, encoded(image, progressive=True))


def test_dangling_links_are_reported(folder):
    (folder / "good.jpg").write_bytes(encoded(picture(0)))
    (folder / "link.jpg").symlink_to(folder / "gone.jpg")
    (folder / "self.jpg").symlink_to(folder / "self.jpg")
    os.mkfifo(folder / "pipe.jpg")  # to open it would wait for ever
    images, unreadable = collect(folder)
    assert images.ids == ("good.jpg",) and unreadable["file"].tolist() == ["link.jpg", "pipe.jpg", "self.jpg"]


def test_files_and_folders_without_permission_are_reported(folder, monkeypatch):
    """Root may read everything, so the refusal is played."""
    (folder / "good.jpg").write_bytes(encoded(picture(0)))
    (folder / "shut.jpg").write_bytes(encoded(picture(1)))
    (folder / "closed").mkdir()
    scandir, opened = os.scandir, pictures._opened

    def refuse(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def shut(picture):
        if picture.id == "shut.jpg":
            raise PermissionError(13, "Permission denied")
        return opened(picture)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(pictures, "_opened", shut)
    images, unreadable = collect(folder)
    assert images.ids == ("good.jpg",) and unreadable["file"].tolist() == ["closed", "shut.jpg"]


# --- again ----------------------------------------------------------------------


def test_a_second_run_decodes_only_what_is_new_or_changed(folder, monkeypatch):
    for seed in range(3):
        (folder / f"{seed}.png").write_bytes(encoded(picture(seed), "PNG"))
    first = collect(folder).images
    decoded, write = [], pictures._write_copy
    monkeypatch.setattr(pictures, "_write_copy", lambda one, copy: decoded.append(one.id) or write(one, copy))
    assert collect(folder).images == first and decoded == []
    (folder / "1.png").write_bytes(encoded(picture(50), "PNG"))
    (folder / "new.png").write_bytes(encoded(picture(51), "PNG"))
    second = collect(folder).images
    assert sorted(decoded) == ["1.png", "new.png"]
    assert np.abs(second[1].astype(float) - picture(50)).mean() < 3


def test_an_interrupted_run_leaves_no_half_copy_and_goes_on(folder, monkeypatch):
    for seed in range(12):
        (folder / f"{seed:02}.png").write_bytes(encoded(picture(seed), "PNG"))
    save = Image.Image.save

    def interrupted(image, file, *arguments, **options):
        save(image, file, *arguments, **options)
        if len(list((folder.parent / "cache" / "pictures").rglob("*.jpg"))) >= 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Image.Image, "save", interrupted)
        collect(folder)
    copies = list((folder.parent / "cache" / "pictures").rglob("*"))
    assert 4 <= sum(path.suffix == ".jpg" for path in copies) < 12
    assert not any("partial" in path.name for path in copies)
    images, unreadable = collect(folder)
    assert len(images) == 12 and unreadable.empty


def test_a_picture_is_never_refused_with_more_than_one_line(folder, monkeypatch):
    def fail(*_):
        raise ImageError("two\nlines — mend them")

    (folder / "a.jpg").write_bytes(encoded(picture(0)))
    monkeypatch.setattr(pictures, "_normalised", fail)
    with pytest.raises(NoPicturesError, match="two lines"):
        collect(folder)


@pytest.mark.parametrize("n_bytes", [0, 100])
def test_a_copy_that_was_cut_off_is_made_again(folder, n_bytes):
    before = only(folder, encoded(picture(0), "PNG"))
    (copy,) = (folder.parent / "cache" / "pictures").rglob("*.jpg")
    copy.write_bytes(copy.read_bytes()[:n_bytes])
    np.testing.assert_array_equal(collect(folder).images[0], before)
