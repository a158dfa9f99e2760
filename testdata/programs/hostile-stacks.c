/*
 * Stack pointers that point nowhere, at whatever moment the kernel is entered: system call, interrupt, exception, signal.
 * The processor must not touch the user's stack then, nor may the kernel before it knows whose it is; the pointer must be
 * the same afterwards.
 */
#include <sys/time.h>
#include <sys/wait.h>

#include "hostile.h"

enum { TICKS = 3 };

#define STACK_BOTTOM (STACK_TOP - 16 * PAGE)
#define READ_ONLY UINT64_C(0x21000000)

static const uint64_t stacks[] = {
	0,
	1,
	8,
	STACK_BOTTOM,
	STACK_BOTTOM + 4,
	STACK_TOP,
	STACK_TOP + 4,
	STACK_TOP + 8,
	READ_ONLY + PAGE,
	0x7ffffffff000,
	0x7fffffffffff,
	0x800000000000,
	0x800000000008,
	0x8000000000000000,
	0xffff7ffffffffff8,
	0xffff800000000008,
	0xffff82d0bfffffe8,
	0xffff880000000008,
	0xffffffff7f000008,
	0xffffffff7f800000,
	0xffffffff81000000,
	0xfffffffffffffff8,
	0xffffffffffffffff,
};

enum { STACKS = sizeof(stacks) / sizeof(*stacks) };

static void told_of(const char *what, uint64_t stack, const struct outcome *outcome, bool good)
{
	char name[96];
	bool kept = outcome->at[REG_RSP] == (greg_t)stack;

	snprintf(name, sizeof(name), "stack-%s-%#lx", what, stack);
	verdict(good && kept, name, "%s, rsp %s", told(outcome), kept ? "kept" : "changed");
}

static struct outcome with_stack(uint64_t stack, const char *code, size_t length)
{
	hostile_wanted[REG_RSP] = (greg_t)stack;
	return attempt_code(code, length);
}

/* mov $NUMBER, %eax; syscall */
static struct outcome system_call(uint64_t stack, uint8_t number)
{
	const char code[] = { (char)0xb8, (char)number, 0, 0, 0, 0x0f, 0x05 };

	return with_stack(stack, code, sizeof(code));
}

static volatile int delivered;

static void count(int signal, siginfo_t *info, void *data)
{
	(void)signal;
	(void)info;
	(void)data;
	delivered++;
}

static void system_calls(uint64_t stack)
{
	struct outcome outcome;
	pid_t self = getpid();
	int status;

	fresh();
	outcome = system_call(stack, SYS_getpid);
	told_of("getpid", stack, &outcome, completed(&outcome, 7) && outcome.at[REG_RAX] == self);

	/* The signal is delivered on the way out. */
	delivered = 0;
	fresh()[REG_RDI] = self;
	hostile_wanted[REG_RSI] = SIGUSR2;
	outcome = system_call(stack, SYS_kill);
	told_of("kill", stack, &outcome, completed(&outcome, 7) && delivered == 1);

	/* A child that starts with it, in the same memory, and ends without a use of it. */
	{
		/* mov $56, %eax; syscall; test %eax, %eax; jnz +12; mov $7, %edi; mov $60, %eax; syscall */
		const char code[] = "\xb8\x38\x00\x00\x00\x0f\x05\x85\xc0\x75\x0c\xbf\x07\x00\x00\x00\xb8\x3c\x00\x00\x00"
				    "\x0f\x05";

		if (stack) {
			fresh()[REG_RDI] = 0x4100 | SIGCHLD; /* CLONE_VM | CLONE_VFORK */
			hostile_wanted[REG_RSI] = (greg_t)stack;
			outcome = with_stack(stack, code, sizeof(code) - 1);
			CHECK(outcome.at[REG_RAX] > 0 && waitpid(outcome.at[REG_RAX], &status, 0) > 0);
			told_of("clone", stack, &outcome, status == 7 << 8);
		}
	}
}

/* A frame for `sigreturn` that is not there; a signal that has no stack to go to. */
static void signal_frames(uint64_t stack)
{
	struct sigaction without_stack = { .sa_handler = SIG_DFL };
	struct outcome outcome;

	if (stack >= 0x800000000000 || stack < PAGE) {
		char name[64];

		fresh();
		outcome = system_call(stack, SYS_rt_sigreturn);
		snprintf(name, sizeof(name), "stack-sigreturn-%#lx", stack);
		verdict(outcome.signal == SIGSEGV, name, "signal %d, code %d", outcome.signal, outcome.code);
	}
	without_stack.sa_sigaction = count;
	without_stack.sa_flags = SA_SIGINFO;
	CHECK(sigaction(SIGUSR2, &without_stack, NULL) == 0);
	if (stack >= 0x7ffffffff000 || stack < PAGE) {
		fresh()[REG_RDI] = getpid();
		hostile_wanted[REG_RSI] = SIGUSR2;
		outcome = system_call(stack, SYS_kill);
		told_of("no-room", stack, &outcome, outcome.signal == SIGSEGV && outcome.code == SI_KERNEL);
	}
	handle(SIGUSR2, count);
}

static void tick(int signal, siginfo_t *info, void *data)
{
	(void)signal;
	(void)info;
	(void)data;
	if (++delivered == TICKS)
		*DATA = 1;
}

static void interrupts(uint64_t stack)
{
	/* 1: inc %rcx; cmpb $0, (%rbx); je 1b */
	const char code[] = "\x48\xff\xc1\x80\x3b\x00\x74\xf8";
	struct itimerval often = { .it_value.tv_usec = 1000, .it_interval.tv_usec = 1000 };
	struct outcome outcome;

	delivered = 0;
	*DATA = 0;
	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	fresh()[REG_RBX] = (uintptr_t)DATA;
	outcome = with_stack(stack, code, sizeof(code) - 1);
	CHECK(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL) == 0);
	told_of("interrupts", stack, &outcome, completed(&outcome, 8) && outcome.at[REG_RCX] > 0);
}

static const struct {
	const char *name, *code;
	size_t length;
} instructions[] = {
	{ "ud2", "\x0f\x0b", 2 },
	{ "int3", "\xcc", 1 },
	{ "div", "\xf7\xf1", 2 },
	{ "hlt", "\xf4", 1 },
	{ "fault", "\x8a\x00", 2 },
	{ "push", "\x50", 1 },
	{ "push-imm", "\x6a\x01", 2 },
	{ "push-word", "\x66\x50", 2 },
	{ "pushf", "\x9c", 1 },
	{ "push-fs", "\x0f\xa0", 2 },
	{ "pop", "\x58", 1 },
	{ "popf", "\x9d", 1 },
	{ "pop-fs", "\x0f\xa1", 2 },
	{ "call", "\xe8\x00\x00\x00\x00", 5 },
	{ "ret", "\xc3", 1 },
	{ "enter", "\xc8\x10\x00\x00", 4 },
	{ "enter-nested", "\xc8\x10\x00\x02", 4 },
	{ "leave", "\xc9", 1 },
	{ "load", "\x48\x8b\x04\x24", 4 },
	{ "store", "\x48\x89\x04\x24", 4 },
	{ "ss-load", "\x36\x48\x8b\x04\x24", 5 },
	{ "rbp-load", "\x48\x8b\x45\x00", 4 },
};

/* Neither IRET nor a far RET is among them: QEMU 7.2 reads their frames as if the kernel did. */
static void exceptions(const char *what, const char *code, size_t length)
{
	struct tally ends = { 0 };
	char name[64];

	for (size_t i = 0; i < STACKS; i++) {
		char text[160];
		struct outcome outcome;

		memset((void *)STACK_BOTTOM, 0, 16 * PAGE);
		fresh()[REG_RBP] = (greg_t)stacks[i];
		outcome = with_stack(stacks[i], code, length);
		/* QEMU 7.2 raises #GP for either (SDM Vol. 1, 3.3.7.1). */
		if (outcome.vector == SS_FAULT && outcome.signal == SIGBUS) {
			outcome.vector = GP;
			outcome.signal = SIGSEGV;
		}
		/* As a distance, so that those alike are told as one. */
		if (outcome.vector == PF)
			outcome.address -= stacks[i];
		snprintf(text, sizeof(text), "%s, rsp %+lld", told(&outcome), outcome.at[REG_RSP] - (greg_t)stacks[i]);
		tally(&ends, stacks[i], text);
	}
	snprintf(name, sizeof(name), "stack-%s", what);
	tell(&ends, name);
}

static void single_step(uint64_t stack)
{
	struct outcome outcome;

	fresh()[REG_EFL] |= 0x100;
	outcome = with_stack(stack, "\x90\x90", 2);
	told_of("single-step", stack, &outcome, outcome.vector == DB);
}

/*
 * Jumps to wherever a hypervisor's helper in the kernel half may have an entry point, with a frame on the stack as Xen pushes
 * it (xen/arch/x86/domain.c, load_segments): it must not be taken for Xen's.
 */
static void jumps(void)
{
	enum { FIRST = 0x100000, LENGTH = 0x1000 };
	const uint64_t frame[] = { 0, 0, 0, 0, 0, 0, (uintptr_t)CODE, 0xe030, 2, STACK_TOP - PAGE, 0xe02b };
	unsigned int strange = 0;

	for (uint64_t offset = FIRST; offset < FIRST + LENGTH; offset++) {
		uint64_t target = 0xffffffff7f000000 + offset;
		struct outcome outcome;

		fresh()[REG_RAX] = (greg_t)target;
		memcpy((void *)hostile_wanted[REG_RSP], frame, sizeof(frame));
		outcome = attempt_code("\xff\xe0", 2); /* jmp *%rax */
		strange += outcome.signal != SIGSEGV || outcome.vector != PF || outcome.address != target ||
			   outcome.at[REG_RIP] != (greg_t)target || outcome.at[REG_RSP] != hostile_wanted[REG_RSP];
	}
	verdict(strange == 0, "stack-forged-frame", "%u strange ends of %d", strange, LENGTH);
}

int main(void)
{
	hostile_setup();
	map_fixed(READ_ONLY, PAGE, PROT_READ);
	handle(SIGUSR2, count);
	handle(SIGALRM, tick);
	for (size_t i = 0; i < STACKS; i++) {
		system_calls(stacks[i]);
		signal_frames(stacks[i]);
		interrupts(stacks[i]);
		single_step(stacks[i]);
	}
	for (size_t i = 0; i < sizeof(instructions) / sizeof(*instructions); i++)
		exceptions(instructions[i].name, instructions[i].code, instructions[i].length);
	jumps();
	return failed;
}
