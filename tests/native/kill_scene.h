/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_scene.h - the scene of a kill point: a small pool with two members that survive (a and b, in
 * the checking process), work of their own, and a victim in a child process.
 *
 * Each message is a number that contains its publisher. Whatever happens to the victim,
 * scene_check() checks: all messages of other members come out once and in order; the victim's come
 * out all or not at all; no buffer and no member slot is lost; the pool can be used like a new one
 * afterwards.
 */
#ifndef KILL_SCENE_H
#define KILL_SCENE_H

#include <sys/types.h>

#include "audit.h"
#include "blocking.h"
#include "chain.h"
#include "member.h"
#include "opening.h"
#include "queue.h"
#include "token.h"
#include "wait.h"

#define CAPACITY 64u
#define RING 16u
#define GROWING 1024u /* entries of a subject queue whose memory is reserved on demand */
#define SLOTS 12u     /* queue slots, those of lanes included */
#define PART (ALF_PART_MIN - ALF_MARGIN) /* positions until it must grow */
#define BULK 8u
#define CACHE 16u
#define MEMBERS 6u
#define PENDING INT32_MIN

/* Numbers of messages by publisher and queue; each counts up from there. */
#define FROM_OTHERS 1000u /* b, into the subject queue, before the victim runs */
#define FROM_VICTIM 2000u
#define FROM_LATER 3000u  /* a, into the subject queue, with the victim suspended or dead */
#define FROM_ASIDE 4000u  /* b, into the other queue */
#define FROM_FULLER 5000u /* the victim, in place of the messages it got */
#define FROM_BESIDE 900u  /* a companion, into the subject queue */
#define NUMBERS 6000u

#define INFLATED 1000000u /* buffers */

/* What the operation does to messages; used by the check. */
enum kind {
	NEITHER, /* nothing: all that was published comes out */
	PUTS,    /* puts n of the victim's, all or none of which come out */
	GETS,    /* takes up to n, which are lost with it */
	FREES,   /* frees n that it had got */
	MOVES    /* puts n that it had got from the subject queue into the other one */
};

struct scene;

struct operation {
	char name[48];
	enum kind kind;
	uint32_t n;
	uint32_t flags; /* of the subject queue, and its on_death */
	struct queue_on_death on_death;
	uint32_t prealloc; /* of CAPACITY; the slab can grow by the rest */
	uint32_t chained; /* buffers of each message in the subject queue and of the victim's own */
	int trims;        /* nonzero: extents are smaller and made of whole pages */
	uint32_t turned;  /* messages that have passed the subject queue before */
	uint32_t filled;  /* messages in it */
	uint32_t lost;    /* the first of them, owned by a dead member when the victim runs */
	int leaves;       /* nonzero: recover() may leave something for want of room */
	uint32_t lanes;   /* of the queue that the victim creates */
	uint32_t detaches;               /* members that detach in it, and so are not dead */
	void (*before)(struct scene *);  /* called by the survivors */
	void (*prepare)(struct scene *); /* called by the victim, as a member if it has a v */
	int (*run)(struct scene *);      /* the operation that is killed */
	/* Called after the usual check, when the queues have been drained. */
	void (*check)(struct scene *);
	int unaudited;  /* nonzero: no audit at the kill point: another pool is being created */
	int unattached; /* nonzero: the victim is no member when it begins */
	/* The operation in which a companion is suspended, NULL for none. */
	int (*beside)(struct scene *);
};

/* What the victim reports to the checking process, in shared memory. */
struct report {
	int result; /* of the operation, PENDING before */
	uint32_t got;
	uint32_t number[CAPACITY];
};

struct scene {
	const struct operation *operation;
	struct qmempool pool;
	struct qmempool *of; /* its size class in which the operation works: scene_sizes */
	int fd;
	char *base;
	size_t size;
	struct token token; /* of the process token_of; a child takes its own */
	pid_t token_of;
	struct member *a, *b, *v;
	uint32_t subject, other, letter;
	uint64_t hand_a[1], hand_b[2];
	uint64_t owned[CAPACITY]; /* the victim's */
	uint32_t owned_n, marked;
	int opened; /* number of the victim's opening, if it uses opening.h */
	uint64_t key;
	char data[BULK * 64];
	struct report *report;
	int companion_died;
	uint32_t later, aside; /* messages published there so far */
	uint32_t taken;        /* messages of the stream, in the order in which they came */
	struct {
		uint32_t number;
		uint32_t queue;
		bool again; /* its redelivered count is not 0 */
	} stream[NUMBERS];
	const struct alf_ring *ring; /* of the subject queue */
	struct segment made;         /* another segment, which the victim creates */
};

extern struct scene scene;

/* True if the pool has a smaller size class too. Its only buffers are b's, so that all others come
 * from a larger class. */
extern bool scene_sizes;
#define SMALLER 2u                             /* buffers of the smaller class */
extern void (*scene_failed)(const char *what); /* called with the present kill point */
#define DEMAND(condition) ((condition) ? (void)0 : scene_failed(#condition))

/* What all slots except the survivors' have counted, and how many of their members have died. */
struct counted {
	int64_t counter[COUNTERS];
	int64_t deaths, lives;
};
void scene_count(struct counted *out);

/* Creates the pool, the survivors and their work for the operation, from the beginning. */
void scene_make(const struct operation *operation);
void scene_discard(void);

/* Makes an audit, which must be exact at every moment. */
void scene_audit(void);

/* The survivors work on every queue and on the pool, as far as they get. */
void scene_work(void);

/* The survivors get all that is in the queues, into the stream. */
void scene_drain(void);

/* Recovers once, with a companion suspended. */
void scene_recover(void);

/* Checks that the victim's counters are exact, except for the operation that was interrupted.
 * before has the counts when the operation began. whole has those of a complete operation; NULL if
 * other members affected it. */
void scene_check_counters(const struct counted *before, const struct counted *whole);

/* Recovers and checks. exact is nonzero if no member has worked since the victim began: then it
 * is known what the victim can have taken. */
void scene_check(int exact);

/* The building blocks of operations. */
void scene_publish(struct member *m, uint32_t queue, uint32_t first, uint32_t n);
void scene_get(struct member *m, uint32_t queue, uint32_t n); /* into owned */
/* Allocates a message: a chain if it has several buffers. Each has the number. 0, or a code. */
int scene_compose(struct member *m, uint32_t number, uint32_t buffers, uint64_t *handle);
const struct alf_ring *scene_ring(uint32_t queue);
uint32_t *scene_message(uint64_t handle);
struct member *scene_block(struct member *m); /* m's block of the operation's class */
uint32_t scene_cached(struct member *m);      /* buffers in its cache of that class */
struct member *scene_attach(void);
uint64_t scene_token(void); /* of this process */
/* Raises what the member has counted so far that a count added twice is noticed. */
void scene_inflate(struct member *m);
/* True if nothing but itself creates or has created the queue in a slot, or the queue whose lane it
 * is. */
bool scene_settled(uint32_t number);
/* Runs it as a child process and waits for its end. */
void scene_child(void (*run)(struct scene *));

/* Set-up and detaching of the companion. */
void scene_companion_prepare(struct scene *s);
void scene_companion_leave(struct scene *s);

extern const struct operation *operations(uint32_t *n);

#endif
