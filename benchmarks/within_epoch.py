"""How the validation accuracy moves within an epoch: `python benchmarks/within_epoch.py CHECKPOINT`.

Goes on from the checkpoint of a run through its next epoch, in the very steps that the run itself would take, and
evaluates before the first, after every so many and after the last. The run stays as it is. One that stands between
two epochs is what was trained for fewer, `tinyclf train baseline-scratch --dataset tiny-imagenet -p epochs=5`.
Writes reports/benchmarks/<dataset>/within_epoch.csv.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from tinyclf import checkpoint, files, paths
from tinyclf.batches import Batch, train_batches, val_batches
from tinyclf.distributed import accelerate, shared
from tinyclf.evaluation import evaluate
from tinyclf.models import network
from tinyclf.optimization import sgd
from tinyclf.packed import data_for
from tinyclf.settings import Settings
from tinyclf.training import train_epoch


def main(path: Annotated[Path, typer.Argument(metavar="CHECKPOINT")], every: int = 100) -> Path:
    """Measure, write the table and return its path: a row for each look, val_loss in nats, val_accuracy 0..1.

    Raises TinyclfError for a damaged checkpoint, and ValueError for that of a run with an average of the weights.
    """
    saved, accelerator = checkpoint.read(path), accelerate()
    settings, done = Settings(**saved.about["settings"]), len(saved.about["history"])
    if settings.ema:
        raise ValueError(f"{path} is of a run whose average of the weights is evaluated: it moves little in an epoch")
    data = data_for(settings)
    kind = (data, settings, accelerator.state)
    train, val = train_batches(*kind), val_batches(*kind)
    model = network(settings, len(data.classes))
    shared(model, accelerator)
    optimizer = sgd(model, settings)
    checkpoint.restore(saved, model, optimizer)
    train.input_size = settings.size_in(done + 1)
    rows, batches = [], train.epoch

    def look(step: int) -> None:
        found = evaluate(model, val, done + 1, precision=settings.precision)
        rows.append({"epoch": done + 1, "step": step, "val_loss": found.loss, "val_accuracy": found.top1})
        print(f"epoch {done + 1}, step {step:4d}  val {found.loss:.3f} {found.top1:.1%}", flush=True)
        model.train()

    def watched(epoch: int = 0) -> Iterator[Batch]:
        for step, batch in enumerate(batches(epoch)):
            if step % every == 0:
                look(step)
            yield batch

    train.epoch = watched  # type: ignore[method-assign]
    train_epoch(model, train, optimizer, done + 1, settings)
    look(len(train))
    table = files.writable(paths.reports_dir() / "benchmarks" / settings.dataset) / "within_epoch.csv"
    pd.DataFrame(rows).to_csv(table, index=False)
    return table


if __name__ == "__main__":
    typer.run(main)
