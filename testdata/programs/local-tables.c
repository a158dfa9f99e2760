/*
 * What a segment load finds is what stands in the program's local descriptor table at that moment, also when others with
 * tables of their own, of any size, have run in between.
 */
#include <errno.h>
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"

enum { ROUNDS = 300, LOCAL = 1024 };

static bool describe_local(int entry, int page, unsigned int limit)
{
	struct user_desc segment = description(entry, page, limit);

	return syscall(SYS_modify_ldt, 1, &segment, sizeof(segment)) == 0;
}

static int local_page(int entry, int side)
{
	return (entry * 2 + side) % AREA_PAGES;
}

/* Both sides have each an entry of their own; each round one is changed, and others are looked at, in both pages. */
static unsigned int wrong_local(int side)
{
	unsigned int wrong = 0;

	for (int i = LOCAL - 1; i >= 0; i--)
		CHECK(describe_local(i, local_page(i, side), 0x400 + i));
	for (int i = 0; i < ROUNDS; i++) {
		int entry = i * 37 % LOCAL, changed = (i + 5) * 101 % LOCAL;
		struct found found;

		sched_yield();
		found = find(entry * 8 + 7);
		wrong += found.word != local_page(entry, side) || found.limit != 0x400 + entry;
		CHECK(describe_local(changed, -1, 0));
		found = find(changed * 8 + 7);
		wrong += found.word != -1 || found.limit != -1;
		CHECK(describe_local(changed, local_page(changed, side), 0x400 + changed));
	}
	return wrong;
}

enum { SIDES = 6, GENERATIONS = 4 };

static int many_page(int entry, int side, int generation)
{
	return (entry * 7 + side * 9 + generation * 5) % AREA_PAGES;
}

/* A table from one entry to three pages. In each round an entry is looked at, and now and then the table is another. */
static unsigned int wrong_many(int side, int generation)
{
	int entries = 1 + side * 300, limit = 0x100 * (generation + 1);
	unsigned int wrong = 0;

	for (int i = entries - 1; i >= 0; i--)
		CHECK(describe_local(i, many_page(i, side, generation), limit));
	for (int i = 0; i < ROUNDS / 3; i++) {
		int entry = i * 37 % entries;
		struct found found;

		sched_yield();
		found = find(entry * 8 + 7);
		wrong += found.word != many_page(entry, side, generation) || found.limit != limit;
		if (i % (side + 2) == 0) {
			CHECK(describe_local(entry, -1, 0));
			sched_yield();
			found = find(entry * 8 + 7);
			wrong += found.word != -1 || found.limit != -1;
			CHECK(describe_local(entry, many_page(entry, side, generation), limit));
		}
		found = find(entries * 8 + 7);
		wrong += found.word != -1 || found.limit != -1;
	}
	return wrong;
}

/* Of real-time processes with one priority the one that yields is the last in turn. New ones get the memory of others. */
static void many_local_tables(void)
{
	struct sched_param first = { .sched_priority = 1 }, normal = { .sched_priority = 0 };
	unsigned int wrong = 0;

	CHECK(sched_setscheduler(0, SCHED_FIFO, &first) == 0);
	for (int generation = 0; generation < GENERATIONS; generation++) {
		for (int side = 0; side < SIDES; side++) {
			pid_t child = fork();

			CHECK(child >= 0);
			if (child == 0)
				_exit(wrong_many(side, generation) != 0);
		}
		for (int side = 0; side < SIDES; side++) {
			int status;

			CHECK(wait(&status) > 0);
			wrong += status != 0;
		}
	}
	CHECK(sched_setscheduler(0, SCHED_OTHER, &normal) == 0);
	verdict(wrong == 0, "local-tables-many", "%u of %d processes found what is not theirs", wrong, SIDES * GENERATIONS);
}

/* Before any table is full, for a child begins with its parent's. Then two processes with full tables take turns. */
int main(void)
{
	pid_t child;
	unsigned int wrong;
	int status;

	make_areas();
	if (!describe_local(0, 0, 0)) {
		skip("local-tables", strerror(errno));
		return failed;
	}
	many_local_tables();
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(wrong_local(1) != 0);
	wrong = wrong_local(0);
	CHECK(waitpid(child, &status, 0) == child);
	verdict(wrong == 0 && status == 0, "local-tables", "%u wrong, child %#x", wrong, status);
	return failed;
}
