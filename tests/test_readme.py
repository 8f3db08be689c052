"""README.md and docs/ say what the records, the notebooks and the experiments say."""

import ast
import json
import math
import re
import runpy
import shutil
import subprocess
import tomllib

import nbformat
import pandas as pd
import pytest

from tinyclf.experiments.names import family
from tinyclf.report.accuracy import accuracy_table
from tinyclf.report.figures import Line, curve_table
from tinyclf.report.format import duration, format_metric, percent, share
from tinyclf.report.runs import PUBLISHED, load_histories, load_runs
from tinyclf.utils.paths import NOTEBOOKS, PROJECT

README = (PROJECT / "README.md").read_text()
RESULTS = (PROJECT / "docs" / "results.md").read_text()
RECIPES = (PROJECT / "docs" / "recipes.md").read_text()
WEIGHTS = (PROJECT / "docs" / "weights.md").read_text()
CHANGELOG = (PROJECT / "CHANGELOG.md").read_text()
CONTRIBUTING = (PROJECT / "CONTRIBUTING.md").read_text()
PAGES = sorted([*PROJECT.glob("*.md"), *PROJECT.glob("docs/*.md"), *PROJECT.glob("*/README.md")])
MAKE = runpy.run_path(str(PROJECT / "docs" / "results.py"))  # benchmarks/ has a module `results` as well

GOALS = {
    name: entry["goals"]
    for name, entry in tomllib.loads((NOTEBOOKS / "experiments.toml").read_text()).items()
    if "goals" in entry
}
GPU_TIMES = {  # which row of which notebook's first cell has the time of a run, of all epochs or of one
    "baseline-scratch": ("1_baseline.ipynb", "from scratch", True),
    "baseline-imagenet": ("1_baseline.ipynb", "from ImageNet weights", True),
    "preprocessing": ("2_preprocessing.ipynb", "trained and evaluated at 224x224", False),
    "finetuning": ("3_finetuning.ipynb", "the same stem (`imagenet`)", False),
    "finetuning-small-stem": ("3_finetuning.ipynb", "the small stem (`small`)", False),
    "modern-imagenet": ("4_recipes.ipynb", "`modern-imagenet`", True),
}


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


def accuracy_curves(experiment):
    """Validation and training accuracy of the committed runs of an experiment by epoch, and the published ones.

    Both in per cent, at the epochs with a published value. Of several seeds, the mean.
    """
    histories = load_histories("tiny-imagenet")
    histories = histories[histories["run"].map(family) == experiment]
    tables = [curve_table(Line(split, experiment, histories, split), "accuracy") for split in ("val", "train")]
    return [100 * table.set_index("epoch")[["accuracy", "published"]].dropna() for table in tables]


def differences(experiment):
    """The validation accuracy minus the published one in points, by epoch."""
    val, _ = accuracy_curves(experiment)
    return val["accuracy"] - val["published"]


def up(value):
    """A distance in points, rounded up to a tenth: what it is within."""
    return f"{math.ceil(10 * value) / 10:.1f}"


def listed(values):
    return " and ".join(", ".join(map(str, values)).rsplit(", ", 1))


def last_result(run):
    return load_runs("tiny-imagenet").set_index("run").loc[run]


def record_at(commit, run):
    """A record of a commit before the present ones."""
    path = f"{commit}:reports/tiny-imagenet/{run}/record.json"
    git = ["git", "-C", str(PROJECT), "show", path]
    text = subprocess.run(git, capture_output=True, text=True).stdout if shutil.which("git") else ""
    return json.loads(text) if text else pytest.skip(f"commit {commit} is not in this clone")


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


def test_the_results_tell_how_close_every_row_is(committed):
    rows, training, last, largest = [], [], {}, {}
    for name in PUBLISHED:
        points, (_, train) = differences(name), accuracy_curves(name)
        assert points.index[-1] == PUBLISHED[name]["epochs"] == train.index[-1]
        last[name], epoch = points.iloc[-1], points.abs().idxmax()
        largest[name] = points[epoch]
        accuracies = "{:.1f}% | {:.1f}%".format(*train.iloc[-1])
        rows.append(f"| `{name}` | {last[name]:+.2f} | {largest[name]:+.2f} in epoch {epoch} | {accuracies} |")
        training.append(train["accuracy"].iloc[-1] - train["published"].iloc[-1])
    assert "\n".join(rows) in RESULTS
    last, largest = pd.Series(last), pd.Series(largest)
    told = section(RESULTS, "All five rows end ")
    assert told.startswith(f"within {up(last.abs().max())} points of the published accuracy")
    assert list(last.index[last.abs() > 0.5]) == ["preprocessing"] and "all but `preprocessing` within half a" in told
    assert (last.drop("baseline-scratch") < 0).all() and "four rows that start from weights end below" in told
    fits = f"better than the published runs, by {min(training):.1f} to {max(training):.1f} points"
    assert fits in section(RESULTS, "All five rows fit ") and min(training) > 0
    readme = section(README, "Ours is solid, ")
    assert f"All five published rows end within {up(last.abs().max())} points" in readme
    assert (last.abs() < 0.5).sum() == 4 and "four of them within half a point" in readme
    below = -last.drop("baseline-scratch")
    assert f"end {below.min():.2f} to {below.max():.2f} points below it" in " ".join(WEIGHTS.split())
    assert f"each ends within {up(last.abs().max())} points of the published" in CHANGELOG


def test_the_results_tell_how_exactly_the_published_values_are_known():
    told = section(RESULTS, "The published values between the ends ")
    assert [row["reading_error"] for row in PUBLISHED.values()] == [0.004, 0.004, 0.002, 0.002, 0.002]
    assert "about 0.4 points, and of about 0.2 points in Steps 2 and 3" in told
    known = [len(row["curve_epochs"]) for row in PUBLISHED.values()]
    assert known == [12, 12, 7, 7, 7] and "twelve in Step 1, all seven in Steps 2 and 3" in told


def test_the_results_tell_where_the_baseline_from_scratch_leaves_the_published_curve(committed):
    val, train = accuracy_curves("baseline-scratch")
    points = differences("baseline-scratch")
    outside = points[points.abs() > 2]
    told = section(RESULTS, "The baseline from scratch ends ")
    assert f"than two points: {listed(outside.index)}, by {listed(outside.map('{:+.1f}'.format))} points" in told
    assert told.startswith(f"{points.iloc[-1]:.2f} points above")
    assert f"From epoch 8 on, its validation accuracy is within {up(points.loc[8:].abs().max())} points" in told
    assert f"could be read off ({listed(points.loc[8:].index)})" in told
    most = up((train["accuracy"] - train["published"]).abs().max())
    assert f"within {most} points of the published one in every epoch that could be read off" in told
    rises = val.loc[:7].diff()
    assert f"falls in epoch {listed(rises.index[rises['published'] < 0])}." in told
    assert f"rises by less than a point in epochs {listed(rises.index[rises['accuracy'] < 1])}." in told


def test_the_results_tell_of_the_earlier_run_whose_batch_norms_were_measured(committed):
    earlier = record_at("8bc7a6d", "baseline-scratch")
    accuracy = pd.Series({row["epoch"]: 100 * row["val_accuracy"] for row in earlier["history"]})
    assert last_result("baseline-scratch")["settings.precision"] == "fp32"
    assert earlier["settings"]["precision"] == "bf16"
    told = section(RESULTS, "This record is in fp32.")
    assert f"in bf16 on a CPU, ended at {accuracy.iloc[-1]:.2f}% (commit 8bc7a6d)" in told
    val, _ = accuracy_curves("baseline-scratch")
    points = (accuracy - val["published"]).dropna()
    assert f"in epochs {listed(points.index[points < -2])}." in told and not (points > 2).any()
    measured = pd.read_csv(PROJECT / "reports/benchmarks/tiny-imagenet/batch_norms.csv").set_index("epoch")
    assert (100 * measured["val_accuracy"] - accuracy.loc[measured.index]).abs().max() < 1e-9
    told = section(RESULTS, "The next table was measured ")
    assert told.startswith("with that earlier run, in bf16 on a CPU,")
    assert f"recalibrated over {listed(measured['batches'].unique())} batches" in told
    gains, same = measured["recalibrated_val_accuracy"] - measured["val_accuracy"], measured["learning_rate"] < 1e-3
    assert (gains[~same] > 0.03).all() and (gains[same].abs() < 0.003).all()
    higher, nearly = listed(measured.index[~same]), listed(measured.index[same])
    assert f"a higher accuracy in epochs {higher}, and nearly the same in epoch {nearly}, after" in told
    assert f"At learning rate {measured.loc[7, 'learning_rate']:g}, three epochs" in RESULTS
    first, *others = measured.index
    assert f"leaves with `-p epochs={first}`, then {listed(others)}." in RESULTS


def test_the_results_tell_how_far_the_baseline_with_imagenet_weights_is_from_the_published_curve(committed):
    told = section(RESULTS, "The baseline with ImageNet weights ends ")
    points = differences("baseline-imagenet")
    assert told.startswith(f"{-points.iloc[-1]:.2f} points below the published one, as the mean of three seeds")
    seeds = [last_result(f"baseline-imagenet{seed}")["accuracy"] for seed in ("", "-seed-1", "-seed-2")]
    assert max(seeds) < PUBLISHED["baseline-imagenet"]["last"] and "Each of the three ends below it" in told
    assert f"within {up(points.abs().max())} points of the published curve in every epoch that could be read" in told
    assert f"from epoch 2 on within {up(points.loc[2:].abs().max())} points" in told


def test_the_results_tell_how_far_preprocessing_and_fine_tuning_are_from_the_published_curves(committed):
    points = differences("preprocessing")
    told = section(RESULTS, "Preprocessing ends ")
    assert told.startswith(f"{-points.iloc[-1]:.2f} points below the published run, the largest difference of the five")
    assert f"{points[1]:.1f} points above the published curve in epoch 1, and below it from epoch 2 on" in told
    assert (points.loc[2:] < 0).all()
    kept = 100 * last_result("preprocessing")["other_sizes"][64]
    published = 100 * PUBLISHED["preprocessing"]["other_sizes"]["64"]["last"]
    sentence = f"keeps {kept:.2f}%, where {published:.2f}% was published: {kept - published:.2f} points more"
    assert sentence in section(RESULTS, "Evaluated at 64x64, the same ")
    assert f"keeps {kept:.2f}% at 64x64, where {published:.2f}% was published" in " ".join(WEIGHTS.split())

    points, (val, _) = differences("finetuning"), accuracy_curves("finetuning")
    told = section(RESULTS, "With the 7x7 stem, ")
    assert f"ends {-points.iloc[-1]:.2f} points below the published run" in told
    assert f"within {up(points.abs().max())} points of the published curve in every epoch" in told
    best, epoch = val["accuracy"].max(), val["accuracy"].idxmax()
    published_best = 100 * PUBLISHED["finetuning"]["best"]
    assert f"best epoch, {epoch}, has {best:.2f}%, and the published best is {published_best:.2f}%" in told
    assert (val.iloc[-1] < [best, published_best]).all() and "After that, both lose accuracy" in told

    points, (small, _) = differences("finetuning-small-stem"), accuracy_curves("finetuning-small-stem")
    told = section(RESULTS, "With the small stem, ")
    assert f"ends {-points.iloc[-1]:.2f} points below the published run" in told
    assert f"below the published curve in every epoch, by {up(points.abs().max())} points at most" in told
    assert (points < 0).all()
    gains = (small.iloc[-1] - val.iloc[-1]).map("{:.1f}".format)
    assert f"gains {gains['accuracy']} points over the 7x7 stem, published {gains['published']}" in told


def test_the_readme_tells_how_far_recipes_of_our_own_get(committed):
    rows = {row["experiment"]: row for row in accuracy_table("tiny-imagenet").rows if not row["size"]}
    fast, best = rows["fast-scratch"], rows["modern-imagenet"]
    scratch = format_metric("accuracy", fast["accuracy"], fast["accuracy_std"])
    told = section(README, "Ours is solid, ")
    assert f"above them: {scratch} from scratch, with {share(fast['share'])} of the baseline's training compute" in told
    assert f"and {percent(best['accuracy'])} from ImageNet weights, at {best['settings.input_size']}x" in told
    assert fast["accuracy"] > PUBLISHED["baseline-scratch"]["best"]
    assert best["accuracy"] > max(row["best"] for row in PUBLISHED.values())


def test_the_results_tell_what_fast_scratch_reached(committed):
    told = section(RESULTS, "`fast-scratch` passes ")
    assert told.startswith("the published baseline from scratch with each of its three seeds, at a fortieth")
    assert "in fp32, without flip TTA" in told
    for seed in ("", "-seed-1", "-seed-2"):
        run = last_result(f"fast-scratch{seed}")
        assert run["accuracy"] > PUBLISHED["baseline-scratch"]["last"]
        assert run["share"] <= 0.025 and run["settings.precision"] == "fp32"


def test_the_results_tell_how_the_rows_of_every_tenth_class_differ(committed):
    runs = load_runs("tiny-imagenet-20").set_index("run")
    steps, small = runs.loc["preprocessing"], runs.loc["finetuning-small-stem"]
    images = steps["val_images"]
    differ = f"differ by {round(images * (steps['accuracy'] - small['accuracy']))} of {images:,} images"
    told = section(RESULTS, "The first two of that order ")
    assert told.startswith(differ)
    published = PUBLISHED["preprocessing"]
    assert round(3 * (1 - steps["other_sizes"][64] / steps["accuracy"])) == 1 and "loses a third" in told
    assert round(5 * (1 - published["other_sizes"]["64"]["last"] / published["last"])) == 4
    assert "the published one loses four fifths" in told


def test_the_pages_tell_what_modern_imagenet_reached(committed):
    run, steps = last_result("modern-imagenet"), last_result("finetuning-small-stem")
    told = section(RESULTS, "`modern-imagenet` reaches ")
    accuracy, flipped = (f"{100 * run[key]:.2f}%" for key in ("accuracy", "flip_tta"))
    assert told.startswith(f"{accuracy} in {run['epochs']} epochs, with one seed, and {flipped} with flip TTA")
    first, second = (goal["accuracy"] for goal in GOALS["modern-imagenet"])
    limit = GOALS["modern-imagenet"][0]["epochs"]
    assert run["accuracy"] >= first and run["epochs"] <= limit
    assert f"{100 * first:.1f}% in fewer than {limit + 1} epochs, also without flip TTA" in told
    assert f"misses its second goal, {100 * second:.0f}%, by {100 * (second - run['accuracy']):.2f} points" in told
    assert f"{100 * (run['accuracy'] - steps['accuracy']):.2f} points above our fine-tuning with a small stem" in told
    shares = f"{run['share']:.1f} of the baseline's, where preprocessing and fine-tuning take {steps['share']:.1f}"
    assert shares in told
    history = load_histories("tiny-imagenet").query("run == 'modern-imagenet'")
    assert f"fits {100 * history['train_accuracy'].iloc[-1]:.1f}% of the training images" in told
    for page in (RECIPES, CHANGELOG):
        assert f"{accuracy}, and {flipped} with flip TTA" in " ".join(page.split())
    assert not {"modern-scratch", "modern-imagenet.sub-pixel"} & set(load_runs("tiny-imagenet")["run"])
    assert "modern-imagenet.sub-pixel" not in set(load_runs("tiny-imagenet-20")["run"])


def test_the_times_on_a_gpu_are_those_of_the_records(committed):
    runs = load_runs("tiny-imagenet")
    runs = runs[runs["machines"].map(lambda machines: {machine["name"] for machine in machines} == {"NVIDIA H200"})]
    assert set(runs["experiment"]) == {*PUBLISHED, "modern-imagenet"}
    rows, seconds = [], {}
    for name, group in runs.groupby("experiment", sort=False):
        precision, epochs = group["settings.precision"].iloc[0], group["epochs"].iloc[0]
        seeds = ", each of three seeds" if len(group) == 3 else ""
        ends = dict.fromkeys([duration(group["seconds"].min()), duration(group["seconds"].max())])
        rows.append(f"| `{name}`{seeds} | {precision} | {epochs} | {' to '.join(ends)} |")
        seconds[name] = group["seconds"].mean()
        notebook, row, whole = GPU_TIMES[name]
        first_cell = nbformat.read(NOTEBOOKS / notebook, 4).cells[0].source
        time = duration(seconds[name] if whole else seconds[name] / epochs)
        (line,) = [line for line in first_cell.splitlines() if line.startswith(f"| {row} |")]
        assert line.endswith(f" | {time} in {precision} |")
    assert "\n".join(rows) in (PROJECT / "docs" / "running.md").read_text()
    published = [seconds[name] for name in PUBLISHED]
    took = f"the published rows took {duration(min(published))} to {duration(max(published))} each"
    assert took in section(README, "**GPU**")


def test_the_recipes_tell_how_fast_scratch_was_chosen(committed):
    rows = pd.read_csv(PROJECT / "reports/tiny-imagenet/ablations.csv", index_col="ablation")
    part = rows["share"].map(share)
    told = " ".join(RECIPES.split("### How fast-scratch was chosen")[1].split("### ")[0].split())
    lost = 100 * (rows["accuracy"]["slower"] - rows["accuracy"]["late-peak"])
    assert f"{lost:.1f} points below `slower`" in told
    runs = ["fast-scratch", "fast-scratch-seed-1", "fast-scratch-seed-2"]
    for ablation, commit, precision in (("four", "8bd4628", "bf16"), ("four-from-16", "6d9f71d", "fp32")):
        records = [record_at(commit, run) for run in runs]
        last = pd.Series([100 * record["history"][-1]["val_accuracy"] for record in records])
        assert {record["settings"]["precision"] for record in records} == {precision}
        reached = f"reached {last.mean():.2f} ± {last.std():.2f}% with three seeds, in {precision}, at {part[ablation]}"
        assert reached in told and commit in told
    seeds = load_histories("tiny-imagenet").groupby("run")["val_accuracy"].last()[runs] * 100
    assert f"it reaches {seeds.mean():.2f} ± {seeds.std():.2f}% in fp32, with three seeds" in told


def test_the_recipes_tell_what_growing_depth_and_a_first_layer_of_the_images_bring(committed):
    rows = pd.read_csv(PROJECT / "reports/tiny-imagenet/ablations.csv", index_col="ablation")
    accuracy, part = (100 * rows["accuracy"]).map("{:.1f}".format), rows["share"].map(share)
    told = RECIPES.split("The recipe is `shallow-whitened` since")[1].split("While the images grow")[0]
    told = " ".join(told.split())
    assert rows["share"]["shallow"] / rows["share"]["four-from-16"] == pytest.approx(0.5, abs=0.01)
    base = f"where the base has {accuracy['four-from-16']}%"
    assert f"reaches {accuracy['shallow']}% of the held-out images (`shallow`) {base}" in told
    assert f"it reaches {accuracy['shallow-whitened']}%, at {part['shallow-whitened']}, as much as `four`" in told
    assert f"`four` at {part['four']}" in told and accuracy["four"] == accuracy["shallow-whitened"]
    assert f"At {part['two-at-30']}, two of them reach {accuracy['two-at-30']}%" in told
    assert f"and {accuracy['whitened']}% with such" in told and part["whitened"] == part["two-at-30"]
    assert f"at {part['whitened-three']}, reach {accuracy['whitened-three']}%" in told
    assert f"`whitened-four`, at {part['whitened-four']}, has {accuracy['whitened-four']}%" in told


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
    stem = "modern-imagenet.quick-sub-pixel"
    better = f"{gains[stem]:.1f} points better than its base (`quick-sub-pixel`, {table['accuracy'][stem]:.1%})"
    assert better in " ".join(RECIPES.split()) and stem not in large


def test_the_notebooks_are_listed_in_their_order_and_wording():
    table = README.split("## The notebooks")[1].split("\n## ")[0]
    titles = [nbformat.read(path, 4).cells[0].source.splitlines()[0] for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    assert re.findall(r"^\| \[.+?\]\(notebooks/.+?\) \| (.+?) \|", table, re.M) == [title[2:] for title in titles]


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    whole, short = 'Settings(dataset="mini")', 'Settings(dataset="mini", epochs=1, input_size=16, batch_size=100)'
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


def test_the_architecture_names_every_module():
    page = (PROJECT / "docs" / "architecture.md").read_text().split("## The modules")[1].split("\n## ")[0]
    named = {
        f"{folder}/{file}"
        for folder, files in re.findall(r"^\| `(\w+)/(.+?)` \|", page, re.M)
        for file in files.split("`, `")
    }
    modules = (PROJECT / "tinyclf").glob("*/*.py")
    assert named == {f"{path.parent.name}/{path.name}" for path in modules if path.stem != "__init__"}


def test_the_python_on_the_pages_parses():
    for path in PAGES:
        for code in re.findall(r"^```python\n(.+?)^```", path.read_text(), re.M | re.S):
            ast.parse(code)


def test_every_dependency_has_its_reason():
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    needed = project["dependencies"] + project["optional-dependencies"]["dev"]
    reasons = CONTRIBUTING.split("## Dependencies")[1]
    needed += [line for extra in ("lab", "export") for line in project["optional-dependencies"][extra]]
    names = {line.split(">=")[0] for line in needed} - {"tinyclf[lab,export]"}
    assert {name for name in names if name not in reasons} == set()
