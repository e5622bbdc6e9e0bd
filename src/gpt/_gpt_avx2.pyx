"""_gpt.pyx, compiled for processors with AVX2."""

include "_gpt.pyx"
