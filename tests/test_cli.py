"""The command line: what it lists, how it answers wrong usage, and that it answers at once."""

import io
import os
import subprocess
import sys

import pytest
import torch
import typer
from records import leave
from typer.testing import CliRunner

import tinyclf
from tinyclf import cli
from tinyclf.experiments.settings import Settings
from tinyclf.training import device as devices
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError
from tinyclf.utils.paths import NOTEBOOKS

NOTEBOOK = str(NOTEBOOKS / "1_baseline.ipynb")


@pytest.fixture
def ran(monkeypatch):
    """The experiments that were run, which are not really."""
    experiments = []
    monkeypatch.setattr("tinyclf.report.notebook.run", experiments.append)
    monkeypatch.setattr("tinyclf.experiments.run.train", experiments.append)
    return experiments


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def test_list_has_every_experiment_with_what_has_run(reports):
    leave("baseline-scratch", Settings(epochs=3), (0.5, 0.5, 0.25))
    leave("fast-scratch", Settings(epochs=2), (0.3, 0.2))
    leave("fast-scratch-seed-1", Settings(epochs=2), (0.5, 0.4))
    leave("fast-scratch.ema", Settings(epochs=2))
    leave("mine", Settings(epochs=2), (0.75, 0.75))
    (reports / "mini/data").mkdir()
    (reports / "mini/data/index.html").touch()
    done = invoke("list")
    assert done.exit_code == 0, done.output
    lines = {line.split("  ")[0]: line.replace("\u00a0", " ") for line in done.output.splitlines()}
    assert "3 of 8" in lines["baseline-scratch"] and "25.00%  50.00%  Step 1: " in lines["baseline-scratch"]
    assert "30.00%  40.00%" in lines["fast-scratch"] and "(mean of 2 seeds)" in lines["fast-scratch"]
    assert "not run yet" in lines["modern-scratch"] and "not run yet" in lines["summary"]
    assert "page made" in lines["data"]
    assert "2 of 2" in lines["mine"] and "75.00%" in lines["mine"]  # of no experiment
    folded = [line.split() for line in done.output.splitlines() if line.startswith("  ")]
    assert [words[1:] for words in folded] == [["ablations", "1", "run"], *[["ablations", "0", "run"]] * 2]
    assert "fast-scratch.ema" not in done.output


def test_the_version_is_that_of_the_package():
    done = invoke("--version")
    assert (done.exit_code, done.output) == (0, f"tinyclf {tinyclf.__version__}\n")


def test_every_argument_and_option_has_help():
    for name, command in typer.main.get_command(cli.app).commands.items():
        missing = [parameter.name for parameter in command.params if not parameter.help]
        assert command.help and not missing, (name, missing)


def test_epochs_is_short_for_the_parameter(ran):
    for arguments in ("run baseline-scratch --epochs 2", "train baseline-scratch -p epochs=2", "report --epochs 2"):
        assert invoke(*arguments.split()).exit_code == 0
    assert [each.parameters["epochs"] for each in ran if each.name == "baseline-scratch"] == [2, 2, 2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "baseline-scrath"], "did you mean baseline-scratch? Expected one of data, "),
        (["train", "baseline-scratch", "-p", "epoch=3"], "did you mean epochs?"),
        (["train", "baseline-scratch", "-p", "lr=0.1"], "did you mean learning_rate?"),
        (["train", "baseline-scratch", "-p", "optimizer=adamw"], "no setting chooses it; build it in a copy"),
        (["train", "baseline-scratch", "-p", "dataset=mini"], "parameter = 'dataset'"),
        (["run", "data", "-p", "epochs=2"], "parameter = 'epochs'"),
        (["run", "data", "--dataset", "tiny-imagenet-20"], "experiment = 'data'"),
        (["train", "baseline-scratch", "-p", "model=resnet35"], "did you mean resnet50 or "),
        (["train", "baseline-scratch", "-p", "weights=no.pth"], "no file "),
        (["train", "baseline-scratch", "--epochs", "3", "-p", "epochs=4"], "--epochs 3 and -p epochs=4: give one"),
        (["train", "baseline-scratch", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["train", "baseline-scratch", "--processes", "999"], "processes = 999: expected 1 to "),
        (["train", NOTEBOOK], "is run by `tinyclf run`, in one process"),
        (["run", NOTEBOOK, "--processes", "2"], "is run by `tinyclf run`, in one process"),
        (["run", "baseline-scratch", "--seeds"], "'--seeds' requires an argument"),
        (["list", "--dataset", "imagenet"], "dataset = 'imagenet': did you mean "),
        (["train", "baseline-scratch", "--device", "gpu"], "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["run", "data", "--device", "cuda"], "tinyclf: --device cuda: torch "),
        (["report", "--device", "cuda"], "computes on the CPU"),
        (["predict", "x", "--run", "y", "--device", "cuda"], "computes on the CPU"),
        (["compare", "nothing"], "nothing to compare: name two runs"),
        (["compare", "fast-scratch", "fast-scratch"], "nothing to compare"),
        (["compare", "baseline-scratch", "nothing"], "run on mini = 'nothing'"),
        (["render", "nothing"], "run on mini = 'nothing'"),
        (["predict", "--run", "baseline-scratch"], "nothing to predict"),
        (["export", "baseline-scratch", "--format", "onyx"], "--format = 'onyx': did you mean onnx?"),
    ],
)
def test_wrong_usage_ends_with_status_2_a_reason_and_nothing_run(arguments, said, reports, ran, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    runs = {"baseline-scratch": {}, "fast-scratch": {}}
    monkeypatch.setattr("tinyclf.report.notebook.read_records", lambda dataset: runs)
    done = invoke(*arguments)
    assert done.exit_code == 2 and said in done.output
    assert not ran and not reports.exists()


def test_a_failed_run_ends_with_status_1_and_the_others_still_run(ran, monkeypatch):
    def fail(first, *others):
        if first.name == "baseline-scratch":
            raise TinyclfError("the disk is full")
        ran.append(first.name)

    monkeypatch.setattr("tinyclf.experiments.run.train", fail)
    done = invoke("train", "baseline-scratch", "fast-scratch")
    assert done.exit_code == 1 and ran == ["fast-scratch"]
    assert "tinyclf: baseline-scratch: the disk is full\n" in done.output
    assert done.output.endswith("tinyclf: failed: baseline-scratch\n")
    ran.clear()  # one of several processes has one message, and does not go on alone
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    done = invoke("run", "baseline-scratch", "fast-scratch")
    assert (done.exit_code, done.output, ran) == (1, "tinyclf: the disk is full\n", [])


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("command", ["run", "train"])
def test_what_is_only_started_from_is_run_unless_it_has_finished(finished, command, ran, monkeypatch):
    monkeypatch.setattr("tinyclf.experiments.parent.is_finished", lambda name, dataset: finished)
    front = ["summary"] * (command == "run")  # made anew after what was run
    assert invoke(command, "finetuning").exit_code == 0
    assert [each.name for each in ran] == ["preprocessing"] * (not finished) + ["finetuning", *front]
    ran.clear()
    assert invoke(command, "preprocessing").exit_code == 0
    assert [each.name for each in ran] == ["preprocessing", *front]  # asked for by name, it is shown again


def test_seeds_run_one_after_another(ran):
    for arguments in ("--seeds 0 1 2 baseline-scratch", "--seeds 0 --seeds 1 baseline-scratch --seeds 2"):
        assert invoke("run", *arguments.split()).exit_code == 0
        assert [each.parameters.get("seed") for each in ran] == [0, 1, 2, None]  # the last one is the summary
        ran.clear()


@pytest.mark.parametrize(("device", "cpu"), [("auto", "unset"), ("cpu", "true"), ("cuda", "false"), ("mps", "false")])
def test_the_device_that_is_asked_for_is_used_whatever_the_environment_says(device, cpu, ran, monkeypatch):
    for name in ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE"):
        monkeypatch.setenv(name, "unset")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert "sees no such GPU" in invoke("run", "data", "--device", "mps").output and not ran
    monkeypatch.setattr(devices, "cuda_is_usable", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert invoke("run", "data", "--device", device).exit_code == 0 and ran
    assert os.environ["ACCELERATE_USE_CPU"] == cpu
    assert os.environ["ACCELERATE_TORCH_DEVICE"] == ("mps" if device == "mps" else "unset")


@pytest.mark.parametrize("command", ["run", "train"])
def test_several_processes_train_first_and_then_one_makes_the_pages(command, ran, monkeypatch):
    monkeypatch.setattr("tinyclf.experiments.launch.run_processes", lambda *given: ran.append(given))
    assert invoke(command, "baseline-scratch", "--processes", "2", "--device", "cpu", "--force").exit_code == 0
    count, device, (run,) = ran[0]
    assert (count, device, run.parameters["force"]) == (2, "cpu", True)
    assert not [page for page in ran[1:] if page.parameters.get("force")], "or it would be trained again"
    assert [page.name for page in ran[1:]] == (["baseline-scratch", "summary"] if command == "run" else [])


def test_tab_completes_experiments_and_runs():
    leave("mine", Settings(epochs=2))
    for line, expected in [("run fast", "fast-scratch"), ("export mi", "mine"), ("predict --run mi", "mine")]:
        environment = {"_TINYCLF_COMPLETE": "complete_bash", "COMP_WORDS": f"tinyclf {line}"}
        environment["COMP_CWORD"] = str(len(line.split()))
        done = CliRunner(env=environment).invoke(cli.app, [], prog_name="tinyclf")
        assert expected in done.output.split()


def test_help_list_and_table_import_little_and_so_come_at_once():
    code = """
import contextlib, sys
from tinyclf import cli
for arguments in (["--help"], ["list"], ["table", "--dataset", "tiny-imagenet"]):
    with contextlib.suppress(SystemExit):
        cli.app(arguments)
heavy = {"torch", "torchvision", "papermill", "numpy", "pandas", "matplotlib", "accelerate", "IPython", "PIL"}
heavy &= sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(words in done.stdout for words in ("Usage: ", "Records are in", "### From scratch"))


def test_the_package_alone_imports_nothing_and_says_how_threads_wait_unless_the_user_does():
    code = "import sys, os, tinyclf; print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)"
    own = {key: value for key, value in os.environ.items() if key not in environment.WAITING}
    for given, expected in (({}, "1500"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")):
        done = subprocess.run([sys.executable, "-c", code], env=own | given, capture_output=True, text=True)
        assert done.stdout == f"{expected} False\n"


def test_a_terminal_of_ascii_gets_what_it_can_show(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(cli, "app", lambda **_: print("26.05\u00a0% \u2192 ä"))
    cli.main()
    terminal.flush()
    assert terminal.buffer.getvalue() == b"26.05?% ? ?\n"
