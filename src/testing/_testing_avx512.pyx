"""_testing.pyx, compiled for processors with AVX-512."""

include "_testing.pyx"
