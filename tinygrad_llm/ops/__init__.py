"""The operations, one page each: the derivation, the forward, the backward, and the line that puts them on the tape."""

from tinygrad_llm.ops.exp import exp
from tinygrad_llm.ops.layernorm import layernorm
from tinygrad_llm.ops.mul import mul
from tinygrad_llm.ops.sum import sum
