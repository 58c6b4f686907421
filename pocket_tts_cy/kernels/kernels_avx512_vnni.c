/* x86-64 with AVX-512 and VNNI (Ice Lake, Zen 4 and later). */
#include "kernels.inc.c"
