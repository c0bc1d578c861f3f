"""The pair table, its file, and batches for Keras."""

import keras
import numpy as np
import pandas as pd
import pytest

from tll_utils.pairs import PairBatches, pair_table, read_pair_table, write_pair_table

LEFT = [f"l{i}" for i in range(30)]
RIGHT = [f"r{i}" for i in range(30)]


class FakeImages:
    """Images in memory: every pixel of image i is i."""

    def __init__(self, ids):
        self.ids = tuple(ids)
        self.decoded = []

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, i):
        self.decoded.append(i)
        return np.full((245, 200, 3), i, np.uint8)


# --- the table


def test_one_truth_first_then_19_distinct_foils():
    """30 lefts × (1 + 19) rows; right r7 is the truth of left l7 alone."""
    table = pair_table(LEFT, RIGHT)
    assert table.columns.tolist() == ["left", "right", "label"]
    assert table["left"].tolist() == np.repeat(LEFT, 20).tolist()
    assert table["label"].tolist() == ([1] + [0] * 19) * 30
    for i, rows in enumerate(table["right"].to_numpy().reshape(30, 20)):
        assert rows[0] == RIGHT[i]
        assert len(set(rows)) == 20


def test_every_right_is_drawn_as_a_foil_equally_often():
    """30 · 19 foils over 30 rights: 19 each on average, with a standard deviation below √19 = 4.4."""
    table = pair_table(LEFT, RIGHT)
    counts = table.loc[table["label"] == 0, "right"].value_counts()
    assert set(counts.index) == set(RIGHT)
    assert counts.between(19 - 4 * 4.4, 19 + 4 * 4.4).all()


def test_all_other_rights_when_all_are_wanted():
    table = pair_table(LEFT[:4], RIGHT[:4], n_foils=3)
    assert [set(rows) for rows in table["right"].to_numpy().reshape(4, 4)] == [set(RIGHT[:4])] * 4


def test_the_seed_decides():
    pd.testing.assert_frame_equal(pair_table(LEFT, RIGHT, seed=1), pair_table(LEFT, RIGHT, seed=1))
    assert not pair_table(LEFT, RIGHT, seed=1).equals(pair_table(LEFT, RIGHT, seed=2))


def foil_columns(similarity: np.ndarray, *, n_foils: int, seed: int = 0) -> list[set[int]]:
    """Columns of the foils of every left."""
    n = len(similarity)
    table = pair_table(LEFT[:n], RIGHT[:n], n_foils=n_foils, seed=seed, similarity=similarity)
    rights = table["right"].str[1:].astype(int).to_numpy().reshape(n, 1 + n_foils)
    assert rights[:, 0].tolist() == list(range(n))
    return [set(row) for row in rights[:, 1:].tolist()]


def test_semi_hard_foils_are_the_nearest_below_the_truth():
    """S[i, j] = j: below truth i lie i − 1, i − 2, …; 2 foils come from the nearest 6 below.

    Over 40 seeds left 20 draws each of 14 … 19 (a miss has chance (2/3)^40) and nothing else.
    """
    similarity = np.tile(np.arange(30.0), (30, 1))
    drawn = [foil_columns(similarity, n_foils=2, seed=seed)[20] for seed in range(40)]
    assert set().union(*drawn) == {14, 15, 16, 17, 18, 19}
    assert all(len(foils) == 2 for foils in drawn)


def test_semi_hard_foils_are_filled_up_from_nearest_above():
    """S[i, j] = j: below truth 1 lies 0 only, so the nearest above, 2 and 3, join it; truth 0 takes 1 to 3."""
    foils = foil_columns(np.tile(np.arange(10.0), (10, 1)), n_foils=3)
    assert foils[0] == {1, 2, 3}
    assert foils[1] == {0, 2, 3}
    assert foils[3] == {0, 1, 2}


def test_equal_scores_are_drawn_from_evenly():
    """Constant similarity: all foils are as near, so over 60 seeds left 0 meets all nine others."""
    drawn = [foil_columns(np.zeros((10, 10)), n_foils=1, seed=seed)[0] for seed in range(60)]
    assert set().union(*drawn) == set(range(1, 10))


@pytest.mark.parametrize(
    ("left", "right", "options", "message"),
    [
        (LEFT[:19], RIGHT[:19], {}, "19 foils a left image .* pass n_foils from 1 to 18"),
        (LEFT, RIGHT, {"n_foils": 0}, "pass n_foils from 1 to 29"),
        ([*LEFT[:29], "l3"], RIGHT, {}, "left id 'l3' occurs more than once"),
        (LEFT, [*RIGHT[:29], "r5"], {}, "right id 'r5' occurs more than once"),
        (LEFT[:29], RIGHT, {}, "29 left and 30 right ids"),
        (LEFT, RIGHT, {"similarity": np.zeros((30, 29))}, r"similarity is \(30, 29\)"),
        (LEFT, RIGHT, {"similarity": np.diag([0] * 8 + [np.nan] * 22)}, "similarity row 8 holds NaN"),
    ],
)
def test_impossible_tables_are_refused(left, right, options, message):
    with pytest.raises(ValueError, match=message):
        pair_table(left, right, **options)


# --- its file


def test_table_survives_its_file(tmp_path):
    """Ids that look like missing values, numbers or CSV syntax come back as they were."""
    left = ["nan", "null", "NA", "", "007", "1e5"]
    right = ["None", "a,b", 'say "x"', "True", "é", " x "]
    table = pair_table(left, right, n_foils=5)
    write_pair_table(table, tmp_path / "pairs.csv")
    pd.testing.assert_frame_equal(read_pair_table(tmp_path / "pairs.csv"), table)
    assert [path.name for path in tmp_path.iterdir()] == ["pairs.csv"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "pairs.csv"
    table = pair_table(LEFT, RIGHT)
    write_pair_table(table, path)
    with pytest.raises(KeyError):
        write_pair_table(table.drop(columns="label"), path)
    pd.testing.assert_frame_equal(read_pair_table(path), table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left,label\na,1\n", "no column right; expected left,right,label"),
        ("left,right,label\na,b,1\na,c,2\n", "data row 2: label '2' must be 0 or 1"),
        ("left,right,label\na,b,1.0\n", r"data row 1: label '1\.0'"),
        ("left,right,label\na,b,1\na,c\n", "data row 2: label"),
        ("left,right,label\nx,a,b,1\n", "more fields than the first line names"),
        ("left,right,label\na,b,1\na,b,1,9\n", "is no pair table"),
        ("", "is no pair table"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, message):
    path = tmp_path / "broken.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"broken\.csv.*{message}"):
        read_pair_table(path)


# --- batches


def make_batches(**options) -> PairBatches:
    """8 lefts × 5 rows = 40 pairs."""
    table = pair_table(LEFT[:8], RIGHT[:8], n_foils=4)
    return PairBatches(table, FakeImages(LEFT[:8]), FakeImages(RIGHT[:8]), **options)


def pixels(batch) -> list[tuple[int, int, int]]:
    """(left row, right row, label) of a batch, read off the pixels."""
    (left, right), label = batch
    return list(zip(left[:, 9, 9, 1].tolist(), right[:, 9, 9, 1].tolist(), label.tolist(), strict=True))


def test_batches_hold_the_images_of_the_table():
    """40 pairs in batches of 16: 16, 16 and 8, in the order of the table."""
    table = pair_table(LEFT[:8], RIGHT[:8], n_foils=4)
    batches = list(make_batches(batch_size=16, shuffle=False))
    assert [len(label) for _, label in batches] == [16, 16, 8]
    (left, right), label = batches[0]
    assert left.shape == right.shape == (16, 245, 200, 3)
    assert (left.dtype, right.dtype, label.dtype) == (np.uint8, np.uint8, np.float32)
    expected = [(int(a[1:]), int(b[1:]), c) for a, b, c in table.itertuples(index=False)]
    assert [pair for batch in batches for pair in pixels(batch)] == expected


def test_an_image_is_decoded_once_a_batch():
    """The first 10 rows of the table hold 2 lefts, five times each."""
    batches = make_batches(batch_size=10, shuffle=False)
    batches[0]
    assert sorted(batches.left.decoded) == [0, 1]


def test_every_epoch_has_all_pairs_in_an_order_of_its_own():
    batches = make_batches(batch_size=16)
    first = [pair for batch in batches for pair in pixels(batch)]
    batches.on_epoch_end()
    second = [pair for batch in batches for pair in pixels(batch)]
    in_table_order = [pair for batch in make_batches(shuffle=False) for pair in pixels(batch)]
    assert first != second != in_table_order
    assert sorted(first) == sorted(second) == sorted(in_table_order)


def test_the_order_depends_on_seed_and_epoch_alone():
    batches, again, other = make_batches(seed=1), make_batches(seed=1), make_batches(seed=2)
    batches.on_epoch_end()
    again.epoch = other.epoch = 1
    assert pixels(batches[0]) == pixels(again[0]) != pixels(other[0])


class Recorder(keras.Model):
    """A trivial model that writes down what Keras feeds it."""

    def __init__(self):
        super().__init__()
        self.output_layer = keras.layers.Dense(1, activation="sigmoid")
        self.fed = []

    def call(self, inputs):
        left, right = (keras.ops.cast(side, "float32")[:, 9, 9, :1] for side in inputs)
        return self.output_layer(keras.ops.abs(left - right))

    def train_step(self, data):
        self.fed.append(pixels(keras.tree.map_structure(np.asarray, data)))
        return super().train_step(data)


def fed_by_fit(batches: PairBatches, **options) -> list:
    model = Recorder()
    model.compile(optimizer="sgd", loss="binary_crossentropy", run_eagerly=True)
    model.fit(batches, shuffle=False, verbose=0, **options)
    return model.fed


@pytest.mark.parametrize("workers", [1, 2])
def test_fit_sees_the_same_batches_whatever_the_workers(workers):
    """Two epochs of 14 batches; the first has number 1, for fit ends an epoch before it begins one."""
    expected = []
    for epoch in (1, 2):
        fresh = make_batches(batch_size=3)
        fresh.epoch = epoch
        expected += [pixels(batch) for batch in fresh]
    assert fed_by_fit(make_batches(batch_size=3, workers=workers), epochs=2) == expected


def test_a_resumed_fit_sees_what_the_whole_one_saw():
    """Of three epochs of three batches, the last two."""
    whole = fed_by_fit(make_batches(batch_size=16), epochs=3)
    resumed = make_batches(batch_size=16)
    resumed.epoch = 1
    assert fed_by_fit(resumed, epochs=3, initial_epoch=1) == whole[3:]


def test_a_functional_model_fits_validates_and_predicts():
    """Towers with float inputs take the uint8 images as they come; labels 1 in 5, so a loss exists."""
    left, right = keras.Input((245, 200, 3)), keras.Input((245, 200, 3))
    tower = keras.layers.GlobalAveragePooling2D()
    difference = keras.ops.abs(tower(left) - tower(right))
    model = keras.Model([left, right], keras.layers.Dense(1, activation="sigmoid")(difference))
    model.compile(optimizer="sgd", loss="binary_crossentropy")
    validation = make_batches(shuffle=False)
    history = model.fit(make_batches(), validation_data=validation, epochs=1, shuffle=False, verbose=0)
    assert np.isfinite(history.history["loss"] + history.history["val_loss"]).all()
    assert model.predict(validation, verbose=0).shape == (40, 1)


def test_unknown_images_are_named():
    table = pair_table(LEFT[:8], RIGHT[:8], n_foils=4)
    with pytest.raises(ValueError, match="pair table row 35: 'l7' is none of the 7 left images"):
        PairBatches(table, FakeImages(LEFT[:7]), FakeImages(RIGHT[:8]))
