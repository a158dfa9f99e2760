/*
 * 32-bit programs of the C library, one after the other, and two chains of them at once. Each has its thread-local storage by
 * a descriptor of the GDT, which the kernel writes when it changes processes, and calls the kernel by each door there is.
 */
#include <sched.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "verdict.h"

enum { IN_A_ROW = 200, AT_ONCE = 100 };

static __thread volatile pid_t local = 1;

static pid_t by_interrupt(int number)
{
	pid_t result;

	asm volatile("int $0x80" : "=a"(result) : "a"(number) : "memory");
	return result;
}

/* A program. */
static void live(void)
{
	pid_t own = by_interrupt(SYS_getpid);
	struct timespec now;

	CHECK(local == 1);
	local = own;
	/* By the vDSO, which uses SYSENTER, SYSCALL or INT; and by its clock. */
	CHECK(syscall(SYS_getpid) == own && clock_gettime(CLOCK_MONOTONIC, &now) == 0);
	for (int i = 0; i < 10; i++) {
		sched_yield();
		CHECK(local == own && getpid() == own);
	}
	_exit(0);
}

static bool all_live(const char *self, int count)
{
	for (int i = 0; i < count; i++) {
		pid_t child = fork();
		int status;

		CHECK(child >= 0);
		if (child == 0) {
			execl(self, self, "live", NULL);
			_exit(127);
		}
		CHECK(waitpid(child, &status, 0) == child);
		if (status != 0) {
			printf("[FAIL]\tprogram %d: status %#x\n", i, status);
			fflush(stdout);
			return false;
		}
	}
	return true;
}

int main(int count, char **arguments)
{
	bool good;
	int status;
	pid_t child;

	if (count > 1)
		live();
	good = all_live(arguments[0], IN_A_ROW);
	printf("[%s]\t%d in a row\n", good ? "OK" : "FAIL", IN_A_ROW);
	fflush(stdout);
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(!all_live(arguments[0], AT_ONCE));
	good &= all_live(arguments[0], AT_ONCE);
	CHECK(waitpid(child, &status, 0) == child);
	good &= status == 0;
	printf("[%s]\ttwo times %d at once\n", good ? "OK" : "FAIL", AT_ONCE);
	return !good;
}
