"""The command line. It imports what a command needs when that command runs: torch alone takes seconds."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer import Argument, Option
from typer.core import TyperCommand, TyperGroup

import tinyclf
from tinyclf.experiments.launch import TRAIN, WORKER, interrupted, prepare_process, run_one_by_one
from tinyclf.experiments.names import dataset_folder
from tinyclf.experiments.request import Dataset, Device, Request, complete_runs, takes_request, usage, use_device
from tinyclf.utils.errors import TinyclfError, UsageError, one_of
from tinyclf.utils.paths import PROJECT

if TYPE_CHECKING:  # it needs pydantic, which takes as long as all of `tinyclf --help`
    from tinyclf.experiments.catalog import Experiment

Runs = Annotated[list[str], Argument(metavar="RUN...", help="runs that have a record", autocompletion=complete_runs)]
Model = Annotated[str, Option(metavar="MODULE:FUNCTION", help="own code that makes the run's model for its classes")]
PAGE = "tinyclf.report.notebook:run"  # runs an experiment to its page
FORMATS = ("safetensors", "onnx")
MeasuredDataset = Literal["mini", "tiny-imagenet"]


class Commands(TyperGroup):
    """The commands. An error raised on purpose prints as one message; the status is 2 for wrong usage, else 1.

    It is 130 after Ctrl-C, and 143 after SIGTERM.
    """

    # ctx: of a click that typer has within, which has no public name
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as reason:
            print("tinyclf: interrupted; the same command goes on after the last finished epoch", file=sys.stderr)
            raise typer.Exit(interrupted(reason)) from None
        except TinyclfError as error:
            print(f"tinyclf: {error}", file=sys.stderr)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from error


class ManySeeds(TyperCommand):
    """A command that takes `--seeds 0 1 2` for `--seeds 0 --seeds 1 --seeds 2`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            after_a_seed = spread[-2:-1] == ["--seeds"] and spread[-1].isdecimal()
            spread += ["--seeds", arg] if after_a_seed and arg.isdecimal() else [arg]
        return super().parse_args(ctx, spread)


app = typer.Typer(cls=Commands, no_args_is_help=True, pretty_exceptions_enable=False)


@app.callback(invoke_without_command=True)
def options(version: Annotated[bool, Option("--version", help="print the version and exit")] = False) -> None:
    """Reproducible Tiny-ImageNet ResNet18 baselines. Start with: tinyclf list"""
    if version:
        print(f"tinyclf {tinyclf.__version__}")
        raise typer.Exit


@app.command("list")
def list_experiments(dataset: Dataset = "mini") -> None:
    """List the experiments, and the accuracy of those that have run."""
    from tinyclf.report.runs import listing

    print(listing(dataset))


@app.command(cls=ManySeeds)
@takes_request()
def run(request: Request) -> None:
    """Run experiments to their pages under reports/, write the front page, and print their paths."""
    request = replace(request, names=[*(name for name in request.names if name != "summary"), "summary"])
    experiments = request.experiments()
    request.run(experiments, PAGE)
    print_pages(experiments if WORKER not in os.environ else [])


@app.command(cls=ManySeeds)
@takes_request("names")
def report(request: Request) -> None:
    """Run all experiments, then print the accuracy tables and the path of the front page."""
    experiments = request.experiments()
    try:
        request.run(experiments, PAGE)
    finally:
        if WORKER not in os.environ:
            table(request.dataset)
            print(f"\n{dataset_folder(request.dataset) / 'index.html'}")


@app.command(cls=ManySeeds)
@takes_request()
def train(request: Request) -> None:
    """Train experiments to their records, without notebook and page."""
    request.run(request.experiments(), TRAIN)


def make_pages(find: "Callable[[list[str], str], list[Experiment]]", runs: list[str], dataset: str) -> None:
    """Make the pages that `find` has of runs, and print their paths."""
    with usage():
        pages = find(runs, dataset)
    run_one_by_one(pages, PAGE)
    print_pages(pages)


def print_pages(experiments: "list[Experiment]") -> None:
    """Print the paths of pages."""
    for experiment in experiments:
        print(experiment.page_folder / "index.html")


@app.command()
def compare(runs: Runs, dataset: Dataset = "mini") -> None:
    """Compare runs on one page, their curves and the settings that differ, and print its path."""
    from tinyclf.report.notebook import comparison

    make_pages(comparison, runs, dataset)


@app.command()
def render(runs: Runs, dataset: Dataset = "mini") -> None:
    """Make the pages of runs from their records, without training, and print their paths."""
    from tinyclf.report.notebook import run_pages

    make_pages(run_pages, runs, dataset)


@app.command()
def predict(
    run: Annotated[str, Option(metavar="RUN", help="the run whose model predicts", autocompletion=complete_runs)],
    images: Annotated[list[Path] | None, Argument(help="image files of any size")] = None,
    dataset: Dataset = "mini",
    model: Model = "",
    test: Annotated[bool, Option("--test", help="write the test split's predictions into the run's folder")] = False,
    device: Device = "auto",
) -> None:
    """Print the five most probable classes of images by a run's model, with their words and probabilities."""
    if not images and not test:
        raise UsageError("nothing to predict: name image files, or ask for the test split by --test")
    from tinyclf.data.tiny_imagenet import read_image
    from tinyclf.experiments.predict import Predictor, lines, load_function

    predictor = Predictor(run, dataset, load_function(model))
    print(f"{run} on {dataset}, after epoch {predictor.epoch} of {predictor.settings.epochs}", file=sys.stderr)
    for path in images or []:
        print(lines(str(path), predictor.most_probable(read_image(path))))
    if test:
        print(predictor.predict_test_split())


@app.command("export")
def export_model(
    run: Annotated[str, Argument(metavar="RUN", help="a run that has a checkpoint", autocompletion=complete_runs)],
    dataset: Dataset = "mini",
    model: Model = "",
    formats: Annotated[list[str] | None, Option("--format", help="safetensors or onnx alone; repeatable")] = None,
) -> None:
    """Write the model of a run as safetensors with torchvision's names, and as ONNX; check it and print the paths."""
    use_device("cpu")
    from tinyclf.experiments.export import export
    from tinyclf.experiments.predict import load_function

    with usage():
        for name in formats or ():
            one_of("--format", name, FORMATS)
    for file_format in formats or FORMATS:
        path, checked_by = export(run, dataset, file_format, load_function(model))
        print(f"{path}: {'the logits of the run, by ' + checked_by if checked_by else 'not checked: no onnxruntime'}")


@app.command()
def bench(
    dataset: Annotated[MeasuredDataset | None, Option(help="by default tiny-imagenet where it is found")] = None,
    seconds: Annotated[float, Option(min=0, help="of rounds for each measure; training gets twice as many")] = 45,
    only: Annotated[list[str] | None, Option(metavar="MEASURE", help="this measure alone; repeatable")] = None,
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


def main() -> None:
    """Run the command line."""
    if WORKER not in os.environ:  # one of several processes is ended by that which started it, and says nothing
        prepare_process()
    app(prog_name="tinyclf")
