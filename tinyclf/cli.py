"""The command line: what make calls."""

import sys
from typing import Annotated, Any

import typer

from tinyclf import reports, tables
from tinyclf.errors import TinyclfError
from tinyclf.experiments import Experiment, choose, parse
from tinyclf.paths import reports_dir
from tinyclf.settings import DATASETS, one_of

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)

Dataset = Annotated[str, typer.Option(help="mini or tiny-imagenet")]
Parameters = Annotated[
    list[str] | None, typer.Option("--parameter", "-p", metavar="NAME=VALUE", help="a notebook's parameter; repeatable")
]
Imagenet = Annotated[str, typer.Option(metavar="PATH", help="state dict that stands in for the ImageNet weights")]
Force = Annotated[bool, typer.Option(help="start over, dropping what a run of that name left")]


@app.command()
def run(
    names: list[str],
    dataset: Dataset = "mini",
    parameter: Parameters = None,
    imagenet: Imagenet = "",
    force: Force = False,
) -> None:
    """Run experiments of notebooks/experiments.toml, each to its page under reports/."""
    if failed := run_each(choose(names, dataset, assignments(parameter, force), imagenet)):
        raise failed


@app.command()
def report(
    dataset: Dataset = "mini", parameter: Parameters = None, imagenet: Imagenet = "", force: Force = False
) -> None:
    """Run all experiments, the summary last, and print the accuracy table and the path of its page."""
    failed = run_each(choose([], dataset, assignments(parameter, force), imagenet))
    table(dataset)
    print(f"\n{reports_dir() / dataset / 'index.html'}")
    if failed:
        raise failed


@app.command()
def table(dataset: Dataset = "mini") -> None:
    """Print the accuracy table of the runs recorded so far, in Markdown."""
    one_of("dataset", dataset, DATASETS)
    print(tables.report(dataset))


def assignments(parameter: list[str] | None, force: bool) -> dict[str, Any]:
    """What -p and --force put over the experiments' parameters."""
    return dict(map(parse, parameter or [])) | ({"force": True} if force else {})


def run_each(experiments: list[Experiment]) -> TinyclfError | None:
    """Run experiments one by one. One that fails is named at once, and the others still run; returns the failure."""
    failed = []
    for experiment in experiments:
        print(f"{experiment.name}: {experiment.title}", file=sys.stderr)
        try:
            reports.run(experiment)
        except TinyclfError as error:
            print(f"tinyclf: {experiment.name}: {error}", file=sys.stderr)
            failed.append(experiment.name)
        except KeyboardInterrupt:
            print("tinyclf: interrupted; the same command goes on after the last finished epoch", file=sys.stderr)
            raise typer.Exit(130) from None
    return TinyclfError(f"failed: {', '.join(failed)}") if failed else None


def main() -> None:
    """Run the command line; errors raised on purpose print as one message, not as a traceback."""
    try:
        app()
    except TinyclfError as error:
        sys.exit(f"tinyclf: {error}")
