# ------------------------------------------------------------------- sampler
#
# A model's tokens drawn one after the other. `random.choices` is a search for one
# random number among the weights' sums, so that search is all that is done for each
# token, wherever the generator's `choices` is Python's own.

cdef object CHOICES = random.Random.choices


cdef class Sampler:
    """Draw token after token, keeping the keys and values of those before."""

    cdef Trace trace
    cdef Network network
    cdef Buffer scaled
    cdef Buffer weights
    cdef Buffer cumulated

    def __cinit__(self, Network network):
        cdef Py_ssize_t size = network.sizes.block_size + 1
        cdef Py_ssize_t *tokens = <Py_ssize_t *>calloc(size, sizeof(Py_ssize_t))
        cdef Py_ssize_t[2] ends = [0, size]
        self.network = network
        self.trace.sizes = network.sizes
        self.trace.team.size = 1
        fine = tokens != NULL and begin(&self.trace, tokens, ends, 1)
        free(tokens)
        if not fine:
            raise MemoryError()
        self.scaled = Buffer(network.sizes.vocab_size)
        self.weights = Buffer(network.sizes.vocab_size)
        self.cumulated = Buffer(network.sizes.vocab_size)

    def __dealloc__(self):
        end(&self.trace)

    def generate(
        self, list tokens, temperature, top_k, top_p, Py_ssize_t length, list stop, bint bos, rng
    ):
        """Return the prompt and the tokens drawn after it, as `GPT.generate` does."""
        cdef Py_ssize_t end = self.trace.sizes.vocab_size - 1
        cdef Py_ssize_t block_size = self.trace.sizes.block_size
        cdef Py_ssize_t start = len(tokens)
        cdef Py_ssize_t read = 0
        cdef Py_ssize_t first, i, n
        cdef double factor = temperature**-1 if temperature else -1.0
        while len(tokens) < length:
            n = len(tokens) + bos
            first = max(n - block_size, 0)  # of BOS and the tokens
            if first > 0:
                read = 0
            n = n - first
            for i in range(read, n):
                self.put(i, end if bos and first + i == 0 else tokens[first + i - bos])
            with nogil:
                forward(&self.trace, self.network.data.at, read, n, 0)
            read = n
            token = self.draw(n - 1, factor, top_k, top_p, rng)
            if token == end:
                break
            tokens.append(token)
            if stop and tokens[start:][-len(stop):] == stop:
                break
        return tokens

    cdef int put(self, Py_ssize_t position, Py_ssize_t token) except -1:
        if not (0 <= position < self.trace.m and 0 <= token < self.trace.sizes.vocab_size):
            raise IndexError(f"there is no token {token} or no position {position}")
        self.trace.tokens[position] = token
        return 0

    cdef object draw(self, Py_ssize_t position, double factor, top_k, top_p, rng):
        """Return a token drawn after a position: what `rng.choices` returns.

        A factor below 0 takes the largest logit.

        Order:   weights summed left to right from the first; one number of rng.random
        """
        cdef double *logits = self.trace.logits + position * self.trace.sizes.vocab_row
        cdef double *scaled = self.scaled.at
        cdef double *weights = self.weights.at
        cdef double *cumulated = self.cumulated.at
        cdef double totals[LANES]
        cdef double inverses[LANES]
        cdef double x
        cdef Py_ssize_t n = self.trace.sizes.vocab_size
        cdef Py_ssize_t i, low, middle, high
        ids = range(n)
        if factor < 0.0:
            high = 0
            for i in range(1, n):
                if logits[i] > logits[high]:
                    high = i
            return high
        if top_k is None:
            for i in range(n):
                scaled[i] = logits[i] * factor
        else:
            for i in range(n):
                scaled[i] = -logits[i]
            negated = floats(scaled, n)
            ids = sorted(sorted(ids, key=negated.__getitem__)[:top_k])
            n = len(ids)
            if n == 0:
                raise IndexError("there is no token to draw from")
            for i in range(n):
                scaled[i] = logits[<Py_ssize_t>ids[i]] * factor
        softmax_forward(weights, cumulated, totals, inverses, scaled, 1, n, n)
        cumulated[0] = weights[0]
        for i in range(1, n):
            cumulated[i] = cumulated[i - 1] + weights[i]
        choices = rng.choices
        if top_p is not None:
            from microgpt.model import nucleus

            ids, probs = nucleus(ids, floats(weights, n), top_p)
            return choices(ids, weights=probs)[0]
        pythons = getattr(choices, "__func__", None) is CHOICES
        if not (pythons and 0.0 < cumulated[n - 1] < INFINITY):
            return choices(ids, weights=floats(weights, n))[0]
        x = choices.__self__.random() * cumulated[n - 1]
        low = 0
        high = n - 1
        while low < high:
            middle = (low + high) // 2
            if x < cumulated[middle]:
                high = middle
            else:
                low = middle + 1
        return ids[low]
