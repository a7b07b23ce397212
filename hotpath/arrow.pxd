# The Arrow C data interface: the two structs that describe an array in memory, by whoever made it.
# Source: https://arrow.apache.org/docs/format/CDataInterface.html

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from *:
    """
    #ifndef ARROW_C_DATA_INTERFACE
    #define ARROW_C_DATA_INTERFACE
    struct ArrowSchema {
        const char* format;
        const char* name;
        const char* metadata;
        int64_t flags;
        int64_t n_children;
        struct ArrowSchema** children;
        struct ArrowSchema* dictionary;
        void (*release)(struct ArrowSchema*);
        void* private_data;
    };
    struct ArrowArray {
        int64_t length;
        int64_t null_count;
        int64_t offset;
        int64_t n_buffers;
        int64_t n_children;
        const void** buffers;
        struct ArrowArray** children;
        struct ArrowArray* dictionary;
        void (*release)(struct ArrowArray*);
        void* private_data;
    };
    #endif
    """
    struct ArrowSchema:
        const char* format
        int64_t n_children
        ArrowSchema** children
        ArrowSchema* dictionary

    struct ArrowArray:
        int64_t length
        int64_t null_count
        int64_t offset
        int64_t n_buffers
        int64_t n_children
        const void** buffers
        ArrowArray** children


# What an array holds, as far as it is encoded in C.
cdef enum ArrowKind:
    A_OTHER
    A_NULL
    A_BOOL
    A_INT8
    A_UINT8
    A_INT16
    A_UINT16
    A_INT32
    A_UINT32
    A_INT64
    A_UINT64
    A_FLOAT
    A_DOUBLE
    A_BYTES           # 32-bit offsets
    A_LARGE_BYTES     # 64-bit offsets
    A_FIXED_BYTES     # `width` bytes each
    A_TEXT
    A_LARGE_TEXT
    A_TIME            # int64 in units of 1/`per_second` s
    A_DAYS            # int32 days
    A_LIST            # 32-bit offsets
    A_LARGE_LIST      # 64-bit offsets
    A_FIXED_LIST      # `width` elements each

cdef struct ArrowType:
    ArrowKind kind
    int64_t width
    int64_t per_second


cdef ArrowType arrow_type(const ArrowSchema* schema) noexcept


cdef inline bint is_null(const ArrowArray* array, int64_t i) noexcept nogil:
    """Whether element `i`, counted without the array's offset, is null."""
    cdef const uint8_t* bits
    if array.null_count == 0 or array.n_buffers == 0 or array.buffers[0] == NULL:
        return False
    bits = <const uint8_t*>array.buffers[0]
    i += array.offset
    return not bits[i >> 3] >> (i & 7) & 1
