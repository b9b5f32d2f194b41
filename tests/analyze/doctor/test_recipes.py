"""Recipes: from one to another without the images, those that are the same, guesses."""

from __future__ import annotations

import numpy as np
import pytest

from calib8.analyze.doctor.recipes import Recipe, guessed_recipe, resampled, usual_recipes

BGR = Recipe((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), "bgr")


def prepared(pixels, recipe):
    """Samples (N, C, H, W) of images in the order BGR, a number at a time."""
    found = np.empty(pixels.shape, np.float32)
    for n, c, y, x in np.ndindex(pixels.shape):
        channel = 2 - c if recipe.order == "rgb" else c
        found[n, c, y, x] = (pixels[n, channel, y, x] - recipe.mean[c]) * recipe.scale[c]
    return found


@pytest.mark.parametrize("other", usual_recipes(BGR), ids=lambda r: r.text)
def test_other_samples_of_the_same_images(other):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 3, 2)).astype(np.float32)
    found = resampled(prepared(pixels, BGR), BGR, other)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, prepared(pixels, other), rtol=1e-4, atol=1e-4)


def test_the_usual_ones_are_others_and_many():
    for given in (BGR, Recipe((0.0,) * 3, (1 / 256,) * 3, "rgb"), Recipe((127.5,), (1 / 128,), "gray")):
        found = usual_recipes(given)
        assert len(found) >= 9
        assert not any(given.same_as(recipe) for recipe in found)
        assert not any(a.same_as(b) for i, a in enumerate(found) for b in found[:i])


def test_the_order_alone_is_another_recipe():
    swapped = BGR.swapped()
    assert swapped == Recipe((123.0, 117.0, 104.0), (1.0, 1.0, 1.0), "rgb")
    assert swapped in usual_recipes(BGR) and not swapped.same_as(BGR)


def test_nearly_the_same_is_the_same():
    assert Recipe((127.5,), (1 / 127.5,), "gray").same_as(Recipe((127.0,), (1 / 128,), "gray"))
    assert not Recipe((127.5,), (1 / 127.5,), "gray").same_as(Recipe((117.5,), (1 / 127.5,), "gray"))


@pytest.mark.parametrize(
    ("mean", "scale"), [((0.0,) * 3, (1.0,) * 3), ((127.5,) * 3, (1 / 127.5,) * 3), ((104.0, 117.0, 123.0), (1.0,) * 3)]
)
def test_a_guess_from_the_range_of_the_samples(mean, scale):
    pixels = np.random.default_rng(1).integers(0, 256, (4, 3, 16, 16)).astype(np.float32)
    pixels[0, :, 0, 0], pixels[0, :, 0, 1] = 0, 255
    found = guessed_recipe(prepared(pixels, Recipe(mean, scale, "bgr")))
    assert found.order == "given"
    np.testing.assert_allclose(found.mean, mean, atol=1e-3)
    np.testing.assert_allclose(found.scale, scale, rtol=1e-4)
