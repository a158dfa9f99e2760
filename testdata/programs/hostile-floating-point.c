/*
 * The x87 and SSE registers of a program that has ended are no other's.
 *
 * A host that keeps them in a thread, and shares a page with it, must not believe that page more than what it has put
 * there itself. So a program puts there what the next one will load, changes its registers, and stays in the host's own
 * instructions, where it seems not to have begun, until it is killed. Where there is no such page, it is killed at once.
 */
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "verdict.h"

enum { TURNS = 60, MOMENT = 20000, POPPED = 15 };

/* Where the L4 host has its page, and the instructions that end with IRETQ (backends/src/host/l4/floating.rs). */
#define PAGE UINT64_C(0x080000001000)
#define GO_ON UINT64_C(0x080000000040)

/* As FXSAVE stores it; behind these bytes it leaves memory as it is (SDM Vol. 1, 10.5.1). */
enum { STORED = 416 };
static uint8_t image[512] __attribute__((aligned(16))), found[512] __attribute__((aligned(16)));
static uint64_t stack[POPPED + 5];
static const struct timespec moment = { .tv_nsec = 1000000 };

/* Forks with the registers of the image, which are the child's when it begins. */
static long fork_with_image(void)
{
	long child;

	asm volatile("fxrstor64 %1\n\t"
		     "syscall\n\t"
		     "fxsave64 %2"
		     : "=a"(child)
		     : "m"(image), "m"(found), "0"((long)SYS_fork)
		     : "rcx", "r11", "memory");
	return child;
}

/* Comes back from a wait, so that its registers have been stored and loaded, and is seen nowhere else any more. */
static void stay(void)
{
	uint64_t cs, ss;

	asm volatile("mov %%cs, %0; mov %%ss, %1" : "=r"(cs), "=r"(ss));
	stack[POPPED] = GO_ON;
	stack[POPPED + 1] = cs;
	stack[POPPED + 2] = 0x202;
	stack[POPPED + 3] = (uintptr_t)stack;
	stack[POPPED + 4] = ss;
	asm volatile("mov %0, %%rdi\n\t"
		     "xor %%esi, %%esi\n\t"
		     "mov %1, %%eax\n\t"
		     "syscall\n\t"
		     "mov %2, %%rsi\n\t"
		     "mov %3, %%rdi\n\t"
		     "mov %4, %%ecx\n\t"
		     "rep movsb\n\t"
		     "pcmpeqb %%xmm0, %%xmm0\n\t"
		     "movdqa %%xmm0, %%xmm7\n\t"
		     "movdqa %%xmm0, %%xmm15\n\t"
		     "mov %5, %%rsp\n\t"
		     "jmp *%6" ::"r"(&moment),
		     "i"(SYS_nanosleep), "r"(image), "r"(PAGE), "i"(STORED), "r"(stack), "r"(GO_ON)
		     : "rax", "rcx", "rdi", "rsi", "r11", "memory");
	__builtin_unreachable();
}

int main(void)
{
	const struct itimerval short_life = { .it_value.tv_usec = MOMENT };
	unsigned int wrong = 0;
	int status;

	asm volatile("pxor %%xmm0, %%xmm0; pxor %%xmm7, %%xmm7; pxor %%xmm15, %%xmm15; fxsave64 %0"
		     : "=m"(image)
		     :
		     : "xmm0", "xmm7", "xmm15");
	for (unsigned int turn = 0; turn < TURNS; turn++) {
		long child = fork_with_image();

		CHECK(child >= 0);
		if (child == 0) {
			CHECK(setitimer(ITIMER_REAL, &short_life, NULL) == 0);
			stay();
		}
		CHECK(waitpid((pid_t)child, &status, 0) == child);
		child = fork_with_image();
		CHECK(child >= 0);
		if (child == 0)
			_exit(memcmp(found, image, STORED) != 0);
		CHECK(waitpid((pid_t)child, &status, 0) == child);
		wrong += status != 0;
	}
	verdict(wrong == 0, "registers-left-behind", "%u of %d", wrong, TURNS);
	return failed;
}
