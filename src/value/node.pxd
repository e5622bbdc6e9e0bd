"""A node of a graph as a C struct, and the memory of nodes.

`Node` is what a `Value` object is in memory. All machinery works on `Node *`; only
_value.pyx knows the Python classes. Each module cimports only modules before it in this order:
rules (numbers alone), node, classes, sums, make, operators, walk, program, rows.

A field with several meanings is a union:

| field   | usually             | else |
| ------- | ------------------- | -------------------------------------------------------------- |
| `data`  | the number          | `next`: of a node being freed, the next one to free |
| `grad`  | the gradient        | `sum_terms`: of a product inside a sum, the sum's terms |
| `child` | up to two children  | `terms` of a SUM; `block` of a NEG_MAX, or where n is IN_BLOCK |
| `slope` | the local gradients | slope[1] of a POW: its exponent; for `run` of a RELU or TANH how |

An int is kept as a double and a flag; a result beyond 2**53 is a float.

Two modules are made of this: _value.pyx, and _script.pyx with FOR_RUN, whose nodes replace the
objects of a script's class. There any field may hold another object, kept in `attributes`
(BOXED). If a node cannot compute a result as the script would, the functions that make nodes
return NULL without an exception, and the script's code runs.
"""

from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyTypeObject
from cpython.ref cimport PyObject
from libc.stdint cimport uint16_t, uint32_t, uint8_t

from rules cimport DATA_INT, FIRST_INT, SECOND_INT, Op


cdef extern from *:
    """
    #include <stdint.h>
    typedef struct Terms Terms;  /* what Cython declares below */
    typedef struct Block Block;
    typedef struct ClassInfo ClassInfo;
    #define NODE_FIELDS                                                          \\
        uint32_t place;  /* a mark during a walk; 1 + an index while compiling */ \\
        uint8_t op;                                                              \\
        uint8_t n;           /* children, or IN_BLOCK */                         \\
        uint16_t flags;                                                          \\
        union { double grad; Terms *sum_terms; };   /* beside its type */        \\
        union { double data; struct Node *next; };                               \\
        union { struct Node *child[2]; Terms *terms; Block *block; };            \\
        double slope[2];                                                         \\
        PyObject *attributes; /* a dict, of classes with attributes=True; or NULL */ \\
        PyObject *weak_references[FOR_RUN];
    typedef struct Node { PyObject_HEAD NODE_FIELDS } Node;
    #define ATTRIBUTES_OFFSET ((Py_ssize_t)offsetof(Node, attributes))
    #define WEAK_REFERENCES_OFFSET ((Py_ssize_t)offsetof(Node, weak_references))
    typedef struct { NODE_FIELDS } NodeFields;  /* what the class Value declares */

    /* Outside debug and free-threaded builds, skip PyObject_Init and the final decref. */
    #if defined(Py_REF_DEBUG) || defined(Py_TRACE_REFS) || defined(Py_GIL_DISABLED) \\
        || PY_VERSION_HEX >= 0x030E0000 && SIZEOF_VOID_P <= 4
    #define IS_COUNTED 1
    #define init_object(node, kind) PyObject_Init((PyObject *)(node), kind)
    #else
    #define IS_COUNTED 0
    #if PY_VERSION_HEX >= 0x030E0000  /* the count is 32 of the 64 bits that Python sets */
    #define ONE_REFERENCE(node) (((PyObject *)(node))->ob_refcnt_full = 1)
    #else
    #define ONE_REFERENCE(node) (((PyObject *)(node))->ob_refcnt = 1)
    #endif
    #define init_object(node, kind) (ONE_REFERENCE(node), Py_SET_TYPE((PyObject *)(node), kind))
    #endif

    /* Flags of classes whose objects take more memory than tp_basicsize. */
    #ifndef Py_TPFLAGS_MANAGED_DICT
    #define Py_TPFLAGS_MANAGED_DICT 0
    #endif
    #ifndef Py_TPFLAGS_MANAGED_WEAKREF
    #define Py_TPFLAGS_MANAGED_WEAKREF 0
    #endif
    #define HAS_MORE (Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_MANAGED_DICT | Py_TPFLAGS_MANAGED_WEAKREF)

    /* Nodes kept for reuse; others go back to Python's allocator. 4,096 take 320 KiB, and a small
       model's step a twentieth less time than with 256. Each graph permutes the kept ones: with
       65,536 of them a step took twice as long after twenty graphs. */
    #define MAX_FREE 4096
    #define MAX_NEW 64  /* allocated at once */
    static Node *free_nodes[MAX_FREE];
    static Py_ssize_t n_free = 0;
    static Py_ssize_t n_allocated = 0;  /* nodes that have memory, the free ones among them */
    static PyTypeObject *value_type = NULL;
    #define set_value_type(type) (value_type = (type))
    """
    ctypedef struct Node:
        double data
        Node *next
        double grad
        Terms *sum_terms
        uint32_t place
        uint8_t op
        uint8_t n
        uint16_t flags
        Node **child
        Terms *terms
        Block *block
        double *slope
        PyObject *attributes
        PyObject **weak_references
    ctypedef struct NodeFields:
        pass
    enum: IS_COUNTED
    Py_ssize_t ATTRIBUTES_OFFSET
    Py_ssize_t WEAK_REFERENCES_OFFSET
    object OWNED "(PyObject *)"(Node *)  # takes over the caller's reference
    enum: MAX_FREE
    unsigned long HAS_MORE
    Node *free_nodes[4096]
    Py_ssize_t n_free
    Py_ssize_t n_allocated
    PyTypeObject *value_type
    void set_value_type(PyTypeObject *)

    void incref "Py_INCREF"(void *)
    void decref "Py_DECREF"(void *)
    void xdecref "Py_XDECREF"(void *)
    Py_ssize_t refcount "Py_REFCNT"(void *)
    PyTypeObject *type_of "Py_TYPE"(void *)
    void *PyObject_Malloc(size_t)
    void PyType_Modified(PyTypeObject *)
    unsigned long Py_TPFLAGS_HEAPTYPE
    ctypedef PyObject *(*vectorcallfunc)(
        PyObject *, PyObject *const *, size_t, PyObject *
    ) except NULL
    ctypedef struct TypeSlots "PyTypeObject":
        Py_ssize_t tp_basicsize
        Py_ssize_t tp_dictoffset
        Py_ssize_t tp_weaklistoffset
        PyObject *tp_dict
        unsigned long tp_flags
        unsigned int tp_version_tag
        PyTypeObject *tp_base
        void *tp_traverse
        void *tp_clear
        void *tp_init
        void *tp_new
        void (*tp_dealloc)(PyObject *) noexcept
        void (*tp_free)(void *) noexcept
        void *tp_finalize
        PyObject *(*tp_alloc)(PyTypeObject *, Py_ssize_t) except NULL
        PyObject *(*tp_call)(PyObject *, PyObject *, PyObject *) except NULL
        vectorcallfunc tp_vectorcall


cdef struct Block "Block":
    # The children and local gradients of a node that has no room for them.
    Py_ssize_t n_children
    Py_ssize_t n_grads
    Node **children
    double *slopes
    uint8_t *ints        # which slopes are ints
    PyObject *operation  # of an OPERATION node, or NULL
    Py_ssize_t shared    # how many more nodes have this block
    uint32_t slot        # of a NEG_MAX in the program being compiled, or NONE


cdef struct Term:
    # a * b with the two local gradients; or where b is NULL a alone, and slope_a is the
    # number that it had.
    Node *a
    Node *b
    double slope_a
    double slope_b


cdef struct Terms "Terms":
    Py_ssize_t n
    Py_ssize_t capacity
    Node *owner         # the sum; or the next of the free ones
    Node *product       # the one absorbed last, until it is freed, or NULL
    Node *partial
    double inner_grad   # of every node inside, after a backward
    uint16_t fresh      # the flags of a new node of the sum's class
    uint8_t inner_int   # whether inner_grad is an int
    uint8_t starts_int  # whether the first 0 is one
    uint8_t adds_ints   # whether the local gradients of + are
    uint8_t has_ints    # whether the terms' ints are written: FIRST_INT, SECOND_INT


cdef enum:
    IN_BLOCK = 255
    NONE = 0xffffffff


cdef enum Flag:
    # Beside DATA_INT, FIRST_INT and SECOND_INT of rules.pxd.
    ABSORBED = 1      # its children have moved into a sum
    PLAYED = 2        # a backward has gone through it
    EDITED = 4        # its data was written by hand
    CONSTANT = 8      # an operator made it of a number
    STALE = 16        # a Tape has computed newer numbers
    LATE = 32         # backward takes its slopes from the numbers at that time
    GRAD_INT = 128
    UNUSUAL = ABSORBED | STALE
    # For `microgpt run`: fields whose values are kept in attributes, by the keys 0 to 4.
    DATA_BOXED = 1024
    GRAD_BOXED = 2048
    CHILDREN_BOXED = 4096
    SLOPES_BOXED = 8192
    CALLS = 16384     # it has its own function, which backward calls
    BOXED = DATA_BOXED | GRAD_BOXED | CHILDREN_BOXED | SLOPES_BOXED
    TRACKED = 32768   # the garbage collector knows it: nodes of its class may be in cycles


# ------------------------------------------------------------- classes and options

cdef struct ClassInfo "ClassInfo":
    # The facts about a class, valid while its version is unchanged.
    ClassInfo *next        # in its bucket
    PyTypeObject *type
    unsigned int version
    unsigned int quick     # version, where is_simple and its operators + - * are Value's
    PyTypeObject *result   # the class of its results; NULL if it is no Value
    uint16_t fresh         # flags of a new node of that class
    uint16_t fresh_sum     # the same, of an addition
    uint8_t relu           # see ReluChoice of rules.pxd
    bint is_simple         # whether its objects are nodes and nothing more
    bint in_lists          # whether functions of lists may make many nodes at once
    bint makes_ours        # whether its constructor is that of Value, and simple
    bint makes_leaves      # whether it is, given a number alone
    uint32_t ours          # which operators are Value's: see Members of classes.pxd
    # Of a script's class, for `run`; Value has the original's.
    bint keeps_ints
    bint float_root
    bint float_slope
    bint tanh_square
    bint float_minus       # whether -x is x * -1.0
    uint8_t n_guards
    PyObject **guards      # dict, key, value: what has to hold for operators to run here
    PyObject *family


cdef extern from *:
    """
    #define N_BUCKETS 64
    static ClassInfo *info_buckets[N_BUCKETS];
    static ClassInfo *value_info = NULL;  /* of Value itself */
    #define set_value_info(info) (value_info = (info))
    static void (*fill_info)(ClassInfo *info) = NULL;  /* which writes all but next and type */
    #define set_fill_info(function) (fill_info = (function))
    #define NODE_HEAD (FOR_RUN ? 2 * sizeof(void *) : 0)  /* where Python's collector writes */
    CYTHON_UNUSED static inline void free_memory(void *node) {
        PyObject_Free((char *)node - NODE_HEAD);
    }
    #define bucket_of(type) (info_buckets + ((uintptr_t)(type) >> 5) % N_BUCKETS)
    """
    ClassInfo *value_info
    void set_value_info(ClassInfo *)
    void fill_info(ClassInfo *) noexcept
    void set_fill_info(void (*)(ClassInfo *) noexcept)
    void free_memory(void *) noexcept
    ClassInfo **bucket_of(void *)


cdef enum:
    NO_VERSION = 0xffffffff


cdef inline bint is_simple(PyTypeObject *kind) noexcept:
    """Return whether objects of a class are nodes and nothing more, as `settle` and `adopt` say."""
    return (<TypeSlots *>kind).tp_dealloc == (<TypeSlots *>value_type).tp_dealloc


# ------------------------------------------------------------- children and slopes

cdef inline uint32_t ints_of_two(Node *a, Node *b) noexcept:
    return (a.flags & DATA_INT) << 2 | (b.flags & DATA_INT) << 3  # FIRST_INT, SECOND_INT


cdef inline bint are_ints(Node *a, Node *b) noexcept:
    return a.flags & b.flags & DATA_INT

cdef inline Node **children_of(Node *node, Py_ssize_t *n) noexcept:
    if node.n == IN_BLOCK:
        n[0] = node.block.n_children
        return node.block.children
    n[0] = node.n
    return node.child


cdef inline double *slopes_of(Node *node, Py_ssize_t *n) noexcept:
    if node.n == IN_BLOCK:
        n[0] = node.block.n_grads
        return node.block.slopes
    n[0] = node.n
    return node.slope


cdef inline bint is_int_slope(Node *node, Py_ssize_t i) noexcept:
    if node.n == IN_BLOCK:
        return node.block.ints[i]
    return node.flags & (SECOND_INT if i else FIRST_INT)


cdef inline Block *new_block(Py_ssize_t n, Py_ssize_t m) except NULL:
    """Return a block for n children, not yet written, and m local gradients."""
    cdef Block *block = <Block *>PyMem_Malloc(
        sizeof(Block) + n * sizeof(Node *) + m * (sizeof(double) + 1)
    )
    if block is NULL:
        raise MemoryError(f"no memory for a node of {n} children")
    block.n_children = n
    block.n_grads = m
    block.children = <Node **>(block + 1)
    block.slopes = <double *>(block.children + n)
    block.ints = <uint8_t *>(block.slopes + m)
    block.operation = NULL
    block.shared = 0
    block.slot = NONE
    return block


cdef inline void release_block(Block *block) noexcept:
    cdef Py_ssize_t i
    if block.shared:
        block.shared -= 1
        return
    for i in range(block.n_children):
        decref(block.children[i])
    xdecref(block.operation)
    PyMem_Free(block)


# ---------------------------------------------------------------------- allocation

cdef extern from *:
    """
    #define INLINED __attribute__((always_inline)) inline
    /* C, which gcc inlines: called, with Cython's way to report an error, this is a tenth of the
       time in which a graph is built. */
    static INLINED Node *begin_node(
        Node *node, PyTypeObject *kind, unsigned int flags, unsigned int op, unsigned int n
    ) {
        node->grad = 0.0;
        node->place = 0;
        node->op = (uint8_t)op;
        node->n = (uint8_t)n;
        node->flags = (uint16_t)flags;
        init_object(node, kind);
        if (FOR_RUN && flags & 32768 /* TRACKED */) PyObject_GC_Track(node);
        return node;
    }

    /* Allocate more free nodes, taken in the order of their addresses; false without memory. */
    static __attribute__((noinline)) int allocate_nodes(void) {
        const Py_ssize_t size = NODE_HEAD + sizeof(Node);
        Py_ssize_t i, n;
        Node *nodes[MAX_NEW];
        for (n = 0; n < MAX_NEW; n++) {
            char *memory = (char *)PyObject_Malloc(size);
            if (memory == NULL) break;
            if (FOR_RUN) memset(memory, 0, NODE_HEAD);
            nodes[n] = (Node *)(memory + NODE_HEAD);
            nodes[n]->attributes = NULL;
            if (FOR_RUN) nodes[n]->weak_references[0] = NULL;
        }
        n_allocated += n;
        for (i = n; i > 0; i--) free_nodes[n_free++] = nodes[i - 1];
        return n > 0;
    }

    #define keep_node(node) (free_nodes[n_free++] = (node))
    /* The same without a call, where has_nodes says so. */
    #define has_nodes(info, n) (n_free >= (n) && (info)->is_simple)
    #define quick_node(info, flags, op, n) next_node((info)->result, flags, op, n)
    static INLINED Node *next_node(
        PyTypeObject *kind, unsigned int flags, unsigned int op, unsigned int n
    ) {
        if (kind != value_type && !IS_COUNTED) Py_INCREF(kind);  /* else PyObject_Init does it */
        return begin_node(free_nodes[--n_free], kind, flags, op, n);
    }

    /* Return a new reference to a node of a simple class, data and n children not set; or NULL.
       Runs no Python code, raises nothing. Free nodes have no attributes. */
    static INLINED Node *take_node(
        PyTypeObject *kind, unsigned int flags, unsigned int op, unsigned int n
    ) {
        if (__builtin_expect(n_free == 0, 0) && !allocate_nodes()) return NULL;
        return next_node(kind, flags, op, n);
    }

    static Node *other_node(
        PyTypeObject *kind, int simple, unsigned int flags, unsigned int op, unsigned int n
    ) {
        Node *node;
        if (simple || kind == NULL)  /* no memory; or none to look the class up */
            return (Node *)PyErr_Format(PyExc_MemoryError, "no memory for a node");
        node = (Node *)kind->tp_alloc(kind, 0);  /* all zeros */
        if (node == NULL) return NULL;
        n_allocated += 1;
        node->op = (uint8_t)op;
        node->n = (uint8_t)n;
        node->flags = (uint16_t)flags;
        return node;
    }

    /* Return a new reference to a node of the class of an operand's results, as `take_node`. */
    #define new_node(info, flags, op, n) any_node((info)->result, (info)->is_simple, flags, op, n)
    static INLINED Node *any_node(
        PyTypeObject *kind, int simple, unsigned int flags, unsigned int op, unsigned int n
    ) {
        Node *node;
        if (__builtin_expect(simple, 1)) {
            node = take_node(kind, flags, op, n);
            if (__builtin_expect(node != NULL, 1)) return node;
        }
        return other_node(kind, simple, flags, op, n);
    }
    """
    Node *take_node(PyTypeObject *, uint32_t flags, Op, uint8_t n)
    Node *new_node(ClassInfo *, uint32_t flags, Op, uint8_t n) except NULL
    void keep_node(Node *)
    bint has_nodes(ClassInfo *, Py_ssize_t)
    Node *quick_node(ClassInfo *, uint32_t flags, Op, uint8_t n) noexcept


cdef inline void free_node(Node *node) noexcept:
    """Keep a node for reuse, whatever its class, if it has nothing more than a `Value`."""
    global n_allocated
    cdef PyTypeObject *kind = type_of(node)
    cdef PyObject *attributes
    if kind != value_type:
        attributes = node.attributes
        node.attributes = NULL
        xdecref(attributes)
    if n_free < MAX_FREE and (kind == value_type or is_simple(kind)):
        keep_node(node)
    else:
        n_allocated -= 1
        (<TypeSlots *>kind).tp_free(node)
    if kind != value_type:
        decref(kind)


cdef inline void set_grad(Node *node, double grad, bint is_int) noexcept:
    node.grad = grad
    node.flags = (node.flags & ~<uint16_t>GRAD_INT) | (GRAD_INT if is_int else 0)


cdef inline object number_object(double x, bint is_int):
    """Return a number as Python's."""
    return <long long>x if is_int else x


cdef inline dict attributes_of_node(Node *node):
    """Return a node's attributes."""
    cdef dict attributes
    if node.attributes is NULL:
        attributes = {}
        incref(<PyObject *>attributes)
        node.attributes = <PyObject *>attributes
    return <dict>node.attributes
