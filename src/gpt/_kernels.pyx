"""The fused step's functions for one instruction set: what setup.py compiles once for each."""

from cpython.pycapsule cimport PyCapsule_New

from activations cimport begin_batch, draw_masks, pack_weights
from exponential cimport prepare_exponentials
from kernels cimport Kernels
from layers cimport softmax_forward
from model cimport attention_weights, backward, forward, loss_forward
from optimizer cimport adam_step, clip_factor, first_that_raises, multiply, sum_of_squares
from simd cimport divisor_of, padded
from training cimport gradients_size, worker_loop

cdef Kernels KERNELS
KERNELS.padded = padded
KERNELS.divisor_of = divisor_of
KERNELS.begin_batch = begin_batch
KERNELS.draw_masks = draw_masks
KERNELS.pack_weights = pack_weights
KERNELS.forward = forward
KERNELS.loss_forward = loss_forward
KERNELS.softmax_forward = softmax_forward
KERNELS.attention_weights = attention_weights
KERNELS.backward = backward
KERNELS.sum_of_squares = sum_of_squares
KERNELS.clip_factor = clip_factor
KERNELS.first_that_raises = first_that_raises
KERNELS.multiply = multiply
KERNELS.adam_step = adam_step
KERNELS.gradients_size = gradients_size
KERNELS.worker_loop = worker_loop

prepare_exponentials()
table = PyCapsule_New(&KERNELS, "microgpt.Kernels", NULL)
