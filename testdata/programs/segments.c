/*
 * Has the kernel load segment registers with selectors that fault, on a switch to the thread that has them; its exception
 * table then loads the null selector (arch/x86/kernel/process_64.c, loadseg; arch/x86/entry/entry_64.S, asm_load_gs_index).
 *
 * A tracer may give its tracee any selector of privilege 3, without any look at the descriptor (arch/x86/kernel/ptrace.c,
 * set_segment_reg). Where the kernel has `modify_ldt`, a descriptor is also taken away beneath a selector in use.
 */
#include <asm/ldt.h>
#include <errno.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

struct selectors {
	uint16_t ds, es, fs, gs;
};

/* Stops twice; between, reads what the segment registers hold. Nothing in between may use thread-local storage: FS goes. */
static void tracee(void)
{
	CHECK(ptrace(PTRACE_TRACEME, 0, NULL, NULL) == 0);
	asm volatile("int3\n\t"
		     "mov %%ds, %%eax\n\t"
		     "mov %%es, %%ebx\n\t"
		     "mov %%fs, %%ecx\n\t"
		     "mov %%gs, %%edx\n\t"
		     "int3" ::
			     : "rax", "rbx", "rcx", "rdx", "memory");
	_exit(0);
}

static bool stopped(pid_t child)
{
	int status;

	return waitpid(child, &status, 0) == child && WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP;
}

static void set(pid_t child, size_t offset, uint16_t selector)
{
	CHECK(ptrace(PTRACE_POKEUSER, child, (void *)offset, (void *)(uintptr_t)selector) == 0);
}

static void traced(const char *name, uint16_t selector, uint16_t expected)
{
	struct user_regs_struct registers;
	struct selectors got;
	pid_t child = fork();

	CHECK(child >= 0);
	if (child == 0)
		tracee();
	CHECK(stopped(child));
	set(child, offsetof(struct user_regs_struct, ds), selector);
	set(child, offsetof(struct user_regs_struct, es), selector);
	set(child, offsetof(struct user_regs_struct, fs), selector);
	set(child, offsetof(struct user_regs_struct, gs), selector);
	CHECK(ptrace(PTRACE_CONT, child, NULL, NULL) == 0);
	CHECK(stopped(child));
	CHECK(ptrace(PTRACE_GETREGS, child, NULL, &registers) == 0);
	CHECK(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
	got = (struct selectors){ registers.rax, registers.rbx, registers.rcx, registers.rdx };
	verdict(got.ds == expected && got.es == expected && got.fs == expected && got.gs == expected, name,
		"%#x loads as ds %#x, es %#x, fs %#x, gs %#x", selector, got.ds, got.es, got.fs, got.gs);
}

enum { LOCAL = 7 };

static void load_local(void)
{
	asm volatile("mov %0, %%ds\n\tmov %0, %%es\n\tmov %0, %%gs" ::"r"(LOCAL));
}

static struct selectors loaded(void)
{
	struct selectors now = { 0 };

	asm volatile("mov %%ds, %0\n\tmov %%es, %1\n\tmov %%gs, %2" : "=r"(now.ds), "=r"(now.es), "=r"(now.gs));
	return now;
}

static bool describe(bool present)
{
	struct user_desc segment = { .limit = 0xfffff, .contents = MODIFY_LDT_CONTENTS_DATA, .seg_32bit = 1,
				     .limit_in_pages = 1, .useable = 1 };
	/* The kernel's notation for no descriptor at all (asm/desc.h, LDT_empty). */
	struct user_desc empty = { .read_exec_only = 1, .seg_not_present = 1 };

	return syscall(SYS_modify_ldt, 1, present ? &segment : &empty, sizeof(segment)) == 0;
}

static void told(const char *name, struct selectors got, struct selectors expected)
{
	verdict(got.ds == expected.ds && got.es == expected.es && got.gs == expected.gs, name,
		"left with ds %#x, es %#x, gs %#x", got.ds, got.es, got.gs);
}

static int go[2], ready[2];

static void *sleeper(void *argument)
{
	static struct selectors got;
	char byte = 0;

	load_local();
	if (write(ready[1], &byte, 1) != 1 || read(go[0], &byte, 1) != 1)
		return NULL;
	got = loaded();
	return argument ? argument : &got;
}

static void taken_away(void)
{
	struct selectors kept = { 0 };
	pthread_t thread;
	void *got;
	char byte = 0;

	if (!describe(true)) {
		skip("segments-local", strerror(errno));
		return;
	}
	/*
	 * GS keeps what it had until the next switch (arch/x86/kernel/ldt.c, refresh_ldt_segments). That
	 * may come at any time: it may be the hypervisor's, or be one to another process with each call.
	 */
	CHECK(describe(true));
	load_local();
	CHECK(describe(false));
	kept = loaded();
	verdict(kept.ds == 0 && kept.es == 0 && (kept.gs == LOCAL || kept.gs == 0), "segments-local-running",
		"left with ds %#x, es %#x", kept.ds, kept.es);

	CHECK(describe(true) && pipe(go) == 0 && pipe(ready) == 0);
	CHECK(pthread_create(&thread, NULL, sleeper, NULL) == 0);
	CHECK(read(ready[0], &byte, 1) == 1);
	/* So that it is asleep, whatever CPU it runs on. */
	usleep(20000);
	CHECK(describe(false));
	CHECK(write(go[1], &byte, 1) == 1 && pthread_join(thread, &got) == 0 && got);
	told("segments-local-asleep", *(struct selectors *)got, (struct selectors){ 0 });
}

int main(void)
{
	traced("segments-user-data", 0x2b, 0x2b);
	traced("segments-null", 0, 0);
	traced("segments-beyond", 0xfffb, 0);
	traced("segments-kernel-code", 0x13, 0);
	traced("segments-kernel-data", 0x1b, 0);
	traced("segments-tss", 0x43, 0);
	traced("segments-local-none", 0x7f, 0);
	taken_away();
	return failed;
}
