"""The command line: what make calls."""

import sys
from typing import Annotated

import typer

from tinyclf import experiments, reports
from tinyclf.errors import TinyclfError

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
    run_all(names, dataset, parameter, imagenet, force)


@app.command()
def report(
    dataset: Dataset = "mini", parameter: Parameters = None, imagenet: Imagenet = "", force: Force = False
) -> None:
    """Run all experiments, the summary last, and print the accuracy table."""
    run_all([], dataset, parameter, imagenet, force)
    # the table is the summary's, as its page shows it
    folder = reports.reports_dir() / dataset
    print((folder / "table.txt").read_text())
    print(folder / "index.html")


def run_all(names: list[str], dataset: str, parameter: list[str] | None, imagenet: str, force: bool) -> None:
    """Run the experiments one by one; one that fails is named and the others still run, but the exit status is 1."""
    overrides = dict(experiments.parse(each) for each in parameter or [])
    if force:
        overrides["force"] = True
    failed = []
    for experiment in experiments.choose(names, dataset, overrides, imagenet):
        print(f"{experiment.name}: {experiment.title}", file=sys.stderr)
        try:
            reports.run(experiment)
        except TinyclfError as error:
            print(f"tinyclf: {experiment.name}: {error}", file=sys.stderr)
            failed.append(experiment.name)
    if failed:
        raise TinyclfError(f"failed: {', '.join(failed)}")


def main() -> None:
    """Run the command line; errors raised on purpose print as one message, not as a traceback."""
    try:
        app(standalone_mode=True)
    except TinyclfError as error:
        sys.exit(f"tinyclf: {error}")
