"""Runs the fenced blocks of a page as a reader would.

Fenced blocks of a page run in order, in a folder that holds `runs/quickstart` (a tiny codec), `recordings/`
(clips of speech) and nothing else:

- `bash`: run by `bash -e`. `codecvq train` gets the overrides `SMALLER`, so that it takes seconds.
- `python`: run in a separate process.
- `python`, `yaml`, `toml` and `json` that begin with a comment `# path/file.ext`: written to that file.
- other `yaml`, `toml`, `json`: parsed, not run. `text`: output, not run.

A line `# include: PATH` in a block is replaced by that file of the repository.

Comments in the line before a block change this:

- `<!-- not run: REASON -->`: the block is not run, for one of the `REASONS`.
- `<!-- train: key=value key=value -->`: these overrides replace `SMALLER` for the rest of the page.
- `<!-- fails -->`: the block exits with an error that the page explains.
- `<!-- as written -->`: the block shows a file that a command has written.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from codecvq.data.corpus import open_corpus
from recipes import write_recipe
from scripts.docs.generated import included

ROOT = Path(__file__).resolve().parents[1]
REASONS = {
    "needs a GPU",
    "needs several GPUs",
    "needs several machines",
    "needs the network",
    "needs an account",
    "plays sound",
    "takes hours",
    "CI runs it itself",
    "a sketch",
}
SMALLER = (  # the full networks of a recipe take minutes
    "training.steps=3 training.threads=1 training.batch_size=2 training.validation_clips=2 "
    "network.encoder_width=16 network.decoder_width=16 network.encoder_blocks=1 network.decoder_blocks=1 "
    "losses.mel.windows=[512] losses.mel.bands=[40]"
)
FENCE = re.compile(
    r"((?:^ *<!-- [^>]+ -->\n+)*)^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
COMMENT = re.compile(r"<!-- (.+?) -->")
FILE = re.compile(r"(?:#|//) (\S+\.\w+)\n")
WRITTEN = {"python", "yaml", "toml", "json"}


@dataclass(frozen=True)
class Block:
    """A fenced block and the comments before it."""

    language: str
    text: str
    comments: tuple[str, ...]

    @property
    def reason(self) -> str | None:
        """The reason why the block is not run, or None."""
        return next((c.removeprefix("not run: ") for c in self.comments if c.startswith("not run: ")), None)

    @property
    def runs(self) -> bool:
        return self.language in {"bash", "python"} and self.reason is None


def blocks(page: Path) -> list[Block]:
    found = []
    for match in FENCE.finditer(included(page.read_text(encoding="utf-8"))):
        indent = match["indent"]
        text = re.sub(rf"^{indent}", "", match["text"], flags=re.MULTILINE) if indent else match["text"]
        found.append(Block(match["language"], text, tuple(COMMENT.findall(match[1]))))
    return found


# A wrapper of codecvq that appends the overrides of $TRAIN to `codecvq train`.
CODECVQ = """#!/bin/sh
if [ "$1" = train ] && [ -n "$TRAIN" ]; then
  case "$*" in *--help*) ;; *) eval "set -- \\"\\$@\\" $TRAIN" ;; esac
fi
exec "{python}" -m codecvq "$@"
"""


def environment(folder: Path) -> dict[str, str]:
    """Environment for commands: the programs of this Python, and offline installs into `folder`/site."""
    programs = folder / "bin"
    programs.mkdir()
    scripts = {"codecvq": CODECVQ.format(python=sys.executable)}
    scripts |= {
        name: f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n'
        for name, module in {
            "pip": "pip",
            "pytest": "pytest",
            "accelerate": "accelerate.commands.launch",
        }.items()
    }
    scripts |= dict.fromkeys(("python", "python3"), f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    for name, text in scripts.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    variables = {
        "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(path) for path in (folder / "site", ROOT, ROOT / "plugins")),
        "PIP_TARGET": str(folder / "site"),
        "PIP_NO_DEPS": "1",
        "PIP_QUIET": "1",
        "OMP_NUM_THREADS": "1",
        "PYTEST_ADDOPTS": "-q -p no:cacheprovider",
        "TERM": "dumb",
    }
    if importlib.util.find_spec("hatchling"):
        # pip reads this variable as "build isolation". A false value disables it.
        variables |= {"PIP_NO_BUILD_ISOLATION": "0", "PIP_NO_INDEX": "1"}
    return os.environ | variables


def make_user_folder(folder: Path) -> Path:
    """Create `folder` with a trained codec and some recordings. Each page gets a copy."""
    folder.mkdir()
    recipe = write_recipe(folder.parent / "tiny.yaml", training={"steps": 3})
    command = [sys.executable, "-m", "codecvq", "train", str(recipe), "--run", "runs/quickstart"]
    paths = os.pathsep.join(str(path) for path in (ROOT, ROOT / "plugins"))
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": paths}, check=True)
    (folder / "recordings").mkdir()
    for clip in open_corpus("prompts").split("test").clips[:4]:
        shutil.copy(clip.path, folder / "recordings")
    return folder


def run_page(page: Path, user: Path, scratch: Path) -> None:
    """Run the blocks of a page in order, in a copy of the folder `user`."""
    work = scratch / "work"
    shutil.copytree(user, work)
    variables = environment(scratch) | {"TRAIN": quoted(SMALLER)}
    for block in blocks(page):
        for comment in block.comments:
            if comment.startswith("train: "):
                variables["TRAIN"] = quoted(comment.removeprefix("train: "))
        if block.reason is not None:
            continue
        if not written(block, work) and block.runs:
            run(block, work, variables)


def quoted(overrides: str) -> str:
    return " ".join(f"'{override}'" for override in overrides.split())


def written(block: Block, work: Path) -> bool:
    """Write a block that begins with a file name to that file. Returns whether it does."""
    named = FILE.match(block.text) if block.language in WRITTEN else None
    if named is None:
        return False
    path, content = work / named[1], block.text[named.end() :]
    if "as written" in block.comments:
        assert path.read_text(encoding="utf-8") == content, f"{named[1]} differs from the block of the page"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return True


def run(block: Block, work: Path, variables: dict[str, str]) -> None:
    program = ["bash", "-e", "-c"] if block.language == "bash" else [sys.executable, "-c"]
    done = subprocess.run(
        [*program, block.text],
        cwd=work,
        env=variables,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    good = (done.returncode != 0) == ("fails" in block.comments)
    assert good, f"{block.text}\nexit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
