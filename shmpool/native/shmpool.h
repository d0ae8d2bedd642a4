/* SPDX-License-Identifier: Apache-2.0
 *
 * shmpool.h - all that Python can call. This text is the cffi declaration as it stands (build.py
 * leaves out the lines that begin with #), so every declaration stands once.
 *
 * Results: 0 or a count, or -errno. A function with wait in its name may sleep and is called with
 * the interpreter's lock released, between opening_begin() and opening_end() (opening.h); deadlines
 * are CLOCK_MONOTONIC in ns, INT64_MAX for never, 0 for one attempt.
 *
 * A pool is a number that shmpool_open() gave, | serial 16 | slot 6 |, so that one that was closed
 * does not name its successor; every number is checked: a wrong one is an error and never a crash.
 * Short calls take one 64-bit key, which the caller puts together:
 *
 *     | slot 6 | queue 10 | serial 16 | 0 1 | generation 7 | index 24 |
 *
 * A buffer in hand is a handle | generation 32 | index 32 |; functions that take handles take the pool and the
 * queue from the key. Every thread is a member of its own, from its first call on.
 *
 * A call without wait in its name never asks who is dead, nor looks at every buffer: after -EBUSY
 * and -EINPROGRESS the same call with wait in its name and deadline 0 does, and may succeed. One
 * that waits gives -EINTR after a signal and now and then: run the handlers and call it again.
 */
#ifndef SHMPOOL_H
#define SHMPOOL_H
#include <stddef.h>
#include <stdint.h>

#define SHMPOOL_DEFAULT INT64_MIN

/* SHMPOOL_DEFAULT leaves cache_size, bulk, refill_multiplier, members and queues to the pool. What
 * follows them is filled in. */
struct shmpool_geometry {
	int64_t buffer_size;
	int64_t capacity;
	int64_t prealloc;
	int64_t cache_size;
	int64_t bulk;
	int64_t refill_multiplier;
	int64_t headroom;
	int64_t members;
	int64_t queues;
	uint64_t extent_buffers;
	uint64_t size;
	uint64_t data_offset;
	uint64_t stride;
	uint64_t headers_offset;
};

struct shmpool_queue_info {
	char name[64];
	uint32_t capacity;
	uint32_t single_producer;
	uint32_t single_consumer;
	uint32_t count;
	uint32_t producer; /* number + 1 of the single producer's member, 0 for none */
	uint32_t consumer;
	uint32_t on_death;
	uint32_t dead_letter; /* the queue's number, 0 for none */
	uint32_t max_redeliveries;
	uint64_t enqueued; /* positions reserved, and claimed, so far */
	uint64_t dequeued;
	uint64_t refused; /* buffers that it had no room for, or that no buffer was free for */
	uint64_t dropped; /* buffers that were freed because their consumer died */
};

struct shmpool_stats {
	uint64_t created;
	uint64_t free;
	uint64_t estimated; /* nonzero: free is one, from samples of the shared queue */
	uint64_t cached;
	uint64_t queued;
	uint64_t members;
	uint64_t deaths;
	uint64_t refused; /* of all queues */
	uint64_t dropped;
	uint64_t counters[14];
};

struct shmpool_member_info {
	uint64_t attached_ns;
	uint64_t token; /* names its process's opening of the pool, and no other: token.h */
	uint32_t number;
	uint32_t pid; /* in its own PID namespace, and so tid */
	uint32_t tid;
	uint32_t start;         /* of the process: clock ticks after boot, 0 if not known */
	uint32_t pid_namespace; /* inode number, 0 if not known */
	uint32_t cached;
	uint64_t held;      /* buffers in hand, its local cache not counted */
	uint32_t operation; /* 1 in the middle of an enqueue, 2 of a dequeue, else 0 */
	uint32_t dead;      /* 1 once that is known and not yet put right */
	uint64_t counters[14];
};

struct shmpool_held {
	uint64_t buffers;
	uint64_t
		oldest_ns; /* CLOCK_MONOTONIC, to some ms, when the first of them was allocated or got */
};

struct shmpool_audit {
	uint64_t total;
	uint64_t free;
	uint64_t cached;
	uint64_t unaccounted;
	uint64_t doubled;
	/* Where shmpool_audit_wait() goes on: zeroed to begin. */
	uint64_t at;
	uint64_t end;
	uint32_t stage;
	uint32_t attempt;
	uint32_t looks;
	uint32_t pendings;
	uint32_t pending[256];
};

struct shmpool_recovery {
	uint64_t members; /* dead ones whose slots are free now */
	uint64_t buffers; /* taken from the dead: freed, requeued and dead-lettered */
	uint64_t requeued;
	uint64_t dead_lettered;
	uint64_t
		postponed; /* dead ones of whom something waits for a stopped process, or for room */
	uint64_t unknown;  /* members whose tokens could not be asked about now */
};

/* The segment. */
int shmpool_plan(struct shmpool_geometry *g, char *why, size_t why_size);
int shmpool_create_wait(void *base, int fd, struct shmpool_geometry *g, char *why, size_t why_size);
int shmpool_check(void *base, uint64_t size, int fd, struct shmpool_geometry *g, char *why,
		  size_t why_size);
/* path is what the file was opened by, "" for one that has none; NULL opens the pool to read it
 * only: without a token, and every call that would change it is -EROFS. made is nonzero for who has
 * just made it. */
int shmpool_open(void *base, uint64_t size, int fd, const char *path, int made);
/* What an open pool was made with: this process's own copy, which is checked. */
int shmpool_geometry(int pool, struct shmpool_geometry *g);
int shmpool_close_wait(int pool);
/* Whoever has made the pool has closed it: read from a header that shmpool_check() has accepted. */
int shmpool_left(const void *header);
/* Says so: before the end of an opening; or, in a file whose opening was dropped, at the end of the
 * process. */
void shmpool_leave(int pool);
void shmpool_leave_file(int fd);
/* Keeps everybody from removing a file that is being made, as a token does, until
 * shmpool_let_go(*page). */
int shmpool_hold(int fd, const char *path, void **page);
void shmpool_let_go(void *page);

/* 0; -EBADMSG if the segment was truncated while it was mapped: guard.h. */
int shmpool_intact(int pool);

/* Queues. flags: 1 single producer, 2 single consumer. Give the queue's number. */
int shmpool_queue_create(int pool, const char *name, uint32_t capacity, uint32_t flags,
			 uint32_t on_death, uint32_t dead_letter, uint32_t max_redeliveries);
int shmpool_queue_find(int pool, const char *name);
int shmpool_queue_info(int pool, int queue, struct shmpool_queue_info *info);
int64_t shmpool_queue_count(uint64_t key);
int64_t shmpool_queue_empty(uint64_t key);
int shmpool_queue_release(int pool, int queue);

/* Counts n buffers that were to go into a queue as refused. */
int shmpool_refused(int pool, int queue, uint64_t n);

/* Where a buffer's payload lies in its room. */
struct shmpool_extent {
	uint32_t headroom;
	uint32_t length;
};

/* One buffer. */
struct shmpool_taken {
	uint64_t handle;
	struct shmpool_extent extent;
};
/* 1, or a code. */
int64_t shmpool_get_wait(uint64_t key, struct shmpool_taken *out, int64_t deadline);
enum shmpool_field {
	SHMPOOL_MARK,
	SHMPOOL_FLOW_HASH,
	SHMPOOL_TIMESTAMP,
	SHMPOOL_QUEUE,
	SHMPOOL_REDELIVERED,
	SHMPOOL_GENERATION,
	SHMPOOL_ORIGIN
};
int64_t shmpool_field(uint64_t key, int field);
int64_t shmpool_set_field(uint64_t key, int field, uint64_t value);

/* Copy in. */
struct shmpool_slice {
	const char *data;
	size_t length;
};
/* -EAGAIN if no free buffer is at hand: who waits looks for one everywhere. */
int64_t shmpool_send(uint64_t key, const char *data, size_t length);
/* How many were sent: fewer than n when the deadline came in between. */
int64_t shmpool_send_many_wait(uint64_t key, const struct shmpool_slice *slices, size_t n,
			       int64_t deadline);

/* Bulks. A new buffer has length 0, the pool's head room, and its user fields 0. */
/* -EAGAIN if there are not n in the caller's local cache. */
int64_t shmpool_alloc_cached(uint64_t key, uint64_t *handles, size_t n);
int64_t shmpool_alloc_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline);
int64_t shmpool_free_many(uint64_t key, const uint64_t *handles, size_t n);
int64_t shmpool_put_many(uint64_t key, const uint64_t *handles, size_t n);
int64_t shmpool_put_many_wait(uint64_t key, const uint64_t *handles, size_t n, int64_t deadline);
int64_t shmpool_get_many(uint64_t key, uint64_t *handles, size_t n);
int64_t shmpool_get_many_wait(uint64_t key, uint64_t *handles, size_t n, int64_t deadline);
int64_t shmpool_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset, size_t width,
		       char *out);
int64_t shmpool_set_column(uint64_t key, const uint64_t *handles, size_t n, size_t offset,
			   size_t width, const char *from, size_t step);
int64_t shmpool_lengths(uint64_t key, const uint64_t *handles, size_t n, uint32_t *out);
int64_t shmpool_set_lengths(uint64_t key, const uint64_t *handles, size_t n, const uint32_t *from,
			    size_t step);

/* Buffers whose consumer failed: requeue.h. What finds no room is counted as refused. */
int64_t shmpool_requeue_wait(uint64_t key, uint64_t handle, int64_t deadline);
/* 0; a code; or 1: as neither queue has room for it, *out is the caller's now. */
int64_t shmpool_move(uint64_t key, uint32_t to, int reset, struct shmpool_taken *out);

/* A buffer in a queue, of which the caller sees a copy: letters.c. */
struct shmpool_peek {
	uint64_t position; /* in the queue, from the first ever put on */
	uint64_t timestamp;
	uint32_t index;
	uint32_t length;
	uint32_t mark;
	uint32_t flow_hash;
	uint32_t redelivered;
	uint32_t origin; /* the queue from which it became a dead letter, 0 for none */
};
/* Copies the oldest buffer of a queue at position or behind, and up to size of its bytes, without
 * taking it. 1; 0 there is none now; -EBADF, -ENOENT, -EBADMSG. */
int shmpool_peek(int pool, int queue, uint64_t position, struct shmpool_peek *out, char *bytes,
		 size_t size);

/* Putting right what the dead left: recover.h. */
int shmpool_recover_wait(int pool, struct shmpool_recovery *out);
/* What a member that waits does now and then: asks whether somebody is dead, and recovers. 0, or
 * -errno. */
int shmpool_tend_wait(uint64_t key);
/* 0 alive, 1 suspended, 2 dead, 3 not known now; -ENOENT no such member. */
int shmpool_fate(int pool, uint32_t member);

/* Bytes given back to the kernel. */
int64_t shmpool_trim_wait(int pool, uint64_t keep);

/* Looking. */
int shmpool_stats(int pool, struct shmpool_stats *out);
int shmpool_members(int pool, struct shmpool_member_info *out, size_t n);
/* How many members are dead and not recovered, and one more if abandoned buffers wait for a
 * recoverer. */
int shmpool_dead(int pool);
/* A step of an audit, of about budget_ns of processor time: 1 if there is more to do, 0 if it is
 * complete. met has a bit for each buffer of the capacity. -EBADMSG if the file has not the memory
 * that it must have for the buffers that it says exist. */
int shmpool_audit_wait(int pool, struct shmpool_audit *out, struct shmpool_held *held,
		       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met,
		       size_t met_n, int64_t budget_ns);

#endif
