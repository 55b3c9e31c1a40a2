"""Mutants of the CUDA kernels, by file, judged on the emulator.

A mutant is judged in a process of its own, forked when PyTorch's results are known: it may crash or never end. What the
cases of the operations that use the file do not show in float32, whatever the order of threads, is asked of the 16-bit
types, then of the kernels' tests, and at last of AddressSanitizer, ThreadSanitizer and our own look for shared memory
that nobody wrote.
"""

import contextlib
import functools
import itertools
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tinygrad_llm import kernels
from tinygrad_llm.devices import emulated
from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda.emulator import KernelError, build, order, sanitize
from tinygrad_llm.kernels.cuda.emulator.build import CompileError
from tinygrad_llm.kernels.cuda.emulator.build import check as check_compiler
from tinygrad_llm.kernels.cuda.emulator.library import ORDERS
from tinygrad_llm.kernels.cuda.launch import FOLDER, QUOTED_INCLUDE, instead, options, source
from tinygrad_llm.mutation.apart import limited, outcome
from tinygrad_llm.mutation.changes import Change
from tinygrad_llm.mutation.cuda import VARIABLE, Edit, change, edits, schema
from tinygrad_llm.mutation.host import quiet
from tinygrad_llm.verification import Run, contiguous, judge, operations, oracles, rounded, run, run_oracle, with_gaps

TESTS = FOLDER.parents[1] / "tests" / "kernels"  # in a checkout
TESTED = {  # which of them, and the files that they test
    "attention": {"attention.cu", "attention.cuh", "attention_mma.cu", "mma.cuh"},
    "loss": {"cross_entropy.cu", "embedding.cu", "linear_cross_entropy.cu"},
    "products": {"column_sums.cu", "linear.cu", "matvec.cu", "quantized_linear.cu"},
    "training": {"adamw.cu", "dropout.cu", "grad_norm.cu", "philox.cu", "philox.cuh"},
    "norms": {*"add.cu columns.cuh common.cuh floats.cuh gelu.cu layernorm.cu norm.cuh".split()},
}
TESTED["norms"] |= {"rmsnorm.cu", "rotary.cu", "swiglu.cu"}
QUICK = "not sanit and not race and not fault and not version and (bfloat16 or not float16) and not one_pass"
ALL_DTYPES = ("float32", "bfloat16", "float16")
DTYPES = {"attention.cu": ALL_DTYPES[:1], "attention_mma.cu": ALL_DTYPES[1:], "mma.cuh": ALL_DTYPES[1:]}
SANITIZERS = "address", "thread", "memory"
REFUSED = "refused"  # by the compiler: no mutant
SECONDS = 3  # of the processor for a case, and under a sanitizer 20 times as many: it would take a tenth of that


def names() -> list[str]:
    """The files that can be mutated."""
    return sorted(path.name for path in [*FOLDER.glob("*.cu"), *FOLDER.glob("*.cuh")])


def judged(file: str) -> Iterator[tuple[Change, str]]:
    """Each mutant of a file with what it is killed by, as "killed by …", or "survived".

    Raises UserError without a compiler, and for a file that is wrong itself.
    """
    check_compiler()
    text = (FOLDER / file).read_text()
    left = edits(text)
    dtypes, using = DTYPES.get(file, ALL_DTYPES), users()[file]
    stages = [functools.partial(compared, dtype, using) for dtype in dtypes]
    with_sanitizers = [functools.partial(sanitized, name, "compared", dtypes[0], using) for name in SANITIZERS]
    with_tests = [functools.partial(sanitized, name, "tested") for name in SANITIZERS]
    for stage in [*stages, tested, *with_sanitizers, *with_tests] if using else [tested, *with_tests]:
        said = stage(file, left) if left else []
        for edit, verdict in zip(left, said, strict=True):
            if verdict and verdict != REFUSED:
                yield change(text, edit), f"killed by {verdict}"
        left = [edit for edit, verdict in zip(left, said, strict=True) if not verdict]
    for edit in left:
        yield change(text, edit), "survived"


def compared(dtype: str, using: list[str], file: str, found: list[Edit]) -> list[str]:
    """What the comparison of these operations with PyTorch says of each mutant, "" if nothing."""
    for name in using:
        expected(name, dtype)
    return verdicts(file, found, dtype, functools.partial(difference, using, dtype))


def difference(names: list[str], dtype: str) -> str:
    """The first of these operations' cases that shows an error, if not in the usual order of threads then in another;
    "" if none does. A sanitizer sees what is wrong in any order.
    """
    hows = list(zip((contiguous, with_gaps, contiguous), ORDERS, strict=True))
    with kernels.use("cuda"), emulated(), quiet():
        for layout, threads in hows[:1] if "TINYGRAD_LLM_SANITIZER" in os.environ else hows:
            for name in names:
                for each in expected(name, dtype):
                    if found := wrong(name, each, dtype, layout, threads):
                        return found
    return ""


def wrong(name: str, each: Run, dtype: str, layout: Callable, threads: str) -> str:
    try:
        with order(threads), limited(SECONDS * (20 if "TINYGRAD_LLM_SANITIZER" in os.environ else 1)):
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


def sanitized(sanitizer: str, stage: str, *how) -> list[str]:
    """What `compared` or `tested` says under this sanitizer, whose reports count."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "verdicts.json")
        sanitize.call(sanitizer, _write_verdicts, str(path), stage, *how, timeout=3600)
        return json.loads(path.read_text())


def _write_verdicts(path: str, stage: str, *how) -> None:
    *how, found = how
    Path(path).write_text(json.dumps(globals()[stage](*how, [Edit(*edit) for edit in found])))


def tested(file: str, found: list[Edit]) -> list[str]:
    """What the tests of kernels say, those that plant no faults themselves; nothing without a checkout."""
    if not TESTS.is_dir():
        return [""] * len(found)
    import pytest

    said, failed = [], []

    class Judge:
        """Runs the tests that pytest has collected once for every mutant."""

        def pytest_runtestloop(self, session):
            said.extend(verdicts(file, found, DTYPES.get(file, ALL_DTYPES)[0], lambda: self.first_failed(session)))
            return True

        def first_failed(self, session) -> str:
            items = sorted(session.items, key=lambda item: Path(file).stem not in item.name)  # its own tests first
            for item, following in itertools.pairwise([*items, None]):
                session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                if failed:
                    return failed[0]
            return ""

        def pytest_runtest_logreport(self, report):
            failed.extend([report.nodeid.rpartition("::")[2]] if report.failed else [])

    which = next(name for name, of in TESTED.items() if file in of)
    silent = [x for plugin in ("terminal", "faulthandler", "cacheprovider") for x in ("-p", f"no:{plugin}")]
    pytest.main([str(TESTS / f"test_cuda_{which}.py"), "-o", "addopts=", "-k", QUICK, *silent], [Judge()])
    return said


def verdicts(file: str, found: list[Edit], dtype: str, check: Callable[[], str]) -> list[str]:
    """What `check` returns for each mutant."""
    text = (FOLDER / file).read_text()
    together = accepted(file, [edit for edit in found if not edit.apart], dtype)
    said = dict.fromkeys(found, REFUSED)
    with with_text(file, schema(text, together)[0]):
        os.environ[VARIABLE] = "-1"
        for _ in range(2):  # at first all is compiled
            begin = time.perf_counter()
            if fault := outcome(check, 1200, reported):
                raise UserError(f"{file} itself is wrong: {fault}")
        limit = 2 + 5 * (time.perf_counter() - begin)
        for number, edit in enumerate(together):
            os.environ[VARIABLE] = str(number)
            said[edit] = outcome(check, limit, reported)
        del os.environ[VARIABLE]
    for edit in found:
        if edit.apart:
            with with_text(file, change(text, edit).source):
                said[edit] = outcome(check, 60 + limit, reported)
    return list(said.values())


def reported(pid: int) -> str:
    """The sanitizer under which this runs, if it has reported something about this process's kernels; else ""."""
    place = re.search(r"log_path=([^:]+)", os.environ.get("ASAN_OPTIONS", ""))
    log = Path(f"{place[1]}.{pid}") if place else None
    if not log or not log.exists():
        return ""
    found = sanitize.parse(log.read_text())
    log.unlink()
    return f"the {os.environ['TINYGRAD_LLM_SANITIZER']} sanitizer" if found else ""


@contextlib.contextmanager
def with_text(file: str, text: str) -> Iterator[Path]:
    """Inside this block kernels are compiled as if `file` had this text. Yields the folder of the copies."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        for other in names():
            (folder / other).write_text(text if other == file else (FOLDER / other).read_text())
        for path in sources(file):
            stack.enter_context(instead(path, folder / path.name))
        yield folder


def accepted(file: str, found: list[Edit], dtype: str) -> list[Edit]:
    """Those that the compiler takes in a schema."""
    text = (FOLDER / file).read_text()
    for path in sources(file):
        refused = {None} if dtype in DTYPES.get(path.name, ALL_DTYPES) else set()
        while refused:
            whole, places = schema(text, found)
            refused = refusals(path, file, whole, places, dtype)
            found = [edit for number, edit in enumerate(found) if number not in refused]
    return found


def refusals(path: Path, file: str, whole: str, places: list[tuple[int, int]], dtype: str) -> set[int]:
    """The numbers of the mutants at whose places the compiler finds errors."""
    with with_text(file, whole) as folder:
        errors = outcome(functools.partial(compiled, source(folder / path.name), dtype), 600)
    starts = list(itertools.accumulate((len(line) + 1 for line in whole.split("\n")), initial=0))
    found = set()
    for line, column in re.findall(rf"^{re.escape(file)}:(\d+):(\d+)", errors, re.MULTILINE):
        at = starts[int(line) - 1] + int(column) - 1
        found |= {number for number, (begin, end) in enumerate(places) if begin <= at < end}
    if errors and not found:
        raise UserError(f"{path.name} with the mutants of {file} does not compile: {errors}")
    return found


def compiled(code: str, dtype: str) -> str:
    """The compiler's errors. Not in a process that judges: what is loaded there is a mutant already."""
    try:
        build(code, options=options(dtype))
    except CompileError as error:
        return "\n".join(error.errors)
    return ""


@functools.cache
def users() -> dict[str, list[str]]:
    """The operations that use each source, by its name."""
    using: dict[str, set[str]] = {file: set() for file in names()}
    for name in sorted(set(kernels.KernelSet("cuda").operations()) & set(operations())):
        with contextlib.ExitStack() as stack:
            asked = {path: stack.enter_context(instead(path, path)) for path in FOLDER.glob("*.cu")}
            for dtype in ALL_DTYPES[:2]:
                difference([name], dtype)
        for path, kernels_asked in asked.items():
            for file in included(path) if kernels_asked else ():
                using[file].add(name)
    return {file: sorted(found) for file, found in using.items()}


def sources(file: str) -> list[Path]:
    """The .cu files that are, or include, this one."""
    return [path for path in sorted(FOLDER.glob("*.cu")) if file in included(path)]


@functools.cache
def included(path: Path) -> set[str]:
    """The names of a source and of all that it includes."""
    return {path.name}.union(*(included(FOLDER / name) for name in QUOTED_INCLUDE.findall(path.read_text())))
