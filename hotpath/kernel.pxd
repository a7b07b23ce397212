# Compiled transforms: programs over columns of C values, and what a plan computes with them.

from libc.stddef cimport ptrdiff_t
from libc.stdint cimport int64_t, uint8_t, uint32_t

from hotfeast.hotpath.batch cimport Batch
from hotfeast.hotpath.plan cimport Plan
from hotfeast.hotpath.reply cimport Reply
from hotfeast.hotpath.wire cimport Cursor

# A loop over columns, as NumPy has one for each ufunc and types.
ctypedef void (*Loop)(
    char** args, const ptrdiff_t* dimensions, const ptrdiff_t* strides, void* data
) noexcept nogil

cdef struct Instruction:
    int op
    int target                # register
    int sources[3]            # registers
    int kind                  # type of the first source
    int64_t param
    Loop loop
    void* data
    void* table               # keys to look up, or a text to look for
    uint32_t table_size

cdef struct Register:
    char* at
    ptrdiff_t stride          # 0 where one value stands for all rows

cdef struct Output:
    int register_
    int kind
    int value_type            # ValueType of what is written


cdef class Program:
    cdef Instruction* instructions
    cdef uint32_t instruction_count
    cdef uint32_t register_count
    cdef uint8_t* kinds           # of each register
    cdef char** constants         # for each register its value, or NULL
    cdef Output* outputs
    cdef uint32_t output_count
    cdef list owned               # what the pointers point into
    cdef readonly object definition

    cdef char* pack(self, values, int kind) except NULL
    cdef int run(
        self, const Cursor* const* columns, Py_ssize_t rows, Register* registers, void** texts
    ) noexcept nogil


cdef class Kernel:
    cdef list programs
    cdef dict by_states
    cdef uint8_t* kinds           # of each input
    cdef readonly uint32_t input_count
    cdef readonly tuple inputs
    cdef readonly int last_program  # the one that ran last, for proofs

    cdef bytes run(self, const Cursor* const* columns, Py_ssize_t rows, bint strict)
    cdef bytes run_program(
        self, Program program, const Cursor* const* columns, Py_ssize_t rows, bint strict,
        int* outcome,
    )


# Where an input's values are: a feature of the reply, or a column of the request.
cdef struct Binding:
    int view                  # -1 for a column of the request
    uint32_t feature
    Cursor name

# A column that the request context must have.
cdef struct RequestField:
    Cursor name
    int value_type
    int kind                  # -1 where the values are not looked at


cdef class Computation:
    cdef Plan plan
    cdef list kernels             # of each computed view, None where it has none
    cdef Binding* bindings        # those of all kernels, one after the other
    cdef uint32_t binding_count
    cdef list owned
    cdef uint8_t* sent            # for each feature that is read whether it is sent
    cdef Cursor names             # of what is sent, computed features last: `0A length name`
    cdef RequestField* fields
    cdef uint32_t field_count

    cdef Cursor own(self, bytes data)
    cdef list compute(self, Batch batch, Reply reply, bint strict)
