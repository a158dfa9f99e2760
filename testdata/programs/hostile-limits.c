/*
 * As much as the limits allow: processes, mappings, memory, page tables. What shadows page tables has far more of them to
 * look after than there is memory in them, and must neither run out nor mix them up.
 */
#include <errno.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "hostile.h"

enum { NOBODY = 65534, PROCESSES = 200, OWN_PAGES = 16, BOMB = 48, MAPPINGS = 20000 };

#define AREA UINT64_C(0x40000000)
#define GB (UINT64_C(1) << 30)

static bool ended_well(pid_t child)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* Everybody forks until nobody may; a pipe that nobody writes to keeps all alive until the last one has tried. */
static void fork_bomb(void)
{
	volatile unsigned int *alive = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pid_t child = fork();

	CHECK(alive != MAP_FAILED && child >= 0);
	if (child == 0) {
		int gate[2];
		char byte;

		CHECK(setrlimit(RLIMIT_NPROC, &(struct rlimit){ BOMB, BOMB }) == 0);
		CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0 && pipe(gate) == 0);
		for (;;) {
			pid_t next = fork();

			if (next < 0)
				break;
			if (next == 0)
				__sync_fetch_and_add(&alive[0], 1);
		}
		__sync_fetch_and_add(&alive[1], 1);
		close(gate[1]);
		_exit(read(gate[0], &byte, 1) != 0);
	}
	CHECK(ended_well(child));
	/* Orphans end by themselves. */
	while (waitpid(-1, NULL, WNOHANG) > 0)
		;
	for (int i = 0; i < 1000 && alive[1] != alive[0] + 1; i++)
		usleep(10000);
	verdict(alive[1] == alive[0] + 1 && alive[0] + 1 >= BOMB, "fork-bomb", "%s",
		alive[0] + 1 >= BOMB ? "as many as allowed" : "too few");
}

static void fill(volatile uint64_t *area, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++)
		area[i * PAGE / 8] = seed * 1000003 + i;
}

static unsigned int different(const volatile uint64_t *area, size_t pages, uint64_t seed)
{
	unsigned int count = 0;

	for (size_t i = 0; i < pages; i++)
		count += area[i * PAGE / 8] != seed * 1000003 + i;
	return count;
}

/* All alive at once, each with copies of its parent's pages and pages of its own. */
static void many_processes(void)
{
	static pid_t children[PROCESSES];
	volatile uint64_t *area = map_fixed(AREA, 2 * OWN_PAGES * PAGE, PROT_READ | PROT_WRITE);
	volatile unsigned int *ready = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned int good = 0;
	int gate[2];

	CHECK(ready != MAP_FAILED && pipe(gate) == 0);
	fill(area, OWN_PAGES, 12345);
	for (int i = 0; i < PROCESSES; i++) {
		children[i] = fork();
		CHECK(children[i] >= 0);
		if (children[i] == 0) {
			char byte;

			close(gate[1]);
			if (different(area, OWN_PAGES, 12345))
				_exit(1);
			fill(area, 2 * OWN_PAGES, i);
			__sync_fetch_and_add(ready, 1);
			if (read(gate[0], &byte, 1) != 0 || different(area, 2 * OWN_PAGES, i))
				_exit(2);
			fill(area, 2 * OWN_PAGES, ~i);
			sched_yield();
			_exit(different(area, 2 * OWN_PAGES, ~i) != 0);
		}
	}
	while (*ready < PROCESSES)
		usleep(1000);
	close(gate[0]);
	close(gate[1]);
	for (int i = 0; i < PROCESSES; i++)
		good += ended_well(children[i]);
	verdict(good == PROCESSES && different(area, OWN_PAGES, 12345) == 0, "many-processes", "%u of %d well", good,
		PROCESSES);
	CHECK(munmap((void *)area, 2 * OWN_PAGES * PAGE) == 0);
}

/* One page in each `distance`, so that each needs page tables of its own; then a child with copies of some. */
static void sparse(const char *name, uint64_t distance, size_t count)
{
	const uint64_t start = 16 * GB;
	unsigned int bad = 0;
	pid_t child;

	for (size_t i = 0; i < count; i++)
		*(volatile uint64_t *)map_fixed(start + i * distance, PAGE, PROT_READ | PROT_WRITE) = i;
	for (size_t i = count; i-- > 0;)
		bad += *(volatile uint64_t *)(start + i * distance) != i;
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		for (size_t i = 0; i < count; i += 7) {
			bad += *(volatile uint64_t *)(start + i * distance) != i;
			*(volatile uint64_t *)(start + i * distance) = ~i;
		}
		_exit(bad != 0);
	}
	bad += !ended_well(child);
	for (size_t i = 0; i < count; i++)
		bad += *(volatile uint64_t *)(start + i * distance) != i;
	for (size_t i = 0; i < count; i++)
		CHECK(munmap((void *)(start + i * distance), PAGE) == 0);
	verdict(bad == 0, name, "%zu pages, %u bad", count, bad);
}

/* 24 MB of page tables, and nothing in them but the page of zeroes. */
static void page_tables(void)
{
	const uint64_t start = 16 * GB, length = 12 * GB, step = 2 * 1024 * 1024;
	unsigned int bad = 0;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;

		if (mmap((void *)start, length, PROT_READ, flags, -1, 0) == MAP_FAILED)
			_exit(2);
		for (int round = 0; round < 2; round++)
			for (uint64_t offset = 0; offset < length; offset += step)
				bad += *(volatile uint64_t *)(start + offset + round * PAGE) != 0;
		_exit(bad != 0);
	}
	verdict(ended_well(child), "page-tables", "%lu tables", length / step);
}

/* Alternately readable and writable, so that no two are one. */
static void many_mappings(void)
{
	unsigned int bad = 0;
	void *page;

	for (int i = 0; i < MAPPINGS; i++) {
		page = map_fixed(AREA + (uint64_t)i * PAGE, PAGE, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE);
		if (i % 16 == 0)
			*(volatile int *)page = i;
		else
			bad += *(volatile int *)page != 0;
	}
	for (int i = 0; i < MAPPINGS; i += 16)
		bad += *(volatile int *)(AREA + (uint64_t)i * PAGE) != i;
	CHECK(munmap((void *)AREA, (size_t)MAPPINGS * PAGE) == 0);
	verdict(bad == 0, "many-mappings", "%d mappings, %u bad", MAPPINGS, bad);
}

/* Until there is no more, three times: what was given back is there again. */
static void all_that_is_allowed(void)
{
	const size_t piece = 256 * 1024, limit = 48 * 1024 * 1024;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		size_t first = 0;

		CHECK(setrlimit(RLIMIT_AS, &(struct rlimit){ limit, limit }) == 0);
		for (int round = 0; round < 3; round++) {
			uint8_t *pieces[limit / piece];
			size_t count = 0;

			while ((pieces[count] = mmap(NULL, piece, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
						     -1, 0)) != MAP_FAILED) {
				for (size_t i = 0; i < piece; i += PAGE)
					if (pieces[count][i]++ != 0)
						_exit(1);
				count++;
			}
			if (errno != ENOMEM || count < limit / piece / 2 || (first && count != first))
				_exit(2);
			first = count;
			while (count-- > 0)
				CHECK(munmap(pieces[count], piece) == 0);
		}
		_exit(0);
	}
	verdict(ended_well(child), "all-memory", "taken and given back three times");
}

/* Deeper than the stack may grow. */
static void stack_overflow(void)
{
	struct outcome outcome;

	/* 1: push %rax; jmp 1b, from the top of the process's own stack */
	fresh()[REG_RSP] = (greg_t)((uintptr_t)__builtin_frame_address(0) & ~UINT64_C(15)) - 4096;
	outcome = attempt_code("\x50\xeb\xfd", 3);
	verdict(outcome.signal == SIGSEGV && outcome.vector == PF, "stack-overflow", "signal %d, vector %u, error %#x",
		outcome.signal, outcome.vector, outcome.error);
}

int main(void)
{
	hostile_setup();
	fork_bomb();
	many_processes();
	sparse("sparse-2-megabytes", UINT64_C(2) << 20, 4000);
	sparse("sparse-1-gigabyte", GB, 1000);
	sparse("sparse-512-gigabytes", 512 * GB, 240);
	page_tables();
	many_mappings();
	all_that_is_allowed();
	stack_overflow();
	return failed;
}
