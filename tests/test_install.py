"""Installation: the base needs no compiler, and CI installs locked versions with hashes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomllib", reason="Python 3.10 reads no TOML")

ROOT = Path(__file__).resolve().parents[1]
LOCKS = sorted(path for path in (ROOT / ".ci").glob("python3.*.txt") if not path.stem.endswith("-build"))
FROM_SOURCE = {"encodec"}  # in the base install; pure Python
FROM_SOURCE_FOR_EVAL = {"libsvm-official", "pesq", "typing", "webrtcvad"}  # additionally, with the extra


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_version_is_the_same_everywhere() -> None:
    import codecvq

    changelog = re.search(
        r"^## \[(\d\S+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    citation = re.search(
        r"^version: (\S+)$", (ROOT / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert {project()["project"]["version"], changelog[1], citation[1]} == {codecvq.__version__}


def pins(lock: Path) -> dict[str, tuple[str, int]]:
    """Versions and numbers of hashes in a lock file, by package."""
    entries = re.findall(
        r"^([\w.-]+)==([^ \\]+).*((?:\n    --hash=sha256:[0-9a-f]{64}.*)*)", lock.read_text(), re.M
    )
    return {
        canonicalize_name(name): (version, hashes.count("--hash=sha256:"))
        for name, version, hashes in entries
    }


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_the_lock_has_an_allowed_version_of_every_dependency(lock: Path) -> None:
    locked = pins(lock)
    extras = project()["project"]["optional-dependencies"]
    for text in [*project()["project"]["dependencies"], *extras["dev"], *extras["eval"], *extras["docs"]]:
        requirement = Requirement(text)
        version, _ = locked[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(Version(version)), f"{text}: run .ci/lock"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_every_line_of_a_lock_has_a_hash(lock: Path) -> None:
    for file in (lock, lock.with_name(f"{lock.stem}-build.txt")):
        assert all(hashes for _, hashes in pins(file).values())
    build, whole = pins(lock.with_name(f"{lock.stem}-build.txt")), pins(lock)
    assert {name: whole[name] for name in build} == build


def test_ci_installs_from_the_lock_and_users_do_not() -> None:
    assert ".ci/install" in (ROOT / ".ci" / "run").read_text()
    assert "--require-hashes" in (ROOT / ".ci" / "install").read_text()
    assert "require-hashes" not in (ROOT / "Makefile").read_text()


def test_the_install_page_lists_packages_built_from_source() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([\w-]+)` \| (?:the base|`eval`)", page, re.MULTILINE))
    assert listed == FROM_SOURCE | FROM_SOURCE_FOR_EVAL


needs_index = pytest.mark.skipif("CI" not in os.environ, reason="asks a package index; CI=true runs it")


def resolved(*what: str) -> dict[str, str]:
    """Files that pip would install into an empty environment, by package."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--report", "-", *what],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = {
        canonicalize_name(item["metadata"]["name"]): item["download_info"]["url"]
        for item in json.loads(done.stdout)["install"]
    }
    del found["codecvq"]
    return found


@needs_index
@pytest.mark.slow
def test_the_base_install_needs_no_compiler(tmp_path: Path) -> None:
    """All packages are wheels except encodec, which is built without a compiler."""
    only = ["--only-binary", ":all:", "--no-binary", "encodec,codecvq"]
    files = resolved(*only, ".")
    assert {name for name, url in files.items() if not url.endswith(".whl")} == FROM_SOURCE
    none = {**os.environ, "CC": "false", "CXX": "false"}
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-cache-dir", "--no-binary"]
    subprocess.run([*command, "encodec", "encodec<0.2", "-w", tmp_path], env=none, check=True, cwd=tmp_path)
    assert [path.name.endswith("-py3-none-any.whl") for path in tmp_path.glob("*.whl")] == [True]


@needs_index
@pytest.mark.slow
def test_the_extra_builds_the_listed_packages_from_source() -> None:
    files = resolved(".[eval]")
    built = {name for name, url in files.items() if not url.endswith(".whl")}
    assert built == FROM_SOURCE | FROM_SOURCE_FOR_EVAL
