/*
 * What a segment load finds is what the kernel has in its tables at that moment. Of these it writes some entries by plain
 * stores whenever it changes threads: the thread areas of 32-bit programs. Whoever copies the tables must notice, or a
 * program loads what it has given up, or what another user's program has.
 *
 * A descriptor is told by its limit, for LSL, and by the word at its base.
 */
#include <asm/ldt.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "verdict.h"

enum { PAGE = 4096, ROUNDS = 300, LOCAL = 1024, NOBODY = 65534 };

/* A page full of pages, each with its number: descriptors need addresses below 4 GB. */
#define AREA ((volatile uint32_t *)0x51000000)
enum { AREA_PAGES = 64 };

static __thread sigjmp_buf back;

static void fault(int signal, siginfo_t *info, void *context)
{
	(void)signal;
	(void)info;
	(void)context;
	siglongjmp(back, 1);
}

/* What a selector leads to: -1 for nothing. */
struct found {
	int word, limit;
};

static struct found find(unsigned int selector)
{
	struct found found = { -1, -1 };
	uint32_t word, limit;
	bool known;

	asm volatile("lsl %2, %0\n\tsetz %1" : "=r"(limit), "=q"(known) : "r"(selector), "0"(0));
	if (known)
		found.limit = (int)limit;
	if (sigsetjmp(back, 1) == 0) {
		asm volatile("mov %1, %%gs\n\tmov %%gs:0, %0" : "=r"(word) : "r"(selector));
		found.word = (int)word;
	}
	asm volatile("mov %0, %%gs" ::"r"(0));
	return found;
}

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

static struct user_desc description(int entry, int page, unsigned int limit)
{
	struct user_desc empty = { .entry_number = entry, .read_exec_only = 1, .seg_not_present = 1 };
	struct user_desc full = { .entry_number = entry, .base_addr = (uint32_t)(uintptr_t)AREA + page * PAGE,
				  .limit = limit, .seg_32bit = 1, .useable = 1 };

	return page < 0 ? empty : full;
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

static bool describe_local(int entry, int page, unsigned int limit)
{
	struct user_desc segment = description(entry, page, limit);

	return syscall(SYS_modify_ldt, 1, &segment, sizeof(segment)) == 0;
}

static int local_page(int entry, int side)
{
	return (entry * 2 + side) % AREA_PAGES;
}

/* Both sides have each an entry of their own; each round one is changed, and others are looked at, in both pages. */
static unsigned int wrong_local(int side)
{
	unsigned int wrong = 0;

	for (int i = LOCAL - 1; i >= 0; i--)
		CHECK(describe_local(i, local_page(i, side), 0x400 + i));
	for (int i = 0; i < ROUNDS; i++) {
		int entry = i * 37 % LOCAL, changed = (i + 5) * 101 % LOCAL;
		struct found found;

		sched_yield();
		found = find(entry * 8 + 7);
		wrong += found.word != local_page(entry, side) || found.limit != 0x400 + entry;
		CHECK(describe_local(changed, -1, 0));
		found = find(changed * 8 + 7);
		wrong += found.word != -1 || found.limit != -1;
		CHECK(describe_local(changed, local_page(changed, side), 0x400 + changed));
	}
	return wrong;
}

enum { SIDES = 6, GENERATIONS = 4 };

static int many_page(int entry, int side, int generation)
{
	return (entry * 7 + side * 9 + generation * 5) % AREA_PAGES;
}

/* A table from one entry to three pages. In each round an entry is looked at, and now and then the table is another. */
static unsigned int wrong_many(int side, int generation)
{
	int entries = 1 + side * 300, limit = 0x100 * (generation + 1);
	unsigned int wrong = 0;

	for (int i = entries - 1; i >= 0; i--)
		CHECK(describe_local(i, many_page(i, side, generation), limit));
	for (int i = 0; i < ROUNDS / 3; i++) {
		int entry = i * 37 % entries;
		struct found found;

		sched_yield();
		found = find(entry * 8 + 7);
		wrong += found.word != many_page(entry, side, generation) || found.limit != limit;
		if (i % (side + 2) == 0) {
			CHECK(describe_local(entry, -1, 0));
			sched_yield();
			found = find(entry * 8 + 7);
			wrong += found.word != -1 || found.limit != -1;
			CHECK(describe_local(entry, many_page(entry, side, generation), limit));
		}
		found = find(entries * 8 + 7);
		wrong += found.word != -1 || found.limit != -1;
	}
	return wrong;
}

/* Of real-time processes with one priority the one that yields is the last in turn. New ones get the memory of others. */
static void many_local_tables(void)
{
	struct sched_param first = { .sched_priority = 1 }, normal = { .sched_priority = 0 };
	unsigned int wrong = 0;

	CHECK(sched_setscheduler(0, SCHED_FIFO, &first) == 0);
	for (int generation = 0; generation < GENERATIONS; generation++) {
		for (int side = 0; side < SIDES; side++) {
			pid_t child = fork();

			CHECK(child >= 0);
			if (child == 0)
				_exit(wrong_many(side, generation) != 0);
		}
		for (int side = 0; side < SIDES; side++) {
			int status;

			CHECK(wait(&status) > 0);
			wrong += status != 0;
		}
	}
	CHECK(sched_setscheduler(0, SCHED_OTHER, &normal) == 0);
	verdict(wrong == 0, "local-tables-many", "%u of %d processes found what is not theirs", wrong, SIDES * GENERATIONS);
}

/* Before any table is full, for a child begins with its parent's. Then two processes with full tables take turns. */
static void local_tables(void)
{
	pid_t child;
	unsigned int wrong;
	int status;

	if (!describe_local(0, 0, 0)) {
		skip("local-tables", strerror(errno));
		return;
	}
	many_local_tables();
	child = fork();
	CHECK(child >= 0);
	if (child == 0)
		_exit(wrong_local(1) != 0);
	wrong = wrong_local(0);
	CHECK(waitpid(child, &status, 0) == child);
	verdict(wrong == 0 && status == 0, "local-tables", "%u wrong, child %#x", wrong, status);
}

int main(void)
{
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	CHECK(mmap((void *)AREA, AREA_PAGES * PAGE, PROT_READ | PROT_WRITE, flags, -1, 0) == (void *)AREA);
	for (int i = 0; i < AREA_PAGES; i++)
		AREA[i * PAGE / 4] = i;
	handle(SIGSEGV, fault);
	handle(SIGBUS, fault);
	local_tables();
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
