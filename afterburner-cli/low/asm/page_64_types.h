/* The layout of the lower half: direct map, image, and where programs end. */
#ifndef AFTERBURNER_PAGE_64_TYPES_H
#define AFTERBURNER_PAGE_64_TYPES_H
#include_next <asm/page_64_types.h>
#undef __PAGE_OFFSET_BASE_L4
#define __PAGE_OFFSET_BASE_L4	_AC(0x0000088000000000, UL)
#undef __START_KERNEL_map
#define __START_KERNEL_map	_AC(0x00005fff80000000, UL)
#undef task_size_max
#define task_size_max()		((_AC(1, UL) << 43) - PAGE_SIZE)
#undef DEFAULT_MAP_WINDOW
#define DEFAULT_MAP_WINDOW	((1UL << 43) - PAGE_SIZE)
#endif
