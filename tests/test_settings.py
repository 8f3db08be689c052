"""Settings refuse what cannot be, by name."""

import dataclasses

import pytest

from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError


def test_the_defaults_are_the_published_recipe():
    published = {"epochs": 15, "batch_size": 100, "learning_rate": 0.001, "momentum": 0.9, "step_size": 7, "gamma": 0.1}
    recipe = Settings(dataset="tiny-imagenet")
    assert {name: getattr(recipe, name) for name in published} == published
    assert recipe.flip and recipe.stem == "imagenet"
    assert dataclasses.asdict(Settings()) == dataclasses.asdict(recipe) | {
        "dataset": "mini",
        "batch_size": 10,
        "input_size": 24,
    }


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 0, "from 1"),
        ("epochs", 2.0, "expected int, got float"),
        ("epochs", "3", "expected int, got str"),
        ("epochs", True, "expected int, got bool"),
        ("batch_size", -1, "from 2"),
        ("learning_rate", float("nan"), "from 0"),
        ("flip", "true", "expected bool, got str"),
        ("weights", "imagenett", "did you mean imagenet?"),
        ("dataset", "nope", "one of mini, tiny-imagenet"),
        ("stem", "smal", "did you mean small?"),
        ("seed", -1, "from 0"),
        ("input_size", 15, "from 16"),
        ("eval_size", 4, "from 16"),
        ("adapt", "input_sise", "did you mean input_size?"),
        ("weights", "run:", "or run:NAME"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name, value, said):
    with pytest.raises(TinyclfError) as error:
        Settings(**{name: value})
    assert f"{name} = {value!r}" in str(error.value) and said in str(error.value)


def test_an_int_may_stand_for_a_float():
    assert isinstance(Settings(learning_rate=1).learning_rate, float)


def test_from_a_notebook_it_takes_the_settings_alone():
    namespace = {"epochs": 3, "flip": False, "In": [], "run": "x", "value": 3, "_": 1, "Settings": Settings}
    assert Settings.from_notebook(namespace) == Settings(epochs=3, flip=False)


def test_settings_are_locked():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().epochs = 3
