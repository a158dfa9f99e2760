/*
 * Executes sensitive instructions in user mode. The kernel's own are rewritten, a process's never are: they fault, or do
 * what they always did there, whatever becomes of the kernel.
 *
 * Which fault: SDM Vol. 2 and APM Vol. 3, each instruction's "64-Bit Mode Exceptions"; QEMU's TCG agrees. Those that differ
 * between models of CPU are only told. IRET is not among them: QEMU 7.2 reads its frame as if the kernel did, and faults
 * where SMAP is on.
 */
#include <setjmp.h>
#include <unistd.h>

#include "verdict.h"

enum { UD = 6, GP = 13 };
enum expectation { NOTHING, GP_0, UNDEFINED, BREAKPOINT, TOLD };

/* Name, instruction, expectation. */
#define INSTRUCTIONS(X)                                                                                                \
	X(cli, "cli", GP_0)                                                                                            \
	X(sti, "sti", GP_0)                                                                                            \
	X(hlt, "hlt", GP_0)                                                                                            \
	X(clts, "clts", GP_0)                                                                                          \
	X(lmsw, "lmsw %%ax", GP_0)                                                                                     \
	X(mov_from_cr0, "mov %%cr0, %%rax", GP_0)                                                                      \
	X(mov_from_cr2, "mov %%cr2, %%rax", GP_0)                                                                      \
	X(mov_from_cr3, "mov %%cr3, %%rax", GP_0)                                                                      \
	X(mov_from_cr4, "mov %%cr4, %%rax", GP_0)                                                                      \
	X(mov_from_cr8, "mov %%cr8, %%rax", GP_0)                                                                      \
	X(mov_to_cr0, "mov %%rax, %%cr0", GP_0)                                                                        \
	X(mov_to_cr3, "mov %%rax, %%cr3", GP_0)                                                                        \
	X(mov_to_cr4, "mov %%rax, %%cr4", GP_0)                                                                        \
	X(mov_to_cr8, "mov %%rax, %%cr8", GP_0)                                                                        \
	X(mov_from_dr7, "mov %%db7, %%rax", GP_0)                                                                      \
	X(mov_to_dr7, "mov %%rax, %%db7", GP_0)                                                                        \
	X(lgdt, "lgdt (%%rax)", GP_0)                                                                                  \
	X(lidt, "lidt (%%rax)", GP_0)                                                                                  \
	X(lldt, "lldt %%ax", GP_0)                                                                                     \
	X(ltr, "ltr %%ax", GP_0)                                                                                       \
	X(invlpg, "invlpg (%%rax)", GP_0)                                                                              \
	X(invd, "invd", GP_0)                                                                                          \
	X(wbinvd, "wbinvd", GP_0)                                                                                      \
	X(rdmsr, "rdmsr", GP_0)                                                                                        \
	X(wrmsr, "wrmsr", GP_0)                                                                                        \
	X(swapgs, "swapgs", GP_0)                                                                                      \
	X(sysret, "sysretq", GP_0)                                                                                     \
	X(sysexit, "sysexitl", TOLD)                                                                                   \
	X(in, "in %%dx, %%al", GP_0)                                                                                   \
	X(out, "out %%al, %%dx", GP_0)                                                                                 \
	X(ins, "insb", GP_0)                                                                                           \
	X(outs, "outsb", GP_0)                                                                                         \
	X(rdpmc, "rdpmc", TOLD)                                                                                        \
	X(xsetbv, "xsetbv", TOLD)                                                                                      \
	X(xgetbv, "xgetbv", TOLD)                                                                                      \
	X(clac, "clac", UNDEFINED)                                                                                     \
	X(stac, "stac", UNDEFINED)                                                                                     \
	X(monitor, "monitor", UNDEFINED)                                                                               \
	X(mwait, "mwait", UNDEFINED)                                                                                   \
	X(invpcid, "invpcid (%%rsp), %%rax", TOLD)                                                                     \
	X(xsaves, "xsaves (%%rax)", TOLD)                                                                              \
	X(xrstors, "xrstors (%%rax)", TOLD)                                                                            \
	X(vmcall, "vmcall", TOLD)                                                                                      \
	X(vmmcall, "vmmcall", TOLD)                                                                                    \
	X(vmrun, "vmrun", TOLD)                                                                                        \
	X(int3, "int3", BREAKPOINT)                                                                                    \
	X(int1, ".byte 0xf1", TOLD)                                                                                    \
	X(int_0x21, "int $0x21", TOLD)                                                                                 \
	X(smsw, "smsw %%ax", TOLD)                                                                                     \
	X(sgdt, "sgdt (%%rsp)", TOLD)                                                                                  \
	X(sidt, "sidt (%%rsp)", TOLD)                                                                                  \
	X(sldt, "sldt %%ax", TOLD)                                                                                     \
	X(str, "str %%ax", TOLD)                                                                                       \
	X(rdtscp, "rdtscp", TOLD)                                                                                      \
	X(rdpid, "rdpid %%rax", TOLD)                                                                                  \
	X(rdfsbase, "rdfsbase %%rax", TOLD)                                                                            \
	X(rdpkru, "rdpkru", TOLD)                                                                                      \
	X(cpuid, "cpuid", NOTHING)                                                                                     \
	X(rdtsc, "rdtsc", NOTHING)                                                                                     \
	X(pushf, "pushf; pop %%rax", NOTHING)                                                                          \
	X(popf, "pushf; andl $~0x200, (%%rsp); popf", NOTHING)                                                         \
	X(mov_from_cs, "mov %%cs, %%eax", NOTHING)                                                                     \
	X(mov_to_es, "mov %%eax, %%es", NOTHING)                                                                       \
	X(lar, "lar %%ax, %%bx", NOTHING)                                                                              \
	X(verw, "verw %%ax", NOTHING)

/* All with zeroes where it matters, and 128 bytes of scratch below the stack pointer. */
#define DEFINE(name, code, expectation)                                                                                \
	static void execute_##name(void)                                                                               \
	{                                                                                                              \
		asm volatile("sub $128, %%rsp; xor %%eax, %%eax; xor %%ecx, %%ecx; xor %%edx, %%edx\n\t" code          \
			     "\n\tadd $128, %%rsp" ::                                                                  \
				     : "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "memory", "cc");                      \
	}
#define ENTRY(name, code, expectation) { #name, execute_##name, expectation },

INSTRUCTIONS(DEFINE)

static const struct {
	const char *name;
	void (*execute)(void);
	enum expectation expectation;
} instructions[] = { INSTRUCTIONS(ENTRY) };

static sigjmp_buf back;
static struct fault seen;

static void faulted(int signal, siginfo_t *info, void *data)
{
	(void)info;
	seen = fault_of(signal, data);
	siglongjmp(back, 1);
}

static bool as_expected(enum expectation expectation)
{
	switch (expectation) {
	case NOTHING:
		return seen.signal == 0;
	case GP_0:
		return seen.signal == SIGSEGV && seen.vector == GP && seen.error == 0;
	case UNDEFINED:
		return seen.signal == SIGILL && seen.vector == UD;
	case BREAKPOINT:
		return seen.signal == SIGTRAP && seen.vector == 3;
	case TOLD:
		return true;
	}
	return false;
}

int main(void)
{
	const int signals[] = { SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSYS };
	unsigned long flags;

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		handle(signals[i], faulted);
	for (size_t i = 0; i < sizeof(instructions) / sizeof(*instructions); i++) {
		char name[64];

		seen = (struct fault){ 0 };
		if (sigsetjmp(back, 1) == 0)
			instructions[i].execute();
		snprintf(name, sizeof(name), "user-%s", instructions[i].name);
		verdict(as_expected(instructions[i].expectation), name, "signal %d, vector %u, error %#x", seen.signal,
			seen.vector, seen.error);
	}
	asm volatile("pushf; pop %0" : "=r"(flags));
	verdict(flags & 0x200, "user-interrupt-flag", "%s", flags & 0x200 ? "still set" : "clear");
	return failed;
}
