"""_gpt.pyx, compiled for processors with AVX-512."""

include "_gpt.pyx"
