"""_kernels.pyx, compiled for processors with AVX2."""

include "_kernels.pyx"
