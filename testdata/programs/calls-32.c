/*
 * System calls of 32-bit code with ESP where nothing can be pushed, by each door. The kernel must
 * have come to a stack of its own before anything is. Behind SYSCALL and SYSENTER, Linux looks for
 * an argument on the program's stack, does without the call for want of it, and goes on in the
 * vDSO, which faults there.
 */
#include <errno.h>
#include <setjmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "verdict.h"

enum { ROUNDS = 100 };

static const uint32_t stacks[] = { 0, 4, 0x1000, 0xc0000000, 0xfffff000, 0xffffffff };

enum door { INTERRUPT, SYSCALL, SYSENTER };

static const char *const names[] = { "int-80", "syscall", "sysenter" };

static sigjmp_buf back;
static volatile struct {
	int signal, result;
	uint32_t esp;
} seen;

static void leave(int signal, siginfo_t *info, void *context)
{
	const greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)info;
	seen.signal = signal;
	seen.result = registers[REG_EAX];
	seen.esp = registers[REG_ESP];
	siglongjmp(back, 1);
}

/* Ends with a signal, if not before, at UD2. SYSENTER takes the stack pointer from EBP. */
static void call(enum door door, uint32_t esp)
{
#define BY(instruction)                                                                                                \
	asm volatile("mov %0, %%esp; mov %0, %%ebp;" instruction "; ud2" ::"r"(esp), "a"(SYS_getppid))
	if (sigsetjmp(back, 1) != 0)
		return;
	if (door == INTERRUPT)
		BY("int $0x80");
	else if (door == SYSCALL)
		BY("syscall");
	else
		BY("sysenter");
}

static void calls(enum door door, uint32_t esp)
{
	unsigned int good = 0;
	char name[64];

	for (int round = 0; round < ROUNDS; round++) {
		call(door, esp);
		if (door == INTERRUPT)
			good += seen.signal == SIGILL && seen.result == getppid();
		else if (seen.signal == SIGILL) /* a processor without this instruction */
			good += seen.result == SYS_getppid;
		else
			good += seen.signal == SIGSEGV || seen.signal == SIGBUS; /* beyond the end of the stack */
		good -= seen.esp != esp;
	}
	snprintf(name, sizeof(name), "calls-32-%s-%#x", names[door], esp);
	verdict(good == ROUNDS, name, "%u good, the last ended with signal %d", good, seen.signal);
}

int main(void)
{
	handle(SIGSEGV, leave);
	handle(SIGBUS, leave);
	handle(SIGILL, leave);
	for (size_t i = 0; i < sizeof(stacks) / sizeof(*stacks); i++)
		for (enum door door = INTERRUPT; door <= SYSENTER; door++)
			calls(door, stacks[i]);
	return failed;
}
