"""Where the package does not run, it says so at once, and where to run it instead."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["tinyclf", "tinyclf.cli"])
def test_on_windows_the_import_names_wsl2(module):
    code = f"import sys; sys.platform = 'win32'; import {module}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: tinyclf runs on Linux and macOS. On Windows, use it in WSL2" in done.stderr.splitlines()[-1]
