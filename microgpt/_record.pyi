from array import array

OPS: dict[str, int]

class Numbers:
    @property
    def data(self) -> array[float]: ...
    @property
    def grads(self) -> array[float]: ...
    @property
    def int_grads(self) -> bytearray: ...
    def __new__(cls, n: int) -> Numbers: ...
    def reserve(self, n: int) -> None: ...
    def clear_types(self) -> None: ...

class Recording:
    @property
    def root(self) -> int: ...
    @property
    def has_backward(self) -> bool: ...
    @property
    def depends(self) -> int: ...
    def __new__(
        cls,
        n_slots: int,
        n_weights: int,
        root: int,
        forward: array[int],
        backward: array[int],
        pieces: array[int],
        pool: array[int],
        powers: array[float],
        table: array[int],
        main: int,
        choices: array[int],
        constants: list[tuple[int, float]],
        inputs: list[int],
        depends: int,
    ) -> Recording: ...
    def replay(
        self,
        numbers: Numbers,
        chosen: list[int],
        inputs: list[float],
        gradient: float | None = None,
    ) -> float | None: ...
