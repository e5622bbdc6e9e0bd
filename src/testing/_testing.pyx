"""Functions for tests and benchmarks alone, which need the kernels' own code.

Some try to refute the certificates of powers, quotients and exponentials (rule 5 of
docs/exactness.md): they search for numbers that libm rounds otherwise. The others measure the
peak of the machine's arithmetic and memory. tests/testing.py builds the module on demand, once for
each instruction set; it is not installed.
"""

cimport cython
from libc.float cimport DBL_EPSILON
from libc.math cimport INFINITY, exp, floor, ldexp, nextafter, pow
from libc.string cimport memcmp, memcpy

from clock cimport clock_gettime, now, timespec
from exponential cimport exponentials as exponentials_of_row
from exponential cimport libm_agrees, prepare_exponentials
from layers cimport (
    IN_DY, IN_NONE, IN_X, exps_forward, linear_backward_input, linear_backward_weights,
    linear_forward, linear_scratch, zeros_in,
)
from matmul cimport Product, multiply_matrices, multiply_packed, packed_scratch
from powers cimport inverse_power, other_square, powers, root_is_doubtful
from scalar cimport FIRST, SECOND, invert
from simd cimport (
    LANES, divisor, divisor_of, mask, mask_bits, padded, vec, vec_differ, vec_divisor, vec_load,
    vec_quotient, vec_residual, vec_set, vec_set_divisor, vec_sqrt, vec_store,
)
from sparse cimport multiply_sparse, sparse_scratch
from zeros cimport free_zeros, zeros

prepare_exponentials()


cdef inline unsigned long long draw(double *x, unsigned long long seed) noexcept nogil:
    """Write a number between 2**-30 and 2**30, half of them of few bits; return the next seed."""
    cdef double size
    seed ^= seed << 13
    seed ^= seed >> 7
    seed ^= seed << 17
    size = 1.0 + <double>(seed >> 12) * DBL_EPSILON
    if seed & 1:  # 27 to 34 bits
        size = floor(ldexp(size, 26 + <int>((seed >> 1) & 7)))
        size = ldexp(size, -26)
    x[0] = ldexp(size, <int>((seed >> 4) % 60) - 30)
    return seed


def attack_powers(Py_ssize_t n, unsigned long long seed):
    """Attack the powers with n numbers, for roots half of them next to a midpoint.

    Half of the numbers have few bits, so that their squares fall on midpoints and
    near them. In doubt, a square or root has to be one of the two neighbours; half of
    those are far from 1, and of the other powers a quarter. Certain beyond the range for
    which the margin is stated counts as wrong.

    Shapes:  returns {power: (certain, of these wrong)}
    """
    cdef double[6] exponents = [2.0, 0.5, -0.5, -1.0, -1.5, -2.0]
    cdef double x[8]
    cdef double y[8]
    cdef double results[8]
    cdef double others[8]
    cdef double lacking[8]
    cdef double power
    cdef Py_ssize_t i, j, k
    cdef Py_ssize_t certain[6]
    cdef Py_ssize_t wrong[6]
    cdef unsigned int doubt
    cdef mask doubtful
    cdef vec v, result, other
    for j in range(6):
        certain[j] = 0
        wrong[j] = 0
    with nogil:
        for i in range(n // LANES):
            for k in range(LANES):
                seed = draw(&x[k], seed)
            for j in range(6):
                for k in range(LANES):
                    y[k] = x[k]
                    if j == 1 and not i & 1:
                        # The midpoint above x, squared and rounded: its root is near that midpoint.
                        y[k] = x[k] * x[k] + x[k] * (nextafter(x[k], INFINITY) - x[k])
                    if j < 2 and i & 2:
                        y[k] = ldexp(y[k], -800 if j else 120 if i & 4 else -120)
                    if j > 1 and not i & 12:
                        y[k] = ldexp(y[k], 60 if i & 2 else -60)
                v = vec_load(y)
                if j == 0:
                    result = v * v
                    other = other_square(result, v)
                    vec_store(others, other)
                    doubtful = vec_differ(result, other)
                elif j == 1:
                    result = vec_sqrt(v)
                    other = vec_residual(v, result, result)
                    vec_store(lacking, other)
                    doubtful = root_is_doubtful(result, other)
                else:
                    result = inverse_power(&doubtful, v, exponents[j])
                doubt = mask_bits(doubtful)
                vec_store(results, result)
                for k in range(LANES):
                    power = pow(y[k], exponents[j])
                    if j == 1:
                        others[k] = nextafter(results[k], INFINITY if lacking[k] > 0.0 else 0.0)
                    certain[j] += not doubt >> k & 1
                    wrong[j] += power != results[k] and not (
                        doubt >> k & 1 and (j > 1 or power == others[k])
                    )
                    # The margin of the inverse powers is pow's bound for such results alone.
                    wrong[j] += j > 1 and not doubt >> k & 1 and not 1e-19 <= power <= 1e19
    return {exponents[j]: (certain[j], wrong[j]) for j in range(6)}


cdef extern from *:
    ctypedef unsigned long long wide "unsigned __int128"


@cython.cdivision(True)
def attack_quotients(Py_ssize_t n, unsigned long long seed):
    """Attack `vec_quotient` with n numbers, half of them as hard as there are.

    Those are x * 2**54 = middle * divisor - small, in odd integers of 53 bits, the
    middle between two doubles of 54, so that no quotient is closer to one. A quarter
    of the divisors is next to a power of two, where significant bits are nearly all ones.

    Shapes:  returns (n, of these wrong)
    """
    cdef double x[8]
    cdef double y[8]
    cdef double number
    cdef unsigned long long whole, inverse, middle
    cdef Py_ssize_t _, i, k
    cdef Py_ssize_t wrong = 0
    cdef divisor by
    with nogil:
        for i in range(n // LANES):
            seed = draw(&number, seed)
            whole = (seed >> 12) | 1 | (<unsigned long long>1 << 52)
            if not i & 6:
                whole = (<unsigned long long>1 << 53) - 1 - 2 * (seed % 499)
            inverse = whole  # modulo 2**64: each round doubles the number of right bits
            for _ in range(5):
                inverse *= 2 - whole * inverse
            number = ldexp(<double>whole, -53)
            by = divisor_of(number)
            for k in range(LANES):
                seed = draw(&x[k], seed)
                if i & 1:
                    middle = inverse * <unsigned long long>(2 * k - 7)
                    middle &= (<unsigned long long>1 << 54) - 1
                    x[k] = <double>(<unsigned long long>(<wide>middle * whole + (1 << 4) >> 54))
            vec_store(y, vec_quotient(vec_load(x), vec_set_divisor(by)))
            for k in range(LANES):
                wrong += y[k] != x[k] / number
    return n // LANES * LANES, wrong


def attack_inverses(Py_ssize_t n, unsigned long long seed):
    """Attack `invert`, which the scalar engine asks, with n numbers.

    Shapes:  returns {power: (certain, of these wrong)}
    """
    cdef double x, inverse, square
    cdef Py_ssize_t i
    cdef Py_ssize_t[2] certain = [0, 0]
    cdef Py_ssize_t[2] wrong = [0, 0]
    cdef int doubt
    with nogil:
        for i in range(n):
            seed = draw(&x, seed)
            if not i & 3:
                x = ldexp(x, 20 if i & 4 else -20)
            doubt = invert(x, &inverse, &square)
            if not doubt & FIRST:
                certain[0] += 1
                wrong[0] += inverse != pow(x, -1.0) or not 1e-19 <= inverse <= 1e19
            if not doubt & SECOND:
                certain[1] += 1
                wrong[1] += square != pow(x, -2.0) or not 1e-19 <= square <= 1e19
    return {-1.0: (certain[0], wrong[0]), -2.0: (certain[1], wrong[1])}


@cython.cdivision(True)
def inverse_powers(Py_ssize_t n, double exponent):
    """Return 40 numbers, all of them 7.0, after `powers` has written the first n.

    Those are powers of 1.0, 2.0, ...; behind these lie zeros, whose powers are always in doubt.
    """
    cdef double[48] x
    cdef double[48] y
    cdef Py_ssize_t i
    for i in range(48):
        x[i] = i + 1.0 if i < n else 0.0
        y[i] = 7.0
    powers(y, x, n, exponent)
    return [y[i] for i in range(40)]


def attack_exponentials(Py_ssize_t n, unsigned long long seed):
    """Attack the exponentials with n numbers from -741 to 10, of all sizes.

    Shapes:  returns (computed by vectors, wrong)
    """
    cdef double row[136]
    cdef double exps[136]
    cdef double[8] largest = [0.0] * 8
    cdef double size
    cdef Py_ssize_t i, k
    cdef Py_ssize_t by_vectors = 0
    cdef Py_ssize_t wrong = 0
    with nogil:
        for i in range(n // (17 * LANES)):  # several blocks, the last one not whole
            for k in range(17 * LANES):
                seed = draw(&size, seed)
                row[k] = <double>(seed >> 11) * ldexp(1.0, -53)
                if k & 1:
                    row[k] = ldexp(row[k], -<int>(seed % 60))
                row[k] *= -741.0 if not i & 15 else -500.0 if k & 2 else -10.0 if k & 12 else 10.0
            exponentials_of_row(exps, row, 1.0, largest, LANES, 17 * LANES)
            by_vectors += 17 * LANES if libm_agrees and i & 15 else 0
            for k in range(17 * LANES):
                wrong += exps[k] != exp(row[k])
    return by_vectors, wrong


cdef enum:
    MOST = 640  # rows, columns and steps of a product, and 64 more that lie around them


@cython.cdivision(True)
cdef inline double sum_of(
    const Product *p, Py_ssize_t j, Py_ssize_t x, double total, bint down
) noexcept nogil:
    """Return a product's sum in row j and column x, by a plain loop."""
    cdef Py_ssize_t k, i
    for k in range(p.k):
        i = p.k - 1 - k if down else k
        i = i // p.run % p.runs * (p.k // p.runs) + i // p.run // p.runs * p.run + i % p.run
        i = p.k - 1 - i if down else i
        total += p.a[j * p.a_row + i * p.a_step] * p.b[x * p.b_row + i * p.b_step]
    return total


cdef inline bint are_different(const double *x, const double *y, Py_ssize_t n) noexcept nogil:
    """Return whether x and y (n,) differ in a bit of a number, or in which are NaN."""
    cdef Py_ssize_t i
    for i in range(n):
        if memcmp(x + i, y + i, sizeof(double)) and (x[i] == x[i] or y[i] == y[i]):
            return True
    return False


@cython.cdivision(True)
def attack_products(Py_ssize_t n, unsigned long long seed):
    """Attack products with n pairs of matrices of any sizes: every sum is that of a plain loop.

    A quarter is not packed. Sums go up or down, from 0 or from what is there; rows or columns
    of either matrix lie in memory one after the other. What lies behind the columns stays as it
    is, but for whole vectors where they may be written. Of a third, half of a is zero: their terms
    are left out, but not where a number of b is infinite.

    Shapes:  returns (n, of these wrong)
    """
    cdef Py_ssize_t size = (MOST + 64) * (MOST + 64)
    cdef Py_ssize_t scratch_size = max(packed_scratch(MOST, MOST), sparse_scratch(MOST))
    cdef double *a = <double *>zeros((5 * size + scratch_size) * sizeof(double))
    cdef double *b = a + size
    cdef double *found = b + size
    cdef double *expected = found + size
    cdef double *with_zeros = expected + size
    cdef Py_ssize_t wrong = 0
    cdef Py_ssize_t _, i, j, x, at, end, row = MOST + 32
    cdef double total
    cdef bint down, by_columns, sparse, turned
    cdef Product p
    if a == NULL:
        raise MemoryError()
    with nogil:
        for i in range(size):
            seed = draw(&a[i], seed)
            seed = draw(&b[i], seed)
            with_zeros[i] = a[i] if seed >> 63 else 0.0 if seed >> 62 else -0.0
        for _ in range(n):
            seed = draw(&total, seed)
            p.m = 1 + (seed >> 8) % 110
            p.n = 1 + (seed >> 16) % (MOST if seed & 64 else 60)
            p.k = 1 + (seed >> 26) % (MOST if seed & 128 else 60)
            down, by_columns, p.add, p.whole = seed & 1, seed & 2, seed & 4, seed & 8
            sparse = seed & 48 and (seed >> 52) % 3 == 0
            turned = sparse and (seed >> 54) % 2 == 0
            p.c, p.scratch, p.c_row = found, with_zeros + size, row
            p.a_row, p.a_step, p.b_row, p.b_step = row, 1, 1, row
            if by_columns:
                p.a_row, p.a_step = 1, row
            if seed & 48 == 16 and not (sparse and down):
                p.b_row, p.b_step = row, 1
            if turned:
                p.m = padded(p.m + 60)  # often two blocks of rows
            p.a, p.b, p.fetch, p.fetch_step = a + 32, b + 32, NULL, 0
            p.run, p.runs = p.k, 1
            if sparse:
                p.a = with_zeros + 32
            elif seed & 48 and (seed >> 36) % 4 == 0:
                p.run, p.runs = 1 + (seed >> 40) % 20, 1 + (seed >> 46) % 4
                p.k = max(p.k // (p.run * p.runs), 1) * p.run * p.runs
            if down:
                p.a += (p.k - 1) * p.a_step
                p.b += (p.k - 1) * p.b_step
                p.a_step, p.b_step = -p.a_step, -p.b_step
            memcpy(found, a, size * sizeof(double))
            memcpy(expected, a, size * sizeof(double))
            i = 32 + (seed >> 20) % 60 * row + (seed >> 30) % 60
            total = b[i]
            if (seed >> 57) % 4 == 0:
                b[i] = INFINITY
            for j in range(p.m):
                for x in range(p.n):
                    at = x * row + j if turned else j * row + x
                    expected[at] = sum_of(&p, j, x, expected[at] if p.add else 0.0, down)
            if seed & 48 == 0:
                multiply_matrices(&p)
            elif sparse:
                multiply_sparse(&p, turned)
            else:
                multiply_packed(&p)
            b[i] = total
            end = padded(p.n) if p.whole and not turned else p.n
            for j in range(p.m):  # what whole vectors have written is of no use
                memcpy(found + j * row + p.n, a + j * row + p.n, (end - p.n) * sizeof(double))
            wrong += are_different(found, expected, size)
        free_zeros(a)
    return n, wrong


cdef extern from "peak.h" nogil:
    enum: ACCUMULATORS
    double multiply_and_add(long rounds)
    double multiply_and_add_plainly(long rounds)


def peak(double seconds):
    """Return how many multiply-then-adds a second this instruction set reaches at best."""
    cdef double best = 0.0
    cdef double total = 0.0
    cdef double until = now() + seconds
    cdef double start
    with nogil:
        while now() < until:
            start = now()
            total += multiply_and_add(20000)
            best = max(best, 20000.0 * ACCUMULATORS * LANES / (now() - start))
    return best if total > 0.0 else 0.0


def peak_sums(long rounds):
    """Return what the loop of `peak` adds up to, by vectors and in plain C."""
    return multiply_and_add(rounds), multiply_and_add_plainly(rounds)


cdef extern from "<time.h>" nogil:
    enum: CLOCK_THREAD_CPUTIME_ID


cdef inline double processor_time() noexcept nogil:
    """Return the processor's seconds of this thread: other programs hardly count."""
    cdef timespec time
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time)
    return time.tv_sec + 1e-9 * time.tv_nsec


@cython.cdivision(True)
def linear(Py_ssize_t m, Py_ssize_t n_out, Py_ssize_t n_in, double seconds, str zeros_of=""):
    """Return how many multiply-then-adds a second a linear layer's three products reach at best.

    Of m positions: forward, backward to the inputs, backward to the weights. Half of the
    operand named, "x" or "dy", is zero, and its products are counted all the same.
    """
    cdef zeros_in sparse = IN_X if zeros_of == "x" else IN_DY if zeros_of == "dy" else IN_NONE
    cdef Py_ssize_t x_row = padded(n_in)
    cdef Py_ssize_t y_row = padded(n_out)
    cdef Py_ssize_t most = max(m * max(x_row, y_row), n_out * n_in)
    cdef Py_ssize_t scratch_size = max(
        linear_scratch(m, n_out, n_in), sparse_scratch(max(n_out, n_in))
    )
    cdef double *x = <double *>zeros((4 * most + scratch_size) * sizeof(double))
    cdef double *y = x + most
    cdef double *w = y + most
    cdef double *result = w + most
    cdef double *scratch = result + most
    cdef double[3] best = [0.0, 0.0, 0.0]
    cdef double start, until
    cdef Py_ssize_t i
    cdef unsigned long long seed = 1
    if x == NULL:
        raise MemoryError()
    with nogil:
        for i in range(2 * most):
            seed = draw(&x[i], seed)
            if sparse == (IN_X if i < most else IN_DY) and seed >> 63:
                x[i] = 0.0
        until = processor_time() + seconds
        while processor_time() < until:
            for i in range(3):
                start = processor_time()
                if i == 0:
                    linear_forward(
                        result, x, w, NULL, scratch, m, n_out, n_in, y_row, x_row, sparse == IN_X
                    )
                elif i == 1:
                    linear_backward_input(
                        result, y, w, scratch, m, n_out, n_in, x_row, y_row, False,
                        sparse == IN_DY,
                    )
                else:
                    linear_backward_weights(
                        result, y, x, scratch, m, n_out, n_in, y_row, x_row, False, sparse
                    )
                best[i] = max(best[i], <double>m * n_out * n_in / (processor_time() - start))
        free_zeros(x)
    return best[0], best[1], best[2]


@cython.cdivision(True)
def updates(double seconds):
    """Return how many weights a second Adam's quotients and root allow at best.

    Two of the quotients are by one divisor for all weights, the third is by the root.
    """
    cdef vec x[8]
    cdef vec one = vec_set(1.0)
    cdef vec_divisor by = vec_set_divisor(divisor_of(0.999999))
    cdef double total = 0.0
    cdef double best = 0.0
    cdef double until = now() + seconds
    cdef double start
    cdef double y[8]
    cdef Py_ssize_t _, k
    with nogil:
        for k in range(8):
            x[k] = vec_set(1.0 + 0.1 * k)
        while now() < until:
            start = now()
            for _ in range(2000):
                for k in range(8):
                    x[k] = vec_quotient(one / vec_sqrt(vec_quotient(x[k], by)), by)
            best = max(best, 2000.0 * 8.0 * LANES / (now() - start))
        for k in range(8):
            vec_store(y, x[k])
            total += y[0]
    return best if total > 0.0 else 0.0


@cython.cdivision(True)
def exponentials(double seconds):
    """Return how many exponentials a second rows of 128 numbers near the L1 cache reach at best.

    As softmax takes them: the largest number is found and subtracted.
    """
    cdef double x[128]
    cdef double y[128]
    cdef double total = 0.0
    cdef double best = 0.0
    cdef double until = processor_time() + seconds
    cdef double start
    cdef unsigned long long seed = 1
    cdef Py_ssize_t _, i
    for i in range(128):
        seed = draw(&x[i], seed)
        x[i] = <double>(seed >> 11) * ldexp(1.0, -51)  # from 0 to 4
    with nogil:
        while processor_time() < until:
            start = processor_time()
            for _ in range(1000):
                exps_forward(y, x, 1.0, 128)
                total += y[0]
            best = max(best, 1000.0 * 128.0 / (processor_time() - start))
    return best if total > 0.0 else 0.0


def stream(Py_ssize_t n, double seconds):
    """Return the least seconds in which a step of n weights can move its numbers.

    The weights are read twice, forward and backward, then they and both moments are
    read and written, as Adam does, with next to no arithmetic.
    """
    cdef double *w = <double *>zeros(3 * padded(n) * sizeof(double))
    cdef double *m = w + padded(n)
    cdef double *v = m + padded(n)
    cdef vec sums[8]
    cdef vec term = vec_set(1e-6)
    cdef double until = now() + seconds
    cdef double best = INFINITY
    cdef double start
    cdef double y[8]
    cdef Py_ssize_t _, i, k
    if w == NULL:
        raise MemoryError()
    with nogil:
        for k in range(8):
            sums[k] = term
        while now() < until:
            start = now()
            for _ in range(2):
                for i in range(padded(n) // LANES // 8):
                    for k in range(8):
                        sums[k] = sums[k] + vec_load(w + (i * 8 + k) * LANES)
            for i in range(padded(n) // LANES):
                vec_store(w + i * LANES, vec_load(w + i * LANES) + term)
                vec_store(m + i * LANES, vec_load(m + i * LANES) + term)
                vec_store(v + i * LANES, vec_load(v + i * LANES) + term)
            best = min(best, now() - start)
        for k in range(1, 8):
            sums[0] = sums[0] + sums[k]
        vec_store(y, sums[0])
        free_zeros(w)
    return best if y[0] > 0.0 else 0.0
