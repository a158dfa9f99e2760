/*
 * Included before every C file of a kernel for the lower half. Everything is in one image, so that
 * no symbol has to be looked up in a global offset table.
 */
#if !defined(BUILD_VDSO) && !defined(__ASSEMBLY__)
#pragma GCC visibility push(hidden)
#endif
