/*
 * More page tables than a host may want to keep: memory that is touched once in every 2 MB, again and again, by one process
 * and by several, and between the touches what must never find a page missing: system calls on a stack that is not one, and
 * the stacks of threads that have slept meanwhile.
 */
#include <pthread.h>
#include <sys/wait.h>

#include "hostile.h"

enum { REGIONS = 1500, PROCESSES = 3, ROUNDS = 2, THREADS = 300 };
#define REGION (UINT64_C(2) << 20)
#define SPARSE UINT64_C(0x100000000000)

static volatile uint64_t *word(unsigned int region)
{
	return (uint64_t *)(SPARSE + region * REGION + (region % 512) * PAGE);
}

/* A system call with RSP where nothing can be pushed; it must return what it returns elsewhere. */
static bool call_without_stack(uint64_t rsp)
{
	uint64_t result = SYS_getppid;

	asm volatile("mov %%rsp, %%rbx; mov %1, %%rsp; syscall; mov %%rbx, %%rsp"
		     : "+a"(result)
		     : "r"(rsp)
		     : "rbx", "rcx", "r11", "memory");
	return result == (uint64_t)syscall(SYS_getppid);
}

static const uint64_t stacks[] = {
	0, 8, 0x800000000000, 0xffff800000000000, 0xffff880000000000, 0xffff888000000000, 0xffffffff7f000000,
	0xffffffff7f100000, 0xffffffff81000000, 0xffffffffffffffff, 0x7ffffffff000,
};

/* How many words and calls were wrong. */
static unsigned long touch(unsigned long seed)
{
	unsigned long wrong = 0;

	for (unsigned int round = 0; round < ROUNDS; round++)
		for (unsigned int region = 0; region < REGIONS; region++) {
			volatile uint64_t *place = word(region);

			wrong += round > 0 && *place != seed + region;
			*place = seed + region;
			if (region % 16 == 0)
				wrong += !call_without_stack(stacks[region / 16 % (sizeof(stacks) / sizeof(*stacks))]);
		}
	return wrong;
}

static void alone(void)
{
	unsigned long wrong = touch(1);

	verdict(wrong == 0, "evictions-alone", "%d regions, %lu wrong", REGIONS, wrong);
}

/* Children have the parent's pages until they write. */
static void several(void)
{
	unsigned int good = 0;
	int status;

	for (unsigned int child = 0; child < PROCESSES; child++)
		if (fork() == 0) {
			for (unsigned int region = 0; region < REGIONS; region += 7)
				if (*word(region) != 1 + region)
					_exit(2);
			_exit(touch(1000000 * (child + 1)) != 0);
		}
	while (wait(&status) > 0)
		good += WIFEXITED(status) && WEXITSTATUS(status) == 0;
	verdict(good == PROCESSES, "evictions-several", "%u of %d processes found what they had written", good, PROCESSES);
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static unsigned int awake;
static bool woken;

static void *sleeper(void *argument)
{
	pthread_mutex_lock(&mutex);
	while (!woken)
		pthread_cond_wait(&wake, &mutex);
	awake++;
	pthread_mutex_unlock(&mutex);
	return argument;
}

/* All sleep while page tables are in demand; then each runs once. */
static void threads(void)
{
	static pthread_t threads[THREADS];
	unsigned long wrong;

	for (unsigned int thread = 0; thread < THREADS; thread++)
		CHECK(pthread_create(&threads[thread], NULL, sleeper, NULL) == 0);
	wrong = touch(1);
	pthread_mutex_lock(&mutex);
	woken = true;
	pthread_cond_broadcast(&wake);
	pthread_mutex_unlock(&mutex);
	for (unsigned int thread = 0; thread < THREADS; thread++)
		CHECK(pthread_join(threads[thread], NULL) == 0);
	verdict(wrong == 0 && awake == THREADS, "evictions-threads", "%u of %d threads ran, %lu wrong", awake, THREADS, wrong);
}

/* What was unmapped is gone, and what is mapped in its place is new. */
static void unmapped(void)
{
	unsigned long stale = 0;

	for (unsigned int region = 0; region < REGIONS; region += 3) {
		CHECK(munmap((void *)word(region), PAGE) == 0);
		map_fixed((uintptr_t)word(region), PAGE, PROT_READ | PROT_WRITE);
		stale += *word(region) != 0;
	}
	verdict(stale == 0, "evictions-unmapped", "%lu pages still there", stale);
}

int main(void)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;

	hostile_setup();
	CHECK(mmap((void *)SPARSE, REGIONS * REGION, PROT_READ | PROT_WRITE, flags, -1, 0) == (void *)SPARSE);
	alone();
	several();
	threads();
	unmapped();
	return failed;
}
