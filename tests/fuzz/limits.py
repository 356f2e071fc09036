"""Runs a fuzzer's cases in child processes that have limits on memory and time."""

from __future__ import annotations

import multiprocessing
import os
import resource
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection

MEMORY_BYTES = 2 << 30  # that cases may take beyond what the process has when they begin
SECONDS = 5.0  # of processor time that one case may take


def run_limited(
    case: Callable[[int], None],
    cases: int,
    *,
    memory_bytes: int = MEMORY_BYTES,
    seconds: float = SECONDS,
) -> list[str]:
    """What went wrong: a line for each seed 0 … `cases` - 1 whose `case(seed)` raised, ran out of a limit, or
    killed its process. A case passes by returning; documented errors are its own to catch.

    The child process is forked, so what is imported and loaded already costs no time. After a crash, or
    out of time, the next child goes on with the next seed.
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
