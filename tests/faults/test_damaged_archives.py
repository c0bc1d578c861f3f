"""Zips that are damaged, hostile or made by odd tools give the right content or a named error."""

import bz2
import lzma
import os
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from faults.damage import DAMAGE, damaged, fuzz, in_memory, in_time, nothing_written_outside, one_line
from hypothesis import strategies as st
from PIL import Image

from conftest import encoded
from tll_utils.data.checks import DatasetError
from tll_utils.data.dataset import load_dataset
from tll_utils.search.pictures import NoPicturesError, collect

GIGABYTE = 2**30
JPEG = encoded(Image.new("RGB", (30, 40), "red"))


def zipped(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.*"))}


@pytest.fixture
def whole(tiny):
    """The tiny data set in a zip, its images small."""
    for path in tiny.rglob("*.jpg"):
        path.write_bytes(encoded(Image.open(path).resize((20, 24))))
    return zipped(tiny.with_suffix(".zip"), files_of(tiny))


def dataset_outcome(path: Path, expected) -> str:
    """What is accepted equals the sound data set, to the last image and candidate: members have checksums."""
    try:
        found = load_dataset(path)
    except DatasetError as error:
        assert path.name in str(error) or " — " in str(error), error
        return "named"
    assert found.fingerprint == expected.fingerprint
    return "right"


def test_damaged_zips_of_a_data_set_are_right_or_named(whole, volume, capsys):
    expected, data = load_dataset(whole), whole.read_bytes()
    central = data.index(b"PK\1\2")

    def dataset(changes, tail):
        start = central if tail else 0  # damage to the list of the members at the end, where names and sizes stand
        whole.write_bytes(data[:start] + damaged(data[start:], changes))
        return dataset_outcome(whole, expected)

    fuzz(dataset, 500 if volume else 15, changes=DAMAGE, tail=st.booleans())
    counts = capsys.readouterr().out.splitlines()[-1]
    print(counts)


def picture_outcome(path: Path) -> str:
    try:
        found = collect(path)
    except NoPicturesError as error:
        assert str(path) in one_line(error)
        return "named"
    assert all("\n" not in problem and problem for problem in found.unreadable["problem"])
    for image in found.images:
        assert image.shape == (245, 200, 3) and np.abs(image.astype(int) - (254, 0, 0)).max() < 12
    return "right" if len(found.unreadable) == 0 else "some named"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TLL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TLL_PROGRESS", "0")
    return tmp_path / "cache"


def test_damaged_zips_of_pictures_are_right_or_named(cache, tmp_path, volume):
    data = zipped(tmp_path / "p.zip", {"a.jpg": JPEG, "sub/b.jpg": JPEG, "c.txt": b"text" * 50}).read_bytes()
    central = data.index(b"PK\1\2")

    def pictures(changes, tail):
        start = central if tail else 0
        (tmp_path / "p.zip").write_bytes(data[:start] + damaged(data[start:], changes))
        return picture_outcome(tmp_path / "p.zip")

    (tmp_path / "beside").mkdir()
    with nothing_written_outside(tmp_path / "beside"):
        fuzz(pictures, 800 if volume else 20, changes=DAMAGE, tail=st.booleans())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["beside", "cache", "p.zip"]


# --- hostile names --------------------------------------------------------------

SLIPS = ["../slip.jpg", "a/../../slip.jpg", "/tmp/tll-slip.jpg", "//slip.jpg", "C:/slip.jpg", "C:\\slip.jpg"]
SLIPS += ["..\\slip.jpg", "a//slip.jpg", "./slip.jpg", "a/" * 60 + "slip.jpg", "a/" * 32_000 + "slip.jpg"]
SLIPS += ["slip.jpg/", "train/", "\u202egpj.slip.jpg", "ä" * 200 + ".jpg", "con.jpg", " .jpg", "\1.jpg", "//", "/"]


@pytest.mark.parametrize("number", range(len(SLIPS)))
def test_hostile_names_write_nothing_and_do_not_hang(number, whole, tmp_path):
    """Such a member beside the sound ones is passed over, or the zip refused; nothing is ever unpacked."""
    expected = load_dataset(whole)
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(zipfile.ZipInfo(SLIPS[number]), b"" if SLIPS[number].endswith("/") else JPEG)
    with in_time(), in_memory(), nothing_written_outside(tmp_path, Path(os.environ["TLL_CACHE"])):
        dataset_outcome(whole, expected)
    assert not Path("/tmp/tll-slip.jpg").exists()
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        archive.writestr("a.jpg", JPEG)
        archive.writestr(zipfile.ZipInfo(SLIPS[number]), b"" if SLIPS[number].endswith("/") else JPEG)
    with in_time(), in_memory(), nothing_written_outside(tmp_path, Path(os.environ["TLL_CACHE"])):
        picture_outcome(tmp_path / "p.zip")
    assert not Path("/tmp/tll-slip.jpg").exists()


@pytest.mark.parametrize("name", ["//slip.jpg", "a/" * 32_000 + "slip.jpg"])
def test_names_that_cost_hours_are_named(name, whole, cache, tmp_path):
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr(zipfile.ZipInfo(name), JPEG)
    message = "it holds a file outside, or more than 50 folders deep"
    with in_time(), pytest.raises(DatasetError, match=f"{message} — unpack it, and give the folder"):
        load_dataset(whole)
    with in_time(), pytest.raises(NoPicturesError, match=message):
        collect(zipped(tmp_path / "p.zip", {"a.jpg": JPEG, name: JPEG}))


@pytest.mark.parametrize("encoding", ["cp437", "cp1252", "utf-8"])
def test_names_of_other_encodings_are_read(encoding, cache, tmp_path):
    """Old tools write names in the encoding of their machine and do not say which: the picture is there anyway."""
    path = zipped(tmp_path / "p.zip", {"ae.jpg": JPEG})
    name = "ä.jpg".encode(encoding)
    data = path.read_bytes().replace(b"ae.jpg", name.rjust(6, b"_"))
    path.write_bytes(data)
    assert len(collect(path).images) == 1


def test_the_last_of_two_members_of_one_name_counts(whole, tiny):
    """As with unpacking, where the later one overwrites the other."""
    expected = load_dataset(whole)
    data = files_of(tiny)["train.csv"]
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("train.csv", b"left,right\n")
        archive.writestr("train.csv", data)
    assert dataset_outcome(whole, expected) == "right"


# --- bombs ----------------------------------------------------------------------


def lying(path: Path, name: str, data: bytes, compression: int, size: int) -> Path:
    """A zip whose member declares `size` bytes but has `data`, compressed already."""
    raw, checksum = name.encode(), 0
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, 0, compression, 0, 33, checksum, len(data), size, len(raw), 0)
    fields = (b"PK\1\2", 20, 20, 0, compression, 0, 33, checksum, len(data), size, len(raw), 0, 0, 0, 0, 0, 0)
    central = struct.pack("<4sHHHHHHIIIHHHHHII", *fields) + raw
    body = local + raw + data
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, len(central), len(body), 0)
    path.write_bytes(body + central + end)
    return path


def expanding(compression: int, n_bytes: int = 3 * GIGABYTE) -> bytes:
    """n_bytes of zeros, compressed; a block over and over, as what compresses them all would take minutes."""
    if compression == zipfile.ZIP_BZIP2:
        return bz2.compress(bytes(2**25)) * (n_bytes >> 25)
    if compression == zipfile.ZIP_LZMA:
        filters = [{"id": lzma.FILTER_LZMA1, "preset": 0}]
        data = lzma.compress(bytes(n_bytes >> 4), format=lzma.FORMAT_RAW, filters=filters)
        return b"\x09\x04" + struct.pack("<H", 5) + b"\x5d" + struct.pack("<I", 2**18) + data
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(2**24)
    return b"".join([*(packer.compress(block) for _ in range(8)), packer.flush()])


@pytest.mark.parametrize("size", [100, 2**31])
@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_expands_to_gigabytes_is_named(compression, size, cache, tmp_path):
    """Whether it declares them or says it is small."""
    data = expanding(compression)
    table = lying(tmp_path / "t.zip", "train.csv", data, compression, size)
    with (
        in_time(),
        in_memory(),
        pytest.raises(DatasetError, match=r"t\.zip: its compression|train\.csv: cannot be read"),
    ):
        load_dataset(table)
    pictures = lying(tmp_path / "p.zip", "a.jpg", data, compression, size)
    message = "compressed in a way|more than 128 MB in a zip|damaged"
    with in_time(), in_memory(), pytest.raises(NoPicturesError, match=message):
        collect(pictures)
