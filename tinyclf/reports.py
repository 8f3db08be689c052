"""Run an experiment's notebook headlessly and leave its page: papermill executes, nbconvert renders."""

import logging
import os
import sys
from pathlib import Path

import nbformat
import papermill
from nbconvert import HTMLExporter
from nbconvert.preprocessors import TagRemovePreprocessor
from papermill.exceptions import PapermillExecutionError

from tinyclf.errors import TinyclfError
from tinyclf.experiments import Experiment
from tinyclf.paths import reports_dir
from tinyclf.runs import writable, write


def page_folder(experiment: Experiment) -> Path:
    """Where an experiment's notebook.ipynb and index.html go; the summary is the front page of its data set."""
    folder = reports_dir() / experiment.parameters["dataset"]
    return folder if experiment.name == "summary" else folder / experiment.name


def run(experiment: Experiment) -> None:
    """Execute the notebook and write notebook.ipynb and index.html into `page_folder`, also when a cell fails.

    Raises TinyclfError when a cell failed, with its message, or when the pages cannot be written.
    """
    folder = writable(page_folder(experiment))
    beside = folder / "notebook.partial.ipynb"  # papermill saves it after every cell
    show_progress()
    failure = ""
    try:
        papermill.execute_notebook(
            str(experiment.notebook),
            str(beside),
            experiment.parameters,
            kernel_name="python3",
            progress_bar=False,
            log_output=True,
            extra_arguments=["--log-level=CRITICAL"],  # the kernel's own log: TCP at the start, sockets at the end
        )
    except PapermillExecutionError as error:
        failure = error.evalue if error.ename == "TinyclfError" else f"{error.ename}: {error.evalue}"
        failure += f"\n  the page with the error: {folder / 'index.html'}"
    except OSError as error:
        failure = f"cannot write {beside}: {error.strerror}"
    finally:
        publish(beside, experiment)
    if failure:
        raise TinyclfError(failure)


def publish(executed: Path, experiment: Experiment) -> None:
    """Turn an executed notebook, as far as it came, into its two pages, each of them whole or not at all."""
    try:
        if executed.exists():
            tidy(executed, experiment)
            page = render(executed, experiment.title)
            write(executed.with_name("index.html"), page)
            os.replace(executed, executed.with_name("notebook.ipynb"))
    except (OSError, nbformat.reader.NotJSONError) as error:
        raise TinyclfError(f"cannot write the page of {experiment.name} into {executed.parent} ({error})") from error
    finally:
        executed.unlink(missing_ok=True)


def show_progress() -> None:
    """Let what a notebook prints, a line for each epoch, through to standard error as it comes."""
    log = logging.getLogger("papermill")
    if not log.handlers:
        log.addHandler(logging.StreamHandler(sys.stderr))
        log.setLevel(logging.INFO)
        log.propagate = False
        log.addFilter(lambda record: record.funcName in ("process_message", "log_output_message"))


def tidy(path: Path, experiment: Experiment) -> None:
    """Take paths of this machine out of an executed notebook, and say what it is."""
    notebook = nbformat.read(path, 4)
    notebook.metadata["title"] = f"{experiment.title} ({experiment.parameters['dataset']})"
    for key in ("input_path", "output_path"):
        notebook.metadata.get("papermill", {}).pop(key, None)
    nbformat.write(notebook, path)


def render(path: Path, title: str) -> str:
    """A notebook as one self-contained HTML page: no request leaves it, code folded away."""
    exporter = HTMLExporter(
        template_name="template",
        extra_template_basedirs=[str(Path(__file__).parent)],
        mathjax_url="",
        require_js_url="",
    )
    exporter.register_preprocessor(TagRemovePreprocessor(remove_cell_tags=["skip-html"]), enabled=True)
    page, _ = exporter.from_filename(str(path), resources={"metadata": {"name": title}})
    return page
