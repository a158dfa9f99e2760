/*
 * Code executed with any registers at all, and what became of it.
 *
 * A signal handler replaces the context that `sigreturn` restores, so the code starts with exactly these registers, stack
 * pointer, selectors and flags. It always ends with a signal, on a stack of its own: that of the INT3 behind it, or an
 * earlier one. Nothing that it does to its own registers reaches the program.
 */
#include <asm/prctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "verdict.h"

enum { DE = 0, DB = 1, BP = 3, UD = 6, NP = 11, SS_FAULT = 12, GP = 13, PF = 14 };
enum { PAGE = 4096 };
/* A fault pushes it set, so that the instruction is not stopped at again (SDM Vol. 3B, 17.3.1.1), but not in QEMU 7.2. */
#define RF 0x10000LL
/* Linux's selectors (asm/segment.h). */
enum { KERNEL_CS = 0x10, KERNEL_DS = 0x18, USER_CS32 = 0x23, USER_DS = 0x2b, USER_CS = 0x33 };
/* Below it a kernel on Xen has its own descriptors, from it on Xen has (xen/arch-x86/xen.h, FIRST_RESERVED_GDT_BYTE). */
enum { XEN_SELECTORS = 0xe000 };
/* Where the selectors stand in REG_CSGSFS (asm/sigcontext.h), in units of 16 bits. */
enum { CS = 0, SS = 3 };

/* Below 4 GB, so that code of 32 bits gets there too; two pages, and nothing behind them. */
#define CODE ((uint8_t *)0x10000000)
#define STACK_TOP (UINT64_C(0x20000000) + 16 * PAGE)
#define DATA ((uint8_t *)0x30000000)

struct outcome {
	int signal, code;
	unsigned int vector, error;
	uint64_t address;
	gregset_t at;
};

static gregset_t hostile_good, hostile_wanted;
static volatile struct outcome hostile_seen;
static unsigned long hostile_fs_base;

static uint16_t *selectors(greg_t *registers)
{
	return (uint16_t *)&registers[REG_CSGSFS];
}

static void hostile_enter(int signal, siginfo_t *info, void *data)
{
	greg_t *registers = ((ucontext_t *)data)->uc_mcontext.gregs;

	(void)signal;
	(void)info;
	memcpy(hostile_good, registers, sizeof(hostile_good));
	memcpy(registers, hostile_wanted, sizeof(hostile_wanted));
}

static void hostile_leave(int signal, siginfo_t *info, void *data)
{
	greg_t *registers = ((ucontext_t *)data)->uc_mcontext.gregs;

	hostile_seen.signal = signal;
	hostile_seen.code = info->si_code;
	hostile_seen.vector = registers[REG_TRAPNO];
	hostile_seen.error = registers[REG_ERR];
	hostile_seen.address = (uintptr_t)info->si_addr;
	memcpy((void *)hostile_seen.at, registers, sizeof(gregset_t));
	memcpy(registers, hostile_good, sizeof(gregset_t));
}

static void *map_fixed(uint64_t address, size_t length, int protection)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	void *area = mmap((void *)address, length, protection, flags, -1, 0);

	CHECK(area == (void *)address);
	return area;
}

__attribute__((unused)) static void hostile_setup(void)
{
	const int signals[] = { SIGSEGV, SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSYS };

	CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &hostile_fs_base) == 0);
	map_fixed((uintptr_t)CODE, 2 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
	map_fixed(STACK_TOP - 16 * PAGE, 16 * PAGE, PROT_READ | PROT_WRITE);
	map_fixed((uintptr_t)DATA, PAGE, PROT_READ | PROT_WRITE);
	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		handle(signals[i], hostile_leave);
	handle(SIGUSR1, hostile_enter);
}

/* What code starts with, unless it is changed: flat segments, no flags, zeroes, a stack, the code. */
__attribute__((unused)) static greg_t *fresh(void)
{
	memset(hostile_wanted, 0, sizeof(hostile_wanted));
	hostile_wanted[REG_RIP] = (uintptr_t)CODE;
	hostile_wanted[REG_RSP] = STACK_TOP - PAGE;
	hostile_wanted[REG_EFL] = 0x202;
	selectors(hostile_wanted)[CS] = USER_CS;
	selectors(hostile_wanted)[SS] = USER_DS;
	return hostile_wanted;
}

/* Loading a null selector may or may not clear the base (SDM Vol. 3A, 3.4.4; APM Vol. 2, 4.5.3). */
static void restore_segments(void)
{
	asm volatile("mov %0, %%ds; mov %0, %%es; mov %0, %%fs; mov %0, %%gs" ::"r"(0));
	syscall(SYS_arch_prctl, ARCH_SET_FS, hostile_fs_base);
}

/* Runs with the registers that `fresh` gave. */
__attribute__((unused)) static struct outcome attempt(void)
{
	static pid_t self;

	self = syscall(SYS_getpid);
	memset((void *)&hostile_seen, 0, sizeof(hostile_seen));
	syscall(SYS_kill, self, SIGUSR1);
	restore_segments();
	return hostile_seen;
}

/* The same with this code, and INT3 behind it. */
__attribute__((unused)) static struct outcome attempt_code(const void *code, size_t length)
{
	CHECK(length < 64);
	memcpy((void *)hostile_wanted[REG_RIP], code, length);
	memset((char *)hostile_wanted[REG_RIP] + length, 0xcc, 16);
	return attempt();
}

/* Whether the code reached the INT3 this far behind its start. */
__attribute__((unused)) static bool completed(const struct outcome *outcome, size_t length)
{
	return outcome->signal == SIGTRAP && outcome->vector == BP &&
	       outcome->at[REG_RIP] == hostile_wanted[REG_RIP] + (greg_t)length + 1;
}

/* In full, with addresses as the code's own where they are. */
__attribute__((unused)) static const char *told(const struct outcome *outcome)
{
	static char text[160];
	greg_t start = hostile_wanted[REG_RIP], rip = outcome->at[REG_RIP];
	int length = snprintf(text, sizeof(text), "signal %d, code %d, vector %u, error %#x", outcome->signal,
			      outcome->code, outcome->vector, outcome->error);

	if (rip - start >= 0 && rip - start < 2 * PAGE)
		length += snprintf(text + length, sizeof(text) - length, ", at +%lld", rip - start);
	else
		length += snprintf(text + length, sizeof(text) - length, ", at %#llx", rip);
	if (outcome->address && outcome->address != (uint64_t)rip)
		snprintf(text + length, sizeof(text) - length, ", address %#lx", outcome->address);
	return text;
}

/* The same with the error code as the selector where it is the one that the code used. */
__attribute__((unused)) static const char *told_with_selector(const struct outcome *outcome, unsigned int selector)
{
	static char text[200];
	struct outcome other = *outcome;

	if ((selector & ~3U) == 0 || outcome->error != (selector & ~3U))
		return told(outcome);
	other.error = 0;
	snprintf(text, sizeof(text), "%s, of the selector", told(&other));
	return text;
}

/* Which numbers came to which end, for tests of thousands: a verdict for each end, with the numbers as ranges. */
enum { ENDS = 24, RANGES = 16 };

struct tally {
	struct end {
		char text[200];
		unsigned int count, ranges;
		uint64_t sum;
		struct {
			uint64_t first, last;
		} range[RANGES];
	} ends[ENDS];
	unsigned int step;
};

__attribute__((unused)) static void tally(struct tally *tally, uint64_t number, const char *text)
{
	struct end *end = tally->ends;

	while (end->count && strcmp(end->text, text))
		CHECK(++end < tally->ends + ENDS);
	if (!end->count++)
		snprintf(end->text, sizeof(end->text), "%s", text);
	end->sum = end->sum * 31 + number;
	if (end->ranges && end->ranges <= RANGES && end->range[end->ranges - 1].last + tally->step == number)
		end->range[end->ranges - 1].last = number;
	else if (end->ranges++ < RANGES)
		end->range[end->ranges - 1].first = end->range[end->ranges - 1].last = number;
}

__attribute__((unused)) static void tell(const struct tally *tally, const char *name)
{
	for (const struct end *end = tally->ends; end < tally->ends + ENDS && end->count; end++) {
		char list[RANGES * 24 + 32] = "", full[96];
		size_t length = 0;

		for (unsigned int i = 0; i < end->ranges && i < RANGES; i++) {
			uint64_t first = end->range[i].first, last = end->range[i].last;

			length += snprintf(list + length, sizeof(list) - length, first == last ? " %#lx" : " %#lx-%#lx",
					   first, last);
		}
		snprintf(full, sizeof(full), "%s-%td", name, end - tally->ends);
		if (end->ranges > RANGES)
			snprintf(list + length, sizeof(list) - length, " ... (%#lx)", end->sum);
		verdict(true, full, "%u times %s:%s", end->count, end->text, list);
	}
}
