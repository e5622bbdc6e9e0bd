"""The optimizer: Adam with the learning rate falling linearly to zero."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, MutableSequence

from microgpt.oracle import Value


def update(
    params: list[Value],
    m: MutableSequence[float],
    v: MutableSequence[float],
    learning_rate: float,
    beta1: float,
    beta2: float,
    eps_adam: float,
    correction1: float,
    correction2: float,
) -> None:
    """Update every parameter once: the formulas of `Adam`, with this step's numbers.

    Shapes:  params, m, v (n,)
    Order:   params first to last; an exception leaves everything as it was before
    Writes:  data of params, grad of params as 0.0, m, v
    Raises:  OverflowError if the square of a gradient exceeds the largest float;
             ValueError if a second moment was made negative
    """
    numbers = [(p.data, p.grad) for p in params]
    moments = m[:], v[:]
    try:
        for i, p in enumerate(params):
            m[i] = beta1 * m[i] + (1 - beta1) * p.grad
            v[i] = beta2 * v[i] + (1 - beta2) * p.grad**2
            m_hat = m[i] / correction1
            v_hat = v[i] / correction2
            if v_hat < 0:
                raise ValueError(f"{v_hat} ** 0.5 is not a real number")
            p.data -= learning_rate * m_hat / (v_hat**0.5 + eps_adam)
            p.grad = 0.0
    except BaseException:
        for p, (data, grad) in zip(params, numbers):
            p.data, p.grad = data, grad
        m[:], v[:] = moments
        raise


class Adam:
    """Update params from their gradients, then clear the gradients.

    Per parameter, in this order:

        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        m_hat = m / (1 - beta1**(t + 1));  v_hat = v / (1 - beta2**(t + 1))
        data -= learning_rate * (1 - t / num_steps) * m_hat / (v_hat**0.5 + eps_adam)

    Shapes:  params (n,) of `Value`; m, v (n,), the moments; t, the steps done
    Raises:  ValueError if a setting is out of its range
    Source:  arXiv:1412.6980; microgpt's training loop
    """

    _update: Callable[..., None] = staticmethod(update)

    def __init__(
        self,
        params: Iterable[Value],
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps_adam: float = 1e-8,
        num_steps: int = 1000,
    ) -> None:
        for name, beta in (("beta1", beta1), ("beta2", beta2)):
            if not 0 <= beta < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {beta}")
        for name, number in (("learning_rate", learning_rate), ("eps_adam", eps_adam)):
            if not 0 <= number < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, not {number}")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {num_steps}")
        self.params = list(params)
        # A numpy.float32 would make the oracle's arithmetic single precision.
        self.learning_rate = float(learning_rate)
        self.beta1 = float(beta1)
        self.beta2 = float(beta2)
        self.eps_adam = float(eps_adam)
        self.num_steps = num_steps
        self.m = array("d", [0.0]) * len(self.params)
        self.v = array("d", [0.0]) * len(self.params)
        self.t = 0

    def step(self) -> None:
        """Update every parameter once.

        Order:   params first to last; an exception leaves everything as it was before
        Writes:  data of params, grad of params as 0.0, m, v, t
        Raises:  OverflowError if the square of a gradient exceeds the largest float;
                 ValueError after num_steps steps
        """
        if self.t >= self.num_steps:
            raise ValueError(f"all num_steps={self.num_steps} steps of this Adam are done")
        self._update(
            self.params,
            self.m,
            self.v,
            self.learning_rate * (1 - self.t / self.num_steps),
            self.beta1,
            self.beta2,
            self.eps_adam,
            1 - self.beta1 ** (self.t + 1),
            1 - self.beta2 ** (self.t + 1),
        )
        self.t += 1
