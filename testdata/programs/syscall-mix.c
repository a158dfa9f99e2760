/*
 * A fixed amount of work for the kernel, the same on every run: instructions are counted over it.
 */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { CALLS = 20000, CHILDREN = 200, PINGS = 2000, MAPPINGS = 1000, SIGNALS = 1000, PAGE = 4096 };

static volatile sig_atomic_t delivered;

static void count_signal(int signal, siginfo_t *info, void *data)
{
	(void)signal;
	(void)info;
	(void)data;
	delivered++;
}

static void calls(void)
{
	pid_t process = getpid();

	for (int i = 0; i < CALLS; i++)
		CHECK(syscall(SYS_getpid) == process);
}

static void children(void)
{
	for (int i = 0; i < CHILDREN; i++) {
		int status;
		pid_t child = fork();

		if (child == 0)
			_exit(i % 100);
		CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == i % 100);
	}
}

static void pings(void)
{
	int there[2], back[2], status;
	char byte = 0;
	pid_t child;

	CHECK(pipe(there) == 0 && pipe(back) == 0);
	child = fork();
	if (child == 0) {
		for (int i = 0; i < PINGS; i++)
			CHECK(read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1);
		_exit(0);
	}
	for (int i = 0; i < PINGS; i++)
		CHECK(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

static void mappings(void)
{
	for (int i = 0; i < MAPPINGS; i++) {
		volatile char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

		CHECK(page != MAP_FAILED);
		*page = 1;
		CHECK(munmap((void *)page, PAGE) == 0);
	}
}

static void signals(void)
{
	handle(SIGUSR1, count_signal);
	for (int i = 0; i < SIGNALS; i++)
		raise(SIGUSR1);
}

int main(void)
{
	calls();
	children();
	pings();
	mappings();
	signals();
	verdict(delivered == SIGNALS, "syscall-mix", "%d calls, %d children, %d pings, %d mappings, %d signals", CALLS,
		CHILDREN, PINGS, MAPPINGS, (int)delivered);
	return failed;
}
