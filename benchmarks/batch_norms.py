"""What recalibrated batch norms change: `python benchmarks/batch_norms.py CHECKPOINT...`.

Evaluation uses a batch norm's running averages of mean and variance, which reach back little further than the last ten
batches of training. This script recalibrates the batch norms of a checkpoint: it averages over more batches, and leaves
the weights as they are. Then it evaluates that model, for comparison with what the run itself measured. A checkpoint
between two epochs comes from a shorter run: `tinyclf train baseline-scratch --dataset tiny-imagenet -p epochs=7`.

Writes reports/benchmarks/<dataset>/batch_norms.csv, and with --readme the table of the baseline on Tiny-ImageNet into
its page. With --readme and no checkpoint, the table is made from the file as it is.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from results import markdown_table, replace_table
from torch import nn
from torch.optim.swa_utils import update_bn

from tinyclf.data.cache import load_data
from tinyclf.experiments.recipe import train_loader, val_loader
from tinyclf.experiments.settings import Settings
from tinyclf.models.resnet import build_model
from tinyclf.models.small_map_conv import use_small_map_conv
from tinyclf.report.format import percent
from tinyclf.report.published import published_at
from tinyclf.training import checkpoint
from tinyclf.training.device import autocast, this_process
from tinyclf.training.evaluate import evaluate
from tinyclf.utils import files, paths

EXPERIMENT, DATASET = "baseline-scratch", "tiny-imagenet"
RESULTS = paths.PROJECT / "docs" / "results.md"
PAGE = RESULTS if RESULTS.is_file() else paths.PROJECT / "README.md"  # has the table
CSV = paths.PROJECT / "reports" / "benchmarks" / DATASET / "batch_norms.csv"
NAME = "batch norms"  # of the table
Checkpoints = Annotated[list[Path] | None, typer.Argument(metavar="CHECKPOINT...")]


def main(checkpoints: Checkpoints = None, batches: int = 50, readme: bool = False) -> Path:
    """Measure, write the CSV and return its path: a row for each checkpoint, losses in nats, accuracies in 0..1.

    checkpoints: of runs on the same data set, after one epoch at least. batches: of the training batches of the next
    epoch, how many to average over. readme: see above. Raises TinyclfError for a damaged checkpoint.
    """
    file = CSV
    if checkpoints:
        rows = [recalibrated(checkpoint.read(path), batches) for path in checkpoints]
        (dataset,) = {row.pop("dataset") for row in rows}
        file = files.writable(paths.reports_dir() / "benchmarks" / dataset) / CSV.name
        pd.DataFrame(rows).to_csv(file, index=False)
    if readme:
        replace_table(PAGE, NAME, table())
    return file


def recalibrated(saved: checkpoint.Saved, batches: int) -> dict[str, Any]:
    """A row of the CSV, with its data set: what the run measured in its last epoch, and the recalibrated model."""
    settings, last, process = Settings(**saved.about["settings"]), saved.about["history"][-1], this_process()
    data = load_data(settings.dataset, settings.hold_out)
    model = trained_model(saved, settings, len(data.classes)).to(process.device, memory_format=torch.channels_last)
    training_batches = islice(train_loader(data, settings, process).epoch(last["epoch"] + 1), batches)
    with autocast(settings.precision, process.device):
        update_bn((batch.images for batch in training_batches), model)
    evaluation = evaluate(model, val_loader(data, settings, process), last["epoch"], precision=settings.precision)
    print(f"epoch {last['epoch']:2d}  val {last['val_accuracy']:.1%}, recalibrated {evaluation.top1:.1%}", flush=True)
    row = {key: last[key] for key in ("epoch", "learning_rate", "train_accuracy", "val_loss", "val_accuracy")}
    row |= {"batches": batches, "recalibrated_val_loss": evaluation.loss, "recalibrated_val_accuracy": evaluation.top1}
    return {"dataset": settings.dataset, **row}


def trained_model(saved: checkpoint.Saved, settings: Settings, classes: int) -> nn.Module:
    """The model of a checkpoint, with the convolutions that it trains with on a CPU."""
    model = build_model(settings.model, classes, stem=settings.stem)
    model.load_state_dict(saved.weights)
    use_small_map_conv(model)
    return model


def table() -> str:
    """The rows of the CSV beside the published accuracies, as a table in Markdown."""
    rows = [
        {
            "epoch": row.epoch,
            "learning rate": f"{row.learning_rate:g}",
            "published": percent(published_at(EXPERIMENT, DATASET, row.epoch), 1),
            "ours": percent(row.val_accuracy, 1),
            "ours, batch norms recalibrated": percent(row.recalibrated_val_accuracy, 1),
        }
        for row in pd.read_csv(CSV).itertuples()
    ]
    return markdown_table(pd.DataFrame(rows))


if __name__ == "__main__":
    typer.run(main)
