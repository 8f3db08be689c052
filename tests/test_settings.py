"""Settings refuse what cannot be, by name; so do the names of runs, which are folders beside pages and tables."""

import dataclasses
import pickle

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tinyclf.experiments.names import check_name, family, seed_of, with_seed
from tinyclf.experiments.settings import Settings
from tinyclf.utils.errors import TinyclfError


def test_the_defaults_are_the_published_recipe():
    published = {"epochs": 15, "batch_size": 100, "learning_rate": 0.001, "momentum": 0.9, "step_size": 7, "gamma": 0.1}
    recipe = Settings(dataset="tiny-imagenet")
    assert {name: getattr(recipe, name) for name in published} == published
    assert recipe.flip and (recipe.stem, recipe.kernel, recipe.ghost_batches) == ("imagenet", "pil", 2)
    on_mini = {"dataset": "mini", "batch_size": 10, "input_size": 24}
    assert dataclasses.asdict(Settings()) == dataclasses.asdict(recipe) | on_mini


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 0, "expected greater than or equal to 1"),
        ("epochs", 2.0, "expected int, got float"),
        ("epochs", True, "expected int, got bool"),
        ("batch_size", -1, "than or equal to 2"),
        ("batch_size", False, "expected int, got bool"),
        ("learning_rate", float("nan"), "expected a finite number"),
        ("learning_rate", "1e-3", "expected float, got str (YAML reads 1e-3 as text: write 1.0e-3)"),
        ("flip", "true", "expected bool, got str"),
        ("weights", "imagenett", "did you mean imagenet?"),
        ("weights", "run:", "or run:NAME"),
        ("weights", "run:../y", "weights = run:NAME, NAME = '../y'"),
        ("dataset", "nope", "one of mini, tiny-imagenet"),
        ("stem", "smal", "did you mean small?"),
        ("kernel", 3, "expected str, got int"),
        ("normalization", "imagenett", "did you mean imagenet?"),
        ("seed", 2**31, "less than or equal"),
        ("eval_size", 4, "than or equal to 16"),
        ("start_size", 25, "from 16 to 24"),
        ("adapt", "input_sise", "did you mean input_size?"),
        ("epoch", 3, "did you mean epochs?"),
    ],
)
def test_an_impossible_setting_is_refused_by_name(name, value, said):
    with pytest.raises(TinyclfError) as error:
        Settings(**{name: value})
    assert name in str(error.value) and said in str(error.value)


@pytest.mark.parametrize(
    "values",
    [
        {"stem_init": "shrunk"},
        {"stem_init": "whitened"},
        {"stem_init": "whitened", "normalization": "imagenet", "weights": "mini"},
        {"zero_init": True, "weights": "mini"},
        {"shallow": 0.5, "weights": "mini"},
        {"nesterov": True, "momentum": 0.0},
        {"start_size": 16, "epochs": 1},
    ],
    ids=str,
)
def test_settings_that_do_not_go_together_are_refused(values):
    with pytest.raises(TinyclfError, match=next(iter(values)).replace("start_size", "a run that grows")):
        Settings(**values)


def test_settings_are_plain_locked_values():
    assert isinstance(Settings(learning_rate=1).learning_rate, float)  # an int may stand for a float
    assert Settings(input_size=0, batch_size=0, start_size=0) == Settings() == pickle.loads(pickle.dumps(Settings()))
    planned = {"schedule": "cosine", "warmup": 0.1, "start_size": 16, "shallow": 0.5}
    assert not Settings().planned and all(Settings(**{name: value}).planned for name, value in planned.items())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().epochs = 3


@given(st.text(max_size=120) | st.from_regex(r"[\w.=+-]{1,105}(\.md|\.lock|\n)?"))
@example("fast-scratch.ema")
@example("lr=0.1+flip")
@example("data")
@example("index.html")
@example("comparisons")
@example("..")
def test_a_run_has_a_name_that_is_no_other_place_page_or_table(name):
    files = ("data", "ablations", "summary", "comparisons")
    suffixes = (".html", ".md", ".svg", ".csv", ".json", ".ipynb", ".partial", ".lock", ".")
    plain = name.isascii() and all(letter.isalnum() or letter in "_-.=+" for letter in name) and name[:1].isalnum()
    try:
        check_name(name)
    except TinyclfError as error:
        assert str(error).startswith("run = ")
        assert not plain or len(name) > 100 or name.lower() in files or name.lower().endswith(suffixes)
    else:
        assert plain and len(name) <= 100 and name.lower() not in files and not name.lower().endswith(suffixes)


def test_the_seed_ends_the_name_of_a_run_and_is_read_from_there():
    assert family(with_seed("x", 12)) == "x" and seed_of(with_seed("x", 12)) == 12
    assert family("x-seed-3.y") == "x-seed-3.y" and seed_of("x") is seed_of("x-seed-3.y") is None
