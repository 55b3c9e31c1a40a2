"""A lab for kernels: CUDA's are compiled, run on an emulator, compared and sanitized where there is no GPU.

>>> lab.new("layernorm")                    # writes layernorm.cu
>>> report = lab.check("layernorm.cu")
>>> report.passed, report.findings
>>> print(report)
>>> lab.race("layernorm")                   # on this machine's real devices
>>> lab.roofline("layernorm", ["h100"])     # on paper
"""

from tinygrad_llm.errors import UserError
from tinygrad_llm.lab.cards import CARDS, Card, Estimate, roofline
from tinygrad_llm.lab.check import check
from tinygrad_llm.lab.new import new
from tinygrad_llm.lab.race import Race, race
from tinygrad_llm.lab.report import Finding, Report

__all__ = ["CARDS", "Card", "Estimate", "Finding", "Race", "Report", "UserError", "check", "new", "race", "roofline"]
