/*
 * The x87 and SSE registers are a thread's own: while others of the same process and other processes run, across signals, which
 * save and load them, across fork, which copies them, and across exec, which makes them what they are at first. Whoever finds
 * another's value, or a value of the program before it, says so.
 */
#include <pthread.h>
#include <sched.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { THREADS = 4, ROUNDS = 400 };

struct state {
	uint64_t xmm[4][2];
	double st;
	uint32_t mxcsr;
	uint16_t control;
};

/* Values that tell whose they are, and rounding of its own. */
static struct state state_of(unsigned int who)
{
	struct state state = { .st = who + 0.25, .mxcsr = 0x1f80 | (who & 3) << 13, .control = 0x37f & ~0xc00 };

	state.control |= (who & 3) << 10;
	for (int at = 0; at < 4; at++) {
		state.xmm[at][0] = UINT64_C(0x0101010101010101) * (who + at);
		state.xmm[at][1] = ~state.xmm[at][0];
	}
	return state;
}

/* Loads a state, has the kernel run others by a system call or by whatever a loop is interrupted by, and stores it. */
#define AROUND(state, found, call)                                                                                     \
	asm volatile("ldmxcsr %[mxcsr]\n fninit\n fldcw %[control]\n fldl %[st]\n"                                     \
		     "movdqu (%[xmm]), %%xmm0\n movdqu 16(%[xmm]), %%xmm5\n movdqu 32(%[xmm]), %%xmm9\n"                \
		     "movdqu 48(%[xmm]), %%xmm15\n" call "\n"                                                          \
		     "movdqu %%xmm0, (%[to])\n movdqu %%xmm5, 16(%[to])\n movdqu %%xmm9, 32(%[to])\n"                   \
		     "movdqu %%xmm15, 48(%[to])\n stmxcsr %[to_mxcsr]\n fstcw %[to_control]\n fstpl %[to_st]\n"          \
		     : [to_mxcsr] "=m"((found)->mxcsr), [to_control] "=m"((found)->control), [to_st] "=m"((found)->st) \
		     : [mxcsr] "m"((state)->mxcsr), [control] "m"((state)->control), [st] "m"((state)->st),            \
		       [xmm] "r"((state)->xmm), [to] "r"((found)->xmm)                                                  \
		     : "rax", "rcx", "rdx", "r11", "r10", "memory", "xmm0", "xmm5", "xmm9", "xmm15")

static bool is_same(const struct state *one, const struct state *other)
{
	return memcmp(one->xmm, other->xmm, sizeof(one->xmm)) == 0 && one->st == other->st && one->mxcsr == other->mxcsr &&
	       one->control == other->control;
}

static void yield_with(const struct state *state, struct state *found)
{
	AROUND(state, found, "mov $24, %%eax\n syscall");
}

static void wait_with(const struct state *state, struct state *found)
{
	AROUND(state, found, "mov $300000, %%ecx\n 1: dec %%ecx\n jnz 1b");
}

static void *keep(void *argument)
{
	uintptr_t wrong = 0;
	unsigned int who = 1 + (uintptr_t)argument;

	for (int round = 0; round < ROUNDS; round++) {
		struct state state = state_of(who), found = { 0 };

		yield_with(&state, &found);
		wrong += !is_same(&state, &found);
		if (round % 40 == 0) {
			wait_with(&state, &found);
			wrong += !is_same(&state, &found);
		}
	}
	return (void *)wrong;
}

static uintptr_t keep_in_threads(unsigned int first)
{
	pthread_t threads[THREADS];
	uintptr_t wrong = 0;
	void *of_one;

	for (uintptr_t number = 0; number < THREADS; number++)
		CHECK(pthread_create(&threads[number], NULL, keep, (void *)(first + number)) == 0);
	for (int number = 0; number < THREADS; number++) {
		CHECK(pthread_join(threads[number], &of_one) == 0);
		wrong += (uintptr_t)of_one;
	}
	return wrong;
}

static volatile sig_atomic_t signals;

static void spoil(int signal, siginfo_t *info, void *context)
{
	struct state other = state_of(77), found;

	(void)signal;
	(void)info;
	(void)context;
	yield_with(&other, &found);
	signals++;
}

static void across_signals(void)
{
	struct itimerval timer = { { 0, 2000 }, { 0, 2000 } }, none = { 0 };
	int wrong = 0;

	/* It yields, and on a busy machine that takes longer than the timer: one at a time. */
	struct sigaction once = { .sa_sigaction = spoil, .sa_flags = SA_SIGINFO };

	CHECK(sigaction(SIGALRM, &once, NULL) == 0);
	CHECK(setitimer(ITIMER_REAL, &timer, NULL) == 0);
	for (unsigned int round = 0; round < 100000 && signals < 25; round++) {
		struct state state = state_of(round % 32), found;

		wait_with(&state, &found);
		wrong += !is_same(&state, &found);
	}
	CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0);
	verdict(wrong == 0 && signals >= 25, "floating-point-signals", "%d wrong", wrong);
}

static void across_fork(void)
{
	int wrong = 0, status;

	for (unsigned int who = 3; who < 9; who++) {
		struct state state = state_of(who), found;

		/* fork, by the system call alone: what is behind it runs in both. */
		AROUND(&state, &found, "mov $57, %%eax\n syscall");
		wrong += !is_same(&state, &found);
		if (getpid() != getpgrp() && getppid() == getpgrp())
			_exit(is_same(&state, &found) ? 0 : 1);
		CHECK(wait(&status) > 0);
		wrong += status != 0;
	}
	verdict(wrong == 0, "floating-point-fork", "%d wrong", wrong);
}

/* What a program finds at first is the same for all: nothing of the one before. */
static int tell_initial(void)
{
	uint64_t xmm[2];
	uint32_t mxcsr;
	uint16_t control;

	asm volatile("movdqu %%xmm15, %0\n stmxcsr %1\n fstcw %2" : "=m"(xmm), "=m"(mxcsr), "=m"(control));
	return xmm[0] == 0 && xmm[1] == 0 && mxcsr == 0x1f80 && control == 0x37f ? 0 : 1;
}

static void across_exec(const char *self)
{
	int wrong = 0, status;

	for (int round = 0; round < 8; round++) {
		struct state state = state_of(90 + round), found;
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0) {
			yield_with(&state, &found);
			asm volatile("movdqu (%0), %%xmm15\n ldmxcsr %1" : : "r"(state.xmm), "m"(state.mxcsr) : "xmm15");
			execl(self, self, "initial", NULL);
			_exit(2);
		}
		CHECK(waitpid(child, &status, 0) == child);
		wrong += status != 0;
	}
	verdict(wrong == 0, "floating-point-exec", "%d wrong", wrong);
}

/* A tracer reads a stopped thread's registers, and sets them. */
static void by_tracer(void)
{
	struct user_fpregs_struct registers;
	struct state state = state_of(5), found;
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		struct state wanted = state_of(5);

		wanted.xmm[1][0] = 0x1122334455667788;
		CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
		/* kill(getpid(), SIGSTOP), by the system calls alone. */
		AROUND(&state, &found,
		       "mov $39, %%eax\n syscall\n push %%rdi\n push %%rsi\n mov %%eax, %%edi\n mov $19, %%esi\n mov $62, %%eax\n"
		       "syscall\n pop %%rsi\n pop %%rdi");
		_exit(is_same(&wanted, &found) ? 0 : 1);
	}
	CHECK(waitpid(child, &status, 0) == child && WIFSTOPPED(status));
	CHECK(ptrace(PTRACE_GETFPREGS, child, 0, &registers) == 0);
	bool read = memcmp(registers.xmm_space + 4 * 5, state.xmm[1], 16) == 0 && registers.mxcsr == state.mxcsr;
	uint64_t changed = 0x1122334455667788;

	memcpy(registers.xmm_space + 4 * 5, &changed, sizeof(changed));
	CHECK(ptrace(PTRACE_SETFPREGS, child, 0, &registers) == 0);
	CHECK(ptrace(PTRACE_CONT, child, 0, 0) == 0);
	CHECK(waitpid(child, &status, 0) == child);
	verdict(read && status == 0, "floating-point-traced", "read %d, then %#x", read, status);
}

int main(int count, char **arguments)
{
	uintptr_t wrong;
	int status;

	if (count > 1)
		return tell_initial();
	CHECK(getpid() == getpgrp() || setpgid(0, 0) == 0);
	wrong = keep_in_threads(0);
	verdict(wrong == 0, "floating-point-threads", "%lu wrong", wrong);
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0)
		_exit(keep_in_threads(8) ? 1 : 0);
	wrong = keep_in_threads(16);
	CHECK(waitpid(child, &status, 0) == child);
	verdict(wrong == 0 && status == 0, "floating-point-processes", "%lu wrong, and %#x", wrong, status);
	across_signals();
	across_fork();
	across_exec(arguments[0]);
	by_tracer();
	return failed;
}
