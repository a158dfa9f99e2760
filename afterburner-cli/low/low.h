/*
 * Included before every C file of a kernel for the lower half. Everything is in one image, so that
 * no symbol has to be looked up in a global offset table.
 */
#if !defined(BUILD_VDSO) && !defined(__ASSEMBLY__)
#pragma GCC visibility push(hidden)
#endif
/*
 * Per-CPU data is linked where it is loaded (asm-generic/vmlinux.lds.h). In setup_percpu.c
 * __per_cpu_load is the first processor's distance from there, which is 0.
 */
#ifdef CONFIG_SMP
#define __per_cpu_start	__per_cpu_first
#ifndef AFTERBURNER_SETUP_PERCPU
#define __per_cpu_load	__per_cpu_first
#endif
#endif
