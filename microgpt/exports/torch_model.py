"""A microgpt model in PyTorch: `python model.py TEXT` prints the likeliest characters after TEXT.

The weights lie beside this file, in model.safetensors, in double precision.
"""

import json
import pathlib
import sys

import safetensors
import torch
from torch import nn
from torch.nn.functional import embedding, linear, scaled_dot_product_attention

WEIGHTS = pathlib.Path(__file__).with_name("model.safetensors")


def rmsnorm(x):
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


class GPT(nn.Module):
    def __init__(self, weights, config):
        super().__init__()
        self.n_head, self.n_layer = config["n_head"], config["n_layer"]
        names = {name: name.replace(".", "_") for name in weights}  # layer0.attn_wq: layer0_attn_wq
        self.w = nn.ParameterDict({names[name]: nn.Parameter(weights[name]) for name in weights})

    def forward(self, tokens):
        """Return the logits (..., n, vocab_size) of what follows tokens (..., n)."""
        w = self.w
        x = rmsnorm(embedding(tokens, w["wte"]) + w["wpe"][: tokens.shape[-1]])
        for i in range(self.n_layer):
            h = rmsnorm(x)
            q, k, v = (self.heads(linear(h, w[f"layer{i}_attn_w{z}"])) for z in "qkv")
            attended = scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + linear(attended.transpose(-3, -2).flatten(-2), w[f"layer{i}_attn_wo"])
            h = linear(rmsnorm(x), w[f"layer{i}_mlp_fc1"]).relu()
            x = x + linear(h, w[f"layer{i}_mlp_fc2"])
        return linear(x, w["lm_head"])

    def heads(self, x):
        """Return x (..., n, n_embd) as (..., n_head, n, head_dim)."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)


def load(path=WEIGHTS):
    """Return the model and its characters; the id after the last is BOS."""
    with safetensors.safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict: it has no iterator
        about = file.metadata()
    return GPT(weights, json.loads(about["config"])), about["vocabulary"]


if __name__ == "__main__":
    model, characters = load()
    tokens = [len(characters), *map(characters.index, "".join(sys.argv[1:]))]
    probabilities = model(torch.tensor(tokens))[-1].softmax(-1)
    for p, token in zip(*probabilities.topk(min(5, len(probabilities)))):
        print(f"{p:.4f}", repr(characters[token]) if token < len(characters) else "the end")
