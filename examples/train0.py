"""Step 0: a bigram model by counting. No network, no gradient: how often does b follow a?"""

import math
import os
import random

# %% The data: names, in a random order
random.seed(42)
with open("names.txt") as file:
    docs = [line.strip() for line in file if line.strip()]
random.shuffle(docs)
chars = sorted(set("".join(docs)))
BOS = len(chars)  # the token that begins and ends a name
vocab_size = len(chars) + 1


def tokens_of(doc):
    return [BOS] + [chars.index(ch) for ch in doc] + [BOS]


# %% The model: a table of counts, and probabilities from them
counts = [[0] * vocab_size for _ in range(vocab_size)]


def probabilities(token):
    row = counts[token]
    total = sum(row) + vocab_size  # every pair counts once more, so that none is impossible
    return [(count + 1) / total for count in row]


# %% Training is counting; the loss says how well the counts so far predict the next name
num_steps = int(os.environ.get("NUM_STEPS", 1000))
for step in range(num_steps):
    tokens = tokens_of(docs[step % len(docs)])
    n = len(tokens) - 1
    loss = 0.0
    for token, target in zip(tokens, tokens[1:]):
        loss -= math.log(probabilities(token)[target]) / n
    for token, target in zip(tokens, tokens[1:]):
        counts[token][target] += 1
    if step < 5 or (step + 1) % 100 == 0:
        print(f"step {step + 1:4d} / {num_steps:4d} | loss {loss:.12f}")

# %% New names: draw a letter after a letter
for i in range(10):
    token, sample = BOS, ""
    while True:
        token = random.choices(range(vocab_size), weights=probabilities(token))[0]
        if token == BOS:
            break
        sample += chars[token]
    print(f"sample {i + 1:2d}: {sample}")
