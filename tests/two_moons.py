"""micrograd's demonstration, written in several ways that have the same bits.

100 points of two moons, a 2-16-16-1 network, full batch, hinge loss with L2.
"""

import importlib.util
import math
import random
import sys

import microgpt.engine
import microgpt.micrograd

SIZES = [16, 16, 1]
NUM_STEPS = 100


def micrograd_over(engine):
    """Return microgpt.micrograd as it is where that engine is selected."""
    if engine.Value is microgpt.engine.Value:
        return microgpt.micrograd
    name = f"microgpt.micrograd_over_{engine.NAME}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, microgpt.micrograd.__file__)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        selected = vars(microgpt.engine).copy()
        vars(microgpt.engine).update(vars(engine))
        try:
            spec.loader.exec_module(module)
        finally:
            vars(microgpt.engine).update(selected)
    return sys.modules[name]


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
    """Values of the engine itself and the loops of micrograd's Neuron, Layer and MLP."""

    def __init__(self, engine):
        random.seed(1337)
        self.points, self.labels = moons()
        self.Value, self.functions = engine.Value, engine.functions
        self.layers = [
            [
                ([self.Value(random.uniform(-1, 1)) for _ in range(nin)], self.Value(0.0))
                for _ in range(nout)
            ]
            for nin, nout in zip([2, *SIZES], SIZES)
        ]
        self.params = [p for layer in self.layers for w, b in layer for p in (*w, b)]

    def score(self, point):
        x = [self.Value(z) for z in point]
        for layer in self.layers:
            x = [sum((wi * xi for wi, xi in zip(w, x)), b) for w, b in layer]
            if layer is not self.layers[-1]:
                x = [xi.relu() for xi in x]
        return x[0]

    def squares(self):
        return sum([p * p for p in self.params])

    def loss(self):
        scores = [self.score(point) for point in self.points]
        margins = [(1 + -y * score).relu() for y, score in zip(self.labels, scores)]
        return sum(margins) * (1 / len(margins)) + 1e-4 * self.squares()

    def gradients(self):
        """Set the parameters' grad to the loss's derivatives and return the loss."""
        for p in self.params:
            p.grad = 0.0
        loss = self.loss()
        loss.backward()
        return loss.data

    def step(self, k):
        """Train on all points once and return the loss before it."""
        loss = self.gradients()
        learning_rate = 1.0 - 0.9 * k / NUM_STEPS
        for p in self.params:
            p.data -= learning_rate * p.grad
        return loss


class Micrograd(Plain):
    """micrograd's own classes."""

    def __init__(self, engine):
        super().__init__(engine)
        micrograd = micrograd_over(engine)
        random.seed(1337)
        moons()  # drawn before the weights
        self.Value, self.mlp = micrograd.Value, micrograd.MLP(2, SIZES)
        self.params = self.mlp.parameters()

    def score(self, point):
        return self.mlp([self.Value(z) for z in point])


class Vectors(Plain):
    """A neuron as one dot product: the bias is a weight of the input 1."""

    def __init__(self, engine):
        super().__init__(engine)
        self.matrices = [[[b, *w] for w, b in layer] for layer in self.layers]

    def score(self, point):
        x = [self.Value(z) for z in point]
        for matrix in self.matrices:
            x = self.functions.linear([self.Value(1.0), *x], matrix)
            if matrix is not self.matrices[-1]:
                x = [xi.relu() for xi in x]
        return x[0]

    def squares(self):
        return self.functions.dot(self.params, self.params)


class Replayed(Plain):
    """The graph of plain Values recorded once; a new one each time where there is no replay."""

    def __init__(self, engine):
        super().__init__(engine)
        self.tape = None
        if engine.NAME != "python":
            self.tape = engine.Tape(self.loss(), inputs=self.params)

    def gradients(self):
        if self.tape is None:
            return super().gradients()
        for p in self.params:
            p.grad = 0.0
        loss = self.tape.forward()
        self.tape.backward()
        return loss


WAYS = {
    "plain Values": Plain,
    "micrograd's MLP": Micrograd,
    "vector operations": Vectors,
    "a replayed tape": Replayed,
}
