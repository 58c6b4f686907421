/* 64-bit ARM with dot-product instructions (Armv8.2 DotProd: Cortex-A55, A76, Apple M1 and later).
 */
#include "kernels.inc.c"
