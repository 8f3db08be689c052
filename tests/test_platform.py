"""Where the package does not run, it says so at once, and where to run it instead."""

import subprocess
import sys


def test_on_windows_the_import_names_wsl2():
    code = "import sys; sys.platform = 'win32'; import tinyclf.cli"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: tinyclf runs on Linux and macOS. On Windows, use it in WSL2" in done.stderr.splitlines()[-1]
