/* SPDX-License-Identifier: Apache-2.0
 *
 * helper.c - see helper.h.
 */
#define _GNU_SOURCE
#include "helper.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cache.h"
#include "recover.h"

#define PLACES_MAX 127u /* futex_waitv(2) takes 128 words; one is the thread's own */
#define STACK_BYTES (256u << 10)
#define WAKES_MASK (~(WAIT_COUNT_MASK | WAIT_EPOCH_MASK))

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* the same on all machines */
#define FUTEX_32 2
struct futex_waitv {
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};
#endif

struct helper {
	struct helper *next;
	struct place *places;
	uint32_t count;
	uint32_t kicks; /* the thread's own word: changed and woken when its places change */
	int64_t slice_ends;
	/* For one sleep: */
	uint32_t kicked;
	uint32_t words;
	struct futex_waitv word[1 + PLACES_MAX];
	uint32_t pools, pool[OPENING_POOLS_MAX];
	uint32_t shown;
	struct shown show[HELPER_SHOWN_MAX];
};

/* A forked child reads this as zeros: an unlocked mutex, and no thread. */
static struct {
	pthread_mutex_t lock;
	struct helper *helpers;
} *ours;

struct helper_calls helper_calls;
static bool one_word; /* a thread sleeps on one word only: there is no futex_waitv(2) */

int helper_lock(void)
{
	if (!ours && !(ours = opening_wiped(sizeof(*ours)))) /* with Python's lock */
		return -ENOMEM;
	pthread_mutex_lock(&ours->lock);
	return 0;
}

void helper_unlock(void)
{
	pthread_mutex_unlock(&ours->lock);
}

/* ---- one place ---- */

/* The place's pool, counted; NULL if it is gone. opening_end() follows. */
static struct qmempool *begin(const struct place *place, uint32_t **at)
{
	*at = opening_begin(place->number);
	return place->word ? opening_pool(place->number) : NULL;
}

/* Returns how many may be had now. value is the wait word as it was read before. Of free buffers it
 * is known only whether a member has woken a sleeper, and supposed when a sleep has ended (late). */
static uint32_t inspect(struct qmempool *p, const struct place *place, uint32_t value, bool late)
{
	if (place->what == SHMPOOL_FREE)
		return late || (value ^ place->entered) & ~WAIT_COUNT_MASK ? UINT32_MAX : 0;
	const struct alf_ring *r = queue_ring(p, place->index);
	if (!r)
		return UINT32_MAX;
	/* [WAIT] A sleeper that is counted reads both positions after the word. */
	const alf_position prod = load_seq_cst(&r->q->prod); /* [WAIT] */
	const alf_position cons = load_seq_cst(&r->q->cons); /* [WAIT] */
	if (prod & ALF_CLOSED) {
		store_relaxed(&r->q->ended, 1);
		if (place->what == SHMPOOL_ROOM || alf_end(prod) == cons)
			return UINT32_MAX;
	}
	return place->what == SHMPOOL_ROOM ? alf_avail_space(r) : alf_ready(r, 0);
}

/* True if a member may have missed this sleeper: it has reserved a position and not published it,
 * or it was in the middle of a free and did not see that its cache is wanted. The thread then
 * sleeps for a short time, and longer and longer. */
static bool uncertain(struct qmempool *p, const struct place *place)
{
	if (place->what != SHMPOOL_DATA)
		return place->what == SHMPOOL_FREE;
	const struct alf_ring *r = queue_ring(p, place->index);
	return r && !alf_empty(r);
}

static void leave(struct place *place)
{
	if (place->counted)
		wait_leave(place->word, place->entered);
	place->counted = false;
}

static void settle(struct place *place, uint32_t most)
{
	helper_calls.settle(place, most, place->by->show, &place->by->shown, NULL);
}

/* Lets the thread visit its places again. */
static void kick(struct helper *h)
{
	add_seq_cst(&h->kicks, 1); /* pairs with visit_all() */
	syscall(SYS_futex, &h->kicks, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
	if (!one_word)
		return;
	for (struct place *place = h->places; place; place = place->next)
		if (place->word && place->listed)
			wait_wake(place->word, UINT32_MAX);
}

static void gone(struct place *place)
{
	place->word = NULL;
	place->counted = false;
	place->pass_at_ns = 0;
	settle(place, UINT32_MAX);
}

uint32_t helper_count(struct place *place)
{
	uint32_t *at, n = UINT32_MAX;
	struct qmempool *p = begin(place, &at);
	if (p) {
		if (!place->counted)
			place->entered = wait_enter(place->word);
		place->counted = true;
		place->pass_at_ns = 0;
		if (place->what == SHMPOOL_FREE)
			cache_request_flush(pool_class(p, place->index));
		place->slept = load_seq_cst(place->word); /* [WAIT] */
		n = inspect(p, place, place->slept, false);
		if (!n && uncertain(p, place))
			kick(place->by);
	}
	opening_end(at);
	return n;
}

void helper_leave(struct place *place)
{
	uint32_t *at;
	if (begin(place, &at))
		leave(place);
	opening_end(at);
}

void helper_pass_on(struct place *place)
{
	uint32_t *at;
	if (begin(place, &at) && wait_anybody(place->word)) /* [WAIT] */
		wait_wake(place->word, 1);
	opening_end(at);
}

void helper_sleep(struct place *place, struct ring *ring)
{
	if (place->ring || !place->word)
		return;
	if (!place->listed && ring && ring_wait(ring, place->word, place->slept, place)) {
		place->ring = ring;
		return;
	}
	place->fresh = true;
	if (!place->listed)
		kick(place->by);
}

void helper_cancel(struct place *place)
{
	if (place->ring)
		ring_cancel(place->ring, place);
}

/* ---- the thread ---- */

/* Passes on a wake-up that this process does not use: the place is not armed, and what is there
 * stays there, or the wake-up reached the thread although it did not count. */
static void pass_on(struct qmempool *p, struct place *place, uint32_t value, int64_t now)
{
	const bool due = place->pass_at_ns && now >= place->pass_at_ns;
	const bool reached = place->listed && (value ^ place->slept) & WAKES_MASK;
	if (due) {
		const bool stays = wait_anybody(place->word) && /* [WAIT] */
				   inspect(p, place, value, false);
		place->pass_rest_ns = wait_longer(place->pass_rest_ns, 1);
		place->pass_at_ns = stays ? now + place->pass_rest_ns : 0;
		if (!stays)
			return;
	}
	if ((due || reached) && wait_anybody(place->word)) /* [WAIT] */
		wait_wake(place->word, 1);
}

/* Inspects a place before the thread sleeps. Whatever the word becomes after it was read here ends
 * that sleep at once. */
static void visit(struct qmempool *p, struct place *place, int64_t now, bool slice,
		  const struct ring *taking, bool late)
{
	uint32_t value = load_seq_cst(place->word); /* [WAIT] */
	if (place->armed || (slice && place->wants)) {
		const uint32_t most = inspect(p, place, value, late);
		if (taking)
			helper_calls.settle(place, most, NULL, NULL, taking);
		else if (most || slice)
			settle(place, most);
	} else {
		pass_on(p, place, value, now);
		value = load_seq_cst(place->word); /* [WAIT] */
	}
	if (!place->armed && place->counted) {
		leave(place);
		place->pass_rest_ns = WAIT_SHORT_NS;
		place->pass_at_ns =
			wait_anybody(place->word) ? now + WAIT_SHORT_NS : 0; /* [WAIT] */
		value = load_seq_cst(place->word);                           /* [WAIT] */
	} else if (place->armed &&
		   (!place->counted || (value ^ place->entered) & WAIT_EPOCH_MASK)) {
		place->entered = wait_enter(place->word); /* also after wait_reset() */
		place->counted = true;
	}
	place->slept = value;
}

/* Visits the thread's places, and lists the words to sleep on. Returns when the sleep ends, at the
 * latest. */
static int64_t visit_all(struct helper *h, int64_t now, int64_t *short_ns, bool late)
{
	const bool slice = now >= h->slice_ends;
	bool hurry = false;
	if (slice)
		h->slice_ends = now + WAIT_SLICE_NS;
	int64_t until = h->slice_ends;
	h->words = h->pools = 0;
	h->kicked = load_seq_cst(&h->kicks); /* pairs with kick() */
	h->word[h->words++] = (struct futex_waitv) { .val = h->kicked,
						     .uaddr = (uintptr_t)&h->kicks,
						     .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG };
	for (struct place **link = &h->places, *place; (place = *link);) {
		uint32_t *at;
		struct qmempool *p = begin(place, &at);
		if (!p)
			gone(place);
		else
			visit(p, place, now, slice, NULL, late);
		place->listed = p && !place->ring && (place->armed || place->fresh);
		if (p && place->armed && uncertain(p, place))
			hurry = true;
		opening_end(at);
		const bool used = place->used;
		if (slice)
			place->fresh = place->used = false;
		if (place->pass_at_ns && place->pass_at_ns < until)
			until = place->pass_at_ns;
		if (place->listed)
			h->word[h->words++] =
				(struct futex_waitv) { .val = place->slept,
						       .uaddr = (uintptr_t)place->word,
						       .flags = FUTEX_32 };
		if (p && place->armed) {
			uint32_t i = 0;
			while (i < h->pools && h->pool[i] != place->number)
				i++;
			if (i == h->pools && i < OPENING_POOLS_MAX)
				h->pool[h->pools++] = place->number;
		}
		if (!place->wants && !place->listed && !place->ring && !used) {
			*link = place->next;
			h->count--;
			free(place);
		} else {
			link = &place->next;
		}
	}
	if (!hurry)
		*short_ns = WAIT_SHORT_NS;
	else if (now + *short_ns < until)
		until = now + *short_ns;
	return h->places ? until : WAIT_FOREVER;
}

static void sleep_until(struct helper *h, int64_t until_ns)
{
	struct timespec t = { until_ns / 1000000000, until_ns % 1000000000 };
	struct timespec *end = until_ns == WAIT_FOREVER ? NULL : &t;
	if (!one_word) {
		syscall(SYS_futex_waitv, h->word, h->words, 0, end, CLOCK_MONOTONIC);
		return;
	}
	const struct futex_waitv *word = &h->word[h->words - 1];
	const int op = FUTEX_WAIT_BITSET | (word->flags & FUTEX_PRIVATE_FLAG);
	syscall(SYS_futex, (uint32_t *)(uintptr_t)word->uaddr, op, (uint32_t)word->val, end, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

/* Makes the descriptors readable whose wants have fired, and unlocks. Copies the list: another
 * thread may begin one. */
static void unlock_and_show(struct helper *h)
{
	struct shown show[HELPER_SHOWN_MAX];
	const uint32_t n = h->shown;
	memcpy(show, h->show, n * sizeof(*show));
	h->shown = 0;
	helper_unlock();
	for (uint32_t i = 0; i < n; i++)
		helper_calls.show(&show[i], true);
}

void helper_woken(struct place *place)
{
	uint32_t *at;
	struct ring *ring = place->ring;
	struct qmempool *p = begin(place, &at);
	place->ring = NULL;
	if (p)
		visit(p, place, wait_now(), false, ring, false);
	opening_end(at);
	if (p && place->armed)
		helper_sleep(place, ring);
}

void helper_forget(const struct ring *ring)
{
	for (struct helper *h = ours->helpers; h; h = h->next)
		for (struct place *place = h->places; place; place = place->next)
			if (place->ring == ring) {
				helper_cancel(place);
				place->ring = NULL;
				kick(h);
			}
}

/* True if the pool's name stands for another file now. */
static bool replaced(const struct segment *s)
{
	struct stat file;
	return s->path[0] && !stat(s->path, &file) &&
	       (file.st_dev != s->device || file.st_ino != s->inode);
}

/* Does what every sleeper does after a slice: asks which members are dead. Without the mutex. */
static void tend(struct helper *h)
{
	for (uint32_t i = 0; i < h->pools; i++) {
		uint32_t *at = opening_begin(h->pool[i]);
		struct lookup c;
		bool other = false;
		if (!lookup_pool(h->pool[i], &c)) {
			recover_if_due(c.p, c.m);
			other = replaced(&c.p->segment);
		}
		opening_end(at);
		if (!other)
			continue;
		helper_lock();
		for (struct place *place = h->places; place; place = place->next)
			if (place->number == h->pool[i])
				settle(place, UINT32_MAX);
		unlock_and_show(h);
	}
}

static void *run(void *argument)
{
	struct helper *h = argument;
	int64_t short_ns = WAIT_SHORT_NS, tended = wait_now();
	bool late = false;
	for (;;) {
		helper_lock();
		int64_t now = wait_now(), until = visit_all(h, now, &short_ns, late);
		unlock_and_show(h);
		if (h->pools && now - tended >= WAIT_SLICE_NS) {
			tended = now;
			tend(h);
		}
		sleep_until(h, until);
		late = wait_now() >= until;
		if (late)
			short_ns = wait_longer(short_ns, 1);
	}
	return NULL;
}

static int start(struct helper *h)
{
	pthread_attr_t attributes;
	pthread_t thread;
	sigset_t blocked, before;
	if (pthread_attr_init(&attributes))
		return -ENOMEM;
	sigfillset(&blocked);
	for (const int *fault = (int[]) { SIGBUS, SIGSEGV, SIGFPE, SIGILL, SIGSYS, SIGTRAP, 0 };
	     *fault; fault++)
		sigdelset(&blocked, *fault);
	pthread_attr_setstacksize(&attributes, STACK_BYTES);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	pthread_sigmask(SIG_SETMASK, &blocked, &before);
	int error = pthread_create(&thread, &attributes, run, h);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -error;
}

/* A pool is closed in this process: its mapping goes. */
static void pool_ends(uint32_t number)
{
	if (!ours || helper_lock())
		return;
	for (struct helper *h = ours->helpers; h; h = h->next) {
		bool found = false;
		for (struct place *place = h->places; place; place = place->next)
			if (place->number == number && place->word) {
				leave(place);
				found = true;
				if (one_word)
					wait_wake(place->word, UINT32_MAX);
				gone(place);
			}
		if (found)
			kick(h); /* it shows what has fired here */
	}
	helper_unlock();
}

/* Finds a thread with room for one more place, or starts one. */
static int helper_for(struct helper **out)
{
	struct helper *h = ours->helpers;
	if (!h) {
		one_word = syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) && errno != EINVAL;
		opening_pool_ends = pool_ends;
	}
	while (h && h->count >= (one_word ? 1 : PLACES_MAX))
		h = h->next;
	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h)
			return -ENOMEM;
		int error = start(h); /* it waits for the mutex */
		if (error) {
			free(h);
			return error;
		}
		h->next = ours->helpers;
		ours->helpers = h;
	}
	*out = h;
	return 0;
}

static uint32_t *word_of(struct qmempool *p, uint32_t index, enum shmpool_wanted what)
{
	if (what == SHMPOOL_FREE)
		return index < segment_classes(&p->segment) ?
			       &pool_shared(pool_class(p, index))->free_wait :
			       NULL;
	const struct alf_ring *r = queue_ring(p, index);
	return !r ? NULL : what == SHMPOOL_ROOM ? &r->q->room_wait : &r->q->data_wait;
}

int helper_place(uint32_t number, uint32_t index, enum shmpool_wanted what, struct place **out)
{
	struct qmempool *p = opening_pool(number);
	if (!p)
		return opening_missing(number);
	if (!p->segment.writes)
		return -EROFS;
	uint32_t *word = word_of(p, index, what);
	if (!word)
		return what == SHMPOOL_FREE ? -EINVAL : queue_missing(p, index);
	struct place *place = NULL;
	struct helper *h;
	for (h = ours->helpers; h && !place; h = h->next)
		for (place = h->places; place; place = place->next)
			if (place->word == word && place->number == number && place->what == what)
				break;
	if (!place) {
		int error = helper_for(&h);
		if (error)
			return error;
		place = calloc(1, sizeof(*place));
		if (!place)
			return -ENOMEM;
		*place = (struct place) { .next = h->places,
					  .by = h,
					  .number = number,
					  .index = index,
					  .what = what,
					  .word = word };
		if (!h->places)
			kick(h); /* it sleeps without end */
		h->places = place;
		h->count++;
	}
	place->used = true;
	*out = place;
	return 0;
}
