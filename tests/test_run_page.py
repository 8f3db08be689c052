"""A run's page: curves, results and provenance are those of its record."""

import gzip
import itertools
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cells import names_of
from markupsafe import Markup
from matplotlib import pyplot as plt
from records import leave, planned, started_from

from tinyclf.experiments.settings import Settings
from tinyclf.report.evaluation import class_table, commonest, confusion_shares, heat_map, mistakes, reliability
from tinyclf.report.figures import Line, curves, svg
from tinyclf.report.html import png
from tinyclf.report.notebook import run_pages
from tinyclf.report.run_page import commit_link, headline, history_table, provenance, settings_table
from tinyclf.report.runs import history_frame, load_histories


@pytest.fixture(autouse=True)
def reports(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    return tmp_path / "mini"


def facts(record):
    """The rows of a record's provenance, as text by the first column."""
    return dict(provenance(record).texts.to_numpy().tolist())


def test_the_history_has_the_published_curve_where_it_compares():
    record = leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet", epochs=2), (0.05, 0.09))
    rows = history_table(record).texts
    assert rows["epoch"].tolist() == ["1", "2"]
    assert rows["val accuracy"].tolist() == ["5.00% published 5.50%", "9.00% published 9.30%"]
    assert rows["val loss"].tolist() == ["4.950 published 4.780", "4.910 published 4.380"]
    assert "published" not in repr(history_table(leave("baseline-scratch", planned("baseline-scratch", epochs=2))))


def test_several_seeds_make_a_mean_and_a_band():
    accuracies = np.array([[0.1, 0.2], [0.2, 0.25], [0.15, 0.4]])
    for seed, values in enumerate(accuracies):
        name = f"baseline-scratch-seed-{seed}" if seed else "baseline-scratch"
        leave(name, planned("baseline-scratch", "tiny-imagenet", epochs=2, seed=seed), values.tolist())
    histories = load_histories("tiny-imagenet")
    mean, std = 5 - accuracies.mean(0), accuracies.std(0, ddof=1)
    figure, text, data = curves([Line("validation", "baseline-scratch", histories, "val")], "loss", "three seeds")
    low, high = figure.axes[0].collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (pytest.approx((mean - std).min()), pytest.approx((mean + std).max()))
    assert "three seeds" in text and "The published curves are dotted" in text
    rows = data.set_index("epoch")
    assert rows["loss"][2] == pytest.approx(mean[1]) and rows["deviation"][2] == pytest.approx(std[1])
    assert rows["published"][15] == 3.266 and np.isnan(rows["loss"][15])


def test_several_runs_share_a_figure_that_takes_nothing_of_the_users_style():
    lines = [Line(name, name, history_frame(leave(name, Settings(epochs=2))), "val") for name in ("one", "two")]
    figure, text, _ = curves(lines, "accuracy", "validation")
    assert "one from 10.00% to 20.00%; two from" in text
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["one", "two"]
    with plt.rc_context({"text.usetex": True, "lines.linewidth": 9, "figure.figsize": (20, 20)}):
        assert svg(curves(lines, "accuracy", "validation").figure) == svg(figure)


def test_provenance_tells_command_recipe_data_weights_and_machine(reports):
    recipe = {"model": "ResNet", "criterion": "CrossEntropyLoss()", "optimizer": "SGD(lr=0.1)", "scheduler": "StepLR"}
    parent = leave("preprocessing", planned("preprocessing"))
    record = leave("finetuning", planned("finetuning"), weights=started_from(parent), recipe=recipe | {"ema": None})
    told = facts(record)
    assert told["command"] == record["command"] and told["optimizer"] == "SGD(lr=0.1)" and "ema" not in told
    assert told["commit"] == "0123456789abcdef" and told["hardware"] == "cpu: A processor, 2 threads"
    assert told["weights of"] == "preprocessing after epoch 2, sha256 def" and told["data"] == "mini, sha256 abc"
    assert 'href="../preprocessing/record.json"' in provenance(record).data
    (reports / "preprocessing" / "index.html").touch()
    assert 'href="../preprocessing/index.html"' in provenance(record).data
    record = leave("mine", Settings(epochs=2), own_code=True, command="", recipe={"transform": "RandAugment()"})
    record["environments"].append(record["environments"][0] | {"commit": None})
    record["compute"] = {"own": None, "total": None, "published_baseline": 3e13}
    told = facts(record)
    assert told["commit, continued"] == "not a git checkout" and "hardware, continued" in told
    assert told["command"] == "none: own code" and told["transform"] == "RandAugment()"
    assert told["training compute"].startswith("unknown multiply-adds") and "own code" in headline(record)


def test_a_run_of_several_seeds_says_which_of_how_many_and_their_mean_and_names_stand_in_weights():
    stand_in = {"label": "ImageNet (stand-in: x.pth)", "file": None, "sha256": None}
    names = ["baseline-imagenet", "baseline-imagenet-seed-1", "baseline-imagenet-seed-2"]
    for seed, name in enumerate(names):
        record = leave(name, planned("baseline-imagenet", seed=seed), (0.1 * seed,), weights=stand_in)
    assert "seed 2 of 3, whose mean is 10.00 ± 10.00%" in headline(record)
    assert "seed" not in headline(leave("mine", Settings(epochs=2)))
    (page,) = run_pages(names[1:2], "mini")
    assert page.title == "Step 1: baseline with ImageNet weights, seed 1 (stand-in weights)"


def test_settings_that_differ_from_what_was_published_of_the_very_experiment_come_first():
    settings = planned("preprocessing", "tiny-imagenet")
    assert settings_table(settings, "preprocessing").data.startswith("<p>No setting differs from the published recipe.")
    first, _, rest = settings_table(replace(settings, momentum=0.5), "preprocessing").data.partition("<details>")
    assert first.count("<tr>") == 2 and "momentum" in first and rest.count("<tr>") == 1 + len(Settings.names())
    for other in (planned("fast-scratch", "tiny-imagenet"), planned("preprocessing")):
        assert "published" not in settings_table(other, "fast-scratch").data


def test_confusions_are_told_in_one_word_a_class_the_commonest_first(reports):
    classes = ("a", "ant, emmet", 10, 5, 0.5), ("b", "bee", 20, 18, 0.9), ("c", "cat", 10, 10, 1.0)
    record = leave("mine", Settings(epochs=2))
    pd.DataFrame(classes, columns=["wnid", "words", "images", "correct", "accuracy"]).to_csv(
        reports / "mine/classes.csv"
    )
    (reports / "mine/confusion.csv").write_text("wnid,predicted,images\nb,a,2\na,b,4\na,c,1\n")
    assert commonest(record).texts.to_numpy().tolist()[:2] == [["ant", "bee", "40%"], ["bee", "ant", "10%"]]
    rows = class_table(record)
    assert rows.texts["class"].tolist() == ["ant", "bee", "cat"] and 'class="sortable"' in rows.data
    assert rows.texts["most often taken for"].tolist() == ["bee, 40%", "ant, 10%", ""]
    assert confusion_shares(record).to_numpy().tolist() == [[0.5, 0.4, 0.1], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]]
    figure, text, data = heat_map(record)
    assert "3 classes" in text and "ant as bee, 40%" in text and len(data) == 6
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ant", "bee", "cat"], "by WordNet id"
    rows = "from,to,images,confidence,accuracy\n0.2,0.4,3,0.3,0.1\n0.8,1.0,1,0.9,1.0\n"
    (reports / "mine/reliability.csv").write_text(rows)
    figure, text, _ = reliability(record)
    assert [[bar.get_height() for bar in axes.patches] for axes in figure.axes] == [[0.1, 1.0], [0.75, 0.25]]
    assert "30% to 10%, 90% to 100%" in text
    (reports / "mine/mistakes.csv").write_text("image,wnid,predicted,confidence\n2,a,b,0.9\n")
    images = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((64, 64, 3), np.uint8)
    shown = mistakes(record, images).data
    assert "ant → bee, 90%" in shown and [png(image) in shown for image in images] == [False, False, True, False]


def test_the_headline_has_result_interval_published_verdict_epochs_and_time():
    record = leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet"), (0.1,) * 14 + (0.259,))
    record["data"]["val"] = 10_000
    told = "25.90% top-1 (95% interval 25.1 to 26.8%) · published 25.94% · reproduced · 15 epochs · 93 s"
    assert Markup(headline(record)).striptags() == told
    record = leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet"), (0.05, 0.2))
    record["data"]["val"] = 10_000
    assert 'class="above"' in headline(record) and "2 of 15 epochs so far" in headline(record)


def comparing():
    """The names of the notebook that compares runs, after it compared those that there are."""
    return SimpleNamespace(**names_of("8_compare"))


def test_mcnemar_is_the_exact_binomial_test():
    mcnemar = comparing().mcnemar
    assert mcnemar(0, 0) == mcnemar(3, 3) == 1 and 0 < mcnemar(5400, 4600) < 1e-14
    heads = np.array([sum(throws) for throws in itertools.product((0, 1), repeat=10)])
    for one in range(6):
        assert mcnemar(one, 10 - one) == np.mean(abs(heads - 5) >= 5 - one)


def test_a_sentence_says_which_run_is_better_and_whether_by_more_than_chance(reports):
    def predictions(run, guesses):
        rows = zip(range(12), "ab" * 6, guesses, strict=True)
        text = "image,wnid,predicted,probability\n" + "".join(f"{','.join(map(str, row))},0.5\n" for row in rows)
        (reports / run / "predictions.csv.gz").write_bytes(gzip.compress(text.encode()))

    def told(**accuracies):
        for name, accuracy in accuracies.items():
            leave(name, Settings(epochs=2), (0.1, accuracy))
        page = comparing()
        return Markup(page.answer(page.chosen.loc["one"], page.chosen.loc["two"])).striptags()

    # without predictions: 40 images each, of which the standard error of a difference near 0.5 is 11.2 points
    assert told(one=0.5, two=0.7).startswith("two is better than one by 20.00 points, no more than chance. 70.00% ")
    assert told(one=0.5, two=0.75).startswith("two is better than one by 25.00 points, more than chance.")
    predictions("one", "abababababab")
    better = "chance. 90.00% against 20.00%: {} images are right only in the better one and 0 only in the other (p = {}"
    for guesses, expected in {
        "ababbbbbaaaa": "no more than " + better.format(4, 0.12),
        "babababababa": "points, more than " + better.format(12, 0.00049),
    }.items():
        predictions("two", guesses)
        assert expected in told(one=0.9, two=0.2)


def test_a_comparison_shows_what_differs_in_the_recipe_and_of_long_texts_the_parts_that_do():
    long = "ResNet(conv1=7x7, layer1=2 blocks, layer2=2 blocks, layer3=2 blocks, " + "layer4=2 blocks, " * 6 + "fc=10)"
    same = {"criterion": "CrossEntropyLoss()", "scheduler": None}
    leave("one", Settings(epochs=2), recipe=same | {"model": long, "optimizer": "SGD(lr=0.001, momentum=0.9)"})
    other = {"model": long.replace("layer2=2", "layer2=4"), "optimizer": "AdamW(lr=0.0003)", "transform": "Crop()"}
    leave("two", Settings(epochs=2, seed=1), recipe=same | other, own_code=True)
    assert comparing().differences(["one", "two"]).T.to_dict("list") == {
        "seed": ["0", "1"],
        "model": ["… layer2=2 blocks, …", "… layer2=4 blocks, …"],
        "optimizer": ["SGD(lr=0.001, momentum=0.9)", "AdamW(lr=0.0003)"],
        "transform": ["not recorded", "Crop()"],
    }
    for name, code in (("one", "1"), ("two", "2")):
        leave(name, Settings(epochs=2), recipe=same, identity={"criterion": f"loss\n  bytecode {code}"}, own_code=True)
    assert comparing().differences(["one", "two"]).index.tolist() == [
        "criterion"
    ]  # the whole texts, where all have them


def test_a_commit_is_linked_to_the_origin_where_it_is_public_without_secrets(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    monkeypatch.setattr("tinyclf.utils.environment.PROJECT", tmp_path)
    assert commit_link(None) == "not a git checkout"
    for remote, address in {
        "https://someone:secret@github.com/some/one.git": "https://github.com/some/one",
        "https://git.example.org/some/one.git": "",
    }.items():
        subprocess.run(["git", "-C", tmp_path, "config", "remote.origin.url", remote], check=True)
        linked = f'<a href="{address}/commit/abc">abc-dirty</a>' if address else "abc-dirty"
        assert commit_link("abc-dirty") == linked
