"""microgpt, compiled: the same program, the same bits, without the waiting."""

from microgpt.adam import Adam
from microgpt.engine import GPT, Tape, Value
from microgpt.gpt import Config, gpt, linear, rmsnorm, softmax
from microgpt.tokenizer import CharTokenizer

__version__ = "0.1.0"
__all__ = [
    "GPT",
    "Adam",
    "CharTokenizer",
    "Config",
    "Tape",
    "Value",
    "gpt",
    "linear",
    "rmsnorm",
    "softmax",
]
