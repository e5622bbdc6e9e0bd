"""Step 1: a network in place of the table, its gradients worked out by hand."""

import math
import os
import random

# %% The data, as before
random.seed(42)
with open("names.txt") as file:
    docs = [line.strip() for line in file if line.strip()]
random.shuffle(docs)
chars = sorted(set("".join(docs)))
BOS = len(chars)
vocab_size = len(chars) + 1


def tokens_of(doc):
    return [BOS] + [chars.index(ch) for ch in doc] + [BOS]


# %% The model: a token's embedding, one hidden layer, a logit for each next token
n_embd, n_hidden = 8, 16


def matrix(n_out, n_in):
    return [[random.gauss(0, 0.2) for _ in range(n_in)] for _ in range(n_out)]


wte, w1, w2 = matrix(vocab_size, n_embd), matrix(n_hidden, n_embd), matrix(vocab_size, n_hidden)


def linear(x, w):
    return [sum(wi * xi for wi, xi in zip(row, x)) for row in w]


def forward(token):
    x = wte[token]
    h = [max(0.0, a) for a in linear(x, w1)]
    logits = linear(h, w2)
    largest = max(logits)
    exps = [math.exp(a - largest) for a in logits]
    total = sum(exps)
    return x, h, [e / total for e in exps]


def loss_of(tokens):
    pairs = list(zip(tokens, tokens[1:]))
    return sum(-math.log(forward(token)[2][target]) for token, target in pairs) / len(pairs)


# %% The gradient, by the chain rule from the loss back to each weight
def gradient(tokens):
    dwte, dw1, dw2 = ([[0.0] * len(row) for row in w] for w in (wte, w1, w2))
    pairs = list(zip(tokens, tokens[1:]))
    for token, target in pairs:
        x, h, probs = forward(token)
        # loss = -log softmax(logits)[target]: its derivative is probs, less 1 at the target
        dlogits = [p / len(pairs) for p in probs]
        dlogits[target] -= 1 / len(pairs)
        dh = [0.0] * n_hidden
        for i, d in enumerate(dlogits):  # logits = w2 @ h
            for j in range(n_hidden):
                dw2[i][j] += d * h[j]
                dh[j] += d * w2[i][j]
        for i in range(n_hidden):  # h = relu(w1 @ x)
            if h[i] > 0:
                for j in range(n_embd):
                    dw1[i][j] += dh[i] * x[j]
                    dwte[token][j] += dh[i] * w1[i][j]
    return dwte, dw1, dw2


# %% Is it right? Move one weight a little, and see how the loss moves
tokens = tokens_of(docs[0])
by_hand = gradient(tokens)
for w, dw in zip((wte, w1, w2), by_hand):
    i, j = BOS % len(w), 1
    kept, h = w[i][j], 1e-5
    w[i][j] = kept + h
    above = loss_of(tokens)
    w[i][j] = kept - h
    below = loss_of(tokens)
    w[i][j] = kept
    print(f"by hand {dw[i][j]:.8f}, by moving the weight {(above - below) / (2 * h):.8f}")

# %% Training: a step against the gradient (stochastic gradient descent)
num_steps = int(os.environ.get("NUM_STEPS", 1000))
learning_rate = 0.5
for step in range(num_steps):
    tokens = tokens_of(docs[step % len(docs)])
    loss = loss_of(tokens)
    rate = learning_rate * (1 - step / num_steps)
    for w, dw in zip((wte, w1, w2), gradient(tokens)):
        for row, drow in zip(w, dw):
            for j, d in enumerate(drow):
                row[j] -= rate * d
    if step < 5 or (step + 1) % 100 == 0:
        print(f"step {step + 1:4d} / {num_steps:4d} | loss {loss:.12f}")

# %% New names
for i in range(10):
    token, sample = BOS, ""
    while len(sample) < 16:
        token = random.choices(range(vocab_size), weights=forward(token)[2])[0]
        if token == BOS:
            break
        sample += chars[token]
    print(f"sample {i + 1:2d}: {sample}")
