"""The wheel contains library, plugins, recipes and bundled corpus, and works after installation."""

from __future__ import annotations

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--wheel-dir",
        str(folder),
        str(ROOT),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_contains_all_packages_and_data(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    plugins = {path.name for path in (ROOT / "plugins").glob("codecvq_*")}
    assert {"codecvq", *plugins} == {top for top in tops if not top.endswith(".dist-info")}
    for name in (
        "codecvq/evaluation/report.css",
        "codecvq/py.typed",
        "codecvq_free_speech/prompts/LICENCE.md",
        "codecvq_recipes/recipes/quickstart.yaml",
    ):
        assert name in names
    assert sum(name.endswith(".flac") for name in names) > 100
    assert wheel.stat().st_size < 32e6


@pytest.mark.slow
def test_an_installed_wheel_provides_plugins_recipes_and_corpus(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    zipfile.ZipFile(wheel).extractall(site)
    here = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    # The dependencies come from this environment, last on the path. Its editable codecvq is not importable,
    # because it needs a .pth file.
    script = (
        f"import sys; sys.path.append({str(here)!r})\n"
        "import codecvq.plugins as p, codecvq.data.corpus as c\n"
        f"assert p.__file__.startswith({str(site)!r}), p.__file__\n"
        "print(len(p.registry().all('quantizers')), end=' ')\n"
        "print(p.registry().find('recipes', 'quickstart').path().is_file())\n"
        "print(len(c.open_corpus('prompts').split('test')))\n"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    count, recipe_exists, clips = done.stdout.split()
    assert int(count) >= 7
    assert (recipe_exists, clips) == ("True", "24")
