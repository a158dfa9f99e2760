/*
 * `timers SECONDS`: every way to wait for a time, again and again: none may return early, none may be lost, and a periodic
 * timer's expirations must add up to the time that has passed, delivered or told as overruns.
 *
 * How late one may be is not judged below PATIENCE: an emulated machine on a busy host is late by itself. It is told.
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "verdict.h"

#define MS INT64_C(1000000)
#define PATIENCE (10000 * MS)

static int64_t now(clockid_t clock)
{
	struct timespec time;

	CHECK(clock_gettime(clock, &time) == 0);
	return time.tv_sec * 1000 * MS + time.tv_nsec;
}

static struct timespec span(int64_t length)
{
	return (struct timespec){ .tv_sec = length / (1000 * MS), .tv_nsec = length % (1000 * MS) };
}

static void by_nanosleep(int64_t length)
{
	struct timespec time = span(length);

	CHECK(nanosleep(&time, NULL) == 0);
}

static void until_a_time(int64_t length)
{
	struct timespec time = span(now(CLOCK_MONOTONIC) + length);

	CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, NULL) == 0);
}

static void by_poll(int64_t length)
{
	CHECK(poll(NULL, 0, (length + MS - 1) / MS) == 0);
}

static void by_select(int64_t length)
{
	struct timeval time = { length / (1000 * MS), length % (1000 * MS) / 1000 + 1 };

	CHECK(select(0, NULL, NULL, NULL, &time) == 0);
}

static void by_futex(int64_t length)
{
	static uint32_t word;
	struct timespec time = span(length);

	CHECK(syscall(SYS_futex, &word, FUTEX_WAIT, 0, &time, NULL, 0) == -1 && errno == ETIMEDOUT);
}

static void by_epoll(int64_t length)
{
	struct epoll_event event;
	static int epoll = -1;

	if (epoll < 0)
		CHECK((epoll = epoll_create1(0)) >= 0);
	CHECK(epoll_wait(epoll, &event, 1, (length + MS - 1) / MS) == 0);
}

static void by_signal(int64_t length)
{
	struct timespec time = span(length);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	CHECK(sigtimedwait(&set, NULL, &time) == -1 && errno == EAGAIN);
}

static void by_interval_timer(int64_t length)
{
	struct itimerval once = { .it_value = { length / (1000 * MS), length % (1000 * MS) / 1000 + 1 } };
	struct timespec patience = span(PATIENCE);
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGALRM);
	CHECK(setitimer(ITIMER_REAL, &once, NULL) == 0);
	CHECK(sigtimedwait(&set, NULL, &patience) == SIGALRM);
}

static struct way {
	const char *name;
	void (*wait)(int64_t length);
	unsigned long count, early, late;
	int64_t latest;
} ways[] = {
	{ .name = "nanosleep", .wait = by_nanosleep },
	{ .name = "clock-nanosleep", .wait = until_a_time },
	{ .name = "poll", .wait = by_poll },
	{ .name = "select", .wait = by_select },
	{ .name = "futex", .wait = by_futex },
	{ .name = "epoll", .wait = by_epoll },
	{ .name = "sigtimedwait", .wait = by_signal },
	{ .name = "setitimer", .wait = by_interval_timer },
};

enum { WAYS = sizeof(ways) / sizeof(*ways) };

static void once(struct way *way, int64_t length)
{
	int64_t start = now(CLOCK_MONOTONIC), took;

	way->wait(length);
	took = now(CLOCK_MONOTONIC) - start;
	way->count++;
	way->early += took < length;
	way->late += took - length > PATIENCE;
	if (took - length > way->latest)
		way->latest = took - length;
}

/* Periods that do not divide each other. */
static struct periodic {
	const char *name;
	int64_t period;
	timer_t timer;
	int64_t start;
	unsigned long received, overruns;
} periodic[] = {
	{ .name = "timers-every-3-ms", .period = 3 * MS },
	{ .name = "timers-every-7-ms", .period = 7 * MS },
	{ .name = "timers-every-20-ms", .period = 20 * MS },
	{ .name = "timers-every-111-ms", .period = 111 * MS },
};

enum { TIMERS = sizeof(periodic) / sizeof(*periodic) };

static void received(int signal, siginfo_t *info, void *data)
{
	struct periodic *timer = info->si_value.sival_ptr;

	(void)signal;
	(void)data;
	__sync_fetch_and_add(&timer->received, 1);
	__sync_fetch_and_add(&timer->overruns, info->si_overrun);
}

/*
 * Without timers of high resolution a kernel makes periods no shorter than its tick; it may get them while this runs, once it
 * has measured its TSC. A period that is possible now stays so.
 */
static int64_t possible(int64_t period)
{
	struct timespec resolution;
	int64_t least;

	CHECK(clock_getres(CLOCK_MONOTONIC, &resolution) == 0);
	least = resolution.tv_sec * 1000 * MS + resolution.tv_nsec;
	return period < least ? least : period;
}

static void start_timers(void)
{
	for (int i = 0; i < TIMERS; i++) {
		struct periodic *timer = &periodic[i];
		struct sigevent event = { .sigev_notify = SIGEV_SIGNAL,
					  .sigev_signo = SIGRTMIN + i,
					  .sigev_value.sival_ptr = timer };
		struct itimerspec often;

		timer->period = possible(timer->period);
		often = (struct itimerspec){ span(timer->period), span(timer->period) };
		handle(SIGRTMIN + i, received);
		CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer->timer) == 0);
		timer->start = now(CLOCK_MONOTONIC);
		CHECK(timer_settime(timer->timer, 0, &often, NULL) == 0);
	}
}

static int64_t came(const struct periodic *timer)
{
	return __atomic_load_n(&timer->received, __ATOMIC_SEQ_CST) + __atomic_load_n(&timer->overruns, __ATOMIC_SEQ_CST);
}

/* What is due and what came: one may be on its way at either end; on a busy host many may be late. What is lost never comes. */
static void judge_timers(void)
{
	for (int i = 0; i < TIMERS; i++) {
		struct periodic *timer = &periodic[i];
		struct itimerspec off = { 0 };
		int64_t begin = now(CLOCK_MONOTONIC), time, least, most, all;

		do {
			time = now(CLOCK_MONOTONIC);
			least = (time - timer->start) / timer->period - 1;
		} while (came(timer) < least && time - begin < PATIENCE);
		CHECK(timer_settime(timer->timer, 0, &off, NULL) == 0);
		most = (now(CLOCK_MONOTONIC) - timer->start) / timer->period + 1;
		all = came(timer);
		verdict(all >= least && all <= most, timer->name, "%ld came, %ld to %ld due, %lu of them overruns", all,
			least, most, timer->overruns);
	}
}

static void block(int how)
{
	sigset_t set;

	sigemptyset(&set);
	for (int i = 0; i < TIMERS; i++)
		sigaddset(&set, SIGRTMIN + i);
	CHECK(sigprocmask(how, &set, NULL) == 0);
}

/* The clocks do not go back, nor apart. */
static bool clocks_agree(int64_t *real, int64_t *monotonic)
{
	int64_t next_monotonic = now(CLOCK_MONOTONIC), next_real = now(CLOCK_REALTIME);
	int64_t apart = (next_real - *real) - (next_monotonic - *monotonic);
	bool good = next_monotonic >= *monotonic && apart > -1000 * MS && apart < 1000 * MS;

	*real = next_real;
	*monotonic = next_monotonic;
	return good;
}

int main(int argc, char **argv)
{
	const int64_t lengths[] = { 1, 50000, MS, 4 * MS, 9 * MS, 30 * MS };
	int64_t end, real, monotonic;
	unsigned long wrong = 0, rounds = 0;
	sigset_t set;

	CHECK(argc == 2);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGALRM);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
	real = now(CLOCK_REALTIME);
	monotonic = now(CLOCK_MONOTONIC);
	end = monotonic + atoi(argv[1]) * 1000 * MS;
	start_timers();
	while (now(CLOCK_MONOTONIC) < end) {
		/* A sleep that a signal ends is not one to be judged; what comes meanwhile is counted as overruns. */
		block(SIG_BLOCK);
		once(&ways[rounds % WAYS], lengths[rounds / WAYS % (sizeof(lengths) / sizeof(*lengths))]);
		block(SIG_UNBLOCK);
		wrong += !clocks_agree(&real, &monotonic);
		rounds++;
	}
	judge_timers();
	for (int i = 0; i < WAYS; i++) {
		char name[64];

		snprintf(name, sizeof(name), "timers-%s", ways[i].name);
		verdict(ways[i].count > 0 && ways[i].early == 0 && ways[i].late == 0, name,
			"%lu waits, %lu early, %lu lost, the latest by %ld us", ways[i].count, ways[i].early,
			ways[i].late, ways[i].latest / 1000);
	}
	verdict(wrong == 0, "timers-clocks", "%lu of %lu times apart", wrong, rounds);
	return failed;
}
