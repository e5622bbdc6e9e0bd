"""The optimizer: Adam, with a schedule of learning rates, weight decay and clipping."""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterable, MutableSequence, Sequence

from microgpt.oracle import Value

SCHEDULES = ("linear", "constant", "cosine")


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
    Writes:  data of params, grad of params as 0, m, v
    Raises:  OverflowError if the square of a gradient exceeds the largest float;
             ValueError if a second moment was made negative
    """
    numbers = [(p.data, p.grad) for p in params]
    moments = m[:], v[:]
    try:
        for i, p in enumerate(params):
            grad = float(p.grad)
            m[i] = beta1 * m[i] + (1 - beta1) * grad
            v[i] = beta2 * v[i] + (1 - beta2) * grad**2
            m_hat = m[i] / correction1
            v_hat = v[i] / correction2
            if v_hat < 0:
                raise ValueError(f"{v_hat} ** 0.5 is not a real number")
            p.data -= learning_rate * m_hat / (v_hat**0.5 + eps_adam)
            p.grad = 0
    except BaseException:
        for p, (data, grad) in zip(params, numbers):
            p.data, p.grad = data, grad
        m[:], v[:] = moments
        raise


def sum_of_squares(numbers: Sequence[float]) -> float:
    """Return the sum of x * x over numbers, in an order that vectors and threads can follow.

    Order:   blocks of 1,024 numbers, the last one shorter; in a block eight sums from 0.0,
             the i-th of the numbers i, i + 8, ... first to last; the eight sums left to
             right from 0.0; the blocks left to right from 0.0
    """
    total = 0.0
    for start in range(0, len(numbers), 1024):
        sums = [0.0] * 8
        for i, x in enumerate(numbers[start : start + 1024]):
            sums[i % 8] += x * x
        block = 0.0
        for part in sums:
            block += part
        total += block
    return total


class Adam:
    """Update params from their gradients, then clear the gradients.

    Per parameter, in this order:

        m = beta1 * m + (1 - beta1) * grad
        v = beta2 * v + (1 - beta2) * grad**2
        m_hat = m / (1 - beta1**(t + 1));  v_hat = v / (1 - beta2**(t + 1))
        data -= learning_rate * (1 - t / num_steps) * m_hat / (v_hat**0.5 + eps_adam)

    That is schedule "linear" without warmup and min_lr; `rate` has the other schedules.
    With a weight_decay, data is first multiplied by 1 - rate * weight_decay (AdamW). With
    a clip, all gradients are first multiplied by clip / (norm + 1e-6) where that is below 1;
    `sum_of_squares` gives the norm's square.

    Shapes:  params (n,) of `Value`; m, v (n,), the moments; t, the steps done; norms, None or
             a dictionary to which step t adds the norm of its gradients before they are clipped
    Raises:  ValueError if a setting is out of its range
    Source:  arXiv:1412.6980, arXiv:1711.05101; microgpt's training loop; nanoGPT's schedule
    """

    _update: Callable[..., None] = staticmethod(update)
    norms: dict[int, float] | None = None

    def __init__(
        self,
        params: Iterable[Value],
        learning_rate: float = 0.01,
        beta1: float = 0.85,
        beta2: float = 0.99,
        eps_adam: float = 1e-8,
        num_steps: int = 1000,
        *,
        schedule: str = "linear",
        warmup: int = 0,
        min_lr: float = 0.0,
        weight_decay: float = 0.0,
        clip: float | None = None,
    ) -> None:
        betas = {"beta1": beta1, "beta2": beta2}
        numbers = {
            "learning_rate": learning_rate,
            "eps_adam": eps_adam,
            "min_lr": min_lr,
            "weight_decay": weight_decay,
        }
        others = {"num_steps": num_steps, "warmup": warmup, "clip": clip or 0}
        for name, number in {**betas, **numbers, **others}.items():
            if not hasattr(number, "__float__"):
                raise TypeError(f"{name} must be a number, not {type(number).__name__}")
        for name, beta in betas.items():
            if not 0 <= beta < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {beta}")
        for name, number in numbers.items():
            if not 0 <= number < float("inf"):
                raise ValueError(f"{name} must be a finite number of at least 0, not {number}")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, not {num_steps}")
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, not {schedule!r}")
        if not 0 <= warmup < num_steps:
            raise ValueError(f"warmup must be in 0..{num_steps - 1}, below num_steps, not {warmup}")
        if min_lr > learning_rate:
            raise ValueError(f"min_lr ({min_lr}) is above learning_rate ({learning_rate})")
        if clip is not None and not 0 < clip < float("inf"):
            raise ValueError(f"clip must be a finite number above 0, or None, not {clip}")
        self.params = list(params)
        # A numpy.float32 would make the oracle's arithmetic single precision.
        self.learning_rate = float(learning_rate)
        self.beta1 = float(beta1)
        self.beta2 = float(beta2)
        self.eps_adam = float(eps_adam)
        self.num_steps = num_steps
        self.schedule = schedule
        self.warmup = warmup
        self.min_lr = float(min_lr)
        self.weight_decay = float(weight_decay)
        self.clip = None if clip is None else float(clip)
        self.m = array("d", [0.0]) * len(self.params)
        self.v = array("d", [0.0]) * len(self.params)
        self.t = 0

    def rate(self, t: int) -> float:
        """Return the learning rate of step t.

        For 0 <= t < warmup it is learning_rate * (t + 1) / (warmup + 1); then, with
        r = (t - warmup) / (num_steps - warmup), linear:
        min_lr + (1 - r) * (learning_rate - min_lr); cosine:
        min_lr + 0.5 * (1.0 + cos(pi * r)) * (learning_rate - min_lr).
        """
        if 0 <= t < self.warmup:
            return self.learning_rate * (t + 1) / (self.warmup + 1)
        if self.schedule == "constant":
            return self.learning_rate
        r = (t - self.warmup) / (self.num_steps - self.warmup)
        falling = 0.5 * (1.0 + math.cos(math.pi * r)) if self.schedule == "cosine" else 1 - r
        return self.min_lr + falling * (self.learning_rate - self.min_lr)

    def step(self) -> None:
        """Update every parameter once.

        Order:   params first to last; an exception leaves everything as it was before
        Writes:  data of params, grad of params as 0, m, v, t
        Raises:  OverflowError if the square of a gradient exceeds the largest float;
                 ValueError after num_steps steps
        """
        if self.t >= self.num_steps:
            raise ValueError(f"all num_steps={self.num_steps} steps of this Adam are done")
        rate = self.rate(self.t)
        if self.weight_decay or self.clip is not None or self.norms is not None:
            numbers = [(p.data, p.grad) for p in self.params]
            try:
                norm = self._clip_and_decay(rate)
                self._update_once(rate)
            except BaseException:
                for p, (data, grad) in zip(self.params, numbers):
                    p.data, p.grad = data, grad
                raise
            if self.norms is not None:
                self.norms[self.t] = norm
        else:
            self._update_once(rate)
        self.t += 1

    def _clip_and_decay(self, rate: float) -> float:
        """Clip the gradients and let the weights decay; return the norm, if it is used."""
        factor, norm = 1.0, 0.0
        if self.clip is not None or self.norms is not None:
            norm = math.sqrt(sum_of_squares([p.grad for p in self.params]))
        if self.clip is not None:
            factor = self.clip / (norm + 1e-6)
        if factor < 1.0:
            for p in self.params:
                p.grad *= factor
        if self.weight_decay:
            decay = 1 - rate * self.weight_decay
            for p in self.params:
                p.data *= decay
        return norm

    def _update_once(self, rate: float) -> None:
        self._update(
            self.params,
            self.m,
            self.v,
            rate,
            self.beta1,
            self.beta2,
            self.eps_adam,
            1 - self.beta1 ** (self.t + 1),
            1 - self.beta2 ** (self.t + 1),
        )
