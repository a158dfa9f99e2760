/*
 * With several processors, Linux before 6.15 links what each of them has for itself at address 0,
 * and finds it by the distance that GS has. What finds everything from where the code is does not
 * reach that far, so here it is linked where it is loaded, as on all other architectures, and GS has
 * the distance of a processor's copy from that. The first processor's is 0 until there are copies.
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
/* Where GS would lead: vmlinux.lds.S makes sure of it, and head_64.S loads it. */
#define fixed_percpu_data	(fixed_percpu_data - __per_cpu_start)
#endif
#endif
