"""_testing.pyx, compiled for processors with AVX2."""

include "_testing.pyx"
