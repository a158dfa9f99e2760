/*
 * Every sensitive instruction, in user mode, where nobody rewrites it: with all prefixes, across a page boundary, and cut
 * off by the end of memory. A kernel that runs without privilege itself must still let each do, or raise, what it does and
 * raises on the machine.
 *
 * What is raised: SDM Vol. 2 and APM Vol. 3, "64-Bit Mode Exceptions" of each. Where only the model of CPU decides, the
 * outcome is told, for a comparison; where what decides is a bit of the host's that user mode cannot be kept from seeing
 * (CR4, EFER.SVME; SDM Vol. 3A, 2.5), it must only be one of those that are possible.
 */
#include "hostile.h"

enum expectation {
	GP_0,
	UNDEFINED,
	DONE,
	/* Told, for a comparison. */
	TOLD,
	/* Some fault. */
	FAULTS,
	/* Whatever it is. */
	ANY
};

/* Name, instruction, expectation. RDI and RSI point to zeroes, RCX is 1, the other registers are 0. */
#define INSTRUCTIONS(X)                                                                                                \
	X(cli, "cli", GP_0)                                                                                            \
	X(sti, "sti", GP_0)                                                                                            \
	X(pushf, "pushf", DONE)                                                                                        \
	X(pushfw, "pushfw", DONE)                                                                                      \
	X(popf, "popf", DONE)                                                                                          \
	X(popfw, "popfw", DONE)                                                                                        \
	X(clac, "clac", UNDEFINED)                                                                                     \
	X(stac, "stac", UNDEFINED)                                                                                     \
	X(clui, "clui", FAULTS)                                                                                        \
	X(stui, "stui", FAULTS)                                                                                        \
	X(clgi, "clgi", FAULTS)                                                                                        \
	X(stgi, "stgi", FAULTS)                                                                                        \
	X(hlt, "hlt", GP_0)                                                                                            \
	X(sti_hlt, "sti; hlt", GP_0)                                                                                   \
	X(monitor, "monitor", UNDEFINED)                                                                               \
	X(mwait, "mwait", UNDEFINED)                                                                                   \
	X(monitorx, "monitorx", TOLD)                                                                                  \
	X(mwaitx, "mwaitx", TOLD)                                                                                      \
	X(umonitor, "umonitor %rdi", TOLD)                                                                             \
	X(umwait, "umwait %edi", TOLD)                                                                                 \
	X(tpause, "tpause %r10d", TOLD)                                                                                \
	X(mov_from_cr0, "mov %cr0, %rax", GP_0)                                                                        \
	X(mov_from_cr1, ".byte 0x0f, 0x20, 0xc8", FAULTS)                                                              \
	X(mov_from_cr2, "mov %cr2, %r15", GP_0)                                                                        \
	X(mov_from_cr3, "mov %cr3, %rdi", GP_0)                                                                        \
	X(mov_from_cr4, "mov %cr4, %rax", GP_0)                                                                        \
	X(mov_from_cr8, "mov %cr8, %rdi", GP_0)                                                                        \
	X(mov_to_cr0, "mov %rax, %cr0", GP_0)                                                                          \
	X(mov_to_cr2, "mov %rax, %cr2", GP_0)                                                                          \
	X(mov_to_cr3, "mov %rdi, %cr3", GP_0)                                                                          \
	X(mov_to_cr4, "mov %rax, %cr4", GP_0)                                                                          \
	X(mov_to_cr8, "mov %r8, %cr8", GP_0)                                                                           \
	X(mov_from_dr0, "mov %db0, %rax", GP_0)                                                                        \
	X(mov_from_dr4, ".byte 0x0f, 0x21, 0xe0", FAULTS)                                                              \
	X(mov_from_dr6, "mov %db6, %r11", GP_0)                                                                        \
	X(mov_from_dr7, "mov %db7, %rax", GP_0)                                                                        \
	X(mov_to_dr0, "mov %rax, %db0", GP_0)                                                                          \
	X(mov_to_dr6, "mov %rax, %db6", GP_0)                                                                          \
	X(mov_to_dr7, "mov %rdx, %db7", GP_0)                                                                          \
	X(clts, "clts", GP_0)                                                                                          \
	X(smsw, "smsw %ax", ANY)                                                                                       \
	X(smsw_memory, "smsw (%rdi)", ANY)                                                                             \
	X(lmsw, "lmsw %ax", GP_0)                                                                                      \
	X(lmsw_memory, "lmsw (%rdi)", GP_0)                                                                            \
	X(xgetbv, "xgetbv", ANY)                                                                                       \
	X(xsetbv, "xsetbv", FAULTS)                                                                                    \
	X(xsaves, "xsaves (%rdi)", FAULTS)                                                                             \
	X(xsaves64, "xsaves64 (%rdi)", FAULTS)                                                                         \
	X(xrstors, "xrstors (%rdi)", FAULTS)                                                                           \
	X(xrstors64, "xrstors64 (%rdi)", FAULTS)                                                                       \
	X(mov_from_ds, "mov %ds, %eax", DONE)                                                                          \
	X(mov_from_ss, "movw %ss, %ax", DONE)                                                                          \
	X(mov_from_cs, "mov %cs, %rax", DONE)                                                                          \
	X(mov_from_gs, "mov %gs, (%rdi)", DONE)                                                                        \
	X(mov_to_ds, "mov %eax, %ds", DONE)                                                                            \
	X(mov_to_es, "mov %r9d, %es", DONE)                                                                            \
	X(mov_to_ss, "mov (%rdi), %ss", GP_0)                                                                          \
	X(mov_to_cs, ".byte 0x8e, 0xc8", UNDEFINED)                                                                    \
	X(mov_to_gs, "movw (%rdi), %gs", DONE)                                                                         \
	X(mov_to_6, ".byte 0x8e, 0xf0", UNDEFINED)                                                                     \
	X(push_fs, "push %fs", DONE)                                                                                   \
	X(pushw_fs, "pushw %fs", DONE)                                                                                 \
	X(pop_fs, "pop %fs", DONE)                                                                                     \
	X(pop_gs, "popq %gs", DONE)                                                                                    \
	X(push_cs, ".byte 0x0e", UNDEFINED)                                                                            \
	X(pop_ss, ".byte 0x17", UNDEFINED)                                                                             \
	X(lss, "lss (%rdi), %esp", GP_0)                                                                               \
	X(lfs, "lfs (%rdi), %eax", DONE)                                                                               \
	X(lgs, "lgs (%rdi), %eax", DONE)                                                                               \
	X(lkgs, ".byte 0xf2, 0x0f, 0x00, 0xf0", TOLD)                                                                  \
	X(sgdt, "sgdt (%rdi)", ANY)                                                                                    \
	X(sidt, "sidt (%rdi)", ANY)                                                                                    \
	X(sldt, "sldt %ax", ANY)                                                                                       \
	X(sldt_memory, "sldt (%rdi)", ANY)                                                                             \
	X(str, "str %eax", ANY)                                                                                        \
	X(str_memory, "str (%rdi)", ANY)                                                                               \
	X(lgdt, "lgdt (%rdi)", GP_0)                                                                                   \
	X(lidt, "lidt (%rdi)", GP_0)                                                                                   \
	X(lldt, "lldt %ax", GP_0)                                                                                      \
	X(lldt_memory, "lldt (%rdi)", GP_0)                                                                            \
	X(ltr, "ltr %di", GP_0)                                                                                        \
	X(ltr_memory, "ltr (%rdi)", GP_0)                                                                              \
	X(lar, "lar %ecx, %r9d", DONE)                                                                                 \
	X(lar_memory, "lar (%rdi), %rax", DONE)                                                                        \
	X(lsl, "lsl %eax, %ebx", DONE)                                                                                 \
	X(verr, "verr %ax", DONE)                                                                                      \
	X(verw, "verw (%rdi)", DONE)                                                                                   \
	X(rdfsbase, "rdfsbase %rax", ANY)                                                                              \
	X(rdgsbase, "rdgsbase %r8", ANY)                                                                               \
	X(wrfsbase, "wrfsbase %rdi", ANY)                                                                              \
	X(wrgsbase, "wrgsbase %r15d", ANY)                                                                             \
	X(swapgs, "swapgs", GP_0)                                                                                      \
	X(int_2, "int $0x2", ANY)                                                                                      \
	X(int_14, "int $0xe", TOLD)                                                                                    \
	X(int_0x21, "int $0x21", TOLD)                                                                                 \
	X(int_0x82, "int $0x82", ANY)                                                                                  \
	X(int_0xf3, "int $0xf3", TOLD)                                                                                 \
	X(int1, ".byte 0xf1", TOLD)                                                                                    \
	X(int3, "int3", TOLD)                                                                                          \
	X(int3_long, ".byte 0xcd, 3", TOLD)                                                                            \
	X(into, ".byte 0xce", UNDEFINED)                                                                               \
	X(iretl, "iretl", TOLD)                                                                                        \
	X(iretq, "iretq", TOLD)                                                                                        \
	X(iretw, "iretw", TOLD)                                                                                        \
	X(lret, "lretl", TOLD)                                                                                          \
	X(lretq, "lretq", TOLD)                                                                                        \
	X(lretq_16, "lretq $16", TOLD)                                                                                 \
	X(ljmp, "ljmp *(%rdi)", TOLD)                                                                                  \
	X(ljmp_direct, ".byte 0xea, 0, 0, 0, 0, 0x33, 0", UNDEFINED)                                                   \
	X(lcall, "lcall *(%rdi)", TOLD)                                                                                \
	X(lcall_direct, ".byte 0x9a, 0, 0, 0, 0, 0x33, 0", UNDEFINED)                                                  \
	X(sysretl, "sysretl", GP_0)                                                                                    \
	X(sysretq, "sysretq", GP_0)                                                                                    \
	X(sysenter, "sysenter", FAULTS)                                                                                \
	X(sysexit, "sysexitl", FAULTS)                                                                                  \
	X(sysexitq, "sysexitq", FAULTS)                                                                                \
	X(uiret, "uiret", TOLD)                                                                                        \
	X(erets, ".byte 0xf2, 0x0f, 0x01, 0xca", TOLD)                                                                 \
	X(eretu, ".byte 0xf3, 0x0f, 0x01, 0xca", TOLD)                                                                 \
	X(rsm, "rsm", TOLD)                                                                                            \
	X(in, "in %dx, %al", GP_0)                                                                                     \
	X(in_immediate, "inb $0x60, %al", GP_0)                                                                        \
	X(in_wedge_port, "inb $0xe8, %al", GP_0)                                                                       \
	X(in_word, "inw %dx, %ax", GP_0)                                                                               \
	X(in_long, "inl %dx, %eax", GP_0)                                                                              \
	X(out, "out %al, %dx", GP_0)                                                                                   \
	X(out_immediate, "outb %al, $0x80", GP_0)                                                                      \
	X(out_wedge_port, "outb %al, $0xe8", GP_0)                                                                     \
	X(out_word, "outw %ax, (%dx)", GP_0)                                                                           \
	X(out_long, "outl %eax, %dx", GP_0)                                                                            \
	X(insb, "insb", GP_0)                                                                                          \
	X(insw, "insw", GP_0)                                                                                          \
	X(insl, "insl", GP_0)                                                                                          \
	X(rep_insb, "rep insb", TOLD)                                                                                  \
	X(outsb, "outsb", GP_0)                                                                                        \
	X(outsl, "outsl", GP_0)                                                                                        \
	X(rep_outsl, "rep outsl", TOLD)                                                                                \
	X(rdmsr, "rdmsr", GP_0)                                                                                        \
	X(wrmsr, "wrmsr", GP_0)                                                                                        \
	X(wrmsrns, "wrmsrns", TOLD)                                                                                    \
	X(rdmsrlist, "rdmsrlist", TOLD)                                                                                \
	X(wrmsrlist, "wrmsrlist", TOLD)                                                                                \
	X(cpuid, "cpuid", DONE)                                                                                        \
	X(rdtsc, "rdtsc", DONE)                                                                                        \
	X(rdtscp, "rdtscp", TOLD)                                                                                      \
	X(rdpmc, "rdpmc", FAULTS)                                                                                      \
	X(rdpru, "rdpru", TOLD)                                                                                        \
	X(rdpid, "rdpid %rax", TOLD)                                                                                   \
	X(rdpkru, "rdpkru", ANY)                                                                                       \
	X(wrpkru, "wrpkru", ANY)                                                                                       \
	X(hreset, "hreset $1", TOLD)                                                                                   \
	X(pconfig, "pconfig", TOLD)                                                                                    \
	X(enqcmds, "enqcmds (%rdi), %rax", TOLD)                                                                       \
	X(senduipi, "senduipi %rdi", TOLD)                                                                             \
	X(invlpg, "invlpg (%rdi)", GP_0)                                                                               \
	X(invlpg_nowhere, "invlpg 0", GP_0)                                                                            \
	X(invpcid, "invpcid (%rsi), %rdi", FAULTS)                                                                     \
	X(invd, "invd", GP_0)                                                                                          \
	X(wbinvd, "wbinvd", GP_0)                                                                                      \
	X(wbnoinvd, "wbnoinvd", GP_0)                                                                                  \
	X(invlpga, "invlpga %rax, %ecx", FAULTS)                                                                       \
	X(invlpgb, "invlpgb", FAULTS)                                                                                  \
	X(tlbsync, "tlbsync", FAULTS)                                                                                  \
	X(wrussq, "wrussq %rax, (%rdi)", TOLD)                                                                         \
	X(setssbsy, "setssbsy", TOLD)                                                                                  \
	X(clrssbsy, "clrssbsy (%rdi)", TOLD)                                                                           \
	X(rdsspq, "rdsspq %rax", TOLD)                                                                                 \
	X(encls, "encls", TOLD)                                                                                        \
	X(enclv, "enclv", TOLD)                                                                                        \
	X(enclu, "enclu", TOLD)                                                                                        \
	X(getsec, "getsec", TOLD)                                                                                      \
	X(seamcall, "seamcall", TOLD)                                                                                  \
	X(seamret, "seamret", TOLD)                                                                                    \
	X(tdcall, "tdcall", TOLD)                                                                                      \
	X(psmash, "psmash", TOLD)                                                                                      \
	X(pvalidate, "pvalidate", TOLD)                                                                                \
	X(rmpadjust, "rmpadjust", TOLD)                                                                                \
	X(vmcall, "vmcall", UNDEFINED)                                                                                 \
	X(vmmcall, "vmmcall", UNDEFINED)                                                                               \
	X(vmfunc, "vmfunc", TOLD)                                                                                      \
	X(vmxoff, "vmxoff", FAULTS)                                                                                    \
	X(vmxon, "vmxon (%rdi)", FAULTS)                                                                               \
	X(vmlaunch, "vmlaunch", FAULTS)                                                                                \
	X(vmread, "vmread %rax, %rbx", FAULTS)                                                                         \
	X(invept, "invept (%rdi), %rax", FAULTS)                                                                       \
	X(vmrun, "vmrun", FAULTS)                                                                                      \
	X(vmload, "vmload", FAULTS)                                                                                    \
	X(vmsave, "vmsave", FAULTS)                                                                                    \
	X(skinit, "skinit", FAULTS)                                                                                    \
	X(ud0, ".byte 0x0f, 0xff, 0xc0", UNDEFINED)                                                                    \
	X(ud1, ".byte 0x0f, 0xb9, 0xc0", UNDEFINED)                                                                    \
	X(ud2, "ud2", UNDEFINED)                                                                                       \
	X(lock_nop, "lock; nop", UNDEFINED)                                                                            \
	X(too_long, ".fill 14, 1, 0x66; nop; nop", TOLD)                                                               \
	/* Xen's prefix for instructions to be emulated (xen/arch-x86/xen.h, XEN_EMULATE_PREFIX). */                   \
	X(xen_cpuid, "ud2; .ascii \"xen\"; cpuid", ANY)                                                                \
	X(xen_syscall, "ud2; .ascii \"xen\"; hlt", ANY)

#define DEFINE(name, code, expectation)                                                                                \
	asm(".pushsection .rodata\n\tstart_" #name ": " code "\n\tend_" #name ":\n\t.popsection");                     \
	extern const char start_##name[], end_##name[];
#define ENTRY(name, code, expectation) { #name, start_##name, end_##name, expectation },

INSTRUCTIONS(DEFINE)

static const struct instruction {
	const char *name, *start, *end;
	enum expectation expectation;
} instructions[] = { INSTRUCTIONS(ENTRY) };

/*
 * Operand and address size, repetitions, segments but FS, which has a base of the C library's, and some REX. LOCK is apart:
 * it is #UD with all of these, but QEMU 7.2 looks at the privilege first, a host that emulates them does not.
 */
static const uint8_t prefixes[] = { 0x66, 0x67, 0xf2, 0xf3, 0x26, 0x2e, 0x36, 0x3e, 0x65, 0x40, 0x44, 0x48, 0x4f };

/* An INT3 that is reached, whatever was executed before it, has one name. */
struct fate {
	int signal;
	unsigned int vector, error;
	bool completed;
};

static struct fate run(uint8_t *place, const void *code, size_t length)
{
	struct outcome outcome;

	memset(DATA, 0, 64);
	memset((void *)(STACK_TOP - 2 * PAGE), 0, 2 * PAGE);
	fresh()[REG_RIP] = (uintptr_t)place;
	hostile_wanted[REG_RDI] = hostile_wanted[REG_RSI] = (uintptr_t)DATA;
	hostile_wanted[REG_RCX] = 1;
	outcome = attempt_code(code, length);
	return (struct fate){ outcome.signal, outcome.vector, outcome.error, completed(&outcome, length) };
}

static bool same(struct fate one, struct fate other)
{
	return one.signal == other.signal && one.vector == other.vector && one.error == other.error &&
	       one.completed == other.completed;
}

static void with_prefixes(const struct instruction *instruction, struct fate plain, char *text, size_t room)
{
	size_t length = instruction->end - instruction->start;
	unsigned int alike = 0;

	for (size_t i = 0; i < sizeof(prefixes); i++) {
		uint8_t code[64] = { prefixes[i] };
		struct fate fate;
		size_t written;

		memcpy(code + 1, instruction->start, length);
		fate = run(CODE, code, length + 1);
		alike += same(fate, plain);
		if (same(fate, plain))
			continue;
		written = snprintf(text, room, ", %02x: %d/%u/%#x%s", prefixes[i], fate.signal, fate.vector, fate.error,
				   fate.completed ? " done" : "");
		CHECK(written < room);
		text += written;
		room -= written;
	}
	snprintf(text, room, ", %u prefixes change nothing", alike);
}

static bool faults_locked(const struct instruction *instruction)
{
	size_t length = instruction->end - instruction->start;
	uint8_t code[64] = { 0xf0 };
	struct fate fate;

	memcpy(code + 1, instruction->start, length);
	fate = run(CODE, code, length + 1);
	return fate.vector == UD || fate.vector == GP;
}

/* Whether it does the same in two pages, and faults where the second is missing. */
static bool across_pages(const struct instruction *instruction, struct fate plain)
{
	size_t length = instruction->end - instruction->start;

	for (size_t first = 1; first < length; first++)
		if (!same(run(CODE + PAGE - first, instruction->start, length), plain))
			return false;
	return true;
}

static bool cut_off(const struct instruction *instruction)
{
	size_t length = instruction->end - instruction->start;

	for (size_t first = 1; first < length; first++) {
		uint8_t *place = CODE + 2 * PAGE - first;
		struct outcome outcome;

		memcpy(place, instruction->start, first);
		fresh()[REG_RIP] = (uintptr_t)place;
		hostile_wanted[REG_RDI] = hostile_wanted[REG_RSI] = (uintptr_t)DATA;
		outcome = attempt();
		if (outcome.signal != SIGSEGV || outcome.vector != PF || outcome.error != 0x14 ||
		    outcome.address != (uintptr_t)CODE + 2 * PAGE)
			return false;
	}
	return true;
}

static bool as_expected(enum expectation expectation, struct fate fate)
{
	switch (expectation) {
	case GP_0:
		return fate.signal == SIGSEGV && fate.vector == GP && fate.error == 0;
	case UNDEFINED:
		return fate.signal == SIGILL && fate.vector == UD;
	case DONE:
		return fate.completed;
	case FAULTS:
		return !fate.completed && (fate.vector == UD || fate.vector == GP);
	case TOLD:
	case ANY:
		return fate.signal != 0;
	}
	return false;
}

static void executed(const struct instruction *instruction)
{
	size_t length = instruction->end - instruction->start;
	struct fate plain = run(CODE, instruction->start, length);
	bool good = as_expected(instruction->expectation, plain);
	char name[64], text[700];

	snprintf(name, sizeof(name), "instruction-%s", instruction->name);
	if (instruction->expectation == ANY || instruction->expectation == FAULTS) {
		verdict(good, name, "%s", good ? "as the host has it" : "neither #UD nor #GP");
		return;
	}
	with_prefixes(instruction, plain, text, sizeof(text));
	verdict(good, name, "%s %d/%u/%#x%s, locked %s, across pages %s, cut off %s", plain.completed ? "done" : "signal",
		plain.signal, plain.vector, plain.error, text, faults_locked(instruction) ? "a fault" : "another end",
		across_pages(instruction, plain) ? "the same" : "another end",
		cut_off(instruction) ? "a page fault" : "another end");
}

int main(void)
{
	unsigned long flags;

	hostile_setup();
	for (size_t i = 0; i < sizeof(instructions) / sizeof(*instructions); i++)
		executed(&instructions[i]);
	asm volatile("pushf; pop %0" : "=r"(flags));
	verdict(flags & 0x200, "instruction-interrupt-flag", "%s", flags & 0x200 ? "still set" : "clear");
	return failed;
}
