"""The generator of dropout, CPython's own: see generator.h."""


cdef extern from "generator.h" nogil:
    enum: WORDS
    ctypedef struct Generator:
        unsigned int words[624]
        int next
    double draw_number(Generator *g)
