from libc.stdint cimport int64_t


cdef class Arena:
    # (what, offset, bytes) in the order of planning
    cdef list plan
    cdef char *base
    cdef int64_t size

    cdef int64_t reserve(self, str what, int64_t n_bytes) except -1
    cdef int allocate(self) except -1
    cdef void *at(self, int64_t offset) noexcept nogil


cdef class Blocks:
    # Aligned memory that lives as long as this object, each piece with what it is for.
    cdef list pieces
    cdef void *take(self, str what, int64_t n_bytes) except NULL


cdef class PackedMatrices:
    # Packed matrices in the order of packing: made in memory, or found in a file of that order.
    cdef list pieces
    cdef const unsigned char[::1] file
    cdef readonly bint filled   # the matrices are there already: nothing to pack
    cdef int64_t position
    cdef void *take(self, str what, int64_t n_bytes) except NULL
