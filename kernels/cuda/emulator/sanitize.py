"""Kernels under a sanitizer: their code notes every access to memory, in a process of its own.

- "thread": ThreadSanitizer, with an order between threads only where barriers make one: races, in whatever order the
  threads happen to run. Shuffles order nothing, as on a GPU; two blocks are never in order.
- "address": AddressSanitizer: reads and writes beyond an array, in the GPU's memory and in shared memory.
- "memory": our own: reads of shared memory that no thread of the block has written.
"""

import importlib.util
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from tinygrad_llm.errors import UserError
from tinygrad_llm.kernels.cuda.emulator.build import check

LIBRARIES = {"thread": "libtsan.so", "address": "libasan.so", "memory": None}
OPTIONS = {
    "thread": "suppress_equal_addresses=0",  # one report for two lines, whatever the element
    "address": "detect_leaks=0:halt_on_error=0",
}
# Guards are the compiler's, for shared memory of a type with a constructor, such as __nv_bfloat16: a GPU has none.
SUPPRESSIONS = "race:guard variable for\n"

ACCESS = re.compile(r"^ *(?:Previous )?(?:atomic )?(?P<kind>read|write) of size (?P<size>\d+)", re.I | re.M)
FRAME = re.compile(r"^ *#\d+ .*?(?P<file>[\w.-]+\.cuh?):(?P<line>\d+)", re.M)
LOCATION = re.compile(r"Location is global '(?P<name>[^']+)'")


class ProgramFailed(UserError):
    """What runs under a sanitizer fails or does not end, and no report says which line of a kernel is why."""


def run(sanitizer: str, arguments: list[str], timeout: float = 600) -> list[str]:
    """Run `python *arguments`, with the kernels that it launches built for `sanitizer`: "thread", "address", "memory".

    Returns what was found, one line each with file and line of the source. Raises ProgramFailed where the program fails
    for another reason, where all that is reported has no line of a kernel, and after `timeout` seconds; UserError where
    the sanitizer is not installed.
    """
    if sanitizer not in LIBRARIES:
        raise UserError(f"no sanitizer {sanitizer!r}: give one of {', '.join(LIBRARIES)}")
    with tempfile.TemporaryDirectory() as folder:
        suppressions = Path(folder, "suppressions")
        suppressions.write_text(SUPPRESSIONS)
        settings = f"{OPTIONS.get(sanitizer)}:log_path={folder}/log"
        # The threads of the CPU's kernels copy for each other, which is not what is asked about.
        one_thread = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
        environment = {**os.environ, **one_thread, "TINYGRAD_LLM_SANITIZER": sanitizer}
        environment |= {"TSAN_OPTIONS": f"{settings}:suppressions={suppressions}", "ASAN_OPTIONS": settings}
        command = [sys.executable, *arguments]
        if LIBRARIES[sanitizer]:
            environment["LD_PRELOAD"] = _library(LIBRARIES[sanitizer])
            if shutil.which("setarch"):  # a sanitizer wants its memory where it expects it
                command = ["setarch", "-R", *command]
        try:
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise ProgramFailed(f"{' '.join(arguments)} takes more than {timeout} s under the sanitizer") from error
        reports = "\n".join(path.read_text() for path in sorted(Path(folder).glob("log*")))
    errors = re.findall(r"^(?:[\w.]*\.)?KernelError: (.*)$", result.stderr, re.MULTILINE)
    found = list(dict.fromkeys([*parse(reports), *errors]))
    elsewhere = "\n".join(re.findall(r"^SUMMARY: (.*)$", reports, re.MULTILINE))
    if not found and (result.returncode or elsewhere):
        said = elsewhere or result.stderr.strip() or result.stdout.strip() or f"status {result.returncode}"
        raise ProgramFailed(f"under the {sanitizer} sanitizer the program failed: {said.splitlines()[-1]}")
    return found


def call(sanitizer: str, function: Callable, *arguments, timeout: float = 600) -> list[str]:
    """The same for a function at the top level of a file, called with arguments that JSON can write."""
    program = (
        "import sys, json; from tinygrad_llm.kernels.cuda.emulator import sanitize; "
        "sanitize._call(*json.loads(sys.argv[1]))"
    )
    where = [inspect.getsourcefile(function), function.__qualname__, arguments]
    return run(sanitizer, ["-c", program, json.dumps(where)], timeout)


def parse(reports: str) -> list[str]:
    """One line for every report of ThreadSanitizer and AddressSanitizer that is about a kernel."""
    lines = []
    for report in re.split(r"^=+\d*=*$", reports, flags=re.MULTILINE):
        title = re.search(r"(?:Thread|Address)Sanitizer: ([\w-]+(?: race)?)", report)
        starts = [access.start() for access in ACCESS.finditer(report)]
        accesses = []
        for part in (report[start:end] for start, end in pairwise([*starts, len(report)])):
            access, frame = ACCESS.match(part), FRAME.search(part)
            if frame:
                accesses.append(f"{frame['file']}:{frame['line']} ({access['kind'].lower()} of {access['size']} bytes)")
        if title and not starts and (frame := FRAME.search(report)):
            lines.append(f"{frame['file']}:{frame['line']}: {title[1]}")
        location = LOCATION.search(report)
        if title and accesses:
            what = title[1] + (f" on {location['name']}" if location else "")
            lines.append(f"{accesses[0]}: {what}" + (f" with {accesses[1]}" if accesses[1:] else ""))
    return lines


def _call(file: str, name: str, arguments: list) -> None:
    """In the process of its own: import the file, call the function."""
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    getattr(module, name)(*arguments)


def _library(name: str) -> str:
    """The path of a sanitizer's library, as the compiler knows it."""
    check()
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        raise UserError(f"the compiler has no {name}: install it, as with: apt install libgcc-12-dev")
    return path
