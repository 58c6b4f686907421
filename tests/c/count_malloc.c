/* Counts allocations of at least LARGE bytes, for test_memory.py: preloaded in front of the C
 * library. Smaller ones are left out because the interpreter makes them for its own objects, and
 * calloc() because dlsym() itself calls it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdatomic.h>
#include <stddef.h>

enum { LARGE = 513 }; /* CPython takes objects of up to 512 bytes from pools of its own */

static atomic_long count;

long count_malloc_large(void) { return atomic_load(&count); }

static void note(size_t size) {
  if (size >= LARGE) atomic_fetch_add(&count, 1);
}

void *malloc(size_t size) {
  static void *(*next)(size_t);
  if (!next) next = (void *(*)(size_t))dlsym(RTLD_NEXT, "malloc");
  note(size);
  return next(size);
}

void *realloc(void *old, size_t size) {
  static void *(*next)(void *, size_t);
  if (!next) next = (void *(*)(void *, size_t))dlsym(RTLD_NEXT, "realloc");
  note(size);
  return next(old, size);
}

void *aligned_alloc(size_t alignment, size_t size) {
  static void *(*next)(size_t, size_t);
  if (!next) next = (void *(*)(size_t, size_t))dlsym(RTLD_NEXT, "aligned_alloc");
  note(size);
  return next(alignment, size);
}
