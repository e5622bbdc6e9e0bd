"""Mutants of the compiled `Value`: src/_engine."""

from mutants import of

MUTANTS = [
    *of(
        "src/steps.pxi",
        "test_replay.py",
        (
            "out[lanes + lane] = 1.0 - pow_or_error(out[lane], 2.0, &error)",
            "out[lanes + lane] = 1.0 - out[lane] * out[lane]",
        ),
    ),
    *of(
        "src/replay.pxi",
        "test_replay.py",
        (
            "(<Value>node).local_grad[0] = 1.0 - c_pow(x, 2.0)",
            "(<Value>node).local_grad[0] = 1.0 - x * x",
        ),
    ),
    *of(
        "src/sums.pxi",
        "test_value.py",
        (
            "(<Value>node).c_grad == 0.0 and not signbit((<Value>node).c_grad)",
            "(<Value>node).c_grad == 0.0",
        ),
    ),
    *of("src/batch.pxi", "test_replay.py", ("            PyErr_CheckSignals()\n", "")),
]
