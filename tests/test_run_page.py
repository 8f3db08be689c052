"""A run's page: curves, results and provenance are those of its record."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from cells import names_of
from markupsafe import Markup
from matplotlib import pyplot as plt
from records import leave, planned, started_from

from tinyclf import Settings
from tinyclf.report.evaluation import class_table, commonest, confusion_shares, heat_map, mistakes, reliability
from tinyclf.report.figures import Line, curves, svg
from tinyclf.report.html import png
from tinyclf.report.notebook import run_pages
from tinyclf.report.run_page import headline, history_table, provenance, settings_table
from tinyclf.report.runs import history_frame, load_histories


def test_the_history_has_the_published_curve_where_it_compares():
    record = leave("baseline-scratch", planned("baseline-scratch", "tiny-imagenet", epochs=2), (0.05, 0.09))
    rows = history_table(record).texts
    assert rows["val accuracy"].tolist() == ["5.00% published 5.50%", "9.00% published 9.30%"]
    assert rows["val loss"].tolist() == ["4.950 published 4.780", "4.910 published 4.380"]
    assert "published" not in repr(history_table(leave("baseline-scratch", planned("baseline-scratch", epochs=2))))


def test_several_seeds_make_a_mean_and_a_band():
    accuracies = np.array([[0.1, 0.2], [0.2, 0.25], [0.15, 0.4]])
    for seed, values in enumerate(accuracies, 1):
        settings = planned("baseline-scratch", "tiny-imagenet", epochs=2, seed=seed)
        leave(f"baseline-scratch-seed-{seed}", settings, values.tolist())
    histories = load_histories("tiny-imagenet")
    mean, std = 5 - accuracies.mean(0), accuracies.std(0, ddof=1)
    figure, text, data = curves([Line("validation", "baseline-scratch", histories, "val")], "loss", "three seeds")
    low, high = figure.axes[0].collections[0].get_paths()[0].get_extents().intervaly
    assert (low, high) == (pytest.approx((mean - std).min()), pytest.approx((mean + std).max()))
    assert "three seeds" in text and "The published curves are dotted" in text
    assert data.set_index("epoch")["published"][15] == 3.266


def test_several_runs_share_a_figure_that_takes_nothing_of_the_users_style():
    lines = [Line(name, name, history_frame(leave(name, Settings(epochs=2))), "val") for name in ("one", "two")]
    figure, text, _ = curves(lines, "accuracy", "validation")
    assert "one from 10.00% to 20.00%; two from" in text
    assert [label.get_text() for label in figure.legends[0].get_texts()] == ["one", "two"]
    with plt.rc_context({"text.usetex": True, "lines.linewidth": 9}):
        assert svg(curves(lines, "accuracy", "validation").figure) == svg(figure)
        assert "@media (prefers-color-scheme: dark)" in svg(figure)


def test_provenance_tells_command_recipe_data_weights_and_machine(reports):
    recipe = {"model": "ResNet", "optimizer": "SGD(lr=0.1)", "ema": None}
    parent = leave("preprocessing", planned("preprocessing"))
    record = leave("finetuning", planned("finetuning"), weights=started_from(parent), recipe=recipe)
    told = dict(provenance(record).texts.to_numpy())
    assert told["command"] == record["command"] and told["optimizer"] == "SGD(lr=0.1)" and "ema" not in told
    assert told["commit"] == "0123456789abcdef" and told["hardware"] == "cpu: A processor, 2 threads"
    assert told["weights of"] == "preprocessing after epoch 2, sha256 def" and told["data"] == "mini, sha256 abc"
    assert 'href="../preprocessing/record.json"' in provenance(record).data
    (reports / "mini/preprocessing/index.html").touch()
    assert 'href="../preprocessing/index.html"' in provenance(record).data


def test_provenance_of_own_code_says_what_is_not_known():
    record = leave("mine", Settings(epochs=2), own_code=True, command="", recipe={"transform": "RandAugment()"})
    record["environments"].append(record["environments"][0] | {"commit": None})
    record["compute"] = {"own": None, "total": None, "published_baseline": 3e13}
    told = dict(provenance(record).texts.to_numpy())
    assert told["commit, continued"] == "not a git checkout"
    assert told["command"] == "none: own code" and told["transform"] == "RandAugment()"
    assert told["training compute"].startswith("unknown multiply-adds")


def test_a_run_of_several_seeds_says_which_of_how_many_and_their_mean_and_names_stand_in_weights():
    stand_in = {"label": "ImageNet (stand-in: x.pth)", "file": None, "sha256": None}
    for seed in (1, 2, 3):
        settings = planned("baseline-imagenet", seed=seed)
        record = leave(f"baseline-imagenet-seed-{seed}", settings, (0.1 * seed,), weights=stand_in)
    assert "seed 3 of 3, whose mean is 20.00 ± 10.00%" in headline(record)
    (page,) = run_pages(["baseline-imagenet-seed-1"], "mini")
    assert page.title == "Step 1: baseline with ImageNet weights, seed 1 (stand-in weights)"


def test_settings_that_differ_from_what_was_published_of_the_very_experiment_come_first():
    settings = planned("preprocessing", "tiny-imagenet")
    assert settings_table(settings, "preprocessing").data.startswith("<p>No setting differs from the published recipe.")
    first, _, rest = settings_table(replace(settings, momentum=0.5), "preprocessing").data.partition("<details>")
    assert first.count("<tr>") == 2 and "momentum" in first and rest.count("<tr>") == 1 + len(Settings.names())
    for other in (planned("fast-scratch", "tiny-imagenet"), planned("preprocessing")):
        assert "published" not in settings_table(other, "fast-scratch").data


def test_confusions_reliability_and_mistakes_are_those_of_the_tables(reports):
    record = leave("mine", Settings(epochs=2))
    for name, text in {
        "classes": 'wnid,words,images,correct,accuracy\na,"ant, emmet",10,5,0.5\nb,bee,20,18,0.9\nc,cat,10,10,1.0\n',
        "confusion": "wnid,predicted,images\nb,a,2\na,b,4\na,c,1\n",
        "reliability": "from,to,images,confidence,accuracy\n0.2,0.4,3,0.3,0.1\n0.8,1.0,1,0.9,1.0\n",
        "mistakes": "image,wnid,predicted,confidence\n2,a,b,0.9\n",
    }.items():
        (reports / f"mini/mine/{name}.csv").write_text(text)
    assert commonest(record).texts.to_numpy().tolist()[:2] == [["ant", "bee", "40%"], ["bee", "ant", "10%"]]
    rows = class_table(record).texts
    assert rows["class"].tolist() == ["ant", "bee", "cat"]
    assert rows["most often taken for"].tolist() == ["bee, 40%", "ant, 10%", ""]
    assert confusion_shares(record).to_numpy().tolist() == [[0.5, 0.4, 0.1], [0.1, 0.9, 0.0], [0.0, 0.0, 1.0]]
    figure, text, _ = heat_map(record)
    assert "3 classes" in text and "ant as bee, 40%" in text
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["ant", "bee", "cat"], "by WordNet id"
    figure, text, _ = reliability(record)
    assert [[bar.get_height() for bar in axes.patches] for axes in figure.axes] == [[0.1, 1.0], [0.75, 0.25]]
    assert "30% to 10%, 90% to 100%" in text
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
        table = pd.DataFrame({"image": range(12), "wnid": [*"ab" * 6], "predicted": [*guesses], "probability": 0.5})
        table.to_csv(reports / "mini" / run / "predictions.csv.gz", index=False)

    def told(one, two):
        leave("one", Settings(epochs=2), (0.1, one))
        leave("two", Settings(epochs=2), (0.1, two))
        page = comparing()
        return Markup(page.answer(page.chosen.loc["one"], page.chosen.loc["two"])).striptags()

    # without predictions: 40 images each, of which the standard error of a difference near 0.5 is 11.2 points
    assert told(0.5, 0.7).startswith("two is better than one by 20.00 points, no more than chance. 70.00% ")
    assert told(0.5, 0.75).startswith("two is better than one by 25.00 points, more than chance.")
    predictions("one", "abababababab")
    better = "chance. 90.00% against 20.00%: {} images are right only in the better one and 0 only in the other (p = {}"
    predictions("two", "ababbbbbaaaa")
    assert "no more than " + better.format(4, 0.12) in told(0.9, 0.2)
    predictions("two", "babababababa")
    assert "points, more than " + better.format(12, 0.00049) in told(0.9, 0.2)


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
    for name in ("one", "two"):
        leave(name, Settings(epochs=2), recipe=same, identity={"criterion": f"the code of {name}"}, own_code=True)
    assert comparing().differences(["one", "two"]).index.tolist() == ["criterion"]
