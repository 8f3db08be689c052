"""What a run's batch norms make of its validation accuracy: `python benchmarks/batch_norms.py CHECKPOINT...`.

A batch norm is evaluated with running averages of mean and variance, which hold little more than the last ten batches
of training. Of each checkpoint, this estimates them anew over more batches, its weights as they are, and evaluates that
model beside what the run itself found. One that stands between two epochs is what was trained for fewer, `tinyclf
train baseline-scratch --dataset tiny-imagenet -p epochs=7`. Writes reports/benchmarks/<dataset>/batch_norms.csv and,
with --readme, the table that README.md has of row 1 on Tiny-ImageNet.
"""

from itertools import islice
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer
from results import put
from torch.optim.swa_utils import update_bn

from tinyclf import checkpoint, files, paths
from tinyclf.accuracy import markdown, percent, published_at, published_row
from tinyclf.cache import load_data
from tinyclf.distributed import this_process
from tinyclf.evaluate import evaluate
from tinyclf.initial import network
from tinyclf.precision import autocast
from tinyclf.recipe import train_loader, val_loader
from tinyclf.settings import Settings

README = paths.PROJECT / "README.md"
MEASURED = paths.PROJECT / "reports" / "benchmarks" / "tiny-imagenet" / "batch_norms.csv"
NAME = "batch norms"  # of the table


def main(
    checkpoints: Annotated[list[Path], typer.Argument(metavar="CHECKPOINT...")], batches: int = 50, readme: bool = False
) -> Path:
    """Measure, write the table and return its path: a row for each checkpoint, losses in nats, accuracies 0..1.

    checkpoints: of runs on the same data set, after one epoch at least. batches: how many of the training batches of
    the next epoch are averaged over. readme: see above. Raises TinyclfError for a damaged checkpoint.
    """
    rows, process = [], this_process()
    for path in checkpoints:
        saved = checkpoint.read(path)
        settings, history = Settings(**saved.about["settings"]), saved.about["history"]
        data = load_data(settings.dataset, settings.hold_out)
        kind = (data, settings, process)
        model, last = network(settings, len(data.classes)), history[-1]
        model.load_state_dict(saved.weights)
        model.to(process.device, memory_format=torch.channels_last)
        some = islice(train_loader(*kind).epoch(last["epoch"] + 1), batches)
        with autocast(settings.precision, process.device):
            update_bn((batch.images for batch in some), model)
        found = evaluate(model, val_loader(*kind), last["epoch"], precision=settings.precision)
        row = {key: last[key] for key in ("epoch", "learning_rate", "train_accuracy", "val_loss", "val_accuracy")}
        row |= {"batches": batches, "anew_val_loss": found.loss, "anew_val_accuracy": found.top1}
        print(f"epoch {row['epoch']:2d}  val {row['val_accuracy']:.1%}, anew {found.top1:.1%}", flush=True)
        rows.append(row)
    table = files.writable(paths.reports_dir() / "benchmarks" / settings.dataset) / "batch_norms.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    if readme:
        put(README, NAME, shown())
    return table


def shown() -> str:
    """What was measured of row 1 on Tiny-ImageNet, as a table in Markdown."""
    row, rows = published_row("baseline-scratch") or {}, []
    for each in pd.read_csv(MEASURED).itertuples():
        published = published_at(row, "val_accuracy", each.epoch)
        rows.append(
            {
                "epoch": each.epoch,
                "learning rate": f"{each.learning_rate:g}",
                "published": "" if published is None else percent(published, 1),
                "ours": percent(each.val_accuracy, 1),
                "ours, norms estimated anew": percent(each.anew_val_accuracy, 1),
            }
        )
    return markdown(pd.DataFrame(rows))


if __name__ == "__main__":
    typer.run(main)
