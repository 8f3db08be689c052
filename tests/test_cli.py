"""The command line: what it lists, how it answers wrong usage, and that it answers at once."""

import io
import os
import resource
import subprocess
import sys

import pytest
import torch
import typer
from records import leave
from typer.testing import CliRunner

import tinyclf
from tinyclf import cli
from tinyclf.data.registry import DATASETS, WHOLE_DATASETS
from tinyclf.experiments.settings import Settings
from tinyclf.training import device as devices
from tinyclf.utils import environment
from tinyclf.utils.errors import TinyclfError

COMMANDS = typer.main.get_command(cli.app).commands


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TINYCLF_REPORTS", str(tmp_path / "reports"))
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # given back after a test that changes it
    return tmp_path / "reports"


@pytest.fixture
def ran(monkeypatch):
    """The experiments that were run, which are not really."""
    experiments = []
    monkeypatch.setattr("tinyclf.report.notebook.run", experiments.append)
    monkeypatch.setattr("tinyclf.experiments.run.train", experiments.append)
    return experiments


def invoke(*arguments):
    return CliRunner().invoke(cli.app, list(arguments))


def write_record(run, epochs, last, best):
    leave(run, Settings(epochs=epochs), [best] * (epochs - 1) + [last])


def test_list_has_every_experiment_with_what_has_run(folder):
    write_record("baseline-scratch", 3, 0.25, 0.5)
    write_record("fast-scratch", 4, 0.2, 0.3)
    write_record("fast-scratch-seed-1", 4, 0.4, 0.5)
    write_record("fast-scratch.ema", 4, 0.4, 0.5)
    write_record("mine", 2, 0.75, 0.75)
    (folder / "mini" / "data").mkdir()
    (folder / "mini" / "data" / "index.html").touch()
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


@pytest.mark.parametrize("dataset", DATASETS)
def test_list_has_any_data_set_and_runs_none(dataset, folder):
    done = invoke("list", "--dataset", dataset)
    assert done.exit_code == 0 and done.output.startswith(f"{dataset}: ") and "not run yet" in done.output
    assert not folder.exists()


def test_the_version_is_that_of_the_package():
    done = invoke("--version")
    assert (done.exit_code, done.output) == (0, f"tinyclf {tinyclf.__version__}\n")


def test_every_argument_and_option_has_help_and_no_option_has_a_no():
    names = ["list", "run", "report", "train", "compare", "render", "predict", "export", "bench", "table"]
    assert set(names) == set(COMMANDS)
    for name, command in COMMANDS.items():
        assert command.help, name
        for parameter in command.params:
            assert parameter.help, f"{name} {parameter.name}"
            assert not parameter.secondary_opts, f"{name} {parameter.name}"


def test_the_choices_are_all_there_are_and_the_help_shows_them(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name in COMMANDS:
        names = WHOLE_DATASETS if name == "bench" else DATASETS
        assert "|".join(names) in invoke(name, "--help").output, name
    for name in ("run", "report", "train", "predict"):
        assert "auto|cpu|cuda" in invoke(name, "--help").output
    assert "NAME..." not in invoke("report", "--help").output


def test_epochs_is_short_for_the_parameter(ran):
    assert invoke("run", "baseline-scratch", "--epochs", "2").exit_code == 0
    assert invoke("train", "baseline-scratch", "-p", "epochs=2").exit_code == 0
    assert ran[0].parameters["epochs"] == ran[2].parameters["epochs"] == 2
    ran.clear()
    assert invoke("report", "--epochs", "2").exit_code == 0
    assert {experiment.parameters.get("epochs", 2) for experiment in ran} == {2}
    assert "fast-scratch" not in [experiment.name for experiment in ran]  # plans its epochs


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "baseline-scrath"], "did you mean baseline-scratch? Expected one of data, "),
        (["train", "baseline-scratch", "-p", "epoch=3"], "did you mean epochs?"),
        (["train", "baseline-scratch", "-p", "model=resnet35"], "did you mean resnet50 or "),
        (["train", "baseline-scratch", "-p", "weights=no.pth"], "no file "),
        (["train", "baseline-scratch", "--epochs", "3", "-p", "epochs=4"], "--epochs 3 and -p epochs=4: give one"),
        (["train", "baseline-scratch", "--epochs", "0"], "Invalid value for '--epochs'"),
        (["train", "baseline-scratch", "--processes", "999"], "processes = 999: expected 1 to "),
        (["list", "--dataset", "imagenet"], "dataset = 'imagenet': did you mean "),
        (["train", "baseline-scratch", "--device", "gpu"], "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["compare", "nothing"], "nothing to compare: name two runs"),
        (["compare", "fast-scratch", "fast-scratch"], "nothing to compare"),
        (["compare", "baseline-scratch", "nothing"], "run on mini = 'nothing'"),
        (["render", "nothing"], "run on mini = 'nothing'"),
        (["predict", "--run", "baseline-scratch"], "nothing to predict"),
        (["export", "baseline-scratch", "--format", "onyx"], "--format = 'onyx': did you mean onnx?"),
    ],
)
def test_wrong_usage_ends_with_status_2_a_reason_and_nothing_run(arguments, said, folder, ran, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    if arguments[0] == "compare":
        runs = {"baseline-scratch": {}, "fast-scratch": {}}
        monkeypatch.setattr("tinyclf.report.notebook.read_records", lambda dataset: runs)
    done = invoke(*arguments)
    assert done.exit_code == 2 and said in done.output
    assert not ran and not folder.exists()


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


@pytest.mark.parametrize("where", ["tinyclf.experiments.run.train", "tinyclf.experiments.catalog.select"])
def test_an_interrupt_ends_with_status_130(where, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert invoke("train", "baseline-scratch").exit_code == 130


@pytest.mark.parametrize("arguments", [["run", "data"], ["train", "data"], ["report"], ["predict", "x", "--run", "y"]])
def test_a_gpu_is_refused_where_torch_sees_none(arguments, ran, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = invoke(*arguments, "--device", "cuda")
    assert done.exit_code == 2 and not ran
    assert "tinyclf: --device cuda: torch " in done.output and "computes on the CPU" in done.output


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


def test_tab_completes_experiments_and_runs(folder):
    write_record("mine", 2, 0.75, 0.75)
    for line, expected in [("run fast", "fast-scratch"), ("export mi", "mine"), ("predict --run mi", "mine")]:
        environment = {"_TINYCLF_COMPLETE": "complete_bash", "COMP_WORDS": f"tinyclf {line}"}
        environment["COMP_CWORD"] = str(len(line.split()))
        done = CliRunner(env=environment).invoke(cli.app, [], prog_name="tinyclf")
        assert expected in done.output.split()


def test_help_list_and_table_import_little_and_help_comes_at_once():
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
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-m", "tinyclf", "--help"], capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0 and "Usage: tinyclf" in done.stdout
    assert (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime) < 1.5


def imported(code, *names):
    """Those of some modules that code imports, and how OpenMP's threads wait then."""
    own = {key: value for key, value in os.environ.items() if key not in environment.WAITING}
    code = f"import sys, os\n{code}\nprint(*({set(names)} & sys.modules.keys()), os.environ.get('GOMP_SPINCOUNT'))"
    return subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True).stdout


def test_the_package_alone_imports_nothing_and_says_how_threads_wait_unless_the_user_does(monkeypatch):
    heavy = ("torch", "numpy", "pandas", "typer", "tinyclf.utils")
    assert imported("import tinyclf", *heavy) == "1500\n"
    for name, value in (("GOMP_SPINCOUNT", "7"), ("OMP_WAIT_POLICY", "active")):
        expected = f"{value}\n" if name == "GOMP_SPINCOUNT" else "None\n"
        assert imported(f"os.environ[{name!r}] = {value!r}\nimport tinyclf", *heavy) == expected


def test_a_terminal_of_ascii_gets_what_it_can_show(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(cli, "app", lambda **_: print("26.05\u00a0% \u2192 ä"))
    cli.main()
    terminal.flush()
    assert terminal.buffer.getvalue() == b"26.05?% ? ?\n"


def test_a_full_disk_behind_the_output_is_one_line(monkeypatch):
    def full(dataset):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tinyclf.report.runs.listing", full)
    with pytest.raises(SystemExit, match=r"^tinyclf: .*No space left on device$"):
        cli.app(["list"])
