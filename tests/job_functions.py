"""What the jobs of tests do, in processes of their own: this imports next to nothing."""

import os
import signal
import sys
import time


def do(experiment):
    """Fail, be killed or sleep, as its parameters say; else note when a job began and ended, and what it was given.

    `until` another has left its note, it waits.
    """
    told, note, begun = experiment.parameters, experiment.parameters["folder"] / experiment.name, time.monotonic()
    given = {key: os.environ.get(key) for key in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
    if "error" in told:
        print("the last words")
        sys.exit(told["error"])
    if "kill" in told:
        kill()
    if "sleep" in told:
        note.write_text(str(os.getpid()))
        time.sleep(100)
    while "until" in told and not (told["folder"] / told["until"]).exists():
        time.sleep(0.05)
    note.write_text(repr((begun, time.monotonic(), given)))


def kill():
    os.kill(os.getpid(), signal.SIGKILL)
