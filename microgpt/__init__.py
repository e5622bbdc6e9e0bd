"""microgpt, compiled: the same program, the same bits, without the waiting."""

from microgpt import engine
from microgpt.engine import GPT, Adam, Tape, Value
from microgpt.gpt import Config, gpt
from microgpt.gradient import value_and_grad
from microgpt.tokenizer import CharTokenizer

Operation = engine.functions.Operation
attention = engine.functions.attention
cross_entropy = engine.functions.cross_entropy
dot = engine.functions.dot
linear = engine.functions.linear
maximum = engine.functions.maximum
rmsnorm = engine.functions.rmsnorm
softmax = engine.functions.softmax
where = engine.functions.where

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "Adam",
    "CharTokenizer",
    "Config",
    "Operation",
    "Tape",
    "Value",
    "attention",
    "cross_entropy",
    "dot",
    "gpt",
    "linear",
    "maximum",
    "rmsnorm",
    "softmax",
    "value_and_grad",
    "where",
]
