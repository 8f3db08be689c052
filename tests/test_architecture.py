"""The README's list of modules and its picture are what the imports say: each builds on those before it."""

import ast
import itertools

import architecture
import pytest


def test_the_readme_lists_every_module_once():
    listed = [module for modules in architecture.layers().values() for module in modules]
    assert sorted(listed) == sorted(architecture.imports())


def test_no_module_imports_one_that_stands_later_in_the_list():
    graph, before = architecture.imports(), set()
    for module in (module for modules in architecture.layers().values() for module in modules):
        assert graph[module] <= before, f"{module} imports {graph[module] - before}, which the README lists later"
        before.add(module)


def test_every_layer_builds_on_the_one_before_it():
    graph, layers = architecture.imports(), list(architecture.layers().values())
    for before, layer in itertools.pairwise(layers):
        assert any(graph[module] & set(before) for module in layer), f"{layer} need nothing of {before}"


def test_the_picture_is_that_of_the_imports():
    assert architecture.PICTURE.read_text() == architecture.picture(), "run python docs/architecture.py"


@pytest.mark.parametrize(
    ("code", "modules"),
    [
        ("from tinyclf import a, b\nimport c", {"a", "b"}),
        ("def f():\n    from tinyclf.a import b", {"a"}),
        ("import tinyclf.a", {"a"}),
        ("if TYPE_CHECKING:\n    from tinyclf.a import b\nif x:\n    from tinyclf.c import d", {"c"}),
    ],
)
def test_imports_are_found_wherever_they_stand(code, modules):
    assert architecture.imported(ast.parse(code)) == modules


def test_what_follows_from_other_arrows_is_left_out():
    graph = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}}
    assert architecture.reduced(graph) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"c"}}
    assert architecture.columns(architecture.reduced(graph)) == [["a"], ["b"], ["c"], ["d"]]
