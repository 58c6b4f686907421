"""Memory: one planned arena per state, and a list of blocks for weights.

Everything is aligned to 64 bytes. Nothing here runs in the frame loop.
"""
from libc.stdint cimport int64_t
from libc.stdlib cimport free
from libc.string cimport memset


cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef enum:
    ALIGNMENT = 64


cdef int64_t rounded(int64_t n_bytes) noexcept nogil:
    return (n_bytes + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


def summed(pieces):
    """(what, bytes) pairs, one for each name."""
    totals = {}
    for what, n_bytes in pieces:
        totals[what] = totals.get(what, 0) + n_bytes
    return list(totals.items())


cdef class Arena:
    """Memory whose pieces are reserved first and then allocated at once, zeroed."""

    def __cinit__(self):
        self.plan = []
        self.base = NULL
        self.size = 0

    def __dealloc__(self):
        free(self.base)

    cdef int64_t reserve(self, str what, int64_t n_bytes) except -1:
        """Plan a piece; its offset is for `at` after `allocate`."""
        if self.base != NULL:
            raise RuntimeError("the arena is already allocated")
        cdef int64_t offset = self.size
        self.plan.append((what, n_bytes))
        self.size += rounded(n_bytes)
        return offset

    cdef int allocate(self) except -1:
        self.base = <char *>aligned_alloc(ALIGNMENT, max(self.size, ALIGNMENT))
        if self.base == NULL:
            raise MemoryError(f"no memory for an arena of {self.size} bytes")
        memset(self.base, 0, self.size)
        return 0

    cdef void *at(self, int64_t offset) noexcept nogil:
        return self.base + offset

    def report(self):
        """(what, bytes), summed over pieces of the same name."""
        return summed(self.plan)


cdef class Block:
    cdef void *memory

    def __cinit__(self, int64_t n_bytes):
        self.memory = aligned_alloc(ALIGNMENT, max(rounded(n_bytes), ALIGNMENT))
        if self.memory == NULL:
            raise MemoryError(f"no memory for a block of {n_bytes} bytes")

    def __dealloc__(self):
        free(self.memory)


cdef class Blocks:
    def __cinit__(self):
        self.pieces = []

    cdef void *take(self, str what, int64_t n_bytes) except NULL:
        """New memory of n_bytes, not initialised; freed with this object."""
        cdef Block block = Block(n_bytes)
        self.pieces.append((what, n_bytes, block))
        return block.memory

    def report(self):
        """(what, bytes), summed over pieces of the same name."""
        return summed([(what, n_bytes) for what, n_bytes, _ in self.pieces])


cdef class PackedMatrices:
    """Packed matrices of an engine, one after the other.

    Parameters
    ----------
    file : buffer, optional
        What `pieces_in_order` of an equal engine gave, joined; aligned to 64 bytes. It stays in
        use as long as this object lives.
    """

    def __init__(self, file=None):
        self.pieces = []
        self.filled = file is not None
        self.position = 0
        if self.filled:
            self.file = file
            if <size_t>&self.file[0] % ALIGNMENT:
                raise ValueError("packed weights must be aligned to 64 bytes")

    cdef void *take(self, str what, int64_t n_bytes) except NULL:
        """The next piece: memory to fill, or, when `filled`, the matrix itself."""
        cdef Block block
        cdef int64_t begin = self.position
        self.position += rounded(n_bytes)
        if self.filled:
            if self.position > self.file.shape[0]:
                raise ValueError("the packed weights end too early for this model")
            self.pieces.append((what, n_bytes, None))
            return <void *>&self.file[begin]
        block = Block(n_bytes)
        # The padding goes into files: it must not be whatever the memory held before.
        memset(<char *>block.memory + n_bytes, 0, rounded(n_bytes) - n_bytes)
        self.pieces.append((what, n_bytes, block))
        return block.memory

    def finish(self):
        """Check that a file held nothing else."""
        if self.filled and self.position != self.file.shape[0]:
            raise ValueError("the packed weights are too long for this model")

    def pieces_in_order(self):
        """Buffers to write, one after the other, to a file."""
        cdef Block block
        buffers = []
        for _, n_bytes, block in self.pieces:
            buffers.append(<unsigned char[:rounded(n_bytes)]>block.memory)
        return buffers

    def report(self):
        """(what, bytes), summed over pieces of the same name."""
        return summed([(what, n_bytes) for what, n_bytes, _ in self.pieces])
