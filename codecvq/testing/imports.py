"""The cost of importing a plugin. `codecvq plugins list` imports every plugin and must stay fast."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

from codecvq.testing.check import expect

TIMEOUT_S = 60


def imports_no_torch(module: str) -> None:
    """Importing the plugin's module imports neither torch, librosa nor matplotlib; factories are strings."""
    loaded = _heavy_modules(module)
    expect(
        loaded == "",
        f"importing {module} imported {loaded}. Name the factory by string: 'package.module:Class'.",
    )


@functools.cache
def _heavy_modules(module: str) -> str:
    """The heavy packages that a new process loads when it imports `module`; "" if none."""
    program = (
        "import sys; sys.path = [path for path in sys.path if path]; "  # without the working folder
        f"import {module}; print(*(m for m in ('torch', 'librosa', 'matplotlib') if m in sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        env=environment,
        check=False,
    )
    expect(done.returncode == 0, f"importing {module} in a new process failed: {done.stderr.strip()[-500:]}")
    return done.stdout.strip()
