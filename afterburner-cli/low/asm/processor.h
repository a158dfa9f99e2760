/* GS has the distance of a processor's copy, not its address: see asm-generic/vmlinux.lds.h. */
#ifndef AFTERBURNER_PROCESSOR_H
#define AFTERBURNER_PROCESSOR_H
#include_next <asm/processor.h>
#ifdef CONFIG_SMP
#define cpu_kernelmode_gs_base(cpu)	per_cpu_offset(cpu)
#endif
#endif
