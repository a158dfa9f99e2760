/*
 * `mixed SECONDS`: a worker for each kind of load, all at once on the same processor, each of which checks every byte that it
 * gets back. What one of them loses, tears or mixes up is a FAIL line with what and when; otherwise one line sums up.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "verdict.h"

enum { PAGE = 4096, PAGES = 64, BLOCK = 16384, BLOCKS = 24, WAKES = 50 };

static const char *self;

static int64_t now(void)
{
	struct timespec time;

	CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
	return time.tv_sec * INT64_C(1000000000) + time.tv_nsec;
}

/* CRC-32 of ISO 3309, bit by bit. */
static uint32_t crc(const uint8_t *data, size_t length)
{
	uint32_t sum = ~0U;

	for (size_t i = 0; i < length; i++) {
		sum ^= data[i];
		for (int bit = 0; bit < 8; bit++)
			sum = sum >> 1 ^ (sum & 1 ? 0xedb88320 : 0);
	}
	return ~sum;
}

static uint64_t next(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

static void noise(uint8_t *data, size_t length, uint64_t seed)
{
	for (size_t i = 0; i < length; i += 8) {
		uint64_t word = next(&seed);

		memcpy(data + i, &word, 8);
	}
}

static bool exits_with(pid_t child, int expected)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == expected;
}

/* A child of a child, with changes in its copy of the memory that nobody else sees. */
static bool forks(uint64_t seed)
{
	static volatile uint64_t words[PAGES * PAGE / 8];
	pid_t child;

	for (int i = 0; i < PAGES; i++)
		words[i * PAGE / 8] = seed + i;
	child = fork();
	if (child == 0) {
		pid_t grandchild = fork();

		if (grandchild == 0) {
			for (int i = 0; i < PAGES; i++)
				words[i * PAGE / 8] = ~seed;
			_exit(5);
		}
		for (int i = 0; i < PAGES; i += 2)
			words[i * PAGE / 8]++;
		for (int i = 0; i < PAGES; i++)
			if (words[i * PAGE / 8] != seed + i + (i % 2 == 0))
				_exit(1);
		_exit(exits_with(grandchild, 5) ? 6 : 2);
	}
	if (!exits_with(child, 6))
		return false;
	for (int i = 0; i < PAGES; i++)
		if (words[i * PAGE / 8] != seed + i)
			return false;
	return true;
}

static bool executes(uint64_t seed)
{
	char number[8];
	pid_t child;

	snprintf(number, sizeof(number), "%u", (unsigned int)(seed % 100));
	child = fork();
	if (child == 0) {
		execl(self, self, "exit", number, (char *)NULL);
		_exit(127);
	}
	return exits_with(child, seed % 100);
}

/* Blocks of noise with a sum behind each, in pieces of any length. */
static bool pipes(uint64_t seed)
{
	static uint8_t block[BLOCK + 4];
	int ends[2];
	pid_t child;
	bool good = true;

	CHECK(pipe(ends) == 0);
	child = fork();
	if (child == 0) {
		uint32_t sum;

		close(ends[0]);
		noise(block, BLOCK, seed);
		sum = crc(block, BLOCK);
		memcpy(block + BLOCK, &sum, 4);
		for (size_t done = 0; done < sizeof(block);) {
			size_t piece = 1 + next(&seed) % 5000;
			ssize_t written;

			if (piece > sizeof(block) - done)
				piece = sizeof(block) - done;
			written = write(ends[1], block + done, piece);
			if (written <= 0)
				_exit(1);
			done += written;
		}
		_exit(3);
	}
	close(ends[1]);
	memset(block, 0, sizeof(block));
	for (size_t done = 0; done < sizeof(block) && good;) {
		ssize_t got = read(ends[0], block + done, sizeof(block) - done);

		good = got > 0;
		done += good ? got : 0;
	}
	if (good) {
		uint32_t sum = crc(block, BLOCK);

		good = !memcmp(block + BLOCK, &sum, 4);
	}
	close(ends[0]);
	return exits_with(child, 3) && good;
}

static volatile sig_atomic_t delivered, bad_signals;

static void count(int signal, siginfo_t *info, void *data)
{
	(void)signal;
	(void)data;
	if (info->si_value.sival_int != delivered)
		bad_signals++;
	delivered++;
}

/* Real-time signals come in order, each once, with what was sent. */
static bool signals(uint64_t seed)
{
	const int number = 20 + seed % 20;
	struct sigaction action = { .sa_sigaction = count, .sa_flags = SA_SIGINFO };
	sigset_t set;

	CHECK(sigaction(SIGRTMIN, &action, NULL) == 0);
	sigemptyset(&set);
	sigaddset(&set, SIGRTMIN);
	delivered = bad_signals = 0;
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	for (int i = 0; i < number; i++)
		if (sigqueue(getpid(), SIGRTMIN, (union sigval){ .sival_int = i }) != 0)
			return false;
	CHECK(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
	return delivered == number && bad_signals == 0;
}

/* Mapped, moved, cut in the middle, made read-only for a while. */
static bool maps(uint64_t seed)
{
	uint64_t *area = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *moved;
	const size_t step = PAGE / 8;
	bool good = true;

	CHECK(area != MAP_FAILED);
	for (size_t i = 0; i < PAGES; i++) {
		good &= area[i * step] == 0;
		area[i * step] = seed ^ i;
	}
	CHECK(mprotect(area, PAGES * PAGE / 2, PROT_READ) == 0);
	moved = mremap(area, PAGES * PAGE / 2, PAGES * PAGE / 2, MREMAP_MAYMOVE);
	CHECK(moved != MAP_FAILED && moved == area);
	for (size_t i = 0; i < PAGES; i++)
		good &= area[i * step] == (seed ^ i);
	CHECK(munmap(area + PAGES / 4 * step, PAGES * PAGE / 4) == 0);
	CHECK(mprotect(area, PAGES * PAGE / 4, PROT_READ | PROT_WRITE) == 0);
	for (size_t i = 0; i < PAGES; i++)
		if (i < PAGES / 4 || i >= PAGES / 2)
			good &= area[i * step]++ == (seed ^ i);
	return munmap(area, PAGES * PAGE) == 0 && good;
}

/* Written in one order, read in another, by calls and through a mapping. */
static bool files(uint64_t seed)
{
	static uint8_t block[BLOCK], back[BLOCK];
	char name[64];
	uint8_t *mapped;
	bool good = true;
	int file;

	snprintf(name, sizeof(name), "/tmp/mixed-%d", getpid());
	file = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);
	CHECK(file >= 0);
	for (int i = BLOCKS - 1; i >= 0; i--) {
		noise(block, BLOCK, seed + i + 1);
		good &= pwrite(file, block, BLOCK, (off_t)i * BLOCK) == BLOCK;
	}
	for (int i = 0; i < BLOCKS; i++) {
		noise(block, BLOCK, seed + i + 1);
		good &= pread(file, back, BLOCK, (off_t)i * BLOCK) == BLOCK && !memcmp(block, back, BLOCK);
	}
	mapped = mmap(NULL, BLOCKS * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (mapped != MAP_FAILED) {
		for (int i = 0; i < BLOCKS; i++) {
			noise(block, BLOCK, seed + i + 1);
			good &= !memcmp(mapped + i * BLOCK, block, BLOCK);
			mapped[i * BLOCK] ^= 0xff;
		}
		good &= pread(file, back, 1, 0) == 1 && back[0] == mapped[0];
		CHECK(munmap(mapped, BLOCKS * BLOCK) == 0);
	}
	CHECK(close(file) == 0 && unlink(name) == 0);
	return good;
}

static volatile sig_atomic_t ticks;

static void tick(int signal)
{
	(void)signal;
	ticks++;
}

/* A timer that interrupts, and a sleep that goes on with what is left of it. */
static bool timers(uint64_t seed)
{
	struct itimerval often = { .it_value.tv_usec = 700, .it_interval.tv_usec = 2000 };
	struct timespec left = { .tv_nsec = 3000000 + seed % 4000000 };
	int64_t least = left.tv_nsec, start = now();

	CHECK(sigaction(SIGALRM, &(struct sigaction){ .sa_handler = tick }, NULL) == 0);
	ticks = 0;
	CHECK(setitimer(ITIMER_REAL, &often, NULL) == 0);
	while (nanosleep(&left, &left) != 0)
		CHECK(errno == EINTR);
	CHECK(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL) == 0);
	return now() - start >= least && ticks > 0;
}

/* Select gives up when it should, and not when there is something. */
static bool selects(uint64_t seed)
{
	struct timeval time = { .tv_usec = 500 + seed % 3000 };
	int64_t least = time.tv_usec * INT64_C(1000), start = now();
	int ends[2];
	fd_set set;
	bool good;

	CHECK(pipe(ends) == 0);
	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	good = select(ends[0] + 1, &set, NULL, NULL, &time) == 0 && now() - start >= least;
	CHECK(write(ends[1], "x", 1) == 1);
	FD_SET(ends[0], &set);
	time = (struct timeval){ .tv_sec = 30 };
	good &= select(ends[0] + 1, &set, NULL, NULL, &time) == 1;
	close(ends[0]);
	close(ends[1]);
	return good;
}

static volatile uint32_t turn;
static volatile uint64_t protected;

static void wait_for(uint32_t mine)
{
	uint32_t seen;

	while ((seen = turn) % 2 != mine)
		syscall(SYS_futex, &turn, FUTEX_WAIT, seen, NULL, NULL, 0);
}

static void take_turns(uint32_t mine)
{
	for (int i = 0; i < WAKES; i++) {
		wait_for(mine);
		protected = protected * 3 + mine + 1;
		turn++;
		syscall(SYS_futex, &turn, FUTEX_WAKE, 1, NULL, NULL, 0);
	}
}

static void *other(void *argument)
{
	take_turns(1);
	return argument;
}

static bool futexes(uint64_t seed)
{
	uint64_t expected = seed;
	pthread_t thread;

	protected = seed;
	turn = 0;
	CHECK(pthread_create(&thread, NULL, other, NULL) == 0);
	take_turns(0);
	CHECK(pthread_join(thread, NULL) == 0);
	for (int i = 0; i < WAKES; i++)
		expected = (expected * 3 + 1) * 3 + 2;
	return protected == expected;
}

/* Arithmetic in registers of every kind, over whatever interrupts it. */
static bool computes(uint64_t seed)
{
	double sum = 0, again = 0;
	uint64_t one = seed, other = seed;

	for (int i = 1; i < 20000; i++) {
		sum += 1.0 / i;
		next(&one);
	}
	sched_yield();
	for (int i = 1; i < 20000; i++) {
		again += 1.0 / i;
		next(&other);
	}
	return sum == again && one == other;
}

static const struct {
	const char *name;
	bool (*work)(uint64_t seed);
} loads[] = {
	{ "forks", forks },	{ "programs", executes }, { "pipes", pipes },	  { "signals", signals },
	{ "maps", maps },	{ "files", files },	  { "timers", timers },	  { "selects", selects },
	{ "futexes", futexes }, { "computes", computes },
};

enum { LOADS = sizeof(loads) / sizeof(*loads) };

/* What the workers have done, in memory that all share. */
struct counts {
	uint64_t done, wrong, first_wrong;
};

static void work(int load, struct counts *counts, int64_t end)
{
	while (now() < end) {
		uint64_t seed = (counts->done + 1) * UINT64_C(0x9e3779b97f4a7c15) + load;

		if (!loads[load].work(seed)) {
			if (!counts->wrong++)
				counts->first_wrong = counts->done;
		}
		counts->done++;
	}
	_exit(0);
}

int main(int argc, char **argv)
{
	struct counts *counts = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	char summary[512] = "";
	size_t length = 0;
	int64_t end;

	self = argv[0];
	if (argc == 3 && !strcmp(argv[1], "exit"))
		return atoi(argv[2]);
	CHECK(argc == 2 && counts != MAP_FAILED);
	end = now() + atoi(argv[1]) * INT64_C(1000000000);
	for (int load = 0; load < LOADS; load++) {
		pid_t child = fork();

		CHECK(child >= 0);
		if (child == 0)
			work(load, &counts[load], end);
	}
	for (int load = 0; load < LOADS; load++) {
		int status;
		pid_t child = wait(&status);

		CHECK(child > 0);
		if (status != 0)
			verdict(false, "mixed-worker", "wait status %#x", status);
	}
	for (int load = 0; load < LOADS; load++) {
		char name[64];

		snprintf(name, sizeof(name), "mixed-%s", loads[load].name);
		if (counts[load].wrong || !counts[load].done)
			verdict(false, name, "%lu wrong of %lu, first number %lu", counts[load].wrong, counts[load].done,
				counts[load].first_wrong);
		length += snprintf(summary + length, sizeof(summary) - length, "%s%s %lu", load ? ", " : "",
				   loads[load].name, counts[load].done);
	}
	verdict(!failed, "mixed", "%s", summary);
	return failed;
}
