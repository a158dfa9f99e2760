/*
 * Contexts that no code could have, given to `sigreturn`: each selector, instruction pointer, stack pointer and flag. The
 * kernel's way out, an IRET, must raise what the processor raises, and the kernel must make a signal of it.
 *
 * SDM Vol. 2A, IRET/IRETD/IRETQ; what of the flags Linux lets through: arch/x86/kernel/signal_64.c, FIX_EFLAGS.
 */
#include "hostile.h"

/* Each with the selector in this place; those that nobody uses, here or on Xen, are only sampled. */
static void tried(const char *name, int place)
{
	struct tally ends = { .step = 8 };

	for (unsigned int selector = 0; selector < 0x10000; selector += selector < 0x200 || selector >= 0xdf00 ? 8 : 0x700) {
		struct outcome outcome;

		selectors(fresh())[place] = selector;
		outcome = attempt_code("\x90", 1);
		tally(&ends, selector, told_with_selector(&outcome, selector));
	}
	tell(&ends, name);
}

static const uint64_t addresses[] = {
	0,
	0x1000,
	0x7fffffffe000,
	0x7ffffffff000,
	0x800000000000,
	0x8000000000000000,
	0xffff7fffffffffff,
	0xffff800000000000,
	0xffff82d040200000,
	0xffff87fffffff000,
	0xffff880000000000,
	0xffff888000000000,
	0xffffc90000000000,
	0xffffea0000000000,
	0xffffffff7effffff,
	0xffffffff7f000000,
	0xffffffff7f100000,
	0xffffffff80000000,
	0xffffffff81000000,
	0xffffffffa0000000,
	0xffffffffff5fffff,
	0xffffffffff600001,
	0xfffffffffffff000,
	0xffffffffffffffff,
};

enum { ADDRESSES = sizeof(addresses) / sizeof(*addresses) };

static const char *named(const char *format, uint64_t number)
{
	static char name[64];

	snprintf(name, sizeof(name), format, number);
	return name;
}

static void instruction_pointers(void)
{
	for (size_t i = 0; i < ADDRESSES; i++) {
		struct outcome outcome;

		fresh()[REG_RIP] = (greg_t)addresses[i];
		outcome = attempt();
		verdict(outcome.signal == SIGSEGV, named("frame-rip-%#lx", addresses[i]), "%s", told(&outcome));
	}
}

/* With a bad selector beside it: which exception comes first. */
static void both_bad(void)
{
	const uint16_t bad[] = { 0x3, KERNEL_CS, USER_DS, 0x43, 0xe033, 0xe02b, 0xfffb };

	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct outcome outcome;
		greg_t *registers = fresh();

		registers[REG_RIP] = (greg_t)0x8000000000000000;
		selectors(registers)[CS] = bad[i];
		outcome = attempt();
		verdict(outcome.signal == SIGSEGV, named("frame-rip-and-cs-%#lx", bad[i]), "%s", told(&outcome));
		registers = fresh();
		selectors(registers)[CS] = bad[i];
		selectors(registers)[SS] = bad[i];
		outcome = attempt();
		verdict(outcome.signal == SIGSEGV, named("frame-cs-and-ss-%#lx", bad[i]), "%s", told(&outcome));
	}
}

/* The stack pointer is none of the code's business until it is used. */
static void stack_pointers(void)
{
	for (size_t i = 0; i < ADDRESSES; i++) {
		struct outcome outcome;

		fresh()[REG_RSP] = (greg_t)addresses[i];
		outcome = attempt_code("\x90", 1);
		verdict(completed(&outcome, 1) && outcome.at[REG_RSP] == (greg_t)addresses[i],
			named("frame-rsp-%#lx", addresses[i]), "rsp %#llx, %s", outcome.at[REG_RSP], told(&outcome));
		fresh()[REG_RSP] = (greg_t)addresses[i];
		outcome = attempt_code("\x50", 1);
		verdict(outcome.signal == SIGSEGV || outcome.signal == SIGBUS,
			named("frame-rsp-push-%#lx", addresses[i]), "%s", told(&outcome));
	}
}

static void flags(void)
{
	/* pushf; pop %rax; nop */
	const char code[] = "\x9c\x58\x90";

	for (unsigned int bit = 0; bit <= 22; bit++) {
		struct outcome outcome;

		/* From 22 on, nothing is defined. */
		fresh()[REG_EFL] ^= (greg_t)((bit < 22 ? 1 : ~UINT64_C(0)) << bit);
		outcome = attempt_code(code, 3);
		verdict((outcome.at[REG_EFL] & 0x200) != 0, named("frame-flag-%lu", bit), "rflags %#llx, pushed %#llx, %s",
			outcome.at[REG_EFL] & ~RF, outcome.at[REG_RAX], told(&outcome));
	}
	fresh()[REG_EFL] = -1;
	hostile_seen = attempt_code(code, 3);
	verdict((hostile_seen.at[REG_EFL] & 0x200) != 0, "frame-flags-all", "rflags %#llx, pushed %#llx",
		hostile_seen.at[REG_EFL] & ~RF, hostile_seen.at[REG_RAX]);
}

/* Code of 32 bits: the frame is one of 64 bits all the same, and what it pushes is not. */
static void compatibility_mode(void)
{
	struct outcome outcome;

	selectors(fresh())[CS] = USER_CS32;
	/* inc %eax; dec %ecx; push %eax: in 64-bit mode, prefixes and a push of 8 bytes */
	outcome = attempt_code("\x40\x49\x50", 3);
	verdict(completed(&outcome, 3), "frame-32-bit", "rax %#llx, rcx %#llx, rsp %#llx, %s", outcome.at[REG_RAX],
		outcome.at[REG_RCX], outcome.at[REG_RSP], told(&outcome));
	selectors(fresh())[CS] = USER_CS32;
	hostile_wanted[REG_RSP] = (greg_t)(UINT64_C(0xffff800000000000) | (STACK_TOP - PAGE));
	outcome = attempt_code("\x50", 1);
	verdict(true, "frame-32-bit-wide-rsp", "%s", told(&outcome));
	selectors(fresh())[CS] = USER_CS32;
	hostile_wanted[REG_RIP] = 0x100000000 | (uintptr_t)CODE;
	outcome = attempt();
	/* Of RIP, 32-bit code has EIP; QEMU 7.2 keeps the rest of what was popped, to be pushed by the next exception. */
	hostile_wanted[REG_RIP] = (uintptr_t)CODE;
	outcome.at[REG_RIP] &= 0xffffffff;
	verdict(true, "frame-32-bit-wide-rip", "%s", told(&outcome));
}

int main(void)
{
	hostile_setup();
	tried("frame-cs", CS);
	tried("frame-ss", SS);
	instruction_pointers();
	both_bad();
	stack_pointers();
	flags();
	compatibility_mode();
	return failed;
}
