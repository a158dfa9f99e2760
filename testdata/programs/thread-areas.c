/*
 * What a segment load finds is what the kernel has in its tables at that moment. Of these it writes some entries by plain
 * stores whenever it changes threads: the thread areas of 32-bit programs. Whoever copies the tables must notice, or a
 * program loads what it has given up, or what another user's program has.
 */
#include <asm/ldt.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "descriptors.h"

enum { ROUNDS = 300, NOBODY = 65534 };

/* The system call of 32-bit programs; it takes an address below 4 GB. */
static int set_thread_area(struct user_desc *description)
{
	int result;

	if (sigsetjmp(back, 1))
		return -ENOSYS;
	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(243), "b"(description)
		     : "memory", "r8", "r9", "r10", "r11");
	return result;
}

static int thread_entry = -1;

static int describe(int page, unsigned int limit)
{
	static struct user_desc shared[2];
	struct user_desc *mine = &shared[page & 1];
	int result;

	*mine = description(thread_entry, page, limit);
	result = set_thread_area(mine);
	if (thread_entry < 0)
		thread_entry = mine->entry_number;
	return result;
}

static unsigned int selector(void)
{
	return thread_entry * 8 + 3;
}

static void tell(const char *name, int word, int limit)
{
	struct found found = find(selector());

	verdict(found.word == word && found.limit == limit, name, "word %d, limit %d", found.word, found.limit);
}

static void own(void)
{
	tell("thread-area", 1, 0xfff);
	CHECK(describe(2, 0x7ff) == 0);
	tell("thread-area-changed", 2, 0x7ff);
	CHECK(describe(-1, 0) == 0);
	tell("thread-area-emptied", -1, -1);
}

static int there[2], back_again[2];

static void pass_on(int to, int from)
{
	char byte = 0;

	CHECK(write(to, &byte, 1) == 1 && read(from, &byte, 1) == 1);
}

/* Another user's thread area, which this program must not find. */
static void anothers(void)
{
	char byte;
	int status;
	pid_t child;

	CHECK(pipe(there) == 0 && pipe(back_again) == 0);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		CHECK(setgid(NOBODY) == 0 && setuid(NOBODY) == 0 && describe(3, 0x555) == 0);
		tell("thread-area-childs", 3, 0x555);
		pass_on(there[1], back_again[0]);
		tell("thread-area-childs-again", 3, 0x555);
		_exit(failed);
	}
	CHECK(read(there[0], &byte, 1) == 1);
	tell("thread-area-of-another", -1, -1);
	CHECK(describe(4, 0x333) == 0);
	tell("thread-area-parents", 4, 0x333);
	CHECK(write(back_again[1], &byte, 1) == 1);
	CHECK(waitpid(child, &status, 0) == child && status == 0);
}

/* Returns to the interrupted code with this stack segment. */
static unsigned int stack_selector;

static void change_stack(int signal, siginfo_t *info, void *context)
{
	ucontext_t *there = context;

	(void)signal;
	(void)info;
	there->uc_mcontext.gregs[REG_CSGSFS] =
		(there->uc_mcontext.gregs[REG_CSGSFS] & 0xffffffffffff) | (greg_t)stack_selector << 48;
}

/* The processor's own load, by the IRET that ends a signal. */
static void returned_to(void)
{
	uint32_t ss;

	CHECK(describe(5, 0xfff) == 0);
	stack_selector = selector();
	handle(SIGTRAP, change_stack);
	asm volatile("int3\n\tmov %%ss, %0\n\tmov %1, %%ss" : "=&r"(ss) : "r"(0x2b));
	verdict(ss == stack_selector, "thread-area-returned-to", "%s", ss == stack_selector ? "it is the stack's" : "not");
}

static unsigned int wrong_thread_areas(int page)
{
	unsigned int wrong = 0;

	for (int i = 0; i < ROUNDS; i++) {
		struct found found;

		/* Sometimes it is what it was before the other ran. */
		if (i % 3 == 0 && describe(page, 0x100 + (i & 0xff)) != 0)
			return ROUNDS;
		sched_yield();
		found = find(selector());
		wrong += found.word != page || found.limit != 0x100 + ((i - i % 3) & 0xff);
	}
	return wrong;
}

static void *other_thread(void *argument)
{
	*(unsigned int *)argument = wrong_thread_areas(7);
	return NULL;
}

/* Threads have thread areas of their own in one address space. */
static void threads(void)
{
	unsigned int wrong, wrong_there = ROUNDS;
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, other_thread, &wrong_there) == 0);
	wrong = wrong_thread_areas(6);
	CHECK(pthread_join(thread, NULL) == 0);
	verdict(wrong + wrong_there == 0, "thread-area-threads", "%u wrong", wrong + wrong_there);
}

static void processes(void)
{
	pid_t child = fork();
	unsigned int wrong;
	int status;

	CHECK(child >= 0);
	if (child == 0)
		_exit(wrong_thread_areas(9) != 0);
	wrong = wrong_thread_areas(8);
	CHECK(waitpid(child, &status, 0) == child);
	verdict(wrong == 0 && status == 0, "thread-area-processes", "%u wrong, child %#x", wrong, status);
}

int main(void)
{
	make_areas();
	if (describe(1, 0xfff) != 0) {
		skip("thread-area", "no system calls of 32-bit programs");
		return failed;
	}
	own();
	anothers();
	threads();
	processes();
	returned_to();
	return failed;
}
