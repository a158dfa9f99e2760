/*
 * What a program leaves behind in its process, where the host is a process of Linux, and another program gets that process: a
 * stack for signals that lies everywhere, so that signals would be told of on the stack of whoever is interrupted, and flags that
 * a return from a handler leaves as they are. The other program must not notice, and neither must another thread.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "stub.h"
#include "verdict.h"

enum { TIMES = 20, OTHERS = 3, PAGES = 256, LEFT = 7, FINE = 5, CHANGED = 6 };
#define NESTED UINT64_C(0x4000)
#define IDENTIFICATION UINT64_C(0x200000)

/* What is left behind. */
struct way {
	const char *name;
	stack_t stack;
	uint64_t flags;
};

static const struct way ways[] = {
	{ "inherited-nested", { .ss_flags = SS_DISABLE }, NESTED },
	{ "inherited-identification", { .ss_flags = SS_DISABLE }, IDENTIFICATION },
	{ "inherited-signal-stack", { .ss_sp = (void *)1, .ss_size = SIZE_MAX / 2 }, 0 },
};

static struct {
	ucontext_t context;
	uint8_t behind[8192];
} forged __attribute__((aligned(64)));
static uint8_t stack[65536] __attribute__((aligned(64)));
static uint64_t frame;

static uint64_t flags(void)
{
	uint64_t value;

	__asm__ volatile("pushf; pop %0" : "=r"(value));
	return value & (NESTED | IDENTIFICATION);
}

static void change_flags(uint64_t changed)
{
	__asm__ volatile("pushf; xor %0, (%%rsp); popf" : : "r"(changed) : "memory", "cc");
}

/* Ends without a signal, which would be one too many. */
static void end(void)
{
	forge_call(frame, SYS_exit_group);
	_exit(1);
}

/* Returns from a handler that there was not, and ends. */
static void leave(const struct way *way)
{
	greg_t *registers = forged.context.uc_mcontext.gregs;

	memset(&forged, 0, sizeof(forged));
	memset(stack, 1, sizeof(stack));
	registers[REG_RIP] = (greg_t)(uintptr_t)end;
	registers[REG_RSP] = (greg_t)(uintptr_t)(stack + sizeof(stack) - 8);
	registers[REG_EFL] = 0x202;
	registers[REG_CSGSFS] = 0x002b000000000033;
	forged.context.uc_stack = way->stack;
	frame = frame_of_call();
	((ucontext_t *)frame)->uc_mcontext.gregs[REG_RDI] = LEFT;
	change_flags(way->flags);
	__asm__ volatile("mov %0, %%rsp; jmp *%1" : : "r"(&forged.context), "r"(leave_site), "a"(SYS_rt_sigreturn) : "memory");
	__builtin_unreachable();
}

/* A program that makes calls and has exceptions. */
static void other(void)
{
	volatile char *memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	for (uint64_t at = 0; at < PAGES * PAGE; at += PAGE)
		memory[at] = 1;
	_exit(flags() ? CHANGED : FINE);
}

static int status_of(pid_t child)
{
	int status;

	CHECK(child > 0 && waitpid(child, &status, 0) == child);
	return status;
}

static void try_way(const struct way *way)
{
	unsigned int left = 0, harmed = 0;

	for (int i = 0; i < TIMES; i++) {
		pid_t child = fork();

		if (child == 0) {
			CHECK(setuid(1000) == 0);
			leave(way);
		}
		left += status_of(child) == LEFT << 8;
		for (int j = 0; j < OTHERS; j++) {
			child = fork();
			if (child == 0)
				other();
			harmed += status_of(child) != FINE << 8;
		}
	}
	verdict(left > 0 && harmed == 0, way->name, "%u of %u programs harmed, after %s", harmed, TIMES * OTHERS,
		left > 0 ? "some" : "none");
}

static volatile enum { FIRST, SECOND, DONE } turn;
static volatile uint64_t found;

static void *second_thread(void *argument)
{
	while (turn != SECOND)
		sched_yield();
	found = flags();
	turn = DONE;
	return argument;
}

/* One thread has the flags, and the other has not. */
static void try_threads(void)
{
	pthread_t thread;
	uint64_t kept;

	CHECK(pthread_create(&thread, NULL, second_thread, NULL) == 0);
	change_flags(NESTED | IDENTIFICATION);
	turn = SECOND;
	while (turn != DONE)
		sched_yield();
	kept = flags();
	change_flags(NESTED | IDENTIFICATION);
	CHECK(pthread_join(thread, NULL) == 0);
	verdict(kept == (NESTED | IDENTIFICATION) && found == 0, "inherited-thread", "kept %#lx, found %#lx", kept, found);
}

int main(void)
{
	CHECK(find_sites());
	try_threads();
	for (size_t i = 0; i < sizeof(ways) / sizeof(*ways); i++)
		try_way(&ways[i]);
	return 0;
}
