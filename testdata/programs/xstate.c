/*
 * Hands the kernel extended state that XRSTOR refuses, in a signal frame and through ptrace. In the first case XRSTOR faults
 * in the kernel and the exception table lets `sigreturn` fail, which is a SIGSEGV.
 *
 * The layout of the XSAVE area: SDM Vol. 1, 13.4; what is refused: 13.8.1, "Standard Form of XRSTOR".
 */
#include <cpuid.h>
#include <elf.h>
#include <errno.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { XSTATE_BV = 512, XCOMP_BV = 520, RESERVED = 528 };

/* Volatile: the C library declares that `raise` calls nobody back. */
static volatile size_t offset;

static uint64_t *word(void *area, size_t at)
{
	return (uint64_t *)((char *)area + at);
}

static void corrupt(int signal, siginfo_t *info, void *data)
{
	ucontext_t *context = data;

	(void)signal;
	(void)info;
	if (offset)
		*word(context->uc_mcontext.fpregs, offset) |= UINT64_C(1) << 62;
}

static void in_frame(const char *name, size_t at, int expected)
{
	int status;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		offset = at;
		handle(SIGUSR1, corrupt);
		raise(SIGUSR1);
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child);
	verdict(status == expected, name, "wait status %#x", status);
}

static void by_tracer(const char *name, size_t at, int expected)
{
	static char area[16 * 1024];
	struct iovec vector = { area, sizeof(area) };
	int error;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	CHECK(waitpid(child, NULL, 0) == child);
	CHECK(ptrace(PTRACE_GETREGSET, child, (void *)NT_X86_XSTATE, &vector) == 0);
	if (at)
		*word(area, at) |= UINT64_C(1) << 62;
	error = ptrace(PTRACE_SETREGSET, child, (void *)NT_X86_XSTATE, &vector) == 0 ? 0 : errno;
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	verdict(error == expected, name, "%s", error ? strerror(error) : "done");
}

int main(void)
{
	unsigned int eax, ebx, ecx, edx;

	in_frame("xstate-frame-good", 0, 0);
	if (!__get_cpuid(1, &eax, &ebx, &ecx, &edx) || !(ecx & bit_OSXSAVE)) {
		skip("xstate", "no XSAVE");
		return failed;
	}
	in_frame("xstate-frame-features", XSTATE_BV, SIGSEGV);
	in_frame("xstate-frame-compaction", XCOMP_BV, SIGSEGV);
	in_frame("xstate-frame-reserved", RESERVED, SIGSEGV);
	by_tracer("xstate-tracer-good", 0, 0);
	by_tracer("xstate-tracer-features", XSTATE_BV, EINVAL);
	by_tracer("xstate-tracer-reserved", RESERVED, EINVAL);
	return failed;
}
