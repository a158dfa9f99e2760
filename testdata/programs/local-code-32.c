/*
 * Code in a segment of the program's own, whose base is not 0: an offset in it is no address. What a
 * program comes to there is what the instruction at base and offset does, and not what another does,
 * which stands at the address that is the offset.
 */
#include <asm/ldt.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "verdict.h"

enum { PAGE = 4096, BASE = 0x10000000, OFFSET = 0x200000, ENTRY = 5, CODE = ENTRY << 3 | 7, FLAT_DATA = 0x2b };

static sigjmp_buf back;
static volatile int number;
static volatile unsigned place, selector;

static void came(int signal, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)info;
	number = signal;
	place = (unsigned)registers[REG_EIP];
	selector = (unsigned)registers[REG_CS];
	asm volatile("mov %0, %%ds\n\tmov %0, %%es" ::"r"(FLAT_DATA));
	siglongjmp(back, 1);
}

/* What stands in the segment, and what stands where the offset leads without its base. */
struct code {
	const char *name;
	unsigned char there[8], elsewhere[8];
};

static const struct code codes[] = {
	{ "local-code-hlt", { 0xf4 }, { 0x0f, 0xa2 } },
	{ "local-code-cli", { 0xfa }, { 0x0f, 0xa2 } },
	{ "local-code-int-20", { 0xcd, 0x20 }, { 0x0f, 0xa2 } },
	{ "local-code-hlt-sysenter", { 0xf4 }, { 0x0f, 0x34 } },
	{ "local-code-ud2", { 0x0f, 0x0b }, { 0x0f, 0x01, 0x00 } },
	{ "local-code-in", { 0xec }, { 0xf4 } },
	{ "local-code-int3", { 0xcc }, { 0xf4 } },
	{ "local-code-int-4", { 0xcd, 0x04 }, { 0xf4 } },
	{ "local-code-call", { 0xcd, 0x80 }, { 0xf4 } },
	{ "local-code-call-prefixed", { 0x66, 0xcd, 0x80 }, { 0xf4 } },
	{ "local-code-cpuid", { 0x0f, 0xa2 }, { 0xf4 } },
};

static void run(const struct code *code, unsigned char *there, unsigned char *elsewhere)
{
	enum { FAR_RETURN = 0xcb };
	volatile unsigned result = SYS_getpid;
	unsigned target[2] = { OFFSET, CODE };
	bool is_call = strncmp(code->name, "local-code-call", strlen("local-code-call")) == 0;

	memset(there, FAR_RETURN, 16);
	memset(elsewhere, FAR_RETURN, 16);
	for (size_t at = 0; at < sizeof(code->there); at++) {
		there[at] = code->there[at] ? code->there[at] : FAR_RETURN;
		elsewhere[at] = code->elsewhere[at] ? code->elsewhere[at] : FAR_RETURN;
	}
	number = 0;
	if (!sigsetjmp(back, 1))
		asm volatile("lcall *(%1)" : "+a"(result) : "r"(target) : "ebx", "ecx", "edx", "memory", "cc");
	if (number)
		verdict(selector == CODE, code->name, "signal %d at %#x of %#x", number, place, selector);
	else
		verdict(!is_call || result == (unsigned)getpid(), code->name, "ended");
}

int main(void)
{
	struct user_desc segment = { .entry_number = ENTRY, .base_addr = BASE, .limit = 0xfffff, .seg_32bit = 1,
				     .contents = MODIFY_LDT_CONTENTS_CODE, .limit_in_pages = 1 };
	int protection = PROT_READ | PROT_WRITE | PROT_EXEC, flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED;
	unsigned char *there = mmap((void *)(BASE + OFFSET), PAGE, protection, flags, -1, 0);
	unsigned char *elsewhere = mmap((void *)OFFSET, PAGE, protection, flags, -1, 0);

	CHECK(there != MAP_FAILED && elsewhere != MAP_FAILED);
	if (syscall(SYS_modify_ldt, 0x11, &segment, sizeof(segment)) != 0) {
		skip("local-code", "there are no local descriptor tables");
		return 0;
	}
	for (int signal = 1; signal < 32; signal++)
		if (signal != SIGKILL && signal != SIGSTOP && signal != SIGALRM)
			handle(signal, came);
	for (size_t at = 0; at < sizeof(codes) / sizeof(*codes); at++)
		run(&codes[at], there, elsewhere);
	return failed;
}
