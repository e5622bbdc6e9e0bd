"""makemore's models beside the GPT: one module each, over lists of any `Value`, for all engines.

    bigram  a table: the last token alone
    mlp     the last block_size tokens, embedded side by side, through one hidden layer
    rnn     a hidden state, carried from position to position by one cell
    gru     the same with gates, which say how much of the state to keep
    bow     the average of all tokens so far, through one hidden layer
    gpt     attention (`microgpt.gpt`)

Source:  karpathy/makemore `makemore.py`
"""

from microgpt.gpt import GPT
from microgpt.model import Model
from microgpt.models.bigram import Bigram
from microgpt.models.bow import BoW
from microgpt.models.gru import GRU
from microgpt.models.mlp import MLP
from microgpt.models.rnn import RNN

__all__ = ["GPT", "GRU", "MLP", "MODELS", "RNN", "Bigram", "BoW", "Model"]

MODELS: dict[str, type[Model]] = {m.name: m for m in (Bigram, MLP, RNN, GRU, BoW, GPT)}
