/* SPDX-License-Identifier: Apache-2.0
 *
 * place.c - see place.h.
 */
#include "place.h"

#include "cache.h"
#include "topic.h"

#define WAKES_MASK (~(WAIT_COUNT_MASK | WAIT_EPOCH_MASK))

void (*place_settle)(struct place *place, uint32_t most, struct shown_list *out,
		     const struct uring *taking);

struct qmempool *place_begin(const struct place *place, uint32_t **at)
{
	*at = opening_begin(place->number);
	return place->word ? opening_pool(place->number) : NULL;
}

static const struct alf_ring *ring_of(struct qmempool *p, const struct place *place)
{
	return queue_ring(p, place->index & ((1u << SHMPOOL_SUBSCRIBER_SHIFT) - 1));
}

static uint32_t inspect_message(const struct place *place, const struct alf_ring *r, bool *unsure)
{
	return topic_ready(r, place->index >> SHMPOOL_SUBSCRIBER_SHIFT,
			   opening_token(place->number), unsure);
}

/* Returns how many may be had now. value is the wait word as it was read before. Of free buffers it
 * is known only whether a member has woken a sleeper, and supposed when a sleep has ended: late. */
static uint32_t inspect(struct qmempool *p, const struct place *place, uint32_t value, bool late)
{
	bool unsure;
	if (place->what == SHMPOOL_FREE)
		return late || (value ^ place->entered) & ~WAIT_COUNT_MASK ? UINT32_MAX : 0;
	const struct alf_ring *r = ring_of(p, place);
	if (!r)
		return UINT32_MAX;
	if (topic_is(r))
		return place->what == SHMPOOL_ROOM ? topic_room(r) :
						     inspect_message(place, r, &unsure);
	/* [WAIT] A sleeper that is counted reads the positions after the word. */
	const struct queue_seen seen = queue_see(r); /* [WAIT] */
	if (seen.closed && (place->what == SHMPOOL_ROOM || !seen.reserved))
		return UINT32_MAX;
	return place->what == SHMPOOL_ROOM ? alf_avail_space(r) : queue_ready(r);
}

bool place_uncertain(struct qmempool *p, const struct place *place)
{
	bool unsure = true;
	if (place->what == SHMPOOL_FREE)
		return true;
	const struct alf_ring *r = ring_of(p, place);
	if (r && place->what == SHMPOOL_MESSAGE)
		inspect_message(place, r, &unsure);
	else if (place->what == SHMPOOL_ROOM)
		unsure = place_publishes(p, place);
	return r && (place->what == SHMPOOL_DATA ? !queue_empty(r) : unsure);
}

bool place_publishes(struct qmempool *p, const struct place *place)
{
	const struct alf_ring *r = place->what == SHMPOOL_ROOM ? ring_of(p, place) : NULL;
	return r && topic_is(r);
}

void place_uncount(struct place *place)
{
	if (place->counted)
		wait_leave(place->word, place->entered);
	place->counted = false;
}

void place_gone(struct place *place, struct shown_list *out)
{
	place->word = NULL;
	place->counted = false;
	place->pass_at_ns = 0;
	place_settle(place, UINT32_MAX, out, NULL);
}

uint32_t place_count(struct place *place, bool *unsure)
{
	uint32_t *at, n = UINT32_MAX;
	*unsure = false;
	struct qmempool *p = place_begin(place, &at);
	if (p) {
		if (!place->counted)
			place->entered = wait_enter(place->word);
		place->counted = true;
		place->pass_at_ns = 0;
		if (place->what == SHMPOOL_FREE)
			cache_request_flush(pool_class(p, place->index));
		place->slept = load_seq_cst(place->word); /* [WAIT] */
		n = inspect(p, place, place->slept, false);
		*unsure = !n && place_uncertain(p, place);
	}
	opening_end(at);
	return n;
}

void place_leave(struct place *place)
{
	uint32_t *at;
	if (place_begin(place, &at))
		place_uncount(place);
	opening_end(at);
}

void place_pass_on(struct place *place)
{
	uint32_t *at;
	if (place_begin(place, &at) && !place->all && wait_anybody(place->word)) /* [WAIT] */
		wait_wake(place->word, 1);
	opening_end(at);
}

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

void place_visit(struct qmempool *p, struct place *place, const struct place_visit *v)
{
	uint32_t value = load_seq_cst(place->word); /* [WAIT] */
	if (place->armed || (v->slice && place->wants)) {
		const uint32_t most = inspect(p, place, value, v->late);
		if (most || v->slice || v->taking)
			place_settle(place, most, v->out, v->taking);
	} else if (!place->all) {
		pass_on(p, place, value, v->now);
		value = load_seq_cst(place->word); /* [WAIT] */
	}
	if (!place->armed && place->counted) {
		place_uncount(place);
		place->pass_rest_ns = WAIT_SHORT_NS;
		place->pass_at_ns = !place->all && wait_anybody(place->word) ? /* [WAIT] */
					    v->now + WAIT_SHORT_NS :
					    0;
		value = load_seq_cst(place->word); /* [WAIT] */
	} else if (place->armed &&
		   (!place->counted || (value ^ place->entered) & WAIT_EPOCH_MASK)) {
		place->entered = wait_enter(place->word); /* also after wait_reset() */
		place->counted = true;
	}
	place->slept = value;
}

uint32_t *place_word(struct qmempool *p, uint32_t index, enum shmpool_wanted what)
{
	if (what == SHMPOOL_FREE)
		return index < segment_classes(&p->segment) ?
			       &pool_shared(pool_class(p, index))->free_wait :
			       NULL;
	const uint32_t number = index & ((1u << SHMPOOL_SUBSCRIBER_SHIFT) - 1);
	const struct alf_ring *r = queue_ring(p, number);
	if (!r || (what == SHMPOOL_MESSAGE && index >> SHMPOOL_SUBSCRIBER_SHIFT >= SUBSCRIBERS_MAX))
		return NULL;
	return what == SHMPOOL_ROOM ? &r->q->room_wait : r->data_wait;
}
