"""More processes for a run: started by it (`launch`), and what each of them then does (`main`)."""

import ctypes
import json
import os
import signal
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

import torch

from tinyclf.recipe import train_loader, val_loader
from tinyclf.distributed import this_process
from tinyclf.errors import TinyclfError
from tinyclf.resnet import network
from tinyclf.cache import load_data
from tinyclf.paths import PROJECT
from tinyclf.settings import Settings
from tinyclf.loop import fit

ERROR = "tinyclf: "  # what the line of a TinyclfError starts with


def launch(path: Path, about: dict[str, Any], processes: int, lock: int) -> None:
    """Train the run that has its checkpoint at `path` to its end in `processes` processes, showing what they print.

    about: the run as `Run` describes it; lock: descriptor of the lock that is to be held as long as their launcher
    lives. Raises TinyclfError for whatever stops one of them.
    """
    described = json.dumps({key: value for key, value in about.items() if key != "history"})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command += ["-m", "tinyclf.worker", str(path), described]
    threads = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // processes)), "PYTHONPATH": python_path()}
    errors, last = [], deque[str](maxlen=200)
    with subprocess.Popen(
        command,
        env=os.environ | threads,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        pass_fds=(lock,),
        preexec_fn=die_with_parent,
    ) as launched:
        try:
            assert launched.stdout is not None
            for line in launched.stdout:
                last.append(line.rstrip())
                if line.startswith(ERROR):
                    errors.append(line.removeprefix(ERROR).rstrip())
                if line.startswith(("epoch ", "continuing ", "the checkpoint ")):
                    print(line, end="", flush=True)
        except BaseException:  # interrupted, most likely: none of the others may outlive the lock
            launched.terminate()
            launched.wait()
            raise
    if launched.returncode:
        start = next((place for place, line in enumerate(last) if "Traceback" in line), len(last) - 20)
        said = "\n".join(list(last)[max(0, start) :][:40])
        raise TinyclfError(errors[0] if errors else f"one of the processes ended with an error:\n{said}")


def python_path() -> str:
    """Where the other processes find this package, installed or not."""
    return os.pathsep.join(filter(None, [str(PROJECT or ""), os.environ.get("PYTHONPATH")]))


def die_with_parent() -> None:
    """Have this process killed when the one that started it ends, even by kill -9 (Linux: prctl, PR_SET_PDEATHSIG)."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def main(path: Path, about: dict[str, Any]) -> None:
    """One of the processes: read the run from its checkpoint and train it to its end."""
    die_with_parent()
    process, settings = this_process(), Settings(**about["settings"])
    data = load_data(settings.dataset, settings.hold_out)
    if data.fingerprint != about["data"]["sha256"]:
        raise TinyclfError(f"{data.name} is not the data of this run, which has the sha256 {about['data']['sha256']}")
    model = network(settings, len(data.classes))  # its weights are the checkpoint's
    train, val = train_loader(data, settings, process), val_loader(data, settings, process)
    fit(model, train, val, settings, save_to=path, about=about)
    process.destroy_process_group()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except TinyclfError as error:
        print(f"{ERROR}{error}", flush=True)
        sys.exit(1)
