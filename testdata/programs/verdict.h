/*
 * One line per verdict: "ok NAME: WHAT HAPPENED", "FAIL NAME: WHAT HAPPENED, not ..." or "skip NAME: WHY". What happened is
 * told in full, signal, vector and error code, so that the lines of two boots can be compared as they are.
 */
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

static bool failed __attribute__((unused));

__attribute__((format(printf, 3, 4), unused)) static void verdict(bool good, const char *name, const char *format, ...)
{
	va_list arguments;

	failed |= !good;
	printf("%s %s: ", good ? "ok" : "FAIL", name);
	va_start(arguments, format);
	vprintf(format, arguments);
	va_end(arguments);
	printf("\n");
	fflush(stdout);
}

__attribute__((unused)) static void skip(const char *name, const char *why)
{
	printf("skip %s: %s\n", name, why);
	fflush(stdout);
}

/* A step of the test itself that cannot fail where the test can run at all. */
#define CHECK(condition)                                                                                               \
	do {                                                                                                           \
		if (!(condition)) {                                                                                    \
			printf("FAIL %s:%d: ", __FILE__, __LINE__);                                                    \
			fflush(stdout);                                                                                \
			perror(#condition);                                                                            \
			exit(1);                                                                                       \
		}                                                                                                      \
	} while (0)

/* A signal that an exception led to, as the kernel reports it (asm/sigcontext.h: trapno is the vector). */
struct fault {
	int signal;
	unsigned int vector, error;
};

__attribute__((unused)) static struct fault fault_of(int signal, const ucontext_t *context)
{
	return (struct fault){ signal, context->uc_mcontext.gregs[REG_TRAPNO], context->uc_mcontext.gregs[REG_ERR] };
}

/* Handlers run on a stack of their own: that of the faulting context may be gone. */
__attribute__((unused)) static void handle(int signal, void (*handler)(int, siginfo_t *, void *))
{
	static char stack[64 * 1024] __attribute__((aligned(16)));
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };

	CHECK(sigaltstack(&(stack_t){ .ss_sp = stack, .ss_size = sizeof(stack) }, NULL) == 0);
	CHECK(sigaction(signal, &action, NULL) == 0);
}
