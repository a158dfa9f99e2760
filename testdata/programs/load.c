/*
 * A mixed load that counts what it does: `load SECONDS` runs one worker for each CPU and, at the end, holds the counts
 * against each other. A lost timer, signal or byte, a torn page or a damaged register is a FAIL line.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "verdict.h"

enum { PAGES = 16, PAGE = 4096, SIGNALS = 20, PINGS = 20 };

/* What one worker has done, in memory that all share. */
struct counts {
	uint64_t rounds, children, programs, pings, signals, pages, naps, timers;
};

static const char *self;
static volatile sig_atomic_t delivered;

static void count_signal(int signal, siginfo_t *info, void *data)
{
	(void)data;
	delivered += signal == SIGRTMIN && info->si_code == SI_QUEUE;
}

static bool exits_with(pid_t child, int expected)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == expected;
}

static bool child_exits(int expected)
{
	pid_t child = fork();

	if (child == 0)
		_exit(expected);
	return exits_with(child, expected);
}

static bool program_exits(void)
{
	pid_t child = fork();

	if (child == 0) {
		execl(self, self, "exit", (char *)NULL);
		_exit(127);
	}
	return exits_with(child, 42);
}

/* Numbers to a child and back through two pipes. */
static bool ping_pong(void)
{
	int there[2], back[2];
	uint32_t number;
	bool good = true;
	pid_t child;

	CHECK(pipe(there) == 0 && pipe(back) == 0);
	child = fork();
	if (child == 0) {
		close(there[1]);
		while (read(there[0], &number, sizeof(number)) == sizeof(number)) {
			number = ~number;
			if (write(back[1], &number, sizeof(number)) != sizeof(number))
				_exit(1);
		}
		_exit(3);
	}
	close(there[0]);
	for (uint32_t i = 0; i < PINGS && good; i++)
		good = write(there[1], &i, sizeof(i)) == sizeof(i) &&
		       read(back[0], &number, sizeof(number)) == sizeof(number) && number == ~i;
	close(there[1]);
	close(back[0]);
	close(back[1]);
	return exits_with(child, 3) && good;
}

static bool queued_signals(void)
{
	sig_atomic_t before = delivered;

	for (int i = 0; i < SIGNALS; i++)
		if (sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i }) != 0)
			return false;
	return delivered - before == SIGNALS;
}

static bool pages(uint64_t seed)
{
	uint64_t *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	size_t step = PAGE / sizeof(*area);
	bool good = true;

	CHECK(area != MAP_FAILED);
	for (size_t i = 0; i < PAGES; i++) {
		good &= area[i * step] == 0;
		area[i * step] = seed ^ i;
	}
	for (size_t i = 0; i < PAGES; i++)
		good &= area[i * step] == (seed ^ i);
	return munmap(area, PAGES * PAGE) == 0 && good;
}

static int64_t now(void)
{
	struct timespec time;

	CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

static bool nap(void)
{
	int64_t start = now();

	return nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL) == 0 && now() - start >= 1000000;
}

/* A timer that does not go off within 30 seconds is lost. */
static bool timer_goes_off(void)
{
	struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1 };
	struct itimerspec soon = { .it_value.tv_nsec = 500000 };
	sigset_t set;
	timer_t timer;
	bool good;

	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN + 1);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &soon, NULL) == 0);
	good = sigtimedwait(&set, NULL, &(struct timespec){ .tv_sec = 30 }) == SIGRTMIN + 1;
	CHECK(timer_delete(timer) == 0);
	return good;
}

/* Vector and flags registers, kept over whatever interrupts a few thousand instructions. */
static bool registers_keep(uint64_t seed)
{
	uint64_t low, flags;

	asm volatile("movq %2, %%xmm7\n\t"
		     "mov $5000, %%ecx\n\t"
		     "std\n"
		     "1: dec %%ecx\n\t"
		     "jnz 1b\n\t"
		     "pushf\n\t"
		     "cld\n\t"
		     "pop %1\n\t"
		     "movq %%xmm7, %0"
		     : "=r"(low), "=r"(flags)
		     : "r"(seed)
		     : "rcx", "xmm7", "cc");
	return low == seed && flags & 0x400 && flags & 0x200;
}

static void worker(struct counts *counts, int64_t end)
{
	handle(SIGRTMIN, count_signal);
	while (now() < end) {
		uint64_t round = counts->rounds++;

		counts->children += child_exits(round % 100);
		counts->programs += program_exits();
		counts->pings += ping_pong();
		counts->signals += queued_signals();
		counts->pages += pages(round * UINT64_C(0x9e3779b97f4a7c15)) && registers_keep(~round);
		counts->naps += nap();
		counts->timers += timer_goes_off();
	}
	_exit(0);
}

static bool consistent(const struct counts *counts)
{
	const uint64_t *done = &counts->children;

	for (size_t i = 0; i < sizeof(*counts) / sizeof(*done) - 1; i++)
		if (done[i] != counts->rounds)
			return false;
	return counts->rounds > 0;
}

int main(int argc, char **argv)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct counts *counts = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int64_t end;

	self = argv[0];
	if (argc == 2 && !strcmp(argv[1], "exit"))
		return 42;
	CHECK(argc == 2 && counts != MAP_FAILED && cpus > 0 && cpus * sizeof(*counts) <= PAGE);
	end = now() + atoi(argv[1]) * INT64_C(1000000000);
	for (long cpu = 0; cpu < cpus; cpu++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0)
			worker(&counts[cpu], end);
	}
	for (long cpu = 0; cpu < cpus; cpu++) {
		int status;

		CHECK(wait(&status) > 0);
		failed |= status != 0;
	}
	verdict(!failed, "load-workers", "%ld ended", cpus);
	for (long cpu = 0; cpu < cpus; cpu++) {
		const struct counts *of = &counts[cpu];
		char name[64];

		snprintf(name, sizeof(name), "load-counts-%ld", cpu);
		verdict(consistent(of), name,
			"%lu rounds, children %lu, programs %lu, pipes %lu, signals %lu, pages %lu, naps %lu, timers %lu",
			of->rounds, of->children, of->programs, of->pings, of->signals, of->pages, of->naps, of->timers);
	}
	return failed;
}
