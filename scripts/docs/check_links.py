"""Check every link of a built site: `python scripts/docs/check_links.py site`.

The site is served on a free local port. linkchecker cannot read the files themselves when root runs it.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Quiet(SimpleHTTPRequestHandler):
    """A handler without a log line for each request."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


def main(site: str) -> int:
    """Return the exit code of linkchecker: 0 if every link works."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        program = Path(sys.executable).parent / "linkchecker"
        address = f"http://127.0.0.1:{server.server_port}/index.html"
        done = subprocess.run([program, "--no-status", "--no-robots", "--threads=4", address], check=False)
        server.shutdown()
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
