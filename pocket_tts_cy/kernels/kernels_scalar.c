/* Portable C: built everywhere with the compiler's baseline flags. */
#define PTC_FORCE_SCALAR
#include "kernels.inc.c"
