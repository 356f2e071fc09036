"""Runs fuzzer cases in child processes with limits on memory and time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

MEMORY_BYTES = 2 << 30  # for the cases, in addition to the memory of the process at the start
SECONDS = 5.0  # processor time of one case


def run_limited(
    case: Callable[[int], None],
    cases: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> list[str]:
    """Run `case(seed)` for the seeds 0 … `cases` - 1.

    Returns one line for each case that raised, exceeded a limit, or killed its process. A case passes if it
    returns. It must catch documented errors itself.

    The child process is forked, so imports are not repeated. After a crash or a timeout, a new child process
    continues with the next seed.
    """
    context = multiprocessing.get_context("fork")
    problems: list[str] = []
    done = 0
    while done < cases:
        ours, theirs = context.Pipe(duplex=False)
        child = context.Process(target=_run, args=(case, done, cases, theirs, memory_bytes, seconds))
        child.start()
        theirs.close()
        at = done
        try:
            while done < cases:
                at, problem = ours.recv()
                problems += [problem] if problem else []
                done = at + 1
        except EOFError:
            child.join()
            if done < cases:
                problems.append(f"seed {done}: the process ended with exit code {child.exitcode}")
                done += 1
        child.join()
    return problems


def _run(
    case: Callable[[int], None],
    first: int,
    cases: int,
    report: Connection,
    memory_bytes: int,
    seconds: float,
) -> None:
    most = _address_space() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for seed in range(first, cases):
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime + seconds) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.getrlimit(resource.RLIMIT_CPU)[1]))
        problem = ""
        try:
            case(seed)
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            problem = (
                f"seed {seed}: {type(error).__name__}: {str(error)[:200]} ({where.filename}:{where.lineno})"
            )
        report.send((seed, problem))
    os._exit(0)


def _address_space() -> int:
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
