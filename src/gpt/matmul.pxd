"""Matrix products: one kernel computes all of them, forward and backward.

Each output is a sum whose terms are added one after the other, in the order of k. Vectors
run across outputs: a tile of TILE_ROWS x TILE_VECS of them stays in registers, so many
sums grow side by side and the adder is never idle. The order of a sum does not depend on the
instruction set, the size of the tile, or the blocks into which k is divided.

Large products are cut into blocks that fit into the caches, and their operands packed:
copied into the order in which tiles read them, a panel of TILE_ROWS rows of a or of PANEL
columns of b after the other (K. Goto, R. van de Geijn, 2008, doi:10.1145/1356052.1356053).
"""

cimport cython

from simd cimport (
    LANES, PANEL, TILE_ROWS, TILE_VECS, padded, vec_load, vec_store, vec_transpose,
)


cdef extern from "tile.h" nogil:
    ctypedef struct Tile:
        double *c
        const double *a
        const double *b
        const double *fetch
        Py_ssize_t k_n, c_row, a_row, a_step, b_step, fetch_step, last
        bint add
    void tile(Tile t, Py_ssize_t rows, Py_ssize_t vecs)
    void tiles(Tile t, Py_ssize_t m, Py_ssize_t n)


cdef enum:
    M_BLOCK = 96  # rows of a in L2, a whole number of tiles
    N_BLOCK = 528  # columns of b packed at once
    K_BLOCK = 256  # steps of a sum at once: a panel of b fits into L1
    LEAST_ROWS = 32  # the least sizes that are worth packing
    LEAST_STEPS = 33  # sums of fewer are computed row by row
    STEPS_AT_ONCE = 8  # columns copied into each panel in turn, so that reads go along the rows


cdef struct Product:  # c[i, j] = sum over k of a[i, k] * b[k, j]
    double *c  # (m, n), rows c_row apart
    const double *a  # (m, k), rows a_row apart, columns a_step
    const double *b  # (k, n), rows b_step apart, readable up to whole vectors
    Py_ssize_t m
    Py_ssize_t n
    Py_ssize_t k
    Py_ssize_t c_row
    Py_ssize_t a_row
    Py_ssize_t a_step  # negative, as b_step, for a sum in descending order
    Py_ssize_t b_row  # between columns of b: 1, except for `multiply_packed`
    Py_ssize_t b_step
    bint add  # whether the sums continue those in c
    bint whole  # whether c may be written up to whole vectors
    const double *fetch  # what is read next, or NULL: fetch_step numbers for each k of a tile
    Py_ssize_t fetch_step
    double *scratch  # (packed_scratch(n, k),) of `multiply_packed`
    # For a sum in another order of `multiply_packed`: in a and b, k lies in runs parts, of each of
    # which run steps are taken in turn. Else runs is 1 and run is k.
    Py_ssize_t run
    Py_ssize_t runs


@cython.cdivision(True)
cdef inline void multiply_matrices(const Product *p) noexcept nogil:
    """Compute a product: of long sums column by column, of short ones row by row.

    Memory that is read in steps is prefetched: no processor predicts such reads.

    Order:   k first to last, from 0, or from c if add
    Writes:  c
    """
    cdef Py_ssize_t n = 0
    cdef Tile t
    t.k_n = p.k
    t.c_row = p.c_row
    t.a_row = p.a_row
    t.a_step = p.a_step
    t.b_step = p.b_step
    t.add = p.add
    t.fetch = p.fetch
    t.fetch_step = p.fetch_step
    if p.k < LEAST_STEPS and p.fetch == NULL:
        t.last = LANES if p.whole else (p.n - 1) % LANES + 1
        t.a, t.b, t.c = p.a, p.b, p.c
        tiles(t, p.m, p.n)
        return
    while n < p.n:
        t.b = p.b + n
        t.c = p.c + n
        t.a = p.a
        tile_column(&t, p, n, p.m, 0)
        n += PANEL


@cython.cdivision(True)
cdef inline void tile_column(
    Tile *t, const Product *p, Py_ssize_t n, Py_ssize_t m, Py_ssize_t a_tile
) noexcept nogil:
    """Compute m rows of a product's columns n up to n + PANEL.

    Of the last rows one tile would be too low to keep the adder busy: two share them.

    Shapes:  t.a, tiles of rows a_tile apart, or 0 where it is not packed
    """
    cdef Py_ssize_t vecs = min(<Py_ssize_t>PANEL, padded(p.n - n)) // LANES
    cdef Py_ssize_t rows
    t.last = LANES if p.whole else min(<Py_ssize_t>LANES, p.n - n - (vecs - 1) * LANES)
    while m > 0:
        rows = min(<Py_ssize_t>TILE_ROWS, m)
        if a_tile == 0 and rows < m < 2 * TILE_ROWS:
            rows = (m + 1) // 2
        tile(t[0], rows, vecs)
        if t.fetch != NULL:
            t.fetch += t.k_n * t.fetch_step
        t.a += a_tile if a_tile else rows * t.a_row
        t.c += rows * t.c_row
        m -= rows


cdef inline bint is_packed(Py_ssize_t m, Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Return whether a product of these sizes is worth packing."""
    return m >= LEAST_ROWS and n >= 2 * LEAST_ROWS and k >= LEAST_STEPS


cdef inline Py_ssize_t packed_scratch(Py_ssize_t n, Py_ssize_t k) noexcept nogil:
    """Return how many numbers `multiply_packed` needs for at most n columns and k steps."""
    return min(k, <Py_ssize_t>K_BLOCK) * (M_BLOCK + min(n + PANEL, <Py_ssize_t>N_BLOCK))


cdef inline void multiply_packed(const Product *p) noexcept nogil:
    """Compute a product block by block, each packed first."""
    cdef Py_ssize_t m, n, k, j, rows, columns, steps
    cdef Tile t
    cdef double *a = p.scratch
    cdef double *b = p.scratch + M_BLOCK * min(p.k, <Py_ssize_t>K_BLOCK)
    t.c_row = p.c_row
    t.a_row = 1
    t.a_step = TILE_ROWS if p.a_step > 0 else -TILE_ROWS
    t.b_step = PANEL if p.b_step > 0 else -PANEL
    t.fetch = NULL
    t.fetch_step = 0
    n = 0
    while n < p.n:
        columns = min(<Py_ssize_t>N_BLOCK, p.n - n)
        k = 0
        while k < p.k:
            steps = min(<Py_ssize_t>K_BLOCK, p.k - k)
            t.k_n = steps
            t.add = p.add or k > 0
            pack_steps(b, p.b + n * p.b_row, columns, k, steps, PANEL, p.b_row, p.b_step, p)
            m = 0
            while m < p.m:
                rows = min(<Py_ssize_t>M_BLOCK, p.m - m)
                pack_steps(
                    a, p.a + m * p.a_row, rows, k, steps, TILE_ROWS, p.a_row, p.a_step, p
                )
                j = 0
                while j < columns:
                    t.a = a if t.a_step > 0 else a + (steps - 1) * TILE_ROWS
                    t.b = b + j * steps if t.b_step > 0 else b + j * steps + (steps - 1) * PANEL
                    t.c = p.c + m * p.c_row + n + j
                    tile_column(&t, p, n + j, rows, steps * TILE_ROWS)
                    j += PANEL
                m += M_BLOCK
            k += K_BLOCK
        n += N_BLOCK


@cython.cdivision(True)
cdef inline void copy_panel(
    double *to, const double *from_, Py_ssize_t n, Py_ssize_t k, Py_ssize_t width, Py_ssize_t step
) noexcept nogil:
    """Write n numbers, width or whole vectors, of k columns step apart to columns width apart."""
    cdef Py_ssize_t _x, j
    for _x in range(k):
        if n == width:  # a constant where this is inlined
            for j in range(width // LANES):
                vec_store(to + j * LANES, vec_load(from_ + j * LANES))
            if width % LANES:  # two vectors overlap
                vec_store(to + width - LANES, vec_load(from_ + width - LANES))
        else:
            for j in range(n // LANES):
                vec_store(to + j * LANES, vec_load(from_ + j * LANES))
        to += width
        from_ += step


@cython.cdivision(True)
cdef inline void pack_steps(
    double *to, const double *from_, Py_ssize_t n, Py_ssize_t first, Py_ssize_t steps,
    Py_ssize_t width, Py_ssize_t row, Py_ssize_t step, const Product *p,
) noexcept nogil:
    """Pack an operand of a product from step first on, run by run.

    Shapes:  from_ points to the first step of all; the rest as `pack`
    """
    cdef Py_ssize_t i = first
    cdef Py_ssize_t end = first + steps
    cdef Py_ssize_t size, run
    if step < 0:
        from_ += (p.k - 1) * step
        step = -step
        i = p.k - end
        end = i + steps
    while i < end:
        run = i // p.run
        size = min(p.run - i % p.run, end - i)
        pack(
            to, from_ + (run % p.runs * (p.k // p.runs) + run // p.runs * p.run + i % p.run) * step,
            n, size, width, row, step, steps,
        )
        to += size * width
        i += size


cdef inline void pack(
    double *to, const double *from_, Py_ssize_t n, Py_ssize_t k, Py_ssize_t width,
    Py_ssize_t row, Py_ssize_t step, Py_ssize_t steps,
) noexcept nogil:
    """Write panels of width of the n rows of a matrix, each panel column after column.

    Shapes:  to (n / width, steps, width), its first k of steps; from_ (n, k), numbers row and step
             apart: row or step is 1; readable up to whole vectors
    """
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t j = 0
    cdef Py_ssize_t size = k if n <= width else STEPS_AT_ONCE
    while row != 1 and i < n:
        transpose(to + i * steps, from_ + i * row, min(width, n - i), k, width, row)
        i += width
    while row == 1 and j < k:
        i = 0
        while i < n:
            copy_panel(
                to + i * steps + j * width, from_ + i + j * step, min(width, padded(n - i)),
                min(size, k - j), width, step,
            )
            i += width
        j += size


@cython.cdivision(True)
cdef inline void transpose(
    double *to, const double *from_, Py_ssize_t m, Py_ssize_t n, Py_ssize_t to_row,
    Py_ssize_t from_row,
) noexcept nogil:
    """Write the transpose of a matrix, square by square.

    Shapes:  to (n, m), up to whole vectors or to_row; from_ (m, n), readable up to whole vectors
    """
    cdef const double *rows[LANES]
    cdef double square[LANES * LANES]
    cdef Py_ssize_t i = 0
    cdef Py_ssize_t at, j, k
    while i < m:
        at = min(i, to_row - LANES)  # two squares may overlap
        for j in range(LANES):  # behind the last row comes that row again
            rows[j] = from_ + min(at + j, m - 1) * from_row
        k = 0
        while k < n:
            if k + LANES <= n:
                vec_transpose(to + k * to_row + at, to_row, rows, k)
            else:
                vec_transpose(square, LANES, rows, k)
                for j in range(n - k):
                    vec_store(to + (k + j) * to_row + at, vec_load(square + j * LANES))
            k += LANES
        i += LANES
