/*
 * The floating-point and vector registers of processes that take turns: each has a pattern of its own in all of them, and
 * none may ever see another's, or a register of the kernel's, whatever comes between: a switch, a signal, a fault.
 *
 * XMM and x87 always; the upper halves of YMM where the operating system has enabled them (SDM Vol. 1, 14.3).
 */
#include <cpuid.h>
#include <sched.h>
#include <sys/time.h>
#include <sys/wait.h>

#include "hostile.h"

enum { WORKERS = 3, ROUNDS = 300 };
/* Instead of a system call. */
enum { NOTHING = -1, FAULT = -2 };

struct vectors {
	uint8_t xmm[16][32];
	double x87[8];
	uint32_t mxcsr;
	uint16_t control;
} __attribute__((aligned(32)));

static bool wide;

static void detect(void)
{
	unsigned int eax, ebx, ecx, edx, low, high;

	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE) || !(ecx & bit_AVX))
		return;
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	wide = (low & 6) == 6;
}

#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define LOAD_XMM(n) "movups " #n "*32(%0), %%xmm" #n "\n\t"
#define SAVE_XMM(n) "movups %%xmm" #n ", " #n "*32(%0)\n\t"
#define LOAD_YMM(n) "vmovups " #n "*32(%0), %%ymm" #n "\n\t"
#define SAVE_YMM(n) "vmovups %%ymm" #n ", " #n "*32(%0)\n\t"

#define CLOBBERED(n) "xmm" #n,

/* Loads all, does one system call or spins, and saves all: nothing of the C library's comes between. */
static void hold(const struct vectors *in, struct vectors *out, long call, long spins)
{
	asm volatile("ldmxcsr %0; fninit; fldcw %1" ::"m"(in->mxcsr), "m"(in->control));
	for (int i = 7; i >= 0; i--)
		asm volatile("fldl %0" ::"m"(in->x87[i]));
	if (wide)
		asm volatile(EACH(LOAD_YMM)::"r"(in) : EACH(CLOBBERED) "memory");
	else
		asm volatile(EACH(LOAD_XMM)::"r"(in) : EACH(CLOBBERED) "memory");
	if (call == FAULT)
		asm volatile("ud2");
	else if (call != NOTHING)
		asm volatile("syscall" : "+a"(call)::"rcx", "r11", "memory");
	asm volatile("1: dec %0; jnz 1b" : "+r"(spins)::"cc", "memory");
	if (wide)
		asm volatile(EACH(SAVE_YMM)::"r"(out) : "memory");
	else
		asm volatile(EACH(SAVE_XMM)::"r"(out) : "memory");
	for (int i = 0; i < 8; i++)
		asm volatile("fstpl %0" : "=m"(out->x87[i]));
	asm volatile("stmxcsr %0; fnstcw %1; fninit" : "=m"(out->mxcsr), "=m"(out->control));
	asm volatile("ldmxcsr %0" ::"m"((uint32_t){ 0x1f80 }));
}

static void pattern(struct vectors *vectors, uint32_t seed)
{
	memset(vectors, 0, sizeof(*vectors));
	for (size_t i = 0; i < sizeof(vectors->xmm); i++) {
		seed = seed * 1103515245 + 12345;
		if (wide || i % 32 < 16)
			vectors->xmm[i / 32][i % 32] = seed >> 16;
	}
	for (int i = 0; i < 8; i++)
		vectors->x87[i] = (double)(seed >> 8) + i;
	/* Rounding mode, and the flags of exceptions that are masked. */
	vectors->mxcsr = 0x1f80 | (seed & 3) << 13 | (seed >> 2 & 0x3f);
	vectors->control = 0x37f | (seed >> 8 & 3) << 10;
}

static bool kept(uint32_t seed, long call, long spins)
{
	struct vectors in, out;

	pattern(&in, seed);
	memset(&out, 0, sizeof(out));
	hold(&in, &out, call, spins);
	return !memcmp(&in, &out, sizeof(in));
}

static volatile sig_atomic_t signals;

/* A handler with a pattern of its own in the registers. */
static void scribble(int signal, siginfo_t *info, void *data)
{
	(void)signal;
	(void)info;
	(void)data;
	if (!kept(0xdead0000 + signals, NOTHING, 1))
		_exit(9);
	signals++;
}

static void skip_fault(int signal, siginfo_t *info, void *data)
{
	scribble(signal, info, data);
	((ucontext_t *)data)->uc_mcontext.gregs[REG_RIP] += 2;
}

static int worker(uint32_t seed)
{
	struct itimerval often = { .it_value.tv_usec = 500, .it_interval.tv_usec = 1500 };

	handle(SIGALRM, scribble);
	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	for (int round = 0; round < ROUNDS; round++) {
		if (!kept(seed * 7919 + round, SYS_sched_yield, 1))
			return 1;
		if (round % 10 == 0 && !kept(seed * 104729 + round, NOTHING, 300000))
			return 2;
	}
	while (signals < 3)
		if (!kept(seed + signals, SYS_sched_yield, 1000))
			return 3;
	return 0;
}

static void several(void)
{
	unsigned int good = 0;
	int status;

	for (uint32_t i = 0; i < WORKERS; i++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0)
			_exit(worker(i + 1));
	}
	for (int i = 0; i < WORKERS; i++) {
		CHECK(wait(&status) > 0);
		good += status == 0;
	}
	verdict(good == WORKERS, "registers-kept", "%u of %d workers", good, WORKERS);
}

/* What a system call leaves of them, and a fault whose handler has other ones. */
static void around_calls(void)
{
	const long calls[] = { SYS_getpid, SYS_sched_yield, SYS_getppid, 1000, NOTHING, FAULT };
	unsigned int bad = 0;

	handle(SIGILL, skip_fault);
	for (size_t i = 0; i < sizeof(calls) / sizeof(*calls); i++)
		for (uint32_t seed = 0; seed < 50; seed++)
			bad += !kept(seed, calls[i], 1);
	verdict(bad == 0, "registers-around-calls", "%u changed", bad);
}

/* A child has what its parent had. */
static void in_a_child(void)
{
	struct vectors in;
	pid_t child;
	int status;

	pattern(&in, 77);
	asm volatile("ldmxcsr %0" ::"m"(in.mxcsr));
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		uint32_t mxcsr;

		asm volatile("stmxcsr %0" : "=m"(mxcsr));
		_exit(mxcsr != in.mxcsr);
	}
	asm volatile("ldmxcsr %0" ::"m"((uint32_t){ 0x1f80 }));
	CHECK(waitpid(child, &status, 0) == child);
	verdict(status == 0, "registers-inherited", "wait status %#x", status);
}

int main(void)
{
	hostile_setup();
	detect();
	around_calls();
	in_a_child();
	several();
	return failed;
}
