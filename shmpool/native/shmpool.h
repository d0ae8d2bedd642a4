/* SPDX-License-Identifier: Apache-2.0
 *
 * shmpool.h - what Python calls through cffi. This text is the cffi declaration as it stands
 * (build.py leaves out the lines that begin with #), so every declaration stands once. What C code
 * calls directly is in binding.h.
 *
 * Results: 0 or a count, or -errno. A function with wait in its name may sleep and is called with
 * the interpreter's lock released, between opening_begin() and opening_end() (opening.h); deadlines
 * are CLOCK_MONOTONIC in ns, INT64_MAX for never, 0 for one attempt.
 *
 * A pool is a number that shmpool_open() returned, | serial 14 | slot 8 |, so that the number of a
 * closed pool does not name its successor. Every number is checked: a wrong one is an error and
 * never a crash. Every thread is a member of its own, from its first call on.
 */
#ifndef SHMPOOL_H
#define SHMPOOL_H
#include <stddef.h>
#include <stdint.h>

#define SHMPOOL_DEFAULT INT64_MIN

/* The options of a pool, in the order of enum shmpool_option. SHMPOOL_DEFAULT stands for the
 * default of an option. The fields after the options are computed by shmpool_plan(), except for
 * those of further classes. */
struct shmpool_geometry {
	int64_t buffer_size;
	int64_t capacity;
	int64_t prealloc;
	int64_t bulk;
	int64_t refill_multiplier;
	int64_t cache_size;
	int64_t headroom;
	int64_t members;
	int64_t queues;
	int64_t free_rings;
	uint64_t extent_buffers;
	uint64_t size;
	uint64_t data_offset;
	uint64_t stride;
	uint64_t headers_offset;
	int64_t huge; /* enum shmpool_huge */
	/* Further size classes, in the order of their buffer sizes; 1 to 8 with the first one. The
	 * last two fields are computed: the index of the class's first buffer, and where its data
	 * begins. A class's data has buffer_size bytes from one buffer to the next. */
	int64_t classes;
	struct shmpool_class {
		int64_t buffer_size;
		int64_t capacity;
		int64_t prealloc;
		int64_t cache_size;
		uint64_t extent_buffers;
		uint64_t first;
		uint64_t data_offset;
	} more[7];
};

/* Whether a pool is made of huge pages. AUTO: where the kernel gives some. ALWAYS: a creation
 * that gets none fails. Once the pool exists, ALWAYS is AUTO. */
enum shmpool_huge { SHMPOOL_HUGE_NEVER, SHMPOOL_HUGE_AUTO, SHMPOOL_HUGE_ALWAYS };

enum shmpool_option {
	SHMPOOL_BUFFER_SIZE,
	SHMPOOL_CAPACITY,
	SHMPOOL_PREALLOC,
	SHMPOOL_BULK,
	SHMPOOL_REFILL_MULTIPLIER,
	SHMPOOL_CACHE_SIZE,
	SHMPOOL_HEADROOM,
	SHMPOOL_MEMBERS,
	SHMPOOL_QUEUES,
	SHMPOOL_FREE_RINGS,
	SHMPOOL_OPTIONS
};

/* The values that an option can have, and its default: SHMPOOL_DEFAULT if it has none, or one that
 * depends on other options. */
struct shmpool_range {
	int64_t least;
	int64_t most;
	int64_t standard;
};

/* What is wrong with a set of options, or with a segment. */
enum shmpool_fault {
	SHMPOOL_FAULT_NONE,
	SHMPOOL_FAULT_OPTION,  /* one of the geometry, named by option and size_class */
	SHMPOOL_FAULT_CLASSES, /* classes: their number, or the sum of their capacities */
	SHMPOOL_FAULT_SHORT,   /* value: bytes, fewer than a header has */
	SHMPOOL_FAULT_MAGIC,
	SHMPOOL_FAULT_VERSION,
	SHMPOOL_FAULT_READY, /* value: the word that says that the segment is complete */
	SHMPOOL_FAULT_LAYOUT,
	SHMPOOL_FAULT_SIZE, /* value: bytes of the file; expected: those that its header says */
	SHMPOOL_FAULT_FILE, /* fstat() fails */
	SHMPOOL_FAULT_OFFSETS,
	SHMPOOL_FAULT_CHECKSUM,
	SHMPOOL_FAULT_RING /* value: queue slot of a free ring or side ring */
};
struct shmpool_refusal {
	uint32_t fault;
	uint32_t option;
	uint32_t size_class; /* of the option */
	uint32_t classes;
	int64_t least; /* the values that the option can have beside the others */
	int64_t most;
	uint64_t value;
	uint64_t expected;
};

struct shmpool_queue_info {
	char name[64];
	uint32_t capacity;
	uint32_t single_producer;
	uint32_t single_consumer;
	uint32_t on_demand; /* its ring gets memory as it fills */
	uint32_t count;
	uint32_t producer; /* number + 1 of the single producer's member, 0 for none */
	uint32_t consumer;
	uint32_t on_death;
	uint32_t dead_letter; /* the queue's number, 0 for none */
	uint32_t max_redeliveries;
	uint64_t enqueued; /* positions reserved, and claimed, so far */
	uint64_t dequeued;
	uint64_t refused; /* puts and sends without room or without a free buffer */
	uint64_t dropped; /* buffers freed because their consumer died */
	uint32_t topic;   /* 1: a topic, whose messages each subscriber gets */
	uint32_t laned;   /* of a lane: the number of its queue; of others 0 */
	uint32_t lanes;   /* of a queue with lanes: how many */
	uint32_t active;  /* of these, in use */
	uint32_t grows;   /* 1: it began with one */
	uint32_t bulk;    /* the most that one put or get moves */
	uint64_t lost;    /* compare-and-swaps that producers lost, about */
	uint32_t waiting; /* members asleep until it has room */
};

struct shmpool_subscriber_info {
	uint32_t number; /* its place in the topic, from 0 */
	uint32_t pid;    /* in its own PID namespace */
	uint32_t policy;
	uint32_t closing; /* 1: it gets no more, and holds some messages */
	uint32_t dead;    /* 1: its process is dead, and what it held is not recovered */
	uint32_t held;    /* messages that it has got and not let go */
	uint64_t lag;     /* messages that it has not got yet */
	uint64_t gaps;    /* that it has lost */
	char name[16];    /* of the thread that has subscribed */
};

struct shmpool_class_stats {
	uint64_t created;
	uint64_t free;
	uint64_t cached;
};

struct shmpool_stats {
	uint64_t created;
	uint64_t free;
	uint64_t estimated; /* nonzero: free comes from samples of the free ring */
	uint64_t cached;
	uint64_t queued;
	uint64_t chained; /* segments of chains, wherever their heads are */
	uint64_t members;
	uint64_t deaths;
	uint64_t refused; /* of all queues */
	uint64_t dropped;
	uint64_t counters[14];
	struct shmpool_class_stats classes[8];
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
	uint64_t held;      /* buffers it owns, without its local cache */
	uint32_t operation; /* 1 in the middle of an enqueue, 2 of a dequeue, else 0 */
	uint32_t dead;      /* 1 if it was found dead and is not recovered completely */
	uint64_t counters[14];
};

struct shmpool_held {
	uint64_t buffers;
	uint64_t oldest_ns; /* when the first of them was taken: CLOCK_MONOTONIC, to some ms */
};

struct shmpool_audit {
	uint64_t total;
	uint64_t free;
	uint64_t cached;
	uint64_t chained;
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
	uint64_t members; /* dead members whose slots are free now */
	uint64_t buffers; /* taken from dead members: freed, requeued and dead-lettered */
	uint64_t requeued;
	uint64_t dead_lettered;
	uint64_t postponed; /* dead ones that wait for a suspended process, or for room */
	/* Members whose tokens could not be queried now, and dead ones whose sockets live. */
	uint64_t unknown;
	uint64_t subscribers; /* of topics: dead ones whose places are free now */
};

/* The segment. */
struct shmpool_range shmpool_range(int option);
/* Fills in the defaults of g, checks each option, and computes the rest. 0, or -EINVAL and *why. */
int shmpool_plan(struct shmpool_geometry *g, struct shmpool_refusal *why);
/* Whether the machine makes huge pages: memory_huge_pages(). */
int shmpool_huge_pages(void);
/* Before shmpool_create_wait(): takes the pool's memory from a NUMA node, or with -1 by turns from
 * all. 0; -EINVAL, -EPERM, -ENOSYS, -ENOMEM. */
int shmpool_node(void *base, uint64_t size, int64_t node);
/* Makes an empty pool in a new file. Returns what segment_reserve() does; with SHMPOOL_HUGE_ALWAYS
 * -EOPNOTSUPP if the kernel makes no huge pages, -EAGAIN if it has none now. */
int shmpool_create_wait(void *base, int fd, struct shmpool_geometry *g);
/* Checks a segment of size bytes before any of it is used; only its header unless whole, that is if
 * base is a mapping of all of it. 0; -EBADMSG and *why; -EAGAIN if its creator has not finished. */
int shmpool_check(void *base, uint64_t size, int fd, int whole, struct shmpool_refusal *why);
/* 0 if this process can open one more pool, or -EXFULL. */
int shmpool_room(void);
/* Reads the options of an open pool: this process's copy, which was checked. */
int shmpool_geometry(int pool, struct shmpool_geometry *g);
/* Nonzero if the process that created the pool has closed it. header was accepted by
 * shmpool_check(). */
int shmpool_left(const void *header);
/* Marks a file so at the end of the process, when its pool is not open any more. */
void shmpool_leave_file(int fd);

/* Maps the memory of the pool in this process, a step of about a millisecond from *progress on, 0
 * at first: 1 if there is more, 0 when all that exists is mapped. From then on this process also
 * maps what it adds to the pool. -EROFS for an opening that only reads; -ENOMEM; -EBADMSG; -EIO; or
 * an error of token_take(). */
int shmpool_populate_wait(int pool, uint64_t *progress);
/* Locks the pool's mapping in this process, as a whole: pages that exist or are added stay in
 * memory once they are mapped. 0; -EPERM, -ENOMEM, -EAGAIN, -ENOSYS. */
int shmpool_lock(int pool);
/* Puts the pool's memory into core files of this process. 0, or -EINVAL. */
int shmpool_dump(int pool);

/* 0; -EBADMSG if the segment was truncated while it was mapped: guard.h. */
int shmpool_intact(int pool);

/* Queues: these return the queue's number. A creation waits, for some seconds at most, while what
 * it lacks may be released by other members that create queues. flags: 1 single producer, 2 single
 * consumer, 4 memory on demand, 8 a topic, 16 with n << 16 a queue with n lanes, 16 + 64 one that
 * begins with one lane. */
int shmpool_queue_create_wait(int pool, const char *name, uint32_t capacity, uint32_t flags,
			      uint32_t on_death, uint32_t dead_letter, uint32_t max_redeliveries);
int shmpool_queue_find(int pool, const char *name);
int shmpool_queue_info(int pool, int queue, struct shmpool_queue_info *info);
int shmpool_queue_release(int pool, int queue);

/* The subscribers of a topic, at most n. Asks the kernel about asks of them whether they are alive;
 * others are dead once a recoverer has found it. Returns how many there are. */
int shmpool_subscribers(int pool, int queue, struct shmpool_subscriber_info *out, size_t n,
			size_t asks);
/* Recovers dead subscribers of a topic. 1 if one is free then; 0 if live processes have all. Waits,
 * for some seconds at most, while one is still a dead process's. Or -errno. */
int shmpool_vacancy_wait(int pool, int topic);
/* topic_room(), INT_MAX at most. Or -errno. */
int shmpool_topic_room(int pool, int topic);

/* Ends a queue for all processes: queue_shutdown(). 0, or -EBUSY if a live member is its single
 * producer. */
int shmpool_queue_shutdown_wait(int pool, int queue);
/* 1 if it was ended, else 0. */
int shmpool_queue_ended(int pool, int queue);

/* Waits until a queue has no unfinished messages (producers: 0) or no producers (1). Returns how
 * many it has; -EINTR after a signal and at the end of each slice: call it again. */
int64_t shmpool_unfinished_wait(int pool, int queue, int producers, int64_t deadline);

/* The number of the lane into which the calling thread puts, or of the queue if it has none. */
int shmpool_queue_lane(int pool, int queue);
/* The numbers of a queue's lanes in use, at most n, or its own if it has none. How many. */
int shmpool_queue_lanes(int pool, int queue, uint32_t *out, size_t n);

/* Counts n buffers that were to go into a queue as refused. */
int shmpool_refused(int pool, int queue, uint64_t n);

/* A buffer in a queue, of which the caller sees a copy: letters.c. */
struct shmpool_peek {
	uint64_t position; /* in the queue, from the first ever put on */
	uint64_t timestamp;
	uint64_t length; /* of the whole message */
	uint32_t index;
	uint32_t mark;
	uint32_t flow_hash;
	uint32_t redelivered;
	uint32_t origin; /* the queue from which it became a dead letter, 0 for none */
};
/* Copies the oldest buffer of a queue at position or behind, and up to size of its bytes, without
 * taking it. 1; 0 there is none now; -EBADF, -ENOENT, -EBADMSG. */
int shmpool_peek(int pool, int queue, uint64_t position, struct shmpool_peek *out, char *bytes,
		 size_t size);

/* Recovers all members that are dead now: recover.h. 0, or -errno. */
int shmpool_recover_wait(int pool, struct shmpool_recovery *out);
/* Returns 0 alive, 1 suspended, 2 dead, 3 not known now; -ENOENT if there is no such member. */
int shmpool_fate(int pool, uint32_t member);

/* Returns the memory of free buffers, except keep of them, to the kernel. How many bytes. */
int64_t shmpool_trim_wait(int pool, uint64_t keep);

/* The driver that pins memory (pin.h): addresses of its functions, and their context. */
struct shmpool_driver {
	void *context;
	void *push_context;      /* cuCtxPushCurrent */
	void *pop_context;       /* cuCtxPopCurrent */
	void *register_memory;   /* cuMemHostRegister */
	void *unregister_memory; /* cuMemHostUnregister */
};
struct shmpool_pinned {
	uint64_t bytes;  /* of data, registered */
	uint64_t total;  /* bytes of the data of all buffers that exist */
	uint32_t pinned; /* 0: nothing is registered */
	uint32_t behind; /* 1: something could be registered, and is not */
	int32_t error;   /* of the driver, 0 for none */
};
/* Begins to pin the pool in this process, or lets the driver try again what it refused. 0, or
 * -errno. */
int shmpool_pin_wait(int pool, const struct shmpool_driver *driver);
/* Registers a piece of what exists and is not registered. 1 if there may be more; 0; -ENOENT if the
 * pool is not pinned; -errno. */
int shmpool_pin_more_wait(int pool);
int shmpool_unpin_wait(int pool);
int shmpool_pinned(int pool, struct shmpool_pinned *out);

/* What can be waited for: data in a queue, or room in a queue or topic, by its number; a free
 * buffer, by the number of its size class; a message of a subscriber, by its topic's number | its
 * own number << SHMPOOL_SUBSCRIBER_SHIFT. */
enum shmpool_wanted { SHMPOOL_DATA, SHMPOOL_ROOM, SHMPOOL_FREE, SHMPOOL_MESSAGE };
#define SHMPOOL_SUBSCRIBER_SHIFT 16

/* Makes a waker (waker.c): a descriptor that is readable while one of its wants may be had. Returns
 * its number; -EMFILE, -ENOMEM. All its calls return -ESTALE in a forked child. loop: one thread
 * makes all its calls, and calls shmpool_waker_take() (binding.h) when it is readable. */
int shmpool_waker_make(int loop);
/* Returns its descriptor, which the waker owns. */
int shmpool_waker_fd(int waker);
/* Drops its wants and closes its descriptor. */
void shmpool_waker_close(int waker);
/* Waits for n of something. Returns a number for the want, from 1 on; 0 if they may be had now and
 * stay is 0, and then waits for nothing. -EROFS, -EBADF, -EBADMSG, -ENOENT, -ENOMEM; -EAGAIN: no
 * thread can be made. */
int shmpool_waker_want(int waker, int pool, uint32_t index, enum shmpool_wanted what, uint32_t n,
		       int stay);
/* Ends a want. If it has fired, passes the wake-up on to another sleeper. */
void shmpool_waker_drop(int waker, int want);
/* Inspects every want: the descriptor is readable if one may be had, and not otherwise. Returns how
 * many may be had; -EBADF if the program has closed the descriptor. */
int shmpool_waker_refresh(int waker);

/* Figures. */
int shmpool_stats(int pool, struct shmpool_stats *out);
/* Of one size class only. -EINVAL: there is none of that number. */
int shmpool_class_stats(int pool, uint32_t number, struct shmpool_class_stats *out);
int shmpool_members(int pool, struct shmpool_member_info *out, size_t n);
/* Returns how many members are dead and not recovered, plus one if abandoned buffers wait for a
 * recoverer. */
int shmpool_dead_wait(int pool);
/* A step of an audit, of about budget_ns of processor time: 1 if there is more to do, 0 if it is
 * complete. met has a bit for each buffer of the capacity. -EBADMSG if the file lacks memory for
 * the buffers that it says exist. */
int shmpool_audit_wait(int pool, struct shmpool_audit *out, struct shmpool_held *held,
		       size_t held_n, uint64_t *queued, size_t queued_n, uint64_t *met,
		       size_t met_n, int64_t budget_ns);

#endif
