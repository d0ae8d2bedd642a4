/* SPDX-License-Identifier: Apache-2.0
 *
 * wake_ways.c - measures ways in which a producer, who knows nothing but a mapping, can wake a
 * process that waits in epoll_wait(2). ../wakeups.py runs it; the figures decided
 * docs/decisions/0026-waking-an-event-loop.md.
 *
 * One file: eleven ways in a row, and one loop that measures each.
 *
 * A child waits in epoll_wait() as an event loop does. The parent triggers it at random distances,
 * while both are asleep. Prints for each way and round the median time from before the trigger to
 * the return of epoll_wait(), and the median time that the trigger takes the producer, in ns.
 * A way that is refused here says so.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "atomic.h"

#define WAKES 60
#define WORDS 64 /* that the helper with futex_waitv(2) waits for */
#define SIZE 4096

#ifndef IORING_OP_FUTEX_WAIT
#define IORING_OP_FUTEX_WAIT 51
#endif

struct shared {
	uint32_t word[WORDS];
	uint32_t ready, done, failed;
	int64_t sent, arrived;
};

static struct shared *shared;
static int memory, wake_fd, write_fd; /* of the child, and of the producer */
static char path[64];

static int64_t now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ll + t.tv_nsec;
}

static void drain(void)
{
	char bytes[4096];
	if (read(wake_fd, bytes, sizeof(bytes)) < 0)
		abort();
}

/* ---- an eventfd that the producer has: what no other process can be sure of ---- */

static int make_eventfd(void)
{
	wake_fd = write_fd = eventfd(0, EFD_NONBLOCK);
	return wake_fd;
}

static void add_one(void)
{
	uint64_t one = 1;
	if (write(write_fd, &one, sizeof(one)) < 0)
		abort();
}

static int no_more(void)
{
	return 0;
}

/* ---- a helper thread of the waiting process, asleep on a futex ---- */

static void wake_word(void)
{
	add_seq_cst(&shared->word[0], 1); /* pairs with the helper's load */
	syscall(SYS_futex, &shared->word[0], FUTEX_WAKE, 1, NULL, NULL, 0);
}

static void *sleep_on_one(void *unused)
{
	uint32_t seen = 0;
	for (;; seen++) {
		while (load_seq_cst(&shared->word[0]) == seen) /* pairs with wake_word() */
			syscall(SYS_futex, &shared->word[0], FUTEX_WAIT, seen, NULL, NULL, 0);
		add_one();
	}
	return unused;
}

static bool brisk;

static void ask_for_short_slices(void)
{
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
		uint32_t a, b;
	} attr = { .size = 56, .runtime = 100000 };
	if (brisk && syscall(SYS_sched_setattr, 0, &attr, 0))
		perror("sched_setattr");
}

static void *sleep_on_many(void *tell)
{
	ask_for_short_slices();
	static struct futex_waitv waiters[WORDS];
	uint32_t seen = 0;
	for (;; seen++) {
		for (uint32_t i = 0; i < WORDS; i++)
			waiters[i] = (struct futex_waitv) { .val = i ? 0 : seen,
							    .uaddr = (uintptr_t)&shared->word[i],
							    .flags = FUTEX_32 };
		while (load_seq_cst(&shared->word[0]) == seen) /* pairs with wake_word() */
			if (syscall(SYS_futex_waitv, waiters, WORDS, 0, NULL, 0) < 0 &&
			    errno == ENOSYS)
				exit(1);
		((void (*)(void))tell)();
	}
	return NULL;
}

static int start_helper(void *(*run)(void *), void *tell)
{
	pthread_t thread;
	return pthread_create(&thread, NULL, run, tell) ? -1 : 0;
}

static int start_one(void)
{
	return start_helper(sleep_on_one, NULL);
}

static int start_short(void)
{
	brisk = true;
	return start_helper(sleep_on_many, (void *)add_one);
}

static int start_many(void)
{
	return start_helper(sleep_on_many, (void *)add_one);
}

/* ---- the same with an epoll descriptor in place of the eventfd, whose member is always ready and
 * is asked for or not ---- */

static int always;

static void ask(uint32_t events)
{
	struct epoll_event event = { .events = events };
	if (epoll_ctl(wake_fd, EPOLL_CTL_MOD, always, &event))
		abort();
}

static int make_epoll(void)
{
	struct epoll_event none = { .events = 0 };
	wake_fd = epoll_create1(EPOLL_CLOEXEC);
	always = eventfd(1, EFD_NONBLOCK);
	return epoll_ctl(wake_fd, EPOLL_CTL_ADD, always, &none);
}

static void set(void)
{
	ask(EPOLLIN);
}

static void reset(void)
{
	ask(0);
}

static int start_epoll(void)
{
	return start_helper(sleep_on_many, (void *)set);
}

/* ---- io_uring's futex wait: no thread ---- */

static struct ring {
	uint32_t *tail, *array, *head, *made, mask, all;
	struct io_uring_sqe *sqes;
} ring;

static int wait_in_ring(void)
{
	struct io_uring_sqe *sqe = &ring.sqes[*ring.tail & ring.mask];
	memset(sqe, 0, sizeof(*sqe));
	sqe->opcode = IORING_OP_FUTEX_WAIT;
	sqe->fd = FUTEX_32;
	sqe->addr = (uintptr_t)&shared->word[0];
	sqe->off = shared->word[0];
	memcpy((char *)sqe + offsetof(struct io_uring_sqe, addr3),
	       &(uint64_t) { FUTEX_BITSET_MATCH_ANY }, sizeof(uint64_t));
	ring.array[*ring.tail & ring.mask] = *ring.tail & ring.mask;
	store_release(ring.tail, *ring.tail + 1); /* pairs with the kernel */
	return (int)syscall(SYS_io_uring_enter, wake_fd, 1, 0, 0, NULL, 0);
}

static int make_ring(void)
{
	struct io_uring_params p = { 0 };
	wake_fd = (int)syscall(SYS_io_uring_setup, 8, &p);
	if (wake_fd < 0)
		return -1;
	char *sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED,
			wake_fd, IORING_OFF_SQ_RING);
	char *cq = mmap(NULL, p.cq_off.cqes + p.cq_entries * sizeof(struct io_uring_cqe),
			PROT_READ | PROT_WRITE, MAP_SHARED, wake_fd, IORING_OFF_CQ_RING);
	ring.sqes = mmap(NULL, p.sq_entries * sizeof(*ring.sqes), PROT_READ | PROT_WRITE,
			 MAP_SHARED, wake_fd, IORING_OFF_SQES);
	if (sq == MAP_FAILED || cq == MAP_FAILED || ring.sqes == MAP_FAILED)
		return -1;
	ring.tail = (uint32_t *)(sq + p.sq_off.tail);
	ring.mask = *(uint32_t *)(sq + p.sq_off.ring_mask);
	ring.array = (uint32_t *)(sq + p.sq_off.array);
	ring.head = (uint32_t *)(cq + p.cq_off.head);
	ring.made = (uint32_t *)(cq + p.cq_off.tail);
	return wait_in_ring() == 1 ? 0 : -1;
}

static void next_in_ring(void)
{
	store_release(ring.head, load_acquire(ring.made)); /* pairs with the kernel */
	if (wait_in_ring() != 1)
		abort();
}

/* ---- inotify on the segment's file ---- */

static int watch_file(void)
{
	char name[32];
	snprintf(name, sizeof(name), "/proc/self/fd/%d", memory);
	wake_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
	return inotify_add_watch(wake_fd, name, IN_MODIFY | IN_ATTRIB);
}

static void touch(void)
{
	if (futimens(memory, NULL))
		abort();
}

/* ---- a FIFO and a datagram socket, found by name ---- */

static int make_fifo(void)
{
	snprintf(path, sizeof(path), "/dev/shm/wake_ways.%d", getpid());
	if (mkfifo(path, 0600))
		return -1;
	wake_fd = open(path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
	write_fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	return write_fd;
}

static void write_fifo(void)
{
	if (write(write_fd, "", 1) != 1)
		abort();
}

static void open_and_write(void)
{
	write_fd = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC);
	write_fifo();
	close(write_fd);
}

static struct sockaddr_un address = { .sun_family = AF_UNIX };
static socklen_t address_size;

static int make_socket(void)
{
	int n = snprintf(address.sun_path + 1, sizeof(address.sun_path) - 1, "wake_ways.%d",
			 getpid());
	address_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
	wake_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	write_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	return bind(wake_fd, (struct sockaddr *)&address, address_size);
}

static void send_datagram(void)
{
	if (sendto(write_fd, "", 1, 0, (struct sockaddr *)&address, address_size) != 1)
		abort();
}

static void open_and_send(void)
{
	write_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	send_datagram();
	close(write_fd);
}

static const struct way {
	const char *name;
	int (*make)(void);  /* before the fork */
	int (*start)(void); /* in the child */
	void (*trigger)(void);
	void (*clear)(void); /* in the child, after a wake-up */
} ways[] = {
	{ "eventfd", make_eventfd, no_more, add_one, drain },
	{ "helper futex -> eventfd", make_eventfd, start_one, wake_word, drain },
	{ "helper futex_waitv 64 -> eventfd", make_eventfd, start_many, wake_word, drain },
	{ "helper waitv brisk -> eventfd", make_eventfd, start_short, wake_word, drain },
	{ "helper futex_waitv 64 -> epoll", make_epoll, start_epoll, wake_word, reset },
	{ "io_uring futex wait", no_more, make_ring, wake_word, next_in_ring },
	{ "inotify, futimens", no_more, watch_file, touch, drain },
	{ "FIFO kept open", make_fifo, no_more, write_fifo, drain },
	{ "FIFO opened each time", make_fifo, no_more, open_and_write, drain },
	{ "datagram, socket kept", make_socket, no_more, send_datagram, drain },
	{ "datagram, socket made each time", make_socket, no_more, open_and_send, drain },
};
#define WAYS (sizeof(ways) / sizeof(*ways))

static void wait_for_wakes(const struct way *way)
{
	struct epoll_event event = { .events = EPOLLIN };
	int loop = epoll_create1(EPOLL_CLOEXEC);
	bool failed = way->start() < 0 || epoll_ctl(loop, EPOLL_CTL_ADD, wake_fd, &event);
	store_release(&shared->failed, failed); /* pairs with the parent's loads */
	store_release(&shared->ready, 1);       /* pairs with the parent's loads */
	while (!failed) {
		if (epoll_wait(loop, &event, 1, -1) < 1)
			continue;
		shared->arrived = now();
		way->clear();
		add_seq_cst(&shared->done, 1); /* pairs with the parent's loads */
	}
	_exit(0);
}

static int compare(const void *a, const void *b)
{
	int64_t one = *(const int64_t *)a, other = *(const int64_t *)b;
	return (one > other) - (one < other);
}

static int64_t median(int64_t *values)
{
	qsort(values, WAKES, sizeof(*values), compare);
	return values[WAKES / 2];
}

static void rest(long ns)
{
	nanosleep(&(struct timespec) { .tv_nsec = ns }, NULL);
}

static void measure(const struct way *way)
{
	int64_t latency[WAKES], cost[WAKES];
	memset(shared, 0, sizeof(*shared));
	wake_fd = write_fd = -1;
	if (way->make() < 0) {
		printf("%s|unavailable\n", way->name);
		return;
	}
	pid_t child = fork();
	if (child == 0)
		wait_for_wakes(way);
	while (!load_acquire(&shared->ready)) /* pairs with the child's stores */
		rest(100000);
	for (uint32_t i = 0; i < WAKES && !shared->failed; i++) {
		rest(300000 + rand() % 200000);
		shared->sent = now();
		way->trigger();
		cost[i] = now() - shared->sent;
		while (load_acquire(&shared->done) <= i) { /* pairs with the child's addition */
			rest(50000);
			if (waitpid(child, NULL, WNOHANG) == child)
				shared->failed = 1, i = WAKES;
		}
		latency[i < WAKES ? i : 0] = shared->arrived - shared->sent;
	}
	if (shared->failed)
		printf("%s|unavailable\n", way->name);
	else
		printf("%s|%ld|%ld\n", way->name, (long)median(latency), (long)median(cost));
	fflush(stdout);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	if (wake_fd >= 0)
		close(wake_fd);
	if (write_fd >= 0 && write_fd != wake_fd)
		close(write_fd);
	if (path[0])
		unlink(path);
	path[0] = 0;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 5;
	memory = memfd_create("wake_ways", MFD_CLOEXEC);
	if (ftruncate(memory, SIZE))
		return 1;
	shared = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	for (int i = 0; i < rounds; i++)
		for (uint32_t w = 0; w < WAYS; w++)
			measure(&ways[w]);
	return 0;
}
