"""README.md and docs/ say what the records, the notebooks and the experiments say."""

import ast
import math
import re
import runpy
import shutil
import subprocess
import tomllib

import nbformat
import pandas as pd
import pytest

from tinyclf.report.figures import Line, curve_table
from tinyclf.report.runs import load_histories
from tinyclf.utils.paths import NOTEBOOKS, PROJECT

README = (PROJECT / "README.md").read_text()
RESULTS = (PROJECT / "docs" / "results.md").read_text()
RECIPES = (PROJECT / "docs" / "recipes.md").read_text()
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text()
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("*/README.md")])
MAKE = runpy.run_path(str(PROJECT / "docs" / "results.py"))  # benchmarks/ has a module `results` as well


@pytest.fixture
def committed(monkeypatch):
    """The committed records, whatever folder the other tests write to."""
    monkeypatch.setenv("TINYCLF_REPORTS", str(PROJECT / "reports"))


def skip_if_changed(*datasets):
    folders = [f"reports/{dataset}" for dataset in datasets]
    changed = ["git", "-C", str(PROJECT), "status", "--porcelain", "--", *folders]
    if shutil.which("git") and subprocess.run(changed, capture_output=True, text=True).stdout:
        pytest.skip(f"{' or '.join(folders)} was changed since the last commit: the pages go with that commit")


def section(text, start):
    """The paragraph that begins with `start`, without it, in one line."""
    return " ".join(text.split(start)[1].split("\n\n")[0].split())


def slug(heading):
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def accuracy_curves(name):
    """The validation and the training accuracy of a committed run by epoch, and the published ones."""
    histories = load_histories("tiny-imagenet")
    histories = histories[histories["run"] == name]
    return [curve_table(Line(split, name, histories, split), "accuracy") for split in ("val", "train")]


@pytest.mark.parametrize("path", MAKE["PAGES"], ids=lambda path: path.name)
def test_the_tables_are_those_of_the_committed_records(path, committed):
    datasets, project = MAKE["PAGES"][path]
    skip_if_changed(*datasets)
    assert path.read_text() == MAKE["page"](path.read_text(), datasets, project), "run python docs/results.py"


def test_the_figure_is_that_of_the_committed_records(committed):
    skip_if_changed(MAKE["DATASET"])

    def without_version(svg):
        return re.sub(r"Matplotlib v[\d.]+", "Matplotlib", svg)

    figure = MAKE["FIGURE"].read_text()
    assert without_version(figure) == without_version(MAKE["figure"]()), "run python docs/results.py"


def test_the_results_tell_where_the_baseline_from_scratch_leaves_the_published_curve(committed):
    tables = accuracy_curves("baseline-scratch")
    val, train = (table.dropna(subset=["accuracy", "published"]) for table in tables)
    points = (100 * (val["accuracy"] - val["published"])).set_axis(val["epoch"])
    outside = points[points.abs() > 2]
    epochs = " and ".join(", ".join(map(str, outside.index)).rsplit(", ", 1))
    below = " and ".join(", ".join(f"{-value:.1f}" for value in outside).rsplit(", ", 1))
    told = section(RESULTS, "The baseline from scratch ends ")
    assert f"epochs {epochs} lie {below} points below" in told
    assert told.startswith(f"{-points.iloc[-1]:.2f} points below")
    assert points.loc[8:].abs().max() <= 0.5 and "From epoch 8 on" in told and "within half a point" in told
    most = 100 * (train["accuracy"] - train["published"]).abs().max()
    assert (
        f"within {math.ceil(10 * most) / 10} points of the published one in every epoch that could be read off" in told
    )


def test_the_results_tell_how_far_the_baseline_with_imagenet_weights_is_from_the_published_curves(committed):
    tables = accuracy_curves("baseline-imagenet")
    val, train = (100 * table.dropna(subset=["accuracy", "published"])[["accuracy", "published"]] for table in tables)
    told = section(RESULTS, "The baseline with ImageNet weights ends ")
    points = val["accuracy"] - val["published"]
    assert told.startswith(f"{-points.iloc[-1]:.2f} points below")
    most = math.ceil(10 * points.abs().max()) / 10
    assert f"within {most} points of the published curve in every epoch that could be read off" in told
    assert "{:.1f} % of them in the last epoch, published {:.1f} %".format(*train.iloc[-1]) in told


def test_the_recipes_tell_what_the_choice_of_fast_scratch_cost(committed):
    accuracy = pd.read_csv(PROJECT / "reports/tiny-imagenet/ablations.csv", index_col="ablation")["accuracy"] * 100
    told = " ".join(RECIPES.split("### How fast-scratch was chosen")[1].split("### ")[0].split())
    for ablation, base in (("late-peak", "slower"), ("four-from-16", "four")):
        assert f"{accuracy[base] - accuracy[ablation]:.1f} points below `{base}`" in told
    last = load_histories("tiny-imagenet").groupby("run")["val_accuracy"].last() * 100
    seeds = last[["fast-scratch", "fast-scratch-seed-1", "fast-scratch-seed-2"]]
    assert f"it reaches {seeds.mean():.2f} ± {seeds.std():.2f} % in fp32" in told
    four = float(re.search(r"reached ([\d.]+) ± 0.20 %", told)[1])  # its records are in commit 8bd4628
    assert f"{four - round(seeds.mean(), 2):.2f} points less than `four`" in told


def test_the_recipes_tell_which_ablations_of_every_tenth_class_differ(committed):
    table = pd.read_csv(PROJECT / "reports/tiny-imagenet-20/ablations.csv").set_index("run")
    gains = {
        name: 100 * (row["accuracy"] - table.loc[f"{row['recipe']}.{row['base']}", "accuracy"])
        for name, row in table[table["ablation"] != "start"].iterrows()
        if not row["ablation"].endswith("quick")
    }
    errors = {
        recipe: 100 * (2 * (rows["accuracy"] * (1 - rows["accuracy"]) / rows["held_out"]).max()) ** 0.5
        for recipe, rows in table.groupby("recipe")
    }
    large = {name: gain for name, gain in gains.items() if abs(gain) > 2 * errors[name.split(".")[0]]}
    told = {
        "modern-imagenet.quick-fresh-stem": -13.7,
        **{"modern-scratch.quick-cutmix": -8.9, "modern-scratch.cutmix": -6.6, "modern-scratch.quick-mixup": -4.8},
    }
    assert {name: round(gain, 1) for name, gain in large.items()} == told
    assert all(f"{-gain} points" in RECIPES for gain in told.values())


def test_the_notebooks_are_listed_in_their_order_and_wording():
    table = README.split("## The notebooks")[1].split("\n## ")[0]
    titles = [nbformat.read(path, 4).cells[0].source.splitlines()[0] for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert re.findall(r"^\| \[.+?\]\(notebooks/.+?\) \| (.+?) \|", table, re.M) == [title[2:] for title in titles]


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    whole, short = 'Settings(dataset="mini")', 'Settings(dataset="mini", epochs=1, input_size=32)'
    code = "\n".join(re.findall(r"^```python\n(.+?)^```", README, re.M | re.S))
    assert whole in code
    names = {}
    exec(code.replace(whole, short), names)
    assert names["record"]["recipe"]["optimizer"].startswith("SGD")
    assert "AdamW" in (tmp_path / "mini" / "resnet34-adamw" / "record.json").read_text()


def test_the_code_of_the_readme_is_that_of_the_first_step():
    cells = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS / "1_baseline.ipynb", 4).cells)
    for line in (
        "model.avgpool = nn.AdaptiveAvgPool2d(1)",
        "criterion = nn.CrossEntropyLoss()",
        "record = run.finish()",
    ):
        assert line in cells and line in README
    calls = {"models.resnet18(num_classes=len(data.classes))", "run.fit(model, criterion, optimizer, scheduler)"}
    assert all(call in cells and call in README for call in calls)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(PROJECT)))
def test_every_link_leads_somewhere(path):
    for target in re.findall(r"\]\(([^)]+)\)", path.read_text()):
        if not target.startswith("http"):
            file, _, anchor = target.partition("#")
            page = (path.parent / file) if file else path
            assert page.exists(), target
            headings = re.findall(r"^#+ (.+)$", page.read_text(), re.M) if anchor else []
            assert not anchor or anchor in set(map(slug, headings))


def test_the_python_on_the_pages_parses():
    for path in PAGES:
        for code in re.findall(r"^```python\n(.+?)^```", path.read_text(), re.M | re.S):
            ast.parse(code)


def test_every_dependency_has_its_reason():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    reasons = CONTRIBUTING.split("## Dependencies")[1]
    assert [name for name in (line.split(">=")[0] for line in needed) if name not in reasons] == []
