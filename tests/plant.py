"""Plant a fault in a copy of this checkout, and tell whether the tests catch it.

    python tests/plant.py tinyclf/data/loader.py "shuffle=True" "shuffle=False" tests/test_loader.py

Replaces the only place of the first text in a file by the second one, and runs the tests named after them. The status
is 0 where a test fails, as it should, and 1 where all pass. A fault that is no Python is none.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]


def plant(file: str, old: str, new: str, tests: list[str]) -> bool:
    """Whether `tests` catch the fault. Raises SystemExit where `old` is not in the file exactly once."""
    with tempfile.TemporaryDirectory(prefix="tinyclf-fault-") as copy:
        for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=PROJECT, text=True).split("\0")[:-1]:
            target = Path(copy) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, target)
        path = Path(copy) / file
        source = path.read_text("utf-8")
        if source.count(old) != 1:
            raise SystemExit(f"{file}: {old!r} stands there {source.count(old)} times, expected once")
        changed = source.replace(old, new)
        if path.suffix == ".py":
            compile(changed, file, "exec")
        path.write_text(changed, "utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
        environment = os.environ | {"PYTHONPATH": copy}
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stdout + done.stderr)
        failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
        print("caught" if failed else "SURVIVED", file, f"{old!r} -> {new!r}", *failed[:1], sep=" | ")
        return bool(failed)


if __name__ == "__main__":
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    raise SystemExit(not plant(*sys.argv[1:4], sys.argv[4:]))
