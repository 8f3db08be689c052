"""Decodes the images of a data set into one file, in several processes where that is quicker."""

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from tinyclf.data.registry import SIDE
from tinyclf.data.tiny_imagenet import TinyImageNet
from tinyclf.utils.errors import TinyclfError

IMAGE_BYTES = SIDE * SIDE * 3
BATCH = 500  # images decoded and written at a time
ENOUGH = 5000  # images for which further processes are worth their start


def decode_into(path: Path, start: int, split: TinyImageNet) -> Iterator[tuple[bytes, list[str]]]:
    """Writes the pixels of `split` into the file `path` from byte `start` on; yields those of a batch, and its faults.

    Writing front to back keeps little in memory, where filling a memory map would keep all of it, to be written later.
    """
    count = -(-len(split) // BATCH)
    processes = _processes() if len(split) >= ENOUGH else 1
    with path.open("r+b") as file, _decoders(path, start, split, processes) as decoders:
        for batch in range(count):
            faults = next(decoders[batch % processes])
            rows = min(BATCH, len(split) - batch * BATCH)
            yield os.pread(file.fileno(), rows * IMAGE_BYTES, start + batch * BATCH * IMAGE_BYTES), faults
        os.fsync(file.fileno())  # so that not even a power cut leaves a renamed cache with holes


def _processes() -> int:
    """Linux can start a process that has everything already; one that has parents like it may start no other."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return min(len(os.sched_getaffinity(0)), 16)


@contextmanager
def _decoders(path: Path, start: int, split: TinyImageNet, count: int) -> Iterator[list[Iterator[list[str]]]]:
    """For each process the faults of its batches: of every `count`-th one."""
    if count == 1:
        yield [_decode_batches(path, start, split, 0, 1)]
        return
    fork, processes, readers = multiprocessing.get_context("fork"), [], []
    try:
        for number in range(count):
            reader, writer = fork.Pipe(duplex=False)
            readers.append(reader)
            process = fork.Process(target=_decode_and_send, args=(writer, path, start, split, number, count, readers))
            processes.append(process)
            process.start()
            writer.close()
        yield [_receive(reader) for reader in readers]
    finally:
        for process in processes:
            process.kill()
            process.join()
        for reader in readers:
            reader.close()


def _receive(reader: Connection) -> Iterator[list[str]]:
    while True:
        try:
            faults = reader.recv()
        except EOFError as error:
            raise TinyclfError("a process that decoded images was ended: is there enough memory? Run again") from error
        if isinstance(faults, OSError):
            raise faults
        yield faults


def _decode_and_send(
    writer: Connection,
    path: Path,
    start: int,
    split: TinyImageNet,
    number: int,
    count: int,
    readers: list[Connection],
) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that waits for this one ends it
    for reader in readers:
        reader.close()  # so that writing fails, and this process ends, when nobody reads any more
    try:
        for faults in _decode_batches(path, start, split, number, count):
            writer.send(faults)
    except BrokenPipeError:
        pass
    except OSError as error:
        writer.send(error)


def _decode_batches(path: Path, start: int, split: TinyImageNet, first: int, step: int) -> Iterator[list[str]]:
    with path.open("r+b") as file:
        for begin in range(first * BATCH, len(split), step * BATCH):
            images = np.zeros((min(BATCH, len(split) - begin), SIDE, SIDE, 3), np.uint8)
            faults = []
            for row, image in enumerate(images, begin):
                try:
                    image[:] = np.asarray(split.load(row))
                except TinyclfError as error:
                    faults.append(str(error))
            _write(file.fileno(), images.reshape(-1).data, start + begin * IMAGE_BYTES)
            yield faults


def _write(file: int, data: memoryview, position: int) -> None:
    """All of it: a disk that is nearly full takes a part, and says why only when asked again."""
    while data:
        written = os.pwrite(file, data, position)
        data, position = data[written:], position + written
