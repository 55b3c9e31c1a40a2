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

LIBRARIES = {"thread": "libtsan.so", "address": "libasan.so", "memory": None}
OPTIONS = {
    "thread": "suppress_equal_addresses=0",  # one report for two lines, whatever the element
    "address": "detect_leaks=0:halt_on_error=0",
}
FAILED = 66

ACCESS = re.compile(r"^ *(?:Previous )?(?:atomic )?(?P<kind>read|write) of size (?P<size>\d+)", re.I | re.M)
FRAME = re.compile(r"^ *#\d+ .*?(?P<file>[\w.-]+\.cuh?):(?P<line>\d+)", re.M)
LOCATION = re.compile(r"Location is global '(?P<name>[^']+)'")


def run(sanitizer: str, arguments: list[str], timeout: float = 600) -> list[str]:
    """Run `python *arguments`, with the kernels that it launches built for `sanitizer`: "thread", "address", "memory".

    Returns what was found, one line each with file and line of the source. Raises UserError where the program fails
    for another reason, or takes more than `timeout` seconds.
    """
    if sanitizer not in LIBRARIES:
        raise UserError(f"no sanitizer {sanitizer!r}: give one of {', '.join(LIBRARIES)}")
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder, "log")
        settings = f"{OPTIONS.get(sanitizer)}:exitcode={FAILED}:log_path={logs}"
        environment = {**os.environ, "TINYGRAD_LLM_SANITIZER": sanitizer, "OPENBLAS_NUM_THREADS": "1"}
        environment |= {"TSAN_OPTIONS": settings, "ASAN_OPTIONS": settings}
        command = [sys.executable, *arguments]
        if LIBRARIES[sanitizer]:
            environment["LD_PRELOAD"] = _library(LIBRARIES[sanitizer])
            if shutil.which("setarch"):  # a sanitizer wants its memory where it expects it
                command = ["setarch", "-R", *command]
        try:
            result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{' '.join(arguments)} takes more than {timeout} s under the sanitizer") from error
        reports = "\n".join(path.read_text() for path in sorted(Path(folder).iterdir()))
    errors = re.findall(r"^(?:[\w.]*\.)?KernelError: (.*)$", result.stderr, re.MULTILINE)
    found = list(dict.fromkeys([*parse(reports), *errors]))
    only_our_own = result.returncode == FAILED and reports.strip()  # `parse` leaves those out
    if not found and result.returncode and not only_our_own:
        last = (result.stderr.strip() or result.stdout.strip() or f"status {result.returncode}").splitlines()[-1]
        raise UserError(f"under the {sanitizer} sanitizer the program failed: {last}")
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
        location = LOCATION.search(report)
        if location and location["name"].startswith("guard variable"):
            continue  # of the emulator's own: shared memory of a type with a constructor, such as __nv_bfloat16
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
    if not shutil.which("g++"):
        raise UserError("the emulator of CUDA needs the compiler g++: install it, as with: apt install g++")
    path = subprocess.run(["g++", f"-print-file-name={name}"], capture_output=True, text=True).stdout.strip()
    if not Path(path).is_absolute():
        raise UserError(f"the compiler has no {name}: install it, as with: apt install libgcc-12-dev")
    return path
