"""A microgpt model in PyTorch: `python model.py TEXT` prints the likeliest characters after TEXT.

The weights lie beside this file, in model.safetensors, in double precision. The model
is GPT-2's with RMSNorm for LayerNorm, ReLU for GELU, and no biases.
"""

import json
import pathlib
import sys

import safetensors
import torch
from torch import nn
from torch.nn import functional

WEIGHTS = pathlib.Path(__file__).with_name("model.safetensors")


def rmsnorm(x):
    return x * (x.square().mean(-1, keepdim=True) + 1e-5).rsqrt()


class Layer(nn.Module):
    def __init__(self, n_embd, n_head):
        super().__init__()
        self.n_head = n_head
        self.attn_wq = nn.Linear(n_embd, n_embd, bias=False)
        self.attn_wk = nn.Linear(n_embd, n_embd, bias=False)
        self.attn_wv = nn.Linear(n_embd, n_embd, bias=False)
        self.attn_wo = nn.Linear(n_embd, n_embd, bias=False)
        self.mlp_fc1 = nn.Linear(n_embd, 4 * n_embd, bias=False)
        self.mlp_fc2 = nn.Linear(4 * n_embd, n_embd, bias=False)

    def forward(self, x):
        h = rmsnorm(x)
        q, k, v = (self.heads(w(h)) for w in (self.attn_wq, self.attn_wk, self.attn_wv))
        attended = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.attn_wo(attended.transpose(-3, -2).flatten(-2))
        return x + self.mlp_fc2(self.mlp_fc1(rmsnorm(x)).relu())

    def heads(self, x):
        """Return x (..., n, n_embd) as (..., n_head, n, head_dim)."""
        return x.unflatten(-1, (self.n_head, -1)).transpose(-3, -2)


class GPT(nn.Module):
    def __init__(self, vocab_size, n_embd, n_head, n_layer, block_size):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, n_embd)
        self.wpe = nn.Embedding(block_size, n_embd)
        self.lm_head = nn.Linear(n_embd, vocab_size, bias=False)
        self.layers = nn.ModuleList(Layer(n_embd, n_head) for _ in range(n_layer))

    def forward(self, tokens):
        """Return the logits (..., n, vocab_size) of what follows tokens (..., n)."""
        positions = torch.arange(tokens.shape[-1], device=tokens.device)
        x = rmsnorm(self.wte(tokens) + self.wpe(positions))
        for layer in self.layers:
            x = layer(x)
        return self.lm_head(x)


def load(path=WEIGHTS):
    """Return the model and its characters; the id after the last is BOS."""
    with safetensors.safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        characters = file.metadata()["vocabulary"]
    model = GPT(**config).double()
    names = {name: name.replace("layer", "layers.") for name in weights}
    model.load_state_dict({names[name] + ".weight": weights[name] for name in weights})
    return model, characters


if __name__ == "__main__":
    model, characters = load()
    tokens = [len(characters), *map(characters.index, "".join(sys.argv[1:]))]
    with torch.no_grad():
        probabilities = model(torch.tensor(tokens))[-1].softmax(-1)
    for p, token in zip(*probabilities.topk(min(5, len(probabilities)))):
        print(f"{p:.4f}", repr(characters[token]) if token < len(characters) else "the end")
