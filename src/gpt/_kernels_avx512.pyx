"""_kernels.pyx, compiled for processors with AVX-512."""

include "_kernels.pyx"
