"""micrograd's demonstration, with plain Values and with vector operations, the same bits.

100 points of two moons, a 2-16-16-1 network, full batch, hinge loss with L2.
"""

import math
import random

SIZES = [16, 16, 1]
NUM_STEPS = 100


def moons(n=100, noise=0.1):
    """Return n points and their labels, 1 and -1: two half circles that interlock.

    Points have two decimals, so that no libm shows in anything computed from them.
    """
    points, labels = [], []
    for i in range(n):
        t = math.pi * (i // 2) / (n // 2 - 1)
        upper = i % 2 == 0
        x, y = (math.cos(t), math.sin(t)) if upper else (1 - math.cos(t), 0.5 - math.sin(t))
        points.append([round(z + random.gauss(0, noise), 2) for z in (x, y)])
        labels.append(1 if upper else -1)
    return points, labels


class Plain:
    """The network as micrograd writes it."""

    def __init__(self, engine, micrograd):
        random.seed(1337)
        self.points, self.labels = moons()
        self.mlp = micrograd.MLP(2, SIZES)
        self.value = micrograd.Value
        self.params = self.mlp.parameters()

    def scores(self):
        return [self.mlp([self.value(x) for x in point]) for point in self.points]

    def squares(self):
        return sum([p * p for p in self.params])

    def loss(self):
        margins = [(1 + -y * score).relu() for y, score in zip(self.labels, self.scores())]
        return sum(margins) * (1 / len(margins)) + 1e-4 * self.squares()

    def step(self, k):
        """Train on all points once and return the loss before it."""
        loss = self.loss()
        for p in self.params:
            p.grad = 0.0
        loss.backward()
        learning_rate = 1.0 - 0.9 * k / NUM_STEPS
        for p in self.params:
            p.data -= learning_rate * p.grad
        return loss.data


class Vectors(Plain):
    """The same network of dot products: the bias is a weight of the input 1."""

    def __init__(self, engine, micrograd):
        super().__init__(engine, micrograd)
        self.value, self.functions = engine.Value, engine.functions
        self.layers = [
            [[engine.Value(p.data) for p in (n.b, *n.w)] for n in layer.neurons]
            for layer in self.mlp.layers
        ]
        self.params = [p for layer in self.layers for b, *w in layer for p in (*w, b)]

    def scores(self):
        scores = []
        for point in self.points:
            x = [self.value(z) for z in point]
            for i, layer in enumerate(self.layers):
                x = self.functions.linear([self.value(1.0), *x], layer)
                if i < len(self.layers) - 1:
                    x = [xi.relu() for xi in x]
            scores.append(x[0])
        return scores

    def squares(self):
        return self.functions.dot(self.params, self.params)


WAYS = {"plain Values": Plain, "vector operations": Vectors}
