"""The notation of drawings.toml: shapes, values, loops, paint."""

import numpy as np
import pytest

from scripts.sample.scene import DRAWINGS, Scene


@pytest.fixture
def scene() -> Scene:
    """Five colours, 0.1 … 0.5 grey, and random numbers."""
    return Scene(np.repeat(np.float32([0.1, 0.2, 0.3, 0.4, 0.5]), 3).reshape(5, 3), np.random.default_rng(0))


@pytest.mark.parametrize("name", DRAWINGS["silhouettes"])
def test_a_silhouette_fills_its_sheet_and_stays_on_the_canvas(scene, name):
    """At scale 3 the sheet is 300 pixels wide: 4 to 75 % of it is ink, and none on the margin."""
    scene.run("place 200 215 3 0 50 50")
    mask = scene.mask(DRAWINGS["silhouettes"][name])
    assert 0.04 < mask.sum() / 300**2 < 0.75
    assert mask[:14].sum() + mask[:, :14].sum() + mask[:, -14:].sum() == 0


def test_a_drawing_places_adds_cuts_and_keeps(scene):
    """At scale 2 around (100, 200): a 40 × 20 box, less a 10 × 20 box, and of that the 20 × 20 in the middle."""
    scene.run("place 100 200 2")
    whole, less = "b -20 -10 20 10", "b -20 -10 20 10; -b -20 -10 -10 10"
    for drawing, area in ((whole, 800), (less, 600), (f"{less}; &b -10 -10 10 10", 400)):
        assert scene.mask(drawing).sum() == pytest.approx(4 * area, rel=0.08)
    mask = scene.mask(less)
    assert mask[200, 100] == 1 and mask[200, 70] == 0


@pytest.mark.parametrize(
    ("drawing", "area"),
    [
        ("d 200 200 50", np.pi * 50**2),
        ("e 200 200 50 30", np.pi * 50 * 30),
        ("p 100 100 200 100 100 200", 100 * 100 / 2),
        ("l 40 100 100 300 100", 200 * 40 + np.pi * 20**2),
        ("s 40 100 100 200 100 300 100", 200 * 40 + np.pi * 20**2),
        ("r 200 200 100 0 90", 100 * 100 / 2),
        ("w 0 50 240 0 10", 400 * 250),
        ("f 200 200 50 0", np.pi * 50**2 * (0.72**2 + 0.28**2 / 2)),
    ],
)
def test_area_of_a_shape(scene, drawing, area):
    """Mean of (0.72 + 0.28 cos)² over the flower: 0.72² + 0.28² / 2; a wave of no height is a box down to 490.

    OpenCV's smoothed edges add about half a pixel around: 6 % at these sizes.
    """
    assert scene.mask(drawing).sum() == pytest.approx(area, rel=0.06)


def test_values(scene):
    scene.run("x = 2\ny = 3*x+-1*4")
    assert scene.value("y") == 2 and scene.value("x*y+0.5") == 4.5
    np.testing.assert_array_equal(scene.value("#ff0033"), np.float32([1, 0, 0.2]))
    np.testing.assert_allclose(scene.value("0.5*b+0.5*d"), [0.3] * 3, rtol=1e-6)
    drawn = [scene.value("5~7") for _ in range(50)]
    assert 5 <= min(drawn) < 5.5 and 6.5 < max(drawn) <= 7
    assert {scene.value("1|2|8") for _ in range(50)} == {1, 2, 8}


def test_loops_and_colours_that_take_turns(scene):
    """Columns 100, 110, … take the colours b, c, b, c; then row 300 has the numbers of the list."""
    scene.run(
        "repeat 4\n  paint bc: b 100+10*i 0 109+10*i 50\nfor x y: 20 0.7, 40 0.9\n  paint y*#ffffff: b x 290 x+9 310"
    )
    np.testing.assert_allclose(scene.image[20, [105, 115, 125, 135], 0], [0.2, 0.3, 0.2, 0.3], rtol=1e-6)
    np.testing.assert_allclose(scene.image[300, [25, 45, 60], 1], [0.7, 0.9, 0.1], rtol=1e-6)


def test_two_names_are_different(scene):
    for _ in range(20):
        scene.run("two p q: b c d")
        assert scene.names["p"][0] != scene.names["q"][0]


def test_a_flat_scene_has_no_shadow(scene):
    for flat, n_colours in ((True, 2), (False, 3)):
        scene.flat = flat
        scene.run("fade e e\nsculpt a 10 0.4: b 100 100 200 200")
        colours = np.unique(scene.image[[150, 150, 213], [150, 300, 150], 0])
        assert len(colours) == n_colours, flat


def test_an_unknown_statement_is_refused(scene):
    with pytest.raises(ValueError, match="no statement of a scene: 'draw a: d 1 2 3'"):
        scene.run("draw a: d 1 2 3")
