/*
 * SYSENTER, with what a microkernel below would take for a call of its own.
 *
 * Where Linux is the only kernel, the instruction is refused, or is a system call that comes to nothing. Where another is
 * below, a program may call it behind Linux's back: forge messages, wait for some, give its time away, and go on wherever
 * it likes. Whatever comes of it, it comes to this process alone. All children have a moment to live; beside them one
 * counts, and its memory and the parent's are as they were.
 */
#include <sched.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { PAGE = 4096, FIXED = 40, RANDOM = 160, MOMENT = 30000 };

/* Registers of seL4's calls on x86-64 (libsel4, sel4_arch/syscalls.h), and whether TF is set. */
struct call {
	uint64_t rax, rdi, rsi, r10, r8, r9, r15, rdx, flags;
};

static const uint64_t goes_on[] = { 0, 0x80000000000, 0x7fffffffffff, 0x800000000000, 0xffff800000000000, 0x5fff7f100000 };

static uint64_t number(void)
{
	static uint64_t state = 88172645463325252;

	state ^= state << 13;
	state ^= state >> 7;
	state ^= state << 17;
	return state >> 16;
}

/* RDX is where the instruction is, for seL4 to go on behind it, with RCX as RSP; 1 stands for where it really is. */
static void enter(const struct call *call)
{
	asm volatile("sub $256, %%rsp\n\t"
		     "pushq 64(%%rbx)\n\t"
		     "mov (%%rbx), %%rax\n\t"
		     "mov 8(%%rbx), %%rdi\n\t"
		     "mov 16(%%rbx), %%rsi\n\t"
		     "mov 24(%%rbx), %%r10\n\t"
		     "mov 32(%%rbx), %%r8\n\t"
		     "mov 40(%%rbx), %%r9\n\t"
		     "mov 48(%%rbx), %%r15\n\t"
		     "mov 56(%%rbx), %%rdx\n\t"
		     "lea 1f(%%rip), %%rcx\n\t"
		     "cmp $1, %%rdx\n\t"
		     "cmove %%rcx, %%rdx\n\t"
		     "mov %%rsp, %%rcx\n\t"
		     "popfq\n\t"
		     "1: sysenter\n\t"
		     "mov $60, %%eax\n\t"
		     "xor %%edi, %%edi\n\t"
		     "syscall\n\t"
		     "ud2" ::"b"(call)
		     : "memory");
	__builtin_unreachable();
}

/* Each of the calls with little else, and any at all. */
static struct call made(unsigned int turn)
{
	struct call call = { .rax = -(uint64_t)(turn % 20), .rdx = 1, .flags = turn < 20 ? 0x202 : 0x302 };

	if (turn < FIXED)
		return call;
	call.rax = -(number() % 16);
	call.rdi = number() % 8 ? number() % 20 : number();
	call.rsi = number() % 8 << 12 | number() % 128;
	call.r10 = number() % 2 ? number() % 32 : number();
	call.r8 = number() % 2 ? number() % 32 : number();
	call.r9 = number();
	call.r15 = number();
	call.rdx = number() % 2 ? 1 : goes_on[number() % (sizeof(goes_on) / sizeof(*goes_on))];
	call.flags = number() % 2 ? 0x202 : 0x302;
	return call;
}

static bool intact(const volatile uint64_t *page, uint64_t value)
{
	for (size_t i = 1; i < PAGE / 8; i++)
		if (page[i] != value + i)
			return false;
	return true;
}

int main(void)
{
	const struct itimerval moment = { .it_value.tv_usec = MOMENT };
	volatile uint64_t *counted = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	static volatile uint64_t own[PAGE / 8];
	unsigned int ended = 0, still = 0;
	pid_t sibling;
	int status;

	CHECK(counted != MAP_FAILED);
	for (size_t i = 1; i < PAGE / 8; i++) {
		own[i] = 1000 + i;
		counted[i] = 2000 + i;
	}
	sibling = fork();
	CHECK(sibling >= 0);
	while (sibling == 0) {
		counted[0]++;
		if (!intact(counted, 2000))
			_exit(1);
		sched_yield();
	}
	for (unsigned int turn = 0; turn < FIXED + RANDOM; turn++) {
		struct call call = made(turn);
		uint64_t before = counted[0];
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0) {
			CHECK(setitimer(ITIMER_REAL, &moment, NULL) == 0);
			enter(&call);
		}
		ended += waitpid(child, &status, 0) == child;
		while (waitpid(sibling, &status, WNOHANG) == 0 && counted[0] == before)
			sched_yield();
		still += counted[0] == before;
	}
	verdict(ended == FIXED + RANDOM, "sysenter-ended", "%u of %u", ended, FIXED + RANDOM);
	verdict(still == 0, "sysenter-sibling", "it stood still %u times", still);
	CHECK(kill(sibling, SIGKILL) == 0 && waitpid(sibling, &status, 0) == sibling);
	verdict(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL, "sysenter-sibling-alive", "status %#x", status);
	verdict(intact(own, 1000) && intact(counted, 2000), "sysenter-memory", "intact");
	return failed;
}
