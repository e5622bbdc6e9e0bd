"""The functions of the fused step that are compiled once for each instruction set, as a table.

Each module of `_kernels.pyx` has one; `_gpt.pyx`, the interface to Python, is compiled once and
calls the one that its network was given.
"""

from activations cimport Activations
from optimizer cimport AdamStep
from simd cimport divisor
from training cimport Job


cdef struct Kernels:
    Py_ssize_t (*padded)(Py_ssize_t n) noexcept nogil
    divisor (*divisor_of)(double number) noexcept nogil
    bint (*begin_batch)(
        Activations *acts, const Py_ssize_t *tokens, const Py_ssize_t *ends, Py_ssize_t n_documents
    ) noexcept nogil
    void (*draw_masks)(Activations *acts) noexcept nogil
    void (*forward)(
        Activations *acts, const double *w, Py_ssize_t first, Py_ssize_t last, bint losses,
        int thread,
    ) noexcept nogil
    void (*softmax_forward)(
        double *probs, double *exps, double *totals, double *inverses, const double *logits,
        Py_ssize_t m, Py_ssize_t n, Py_ssize_t row,
    ) noexcept nogil
    void (*backward)(
        Activations *acts, const double *w, double *dw, bint add, int thread
    ) noexcept nogil
    double (*sum_of_squares)(const double *x, Py_ssize_t n) noexcept nogil
    Py_ssize_t (*first_that_raises)(
        const double *g, const double *v, Py_ssize_t n, const AdamStep *a, double factor
    ) noexcept nogil
    void (*multiply)(double *x, double factor, Py_ssize_t n) noexcept nogil
    void (*adam_step)(
        double *p, double *g, double *m, double *v, Py_ssize_t n, const AdamStep *a, bint clear
    ) noexcept nogil
    void (*worker_loop)(Job *job, int thread) noexcept nogil
