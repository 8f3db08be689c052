"""Several processes on one run, as torchrun starts them. The helper `launch` moves this: then delete the file."""

import logging
import os
import signal
import sys
import uuid
from collections.abc import Mapping, Sequence

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from tinyclf.utils.errors import TinyclfError


def run_processes(count: int, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Run this Python with `arguments` in `count` processes of this machine, as torchrun does, to their end.

    environment: what they get besides this one's. Raises TinyclfError where one of them fails, and says which.
    """
    before, on_term = dict(os.environ), signal.getsignal(signal.SIGTERM)
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # the message below says it
    config = LaunchConfig(
        *(1, 1, count),
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        local_addr="localhost",  # the name of this machine may lead nowhere
        signals_to_handle="SIGTERM",
    )
    try:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.update(environment)
        elastic_launch(config, sys.executable)(*arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = f"ended with status {failure.exitcode}: its message is above"
        if failure.exitcode < 0:
            how = f"was killed by {failure.signal_name()}, by the system where memory ran out; the same command goes on"
        raise TinyclfError(
            f"training in {count} processes failed: process {rank} (process id {failure.pid}) {how}"
        ) from None
    finally:
        signal.signal(signal.SIGTERM, on_term)
        os.environ.clear()
        os.environ.update(before)
