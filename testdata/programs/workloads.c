/*
 * What else a kernel does all day, beside the operations of costs.c: the rows of lmbench (McVoy and Staelin, 1996) that those
 * leave out, and jobs of many small programs. Lines "cost NAME N" as there.
 *
 * As `workloads job` it is what the jobs start.
 */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/select.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>

#include "cost.h"

enum { ROUNDS = 100, LONG_ROUNDS = 20, FEW_ROUNDS = 3, KB = 1024, MB = 1024 * KB, LONGEST_RING = 16, FILES = 64 };

static const char *self;
static char buffer[64 * KB];

static int zeros;

static void read_byte(void)
{
	CHECK(read(zeros, buffer, 1) == 1);
}

static void write_byte(void)
{
	CHECK(write(zeros, buffer, 1) == 1);
}

static void look_up(void)
{
	struct stat about;

	CHECK(stat("/dev/zero", &about) == 0);
}

static void open_and_close(void)
{
	CHECK(close(open("/dev/zero", O_RDONLY)) == 0);
}

static void create_and_unlink(void)
{
	CHECK(close(open("/tmp/created", O_CREAT | O_WRONLY, 0600)) == 0 && unlink("/tmp/created") == 0);
}

/* 64 pipes, of which none has anything to read. */
static int silent[64];

static void select_of_64(void)
{
	struct timeval none = { 0 };
	fd_set set;

	FD_ZERO(&set);
	for (int i = 0; i < 64; i++)
		FD_SET(silent[i], &set);
	CHECK(select(silent[63] + 1, &set, NULL, NULL, &none) == 0);
}

static void selects(void)
{
	int ends[64][2];

	for (int i = 0; i < 64; i++) {
		CHECK(pipe(ends[i]) == 0);
		silent[i] = ends[i][0];
	}
	report("select-64", cost_of(select_of_64, ROUNDS));
	for (int i = 0; i < 64; i++) {
		close(ends[i][0]);
		close(ends[i][1]);
	}
}

/* The mappings: of a file, read, or of nothing, written. */
static size_t length;
static int file = -1;

static void map_touch_unmap(void)
{
	int protection = file < 0 ? PROT_READ | PROT_WRITE : PROT_READ;
	int flags = file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	volatile char *pages = mmap(NULL, length, protection, flags, file, 0);

	CHECK(pages != MAP_FAILED);
	for (size_t at = 0; at < length; at += PAGE) {
		if (file < 0)
			pages[at] = 1;
		else
			(void)pages[at];
	}
	CHECK(munmap((void *)pages, length) == 0);
}

static void mappings(void)
{
	length = 64 * KB;
	report("map-anonymous-64k", cost_of(map_touch_unmap, LONG_ROUNDS));
	length = 4 * MB;
	report("map-anonymous-4m", cost_of(map_touch_unmap, FEW_ROUNDS));
	length = 64 * MB;
	report("map-anonymous-64m", cost_of(map_touch_unmap, FEW_ROUNDS));
	file = open("/tmp/mapped", O_CREAT | O_RDWR, 0600);
	CHECK(file >= 0);
	for (size_t at = 0; at < 4 * MB; at += sizeof(buffer))
		CHECK(write(file, buffer, sizeof(buffer)) == sizeof(buffer));
	length = 64 * KB;
	report("map-file-64k", cost_of(map_touch_unmap, LONG_ROUNDS));
	length = 4 * MB;
	report("map-file-4m", cost_of(map_touch_unmap, FEW_ROUNDS));
	CHECK(close(file) == 0 && unlink("/tmp/mapped") == 0);
}

/* 16 pages that are there. */
static volatile char *pages;

static void protect_and_allow(void)
{
	CHECK(mprotect((void *)pages, 16 * PAGE, PROT_READ) == 0);
	CHECK(mprotect((void *)pages, 16 * PAGE, PROT_READ | PROT_WRITE) == 0);
	for (int i = 0; i < 16; i++)
		pages[i * PAGE] = 1;
}

static void grow_and_shrink(void)
{
	char *start = sbrk(16 * PAGE);

	CHECK(start != (void *)-1);
	for (int i = 0; i < 16; i++)
		start[i * PAGE] = 1;
	CHECK(sbrk(-16 * PAGE) != (void *)-1);
}

/* The store that faults is two bytes long. */
static void skip_store(int signal, siginfo_t *about, void *context)
{
	(void)signal;
	(void)about;
	((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
}

static void store_in_vain(void)
{
	asm volatile("movb %%al, (%0)" ::"c"(pages), "a"(1) : "memory");
}

static void protections(void)
{
	pages = map(16);
	report("protect", cost_of(protect_and_allow, ROUNDS));
	report("grow-shrink", cost_of(grow_and_shrink, ROUNDS));
	CHECK(mprotect((void *)pages, PAGE, PROT_READ) == 0);
	handle(SIGSEGV, skip_store);
	report("protection-fault", cost_of(store_in_vain, ROUNDS));
	CHECK(signal(SIGSEGV, SIG_DFL) != SIG_ERR && munmap((void *)pages, 16 * PAGE) == 0);
}

/* The child writes to each page that its parent has. */
static void fork_and_copy(void)
{
	pid_t child = fork();

	if (child == 0) {
		for (int i = 0; i < FILES; i++)
			pages[i * PAGE] = 2;
		_exit(0);
	}
	end(child);
}

static void spawn(void)
{
	char *arguments[] = { (char *)self, "job", NULL };
	pid_t child;

	CHECK(posix_spawn(&child, self, NULL, NULL, arguments, NULL) == 0);
	end(child);
}

static void *do_nothing(void *argument)
{
	return argument;
}

static void start_and_join(void)
{
	pthread_t thread;

	CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
}

/* Whose turn it is; -1 at the end. */
static int turn;

static void await_turn(int whose)
{
	for (int now; (now = __atomic_load_n(&turn, __ATOMIC_SEQ_CST)) != whose;) {
		if (now < 0)
			pthread_exit(NULL);
		syscall(SYS_futex, &turn, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
	}
}

static void give_turn(int whose)
{
	__atomic_store_n(&turn, whose, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &turn, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

static void *answer(void *argument)
{
	for (;;) {
		await_turn(1);
		give_turn(0);
	}
	return argument;
}

static void ask(void)
{
	give_turn(1);
	await_turn(0);
}

static void threads(void)
{
	pthread_t other;

	report("thread", cost_of(start_and_join, ROUNDS));
	CHECK(pthread_create(&other, NULL, answer, NULL) == 0);
	report("futex", cost_of(ask, ROUNDS));
	give_turn(-1);
	CHECK(pthread_join(other, NULL) == 0);
}

/* Processes in a ring: each reads a byte from the one before it, goes over some memory of its own, and hands the byte on. */
static int ring[LONGEST_RING][2], members;
static size_t own;

static void use_memory(void)
{
	for (size_t at = 0; at < own; at += 64)
		((volatile char *)buffer)[at]++;
}

static void once_around(void)
{
	char byte = 0;

	CHECK(write(ring[0][1], &byte, 1) == 1);
	use_memory();
	CHECK(read(ring[members - 1][0], &byte, 1) == 1);
}

static void be_member(int number)
{
	char byte;

	while (read(ring[number - 1][0], &byte, 1) == 1) {
		use_memory();
		CHECK(write(ring[number][1], &byte, 1) == 1);
	}
	_exit(0);
}

static void measure_ring(int count, size_t size)
{
	pid_t others[LONGEST_RING];
	char name[32];

	members = count;
	own = size;
	for (int i = 0; i < members; i++)
		CHECK(pipe(ring[i]) == 0);
	for (int i = 1; i < members; i++) {
		others[i] = fork();
		if (others[i] == 0)
			be_member(i);
	}
	snprintf(name, sizeof(name), "ring-%d-%zuk", members, own / KB);
	report(name, cost_of(once_around, LONG_ROUNDS) / members);
	for (int i = 1, status; i < members; i++)
		CHECK(kill(others[i], SIGKILL) == 0 && waitpid(others[i], &status, 0) == others[i]);
	for (int i = 0; i < members; i++)
		CHECK(close(ring[i][0]) == 0 && close(ring[i][1]) == 0);
}

static volatile int expiries;

static void count_expiry(int signal)
{
	(void)signal;
	expiries++;
}

/* So long that a tick of the kernel's more or less counts little: some 400 expiries. */
static void spin(void)
{
	for (int i = 0; i < 160 * MB; i++)
		asm volatile("");
}

/* What a timer that expires every millisecond adds to a computation, for each time that it expires. */
static void timer(void)
{
	struct itimerval each = { { 0, 1000 }, { 0, 1000 } }, none = { 0 };
	uint64_t alone = cost_of(spin, 1), with;

	CHECK(signal(SIGALRM, count_expiry) != SIG_ERR && setitimer(ITIMER_REAL, &each, NULL) == 0);
	expiries = 0;
	with = ticks();
	spin();
	with = ticks() - with;
	CHECK(setitimer(ITIMER_REAL, &none, NULL) == 0 && expiries > 10);
	report("timer-1ms", with > alone ? (with - alone) / expiries : 0);
}

static int sender;

static void send_64k(void)
{
	static char received[64 * KB];

	CHECK(write(sender, buffer, 64 * KB) == 64 * KB);
	for (ssize_t rest = 64 * KB, got; rest > 0; rest -= got) {
		got = read(ring[0][0], received, rest);
		CHECK(got > 0);
	}
}

/* Another process sends back what it gets. */
static void bandwidth(void)
{
	pid_t child;
	ssize_t got;

	CHECK(pipe(ring[0]) == 0 && pipe(ring[1]) == 0);
	child = fork();
	if (child == 0) {
		close(ring[1][1]);
		while ((got = read(ring[1][0], buffer, sizeof(buffer))) > 0)
			CHECK(write(ring[0][1], buffer, got) == got);
		_exit(0);
	}
	sender = ring[1][1];
	report("pipe-64k", cost_of(send_64k, LONG_ROUNDS));
	close(ring[1][1]);
	end(child);
	CHECK(close(ring[0][0]) == 0 && close(ring[0][1]) == 0 && close(ring[1][0]) == 0);
}

static const char *script;

static void do_job(void)
{
	fork_and_execute((const char *const[]){ "/bin/sh", "-c", script, NULL });
}

static void measure_job(const char *name, const char *what)
{
	script = what;
	report(name, cost_of(do_job, FEW_ROUNDS));
}

static void jobs(void)
{
	char path[64];

	CHECK(mkdir("/tmp/tree", 0700) == 0);
	for (int i = 0; i < FILES; i++) {
		snprintf(path, sizeof(path), "/tmp/tree/file-%d", i);
		file = open(path, O_CREAT | O_WRONLY, 0600);
		memset(buffer, 'a' + i % 26, sizeof(buffer) / 4);
		CHECK(file >= 0 && write(file, buffer, sizeof(buffer) / 4) == sizeof(buffer) / 4 && close(file) == 0);
	}
	measure_job("build", "for i in 1 2 3 4 5 6 7 8; do sed s/a/b/ /tmp/tree/file-$i > /tmp/$i.i; "
			     "sort /tmp/$i.i | head -n 1 > /tmp/$i.o; done; cat /tmp/*.o > /tmp/all; rm /tmp/*.i /tmp/*.o");
	measure_job("tar", "tar -cf /tmp/tree.tar -C /tmp tree && mkdir /tmp/again && tar -xf /tmp/tree.tar -C /tmp/again && "
			   "rm -r /tmp/again");
	measure_job("gzip", "gzip -c /tmp/tree.tar > /tmp/tree.gz");
}

int main(int count, char **arguments)
{
	const int sizes[] = { 0, 16, 64 }, counts[] = { 2, 8, 16 };

	if (count > 1)
		return 0;
	self = arguments[0];
	measuring = cost_of(nothing, ROUNDS);
	zeros = open("/dev/zero", O_RDWR);
	CHECK(zeros >= 0);
	report("read", cost_of(read_byte, ROUNDS));
	report("write", cost_of(write_byte, ROUNDS));
	report("stat", cost_of(look_up, ROUNDS));
	report("open-close", cost_of(open_and_close, ROUNDS));
	report("create-unlink", cost_of(create_and_unlink, ROUNDS));
	selects();
	mappings();
	protections();
	pages = map(FILES);
	for (int i = 0; i < FILES; i++)
		pages[i * PAGE] = 1;
	report("fork-copy", cost_of(fork_and_copy, LONG_ROUNDS));
	report("spawn", cost_of(spawn, LONG_ROUNDS));
	threads();
	for (int i = 0; i < 9; i++)
		measure_ring(counts[i / 3], sizes[i % 3] * KB);
	timer();
	bandwidth();
	jobs();
	return 0;
}
