/* x86-64 with AVX2 and FMA (Haswell, Zen and later). */
#include "kernels.inc.c"
