"""Mutants of the CUDA kernels, by file, judged on the emulator.

A mutant is judged in a process of its own, forked when PyTorch's results are known: it may crash or never end. What the
cases of the operations that use the file do not show in float32, whatever the order of threads, is asked of the 16-bit
types, then of AddressSanitizer and ThreadSanitizer, and at last of the kernels' tests.
"""

import contextlib
import functools
import json
import multiprocessing
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tinygrad_llm import kernels
from tinygrad_llm.devices import emulated
from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda.emulator import KernelError, order, sanitize
from tinygrad_llm.kernels.cuda.emulator.build import cache_folder, complaints
from tinygrad_llm.kernels.cuda.emulator.library import ORDERS
from tinygrad_llm.kernels.cuda.launch import FOLDER, QUOTED_INCLUDE, instead, options, source
from tinygrad_llm.mutation.changes import Change
from tinygrad_llm.mutation.cuda import VARIABLE, Edit, change, edits, schema
from tinygrad_llm.verification import Run, contiguous, judge, operations, oracles, rounded, run, run_oracle, with_gaps

TESTS = FOLDER.parents[1] / "tests" / "kernels"  # in a checkout
SLOW = "not sanit and not race and not fault"
ALL_DTYPES = ("float32", "bfloat16", "float16")
DTYPES = {"attention.cu": ALL_DTYPES[:1], "attention_mma.cu": ALL_DTYPES[1:], "mma.cuh": ALL_DTYPES[1:]}
REFUSED = "refused"  # by the compiler: no mutant

fork = multiprocessing.get_context("fork")


def names() -> list[str]:
    """The files that can be mutated."""
    return sorted(path.name for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")])


def judged(file: str) -> Iterator[tuple[Change, str]]:
    """Each mutant of a file with what it is killed by, as "killed by …", or "survived"."""
    text = (FOLDER / file).read_text()
    left = edits(text)
    dtypes = DTYPES.get(file, ALL_DTYPES)
    stages = [functools.partial(compared, dtype=dtype) for dtype in dtypes]
    stages += [functools.partial(sanitized, dtype=dtypes[0], sanitizer=name) for name in ("address", "thread")]
    for stage in [*stages, tested]:
        verdicts = stage(file, left)
        for edit, verdict in zip(left, verdicts, strict=True):
            if verdict and verdict != REFUSED:
                yield change(text, edit), f"killed by {verdict}"
        left = [edit for edit, verdict in zip(left, verdicts, strict=True) if not verdict]
    for edit in left:
        yield change(text, edit), "survived"


def compared(file: str, found: list[Edit], dtype: str) -> list[str]:
    """What the comparison with PyTorch says of each mutant, "" if nothing."""
    using = users()[file]
    for name in using:
        expected(name, dtype)
    return verdicts(file, found, dtype, functools.partial(difference, using, dtype))


def difference(names: tuple[str, ...], dtype: str) -> str:
    """The first of these operations' cases that shows an error in some order of threads, "" if none does."""
    with kernels.use("cuda"), emulated():
        for threads in ORDERS:
            for name in names:
                for each in expected(name, dtype):
                    for layout in (contiguous, with_gaps):
                        if found := wrong(name, each, dtype, layout, threads):
                            return found
    return ""


def wrong(name: str, each: Run, dtype: str, layout: Callable, threads: str) -> str:
    try:
        with order(threads):
            ours = run(operations()[name], each.inputs, each.options, dtype, layout, "cuda")
        found = [verdict.wrong for verdict in judge(each._replace(ours=ours), dtype)]
    except KernelError as error:
        found = [f"KernelError: {error}"]
    except UserError:
        return REFUSED
    except Exception as error:  # a mutant may do anything
        found = [f"{type(error).__name__}: {error}"]
    return next((f"{name}, case {each.case} in {dtype}: {text}" for text in found if text), "")


@functools.cache
def expected(name: str, dtype: str) -> list[Run]:
    """An operation's cases with PyTorch's results."""
    found = []
    for index, case in enumerate(oracles()[name].cases):
        inputs, settings = rounded(*case.make(0), dtype)
        exact, theirs = (run_oracle(oracles()[name], inputs, settings, x, dtype) for x in ("float64", dtype))
        found.append(Run(index, 0, "", inputs, settings, {}, exact, theirs))
    return found


def sanitized(file: str, found: list[Edit], dtype: str, sanitizer: str) -> list[str]:
    """The same, of reports of the sanitizer's too."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "verdicts.json")
        sanitize.call(sanitizer, _write_verdicts, file, found, dtype, str(path), timeout=3600)
        return json.loads(path.read_text())


def _write_verdicts(file: str, found: list, dtype: str, path: str) -> None:
    Path(path).write_text(json.dumps(compared(file, [Edit(*edit) for edit in found], dtype)))


def tested(file: str, found: list[Edit]) -> list[str]:
    """What the tests of kernels say, those that plant no faults themselves; nothing without a checkout."""
    if not TESTS.is_dir():
        return [""] * len(found)
    return verdicts(file, found, DTYPES.get(file, ALL_DTYPES)[0], failed)


def failed() -> str:
    import pytest

    first = []

    class Noting:
        def pytest_runtest_logreport(self, report):
            if report.failed:
                first.append(report.nodeid.rpartition("::")[2])

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    files = map(str, sorted(TESTS.glob("test_cuda_[alnpt][!e]*.py")))
    status = pytest.main([*files, "-qx", "-n0", "-k", SLOW, "-p", "no:cacheprovider"], plugins=[Noting()])
    return first[0] if first else "" if status == 0 else f"pytest: {status}"


def verdicts(file: str, found: list[Edit], dtype: str, check: Callable[[], str]) -> list[str]:
    """What `check` returns for each mutant."""
    text = (FOLDER / file).read_text()
    together = accepted(file, [edit for edit in found if not edit.apart], dtype)
    said = dict.fromkeys(found, REFUSED)
    with with_text(file, schema(text, together)[0]):
        os.environ[VARIABLE] = "-1"
        for _ in range(2):  # at first all is compiled
            begin = time.perf_counter()
            if fault := outcome(check, 1200):
                raise RuntimeError(f"{file} itself is wrong: {fault}")
        limit = 2 + 5 * (time.perf_counter() - begin)
        for number, edit in enumerate(together):
            os.environ[VARIABLE] = str(number)
            said[edit] = outcome(check, limit)
    for edit in found:
        if edit.apart:
            with with_text(file, change(text, edit).source):
                said[edit] = outcome(check, 60 + limit)
    return list(said.values())


def outcome(check: Callable[[], str], limit: float) -> str:
    """What `check` returns in a process of its own, or how that process ended."""
    receiver, sender = fork.Pipe(duplex=False)

    def work():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        sender.send(check())

    process = fork.Process(target=work)
    process.start()
    sender.close()
    process.join(limit)
    if process.is_alive():
        process.kill()
        process.join()
        return "the clock"
    if reported(process.pid):
        return f"the {os.environ['TINYGRAD_LLM_SANITIZER']} sanitizer"
    return "a crash" if process.exitcode else receiver.recv()


def reported(pid: int) -> bool:
    """Whether the sanitizer under which this runs has reported something about this process's kernels."""
    place = re.search(r"log_path=([^:]+)", os.environ.get("ASAN_OPTIONS", ""))
    log = Path(f"{place[1]}.{pid}") if place else None
    if not log or not log.exists():
        return False
    found = sanitize.parse(log.read_text())
    log.unlink()
    return bool(found)


@contextlib.contextmanager
def with_text(file: str, text: str) -> Iterator[Path]:
    """Inside this block kernels are compiled as if `file` had this text. Yields the folder of the copies."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for other in names():
            (folder / other).write_text(text if other == file else (FOLDER / other).read_text())
        for path in sources(file):
            stack.enter_context(instead(path, folder / path.name))
        made = set(cache_folder().glob("*.so"))
        try:
            yield folder
        finally:
            for path in set(cache_folder().glob("*.so")) - made:
                path.unlink(missing_ok=True)


def accepted(file: str, found: list[Edit], dtype: str) -> list[Edit]:
    """Those that the compiler takes in a schema."""
    for path in sources(file):
        if dtype not in DTYPES.get(path.name, ALL_DTYPES):
            continue
        while True:
            whole, places = schema((FOLDER / file).read_text(), found)
            with with_text(file, whole) as folder:
                errors = complaints(source(folder / path.name), path.name, options(dtype))
            if not errors:
                break
            lines = whole.split("\n")
            starts = [sum(len(line) + 1 for line in lines[: place.line - 1]) for place in errors]
            at = [start + place.column - 1 for start, place in zip(starts, errors, strict=True)]
            bad = {k for k, (begin, end) in places.items() if any(begin <= x < end for x in at)}
            if not bad or any(place.file != file for place in errors):
                raise UserError(f"{path.name} with all mutants of {file} does not compile: {errors[0]}")
            found = [edit for k, edit in enumerate(found) if k not in bad]
    return found


@functools.cache
def users() -> dict[str, tuple[str, ...]]:
    """The operations that use each source, by its name."""
    using: dict[str, set[str]] = {file: set() for file in names()}
    for name in sorted(set(kernels.KernelSet("cuda").operations()) & set(operations())):
        with contextlib.ExitStack() as stack:
            asked = {path: stack.enter_context(instead(path, path)) for path in FOLDER.glob("*.cu")}
            for dtype in ALL_DTYPES[:2]:
                difference((name,), dtype)
        for path, kernels_asked in asked.items():
            for file in included(path) if kernels_asked else ():
                using[file].add(name)
    return {file: tuple(sorted(found)) for file, found in using.items()}


def sources(file: str) -> list[Path]:
    """The .cu files that are, or include, this one."""
    return [path for path in sorted(FOLDER.glob("*.cu")) if file in included(path)]


@functools.cache
def included(path: Path) -> set[str]:
    """The names of a source and of all that it includes."""
    return {path.name}.union(*(included(FOLDER / name) for name in QUOTED_INCLUDE.findall(path.read_text())))
