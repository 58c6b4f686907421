# The threads of one generation. `busy` of them are taken by the other stage at the moment. A stage
# asks before each product, so it widens as soon as the other one waits; results do not depend on
# it.
cdef extern from *:
    """
    typedef struct {
      int threads;
      int busy;
    } ptc_team;
    static inline int ptc_team_size(const ptc_team *team) {
      int free = team->threads - __atomic_load_n(&team->busy, __ATOMIC_RELAXED);
      return free < 1 ? 1 : free;
    }
    static inline void ptc_team_take(ptc_team *team, int threads) {
      __atomic_fetch_add(&team->busy, threads, __ATOMIC_RELAXED);
    }
    """
    ctypedef struct ptc_team:
        int threads
        int busy
    int ptc_team_size(const ptc_team *team) noexcept nogil
    void ptc_team_take(ptc_team *team, int threads) noexcept nogil


cdef class Team:
    cdef ptc_team team
