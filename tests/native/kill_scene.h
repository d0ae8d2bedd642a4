/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_scene.h - what a kill point is set up with and checked against: a small pool with two
 * members that live on (a and b, of the process that checks) and work of their own, and a victim in
 * a child.
 *
 * Every message is a number that says who published it. Whatever happens to the victim,
 * scene_check() demands that all the others' messages come out once and in order, the victim's own
 * all or not at all, that no buffer and no member slot is lost, and that the pool is as good as new
 * afterwards.
 */
#ifndef KILL_SCENE_H
#define KILL_SCENE_H

#include <sys/types.h>

#include "audit.h"
#include "blocking.h"
#include "member.h"
#include "opening.h"
#include "queue.h"
#include "token.h"
#include "wait.h"

#define CAPACITY 64u
#define RING 16u
#define BULK 8u
#define CACHE 16u
#define MEMBERS 6u
#define PENDING INT32_MIN

/* Numbers of messages, by who published them and where; each counts on from there. */
#define FROM_OTHERS 1000u /* b, into the subject queue, before the victim runs */
#define FROM_VICTIM 2000u
#define FROM_LATER 3000u /* a, into the subject queue, with the victim stopped or dead */
#define FROM_ASIDE 4000u /* b, into the other queue */
#define FROM_BESIDE 900u /* a companion, into the subject queue */
#define NUMBERS 5000u

#define INFLATED 1000000u /* buffers */

/* What the operation does to messages, for the check. */
enum kind {
	NEITHER, /* nothing: all that was published comes out */
	PUTS,    /* n of the victim's, all or none of which come out */
	GETS,    /* takes up to n, which die with it */
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
	uint32_t prealloc; /* of CAPACITY; the rest is for the slab to grow */
	int trims;         /* extents are smaller, and made of whole pages */
	uint32_t turned;   /* messages that have passed the subject queue before */
	uint32_t filled;   /* messages in it */
	uint32_t lost;     /* the first of them, which a dead member has when the victim runs */
	int leaves;        /* recover() may leave something for want of room */
	uint32_t detaches; /* members that leave in it, and so are not dead */
	void (*before)(struct scene *);  /* by the survivors */
	void (*prepare)(struct scene *); /* by the victim, as a member if it has a v */
	int (*run)(struct scene *);      /* what is killed */
	/* Besides the usual check, after the queues have been drained. */
	void (*check)(struct scene *);
	int unaudited;  /* at the kill point: other words than the pool's are being made */
	int unattached; /* the victim is no member when it begins */
	int (*beside)(struct scene *); /* what a companion has stopped in, NULL for none */
};

/* What the victim tells those who check, in memory they share. */
struct report {
	int result; /* of the operation, PENDING until it has one */
	uint32_t got;
	uint32_t number[CAPACITY];
};

struct scene {
	const struct operation *operation;
	struct qmempool pool;
	int fd;
	char *base;
	size_t size;
	struct token token; /* of the process token_of; a child takes its own */
	pid_t token_of;
	struct member *a, *b, *v;
	uint32_t subject, other, letter;
	uint64_t hand_a[1], hand_b[2];
	uint64_t hand[CAPACITY]; /* the victim's */
	uint32_t handed, marked;
	int opened; /* number of the victim's opening, where it uses opening.h */
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
	struct segment made;         /* another segment, that the victim makes */
};

extern struct scene scene;
extern void (*scene_failed)(const char *what); /* of the kill point at hand */
#define DEMAND(condition) ((condition) ? (void)0 : scene_failed(#condition))

/* What all slots but the survivors' have counted, and how many of their lives have ended with a
 * death. */
struct counted {
	int64_t counter[COUNTERS];
	int64_t deaths, lives;
};
void scene_count(struct counted *out);

/* Makes the pool, the survivors and their work anew for the operation. */
void scene_make(const struct operation *operation);
void scene_discard(void);

/* The audit, which must be exact at every moment. */
void scene_audit(void);

/* The survivors work on every queue and on the pool, as far as they get. */
void scene_work(void);

/* The survivors get all that is in the queues, into the stream. */
void scene_drain(void);

/* Recovers once, with a companion stopped. */
void scene_recover(void);

/* The victim's counters are right, or off by no more than the operation that was cut short: before
 * says what was counted when that began, whole what it is when it is not cut short; NULL if others
 * have been in its way. */
void scene_check_counters(const struct counted *before, const struct counted *whole);

/* Recovers and checks; exact says that nobody has worked since the victim began, so that it is
 * known what it can have taken. */
void scene_check(int exact);

/* What operations are put together from. */
void scene_publish(struct member *m, uint32_t queue, uint32_t first, uint32_t n);
void scene_get(struct member *m, uint32_t queue, uint32_t n); /* into hand */
const struct alf_ring *scene_ring(uint32_t queue);
uint32_t *scene_message(uint64_t handle);
struct member *scene_attach(void);
uint64_t scene_token(void); /* of this process */
/* Makes what the member has counted so much that it cannot be counted twice without notice. */
void scene_inflate(struct member *m);
/* Runs as a child process and waits for its end. */
void scene_child(void (*run)(struct scene *));

/* The companion's set-up and leave-taking. */
void scene_companion_prepare(struct scene *s);
void scene_companion_leave(struct scene *s);

extern const struct operation *operations(uint32_t *n);

#endif
