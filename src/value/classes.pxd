"""Facts about a class of Values: its options, and which of its operators are Value's.

They are looked up once and cached until the version tag of the class changes.
"""

from cpython.mem cimport PyMem_Calloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport uint32_t

from node cimport (
    GRAD_INT, NO_VERSION, ClassInfo, TypeSlots, bucket_of, fill_info, is_simple, set_fill_info,
    set_value_info, type_of, value_info, value_type,
)
from rules cimport FIRST_INT, POSITIVE, RECTIFIES, SECOND_INT, unlikely


cdef extern from *:
    """
    /* The operators and methods on which C code relies instead of calling them: see Members. */
    #define N_MEMBERS 13
    static const char *member_names[N_MEMBERS] = {
        "__add__", "__radd__", "__mul__", "__rmul__", "__sub__", "__rsub__", "__truediv__",
        "__rtruediv__", "__pow__", "__rpow__", "__neg__", "log", "exp"
    };
    static PyObject *member_keys[N_MEMBERS];
    static PyObject *members[N_MEMBERS];
    static PyObject *options_key = NULL;
    static PyObject *init_key = NULL;
    static void *value_init = NULL;
    static void *value_new = NULL;
    static ClassInfo *no_info = NULL;  /* of no class */
    static PyObject *forever(PyObject *x) { Py_INCREF(x); return x; }
    """
    enum: N_MEMBERS
    const char *member_names[13]
    PyObject *member_keys[13]
    PyObject *members[13]
    PyObject *options_key
    PyObject *init_key
    void *value_init
    void *value_new
    ClassInfo *no_info
    PyObject *forever(object)
    PyObject *_PyType_Lookup(PyTypeObject *, PyObject *) noexcept
    bint PyType_IsSubtype(PyTypeObject *, PyTypeObject *)
    PyObject *PyTuple_GET_ITEM(PyObject *, Py_ssize_t)
    PyObject *PyDict_GetItem(PyObject *, PyObject *) noexcept
    PyObject *Py_None
    Py_ssize_t PyVectorcall_NARGS(size_t)


cdef enum Members:
    # Bits of `ours`, by the index in member_names: what an operation calls.
    SUMS = 0b11
    PRODUCTS = 0b1100
    NEGATIONS = 1 << 10 | PRODUCTS
    DIFFERENCES = 0b110000 | NEGATIONS | SUMS
    QUOTIENTS = 0b1111000000 | PRODUCTS
    ALL_MEMBERS = (1 << 13) - 1
    # For `run`, which tests each operator of a script's class alone.
    ADDITION = 1
    MULTIPLICATION = 1 << 2
    SUBTRACTION = 1 << 4
    DIVISION = 1 << 6
    REFLECTED = 2           # times this: of the reflected operator
    WITH_NUMBER = 1 << 13   # times this: a number as the right operand
    POWER = 1 << 8
    NEGATION = 1 << 10


cdef inline ClassInfo *first_info(PyTypeObject *kind) noexcept:
    """Return the first entry in a class's bucket if it is that class's, else NULL."""
    cdef ClassInfo *info = value_info
    if kind != value_type:
        info = bucket_of(kind)[0]
        if info is not NULL and info.type != kind:
            return NULL
    return info


cdef inline ClassInfo *known_info(PyTypeObject *kind) noexcept:
    """Return the cached facts about a class, or NULL if it has to be looked up."""
    cdef ClassInfo *info = first_info(kind)
    if info is NULL or info.version != (<TypeSlots *>kind).tp_version_tag:
        return NULL
    return info


cdef inline ClassInfo *quick_info(PyTypeObject *kind) noexcept:
    cdef ClassInfo *info = first_info(kind)
    if info is NULL or info.quick != (<TypeSlots *>kind).tp_version_tag:
        return NULL
    return info


cdef inline ClassInfo *class_info(PyTypeObject *kind) noexcept:
    """Return the facts about a class. The pointer stays valid."""
    cdef ClassInfo *info = known_info(kind)
    return find_info(kind) if unlikely(info is NULL) else info


cdef inline ClassInfo *info_of(void *value) noexcept:
    """Return the facts about the class of a Value."""
    return class_info(type_of(value))


cdef inline ClassInfo *ours(void *x, const uint32_t members) noexcept:
    """Return the facts about a Value's class if these of its members are Value's; else NULL."""
    cdef ClassInfo *info = class_info(type_of(x))
    return info if info.ours & members == members else NULL


cdef inline ClassInfo *find_info(PyTypeObject *kind) noexcept:
    """Look a class up: in the cache, else by its members."""
    cdef ClassInfo *info = bucket_of(kind)[0]
    while info is not NULL and info.type != kind:
        info = info.next
    if info is NULL:
        info = <ClassInfo *>PyMem_Calloc(1, sizeof(ClassInfo))
        if info is NULL:
            return no_info  # the operators take the slow path
        info.type = kind
        info.next = bucket_of(kind)[0]
        bucket_of(kind)[0] = info
        info.version = info.quick = NO_VERSION
    if info.version != (<TypeSlots *>kind).tp_version_tag:
        fill_info(info)
    return info


cdef inline bint guards_hold(ClassInfo *info) noexcept:
    """Return whether the variables that a script's class reads have the values that they had."""
    cdef int i
    for i in range(0, 3 * info.n_guards, 3):
        if PyDict_GetItem(info.guards[i], info.guards[i + 1]) != info.guards[i + 2]:
            return False
    return True


cdef inline void read_options(ClassInfo *info) noexcept:
    cdef PyTypeObject *kind = info.type
    cdef TypeSlots *slots = <TypeSlots *>kind
    cdef PyObject *options = _PyType_Lookup(kind, options_key)  # gives the class a version
    cdef Py_ssize_t i
    info.makes_ours = info.makes_leaves = info.in_lists = info.is_simple = False
    info.ours = 0
    info.result = NULL
    info.version = slots.tp_version_tag or NO_VERSION
    if not PyType_IsSubtype(kind, value_type):
        return
    info.result = kind
    if PyTuple_GET_ITEM(options, 0) != Py_None:
        info.result = <PyTypeObject *>PyTuple_GET_ITEM(options, 0)
        options = _PyType_Lookup(info.result, options_key)
    info.relu = RECTIFIES if <object>PyTuple_GET_ITEM(options, 1) == "not negative" else POSITIVE
    info.keeps_ints = True
    info.fresh = GRAD_INT
    info.fresh_sum = GRAD_INT | FIRST_INT | SECOND_INT
    info.is_simple = is_simple(info.result)
    info.makes_leaves = slots.tp_new == value_new and info.result == kind and info.is_simple
    info.makes_ours = info.makes_leaves and slots.tp_init == value_init
    if not info.makes_ours:  # an `__init__` that may be left out: see the options of Value
        info.makes_leaves &= _PyType_Lookup(kind, init_key) == PyTuple_GET_ITEM(options, 2)
    for i in range(N_MEMBERS):
        if _PyType_Lookup(kind, member_keys[i]) == members[i]:
            info.ours |= <uint32_t>1 << i
    info.in_lists = (
        info.ours == ALL_MEMBERS and info.is_simple and info.result == kind
    )
    info.version = slots.tp_version_tag or NO_VERSION
    info.quick = NO_VERSION
    if info.is_simple and info.ours & DIFFERENCES == DIFFERENCES:
        info.quick = info.version


cdef inline int remember_members(PyTypeObject *kind) except -1:
    """Remember the members of Value as they are compiled."""
    global init_key, options_key, value_init, value_new
    cdef Py_ssize_t i
    cdef object name
    import sys
    for i in range(N_MEMBERS):
        name = sys.intern(member_names[i].decode())
        member_keys[i] = forever(name)
        members[i] = forever(<object>_PyType_Lookup(kind, member_keys[i]))
    options_key = forever(sys.intern("_options"))
    init_key = forever(sys.intern("__init__"))
    value_init = (<TypeSlots *>kind).tp_init
    value_new = (<TypeSlots *>kind).tp_new
    return know_classes(kind, read_options)


cdef inline int know_classes(PyTypeObject *base, void (*fill)(ClassInfo *) noexcept) except -1:
    """Look up base, and later other classes, by a function that writes the facts about one."""
    global no_info
    no_info = <ClassInfo *>PyMem_Calloc(1, sizeof(ClassInfo))
    if no_info is NULL:
        raise MemoryError("no memory for the facts about classes")
    set_fill_info(fill)
    set_value_info(find_info(base))
    return 0


cdef inline PyObject *call_type(
    PyObject *kind, PyObject *const *args, size_t nargsf, PyObject *names
) except NULL:
    """Make an object as Python does: by `type.__call__`."""
    cdef Py_ssize_t i, n = PyVectorcall_NARGS(nargsf)
    cdef tuple positional = tuple([<object>args[i] for i in range(n)])
    cdef dict named = {}
    if names is not NULL:
        for i, name in enumerate(<tuple>names):
            named[name] = <object>args[n + i]
    return (<TypeSlots *>type).tp_call(kind, <PyObject *>positional, <PyObject *>named)
