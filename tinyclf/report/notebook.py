"""Run an experiment's notebook headlessly and write its page: papermill executes, nbconvert renders."""

import hashlib
import html
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from markupsafe import escape
from nbclient.exceptions import DeadKernelError
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from papermill.exceptions import PapermillExecutionError
from zmq import ZMQError

from tinyclf.data.registry import dataset_info
from tinyclf.experiments.catalog import Experiment
from tinyclf.experiments.record import read_records
from tinyclf.report.format import heading
from tinyclf.report.runs import run_title
from tinyclf.utils.errors import TinyclfError, one_of
from tinyclf.utils.files import atomic_write, locked, writable
from tinyclf.utils.paths import NOTEBOOKS, PROJECT, data_dirs, reports_dir, tiny_imagenet_sources

PAGE, FAILED = ("notebook.ipynb", "index.html"), ("failed.ipynb", "failed.html")  # of a run that failed; not committed
BACKEND = "module://matplotlib_inline.backend_inline"  # a kernel's own, whatever the user's environment has
QUIET = "import logging; logging.getLogger('matplotlib').setLevel('ERROR')"  # it tells of its cache, with its path


class ThisPython(AsyncKernelManager):
    """A kernel of this very Python, whatever other kernels are installed under the name `python3`."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(**get_kernel_dict(), env={"MPLBACKEND": BACKEND})


def run_pages(names: list[str], dataset: str) -> list[Experiment]:
    """The pages of runs, to be made from their records. Raises TinyclfError for a run that has none."""
    titles, notebook = titles_of(names, dataset), NOTEBOOKS / "7_run.ipynb"
    return [Experiment(run, title, notebook, {"dataset": dataset, "run_name": run}) for run, title in titles.items()]


def comparison(names: list[str], dataset: str) -> list[Experiment]:
    """The page that compares runs, each once. Raises TinyclfError for one without a record, and for fewer than two."""
    if len(set(names)) < 2:
        known = ", ".join(read_records(dataset)) or "none"
        raise TinyclfError(f"nothing to compare: name two runs on {dataset} or more of {known}")
    titles = titles_of(names, dataset)
    several = " ".join(titles)
    folder = f"comparisons/{'-'.join(titles)[:80]}-{hashlib.sha256(several.encode()).hexdigest()[:8]}"
    parameters = {"dataset": dataset, "runs": several}
    return [Experiment(folder, " against ".join(titles.values()), NOTEBOOKS / "8_compare.ipynb", parameters)]


def titles_of(names: list[str], dataset: str) -> dict[str, str]:
    """The titles of the named runs, each once. Raises TinyclfError for a run without a record."""
    records = read_records(dataset)
    for name in names:
        one_of(f"run on {dataset}", name, records)
    return {name: run_title(name, dataset, records[name]) for name in names}


def run(experiment: Experiment) -> None:
    """Execute the notebook and write notebook.ipynb and index.html into its `page_folder`.

    When a cell fails, the two are called failed.ipynb and failed.html, and those of an earlier run stay.
    Raises TinyclfError when a cell failed, with its message, or when the pages cannot be written.
    """
    folder = writable(experiment.page_folder)
    # Runs that end together each make the summary, one after the other
    busy = "" if experiment.name == "summary" else f"{experiment.name} is running already; wait for it"
    with locked(folder / ".page.lock", busy), tempfile.TemporaryDirectory(prefix="tinyclf-") as temporary:
        executed = Path(temporary) / PAGE[0]
        failure = execute(experiment, executed)
        publish(nbformat.read(executed, 4), experiment, FAILED if failure else PAGE)
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
            # The kernel's own log is of TCP at the start and sockets at the end
            extra_arguments=["--log-level=CRITICAL", f"--IPKernelApp.exec_lines={QUIET}"],
        )
    except PapermillExecutionError as error:
        return str(error.evalue) if error.ename == "TinyclfError" else f"{error.ename}: {error.evalue}"
    except DeadKernelError:
        return "the kernel died: killed, or out of memory (then try a smaller batch_size)"
    except (RuntimeError, OSError, ZMQError) as error:
        remedy = "free some space, and look at `ulimit -a` and at the folder startup of `ipython locate profile`"
        raise TinyclfError(f"the notebook cannot be executed ({error}): {remedy}") from error
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # or the cell's end appears as a traceback on exit
        raise
    return ""


def publish(notebook: nbformat.NotebookNode, experiment: Experiment, names: tuple[str, str]) -> None:
    """Write an executed notebook, without what is of this machine alone, and its page, each whole or not at all."""
    dataset, up = experiment.parameters["dataset"], "../" * (1 + experiment.name.count("/"))
    if experiment.name == "summary":
        notebook.metadata["title"] = heading(dataset)
    else:
        info = dataset_info(dataset)
        about = {"title": f"{experiment.title} ({info.name})", "front": f"{up}index.html", "dataset": info.title}
        notebook.metadata |= about
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    CoalesceStreamsPreprocessor(enabled=True).preprocess(notebook, {})  # lines of progress as one
    text = without_paths(nbformat.writes(notebook), experiment.parameters)
    atomic_write(experiment.page_folder / names[0], text)  # first: a page without its notebook is nobody's
    atomic_write(experiment.page_folder / names[1], render(nbformat.reads(text, 4), experiment.title))


def without_paths(text: str, parameters: Mapping[str, Any]) -> str:
    """The text of a notebook where paths of this machine are their last part alone, however they are written there.

    They are those of the data, the reports, the project, and of the parameters `weights` and `dataset`.
    """
    known = [*tiny_imagenet_sources(), *data_dirs(), reports_dir(), PROJECT or ""]
    paths = {*map(str, known), *(str(parameters.get(key, "")) for key in ("weights", "dataset"))}
    for path in sorted(paths, key=len, reverse=True):  # a folder after what is in it
        if os.sep in path and (name := os.path.basename(path)):
            for write in (str, repr, ascii, json.dumps, quote):
                for mark in (str, escape, html.escape):  # text as it is, and in HTML of ours and of others
                    said = [json.dumps(mark(write(part).strip("'\"")), ensure_ascii=False) for part in (path, name)]
                    text = text.replace(said[0][1:-1], said[1][1:-1])
    return text


def page_title(folder: Path) -> str:
    """The title of the page that tinyclf made in a folder, as its notebook has it; empty where there is none."""
    try:
        return str(json.loads((folder / PAGE[0]).read_text("utf-8"))["metadata"]["title"])
    except (OSError, ValueError, LookupError, TypeError):
        return ""


def render(notebook: nbformat.NotebookNode, title: str) -> str:
    """A notebook as one self-contained HTML page: no request leaves it, code is folded, and some cells are left out."""
    exporter = HTMLExporter(template_name="templates", extra_template_basedirs=[str(Path(__file__).parent)])
    arrange(notebook)
    page, _ = exporter.from_notebook_node(notebook, resources={"metadata": {"name": title}})
    return str(page)


def arrange(notebook: nbformat.NotebookNode) -> None:
    """Mark for the template what a page folds, and drop what it leaves out: the cells tagged `notebook-only`.

    A section starts with a Markdown cell `## Title`. The tag `folded` on that cell folds the section, unless an error
    is in it; the tag `optional` leaves it out where none of its code cells displayed anything.
    """
    sections: list[list[nbformat.NotebookNode]] = [[]]
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("## "):
            sections.append([])
        if "notebook-only" not in cell.metadata.get("tags", []):
            sections[-1].append(cell)
    sections[0].sort(key=lambda cell: cell.cell_type == "code" and not cell.outputs)  # parameters after the title
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
