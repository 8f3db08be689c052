"""The command line: what make calls."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from tinyclf import notebook as reports, accuracy as tables
from tinyclf.comparison import comparison
from tinyclf.errors import TinyclfError
from tinyclf.catalog import Experiment, select
from tinyclf.parameters import parse_assignment
from tinyclf.initial import is_finished
from tinyclf.paths import PROJECT, reports_dir
from tinyclf.checks import one_of
from tinyclf.registry import DATASETS, WHOLE_DATASETS

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Dataset = Annotated[str, typer.Option(help="mini, tiny-imagenet, or tiny-imagenet-20, every tenth class of it")]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="a notebook's parameter; repeatable")
]
Imagenet = Annotated[str, typer.Option(metavar="PATH", help="state dict that stands in for the ImageNet weights")]
Force = Annotated[bool, typer.Option(help="start over, dropping what a run of that name left")]
Seeds = Annotated[list[int] | None, typer.Option(metavar="N...", help="run each experiment with each of these seeds")]
Processes = Annotated[
    int | None, typer.Option(min=1, help="train in so many processes, each with a GPU or core of its own")
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
    names: list[str],
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = None,
) -> None:
    """Run experiments of notebooks/experiments.toml, each to its page under reports/; then the front page anew."""
    names = [*(name for name in names if name != "summary"), "summary"]
    experiments = chosen(names, dataset, assignments(parameter, force, processes), imagenet, seeds)
    if failed := run_each(experiments, reports.run):
        raise failed


@app.command(cls=ManySeeds)
def report(
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
    seeds: Seeds = None,
    processes: Processes = None,
) -> None:
    """Run all experiments, the summary last, and print the accuracy table and the path of its page."""
    failed = run_each(chosen([], dataset, assignments(parameter, force, processes), imagenet, seeds), reports.run)
    table(dataset)
    print(f"\n{reports_dir() / dataset / 'index.html'}")
    if failed:
        raise failed


@app.command(cls=ManySeeds)
def train(
    names: list[str],
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
    seeds: Seeds = None,
) -> None:
    """Train experiments to their records, without notebook and page.

    In several processes: accelerate launch --multi_gpu --num_processes 2 -m tinyclf train NAMES (also without a GPU:
    the flag says that there are several), or torchrun --nproc-per-node 2 -m tinyclf train NAMES.
    """
    from tinyclf.distributed import this_process
    from tinyclf.run import train_experiment  # here, as accelerate and torchmetrics take seconds to import

    experiments = chosen(names, dataset, assignments(parameter, force), imagenet, seeds)
    if this_process().num_processes > 1:  # one that went on alone would leave the others waiting for it
        with interruptible():
            for each in experiments:
                train_experiment(each.name, each.parameters)
        failed = None
    else:
        failed = run_each(experiments, lambda each: train_experiment(each.name, each.parameters))
    this_process().destroy_process_group()
    if failed:
        raise failed


@app.command()
def compare(runs: list[str], dataset: Dataset = "mini") -> None:
    """Write one page with the curves of runs over each other and what they differ in, and print its path."""
    experiment = comparison(runs, dataset)
    if failed := run_each([experiment], reports.run):
        raise failed
    print(reports.page_folder(experiment) / "index.html")


@app.command()
def predict(
    run: Annotated[str, typer.Option(help="the run whose model predicts")],
    images: Annotated[list[Path] | None, typer.Argument(help="image files of any size")] = None,
    dataset: Dataset = "mini",
    test: Annotated[
        bool, typer.Option("--test", help="write the test split's predictions into the run's folder")
    ] = False,
) -> None:
    """Print the five likeliest classes of images by a run's model, with their words and probabilities."""
    from tinyclf.predict import Predictor, lines, read_image

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
            print(lines(str(path), predictor.likeliest(image)))
    if test:
        print(predictor.test_split(refuse))
    if refused:
        raise TinyclfError(f"{len(refused)} of the files could not be used")


@app.command()
def bench(
    dataset: Annotated[str, typer.Option(help="mini or tiny-imagenet; by default the latter where it is found")] = "",
    seconds: Annotated[float, typer.Option(min=0, help="of rounds for each measure; training gets twice as many")] = 45,
    only: Annotated[list[str] | None, typer.Option(metavar="MEASURE", help="this measure alone; repeatable")] = None,
) -> None:
    """Measure loader, training, evaluation and memory beside other ways and the limit; print the table of ratios."""
    if PROJECT is None or not (PROJECT / "benchmarks" / "bench.py").is_file():
        raise TinyclfError("the benchmark is part of the project's checkout, not of an installed package")
    one_of("dataset", dataset, ("", *WHOLE_DATASETS))
    sys.path.insert(0, str(PROJECT / "benchmarks"))
    import bench

    print(bench.main(dataset, seconds, only).read_text())


@app.command()
def table(dataset: Dataset = "mini") -> None:
    """Print the accuracy table of the runs recorded so far, in Markdown."""
    one_of("dataset", dataset, DATASETS)
    print(tables.report(dataset))


def assignments(parameter: list[str] | None, force: bool, processes: int | None = None) -> dict[str, Any]:
    """What -p, --force and --processes put over the experiments' parameters."""
    more = ({"force": True} if force else {}) | ({"processes": processes} if processes else {})
    return dict(map(parse_assignment, parameter or [])) | more


def chosen(
    names: list[str], dataset: str, overrides: dict[str, Any], imagenet: str, seeds: list[int] | None
) -> list[Experiment]:
    """The experiments to run: as `select` has them, without what is only started from and has finished."""
    experiments = select(names, dataset, overrides, imagenet, seeds)
    return [each for each in experiments if not (each.needed and is_finished(each.name, dataset))]


def run_each(experiments: list[Experiment], do: Callable[[Experiment], None]) -> TinyclfError | None:
    """`do` experiments one by one. One that fails is named at once, and the others still run; returns the failure."""
    failed = []
    for experiment in experiments:
        try:
            print(f"{experiment.name}: {experiment.title}", file=sys.stderr)
            with interruptible():
                do(experiment)
        except TinyclfError as error:
            print(f"tinyclf: {experiment.name}: {error}", file=sys.stderr)
            failed.append(experiment.name)
    return TinyclfError(f"failed: {', '.join(failed)}") if failed else None


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
