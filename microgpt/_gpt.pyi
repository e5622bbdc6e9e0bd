from array import array
from collections.abc import Sequence
from typing import Any

from typing_extensions import Self

from microgpt.gpt import Config

def runs(simd: str) -> bool: ...
def step_arrays(kernels: Any, adam: Any, data: array[float], grads: array[float]) -> None: ...

class Buffer:
    n: int
    def __new__(cls, n: int) -> Self: ...

class View: ...

class Network:
    config: Config
    def __new__(cls, config: Any, kernels: Any) -> Self: ...
    def view(self, grad: bool, start: int, *shape: int) -> memoryview: ...

class Documents:
    n: int
    def __new__(
        cls, network: Network, documents: Sequence[Sequence[int]], bos: bool = False
    ) -> Self: ...

class Pass:
    network: Network
    loss: float
    def __init__(
        self,
        network: Network,
        documents: Sequence[Sequence[int]],
        dropout: float = 0.0,
        rng: Any = None,
    ) -> None: ...
    def weights(self) -> memoryview: ...
    def positions(self) -> list[int]: ...
    def activation(self, name: str, layer: int = 0) -> memoryview: ...
    def attention(self, layer: int, document: int) -> memoryview: ...
    def backward(self) -> None: ...

class Moments:
    network: Network
    def __init__(self, network: Network) -> None: ...
    def view(self, second: bool) -> memoryview: ...
    def step(self, adam: Any) -> None: ...

class Trainer:
    def __init__(self, network: Network, moments: Moments | None, threads: int) -> None: ...
    def close(self) -> None: ...
    def run(
        self,
        documents: Documents,
        batch_size: int,
        adam: Any,
        losses: list[float],
        seconds: float,
        dropout: float = 0.0,
        rng: Any = None,
    ) -> None: ...
    def evaluate(
        self, documents: Documents, batch_size: int, nats: float, seconds: float
    ) -> tuple[float, int, int]: ...

class Sampler:
    def __new__(cls, network: Network) -> Self: ...
    def generate(
        self,
        tokens: list[int],
        temperature: float,
        top_k: int | None,
        top_p: float | None,
        length: int,
        stop: list[int],
        bos: bool,
        rng: Any,
    ) -> list[int]: ...
