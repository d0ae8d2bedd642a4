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
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "blocking.h"
#include "forked.h"
#include "tend.h"

#define PLACES_MAX 127u /* futex_waitv(2) takes 128 words; one is the thread's own */
#define STACK_BYTES (256u << 10)

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* the same on all machines */
#endif
#define WORD_32 2u /* FUTEX_32, which kernel headers before 5.16 lack, as struct futex_waitv */
struct waited {
	uint64_t val, uaddr;
	uint32_t flags, reserved;
};

struct helper {
	struct helper *next;
	struct place *places;
	uint32_t count;
	uint32_t kicks; /* the thread's own word: changed and woken when its places change */
	int64_t slice_ends;
	/* For one sleep: */
	uint32_t kicked;
	uint32_t words;
	struct waited word[1 + PLACES_MAX];
	struct tend tend;
	struct shown_list show;
};

/* A forked child reads this as zeros: an unlocked mutex, and no thread. */
static struct {
	pthread_mutex_t lock;
	struct helper *helpers;
	uint32_t showing;        /* threads that make descriptors readable now */
	struct shown_list ended; /* descriptors to close after that */
} *ours;

void (*helper_show)(const struct shown *of);
void (*helper_correct)(const struct shown *of);
void (*helper_close)(const struct shown *of);
static bool one_word; /* a thread sleeps on one word only: there is no futex_waitv(2) */

int helper_lock(void)
{
	if (!ours && !(ours = forked_zeros(sizeof(*ours)))) /* with Python's lock */
		return -ENOMEM;
	pthread_mutex_lock(&ours->lock);
	return 0;
}

void helper_unlock(void)
{
	pthread_mutex_unlock(&ours->lock);
}

/* Lets the thread visit its places again. */
static void kick(struct helper *h)
{
	add_seq_cst(&h->kicks, 1); /* pairs with visit_all() */
	syscall(SYS_futex, &h->kicks, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, 1, NULL, NULL, 0);
	for (struct place *place = one_word ? h->places : NULL; place; place = place->next)
		if (place->word && place->listed)
			wait_wake(place->word, UINT32_MAX);
}

uint32_t helper_count(struct place *place)
{
	bool unsure;
	const uint32_t n = place_count(place, &unsure);
	if (unsure)
		kick(place->by);
	return n;
}

void helper_sleep(struct place *place, struct uring *ring)
{
	if (!place->word)
		return;
	if (place->ring && place->ring != ring && !place->several) {
		place->several = true;
		helper_cancel(place);
	}
	if (!place->several) {
		if (!place->ring && !place->listed && ring &&
		    uring_wait(ring, place->word, place->slept, place))
			place->ring = ring;
		if (place->ring)
			return;
	}
	place->fresh = true;
	if (!place->listed)
		kick(place->by);
}

void helper_cancel(struct place *place)
{
	if (place->ring)
		uring_cancel(place->ring, place);
}

/* Visits the thread's places, and lists the words to sleep on. Returns when the sleep ends, at the
 * latest. */
static int64_t visit_all(struct helper *h, int64_t now, int64_t *short_ns, bool late)
{
	const bool slice = now >= h->slice_ends;
	bool hurry = false;
	if (slice)
		h->slice_ends = now + WAIT_SLICE_NS;
	const struct place_visit v = { now, slice, late, &h->show, NULL };
	int64_t until = h->slice_ends;
	h->words = h->tend.pools = h->tend.topics = 0;
	h->kicked = load_seq_cst(&h->kicks); /* pairs with kick() */
	h->word[h->words++] = (struct waited) { .val = h->kicked,
						.uaddr = (uintptr_t)&h->kicks,
						.flags = WORD_32 | FUTEX_PRIVATE_FLAG };
	for (struct place **link = &h->places, *place; (place = *link);) {
		uint32_t *at;
		struct qmempool *p = place_begin(place, &at);
		if (!p)
			place_gone(place, &h->show);
		else
			place_visit(p, place, &v);
		place->several = place->several && place->wants;
		place->listed =
			p && (!place->ring || place->several) && (place->armed || place->fresh);
		if (p && place->armed && place_uncertain(p, place))
			hurry = true;
		if (p && place->armed)
			tend_add(&h->tend, p, place);
		opening_end(at);
		const bool used = place->used;
		if (slice)
			place->fresh = place->used = false;
		if (place->pass_at_ns && place->pass_at_ns < until)
			until = place->pass_at_ns;
		if (place->listed)
			h->word[h->words++] = (struct waited) { .val = place->slept,
								.uaddr = (uintptr_t)place->word,
								.flags = WORD_32 };
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
	if (h->tend.topics && now + BLOCKING_ASK_NS < until)
		until = now + BLOCKING_ASK_NS;
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
	const struct waited *word = &h->word[h->words - 1];
	const int op = FUTEX_WAIT_BITSET | (word->flags & FUTEX_PRIVATE_FLAG);
	syscall(SYS_futex, (uint32_t *)(uintptr_t)word->uaddr, op, (uint32_t)word->val, end, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

/* Makes the descriptors readable whose wants have fired, and unlocks. Copies the list: another
 * thread may begin one. */
static void unlock_and_show(struct helper *h)
{
	struct shown_list show = h->show;
	h->show.n = 0;
	ours->showing += show.n > 0;
	helper_unlock();
	if (!show.n)
		return;
	for (uint32_t i = 0; i < show.n; i++)
		helper_show(&show.of[i]);
	helper_lock();
	for (uint32_t i = 0; i < show.n; i++)
		helper_correct(&show.of[i]);
	if (!--ours->showing)
		while (ours->ended.n)
			helper_close(&ours->ended.of[--ours->ended.n]);
	helper_unlock();
}

void helper_end(const struct shown *of)
{
	if (ours->showing && ours->ended.n < SHOWN_MAX)
		ours->ended.of[ours->ended.n++] = *of;
	else
		helper_close(of);
}

void helper_woken(struct place *place)
{
	uint32_t *at;
	struct uring *ring = place->ring;
	struct qmempool *p = place_begin(place, &at);
	place->ring = NULL;
	if (p)
		place_visit(p, place, &(struct place_visit) { .now = wait_now(), .taking = ring });
	opening_end(at);
	if (p && place->armed)
		helper_sleep(place, ring);
}

void helper_forget(const struct uring *ring)
{
	for (struct helper *h = ours->helpers; h; h = h->next)
		for (struct place *place = h->places; place; place = place->next)
			if (place->ring == ring) {
				helper_cancel(place);
				place->ring = NULL;
				kick(h);
			}
}

/* Does what every sleeper does after a slice. Without the mutex. */
static void tend(struct helper *h)
{
	for (uint32_t i = 0; i < h->tend.pools; i++) {
		if (!tend_pool(h->tend.pool[i]))
			continue;
		helper_lock();
		for (struct place *place = h->places; place; place = place->next)
			if (place->number == h->tend.pool[i])
				place_settle(place, UINT32_MAX, &h->show, NULL);
		unlock_and_show(h);
	}
}

static void *run(void *argument)
{
	struct helper *h = argument;
	int64_t short_ns = WAIT_SHORT_NS, tended = wait_now(), asked = tended;
	bool late = false;
	for (;;) {
		helper_lock();
		int64_t now = wait_now(), until = visit_all(h, now, &short_ns, late);
		unlock_and_show(h);
		if (h->tend.topics && now - asked >= BLOCKING_ASK_NS) {
			asked = now;
			tend_topics(&h->tend);
		}
		if (h->tend.pools && now - tended >= WAIT_SLICE_NS) {
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

/* Ends the waits in a pool that is closed in this process, or those with that index. */
static void end_waits(uint32_t number, const uint32_t *index)
{
	if (!ours || helper_lock())
		return;
	for (struct helper *h = ours->helpers; h; h = h->next) {
		bool found = false;
		for (struct place *place = h->places; place; place = place->next)
			if (place->number == number && place->word &&
			    (!index ||
			     (place->what == SHMPOOL_MESSAGE && place->index == *index))) {
				place_uncount(place);
				found = true;
				if (one_word)
					wait_wake(place->word, UINT32_MAX);
				place_gone(place, &h->show);
			}
		if (found)
			kick(h); /* it shows what has fired here */
	}
	helper_unlock();
}

static void pool_ends(uint32_t number)
{
	end_waits(number, NULL);
}

static void subscriber_ends(uint32_t number, uint32_t index)
{
	end_waits(number, &index);
}

/* Finds a thread with room for one more place, or starts one. */
static int helper_for(struct helper **out)
{
	struct helper *h = ours->helpers;
	if (!h) {
		one_word = syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) && errno != EINVAL;
		opening_pool_ends = pool_ends;
		opening_subscriber_ends = subscriber_ends;
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

int helper_place(uint32_t number, uint32_t index, enum shmpool_wanted what, struct place **out)
{
	struct qmempool *p = opening_pool(number);
	if (!p)
		return opening_missing(number);
	if (!p->segment.writes)
		return -EROFS;
	uint32_t *word = place_word(p, index, what);
	if (!word)
		return what == SHMPOOL_FREE ? -EINVAL : queue_missing(p, index);
	struct place *place = NULL;
	struct helper *h;
	for (h = ours->helpers; h && !place; h = h->next)
		for (place = h->places; place; place = place->next)
			if (place->word == word && place->number == number && place->what == what &&
			    place->index == index)
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
					  .all = what == SHMPOOL_MESSAGE,
					  .word = word };
		place->all |= place_publishes(p, place);
		if (!h->places)
			kick(h); /* it sleeps without end */
		h->places = place;
		h->count++;
	}
	place->used = true;
	*out = place;
	return 0;
}
