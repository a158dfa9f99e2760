/*
 * The layout of the lower half, by entries of the top-level page table: 0-15 programs, 16 LDT, 17-
 * direct map, 146 vmalloc, 212 vmemmap, 252 and 254 entry areas, 256-271 nothing; and 191 the image
 * and its modules.
 */
#ifndef AFTERBURNER_PGTABLE_64_TYPES_H
#define AFTERBURNER_PGTABLE_64_TYPES_H
#include_next <asm/pgtable_64_types.h>
#undef GUARD_HOLE_PGD_ENTRY
#define GUARD_HOLE_PGD_ENTRY	256UL
#undef LDT_PGD_ENTRY
#define LDT_PGD_ENTRY		16UL
#undef __VMALLOC_BASE_L4
#define __VMALLOC_BASE_L4	0x0000490000000000UL
#undef __VMEMMAP_BASE_L4
#define __VMEMMAP_BASE_L4	0x00006a0000000000UL
#undef MODULES_END
#define MODULES_END		_AC(0x00005fffff000000, UL)
#undef ESPFIX_PGD_ENTRY
#define ESPFIX_PGD_ENTRY	_AC(254, UL)
#undef CPU_ENTRY_AREA_PGD
#define CPU_ENTRY_AREA_PGD	_AC(252, UL)
#undef PGD_KERNEL_START
#define PGD_KERNEL_START	16
/*
 * head64.c takes the image's entry of the top-level page table for the last, and clears those
 * before it. __KBUILD_MODNAME is the file's name, which is a number here and undefined elsewhere;
 * of other files than those that define USE_EARLY_PGTABLE_L5, as head64.c does, the name may be no
 * word at all (`.module-common` of Linux 6.12).
 */
#if !defined(__ASSEMBLY__) && !defined(__GENKSYMS__) && defined(__KBUILD_MODNAME) && defined(USE_EARLY_PGTABLE_L5)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wundef"
#define kmod_head64 7001
#if __KBUILD_MODNAME == 7001
#undef PTRS_PER_PGD
#define PTRS_PER_PGD		(((__START_KERNEL_map >> 39) & 511) + 1)
#endif
#undef kmod_head64
#pragma GCC diagnostic pop
#endif
#endif
