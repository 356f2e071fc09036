"""Runs notebooks in temporary folders and stores them with their text and plots, without audio.

    python scripts/notebooks.py [examples/NAME.ipynb ...]        # all notebooks of examples/ by default

`run` is also what the tests use. Needs nbclient, nbformat and ipykernel (in the extra `dev`).
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def run(path: Path, timeout_s: int = 1800) -> NotebookNode:
    """Run a notebook on one thread in an empty folder, and return it with all outputs.

    Raises CellExecutionError for an error in a cell. The kernel is this Python.
    """
    notebook = nbformat.read(path, as_version=4)
    search = os.pathsep.join([str(ROOT), str(ROOT / "plugins"), os.environ.get("PYTHONPATH", "")])
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.dict(os.environ, {"PYTHONPATH": search.rstrip(os.pathsep), "OMP_NUM_THREADS": "1"}),
    ):
        client = NotebookClient(
            notebook,
            timeout=timeout_s,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        )
        client.execute()
    return notebook


def stripped(notebook: NotebookNode) -> NotebookNode:
    """Remove audio outputs and the metadata of this machine, in place."""
    for cell in notebook.cells:
        cell.metadata = NotebookNode()
        if cell.cell_type == "code":
            cell.outputs = [with_palette(output) for output in cell.outputs if not is_audio(output)]
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def is_audio(output: NotebookNode) -> bool:
    """Whether an output of a cell is an audio player."""
    data = output.get("data", {})
    return "<audio" in data.get("text/html", "") or any(kind.startswith("audio/") for kind in data)


def with_palette(output: NotebookNode) -> NotebookNode:
    """Reduce a plot to 128 colors, which makes its PNG three times smaller, in place."""
    if "image/png" in output.get("data", {}):
        image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
        file = io.BytesIO()
        image.quantize(128, dither=Image.Dither.NONE).save(file, "png", optimize=True)
        output.data["image/png"] = base64.b64encode(file.getvalue()).decode()
    return output


def texts(cell: NotebookNode) -> str:
    """All text that a cell has printed."""
    return "".join(output.get("text", "") for output in cell.get("outputs", ()))


def main() -> None:
    """Run the notebooks and write them back."""
    for path in map(Path, sys.argv[1:] or sorted(EXAMPLES.glob("*.ipynb"))):
        nbformat.write(stripped(run(path)), path)
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
