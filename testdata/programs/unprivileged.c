/*
 * What a program without any privilege can have the kernel do, again and again, in ticks of the time-stamp counter: under
 * QEMU's `-icount shift=0` these are executed instructions. Each line "cost NAME N" is the median of some rounds.
 */
#include <asm/ldt.h>
#include <asm/prctl.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ticks.h"
#include "verdict.h"

enum { ROUNDS = 20, YIELDS = 100, PAGE = 4096, SPARSE = 32 };

static void measure(const char *name, void (*operation)(int round), int rounds)
{
	uint64_t samples[YIELDS];

	for (int i = -rounds / 4; i < rounds; i++) {
		uint64_t start = ticks();

		operation(i);
		if (i >= 0)
			samples[i] = ticks() - start;
	}
	qsort(samples, rounds, sizeof(*samples), compare);
	printf("cost %s %llu\n", name, (unsigned long long)samples[rounds / 2]);
}

static void call(int round)
{
	(void)round;
	syscall(SYS_getppid);
}

static void fork_and_exit(int round)
{
	int status;
	pid_t child = fork();

	(void)round;
	if (child == 0)
		_exit(0);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void time_stamps(int round)
{
	(void)round;
	CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0 && prctl(PR_SET_TSC, PR_TSC_ENABLE) == 0);
}

/* A descriptor of the thread's own, by the system call of 32-bit programs, which takes addresses below 4 GB. */
static struct user_desc thread_area = { .entry_number = -1, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1,
					.useable = 1 };

static void set_thread_area(int round)
{
	int result;

	thread_area.base_addr = round * PAGE;
	asm volatile("int $0x80" : "=a"(result) : "a"(243), "b"(&thread_area) : "memory", "r8", "r9", "r10", "r11");
	CHECK(result == 0);
}

static void yield_and_load_thread_area(int round)
{
	sched_yield();
	set_thread_area(round);
	asm volatile("mov %0, %%gs\n\tmov %1, %%gs" ::"r"(thread_area.entry_number * 8 + 3), "r"(0));
}

static void set_base(int round)
{
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, (unsigned long)round * PAGE & 0xffffff) == 0);
}

static void describe(unsigned int entry, unsigned int base)
{
	struct user_desc segment = { .entry_number = entry, .base_addr = base, .limit = 0xfffff,
				     .contents = MODIFY_LDT_CONTENTS_DATA, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1 };

	CHECK(syscall(SYS_modify_ldt, 1, &segment, sizeof(segment)) == 0);
}

static unsigned int entries;

/* Half of them are from the end on: the first makes the table as long as it will be. */
static void fill(unsigned int step, unsigned int base)
{
	for (unsigned int i = 0; i < entries; i += step)
		describe(entries - 1 - i, base + i);
}

static void rewrite(int round)
{
	describe((unsigned int)round % entries, round);
}

static void rewrite_and_load(int round)
{
	rewrite(round);
	asm volatile("mov %0, %%gs\n\tmov %1, %%gs" ::"r"((unsigned int)round % entries * 8 + 7), "r"(0));
}

static void yield(int round)
{
	(void)round;
	sched_yield();
}

static void yield_and_load(int round)
{
	sched_yield();
	asm volatile("mov %0, %%gs\n\tmov %1, %%gs" ::"r"((unsigned int)round % entries * 8 + 7), "r"(0));
}

/* Of real-time processes with one priority the one that yields is the last in turn: there are two switches in each round. */
static void between_two(const char *name, void (*prepare)(void), void (*operation)(int))
{
	struct sched_param first = { .sched_priority = 1 }, normal = { .sched_priority = 0 };
	int status, prepared[2];
	pid_t child;
	char byte = 0;

	CHECK(pipe(prepared) == 0 && sched_setscheduler(0, SCHED_FIFO, &first) == 0);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		if (prepare)
			prepare();
		CHECK(write(prepared[1], &byte, 1) == 1);
		for (int i = 0;; i++)
			operation(i & 0xffff);
	}
	CHECK(read(prepared[0], &byte, 1) == 1 && close(prepared[0]) == 0 && close(prepared[1]) == 0);
	measure(name, operation, YIELDS);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
	CHECK(sched_setscheduler(0, SCHED_OTHER, &normal) == 0);
}

static void others(void)
{
	fill(1, 1 << 20);
}

static void local_tables(void)
{
	static const unsigned int sizes[] = { 1, 1024, 8192 };
	static const char *const names[][4] = {
		{ "ldt-1-write", "ldt-1-write-load", "ldt-1-yield", "ldt-1-yield-load" },
		{ "ldt-1024-write", "ldt-1024-write-load", "ldt-1024-yield", "ldt-1024-yield-load" },
		{ "ldt-8192-write", "ldt-8192-write-load", "ldt-8192-yield", "ldt-8192-yield-load" },
	};

	for (int i = 0; i < 3; i++) {
		entries = sizes[i];
		/* Every page of it; one that is as full as it can be takes long to fill. */
		if (entries <= 1024)
			fill(1, 0);
		else
			fill(64, 0);
		measure(names[i][0], rewrite, ROUNDS);
		measure(names[i][1], rewrite_and_load, ROUNDS);
		if (entries <= 1024) {
			between_two(names[i][2], others, yield);
			between_two(names[i][3], others, yield_and_load);
		}
	}
}

static uint8_t *sparse;

/* A page in each 2 MB, so that each has a page table of its own. */
static void map_sparse(void)
{
	const size_t step = 2 << 20;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	sparse = (uint8_t *)(16UL << 30);
	for (size_t i = 0; i < SPARSE; i++) {
		CHECK(mmap(sparse + i * step, PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == sparse + i * step);
		sparse[i * step] = 1;
	}
}

static void unmap_sparse(void)
{
	CHECK(munmap(sparse, SPARSE * (2UL << 20)) == 0);
}

static void map_and_unmap(int round)
{
	(void)round;
	map_sparse();
	unmap_sparse();
}

static void protect(int round)
{
	const size_t step = 2 << 20;

	for (size_t i = 0; i < SPARSE; i++)
		CHECK(mprotect(sparse + i * step, PAGE, round & 1 ? PROT_READ : PROT_READ | PROT_WRITE) == 0);
}

static void return_there(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
}

/* A signal on a stack segment of 16 bits, from which it also comes back there. */
static void narrow(int round)
{
	(void)round;
	asm volatile("mov %0, %%ss\n\tint3\n\tmov %1, %%ss" ::"r"(7), "r"(0x2b) : "memory");
}

static void narrow_stack(void)
{
	struct user_desc stack = { .limit = 0xffff, .contents = MODIFY_LDT_CONTENTS_DATA };

	CHECK(syscall(SYS_modify_ldt, 1, &stack, sizeof(stack)) == 0);
	handle(SIGTRAP, return_there);
	measure("narrow-stack-signal", narrow, ROUNDS);
}

int main(void)
{
	measure("null-syscall", call, ROUNDS);
	measure("fork-exit", fork_and_exit, ROUNDS);
	between_two("yield", NULL, yield);
	measure("time-stamps", time_stamps, ROUNDS);
	measure("set-thread-area", set_thread_area, ROUNDS);
	between_two("yield-thread-areas", NULL, yield_and_load_thread_area);
	measure("set-base", set_base, ROUNDS);
	measure("map-unmap-sparse", map_and_unmap, ROUNDS);
	map_sparse();
	measure("protect-sparse", protect, ROUNDS);
	unmap_sparse();
	narrow_stack();
	local_tables();
	return 0;
}
