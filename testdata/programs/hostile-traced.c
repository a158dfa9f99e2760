/*
 * A process traced step by step through system calls, faults, copies on write, signals and changes of protection. The trace
 * is the same on every host, instruction by instruction, and what the tracer writes is what the process reads.
 */
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/user.h>
#include <sys/wait.h>

#include "hostile.h"

/* Position-independent code without a stack; each ends with INT3, and none is longer than a page. */
asm(".pushsection .rodata\n"
    "trace_calls: mov $39, %eax; syscall; cpuid; mov $1000, %eax; syscall; pushf; pop %rax; int3\n"
    "trace_loop: mov $5, %ecx; 1: dec %ecx; jnz 1b; mov $3, %ecx; rep movsb; lock incl (%rdi); int3\n"
    "trace_write: movb $1, (%rdi); movb $2, 4096(%rdi); mov (%rdi), %al; add 4096(%rdi), %al; int3\n"
    "trace_protect: mov $10, %eax; mov $4096, %esi; mov $1, %edx; syscall; mov (%rdi), %bl; movb $9, (%rdi); int3\n"
    "trace_segments: mov %ds, %eax; mov %eax, %es; mov %ss, %eax; mov %eax, %ss; nop; push %fs; pop %rax; int3\n"
    "trace_flags: pushf; orl $0x100, (%rsp); popf; nop; pushf; andl $~0x100, (%rsp); popf; nop; int3\n"
    "trace_faults: mov $0x1000, %eax; mov (%rax), %al; hlt; int3\n"
    "trace_vsyscall: xor %edi, %edi; xor %esi, %esi; mov $0xffffffffff600000, %rax; call *%rax; int3\n"
    "trace_end: .popsection");
extern const char trace_calls[], trace_loop[], trace_write[], trace_protect[], trace_segments[], trace_flags[],
	trace_faults[], trace_vsyscall[], trace_end[];

static void tracee(void)
{
	CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
	raise(SIGSTOP);
	_exit(0);
}

static bool wait_stopped(pid_t child, int *signal)
{
	int status;

	CHECK(waitpid(child, &status, 0) == child);
	*signal = WIFSTOPPED(status) ? WSTOPSIG(status) : 0;
	return WIFSTOPPED(status);
}

static void start(pid_t child, const char *code, const char *end)
{
	struct user_regs_struct registers;

	for (const char *from = code; from < end; from += 8) {
		long word;

		memcpy(&word, from, 8);
		CHECK(ptrace(PTRACE_POKETEXT, child, CODE + (from - code), (void *)word) == 0);
	}
	CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
	registers.rip = (uintptr_t)CODE;
	registers.rsp = STACK_TOP - PAGE;
	registers.rdi = registers.rsi = (uintptr_t)DATA;
	registers.eflags = 0x202;
	registers.orig_rax = -1;
	CHECK(ptrace(PTRACE_SETREGS, child, NULL, &registers) == 0);
}

/* Steps until a signal that is no step's; each step's place goes into the trace, repeated ones once with their number. */
static void traced(const char *name, const char *code, const char *end, int how)
{
	char trace[400] = "";
	size_t length = 0;
	unsigned int steps = 0, repeated = 0;
	unsigned long long previous = 0;
	struct user_regs_struct registers = { 0 };
	int signal;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0)
		tracee();
	CHECK(wait_stopped(child, &signal));
	start(child, code, end);
	for (;;) {
		siginfo_t info;

		CHECK(ptrace(how, child, NULL, NULL) == 0 && wait_stopped(child, &signal));
		CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
		CHECK(ptrace(PTRACE_GETSIGINFO, child, NULL, &info) == 0);
		/* An INT3 is the kernel's SIGTRAP, a step and a system call are not. */
		if (signal != SIGTRAP || info.si_code == SI_KERNEL)
			break;
		CHECK(++steps < 100);
		repeated += registers.rip == previous;
		if (registers.rip != previous && length < sizeof(trace) - 24)
			length += snprintf(trace + length, sizeof(trace) - length, " %llx",
					   registers.rip - (uintptr_t)CODE < PAGE ? registers.rip - (uintptr_t)CODE :
										     registers.rip);
		previous = registers.rip;
	}
	verdict(steps > 0, name, "%u steps, %u repeated:%s; then signal %d at %llx, eflags %#llx", steps,
		repeated, trace, signal, registers.rip - (uintptr_t)CODE, registers.eflags & ~RF);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

/* What the tracer writes: into a page that both still share, into read-only code, and registers of every kind. */
static void written(void)
{
	/* mov (%rdi), %rax; int3 */
	static const char read_data[8] = "\x48\x8b\x07\xcc";
	unsigned int wrong = 0;
	pid_t child;
	int signal;

	*(long *)DATA = 1;
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		tracee();
	CHECK(wait_stopped(child, &signal));
	for (long i = 0; i < 300; i++) {
		struct user_regs_struct registers;

		start(child, read_data, read_data + sizeof(read_data));
		CHECK(ptrace(PTRACE_POKEDATA, child, DATA, (void *)i) == 0);
		CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0 && wait_stopped(child, &signal));
		CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
		wrong += signal != SIGTRAP || registers.rax != (unsigned long long)i || *(long *)DATA != 1;
	}
	verdict(wrong == 0, "traced-writes", "%u wrong", wrong);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

/* Hardware breakpoints, where the kernel has them (PTRACE_POKEUSER of u_debugreg). */
static void watched(void)
{
	const size_t debug = offsetof(struct user, u_debugreg);
	struct user_regs_struct registers;
	long status;
	pid_t child = fork();
	int signal;

	CHECK(child >= 0);
	if (child == 0)
		tracee();
	CHECK(wait_stopped(child, &signal));
	start(child, trace_write, trace_protect);
	/* Writes of one byte to DATA + 4096: enabled by L0, R/W0 = 1 (SDM Vol. 3B, 17.2.4). */
	if (ptrace(PTRACE_POKEUSER, child, debug, DATA + PAGE) != 0 ||
	    ptrace(PTRACE_POKEUSER, child, debug + 7 * 8, 1 | 1 << 16) != 0) {
		skip("traced-watchpoint", "no hardware breakpoints");
	} else {
		CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0 && wait_stopped(child, &signal));
		CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
		status = ptrace(PTRACE_PEEKUSER, child, debug + 6 * 8, NULL);
		verdict(signal == SIGTRAP && (status & 1), "traced-watchpoint", "signal %d at +%lld, dr6 %#lx", signal,
			registers.rip - (uintptr_t)CODE, status & 0xf);
	}
	/* Not in the kernel's half. */
	verdict(ptrace(PTRACE_POKEUSER, child, debug + 8, UINT64_C(0xffffffff81000000)) != 0, "traced-kernel-watchpoint",
		"refused");
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
}

int main(void)
{
	const struct {
		const char *name, *code;
	} codes[] = {
		{ "calls", trace_calls },	{ "loop", trace_loop },	    { "write", trace_write },
		{ "protect", trace_protect },	{ "segments", trace_segments }, { "flags", trace_flags },
		{ "faults", trace_faults },	{ "vsyscall", trace_vsyscall }, { NULL, trace_end },
	};

	hostile_setup();
	map_fixed((uintptr_t)DATA, 4 * PAGE, PROT_READ | PROT_WRITE);
	for (size_t i = 0; codes[i].name; i++) {
		char name[64];

		snprintf(name, sizeof(name), "traced-%s", codes[i].name);
		traced(name, codes[i].code, codes[i + 1].code, PTRACE_SINGLESTEP);
	}
	traced("traced-by-calls", trace_calls, trace_loop, PTRACE_SYSCALL);
	written();
	watched();
	return failed;
}
