/*
 * Descriptors that a program makes, and what a load of one finds: a descriptor is told by its limit, for LSL, and by the
 * word at its base.
 */
#include <asm/ldt.h>
#include <setjmp.h>
#include <sys/mman.h>

#include "verdict.h"

enum { PAGE = 4096 };

/* A page full of pages, each with its number: descriptors need addresses below 4 GB. */
#define AREA ((volatile uint32_t *)0x51000000)
enum { AREA_PAGES = 64 };

static __thread sigjmp_buf back;

static void fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	siglongjmp(back, 1);
}

/* What a selector leads to: -1 for nothing. */
struct found {
	int word, limit;
};

static struct found find(unsigned int selector)
{
	struct found found = { -1, -1 };
	uint32_t word, limit;
	bool known;

	asm volatile("lsl %2, %0\n\tsetz %1" : "=r"(limit), "=q"(known) : "r"(selector), "0"(0));
	if (known)
		found.limit = (int)limit;
	if (sigsetjmp(back, 1) == 0) {
		asm volatile("mov %1, %%gs\n\tmov %%gs:0, %0" : "=r"(word) : "r"(selector));
		found.word = (int)word;
	}
	asm volatile("mov %0, %%gs" ::"r"(0));
	return found;
}

static struct user_desc description(int entry, int page, unsigned int limit)
{
	struct user_desc empty = { .entry_number = entry, .read_exec_only = 1, .seg_not_present = 1 };
	struct user_desc full = { .entry_number = entry, .base_addr = (uint32_t)(uintptr_t)AREA + page * PAGE,
				  .limit = limit, .seg_32bit = 1, .useable = 1 };

	return page < 0 ? empty : full;
}

static void make_areas(void)
{
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	CHECK(mmap((void *)AREA, AREA_PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == (void *)AREA);
	for (int i = 0; i < AREA_PAGES; i++)
		AREA[i * PAGE / 4] = i;
	handle(SIGSEGV, fault);
	handle(SIGBUS, fault);
}
