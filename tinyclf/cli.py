"""The command line. It imports what a command needs when that command runs: torch alone takes seconds."""

import dataclasses
import io
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

import tinyclf
from tinyclf.data.registry import DATASETS
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.launch import end_with_parent
from tinyclf.experiments.request import (
    WORKER,
    Request,
    interruptible,
    run_at_once,
    run_one_by_one,
    train_in_processes,
    usage,
    use_device,
)
from tinyclf.utils.errors import TinyclfError, UsageError
from tinyclf.utils.paths import PROJECT, reports_dir

DatasetName = Literal["mini", "tiny-imagenet", "tiny-imagenet-20"]  # those of DATASETS
DATASET_HELP = "; ".join(f"{info.name}: {info.help}" for info in DATASETS.values())
SEEDS_HELP = "run each experiment with each of these seeds"
PROCESSES_HELP = "train in N processes by torchrun, each with its own GPU or CPU cores"
JOBS_HELP = "run N experiments at a time, each with its share of CPU cores or GPUs"
DEVICE_HELP = "where to compute; auto: on a CUDA GPU if there is one, else on the CPU; mps: on a Mac's GPU"

# The arguments and options that several commands share
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="experiments or their ablations")]
Dataset = Annotated[DatasetName, typer.Option(help=DATASET_HELP)]
Epochs = Annotated[int | None, typer.Option(min=1, metavar="N", help="epochs to train; short for -p epochs=N")]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="a setting; repeatable")
]
ImageNet = Annotated[str, typer.Option(metavar="PATH", help="state dict that stands in for the ImageNet weights")]
Force = Annotated[bool, typer.Option("--force", help="start over, dropping what a run of that name left")]
Seeds = Annotated[list[int] | None, typer.Option(metavar="N...", help=SEEDS_HELP)]
Processes = Annotated[int, typer.Option(min=1, metavar="N", help=PROCESSES_HELP)]
Jobs = Annotated[int, typer.Option(min=1, metavar="N", help=JOBS_HELP)]
Device = Annotated[Literal["auto", "cpu", "cuda", "mps"], typer.Option(callback=use_device, help=DEVICE_HELP)]
Only = Annotated[str, typer.Option(hidden=True, help="do this run alone of all that the others give: a job's part")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="runs that have a record")]


class Commands(TyperGroup):
    """The commands. An error raised on purpose prints as one message; the status is 2 for wrong usage, else 1."""

    # ctx: of a click that typer has within, which has no public name
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except TinyclfError as error:
            print(f"tinyclf: {error}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error


class ManySeeds(TyperCommand):
    """A command that takes `--seeds 0 1 2` for `--seeds 0 --seeds 1 --seeds 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            after_a_seed = len(spread) > 1 and spread[-2] == "--seeds" and spread[-1].isdecimal()
            spread += ["--seeds", arg] if after_a_seed and arg.isdecimal() else [arg]
        return super().parse_args(ctx, spread)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


def print_version(wanted: bool) -> None:
    """Print the version and end, if that is wanted."""
    if wanted:
        print(f"tinyclf {tinyclf.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Reproducible Tiny-ImageNet ResNet18 baselines. Start with: tinyclf list"""


@app.command("list")
def list_experiments(dataset: Dataset = "mini") -> None:
    """List the experiments, and the accuracy of those that have run."""
    from tinyclf.report.runs import listing

    print(listing(dataset))


@app.command(cls=ManySeeds)
def run(
    names: Names,
    dataset: Dataset = "mini",
    epochs: Epochs = None,
    parameter: Parameters = None,
    imagenet: ImageNet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = 1,
    jobs: Jobs = 1,
    device: Device = "auto",
    only: Only = "",
) -> None:
    """Run experiments to their pages under reports/, write the front page, and print their paths."""
    names = [*(name for name in names if name != "summary"), "summary"]
    request = Request(
        names, dataset, epochs, parameter or [], imagenet, force, seeds or [], processes, jobs, device, only
    )
    experiments = request.experiments()
    run_notebooks(request, experiments)
    for experiment in experiments if not only else ():
        print(experiment.page_folder / "index.html")


@app.command(cls=ManySeeds)
def report(
    dataset: Dataset = "mini",
    epochs: Epochs = None,
    parameter: Parameters = None,
    imagenet: ImageNet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = 1,
    jobs: Jobs = 1,
    device: Device = "auto",
) -> None:
    """Run all experiments, then print the accuracy tables and the path of the front page."""
    request = Request([], dataset, epochs, parameter or [], imagenet, force, seeds or [], processes, jobs, device)
    experiments = request.experiments()
    try:
        run_notebooks(request, experiments)
    finally:
        table(dataset)
        print(f"\n{reports_dir() / dataset / 'index.html'}")


@app.command(cls=ManySeeds)
def train(
    names: Names,
    dataset: Dataset = "mini",
    epochs: Epochs = None,
    parameter: Parameters = None,
    imagenet: ImageNet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = 1,
    jobs: Jobs = 1,
    device: Device = "auto",
    only: Only = "",
) -> None:
    """Train experiments to their records, without notebook and page."""
    request = Request(
        names, dataset, epochs, parameter or [], imagenet, force, seeds or [], processes, jobs, device, only
    )
    experiments = request.experiments()
    if processes > 1:
        return train_in_processes(request, experiments)
    if jobs > 1:
        return run_at_once(request, experiments, "train")
    if WORKER in os.environ:
        end_with_parent()
    from tinyclf.experiments.train import train_experiment
    from tinyclf.training.device import connected, this_process

    def do(experiment: Experiment) -> None:
        train_experiment(experiment.name, experiment.parameters)

    if this_process().num_processes > 1:  # one that went on alone would leave the others waiting for it
        with interruptible(), connected():
            for experiment in experiments:
                do(experiment)
    else:
        run_one_by_one(experiments, do, alone=bool(only))
    this_process().destroy_process_group()


@app.command()
def compare(runs: Runs, dataset: Dataset = "mini") -> None:
    """Compare runs on one page, their curves and the settings that differ, and print its path."""
    from tinyclf.report import notebook
    from tinyclf.report.run_page import comparison

    with usage():
        experiment = comparison(runs, dataset)
    run_one_by_one([experiment], notebook.run)
    print(experiment.page_folder / "index.html")


@app.command()
def render(runs: Runs, dataset: Dataset = "mini") -> None:
    """Make the pages of runs from their records, without training, and print their paths."""
    from tinyclf.report import notebook
    from tinyclf.report.run_page import run_pages

    with usage():
        pages = run_pages(runs, dataset)
    run_one_by_one(pages, notebook.run)
    for page in pages:
        print(page.page_folder / "index.html")


@app.command()
def predict(
    run: Annotated[str, typer.Option(metavar="RUN", help="the run whose model predicts")],
    images: Annotated[list[Path] | None, typer.Argument(help="image files of any size")] = None,
    dataset: Dataset = "mini",
    test: Annotated[
        bool, typer.Option("--test", help="write the test split's predictions into the run's folder")
    ] = False,
    device: Device = "auto",
) -> None:
    """Print the five most probable classes of images by a run's model, with their words and probabilities."""
    if not images and not test:
        raise UsageError("nothing to predict: name image files, or ask for the test split by --test")
    from tinyclf.experiments.predict import Predictor, lines, read_image

    refused = []

    def refuse(message: str) -> None:
        refused.append(message)
        print(f"tinyclf: {message}", file=sys.stderr)

    predictor = Predictor(run, dataset)
    print(f"{run} on {dataset}, after epoch {predictor.epoch} of {predictor.settings.epochs}", file=sys.stderr)
    for path in images or []:
        try:
            image = read_image(path)
        except TinyclfError as error:
            refuse(str(error))
        else:
            print(lines(str(path), predictor.most_probable(image)))
    if test:
        print(predictor.predict_test_split(refuse))
    if refused:
        raise TinyclfError(f"{len(refused)} of the files could not be used")


@app.command("export")
def export_model(
    run: Annotated[str, typer.Argument(metavar="RUN", help="a run that has a checkpoint")],
    dataset: Dataset = "mini",
    formats: Annotated[list[str] | None, typer.Option("--format", help="safetensors or onnx alone; repeatable")] = None,
) -> None:
    """Write the model of a run as safetensors with torchvision's names, and as ONNX; check it and print the paths."""
    use_device("cpu")
    from tinyclf.experiments.export import export

    for file_format in formats or ("safetensors", "onnx"):
        path, checked_by = export(run, dataset, file_format)
        print(f"{path}: {'the logits of the run, by ' + checked_by if checked_by else 'not checked: no onnxruntime'}")


@app.command()
def bench(
    dataset: Annotated[
        Literal["mini", "tiny-imagenet"] | None, typer.Option(help="by default tiny-imagenet where it is found")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="of rounds for each measure; training gets twice as many")] = 45,
    only: Annotated[list[str] | None, typer.Option(metavar="MEASURE", help="this measure alone; repeatable")] = None,
) -> None:
    """Measure loader, training, evaluation and memory, tinyclf's and other ways'; print the table of ratios."""
    if PROJECT is None or not (PROJECT / "benchmarks" / "bench.py").is_file():
        raise TinyclfError("the benchmark is part of the project's checkout, not of an installed package")
    sys.path.insert(0, str(PROJECT / "benchmarks"))
    import bench

    print(bench.main(dataset or "", seconds, only).read_text("utf-8"))


@app.command()
def table(dataset: Dataset = "mini") -> None:
    """Print what was reproduced, and the accuracy tables of the runs recorded so far, in Markdown."""
    from tinyclf.report.accuracy import accuracy_table, answer_in_markdown, markdown_report

    accuracies = accuracy_table(dataset)
    print(f"{answer_in_markdown(accuracies)}\n\n{markdown_report(accuracies)}")


def run_notebooks(request: Request, experiments: list[Experiment]) -> None:
    """Run the notebooks of experiments. In several processes they are trained before, and the notebooks show that."""
    if request.processes > 1 and any(experiment.trains for experiment in experiments):
        train_in_processes(request, experiments)
        experiments = dataclasses.replace(request, force=False).experiments()
    if request.jobs > 1:
        return run_at_once(request, experiments, "run")
    from tinyclf.report import notebook

    run_one_by_one(experiments, notebook.run, alone=bool(request.only))


def main() -> None:
    """Run the command line. What a terminal cannot show is replaced there, and ends no run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    app(prog_name="tinyclf")
