"""Run an experiment's notebook headlessly and write its page: papermill executes, nbconvert renders."""

import logging
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError

from tinyclf.data.registry import DATASETS
from tinyclf.experiments import catalog
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.names import family
from tinyclf.report.format import heading
from tinyclf.report.html import PIECES, link
from tinyclf.report.run_page import run_title
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.files import atomic_write, locked, writable
from tinyclf.utils.paths import PROJECT, data_dirs, reports_dir, tiny_imagenet_sources

PAGE, FAILED = ("notebook.ipynb", "index.html"), ("failed.ipynb", "failed.html")  # of a run that failed; not committed
NAV = re.compile(r"<nav>.*?</nav>", re.DOTALL)


class ThisPython(AsyncKernelManager):
    """A kernel of this very Python, whatever other kernels are installed under the name `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict())


def run(experiment: Experiment) -> None:
    """Execute the notebook and write notebook.ipynb and index.html into its `page_folder`.

    When a cell fails, the two are called failed.ipynb and failed.html, and those of an earlier run stay.
    Raises TinyclfError when a cell failed, with its message, or when the pages cannot be written.
    """
    folder, busy = writable(experiment.page_folder), f"{experiment.name} is running already; wait for it"
    if experiment.name == "summary":
        busy = ""  # runs that end together each make it, one after the other
    with locked(folder / ".page.lock", busy), tempfile.TemporaryDirectory(prefix="tinyclf-") as temporary:
        executed = Path(temporary) / PAGE[0]
        try:
            failure = execute(experiment, executed)
            publish(nbformat.read(executed, 4), experiment, FAILED if failure else PAGE)
        except OSError as error:
            raise TinyclfError(f"cannot write the page of {experiment.name}: {error}") from error
    if failure:
        raise TinyclfError(f"{failure}\n  the page with the error: {folder / FAILED[1]}")


def execute(experiment: Experiment, executed: Path) -> str:
    """Execute a notebook as far as it runs, into the file `executed`; returns why it failed, or nothing.

    What it prints, a line for each epoch, goes to standard error as it comes.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns of parameters that a notebook only passes on
    try:
        papermill.execute_notebook(
            str(experiment.notebook),
            str(executed),
            experiment.parameters,
            kernel_name="python3",  # what the notebook says; the next line decides
            kernel_manager_class=ThisPython,
            progress_bar=False,
            stdout_file=sys.stderr,
            stderr_file=sys.stderr,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own log: TCP at the start, sockets at the end
        )
    except PapermillExecutionError as error:
        return str(error.evalue) if error.ename == "TinyclfError" else f"{error.ename}: {error.evalue}"
    except RuntimeError:  # a DeadKernelError, or at the start a plain one
        failure = "the kernel died: killed, or out of memory (then try a smaller batch_size)"
        notebook = nbformat.read(executed, 4)
        notebook.cells.append(nbformat.v4.new_markdown_cell(f"## The run ended here: {failure}"))
        nbformat.write(notebook, executed)
        return failure
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # or the cell's end appears as a traceback on exit
        raise
    return ""


def publish(notebook: NotebookNode, experiment: Experiment, names: tuple[str, str]) -> None:
    """Write an executed notebook and its page, each whole or not at all, and link the page to its neighbours."""
    clean(notebook, experiment)
    folder, dataset_folder = experiment.page_folder, reports_dir() / experiment.parameters["dataset"]
    text = without_paths(nbformat.writes(notebook), experiment.parameters.get("weights", ""))
    page = render(nbformat.reads(text, 4), experiment.title)
    with locked(dataset_folder / ".pages.lock"):  # as the pages of neighbours are written too
        atomic_write(folder / names[0], text)  # first: a page without its notebook is nobody's
        atomic_write(folder / names[1], page)
        connect(dataset_folder)


def clean(notebook: NotebookNode, experiment: Experiment) -> None:
    """Set the title of an executed notebook, and leave out what papermill says of this machine and progress lines."""
    dataset = experiment.parameters["dataset"]
    if experiment.name == "summary":
        notebook.metadata["title"] = heading(dataset)
    else:
        about = {"front": "../index.html", "dataset": DATASETS[dataset].title}
        notebook.metadata |= {"title": f"{experiment.title} ({dataset})"} | about
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    CoalesceStreamsPreprocessor(enabled=True).preprocess(notebook, {})


def without_paths(text: str, weights: str) -> str:
    """`text` where the paths of data, reports, project and `weights` are their last part alone."""
    paths = {weights, *map(str, (*tiny_imagenet_sources(), *data_dirs(), reports_dir(), PROJECT or ""))}
    for path in sorted(paths, key=len, reverse=True):  # a folder after what is in it
        if os.sep in path and (name := os.path.basename(path)):
            text = text.replace(path, name)
    return text


def render(notebook: NotebookNode, title: str) -> str:
    """A notebook as one self-contained HTML page: no request leaves it, code is folded, and some cells are left out."""
    exporter = HTMLExporter(template_name="templates", extra_template_basedirs=[str(Path(__file__).parent)])
    arrange(notebook)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return str(page)


def arrange(notebook: NotebookNode) -> None:
    """Mark for the template what a page folds, and drop what it leaves out: the cells tagged `notebook-only`.

    A section starts with a Markdown cell `## Title`. The tag `folded` on that cell folds the section, unless an error
    is in it; the tag `optional` leaves it out where none of its code cells displayed anything.
    """
    sections: list[list[NotebookNode]] = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        if "notebook-only" not in cell.metadata.get("tags", []):
            sections[-1].append(cell)
    notebook.cells = []
    for section in filter(None, sections):
        tags = section[0].metadata.get("tags", [])
        outputs = [output for cell in section for output in cell.get("outputs", [])]
        if "optional" in tags and not outputs:
            continue
        if "folded" in tags and all(output.output_type != "error" for output in outputs):
            title, _, section[0].source = section[0].source.removeprefix("## ").partition("\n")
            section[0].metadata["opens"], section[-1].metadata["closes"] = title, True
            for cell in section:  # code that displayed nothing is what its section has to show
                cell.metadata["shown"] = cell.cell_type == "code" and not cell.outputs
        notebook.cells += section


def connect(dataset_folder: Path) -> None:
    """Link the page of each run to the one before it and after it, in the order of the experiments.

    The caller holds a lock on the pages.
    """
    experiments = catalog.read_experiments(dataset_folder.name)
    order = {name: number for number, name in enumerate(experiments)}
    pages = [page for page in dataset_folder.glob("*/index.html") if page.with_name("record.json").is_file()]
    pages.sort(key=lambda page: (order.get(family(page.parent.name), len(order)), page.parent.name))
    names = [page.parent.name for page in pages]
    links = ["", *(link(run_title(name, experiments), f"../{name}/index.html") for name in names), ""]
    for page, before, after in zip(pages, links, links[2:], strict=False):
        nav, text = PIECES.nav(DATASETS[dataset_folder.name].title, before, after), page.read_text(encoding="utf-8")
        if nav not in text:
            atomic_write(page, NAV.sub(nav.replace("\\", r"\\"), text, count=1))
