"""A run's page: curves, results and provenance are those of its record."""

import csv

import numpy as np
import pytest
from matplotlib import pyplot as plt
from records import leave, planned, started_from

from tinyclf.experiments.settings import Settings
from tinyclf.report import run_page
from tinyclf.report.comparison import chosen_runs, comparison, result_table, settings_that_differ
from tinyclf.report.figures import experiment_curves, reliability, run_curves, svg
from tinyclf.report.run_page import evaluation_table, history_table, provenance, settings_table
from tinyclf.report.runs import history_frame, load_histories
from tinyclf.utils.errors import TinyclfError


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini"


def facts(record):
    """The rows of a record's provenance, as text by the first column."""
    return dict(provenance(record, "../").texts.to_numpy().tolist())


def test_the_history_has_the_published_curve_where_it_compares():
    record = leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet", epochs=2), (0.05, 0.09))
    rows = history_table("baseline-scratch", history_frame(record)).texts
    assert rows["epoch"].tolist() == ["1", "2"]
    assert rows["val accuracy"].tolist() == [
        "5.00% published 5.50%",
        "9.00% published 9.30%",
    ]
    assert rows["val loss"].tolist() == ["4.950 published 4.780", "4.910 published 4.380"]
    other = leave("baseline-scratch", planned("baseline-scratch", epochs=2), (0.05, 0.09))
    assert "published" not in repr(history_table("baseline-scratch", history_frame(other)))


def test_several_seeds_make_a_mean_and_a_band():
    accuracies = np.array([[0.1, 0.2], [0.2, 0.25], [0.15, 0.4]])
    for seed, values in enumerate(accuracies):
        name = f"baseline-scratch-seed-{seed}" if seed else "baseline-scratch"
        leave(name, planned("baseline-scratch", "tiny-imagenet", epochs=2, seed=seed), values.tolist())
    histories = load_histories("tiny-imagenet")
    losses = 5 - accuracies
    mean, std = losses.mean(0), losses.std(0, ddof=1)
    rows = history_table("baseline-scratch", histories).texts
    assert rows["val loss"][1] == f"{mean[1]:.3f} ± {std[1]:.3f} published 4.380"
    (figure, text, data), _ = experiment_curves("baseline-scratch", histories)
    low, high = figure.axes[0].collections[1].get_paths()[0].get_extents().intervaly  # of the validation loss
    assert (low, high) == (pytest.approx((mean - std).min()), pytest.approx((mean + std).max()))
    assert "3 seeds" in text and "The published curves are dotted" in text
    val = data[data["split"] == "val"].set_index("epoch")
    assert val["loss"][2] == pytest.approx(mean[1]) and val["deviation"][2] == pytest.approx(std[1])
    assert val["published"][15] == 3.266 and np.isnan(val["loss"][15])
    one = histories[histories["run"] == "baseline-scratch"]
    assert not experiment_curves("baseline-scratch", one)[0].figure.axes[0].collections


def test_axes_of_accuracy_are_in_per_cent_and_take_nothing_of_the_users_style():
    leave("baseline-scratch", planned("baseline-scratch"), (0.1, 0.3))
    histories = load_histories("mini")
    plain = svg(experiment_curves("baseline-scratch", histories)[1].figure)
    with plt.rc_context({"text.usetex": True, "lines.linewidth": 9, "figure.figsize": (20, 20)}):
        figure = experiment_curves("baseline-scratch", histories)[1].figure
        assert svg(figure) == plain
    assert all(label.get_text().endswith("%") for label in figure.axes[0].get_yticklabels())


def test_several_runs_share_a_figure():
    for name in ("one", "two"):
        leave(name, Settings(epochs=2))
    loss, accuracy = run_curves(load_histories("mini"))
    assert "one from 4.900 to 4.800; two from" in loss.text and "10.00% to 20.00%" in accuracy.text
    assert accuracy.figure.legends[0].get_texts()[1].get_text() == "two"


def test_the_evaluation_has_a_column_for_each_way_to_evaluate():
    plain = leave("preprocessing", planned("preprocessing"))
    assert list(evaluation_table(plain).texts) == ["", "validation, 128x128"]
    result = {"top1": 0.3, "top5": 0.6, "loss": 3.0, "calibration_error": 0.01}
    record = leave("preprocessing", planned("preprocessing"), flip_tta=result, other_sizes={"64": result})
    texts = evaluation_table(record).texts
    assert list(texts)[1:] == ["validation, 128x128", "validation, 128x128, flip TTA", "validation, 64x64"]
    assert texts["validation, 64x64"].tolist() == ["30.00%", "60.00%", "3.000", "1.00%"]


def test_provenance_tells_command_recipe_data_weights_and_machine(reports):
    recipe = {"model": "ResNet", "criterion": "CrossEntropyLoss()", "optimizer": "SGD(lr=0.1)", "scheduler": "StepLR"}
    parent = leave("preprocessing", planned("preprocessing"))
    record = leave("finetuning", planned("finetuning"), weights=started_from(parent), recipe=recipe | {"ema": None})
    told = facts(record)
    assert told["command"] == record["command"] and told["optimizer"] == "SGD(lr=0.1)" and "ema" not in told
    assert told["commit"] == "0123456789abcdef" and told["hardware"] == "cpu: A processor, 2 threads"
    assert told["weights of"] == "preprocessing after epoch 2, sha256 def" and told["data"] == "mini, sha256 abc"
    assert 'href="../preprocessing/record.json"' in provenance(record, "../").data
    (reports / "preprocessing" / "index.html").touch()
    assert 'href="../preprocessing/index.html"' in provenance(record, "../").data


def test_a_run_that_was_continued_elsewhere_tells_both_machines():
    record = leave("mine", Settings(epochs=2))
    record["environments"].append(record["environments"][0] | {"commit": None})
    assert facts(record)["commit, continued"] == "not a git checkout" and "hardware, continued" in facts(record)


def test_an_older_record_has_no_recipe():
    assert "optimizer" not in facts(leave("mine", Settings(epochs=2)))


def test_settings_that_differ_from_the_published_recipe_come_first():
    assert settings_table(Settings()).data.startswith("<p>All as in the published recipe.</p><details>")
    first, _, rest = settings_table(Settings(momentum=0.5)).data.partition("<details>")
    assert first.count("<tr>") == 2 and "momentum" in first and rest.count("<tr>") == 1 + len(Settings.names())


def write(path, *rows):
    with path.open("w") as file:
        csv.writer(file).writerows(rows)


def test_confusions_are_told_in_words_the_commonest_first(reports):
    record = leave("mine", Settings(epochs=2))
    write(
        reports / "mine/classes.csv",
        ("wnid", "words", "images", "correct", "accuracy"),
        ("a", "ant, emmet", 10, 5, 0.5),
        ("b", "bee", 10, 9, 0.9),
    )
    write(reports / "mine/confusion.csv", ("wnid", "predicted", "images"), ("b", "a", 1), ("a", "b", 5))
    rows = run_page.confusions(record).texts.to_numpy().tolist()
    assert rows == [["ant, emmet", "bee", "5", "50%"], ["bee", "ant, emmet", "1", "10%"]]


def test_reliability_is_in_per_cent(reports):
    record = leave("mine", Settings(epochs=2))
    write(reports / "mine/reliability.csv", ("from", "to", "images", "confidence", "accuracy"), (0, 0.5, 4, 0.3, 0.25))
    figure, text, data = reliability(record)
    assert "expected calibration error 5.00%" in text and "30% to 25%" in text and len(data) == 1
    assert figure.axes[0].yaxis.get_major_formatter()(0.5) == "50%"


def test_a_comparison_has_a_column_for_each_run_and_differences_to_the_first():
    leave("one", Settings(epochs=2), (0.1, 0.2))
    leave("two", Settings(epochs=2, momentum=0.8), (0.1, 0.25), flip_tta={"top1": 0.3})
    runs = chosen_runs(["two", "one", "two"], "mini")
    texts = result_table(runs).texts.set_index("result")
    assert list(texts) == ["two", "one"]
    assert texts.loc["accuracy, last epoch"].tolist() == ["25.00%", "20.00% -5.00"]
    assert texts.loc["accuracy, flip TTA"].tolist() == ["30.00%", ""]
    assert settings_that_differ(runs).texts.to_numpy().tolist() == [["momentum", "0.8", "0.9"]]
    page = comparison(["two", "one"], "mini")
    assert (page.name, page.parameters["runs"]) == ("compare-two-one", "two one")
    for names, message in ((["one"], "nothing to compare"), (["one", "three"], "run on mini = 'three'")):
        with pytest.raises(TinyclfError, match=message):
            chosen_runs(names, "mini")
