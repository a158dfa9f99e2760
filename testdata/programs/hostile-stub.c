/*
 * A program that finds the pages which the wedge has in its process, where that is a process of Linux: it reads them, writes to
 * them, and jumps to the instructions there with orders of its own. It must get nothing: the guest has no code there, so it ends
 * as an instruction that there is not.
 */
#include <errno.h>
#include <setjmp.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "verdict.h"

#define STUB UINT64_C(0x730000000000)
#define PAGE UINT64_C(4096)
#define PLACE UINT64_C(0x10000000)
#define VSYSCALL UINT64_C(0xffffffffff600000)

static sigjmp_buf back;
static volatile int got;

static void caught(int signal, siginfo_t *info, void *data)
{
	(void)info;
	(void)data;
	got = signal;
	siglongjmp(back, 1);
}

/* What is at an address; -1 if nothing can be read there. */
static int64_t look(uint64_t address)
{
	if (sigsetjmp(back, 1))
		return -1;
	return (int64_t)(*(volatile uint64_t *)address & INT64_MAX);
}

static bool can_write(uint64_t address)
{
	if (sigsetjmp(back, 1))
		return false;
	*(volatile uint64_t *)address = 0;
	return true;
}

/* Goes to an address with orders; the signal that this ends with. */
static int go(uint64_t address, const uint64_t *orders, size_t count)
{
	const uint64_t *end = orders + 7 * count;

	got = 0;
	if (sigsetjmp(back, 1) == 0) {
		__asm__ volatile("mov %0, %%r12; mov %1, %%r13; jmp *%2" : : "r"(orders), "r"(end), "r"(address)
				 : "r12", "r13", "memory");
		__builtin_unreachable();
	}
	return got;
}

static void ends(const char *name, int found, int expected)
{
	verdict(found == expected, name, "signal %d", found);
}

int main(void)
{
	uint64_t own[] = { SYS_getpid, 0, 0, 0, 0, 0, 0 };
	uint64_t ending[] = { SYS_exit_group, 0, 0, 0, 0, 0, 0 };
	int64_t orders = 0, executed = 0;

	for (int signal = 1; signal < 32; signal++)
		if (signal == SIGSEGV || signal == SIGBUS || signal == SIGTRAP || signal == SIGILL)
			handle(signal, caught);
	if (look(STUB) == -1) {
		printf("skip stub: there is none\n");
		return 0;
	}
	for (uint64_t at = 0; at < PAGE; at += 8)
		orders += look(STUB + PAGE + at) != 0;
	verdict(orders == 0, "stub-orders", "%ld words of orders can be read", orders);
	verdict(!can_write(STUB) && !can_write(STUB + PAGE), "stub-written", "it cannot be written");
	verdict(look(STUB - PAGE) == -1 && look(STUB + 2 * PAGE) == -1, "stub-beside", "nothing is beside it");

	ends("stub-nothing", go(STUB, own, 0), SIGTRAP);
	ends("stub-own-call", go(STUB, own, 1), SIGILL);
	ends("stub-end", go(STUB, ending, 1), SIGILL);
	for (uint64_t file = 0; file < 256; file++) {
		uint64_t order[] = { SYS_mmap, PLACE, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0 };

		executed += go(STUB, order, 1) != SIGILL || look(PLACE) != -1;
	}
	verdict(executed == 0, "stub-map", "%ld files can be mapped", executed);
	ends("stub-vsyscall", go(VSYSCALL, own, 1), SIGSEGV);
	return 0;
}
