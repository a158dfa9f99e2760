/*
 * Memory that is taken from a program while its process stands still, where the host is a process of Linux, goes to another
 * program at once, and is still mapped where it was. The program has forged how it stopped, by the ways that a program can: with
 * registers, flags and a stack of its own, so that a trap or a signal would have Linux write there. It must not read or write what
 * is not its own any more. As root, for the memory must go to somebody.
 */
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "stub.h"
#include "verdict.h"

enum { PAGES = 64, OTHERS = 8192, FOUND = 1, INTERRUPTED = 2 };
#define MARK UINT64_C(0x5345435245543432)
#define TRAP 0x100

/* How the program stops. */
struct way {
	const char *name;
	greg_t flags;
	/* The stack pointer, and the stack for signals, are in what is taken. */
	bool stack_taken, signal_stack_taken;
	/* Signals are held off. */
	bool held_off;
};

static const struct way ways[] = {
	{ "stale-plain", 0, false, false, false },
	{ "stale-stack", 0, true, false, false },
	{ "stale-signal-stack", 0, false, true, false },
	{ "stale-trap", TRAP, true, false, false },
	{ "stale-trap-signal-stack", TRAP, false, true, false },
	{ "stale-trap-held-off", TRAP, true, false, true },
};

static struct {
	ucontext_t context;
	uint8_t behind[8192];
} forged __attribute__((aligned(64)));
static uint8_t stack[65536] __attribute__((aligned(64)));
static volatile char *area;
static volatile char byte;

/* Reads from a pipe, as its frame claims, and stops by a return from a handler that there was not. */
__attribute__((noinline)) static void stop_and_read(const struct way *way, int pipe)
{
	ucontext_t *context = &forged.context;
	uint64_t site = leave_site;
	uint64_t frame = frame_of_call();
	greg_t *claimed = ((ucontext_t *)frame)->uc_mcontext.gregs, *own = forged.context.uc_mcontext.gregs;
	uint64_t end = (uint64_t)area + PAGES * PAGE;

	claimed[REG_RAX] = SYS_read;
	claimed[REG_RDI] = pipe;
	claimed[REG_RSI] = (greg_t)&byte;
	claimed[REG_RDX] = 1;
	claimed[REG_EFL] = 0x202;
	own[REG_RAX] = SYS_rt_sigprocmask;
	own[REG_RDI] = SIG_SETMASK;
	own[REG_RSI] = (greg_t)ORDERS;
	own[REG_R10] = 8;
	own[REG_R8] = SIGSYS;
	own[REG_R9] = (greg_t)frame;
	own[REG_R13] = 0x4141414141414141;
	own[REG_RIP] = (greg_t)stop_site;
	own[REG_RSP] = (greg_t)(way->stack_taken ? end : (uint64_t)stack + sizeof(stack));
	own[REG_EFL] = 0x202 | way->flags;
	own[REG_CSGSFS] = 0x002b000000000033;
	if (way->signal_stack_taken)
		forged.context.uc_stack = (stack_t){ .ss_sp = (void *)(end - 16 * PAGE), .ss_size = 16 * PAGE };
	else
		forged.context.uc_stack = (stack_t){ .ss_flags = SS_DISABLE };
	memset(&forged.context.uc_sigmask, way->held_off ? 0xff : 0, 8);
	__asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %c3(%2); mov %%rsp, %c4(%2); mov %%rbp, %c5(%2)\n"
			 "mov %%rdx, %%rsp; mov %6, %%eax; jmp *%%rcx\n"
			 "syscall\n1:"
			 : "+d"(context), "+c"(site), "+b"(claimed)
			 : "i"(8 * REG_RIP), "i"(8 * REG_RSP), "i"(8 * REG_RBP), "i"(SYS_rt_sigreturn)
			 : "rax", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
}

/* The program whose memory is taken by another one that has it, too, and can make it shorter. */
static void attack(const struct way *way)
{
	int file = syscall(SYS_memfd_create, "taken", 0), wake[2];
	uint64_t found = 0;

	CHECK(file >= 0 && ftruncate(file, PAGES * PAGE) == 0 && pipe(wake) == 0);
	area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	CHECK(area != MAP_FAILED);
	for (uint64_t at = 0; at < PAGES * PAGE; at += PAGE)
		area[at] = 1;
	memset(stack, 1, sizeof(stack));
	memset(&forged, 0, sizeof(forged));
	if (fork() == 0) {
		usleep(100000);
		CHECK(ftruncate(file, 0) == 0);
		usleep(400000);
		CHECK(write(wake[1], "x", 1) == 1);
		_exit(0);
	}
	stop_and_read(way, wake[0]);
	/* The timer's signal has come before the stop. */
	if (byte != 'x')
		_exit(INTERRUPTED);
	/* The memory is not there any more: whoever finds some has somebody else's. */
	for (uint64_t at = 0; at < PAGES * PAGE; at += PAGE) {
		unsigned char there;

		found += mincore((void *)(area + at), PAGE, &there) == 0 && (there & 1);
	}
	_exit(found ? FOUND : 0);
}

/* Who gets the memory. Whether the program has stopped as it meant to. */
static bool try_way(const struct way *way)
{
	volatile uint64_t *words;
	uint64_t changed = 0;
	pid_t child = fork();
	int status;

	if (child == 0) {
		CHECK(setuid(1000) == 0);
		attack(way);
	}
	usleep(250000);
	words = mmap(NULL, OTHERS * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(words != MAP_FAILED);
	for (uint64_t i = 0; i < OTHERS * PAGE / 8; i++)
		words[i] = MARK;
	CHECK(waitpid(child, &status, 0) == child);
	for (uint64_t i = 0; i < OTHERS * PAGE / 8; i++)
		changed += words[i] != MARK;
	CHECK(munmap((void *)words, OTHERS * PAGE) == 0);
	if (status == INTERRUPTED << 8)
		return false;
	verdict(changed == 0 && status != FOUND << 8, way->name, "%lu words have changed, status %#x", changed, status);
	return true;
}

int main(void)
{
	CHECK(find_sites());
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		for (int times = 0; times < 5 && !try_way(&ways[i]); times++)
			;
	return 0;
}
