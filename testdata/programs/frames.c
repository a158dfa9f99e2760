/*
 * Has the kernel execute an IRET that faults: a signal handler forges the context that `sigreturn` restores. The kernel
 * takes the exception in its own entry code, recognises the IRET by its address, and must turn it into a signal for the
 * forged context (arch/x86/kernel/traps.c, fixup_bad_iret).
 *
 * What IRET does with a bad frame: SDM Vol. 2A, IRET/IRETD/IRETQ, "Protected Mode Exceptions" and "64-Bit Mode
 * Exceptions".
 */
#include <asm/ldt.h>
#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "verdict.h"

/* Where the selectors stand in REG_CSGSFS (asm/sigcontext.h), in units of 16 bits. */
enum { CS = 0, SS = 3 };
/* Vectors (SDM Vol. 3A, Table 6-1). */
enum { NP = 11, GP = 13, PF = 14 };
/* Linux's selectors (asm/segment.h), and one far beyond the limit of its GDT. */
enum { KERNEL_CS = 0x10, KERNEL_DS = 0x18, USER_DS = 0x2b, USER_CS = 0x33, TSS = 0x40, BEYOND = 0xfff8 };

/* All that the handlers share with the rest is volatile: the C library declares that `raise` calls nobody back. */
struct forgery {
	uint16_t cs, ss;
	greg_t rip;
};

static gregset_t good;
static volatile struct forgery forged;
static volatile struct fault seen;
static volatile bool presented;

static uint16_t *selectors(ucontext_t *context)
{
	return (uint16_t *)&context->uc_mcontext.gregs[REG_CSGSFS];
}

static void forge(int signal, siginfo_t *info, void *data)
{
	ucontext_t *context = data;

	(void)signal;
	(void)info;
	memcpy(good, context->uc_mcontext.gregs, sizeof(good));
	if (forged.cs)
		selectors(context)[CS] = forged.cs;
	if (forged.ss)
		selectors(context)[SS] = forged.ss;
	if (forged.rip)
		context->uc_mcontext.gregs[REG_RIP] = forged.rip;
}

static void faulted(int signal, siginfo_t *info, void *data)
{
	ucontext_t *context = data;
	greg_t rip = forged.rip ? forged.rip : good[REG_RIP];

	(void)info;
	seen = fault_of(signal, context);
	presented = context->uc_mcontext.gregs[REG_RIP] == rip && context->uc_mcontext.gregs[REG_RAX] == good[REG_RAX] &&
		    (!forged.cs || selectors(context)[CS] == (forged.cs | 3));
	memcpy(context->uc_mcontext.gregs, good, sizeof(good));
}

static void expect(const char *name, struct fault fault)
{
	bool same;

	seen = (struct fault){ 0 };
	presented = false;
	raise(SIGUSR1);
	same = seen.signal == fault.signal && seen.vector == fault.vector && seen.error == fault.error;
	verdict(presented && same, name, "signal %d, vector %u, error %#x%s", seen.signal, seen.vector, seen.error,
		presented ? "" : ", the context is not the forged one");
	forged = (struct forgery){ 0 };
}

static void bad_cs(const char *name, uint16_t selector, struct fault fault)
{
	forged.cs = selector;
	expect(name, fault);
}

static void bad_ss(const char *name, uint16_t selector, struct fault fault)
{
	forged.ss = selector;
	expect(name, fault);
}

static void bad_rip(const char *name, greg_t rip, struct fault fault)
{
	forged.rip = rip;
	expect(name, fault);
}

static void global_selectors(void)
{
	bad_cs("frame-cs-beyond", BEYOND, (struct fault){ SIGSEGV, GP, BEYOND });
	bad_cs("frame-cs-kernel", KERNEL_CS, (struct fault){ SIGSEGV, GP, KERNEL_CS });
	bad_cs("frame-cs-data", USER_DS, (struct fault){ SIGSEGV, GP, USER_DS & ~3 });
	bad_cs("frame-cs-tss", TSS, (struct fault){ SIGSEGV, GP, TSS });
	bad_cs("frame-cs-null", 3, (struct fault){ SIGSEGV, GP, 0 });
	bad_ss("frame-ss-beyond", BEYOND, (struct fault){ SIGSEGV, GP, BEYOND });
	bad_ss("frame-ss-kernel", KERNEL_DS, (struct fault){ SIGSEGV, GP, KERNEL_DS });
	bad_ss("frame-ss-code", USER_CS, (struct fault){ SIGSEGV, GP, USER_CS & ~3 });
}

/* Through a bad CS the frame faults in the kernel whatever RIP is; with a good one, the instruction fetch does. */
static void instruction_pointers(void)
{
	bad_rip("frame-rip-kernel", (greg_t)UINT64_C(0xffffffff81000000), (struct fault){ SIGSEGV, PF, 0x15 });
	bad_rip("frame-rip-not-canonical", (greg_t)UINT64_C(0x8000000000000000), (struct fault){ SIGSEGV, GP, 0 });
	forged.rip = (greg_t)UINT64_C(0x8000000000000000);
	bad_cs("frame-rip-not-canonical-cs-beyond", BEYOND, (struct fault){ SIGSEGV, GP, BEYOND });
}

static bool set_descriptor(const struct user_desc *descriptor)
{
	return syscall(SYS_modify_ldt, 1, descriptor, sizeof(*descriptor)) == 0;
}

static void local_selectors(void)
{
	enum { LDT = 4, NP_CODE = 0 << 3 | LDT, NP_DATA = 1 << 3 | LDT, NO_ENTRY = 9 << 3 | LDT };
	struct user_desc code = { .entry_number = 0, .limit = 0xfffff, .contents = MODIFY_LDT_CONTENTS_CODE,
				  .seg_32bit = 1, .limit_in_pages = 1, .seg_not_present = 1 };
	struct user_desc data = { .entry_number = 1, .limit = 0xffff, .contents = MODIFY_LDT_CONTENTS_STACK,
				  .seg_not_present = 1 };
	/*
	 * With any SS of the LDT, IRET runs on the read-only espfix stack, so that its exception becomes a double fault,
	 * which the kernel takes for a #GP(0) (arch/x86/kernel/traps.c, exc_double_fault).
	 */
	const struct fault espfix = { SIGSEGV, GP, 0 };

	if (!set_descriptor(&code)) {
		skip("frame-local", strerror(errno));
		return;
	}
	CHECK(set_descriptor(&data));
	bad_cs("frame-cs-local-not-present", NP_CODE | 3, (struct fault){ SIGBUS, NP, NP_CODE });
	bad_cs("frame-cs-local-no-entry", NO_ENTRY | 3, (struct fault){ SIGSEGV, GP, NO_ENTRY });
	bad_ss("frame-ss-local-not-present", NP_DATA | 3, espfix);
	bad_ss("frame-ss-local-no-entry", NO_ENTRY | 3, espfix);
	data.seg_not_present = 0;
	CHECK(set_descriptor(&data));
	forged.ss = NP_DATA | 3;
	bad_cs("frame-ss-local-cs-not-present", NP_CODE | 3, espfix);
	forged.ss = NP_DATA | 3;
	bad_cs("frame-ss-local-cs-beyond", BEYOND, espfix);
}

int main(void)
{
	handle(SIGUSR1, forge);
	handle(SIGSEGV, faulted);
	handle(SIGBUS, faulted);
	handle(SIGILL, faulted);
	global_selectors();
	instruction_pointers();
	local_selectors();
	return failed;
}
