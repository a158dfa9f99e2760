/*
 * Every selector, loaded, looked at and jumped through, every interrupt vector, and system calls by every door.
 *
 * Nothing but the user's own segments may be reached. On Xen the upper end of the GDT belongs to the host, and user mode
 * sees some of its descriptors whatever the kernel does; there, only a fault or a segment of privilege 3 is asked for.
 */
#include <asm/ldt.h>
#include <errno.h>

#include "hostile.h"

enum { SAMPLED = 0x400, STRIDE = 0x300 };

static volatile unsigned int vector, error;

/* Steps over a load of two bytes. It runs without thread-local storage: FS may be anything. */
static void skip_load(int signal, siginfo_t *info, void *data)
{
	greg_t *registers = ((ucontext_t *)data)->uc_mcontext.gregs;

	(void)signal;
	(void)info;
	vector = registers[REG_TRAPNO];
	error = registers[REG_ERR];
	registers[REG_RIP] += 2;
}

#define LOAD(name)                                                                                                     \
	static void load_##name(unsigned int selector)                                                                 \
	{                                                                                                              \
		asm volatile("mov %0, %%" #name ::"a"(selector) : "memory");                                           \
	}
LOAD(ds)
LOAD(es)
LOAD(fs)
LOAD(gs)

static const struct {
	const char *name;
	void (*load)(unsigned int selector);
} segments[] = { { "ds", load_ds }, { "es", load_es }, { "fs", load_fs }, { "gs", load_gs } };

static const char *fault_text(unsigned int selector)
{
	static char text[64];

	if (vector == 0)
		return "loads";
	if (error == (selector & ~3U))
		snprintf(text, sizeof(text), "vector %u, error is the selector", vector);
	else
		snprintf(text, sizeof(text), "vector %u, error %#x", vector, error);
	return text;
}

/* Those that somebody may use, and some of the others. */
static unsigned int following(unsigned int selector, bool all)
{
	bool near = selector < SAMPLED || (selector >= XEN_SELECTORS && selector < XEN_SELECTORS + SAMPLED);

	return selector + (all || near ? 8 : STRIDE);
}

static void loads(void)
{
	struct tally ends = { .step = 8 };
	char name[64];

	handle(SIGSEGV, skip_load);
	handle(SIGBUS, skip_load);
	for (size_t i = 0; i < 4; i++) {
		unsigned int strange = 0;

		for (unsigned int low = 0; low < 8; low++) {
			/* One register sees them all, and only with the privileges that matter. */
			bool all = i == 0 && (low & 3) % 3 == 0;

			for (unsigned int selector = low; selector < 0x10000; selector = following(selector, all)) {
				vector = error = 0;
				segments[i].load(selector);
				if (vector == 0)
					restore_segments();
				if (selector < XEN_SELECTORS)
					tally(&ends, selector, fault_text(selector));
				else
					strange += vector && (vector != GP || error != (selector & ~3U));
			}
		}
		snprintf(name, sizeof(name), "load-%s", segments[i].name);
		tell(&ends, name);
		snprintf(name, sizeof(name), "load-%s-beyond", segments[i].name);
		verdict(strange == 0, name, "%u strange ends", strange);
		memset(&ends, 0, sizeof(ends));
		ends.step = 8;
	}
	handle(SIGSEGV, hostile_leave);
	handle(SIGBUS, hostile_leave);
}

/* LAR, LSL, VERR and VERW never fault. */
static void looks(void)
{
	static struct tally ends = { .step = 8 };

	for (unsigned int low = 0; low < 8; low++) {
		for (unsigned int selector = low; selector < XEN_SELECTORS; selector += 8) {
			unsigned int rights = 0, limit = 0;
			bool accessible, limited, readable, writable;
			char text[128];

			asm volatile("lar %4, %0; setz %1; lsl %4, %2; setz %3"
				     : "+r"(rights), "=q"(accessible), "+r"(limit), "=q"(limited)
				     : "r"(selector)
				     : "cc");
			asm volatile("verr %w2; setz %0; verw %w2; setz %1"
				     : "=&q"(readable), "=&q"(writable)
				     : "r"(selector)
				     : "cc");
			snprintf(text, sizeof(text), "rights %#x %d, limit %#x %d, readable %d, writable %d", rights,
				 accessible, limit, limited, readable, writable);
			tally(&ends, selector, text);
		}
	}
	tell(&ends, "look");
}

static const struct transfer {
	const char *name, *code;
	size_t length;
} transfers[] = {
	{ "ljmp", "\xff\x2f", 2 },
	{ "ljmp-16", "\x66\xff\x2f", 3 },
	{ "lcall", "\xff\x1f", 2 },
	{ "lret", "\xcb", 1 },
	{ "lretq", "\x48\xcb", 2 },
	{ "iretq", "\x48\xcf", 2 },
};

/* A far pointer in memory, and frames of each size on the stack, that lead behind the code. */
static struct outcome transferred(const struct transfer *transfer, unsigned int selector)
{
	const uint32_t target = (uintptr_t)CODE + 0x800;
	greg_t *registers = fresh();
	uint64_t *stack = (uint64_t *)registers[REG_RSP];

	memcpy(DATA, &target, 4);
	memcpy(DATA + 4, &selector, 2);
	if (!strcmp(transfer->name, "ljmp-16"))
		memcpy(DATA + 2, &selector, 2);
	memset(CODE + 0x800, 0xcc, 16);
	memset(stack, 0, 64);
	stack[0] = target;
	if (!strcmp(transfer->name, "lret"))
		((uint32_t *)stack)[1] = selector;
	else
		stack[1] = selector;
	stack[2] = 0x202;
	stack[3] = STACK_TOP - 2 * PAGE;
	stack[4] = USER_DS;
	registers[REG_RDI] = (uintptr_t)DATA;
	return attempt_code(transfer->code, transfer->length);
}

static void far(const struct transfer *transfer)
{
	struct tally ends = { .step = 8 };
	unsigned int strange = 0;
	char name[64];

	for (unsigned int low = 0; low < 8; low++) {
		for (unsigned int selector = low; selector < 0x10000; selector = following(selector, false)) {
			struct outcome outcome = transferred(transfer, selector);
			bool landed = outcome.signal == SIGTRAP || outcome.signal == SIGILL;

			if (selector < XEN_SELECTORS)
				tally(&ends, selector, told_with_selector(&outcome, selector));
			else
				strange += !landed && outcome.vector != GP && outcome.vector != NP &&
					   outcome.vector != PF;
		}
	}
	snprintf(name, sizeof(name), "far-%s", transfer->name);
	tell(&ends, name);
	snprintf(name, sizeof(name), "far-%s-beyond", transfer->name);
	verdict(strange == 0, name, "%u strange ends", strange);
}

/*
 * The error code is that of a gate: its number, times 8, and 2 (SDM Vol. 3A, 6.13). QEMU 7.2 takes the number times 16.
 */
static void correct(struct outcome *outcome, unsigned int number)
{
	if (outcome->vector == GP && outcome->error == number * 16 + 2)
		outcome->error = number * 8 + 2;
}

/* A host that believes QEMU takes 2 and 0x82 for 4, which is open to all, 0x40 and 0xc0 for 0x80. */
static void vectors(void)
{
	static struct tally ends = { .step = 1 };

	for (unsigned int number = 0; number < 256; number++) {
		const char code[] = { (char)0xcd, (char)number };
		struct outcome outcome;
		char text[200];

		if ((number & 0x7f) == 2 || (number & 0x7f) == 0x40)
			continue;
		/* Of 32 bits, should there be that door: getpid. */
		fresh()[REG_RAX] = 20;
		outcome = attempt_code(code, 2);
		correct(&outcome, number);
		if (outcome.vector == GP && outcome.error == number * 8 + 2)
			snprintf(text, sizeof(text), "signal %d, code %d, #GP of the gate, at %+lld", outcome.signal,
				 outcome.code, outcome.at[REG_RIP] - (greg_t)(uintptr_t)CODE);
		else
			snprintf(text, sizeof(text), "%s, rax %s", told(&outcome),
				 outcome.at[REG_RAX] == 20 ? "kept" : "changed");
		tally(&ends, number, text);
	}
	tell(&ends, "int");
}

static void system_call_numbers(void)
{
	const uint64_t numbers[] = { 39,	 0x100000027,	    0x8000000000000027, 0x40000027, 0x7fffffff,
				     0x80000000, 0xffffffff,	    0xffffffffffffffff, 1000,	    0x1000,
				     512 + 39 };

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		struct outcome outcome;
		char name[64];

		fresh()[REG_RAX] = (greg_t)numbers[i];
		outcome = attempt_code("\x0f\x05", 2);
		snprintf(name, sizeof(name), "syscall-number-%#lx", numbers[i]);
		if (outcome.at[REG_RAX] == getpid())
			verdict(completed(&outcome, 2), name, "getpid");
		else
			verdict(completed(&outcome, 2), name, "%lld", outcome.at[REG_RAX]);
	}
}

/* All registers with a value of their own; what SYSCALL itself leaves in RCX and R11 is defined, the others are kept. */
static void system_call_registers(void)
{
	const int kept[] = { REG_R8,  REG_R9,  REG_R10, REG_R12, REG_R13, REG_R14, REG_R15,
			     REG_RDI, REG_RSI, REG_RBP, REG_RBX, REG_RDX };
	/* CF, PF, AF, ZF, SF, DF, OF; each by itself, then AC, NT, ID, then all of these. */
	const greg_t flags[] = { 0, 1, 4, 0x10, 0x40, 0x80, 0x400, 0x800, 0x40000, 0x244cd5 };

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		struct outcome outcome;
		unsigned int changed = 0;
		char name[64];

		fresh()[REG_EFL] = 0x202 | flags[i];
		for (size_t j = 0; j < sizeof(kept) / sizeof(*kept); j++)
			hostile_wanted[kept[j]] = (greg_t)(UINT64_C(0x8123456789abcd00) + j);
		hostile_wanted[REG_RAX] = SYS_getpid;
		hostile_wanted[REG_RCX] = hostile_wanted[REG_R11] = (greg_t)UINT64_C(0xdeadbeefdeadbeef);
		outcome = attempt_code("\x0f\x05", 2);
		for (size_t j = 0; j < sizeof(kept) / sizeof(*kept); j++)
			changed += outcome.at[kept[j]] != hostile_wanted[kept[j]];
		snprintf(name, sizeof(name), "syscall-registers-%#llx", flags[i]);
		verdict(completed(&outcome, 2) && changed == 0 && outcome.at[REG_RCX] == (uintptr_t)CODE + 2, name,
			"%u changed, rcx +%lld, r11 %#llx, rflags %#llx", changed,
			outcome.at[REG_RCX] - (greg_t)(uintptr_t)CODE, outcome.at[REG_R11],
			outcome.at[REG_EFL] & ~RF);
	}
}

/* With TF set, the trap comes behind the instruction that follows the return, or behind the return. */
static void single_steps(void)
{
	const struct transfer doors[] = {
		{ "syscall", "\x0f\x05\x90\x90", 4 },	 { "int-0x80", "\xcd\x80\x90\x90", 4 },
		{ "cpuid", "\x0f\xa2\x90\x90", 4 },	 { "mov-ss", "\x8e\xd2\x90\x90", 4 },
		{ "popf-off", "\x6a\x02\x9d\x90", 4 },	 { "popf-on", "\x68\x02\x03\x00\x00\x9d\x90\x90", 8 },
		{ "pushf", "\x9c\x58\x90", 3 },		 { "rep-movsb", "\xf3\xa4\x90", 3 },
		{ "ud2", "\x0f\x0b", 2 },		 { "load-fault", "\x8a\x00", 2 },
		{ "mov-ss-int3", "\x8e\xd2\xcc\x90", 4 }, { "mov-ss-syscall", "\x8e\xd2\x0f\x05\x90\x90", 6 },
	};

	for (size_t i = 0; i < sizeof(doors) / sizeof(*doors); i++) {
		struct outcome outcome;
		unsigned int steps = 0;
		char trace[256] = "", name[64];
		gregset_t next;
		size_t length = 0;

		fresh()[REG_RAX] = strcmp(doors[i].name, "load-fault") ? SYS_getpid : 0;
		hostile_wanted[REG_RCX] = 3;
		hostile_wanted[REG_RDX] = USER_DS;
		hostile_wanted[REG_RSI] = hostile_wanted[REG_RDI] = (uintptr_t)DATA;
		hostile_wanted[REG_EFL] |= 0x100;
		if (!strcmp(doors[i].name, "popf-on"))
			hostile_wanted[REG_EFL] &= ~0x100LL;
		outcome = attempt_code(doors[i].code, doors[i].length);
		while (outcome.vector == DB && ++steps < 12) {
			length += snprintf(trace + length, sizeof(trace) - length, " +%lld",
					   outcome.at[REG_RIP] - (greg_t)(uintptr_t)CODE);
			memcpy(next, outcome.at, sizeof(next));
			memcpy(hostile_wanted, next, sizeof(next));
			outcome = attempt();
		}
		hostile_wanted[REG_RIP] = (uintptr_t)CODE;
		correct(&outcome, 0x80);
		snprintf(name, sizeof(name), "step-%s", doors[i].name);
		verdict(outcome.signal != 0, name, "traps at%s, then %s, rflags %#llx", trace, told(&outcome),
			outcome.at[REG_EFL] & 0x40300);
	}
}

/* The doors of 32-bit code, which lead nowhere unless the kernel has been built with them. */
static void compatibility_doors(void)
{
	const struct transfer doors[] = { { "syscall", "\x0f\x05", 2 }, { "int-0x80", "\xcd\x80", 2 } };
	struct outcome outcome;

	for (size_t i = 0; i < 2; i++) {
		char name[64];

		selectors(fresh())[CS] = USER_CS32;
		hostile_wanted[REG_RAX] = 20;
		outcome = attempt_code(doors[i].code, 2);
		correct(&outcome, 0x80);
		snprintf(name, sizeof(name), "compatibility-%s", doors[i].name);
		verdict(outcome.signal != 0, name, "%s, eax %s", told(&outcome),
			outcome.at[REG_RAX] == getpid() ? "the process" :
			outcome.at[REG_RAX] == 20	? "kept" :
							  "an error");
	}
	for (unsigned int bits = 32; bits <= 64; bits += 32) {
		selectors(fresh())[CS] = bits == 32 ? USER_CS32 : USER_CS;
		/* With IA32 emulation it is a system call, and returns to the vDSO, which knows nothing of this one. */
		hostile_wanted[REG_RAX] = 20;
		outcome = attempt_code("\x0f\x34", 2);
		verdict(outcome.signal != 0, bits == 32 ? "compatibility-sysenter" : "sysenter", "a signal");
	}
}

static bool describe(struct user_desc descriptor)
{
	return syscall(SYS_modify_ldt, 0x11, &descriptor, sizeof(descriptor)) == 0;
}

static void local_descriptors(void)
{
	static struct tally ends = { .step = 8 };
	const struct user_desc descriptors[] = {
		{ .entry_number = 0, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1, .useable = 1 },
		{ .entry_number = 1, .limit = 0xfff, .seg_32bit = 1, .read_exec_only = 1 },
		{ .entry_number = 2, .limit = 0xfff, .contents = MODIFY_LDT_CONTENTS_STACK, .seg_32bit = 1 },
		{ .entry_number = 3, .limit = 0xfffff, .contents = MODIFY_LDT_CONTENTS_CODE, .seg_32bit = 1,
		  .limit_in_pages = 1 },
		{ .entry_number = 4, .base_addr = (uintptr_t)CODE, .limit = 0xffff,
		  .contents = MODIFY_LDT_CONTENTS_CODE },
		{ .entry_number = 5, .limit = 0xfffff, .contents = MODIFY_LDT_CONTENTS_CODE, .seg_32bit = 1,
		  .limit_in_pages = 1, .read_exec_only = 1 },
		{ .entry_number = 6, .limit = 0xfffff, .limit_in_pages = 1, .seg_not_present = 1 },
		{ .entry_number = 7, .base_addr = STACK_TOP - 16 * PAGE, .limit = 0xffff },
		{ .entry_number = 8, .base_addr = 0xfffff000, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1 },
		/* Conforming code is refused. */
		{ .entry_number = 9, .limit = 0xfffff, .contents = 3, .seg_32bit = 1, .seg_not_present = 1 },
		{ .entry_number = 8191, .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1 },
	};
	const uint16_t code[] = { 0x1f, 0x27, 0x2f, 0x37, 0x07 }, stack[] = { 0x07, 0x0f, 0x17, 0x37, 0x3f, USER_DS };

	if (!describe(descriptors[0])) {
		skip("local", strerror(errno));
		return;
	}
	for (size_t i = 0; i < sizeof(descriptors) / sizeof(*descriptors); i++) {
		char name[64];

		errno = 0;
		describe(descriptors[i]);
		snprintf(name, sizeof(name), "local-describe-%u", descriptors[i].entry_number);
		verdict(true, name, "%s", strerror(errno));
	}
	for (unsigned int i = 0; i < sizeof(code) / sizeof(*code); i++) {
		for (unsigned int j = 0; j < sizeof(stack) / sizeof(*stack); j++) {
			struct outcome outcome;
			char name[64];

			/* Through SS of 16 bits the upper half of RSP is hidden (the kernel's espfix). */
			selectors(fresh())[CS] = code[i];
			selectors(hostile_wanted)[SS] = stack[j];
			hostile_wanted[REG_RSP] = stack[j] == 0x3f ? 0x8000 : STACK_TOP - PAGE;
			memcpy(CODE, "\x50\x58", 2);
			memset(CODE + 2, 0xcc, 16);
			if (code[i] == 0x27)
				hostile_wanted[REG_RIP] = 0;
			outcome = attempt();
			snprintf(name, sizeof(name), "local-run-%#x-%#x", code[i], stack[j]);
			verdict(outcome.signal != 0, name, "%s, rsp %#llx", told(&outcome), outcome.at[REG_RSP]);
		}
	}
	handle(SIGSEGV, skip_load);
	handle(SIGBUS, skip_load);
	for (unsigned int selector = 7; selector < 0x10000; selector += 8) {
		vector = error = 0;
		load_es(selector);
		if (vector == 0)
			restore_segments();
		tally(&ends, selector, fault_text(selector));
	}
	tell(&ends, "local-load");
	handle(SIGSEGV, hostile_leave);
	handle(SIGBUS, hostile_leave);
}

int main(void)
{
	hostile_setup();
	loads();
	looks();
	for (size_t i = 0; i < sizeof(transfers) / sizeof(*transfers); i++)
		far(&transfers[i]);
	vectors();
	system_call_numbers();
	system_call_registers();
	single_steps();
	compatibility_doors();
	local_descriptors();
	return failed;
}
