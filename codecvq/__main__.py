"""Entry point of `python -m codecvq` and `accelerate launch -m codecvq`."""

import sys
from pathlib import Path


def remove_working_folder() -> None:
    """Remove the working folder from `sys.path`. `python -m` puts it first there.

    Files and distributions in it are untrusted. The entry stays if codecvq itself is imported from the
    folder.
    """
    first = Path(sys.path[0]) if sys.path else None
    if first == Path.cwd() and first != Path(__file__).resolve().parents[1]:
        del sys.path[0]


if __name__ == "__main__":
    remove_working_folder()
    from codecvq.cli.app import main

    main()
