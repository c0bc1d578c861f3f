"""Methods on embeddings whose scores are known; the registry."""

import numpy as np
import pytest

from tll_utils import methods
from tll_utils.dataset import load_dataset
from tll_utils.evaluation import expected_topk
from tll_utils.methods import METHODS, centred, chosen, get_method, sum_of, uncentred
from tll_utils.runtime import project_root
from tll_utils.similarity import euclidean_similarity

# Here "images" are their own embeddings, so that a method's arithmetic shows.


class Train:
    def __init__(self, left, right):
        self.left, self.right = np.array(left, float), np.array(right, float)

    def __len__(self):
        return len(self.left)


def identity(images):
    return np.asarray(images, float)


def test_centred_takes_off_the_mean_of_each_side():
    """Training means are 1 (left) and 5 (right); 3 − 1 = 2 and 7 − 5 = 2 meet, 9 − 5 = 4 is 2 away."""
    train = Train([[0], [2]], [[4], [6]])
    S = centred(identity, euclidean_similarity)(train, [[3]], [[7], [9]])
    np.testing.assert_allclose(S, [[0, -2]])
    np.testing.assert_allclose(uncentred(identity, euclidean_similarity)(train, [[3]], [[7], [9]]), [[-4, -6]])


def test_chosen_takes_the_member_that_is_best_on_the_training_pairs():
    """On the training pairs `good` puts the truth first and `bad` last; elsewhere both say who they are."""
    train = Train(np.arange(30)[:, None], np.arange(30)[:, None])

    def member(sign):
        return lambda train, left, right: sign * np.eye(30) if left is train.left else np.full((1, 1), sign)

    good, bad = member(1.0), member(-1.0)
    assert chosen(bad, good)(train, [[0]], [[0]]) == [[1]]
    assert chosen(good, bad)(train, [[0]], [[0]]) == [[1]]


def test_chosen_takes_the_first_where_there_are_too_few_pairs_to_choose():
    train = Train(np.arange(19)[:, None], np.arange(19)[:, None])
    first, second = (lambda *_, value=value: np.full((1, 1), value) for value in (1.0, 2.0))
    assert chosen(first, second)(train, [[0]], [[0]]) == [[1]]


def test_sum_gives_each_member_the_same_weight():
    """The second matrix is the first one's negative, a thousand times larger: standardised they cancel."""
    S = np.array([[1.0, 2.0], [3.0, 5.0]])
    total = sum_of(lambda *_: S, lambda *_: -1000 * S)(None, None, None)
    np.testing.assert_allclose(total, 0, atol=1e-6)


def test_unknown_method_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match="'clip'; known: border_geometry"):
        get_method("clip")


def test_experiments_and_default_are_registered():
    names = {*methods.SHORTCUTS, *methods.PRETRAINED, methods.DEFAULT_METHOD}
    assert names <= set(METHODS)
    titles = [method.title for method in METHODS.values()]
    assert len(titles) == len(set(titles))


def test_every_shortcut_beats_chance_on_the_sample(monkeypatch):
    """The audit is worth its name only where the shortcut is there: each scores above chance on its own pairs."""
    monkeypatch.setenv("TLL_PROGRESS", "0")
    sample = load_dataset(project_root() / "data" / "sample")
    match = np.arange(len(sample.train))
    for name in methods.SHORTCUTS:
        S = METHODS[name].score(sample.train, sample.train.left, sample.train.right)
        assert S.shape == (120, 120) and S.dtype == np.float32
        assert expected_topk(S, match) > 0.12


def test_parts_are_all_blocks_all_without_faces_and_each_network_with_faces():
    kinds = methods.blocks(*methods.INPUTS)
    is_face = [block.mirrored is None for block in kinds]
    assert [sum(is_face[position] for position in part) for part in methods.PARTS] == [3, 0, 3, 3, 3]
    assert [len(part) for part in methods.PARTS] == [9, 6, 5, 5, 5]
    networks = [set(part) for part in methods.PARTS[2:]]
    assert set.intersection(*networks) == {6, 7, 8} and set.union(*networks) == set(range(9))


def test_blocks_by_kind():
    kinds = methods.blocks("head", "stage5", "hog", "faces", variants=(0, 1))
    assert [block.width for block in kinds] == [256] * 5 + [128, 32, 1]
    assert [block.mirrored is not None for block in kinds] == [True] * 4 + [False] * 4
    assert [block.gated for block in kinds] == [False] * 5 + [True, True, False]
