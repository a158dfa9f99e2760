/*
 * Linux before 6.15 links the per-CPU data of a kernel for several processors at address 0, and GS
 * has the address of a processor's copy. Code that finds everything from where it is itself does not
 * reach address 0. So here per-CPU data is linked where it is loaded, as on all other architectures,
 * and GS has the distance of a processor's copy from there. The first processor's is 0 until there
 * are copies.
 */
#ifndef AFTERBURNER_VMLINUX_LDS_H
#define AFTERBURNER_VMLINUX_LDS_H
#include_next <asm-generic/vmlinux.lds.h>
#ifdef CONFIG_SMP
#undef PERCPU_VADDR
#define PERCPU_VADDR(cacheline, vaddr, phdr)				\
	. = ALIGN(PAGE_SIZE);						\
	.data..percpu : AT(ADDR(.data..percpu) - LOAD_OFFSET) {		\
		PERCPU_INPUT(cacheline)					\
	} phdr								\
	__per_cpu_load = 0;
/* Its start by another name, for scripts/kallsyms.c takes addresses behind this one for small. */
#define __per_cpu_start		__per_cpu_first
/*
 * Relative to that, for GS: vmlinux.lds.S makes sure that it is 0, and makes a symbol of it, which
 * head_64.S loads.
 */
#define fixed_percpu_data	(fixed_percpu_data - __per_cpu_start)
#endif
#endif
