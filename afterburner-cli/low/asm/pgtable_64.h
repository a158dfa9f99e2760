/* /proc/kcore: an address and an offset in the file are the same, as everywhere but on x86-64. */
#ifndef AFTERBURNER_PGTABLE_64_H
#define AFTERBURNER_PGTABLE_64_H
#include_next <asm/pgtable_64.h>
#ifdef kc_vaddr_to_offset
#undef kc_vaddr_to_offset
#undef kc_offset_to_vaddr
#define kc_vaddr_to_offset(v)	(v)
#define kc_offset_to_vaddr(o)	(o)
#endif
#endif
