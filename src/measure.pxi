# ------------------------------------------------------------------- measure
#
# What is measured, not used: Adam's certificates under attack, the machine's roofs.


def hunt(Py_ssize_t n, unsigned long long seed):
    """Attack Adam's certificates with n numbers, for roots half of them next to a midpoint.

    Half of the numbers have few bits, so that their squares fall on midpoints and
    near them. In doubt, the power has to be one of the two neighbours.

    Shapes:  returns {power: (certain, of these wrong)}
    """
    cdef double x[8]
    cdef double y[8]
    cdef double above[8]
    cdef double size, power, other
    cdef Py_ssize_t i, k
    cdef Py_ssize_t certain[2]
    cdef Py_ssize_t wrong[2]
    cdef unsigned int doubt, out
    cdef vec v, root, residual
    certain[:] = [0, 0]
    wrong[:] = [0, 0]
    with nogil:
        for i in range(n // LANES):
            for k in range(LANES):
                seed ^= seed << 13
                seed ^= seed >> 7
                seed ^= seed << 17
                size = 1.0 + <double>(seed >> 12) * DBL_EPSILON
                if seed & 1:  # 27 to 34 bits
                    size = floor(ldexp(size, 26 + <int>((seed >> 1) & 7)))
                    size = ldexp(size, -26)
                x[k] = ldexp(size, <int>((seed >> 4) % 60) - 30)
                # The midpoint above x, squared and rounded: its root is near that midpoint.
                y[k] = x[k] * x[k] + x[k] * (nextafter(x[k], INFINITY) - x[k])
            v = vec_load(x)
            residual = vec_residual(v * v, v)
            doubt = mask_bits(square_is_doubtful(v * v, v, residual))
            out = mask_bits(is_out_of_range(v * v, v))
            vec_store(above, residual)
            for k in range(LANES):
                power = pow(x[k], 2.0)
                other = nextafter(x[k] * x[k], 0.0 if above[k] > 0.0 else INFINITY)
                if not out >> k & 1:
                    certain[0] += not doubt >> k & 1
                    wrong[0] += power != x[k] * x[k] and not (doubt >> k & 1 and power == other)
                if i & 1:
                    y[k] = x[k]
            v = vec_load(y)
            root = vec_sqrt(v)
            residual = vec_residual(v, root)
            doubt = mask_bits(root_is_doubtful(root, v, residual))
            out = mask_bits(is_out_of_range(v, v))
            vec_store(above, residual)
            for k in range(LANES):
                power = pow(y[k], 0.5)
                other = nextafter(sqrt(y[k]), INFINITY if above[k] > 0.0 else 0.0)
                if not out >> k & 1:
                    certain[1] += not doubt >> k & 1
                    wrong[1] += power != sqrt(y[k]) and not (doubt >> k & 1 and power == other)
    return {2.0: (certain[0], wrong[0]), 0.5: (certain[1], wrong[1])}


def peak(double seconds):
    """Return how many multiply-then-adds a second this instruction set reaches at best.

    Sixteen vectors in registers, each multiplied and then added to, again and again:
    more than the two units' latencies together, so that neither ever waits.
    """
    cdef vec x[16]
    cdef vec factor = vec_set(0.999999)
    cdef vec term = vec_set(1e-6)
    cdef double total = 0.0
    cdef double best = 0.0
    cdef double until = now() + seconds
    cdef double start
    cdef double y[8]
    cdef Py_ssize_t _, k
    with nogil:
        for k in range(16):
            x[k] = vec_set(0.1 * k)
        while now() < until:
            start = now()
            for _ in range(20000):
                for k in range(16):
                    x[k] = x[k] * factor + term
            best = max(best, 20000.0 * 16.0 * LANES / (now() - start))
        for k in range(16):
            vec_store(y, x[k])
            total += y[0]
    return best if total > 0.0 else 0.0
