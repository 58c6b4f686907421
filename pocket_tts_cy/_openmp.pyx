"""Whether the build has OpenMP, and how many threads it would use by itself."""


cdef extern from *:
    """
    #ifdef _OPENMP
    #include <omp.h>
    #define PTC_OPENMP 1
    #else
    #define PTC_OPENMP 0
    static inline int omp_get_num_procs(void) { return 1; }
    #endif
    """
    int PTC_OPENMP
    int omp_get_num_procs() nogil


def openmp_enabled():
    """Whether the extensions were compiled with OpenMP."""
    return bool(PTC_OPENMP)


def max_threads():
    """Processors that this process may use, as OpenMP counts them; 1 without OpenMP."""
    return omp_get_num_procs()
