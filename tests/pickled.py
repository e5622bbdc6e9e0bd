"""Models for pickles: the other process imports this module by name."""

import random

from bits import bits

DOCUMENTS = [[4, 0, 1, 2, 4], [4, 3, 4], [4, 2, 2, 4]]


def trained(engine):
    """Return a model and its Adam after three steps, with gradients of a fourth."""
    model = engine.GPT(5, 4, 2, 1, 6, rng=random.Random(3))
    adam = engine.Adam(model.params, learning_rate=0.05, beta1=0.5, num_steps=20)
    model.fit(DOCUMENTS, 3, adam=adam)
    model.loss(DOCUMENTS[0]).backward()
    return model, adam


def state(model, adam):
    """Return the training state, by bits."""
    settings = (adam.learning_rate, adam.beta1, adam.beta2, adam.eps_adam, adam.num_steps, adam.t)
    return (
        settings,
        model.config,
        bits(*model.weights()),
        bits(*model.gradients()),
        bits(*adam.m),
        bits(*adam.v),
    )


def goes_on(model, adam):
    """Train for four more steps; return the losses and the state."""
    return bits(*model.fit(DOCUMENTS, 4, 2, adam=adam)), state(model, adam)


def train_elsewhere(both):
    return goes_on(*both), both
