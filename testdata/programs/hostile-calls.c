/*
 * System calls by every form that text has for them, often enough that a host changes the text if it does; and what a program may
 * do to such text: jump to any instruction of it, step through it, be interrupted in it, write to it, run it in two processes.
 */
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { OFTEN = 300, PAGE = 4096, GETPID = 39, GETPPID = 110, GETUID = 102 };

/*
 * By the number in front of SYSCALL (a jump to the second entry brings another); by any number, with a NOP behind the function,
 * which can be executed; and behind what only looks as if it were the first.
 */
__asm__(".pushsection .text\n"
	".macro FORM name, load\n"
	".balign 64\n"
	".globl \\name, \\name\\()_call, \\name\\()_behind\n"
	"\\name:\n"
	"	\\load\n"
	"\\name\\()_call: syscall\n"
	"\\name\\()_behind:\n"
	"	cmpq $-4095, %rax\n"
	"	ret\n"
	".endm\n"
	"FORM by_mov, \"movl $39, %eax\"\n"
	"FORM by_any, \"movq %rdi, %rax\"\n"
	".byte 0x66, 0x2e, 0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0\n"
	"ret\n"
	"FORM by_local, \"movl $39, -0x48(%rsp)\"\n" /* c7 44 24 b8 27 00 00 00: no `mov $39, %eax` */
	".popsection\n");

extern const uint8_t by_mov[], by_mov_call[], by_mov_behind[];
extern const uint8_t by_any[], by_any_call[], by_any_behind[];
extern const uint8_t by_local[], by_local_call[], by_local_behind[];

struct seen {
	uint64_t rax, before, after, below;
};

/* Goes to an address with a number in RAX and RDI, and 128 bytes below the stack that must stay. */
static struct seen go(const void *to, uint64_t number, uint64_t flags)
{
	struct seen seen;

	__asm__ volatile("movq $0x5ca1ab1e, -16(%%rsp)\n"
			 "movq $0x5ca1ab1e, -128(%%rsp)\n"
			 "pushq %[flags]\n"
			 "popfq\n"
			 "pushfq\n"
			 "popq %[before]\n"
			 "movq $0x5ca1ab1e, -16(%%rsp)\n"
			 "call *%[to]\n"
			 "pushfq\n"
			 "popq %[after]\n"
			 "movq -128(%%rsp), %[below]\n"
			 "pushq $0x202\n"
			 "popfq\n"
			 : "=a"(seen.rax), [before] "=&r"(seen.before), [after] "=&r"(seen.after), [below] "=&r"(seen.below)
			 : "a"(number), "D"(number), [to] "r"(to), [flags] "r"(flags)
			 : "rcx", "r11", "rsi", "rdx", "memory", "cc");
	return seen;
}

/* RCX and R11 as a call leaves them. */
static void left(const void *to, uint64_t number, uint64_t *rcx, uint64_t *r11, uint64_t *rax)
{
	__asm__ volatile("call *%[to]\n"
			 "movq %%rcx, %[rcx]\n"
			 "movq %%r11, %[r11]\n"
			 : "=a"(*rax), [rcx] "=&r"(*rcx), [r11] "=&r"(*r11)
			 : "a"(number), "D"(number), [to] "r"(to)
			 : "rcx", "r11", "rsi", "rdx", "memory", "cc");
}

static void often(const char *name, const uint8_t *form, const uint8_t *behind, uint64_t number, uint64_t expected)
{
	unsigned int wrong = 0, lost = 0;

	for (int i = 0; i < OFTEN; i++) {
		uint64_t rax, rcx, r11;
		struct seen seen = go(form, number, 0x202);

		left(form, number, &rcx, &r11, &rax);
		wrong += rax != expected || seen.rax != expected || rcx != (uint64_t)behind || (r11 & 0x200) == 0;
		lost += seen.below != 0x5ca1ab1e;
	}
	verdict(wrong == 0 && lost == 0, name, "%u wrong, %u times something below the stack was lost", wrong, lost);
}

static volatile sig_atomic_t steps, ticks;

static void step(int signal, siginfo_t *info, void *context)
{
	(void)signal, (void)info, (void)context;
	steps++;
}

static void tick(int signal)
{
	(void)signal;
	ticks++;
}

static void flags_stay(void)
{
	static const uint64_t all[] = { 0x202, 0x602, 0x40202, 0x200202, 0x40602 };

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct seen seen = go(by_mov, GETPID, all[i]);
		uint64_t kept = 0x600 | 0x40000 | 0x200000;
		bool good = seen.rax == (uint64_t)getpid() && ((seen.before ^ seen.after) & kept) == 0;
		char name[32];

		snprintf(name, sizeof(name), "calls-flags-%zu", i);
		verdict(good, name, "%#lx before, %#lx after", seen.before & kept, seen.after & kept);
	}
}

static void steps_through(void)
{
	struct seen seen;

	handle(SIGTRAP, step);
	steps = 0;
	seen = go(by_mov, GETPID, 0x302);
	verdict(seen.rax == (uint64_t)getpid() && steps > 3, "calls-steps", "the call is made, and there are steps");
	signal(SIGTRAP, SIG_DFL);
}

static void interrupted(void)
{
	struct itimerval often_enough = { { 0, 1000 }, { 0, 1000 } }, never = { { 0, 0 }, { 0, 0 } };
	unsigned int wrong = 0;
	uint64_t expected = getpid();

	CHECK(signal(SIGALRM, tick) != SIG_ERR);
	ticks = 0;
	CHECK(setitimer(ITIMER_REAL, &often_enough, NULL) == 0);
	while (ticks < 50)
		for (int i = 0; i < 1000; i++)
			wrong += go(by_mov, GETPID, 0x202).rax != expected || go(by_any, GETPID, 0x202).rax != expected;
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
	verdict(wrong == 0, "calls-interrupted", "%u wrong", wrong);
}

static void written(void)
{
	uint8_t *text = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	static const uint8_t code[] = { 0x90, 0x90, 0x90, 0xb8, GETPID, 0, 0, 0, 0x0f, 0x05, 0xc3 };
	unsigned int wrong = 0;

	CHECK(text != MAP_FAILED);
	memcpy(text, code, sizeof(code));
	CHECK(mprotect(text, PAGE, PROT_READ | PROT_EXEC) == 0);
	for (int i = 0; i < OFTEN; i++)
		wrong += go(text, GETPID, 0x202).rax != (uint64_t)getpid();
	CHECK(mprotect(text, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC) == 0);
	text[4] = GETUID;
	wrong += go(text, GETUID, 0x202).rax != (uint64_t)getuid();
	CHECK(mprotect(text, PAGE, PROT_READ | PROT_EXEC) == 0);
	for (int i = 0; i < OFTEN; i++)
		wrong += go(text, GETUID, 0x202).rax != (uint64_t)getuid();
	verdict(wrong == 0, "calls-written", "%u wrong", wrong);
}

static void two_processes(void)
{
	unsigned int wrong = 0;
	pid_t child = fork();
	int status;

	CHECK(child >= 0);
	for (int i = 0; i < OFTEN; i++) {
		uint64_t self = child == 0 ? (uint64_t)syscall(SYS_gettid) : (uint64_t)getpid();

		wrong += go(by_mov, GETPID, 0x202).rax != self || go(by_any, GETPID, 0x202).rax != self;
		sched_yield();
	}
	if (child == 0)
		_exit(wrong != 0);
	CHECK(waitpid(child, &status, 0) == child);
	verdict(wrong == 0 && status == 0, "calls-in-two-processes", "%u wrong, status %#x", wrong, status);
}

int main(void)
{
	uint64_t self = getpid(), parent = getppid();

	often("calls-by-mov", by_mov, by_mov_behind, GETPID, self);
	often("calls-by-mov-jumped-into", by_mov_call, by_mov_behind, GETPPID, parent);
	often("calls-by-mov-again", by_mov, by_mov_behind, GETPID, self);
	often("calls-by-any", by_any, by_any_behind, GETPPID, parent);
	often("calls-by-any-jumped-into", by_any_call, by_any_behind, GETPID, self);
	often("calls-by-local", by_local, by_local_behind, GETPID, self);
	for (int i = 0; i < OFTEN; i++) /* the NOP, with what is in RAX */
		CHECK(go(by_any_behind + 7, GETPID + i, 0x202).rax == (uint64_t)GETPID + i);
	verdict(true, "calls-nop", "does nothing");
	verdict(go(by_any, (uint64_t)-1, 0x202).rax == (uint64_t)-38, "calls-none", "there is no such call");
	flags_stay();
	steps_through();
	interrupted();
	written();
	two_processes();
	often("calls-by-mov-at-last", by_mov, by_mov_behind, GETPID, self);
	return failed;
}
