"""The command line. It imports what a command needs when that command runs: torch alone takes seconds."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tinyclf.data.registry import DATASETS, WHOLE_DATASETS
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.launch import Request, launch
from tinyclf.experiments.parameters import RUN_NAME
from tinyclf.utils.checks import one_of
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import PROJECT, reports_dir

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="experiments or their ablations")]
Runs = Annotated[list[str], typer.Argument(metavar="RUN...", help="runs that have a record")]
Dataset = Annotated[str, typer.Option(help="; ".join(f"{info.name}: {info.help}" for info in DATASETS.values()))]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="a setting; repeatable")
]
Imagenet = Annotated[str, typer.Option(metavar="PATH", help="state dict that stands in for the ImageNet weights")]
Force = Annotated[bool, typer.Option("--force", help="start over, dropping what a run of that name left")]
Seeds = Annotated[list[int] | None, typer.Option(metavar="N...", help="run each experiment with each of these seeds")]
Processes = Annotated[
    int, typer.Option(min=1, help="train in this many processes by torchrun, each with its own GPU or CPU cores")
]


class ManySeeds(TyperCommand):
    """A command that takes `--seeds 0 1 2` for `--seeds 0 --seeds 1 --seeds 2`."""

    # ctx: of a click that typer has within, which has no public name
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spread: list[str] = []
        for arg in args:
            after_a_seed = len(spread) > 1 and spread[-2] == "--seeds" and spread[-1].isdecimal()
            spread += ["--seeds", arg] if after_a_seed and arg.isdecimal() else [arg]
        return super().parse_args(ctx, spread)


@app.command(cls=ManySeeds)
def run(
    names: Names,
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = 1,
) -> None:
    """Run experiments to their pages under reports/, and write the front page."""
    names = [*(name for name in names if name != "summary"), "summary"]
    run_notebooks(Request(names, dataset, parameter, imagenet, force, seeds, processes))


@app.command(cls=ManySeeds)
def report(
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = 1,
) -> None:
    """Run all experiments, then print the accuracy tables and the path of the front page."""
    try:
        run_notebooks(Request([], dataset, parameter, imagenet, force, seeds, processes))
    finally:
        table(dataset)
        print(f"\n{reports_dir() / dataset / 'index.html'}")


@app.command(cls=ManySeeds)
def train(
    names: Names,
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = 1,
) -> None:
    """Train experiments to their records, without notebook and page."""
    request = Request(names, dataset, parameter, imagenet, force, seeds, processes)
    experiments = request.experiments()
    if processes > 1:
        with interruptible():
            return launch(request, experiments)
    from tinyclf.experiments.run import train_experiment
    from tinyclf.training.distributed import this_process

    def do(experiment: Experiment) -> None:
        train_experiment(experiment.name, experiment.parameters)

    if this_process().num_processes > 1:  # one that went on alone would leave the others waiting for it
        with interruptible():
            for experiment in experiments:
                do(experiment)
    else:
        run_one_by_one(experiments, do)
    this_process().destroy_process_group()


@app.command()
def compare(runs: Runs, dataset: Dataset = "mini") -> None:
    """Compare runs on one page, their curves and the settings that differ, and print its path."""
    from tinyclf.report import notebook
    from tinyclf.report.comparison import comparison

    experiment = comparison(runs, dataset)
    run_one_by_one([experiment], notebook.run)
    print(notebook.page_folder(experiment) / "index.html")


@app.command()
def render(runs: Runs, dataset: Dataset = "mini") -> None:
    """Make the pages of runs from their records, without training, and print their paths."""
    from tinyclf.report import notebook
    from tinyclf.report.run_page import run_pages

    pages = run_pages(runs, dataset)
    run_one_by_one(pages, notebook.run)
    for page in pages:
        print(notebook.page_folder(page) / "index.html")


@app.command()
def predict(
    run: Annotated[str, typer.Option(help="the run whose model predicts")],
    images: Annotated[list[Path] | None, typer.Argument(help="image files of any size")] = None,
    dataset: Dataset = "mini",
    test: Annotated[
        bool, typer.Option("--test", help="write the test split's predictions into the run's folder")
    ] = False,
) -> None:
    """Print the five most probable classes of images by a run's model, with their words and probabilities."""
    from tinyclf.experiments.predict import Predictor, lines, read_image

    if not images and not test:
        raise TinyclfError("nothing to predict: name image files, or ask for the test split by --test")
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


@app.command()
def bench(
    dataset: Annotated[str, typer.Option(help="mini or tiny-imagenet; by default the latter where it is found")] = "",
    seconds: Annotated[float, typer.Option(min=0, help="of rounds for each measure; training gets twice as many")] = 45,
    only: Annotated[list[str] | None, typer.Option(metavar="MEASURE", help="this measure alone; repeatable")] = None,
) -> None:
    """Measure loader, training, evaluation and memory, tinyclf's and other ways'; print the table of ratios."""
    if PROJECT is None or not (PROJECT / "benchmarks" / "bench.py").is_file():
        raise TinyclfError("the benchmark is part of the project's checkout, not of an installed package")
    if dataset:
        one_of("dataset", dataset, WHOLE_DATASETS)
    sys.path.insert(0, str(PROJECT / "benchmarks"))
    import bench

    print(bench.main(dataset, seconds, only).read_text())


@app.command()
def table(dataset: Dataset = "mini") -> None:
    """Print the accuracy tables of the runs recorded so far, in Markdown."""
    from tinyclf.report import accuracy

    one_of("dataset", dataset, DATASETS)
    print(accuracy.markdown_report(dataset))


def run_notebooks(request: Request) -> None:
    """Run the notebooks of experiments. In several processes they are trained before, and the notebooks show that."""
    experiments = request.experiments()
    if request.processes > 1 and any(RUN_NAME in experiment.parameters for experiment in experiments):
        with interruptible():
            launch(request, experiments)
        experiments = dataclasses.replace(request, force=False).experiments()
    from tinyclf.report import notebook

    run_one_by_one(experiments, notebook.run)


def run_one_by_one(experiments: list[Experiment], do: Callable[[Experiment], None]) -> None:
    """`do` the experiments. One that fails is named at once, and the others still run; then raises TinyclfError."""
    failed = []
    for experiment in experiments:
        try:
            print(f"{experiment.name}: {experiment.title}", file=sys.stderr)
            with interruptible():
                do(experiment)
        except TinyclfError as error:
            print(f"tinyclf: {experiment.name}: {error}", file=sys.stderr)
            failed.append(experiment.name)
    if failed:
        raise TinyclfError(f"failed: {', '.join(failed)}")


@contextmanager
def interruptible() -> Iterator[None]:
    """End with status 130 and a word, not a traceback, when interrupted."""
    try:
        yield
    except KeyboardInterrupt:
        print("tinyclf: interrupted; the same command goes on after the last finished epoch", file=sys.stderr)
        raise typer.Exit(130) from None


def main() -> None:
    """Run the command line; errors raised on purpose print as one message, not as a traceback."""
    try:
        app()
    except TinyclfError as error:
        sys.exit(f"tinyclf: {error}")
