/*
 * What the wedge has in a program's process, where the host is a process of Linux, as a program finds it.
 */
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define PAGE UINT64_C(4096)
#define STUB UINT64_C(0x730000000000)
#define ORDERS (STUB + PAGE)
#define ORDERS_HEAD UINT64_C(32)
/* The stack for signals, behind the segment bases and selectors. */
#define STACK (STUB + 2 * PAGE)
#define STACK_END (STACK + 4 * PAGE)

/* The system calls by which a process stops, carries out an order, of either kind, and returns to the program. */
__attribute__((unused)) static uint64_t stop_site, order_site, interrupt_site, leave_site;

/* An instruction of two bytes with what is behind it. */
static uint64_t site_of(const char *instruction, const void *bytes, size_t length)
{
	for (uint64_t at = STUB; at < STUB + PAGE - 2 - length; at++)
		if (memcmp((void *)at, instruction, 2) == 0 && memcmp((void *)(at + 2), bytes, length) == 0)
			return at;
	return 0;
}

/* A system call with what is behind it. */
static uint64_t site_before(const void *bytes, size_t length)
{
	return site_of("\x0f\x05", bytes, length);
}

__attribute__((unused)) static bool find_sites(void)
{
	stop_site = site_before("\x48\x85\xc0", 3); /* test %rax, %rax */
	order_site = site_before("\x49\x0f\xba\x24\x24", 5); /* bt $33, (%r12) */
	interrupt_site = site_of("\xcd\x80", "\xeb", 1); /* jmp */
	leave_site = site_before("\x0f\x0b", 2); /* ud2 */
	return stop_site && order_site && interrupt_site && leave_site;
}

/* Where the frame of a signal is: the page of orders says it. The call leaves one of its own there. */
static uint64_t frame_of_call(void)
{
	getpid();
	return *(volatile uint64_t *)(ORDERS + 8);
}

/* Stops without a signal, by a frame that claims one, with a value in RAX, and goes on behind that; the value then. */
__attribute__((unused, noinline)) static int64_t forge_stop(uint64_t frame, uint64_t signal, uint64_t number)
{
	register uint64_t why __asm__("r8") = signal;
	register uint64_t place __asm__("r9") = frame;
	greg_t *registers = ((ucontext_t *)frame)->uc_mcontext.gregs;
	uint64_t site = stop_site;
	int64_t value;

	registers[REG_RAX] = (greg_t)number;
	registers[REG_EFL] = 0x202;
	__asm__ volatile("lea 1f(%%rip), %%rax; mov %%rax, %c5(%3); mov %%rsp, %c6(%3); mov %%rbp, %c7(%3)\n"
			 "mov %8, %%eax; mov $2, %%edi; movabs %9, %%rsi; xor %%edx, %%edx; mov $8, %%r10d\n"
			 "jmp *%%rcx\n"
			 "syscall\n1:"
			 : "=a"(value), "+r"(place), "+c"(site), "+b"(registers), "+r"(why)
			 : "i"(8 * REG_RIP), "i"(8 * REG_RSP), "i"(8 * REG_RBP),
			   "i"(SYS_rt_sigprocmask), "i"(ORDERS)
			 : "rdx", "rsi", "rdi", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
	return value;
}

/* Claims a system call; what it came to. */
__attribute__((unused)) static int64_t forge_call(uint64_t frame, uint64_t number)
{
	return forge_stop(frame, SIGSYS, number);
}
