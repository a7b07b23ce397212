from libc.stdint cimport uint32_t, uint64_t

from hotfeast.hotpath.request cimport Request

cdef class Split:
    cdef readonly tuple targets
    cdef readonly tuple keys
    cdef uint32_t target_count
    cdef int only             # the one target with a weight; less than 0 where there are several
    cdef double* weights      # of each target
    cdef uint64_t* salts      # of each target's name
    cdef list names           # by key: the names that its column may come under, UTF-8
    cdef uint64_t salt        # of the split's name
    cdef uint64_t drawn       # requests without a key that were drawn for
    cdef uint64_t seed

    cdef uint64_t entity_hash(self, Request request) except? 0
