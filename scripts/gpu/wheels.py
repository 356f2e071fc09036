"""The wheels that the GPU machine lacks: Python 3.12, x86-64, manylinux or pure Python.

`WHEELS` lists them with versions, `EXCLUDED` lists requirements that are not transferred, image.txt
lists the packages of its image. `fetch` downloads the files. `check` follows the requirements of codecvq and
of each wheel and raises WheelError for one that is in none of the three.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

IMAGE = Path(__file__).with_name("image.txt")
PYTHON = "3.12"
PLATFORMS = (
    "manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64",
    "manylinux1_x86_64",
)  # fmt: skip
#: Makes built wheels reproducible: file dates of 1980, and no paths of temporary folders in libraries.
REPEATABLE = {"SOURCE_DATE_EPOCH": "315532800", "CFLAGS": "-g0 -O3"}


class WheelError(Exception):
    """Wheels that cannot be fetched or do not meet the requirements."""


@dataclass(frozen=True)
class Wheel:
    """A package to transfer."""

    name: str
    version: str
    built: bool = False  # built from a source distribution, with a local Python 3.12


WHEELS = (
    Wheel("pydantic", "2.14.4"),
    Wheel("pydantic-core", "2.50.5"),  # pydantic requires exactly this version
    Wheel("annotated-types", "0.8.0"),
    Wheel("typing-inspection", "0.4.5"),
    Wheel("typing-extensions", "4.16.0"),  # the image's may be older than pydantic needs
    Wheel("soundfile", "0.14.0"),  # with libsndfile, which reads Opus
    Wheel("cffi", "2.1.1"),
    Wheel("pycparser", "3.12"),
    Wheel("soxr", "1.1.0"),
    Wheel("constriction", "0.5.0"),
    Wheel("pystoi", "0.4.1"),
    Wheel("encodec", "0.1.1", built=True),  # PyPI has no wheel
    Wheel("pesq", "0.0.4", built=True),  # PyPI has no wheel; validation by PESQ-WB
    Wheel("vector-quantize-pytorch", "1.32.0"),  # for benchmarks/quantizers.py, with its requirements:
    Wheel("einx", "0.4.3"),
    Wheel("frozendict", "2.5.1"),
    Wheel("loguru", "0.7.3"),
    Wheel("torch-einops-utils", "0.2.0"),
)
#: Requirements that are not transferred, and the reason.
EXCLUDED = {
    "librosa": "20 MB with its requirements; training and evaluation do not need it",
    "av": "35 MB; it reads formats that are not packed",
    "distillmos": "16 MB, and it needs librosa; naturalness is evaluated elsewhere",
    "xls-r-sqa": "as for distillmos",
}


def read_image(path: Path = IMAGE) -> frozenset[str]:
    """The packages that the image contains."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return frozenset(canonicalize_name(line) for line in lines if line and not line.startswith("#"))


def fetch(folder: Path, python: str, wheels: Iterable[Wheel] = WHEELS) -> None:
    """Fetch every missing wheel into `folder`, and remove wheels that are not listed.

    `python` is a Python 3.12 interpreter, which builds packages without a wheel on PyPI.
    """
    folder.mkdir(parents=True, exist_ok=True)
    present = {parse_wheel_filename(path.name)[:2]: path for path in folder.glob("*.whl")}
    for wheel in wheels:
        if present.pop((canonicalize_name(wheel.name), Version(wheel.version)), None) is None:
            _pip(python, wheel, folder)
    for stale in present.values():
        stale.unlink()


def _pip(python: str, wheel: Wheel, folder: Path) -> None:
    wanted = f"{wheel.name}=={wheel.version}"
    if wheel.built:
        command = [python, "-m", "pip", "wheel", "--no-cache-dir", "--wheel-dir", str(folder)]
    else:
        command = [sys.executable, "-m", "pip", "download", "--only-binary=:all:", "--dest", str(folder)]
        command += ["--python-version", PYTHON, "--implementation", "cp"]
        command += [part for platform in PLATFORMS for part in ("--platform", platform)]
    command += ["--quiet", "--no-deps", wanted]
    done = subprocess.run(command, env={**os.environ, **REPEATABLE}, capture_output=True, text=True)
    if done.returncode:
        raise WheelError(f"{wanted}: pip failed: {done.stderr.strip()[-500:]}")


def find_python() -> str:
    """A Python 3.12 interpreter, from pyenv or from the path. Raises WheelError if there is none."""
    # pyenv first: the python3.12 that it puts on the path fails unless that version is activated
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{PYTHON}*/bin/python"))
    python = next(map(str, pyenv), None) or shutil.which(f"python{PYTHON}")
    if python is None:
        raise WheelError(f"no Python {PYTHON} found. Install one, or pass it with --python.")
    return python


def requirements(pyproject: Path) -> list[str]:
    """The requirements of codecvq, without extras."""
    import tomllib

    with pyproject.open("rb") as file:
        return list(tomllib.load(file)["project"]["dependencies"])


def read_requirements(folder: Path) -> dict[str, list[str]]:
    """Return NAME==VERSION -> requirements of each wheel in a folder."""
    requirements = {}
    for path in sorted(folder.glob("*.whl")):
        name, version, *_ = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as wheel:
            inner = next(filter(re.compile(r"[^/]+\.dist-info/METADATA").fullmatch, wheel.namelist()))
            metadata = Parser().parsestr(wheel.read(inner).decode("utf-8"))
        requirements[f"{name}=={version}"] = metadata.get_all("Requires-Dist") or []
    return requirements


def check(
    needed: Iterable[str],
    wheels: Mapping[str, Iterable[str]],
    image: Collection[str],
    excluded: Collection[str] = frozenset(EXCLUDED),
) -> None:
    """Raise WheelError for a requirement of codecvq (`needed`) or of a wheel that is not met.

    `wheels` is the result of `read_requirements`. The versions in the image are unknown and are not checked.
    """
    versions = dict(wheel.split("==") for wheel in wheels)
    faults = []
    for dependent, lines in (("codecvq", needed), *wheels.items()):
        for requirement in map(Requirement, lines):
            name = canonicalize_name(requirement.name)
            if not _applies(requirement):
                continue
            if name in versions:
                if not requirement.specifier.contains(versions[name], prereleases=True):
                    faults.append(f"{dependent} needs {requirement}, but the wheel is {versions[name]}")
            elif name not in image and name not in excluded:
                faults.append(f"{dependent} needs {requirement}")
    if faults:
        raise WheelError(
            f"wheels are missing: {'; '.join(faults)}. Add them to WHEELS in {Path(__file__).name}, or to "
            "EXCLUDED with the reason."
        )


def _applies(requirement: Requirement) -> bool:
    """Whether a requirement applies to that machine; requirements of extras do not."""
    environment = {"python_version": PYTHON, "python_full_version": f"{PYTHON}.3", "extra": ""}
    environment |= {"sys_platform": "linux", "platform_machine": "x86_64", "platform_system": "Linux"}
    environment |= {"implementation_name": "cpython", "os_name": "posix"}
    return requirement.marker is None or requirement.marker.evaluate(environment)
