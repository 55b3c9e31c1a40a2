"""Everything that can be known about a kernel without the device it is for."""

import contextlib
import itertools
import json
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda import compile, launch
from tinygrad_llm.kernels.cuda.emulator import sanitize as sanitizers
from tinygrad_llm.kernels.cuda.emulator.build import build
from tinygrad_llm.kernels.cuda.emulator.build import check as check_compiler
from tinygrad_llm.lab.report import ADVICE, Compiled, Finding, Report, Values, finding_of, shown
from tinygrad_llm.lab.source import CUDA, Source, check_signatures, place, source
from tinygrad_llm.lab.values import launch_all
from tinygrad_llm.verification import oracles

COMPILER_ERROR = re.compile(r"(\S+\.\w+)[:(](\d+)(?:\)|:\d+)?: (?:fatal |catastrophic )?error:? (.*)", re.DOTALL)


def check(file: str | Path, operation: str | None = None, sanitize: bool = True) -> Report:
    """Check a kernel: a .cu file, or a .py file with the functions of its operation's page.

    A .cu file is compiled by NVRTC for sm_75 to sm_100 and for an emulator, runs there in three orders of its threads,
    is compared with PyTorch on the cases of `tinygrad-llm verify`, and runs under the sanitizers: races, overruns,
    shared memory that nobody wrote. A file named after its operation needs no `operation`: layernorm.cu,
    my_layernorm.cu, layernorm_2.cu. With a .py file of the same stem beside it, that one launches it; alone, the
    project's own wrapper does, so its kernels must have the names and parameters of those in kernels/cuda.

    Raises UserError where there is nothing to check: no such file, operation or wrapper, another signature, no
    compiler, no PyTorch. What is wrong with the kernel stands in the report.
    """
    start = time.perf_counter()
    found = source(file, operation)
    oracles()
    if found.is_cuda:
        check_compiler()
    report = Report(shown(found.path), found.operation, shown(found.wrapper))
    report.to_write = _to_write(found.path) + ([] if found.alone or not found.is_cuda else _to_write(found.wrapper))
    if not found.is_cuda or _compile(found, report):
        _compare(found, report)
        if found.is_cuda and sanitize:
            _sanitize(found, report)
    report.findings.sort(key=lambda finding: list(ADVICE).index(finding.kind))
    report.seconds = time.perf_counter() - start
    return report


def _compile(found: Source, report: Report) -> bool:
    """Whether the emulator's compiler and NVRTC take it in every dtype; what they make of it goes into the report."""
    name, jobs = found.path.name, list(itertools.product(found.dtypes, compile.ARCHITECTURES))
    try:
        for dtype in found.dtypes:
            build(launch.source(found.path), name, launch.options(dtype))
        if found.alone:
            check_signatures(found)
        for dtype, architecture in jobs:
            with contextlib.suppress(compile.StaticAssertFailed):
                figures = compile.figures(found.path, dtype, architecture)
                report.compiled += [Compiled(k, dtype, architecture, **asdict(f)) for k, f in figures.items()]
        for dtype in found.dtypes:
            with contextlib.suppress(compile.StaticAssertFailed):
                for kernel, counts in compile.instructions(found.path, dtype, "sm_80").items():
                    report.instructions[f"{kernel} {dtype}"] = counts
    except UserError as error:
        if not (place_and_message := COMPILER_ERROR.search(str(error))):
            raise  # something is missing here, not in the kernel
        file, line, message = place_and_message.groups()
        report.findings.append(_located(Finding("compile", message, f"{file}:{line}"), found))
        return False
    spilling = {row.kernel: row for row in report.compiled if row.spills or row.stack}
    for row in spilling.values():
        message = f"{row.kernel} has {row.stack} bytes a thread in slow memory, and {row.spills} of spilled registers"
        details = (f"compiled for {row.dtype} and {row.architecture}",)
        report.findings.append(Finding("spill", message, place(found.path, row.kernel), details))
    return True


def _compare(found: Source, report: Report) -> None:
    """The values, from a process of their own, since a kernel may do anything; see `lab.values`."""
    command = [sys.executable, "-m", "tinygrad_llm.lab.values", str(found.path), found.operation]
    groups: dict[tuple, list[Finding]] = {}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            kind, fields = json.loads(line)
            if kind == "Values":
                report.values.append(Values(**fields))
            elif kind == "Asked":
                _look_for_idle(report, {name for name, _ in fields["kernels"]})
            else:
                finding = _located(Finding(**fields), found)
                what = re.match(r"\w*", finding.message)[0]  # of "dx[0, 3] is …": dx
                groups.setdefault((finding.kind, finding.where, what), []).append(finding)
        errors = process.stderr.read()
    report.findings += [_merged(group) for group in groups.values()]
    if process.returncode:
        last = errors.strip().rpartition("\n")[2] or f"the process ended by signal {-process.returncode}"
        report.findings.append(Finding("crash", last))


def _look_for_idle(report: Report, launched: set[str]) -> None:
    """Kernels that never ran have not been checked; where none ran, the values are someone else's."""
    report.idle = sorted({row.kernel for row in report.compiled} - launched)
    if not launched:
        message = f"{report.launched_by} has launched none of these kernels: {', '.join(report.idle)}"
        report.findings.append(Finding("unused", message))


def _sanitize(found: Source, report: Report) -> None:
    for sanitizer in sanitizers.LIBRARIES:
        try:
            said = sanitizers.call(sanitizer, launch_all, str(found.path.resolve()), found.operation)
        except sanitizers.ProgramFailed as error:
            report.findings.append(Finding("crash", str(error)))
            continue
        places = {}
        for finding in (_located(finding_of(line, f"the {sanitizer} sanitizer says so"), found) for line in said):
            places.setdefault((finding.kind, finding.where), []).append(finding)
        known = {(finding.kind, finding.where) for finding in report.findings}
        report.sanitized[sanitizer] = len(places)
        report.findings += [_merged(group) for key, group in places.items() if key not in known and key[0] != "error"]


def _merged(group: list[Finding]) -> Finding:
    """The first of what is alike, and how often it was found."""
    first, others = group[0], len(group) - 1
    more = (f"and in {others} more runs, of other cases, dtypes or orders of threads",) if others else ()
    return replace(first, details=(*first.details, *more))


def _to_write(path: Path) -> list[str]:
    lines = enumerate(path.read_text().splitlines(), 1)
    return [f"{shown(path)}:{number}" for number, line in lines if "TODO" in line]


def _located(finding: Finding, found: Source) -> Finding:
    """The same with the path of the file that it is in, of which compilers know the name alone."""
    name, _, line = finding.where.rpartition(":")
    paths = (path for path in (found.path.parent / name, CUDA / name) if name and path.is_file())
    path = next(paths, None)
    return replace(finding, where=f"{shown(path)}:{line}") if path else finding
