"""The operations, one page each: the derivation, the forward, the backward, and the line that puts them on the tape."""

from tinygrad_llm.ops.abs import abs
from tinygrad_llm.ops.add import add
from tinygrad_llm.ops.amax import amax, argmax, max, min
from tinygrad_llm.ops.attention import attention
from tinygrad_llm.ops.attention_qkvpacked import attention_qkvpacked
from tinygrad_llm.ops.attention_segments import attention_segments
from tinygrad_llm.ops.binary_cross_entropy_with_logits import binary_cross_entropy_with_logits
from tinygrad_llm.ops.cast import cast
from tinygrad_llm.ops.clamp import clamp
from tinygrad_llm.ops.concatenate import cat, concatenate, stack
from tinygrad_llm.ops.cross_entropy import cross_entropy
from tinygrad_llm.ops.cumsum import cumsum
from tinygrad_llm.ops.div import div
from tinygrad_llm.ops.dropout import dropout
from tinygrad_llm.ops.embedding import embedding
from tinygrad_llm.ops.exp import exp
from tinygrad_llm.ops.expand import expand
from tinygrad_llm.ops.gather import gather
from tinygrad_llm.ops.gelu import gelu
from tinygrad_llm.ops.getitem import getitem, split
from tinygrad_llm.ops.kl_div import kl_div
from tinygrad_llm.ops.layernorm import layernorm
from tinygrad_llm.ops.linear import linear
from tinygrad_llm.ops.linear_cross_entropy import linear_cross_entropy
from tinygrad_llm.ops.log import log
from tinygrad_llm.ops.log_softmax import log_softmax
from tinygrad_llm.ops.logsigmoid import logsigmoid
from tinygrad_llm.ops.logsumexp import logsumexp
from tinygrad_llm.ops.lora_linear import lora_linear
from tinygrad_llm.ops.masked_fill import masked_fill
from tinygrad_llm.ops.matmul import matmul
from tinygrad_llm.ops.maximum import maximum
from tinygrad_llm.ops.mean import mean
from tinygrad_llm.ops.minimum import minimum
from tinygrad_llm.ops.mlp import mlp
from tinygrad_llm.ops.mse_loss import mse_loss
from tinygrad_llm.ops.mul import mul
from tinygrad_llm.ops.neg import neg
from tinygrad_llm.ops.nll_loss import nll_loss
from tinygrad_llm.ops.permute import permute, t, transpose
from tinygrad_llm.ops.pow import pow
from tinygrad_llm.ops.quantized_linear import quantized_linear
from tinygrad_llm.ops.relu import relu
from tinygrad_llm.ops.reshape import flatten, reshape, squeeze, unsqueeze, view
from tinygrad_llm.ops.rmsnorm import rmsnorm
from tinygrad_llm.ops.rotary import rotary
from tinygrad_llm.ops.sigmoid import sigmoid
from tinygrad_llm.ops.silu import silu
from tinygrad_llm.ops.softmax import softmax
from tinygrad_llm.ops.sqrt import sqrt
from tinygrad_llm.ops.sub import sub
from tinygrad_llm.ops.sum import sum
from tinygrad_llm.ops.swiglu import swiglu
from tinygrad_llm.ops.tanh import tanh
from tinygrad_llm.ops.tril import tril
from tinygrad_llm.ops.triu import triu
from tinygrad_llm.ops.var import std, var
from tinygrad_llm.ops.where import where
