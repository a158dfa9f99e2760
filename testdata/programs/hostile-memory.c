/*
 * Memory that is not the program's, and memory whose translation has just changed.
 *
 * A kernel whose page tables are shadowed by somebody else must take back what was allowed a moment ago: each change of
 * protection, of mapping and of contents is held against what the next access does, page by page.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/wait.h>

#include "hostile.h"

enum { PAGES = 512, FORKED = 2000, TURNS = 200, SPARSE = 8000 };

#define AREA UINT64_C(0x40000000)
#define OTHER UINT64_C(0x50000000)
/* So far from each other, each page needs a page table of its own. */
#define STRIDE UINT64_C(0x200000)

static const uint64_t forbidden[] = {
	0,
	0x1000,
	0x7ffffffff000,
	0x800000000000,
	0x8000000000000000,
	0xffff7fffffffffff,
	0xffff800000000000,
	0xffff804000000000,
	0xffff820000000000,
	0xffff82d040200000,
	0xffff82d080000000,
	0xffff830000000000,
	0xffff87ffffffffff,
	0xffff880000000000,
	0xffff888000000000,
	0xffffc90000000000,
	0xfffffe0000000000,
	0xfffffe0000001000,
	0xffffffff7effffff,
	0xffffffff7f000000,
	0xffffffff7f001000,
	0xffffffff7f100000,
	0xffffffff7fffffff,
	0xffffffff80000000,
	0xffffffff81000000,
	0xffffffffa0000000,
	0xffffffffff5fffff,
	0xffffffffff600000,
	0xfffffffffffff000,
	0xffffffffffffffff,
};

static const struct {
	const char *name, *code;
	size_t length;
} accesses[] = {
	{ "read", "\x8a\x07", 2 },		 { "write", "\x88\x07", 2 },
	{ "exchange", "\xf0\x48\x0f\xc1\x07", 5 }, { "jump", "\xff\xe7", 2 },
	{ "call", "\xff\xd7", 2 },		 { "rep-stosb", "\xf3\xaa", 2 },
	{ "sse", "\x0f\x10\x07", 3 },
};

static struct outcome accessed(uint64_t address, size_t access)
{
	fresh()[REG_RDI] = (greg_t)address;
	hostile_wanted[REG_RCX] = 1;
	return attempt_code(accesses[access].code, accesses[access].length);
}

/* Linux carries out calls of the vsyscall page. */
static bool let_through(const char *access, uint64_t address)
{
	return (!strcmp(access, "jump") || !strcmp(access, "call")) && address == 0xffffffffff600000;
}

static void forbidden_by_code(void)
{
	for (size_t i = 0; i < sizeof(accesses) / sizeof(*accesses); i++) {
		struct tally ends = { 0 };
		unsigned int allowed = 0;
		char name[64];

		for (size_t j = 0; j < sizeof(forbidden) / sizeof(*forbidden); j++) {
			struct outcome outcome;

			if (let_through(accesses[i].name, forbidden[j]))
				continue;
			outcome = accessed(forbidden[j], i);
			allowed += outcome.vector == BP;
			if (outcome.vector == PF)
				outcome.address -= forbidden[j];
			if (outcome.at[REG_RIP] == (greg_t)forbidden[j])
				outcome.at[REG_RIP] = (uintptr_t)CODE;
			tally(&ends, forbidden[j], told(&outcome));
		}
		snprintf(name, sizeof(name), "forbidden-%s", accesses[i].name);
		verdict(allowed == 0, name, "%u allowed", allowed);
		tell(&ends, name);
	}
}

/* By the kernel's hand: a pointer that is not the program's is EFAULT. */
static void forbidden_by_system_call(void)
{
	static struct tally ends;
	int ends_of_pipe[2];

	CHECK(pipe(ends_of_pipe) == 0);
	for (size_t i = 0; i < sizeof(forbidden) / sizeof(*forbidden); i++) {
		char text[160];
		ssize_t out, in, stat;

		out = syscall(SYS_write, ends_of_pipe[1], forbidden[i], 8) < 0 ? errno : 0;
		CHECK(write(ends_of_pipe[1], "12345678", 8) == 8);
		in = syscall(SYS_read, ends_of_pipe[0], forbidden[i], 8) < 0 ? errno : 0;
		close(ends_of_pipe[0]);
		close(ends_of_pipe[1]);
		CHECK(pipe(ends_of_pipe) == 0);
		stat = syscall(SYS_uname, forbidden[i]) < 0 ? errno : 0;
		snprintf(text, sizeof(text), "write %zd, read %zd, uname %zd", out, in, stat);
		failed |= out != EFAULT || in != EFAULT || stat != EFAULT;
		tally(&ends, forbidden[i], text);
	}
	tell(&ends, "forbidden-system-call");
	close(ends_of_pipe[0]);
	close(ends_of_pipe[1]);
}

/* A fault at this very address, or none. */
static bool faults(uint64_t address, size_t access)
{
	struct outcome outcome = accessed(address, access);

	return outcome.signal == SIGSEGV && outcome.vector == PF && outcome.address == address;
}

static bool reads(uint64_t address)
{
	return !faults(address, 0) && hostile_seen.vector == BP;
}

static bool writes(uint64_t address)
{
	return !faults(address, 1) && hostile_seen.vector == BP;
}

static volatile uint64_t *word(uint64_t area, size_t page)
{
	return (volatile uint64_t *)(area + page * PAGE);
}

static void fill(uint64_t area, size_t pages, uint64_t seed)
{
	for (size_t i = 0; i < pages; i++)
		*word(area, i) = seed + i;
}

static unsigned int different(uint64_t area, size_t pages, uint64_t seed)
{
	unsigned int count = 0;

	for (size_t i = 0; i < pages; i++)
		count += *word(area, i) != seed + i;
	return count;
}

static unsigned int not_zero(uint64_t area, size_t pages)
{
	unsigned int count = 0;

	for (size_t i = 0; i < pages; i++)
		count += *word(area, i) != 0;
	return count;
}

static void protections(void)
{
	unsigned int stale = 0, lost = 0;

	map_fixed(AREA, PAGES * PAGE, PROT_READ | PROT_WRITE);
	fill(AREA, PAGES, 100);
	for (size_t i = 0; i < PAGES; i++) {
		void *page = (void *)word(AREA, i);

		CHECK(mprotect(page, PAGE, PROT_READ) == 0);
		stale += !faults((uintptr_t)page, 1) + !reads((uintptr_t)page);
		CHECK(mprotect(page, PAGE, PROT_NONE) == 0);
		stale += !faults((uintptr_t)page, 0);
		CHECK(mprotect(page, PAGE, PROT_READ | PROT_WRITE) == 0);
		lost += *word(AREA, i) != 100 + i || !writes((uintptr_t)page);
	}
	verdict(stale == 0 && lost == 0, "stale-protection", "%u stale, %u lost", stale, lost);

	/* All at once, and back; the first access after it decides. */
	fill(AREA, PAGES, 200);
	CHECK(mprotect((void *)AREA, PAGES * PAGE, PROT_READ) == 0);
	stale = 0;
	for (size_t i = 0; i < PAGES; i++)
		stale += !faults(AREA + i * PAGE, 1);
	CHECK(mprotect((void *)AREA, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
	verdict(stale == 0 && different(AREA, PAGES, 200) == 0, "stale-protection-at-once", "%u stale", stale);
	fill(AREA, PAGES, 300);
	CHECK(munmap((void *)AREA, PAGES * PAGE) == 0);
	stale = 0;
	for (size_t i = 0; i < PAGES; i++)
		stale += !faults(AREA + i * PAGE, i % 2);
	verdict(stale == 0, "stale-unmapped", "%u stale", stale);
	map_fixed(AREA, PAGES * PAGE, PROT_READ | PROT_WRITE);
	stale = not_zero(AREA, PAGES);
	verdict(stale == 0, "stale-contents", "%u not zero", stale);
	fill(AREA, PAGES, 400);
	map_fixed(AREA, PAGES * PAGE, PROT_READ | PROT_WRITE);
	stale = not_zero(AREA, PAGES);
	verdict(stale == 0, "mapped-over", "%u not zero", stale);
	CHECK(munmap((void *)AREA, PAGES * PAGE) == 0);
}

static void no_execution(void)
{
	unsigned int stale = 0;

	map_fixed(AREA, PAGE, PROT_READ | PROT_WRITE);
	*(uint8_t *)AREA = 0xcc;
	for (int i = 0; i < TURNS; i++) {
		CHECK(mprotect((void *)AREA, PAGE, PROT_READ | PROT_WRITE) == 0);
		fresh()[REG_RIP] = AREA;
		stale += attempt().error != 0x15;
		CHECK(mprotect((void *)AREA, PAGE, PROT_READ | PROT_EXEC) == 0);
		fresh()[REG_RIP] = AREA;
		stale += attempt().vector != BP;
		stale += !faults(AREA, 1);
	}
	verdict(stale == 0, "no-execution", "%u stale", stale);
	CHECK(munmap((void *)AREA, PAGE) == 0);
}

static bool ended_well(pid_t child)
{
	int status;

	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

/* Each has its own pages as soon as it writes, whoever is first. */
static void copies_on_write(void)
{
	map_fixed(AREA, (size_t)FORKED * PAGE, PROT_READ | PROT_WRITE);
	for (int first = 0; first < 2; first++) {
		int go[2];
		char byte = 0;
		pid_t child;
		bool good;

		fill(AREA, FORKED, 1000);
		CHECK(pipe(go) == 0);
		child = fork();
		CHECK(child >= 0);
		if (child == 0) {
			close(go[1]);
			/* The parent writes first, and closes the pipe. */
			if (first == 1 && read(go[0], &byte, 1) != 0)
				_exit(1);
			if (different(AREA, FORKED, 1000))
				_exit(2);
			fill(AREA, FORKED, 5000);
			_exit(different(AREA, FORKED, 5000) != 0);
		}
		close(go[0]);
		if (first == 1) {
			fill(AREA, FORKED, 9000);
			close(go[1]);
			good = ended_well(child) && different(AREA, FORKED, 9000) == 0;
		} else {
			good = ended_well(child) && different(AREA, FORKED, 1000) == 0;
			close(go[1]);
		}
		verdict(good, first ? "copy-parent-first" : "copy-child-first", "%d pages", FORKED);
	}
	CHECK(munmap((void *)AREA, (size_t)FORKED * PAGE) == 0);
}

/* One file, mapped twice, written by two processes, cut off. */
static void shared(void)
{
	int file = memfd_create("shared", 0);
	unsigned int bad = 0;
	uint64_t *one, *other;
	pid_t child;

	if (file < 0) {
		skip("shared", strerror(errno));
		return;
	}
	CHECK(ftruncate(file, PAGES * PAGE) == 0);
	one = mmap((void *)AREA, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
	other = mmap((void *)OTHER, PAGES * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_SHARED | MAP_FIXED, file, 0);
	CHECK(one != MAP_FAILED && other != MAP_FAILED);
	fill(AREA, PAGES, 10);
	bad += different(OTHER, PAGES, 10);
	fill(OTHER, PAGES, 20);
	bad += different(AREA, PAGES, 20);
	child = fork();
	if (child == 0) {
		if (different(AREA, PAGES, 20))
			_exit(1);
		fill(AREA, PAGES, 30);
		_exit(0);
	}
	bad += !ended_well(child) + different(AREA, PAGES, 30) + different(OTHER, PAGES, 30);
	verdict(bad == 0, "shared-coherent", "%u differ", bad);

	/* Code written by one name, executed by the other. */
	bad = 0;
	for (int i = 0; i < TURNS; i++) {
		struct outcome outcome;
		uint8_t *place = (uint8_t *)AREA + i % 4 * PAGE;

		memcpy(place, "\xb8\0\0\0\0\xcc", 6);
		memcpy(place + 1, &i, 4);
		fresh()[REG_RIP] = OTHER + i % 4 * PAGE;
		outcome = attempt();
		bad += outcome.vector != BP || outcome.at[REG_RAX] != i;
	}
	verdict(bad == 0, "shared-code", "%u stale", bad);

	CHECK(ftruncate(file, PAGE) == 0);
	bad = 0;
	for (size_t i = 1; i < PAGES; i++) {
		struct outcome outcome = accessed(AREA + i * PAGE, i % 2);

		bad += outcome.signal != SIGBUS || outcome.address != AREA + i * PAGE;
	}
	verdict(bad == 0 && reads(AREA), "shared-cut-off", "%u stale", bad);
	CHECK(munmap(one, PAGES * PAGE) == 0 && munmap(other, PAGES * PAGE) == 0 && close(file) == 0);
}

static void moved(void)
{
	unsigned int stale = 0;
	uint64_t from = AREA, to = OTHER;

	map_fixed(AREA, PAGES * PAGE, PROT_READ | PROT_WRITE);
	fill(AREA, PAGES, 50);
	for (int i = 0; i < 20; i++) {
		uint64_t other = from;

		CHECK(mremap((void *)from, PAGES * PAGE, PAGES * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, to) == (void *)to);
		for (size_t page = 0; page < PAGES; page += 37)
			stale += !faults(from + page * PAGE, page % 2);
		stale += different(to, PAGES, 50);
		from = to;
		to = other;
	}
	verdict(stale == 0, "moved", "%u stale", stale);
	if (madvise((void *)from, PAGES * PAGE, MADV_DONTNEED) == 0) {
		stale = not_zero(from, PAGES);
		verdict(stale == 0, "not-needed", "%u not zero", stale);
	} else {
		skip("not-needed", strerror(errno));
	}
	CHECK(munmap((void *)from, PAGES * PAGE) == 0);
}

/* The kernel writes past the protection, into a copy of the page. */
static void by_the_kernel(void)
{
	int memory = open("/proc/self/mem", O_RDWR);
	unsigned int stale = 0;

	CHECK(memory >= 0);
	map_fixed(AREA, 4 * PAGE, PROT_READ | PROT_WRITE);
	memset((void *)AREA, 0xcc, 4 * PAGE);
	CHECK(mprotect((void *)AREA, 4 * PAGE, PROT_READ | PROT_EXEC) == 0);
	for (int i = 0; i < TURNS; i++) {
		struct outcome outcome;
		uint64_t place = AREA + i % 4 * PAGE;

		CHECK(pwrite(memory, "\xb8", 1, (off_t)place) == 1 && pwrite(memory, &i, 4, (off_t)place + 1) == 4);
		fresh()[REG_RIP] = (greg_t)place;
		outcome = attempt();
		stale += outcome.vector != BP || outcome.at[REG_RAX] != i || !faults(place, 1);
	}
	verdict(stale == 0, "written-by-the-kernel", "%u stale", stale);
	CHECK(munmap((void *)AREA, 4 * PAGE) == 0 && close(memory) == 0);
}

/* Code that changes the instruction behind it: movb $VALUE, 1(%rip); mov $0, %al. */
static void self_modifying(void)
{
	unsigned int stale = 0;

	for (int i = 0; i < TURNS; i++) {
		uint8_t code[] = { 0xc6, 0x05, 0x01, 0, 0, 0, (uint8_t)i, 0xb0, 0 };
		size_t start = i % 2 ? PAGE - 7 : 0;
		struct outcome outcome;

		fresh()[REG_RIP] = (uintptr_t)CODE + start;
		outcome = attempt_code(code, sizeof(code));
		stale += !completed(&outcome, sizeof(code)) || outcome.at[REG_RAX] != (uint8_t)i;
	}
	verdict(stale == 0, "self-modifying", "%u stale", stale);
}

/* The same address in two processes that take turns, and change what is there between them. */
static void two_spaces(void)
{
	int there[2], back[2];
	unsigned int wrong = 0;
	uint64_t number;
	pid_t child;

	CHECK(pipe(there) == 0 && pipe(back) == 0);
	map_fixed(AREA, 8 * PAGE, PROT_READ | PROT_WRITE);
	fill(AREA, 8, 1);
	child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		close(there[1]);
		fill(AREA, 8, 1000000);
		for (uint64_t i = 0; read(there[0], &number, 8) == 8; i++) {
			if (different(AREA, 8, 1000000 + i))
				_exit(1);
			map_fixed(AREA, 8 * PAGE, PROT_READ | PROT_WRITE);
			fill(AREA, 8, 1000001 + i);
			if (write(back[1], &number, 8) != 8)
				_exit(2);
		}
		_exit(0);
	}
	for (uint64_t i = 0; i < TURNS; i++) {
		wrong += write(there[1], &i, 8) != 8 || read(back[0], &number, 8) != 8 || number != i;
		wrong += different(AREA, 8, 1 + i);
		fill(AREA, 8, 2 + i);
	}
	close(there[1]);
	verdict(ended_well(child) && wrong == 0, "two-spaces", "%u wrong", wrong);
	CHECK(munmap((void *)AREA, 8 * PAGE) == 0);
	close(there[0]);
	close(back[0]);
	close(back[1]);
}

/* As many page tables as pages: whoever has a table beside each must give some back, and lose nothing. */
static void sparse(const char *name, bool by_kernel)
{
	int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, ends[2];
	char *area = mmap(NULL, SPARSE * STRIDE, PROT_READ | PROT_WRITE, flags, -1, 0);
	unsigned int lost = 0;

	CHECK(area != MAP_FAILED && pipe(ends) == 0);
	for (uint64_t i = 0; i < SPARSE; i++) {
		uint64_t value = i + 1;

		if (!by_kernel)
			*(volatile uint64_t *)(area + i * STRIDE) = value;
		else
			CHECK(write(ends[1], &value, 8) == 8 && read(ends[0], area + i * STRIDE, 8) == 8);
	}
	for (uint64_t i = 0; i < SPARSE; i++)
		lost += *(volatile uint64_t *)(area + i * STRIDE) != i + 1;
	verdict(lost == 0, name, "%u lost", lost);
	CHECK(munmap(area, SPARSE * STRIDE) == 0 && close(ends[0]) == 0 && close(ends[1]) == 0);
}

int main(void)
{
	hostile_setup();
	memset(DATA, 0x5a, PAGE);
	forbidden_by_code();
	forbidden_by_system_call();
	for (size_t i = 0; i < PAGE; i++)
		failed |= DATA[i] != 0x5a;
	verdict(!failed, "own-memory", "%s", failed ? "changed" : "intact");
	protections();
	no_execution();
	copies_on_write();
	shared();
	moved();
	by_the_kernel();
	self_modifying();
	two_spaces();
	sparse("sparse", false);
	sparse("sparse-by-the-kernel", true);
	return failed;
}
