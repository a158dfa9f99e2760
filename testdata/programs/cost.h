/*
 * What an operation costs: lines "cost NAME N", in ticks of the time-stamp counter.
 */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ticks.h"
#include "verdict.h"

enum { MOST_ROUNDS = 400, PAGE = 4096 };

/* What the measuring itself takes. */
static uint64_t measuring;

/* The median of `rounds` rounds, after a few that are not counted. */
static uint64_t cost_of(void (*operation)(void), int rounds)
{
	uint64_t samples[MOST_ROUNDS];

	for (int i = -rounds / 4; i < rounds; i++) {
		uint64_t start = ticks();

		operation();
		start = ticks() - start;
		if (i >= 0)
			samples[i] = start;
	}
	qsort(samples, rounds, sizeof(*samples), compare);
	return samples[rounds / 2] - measuring;
}

static void report(const char *name, uint64_t cost)
{
	printf("cost %s %llu\n", name, (unsigned long long)cost);
}

static void nothing(void)
{
}

static void end(pid_t child)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void fork_and_execute(const char *const *arguments)
{
	pid_t child = fork();

	if (child == 0) {
		execv(arguments[0], (char *const *)arguments);
		_exit(127);
	}
	end(child);
}

static volatile char *map(size_t pages)
{
	volatile char *address = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(address != MAP_FAILED);
	return address;
}
