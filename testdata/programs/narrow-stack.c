/*
 * 32-bit code on a stack of 16 bits: SS is a descriptor of the LDT with B = 0. It makes one system call after another, is
 * interrupted by signals, and looks at ESP behind each call. An IRET to such a stack loads SP only; Linux takes pains that
 * bits 31:16 of ESP, too, are what they were (arch/x86/kernel/espfix_64.c).
 *
 * Two processes do so at once, each with other bits: neither may find the other's. Then one takes all the values that bits
 * 31:21 can have. Linux maps the stack that it returns on once for each of these (ESPFIX_BASE_ADDR), all in 2 MB of their own.
 */
#include <asm/ldt.h>
#include <errno.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { ROUNDS = 5000 };

struct rounds {
	uint32_t left, moved, last;
};

/*
 * Calls the kernel on a stack of 16 bits until no round is left. Nothing is pushed there: all that matters is ESP. All of this
 * program lies below 4 GB.
 */
void call(struct rounds *rounds, uint32_t esp);
asm("call:\n\t"
    "push %rbx\n\t"
    "push %rbp\n\t"
    "push %r12\n\t"
    "push %r13\n\t"
    "push %r14\n\t"
    "push %r15\n\t"
    "mov %rsp, saved(%rip)\n\t"
    "mov $0x07, %eax\n\t" /* entry 0 of the LDT */
    "mov %eax, %ss\n\t"
    "mov %esi, %esp\n\t"
    "ljmp *narrow_code(%rip)\n\t"
    ".code32\n"
    "32:\n\t"
    "mov $20, %eax\n\t" /* getpid */
    "int $0x80\n\t"
    "mov %esp, %eax\n\t"
    "cmp %esi, %eax\n\t"
    "je 1f\n\t"
    "incl 4(%edi)\n\t"
    "mov %eax, 8(%edi)\n\t"
    "mov %esi, %esp\n"
    "1:\n\t"
    "decl (%edi)\n\t"
    "jnz 32b\n\t"
    "ljmp $0x33, $64f\n\t" /* __USER_CS */
    ".code64\n"
    "64:\n\t"
    "mov $0x2b, %eax\n\t" /* __USER_DS */
    "mov %eax, %ss\n\t"
    "mov saved(%rip), %rsp\n\t"
    "pop %r15\n\t"
    "pop %r14\n\t"
    "pop %r13\n\t"
    "pop %r12\n\t"
    "pop %rbp\n\t"
    "pop %rbx\n\t"
    "ret\n\t"
    ".data\n"
    "saved:\n\t"
    ".quad 0\n"
    "narrow_code:\n\t"
    ".long 32b\n\t"
    ".word 0x23\n\t" /* __USER32_CS */
    ".text");

static volatile sig_atomic_t signals;

static void count(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	signals++;
}

static struct rounds rounds;
static unsigned int made;

static void run(uint32_t esp)
{
	enum { SIGNALS = 5 };
	const struct itimerval often = { { 0, 3000 }, { 0, 3000 } }, never = { 0 };

	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	do {
		rounds.left = ROUNDS;
		call(&rounds, esp);
		made += ROUNDS;
	} while (signals < SIGNALS);
	CHECK(setitimer(ITIMER_REAL, &never, NULL) == 0);
}

/*
 * A hypervisor's own interrupts return by an IRET of its own: on Xen ESP is lost in one of some thousand rounds, on hardware
 * never. Without espfix it is in all.
 */
static void tell(const char *name, uint32_t others)
{
	if (rounds.moved <= made / 10 && rounds.last >> 16 != others >> 16)
		verdict(true, name, "ESP is kept");
	else
		verdict(false, name, "ESP moved in %u of %u rounds, last to %#x", rounds.moved, made, rounds.last);
}

/* As above, a call for each; few are interrupted by a hypervisor. */
static void everywhere(void)
{
	enum { VALUES = 2048 };

	rounds.moved = 0;
	for (unsigned int value = 0; value < VALUES; value++) {
		rounds.left = 1;
		call(&rounds, value << 21 | 0x5678);
	}
	verdict(rounds.moved <= VALUES / 10, "narrow-stack-everywhere", "ESP is kept in %d places", VALUES);
}

int main(void)
{
	enum { MINE = 0x12345678, CHILDS = 0x5edcba98 };
	struct user_desc stack = { .limit = 0xffff, .contents = MODIFY_LDT_CONTENTS_DATA };
	int status;
	pid_t child;

	if (syscall(SYS_modify_ldt, 1, &stack, sizeof(stack)) != 0) {
		skip("narrow-stack", strerror(errno));
		return 0;
	}
	handle(SIGALRM, count);
	child = fork();
	CHECK(child >= 0);
	run(child ? MINE : CHILDS);
	if (child == 0) {
		tell("narrow-stack-child", MINE);
		return failed;
	}
	CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
	tell("narrow-stack-parent", CHILDS);
	everywhere();
	return failed || WEXITSTATUS(status) != 0;
}
