"""microgpt, compiled: the same program, the same bits, without the waiting."""

from microgpt import engine
from microgpt.engine import GPT, Adam, Tape, Value
from microgpt.gpt import Config, gpt
from microgpt.tokenizer import CharTokenizer

attention = engine.functions.attention
cross_entropy = engine.functions.cross_entropy
dot = engine.functions.dot
linear = engine.functions.linear
rmsnorm = engine.functions.rmsnorm
softmax = engine.functions.softmax

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "Adam",
    "CharTokenizer",
    "Config",
    "Tape",
    "Value",
    "attention",
    "cross_entropy",
    "dot",
    "gpt",
    "linear",
    "rmsnorm",
    "softmax",
]
