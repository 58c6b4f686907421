/* x86-64 with AVX-512 F, BW, DQ, VL (Skylake-SP, Zen 4 and later). */
#include "kernels.inc.c"
