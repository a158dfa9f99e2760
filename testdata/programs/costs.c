/*
 * What the kernel's operations cost, in ticks of the time-stamp counter: under QEMU's `-icount shift=0` these are executed
 * instructions. Each line "cost NAME N" is the median of many rounds, less what the measuring itself takes, so that a timer
 * interrupt in one of them does not show.
 *
 * The first thing the program executes is a marker, and so are both ends of the line "ticks N": a NOP that nothing else
 * contains, by which QEMU's plugin (boot-tests/plugin/markers.c) knows where it is. The plugin and the counter must agree.
 *
 * As `costs clock [SHELL]` it says how many ticks a millisecond has, too, and what a few more operations cost, and the jobs
 * that are beside it.
 */
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>

#include "cost.h"

/* nopl 0xabe700NN(%rax,%rax), in an encoding of 8 bytes (SDM Vol. 2B, NOP). */
#define MARKER(number) asm volatile(".byte 0x0f, 0x1f, 0x84, 0x00, " #number ", 0x00, 0xe7, 0xab" ::: "memory")

enum { ROUNDS = 200, LONG_ROUNDS = 40, JOB_ROUNDS = 5, SWITCHES = MOST_ROUNDS, PAGES = 64 };

static const char *self, *its_shell = "/bin/sh";
static int there[2], back[2];
static volatile char *fresh;

static void call(void)
{
	syscall(SYS_getppid);
}

static void fork_and_exit(void)
{
	pid_t child = fork();

	if (child == 0)
		_exit(0);
	end(child);
}

static void fork_and_exec(void)
{
	fork_and_execute((const char *const[]){ self, "exit", NULL });
}

static void shell(void)
{
	fork_and_execute((const char *const[]){ its_shell, "-c", "true", NULL });
}

static void ping(void)
{
	char byte = 0;

	CHECK(write(there[1], &byte, 1) == 1 && read(back[0], &byte, 1) == 1);
}

/* Until nobody holds the other end any more. */
static void answer_pings(void)
{
	char byte;

	close(there[1]);
	while (read(there[0], &byte, 1) == 1)
		CHECK(write(back[1], &byte, 1) == 1);
	_exit(0);
}

static void pings(void)
{
	pid_t child;

	CHECK(pipe(there) == 0 && pipe(back) == 0);
	child = fork();
	if (child == 0)
		answer_pings();
	report("pipe-round-trip", cost_of(ping, ROUNDS));
	close(there[1]);
	end(child);
}

static void yield(void)
{
	sched_yield();
}

/*
 * What a yield takes more if it switches. Of real-time processes with one priority the one that yields is the last in turn:
 * each yield is a switch, and there are two until it returns.
 */
static void switches(void)
{
	struct sched_param first = { .sched_priority = 1 }, normal = { .sched_priority = 0 };
	uint64_t alone, both;
	pid_t child;
	int status;

	if (sched_setscheduler(0, SCHED_FIFO, &first) != 0) {
		skip("context-switch", "no right to it");
		return;
	}
	alone = cost_of(yield, ROUNDS);
	child = fork();
	for (; child == 0;)
		sched_yield();
	both = cost_of(yield, SWITCHES);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
	CHECK(sched_setscheduler(0, SCHED_OTHER, &normal) == 0);
	report("context-switch", both / 2 > alone ? both / 2 - alone : 0);
}

static void map_touch_unmap(void)
{
	volatile char *pages = map(PAGES);

	for (int i = 0; i < PAGES; i++)
		pages[i * PAGE] = 1;
	CHECK(munmap((void *)pages, PAGES * PAGE) == 0);
}

static void touch(void)
{
	*fresh = 1;
	fresh += PAGE;
}

static void take_signal(int signal)
{
	(void)signal;
}

static void kill_self(void)
{
	kill(getpid(), SIGUSR1);
}

/* Two changes of CR4 that concern no translation. */
static void forbid_and_allow_ticks(void)
{
	CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
	CHECK(prctl(PR_SET_TSC, PR_TSC_ENABLE) == 0);
}

/* Both ends of a stretch of work, by the counter and by the plugin. */
static void agree(void)
{
	uint64_t start;

	MARKER(2);
	start = ticks();
	for (int i = 0; i < ROUNDS; i++)
		call();
	start = ticks() - start;
	MARKER(3);
	printf("ticks %llu\n", (unsigned long long)start);
}

static int zeros;

static void read_byte(void)
{
	char byte;

	CHECK(read(zeros, &byte, 1) == 1);
}

static void look_up(void)
{
	struct stat about;

	CHECK(stat("/dev/zero", &about) == 0);
}

static void open_and_close(void)
{
	CHECK(close(open("/dev/zero", O_RDONLY)) == 0);
}

static const char *job;

static void do_job(void)
{
	fork_and_execute((const char *const[]){ its_shell, job, NULL });
}

/* What a script takes that is where this program is. */
static void measure_job(const char *name)
{
	const char *end = strrchr(self, '/');
	char path[4096];

	CHECK(end && snprintf(path, sizeof(path), "%.*s/%s", (int)(end - self), self, name) < (int)sizeof(path));
	job = path;
	report(name, cost_of(do_job, JOB_ROUNDS));
}

static volatile double result;

static void compute(void)
{
	double number = 1;

	for (int i = 0; i < 1000000; i++)
		number = number * 1.0000001 + 1e-9;
	result = number;
}

static uint64_t nanoseconds(void)
{
	struct timespec time;

	CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
	return (uint64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

/* What is measured where time is a clock's, on one processor, for it is about switches, too. */
static void by_the_clock(void)
{
	uint64_t start = nanoseconds(), first = ticks(), end;
	cpu_set_t all, one;
	int first_one = 0;

	CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
	while (!CPU_ISSET(first_one, &all))
		first_one++;
	CPU_ZERO(&one);
	CPU_SET(first_one, &one);
	CHECK(sched_setaffinity(0, sizeof(one), &one) == 0);
	do
		end = nanoseconds();
	while (end - start < 50000000);
	report("ticks-of-millisecond", (ticks() - first) * 1000000 / (end - start));
	zeros = open("/dev/zero", O_RDONLY);
	CHECK(zeros >= 0);
	report("read", cost_of(read_byte, ROUNDS));
	report("stat", cost_of(look_up, ROUNDS));
	report("open-close", cost_of(open_and_close, ROUNDS));
	report("compute", cost_of(compute, LONG_ROUNDS));
	measure_job("compile");
	measure_job("tar");
}

int main(int count, char **arguments)
{
	bool has_clock = count > 1 && strcmp(arguments[1], "clock") == 0;

	if (count > 1 && !has_clock)
		return 0;
	MARKER(1);
	self = arguments[0];
	if (count > 2)
		its_shell = arguments[2];
	measuring = cost_of(nothing, ROUNDS);
	if (has_clock)
		by_the_clock();
	agree();
	report("null-syscall", cost_of(call, ROUNDS));
	report("fork-exit", cost_of(fork_and_exit, ROUNDS));
	report("fork-exec", cost_of(fork_and_exec, LONG_ROUNDS));
	report("shell", cost_of(shell, LONG_ROUNDS));
	pings();
	switches();
	report("map-touch-unmap", cost_of(map_touch_unmap, ROUNDS) / PAGES);
	fresh = map(2 * ROUNDS);
	report("page-fault", cost_of(touch, ROUNDS));
	CHECK(signal(SIGUSR1, take_signal) != SIG_ERR);
	report("signal", cost_of(kill_self, ROUNDS));
	if (!has_clock)
		report("tsc-switch", cost_of(forbid_and_allow_ticks, ROUNDS) / 2);
	return 0;
}
