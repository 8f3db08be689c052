"""benchmarks/batch_norms.py recalibrates batch norms and changes nothing else: against plain PyTorch."""

import batch_norms
import pandas as pd
import pytest
import results
import torch

from tinyclf.data.cache import load_data
from tinyclf.experiments.recipe import build_recipe, train_loader, val_loader
from tinyclf.experiments.run import Run
from tinyclf.experiments.settings import Settings
from tinyclf.training.device import this_process
from tinyclf.training.evaluate import evaluate


def test_a_model_is_evaluated_with_the_mean_of_so_many_batches(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path))
    data = load_data("mini")
    settings = Settings(epochs=1, model="shufflenet_v2_x0_5", batch_size=100, input_size=32, learning_rate=0.01)
    run, recipe = Run(settings, data, "recalibrated"), build_recipe(settings, data)
    model = recipe.model
    (row,) = run.fit(**vars(recipe))
    before = run.checkpoint.read_bytes()
    measured = pd.read_csv(batch_norms.main([run.checkpoint], batches=2)).iloc[0]
    assert run.checkpoint.read_bytes() == before
    assert (measured["epoch"], measured["batches"], measured["val_accuracy"]) == (1, 2, row["val_accuracy"])

    batches = train_loader(data, settings, this_process()).epoch(2)
    inputs = [{}, {}]  # of each norm, in a batch
    model.train()
    for seen, batch in zip(inputs, batches, strict=False):
        hooks = [
            norm.register_forward_pre_hook(lambda norm, inputs, seen=seen: seen.update({norm: inputs[0]}))
            for norm in model.modules()
            if isinstance(norm, torch.nn.BatchNorm2d)
        ]
        with torch.no_grad():
            model(batch.images)
        for hook in hooks:
            hook.remove()
    for norm in inputs[0]:
        norm.running_mean.copy_(sum(seen[norm].mean((0, 2, 3)) for seen in inputs) / 2)
        norm.running_var.copy_(sum(seen[norm].var((0, 2, 3)) for seen in inputs) / 2)
    expected = evaluate(model, val_loader(data, settings, this_process()))
    assert measured["recalibrated_val_loss"] == pytest.approx(expected.loss, rel=1e-4) != row["val_loss"]
    assert measured["recalibrated_val_accuracy"] == pytest.approx(expected.top1, abs=0.006)


def test_the_page_has_the_measured_table():
    table = f"<!-- {batch_norms.NAME} -->\n{batch_norms.table()}{results.END}"
    assert table in batch_norms.PAGE.read_text()
