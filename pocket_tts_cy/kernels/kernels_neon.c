/* 64-bit ARM: NEON is part of the baseline. */
#include "kernels.inc.c"
