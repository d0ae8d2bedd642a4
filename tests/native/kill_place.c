/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_place.c - see kill_place.h.
 */
#include "kill_place.h"

#include "check.h"
#include "kill_topic.h"
#include "kill_victim.h"
#include "place.h"

static struct place place;

/* waker.c's, for a place with one want. */
static void settle(struct place *of, uint32_t most, struct shown_list *out,
		   const struct uring *taking)
{
	(void)out, (void)taking;
	of->armed = !most;
}

/* In a pool that the victim has opened. */
static void make_place(struct scene *s, uint32_t index, enum shmpool_wanted what)
{
	place_settle = settle;
	place = (struct place) { .number = (uint32_t)s->opened,
				 .index = index,
				 .what = what,
				 .armed = 1,
				 .word = place_word(opening_pool((uint32_t)s->opened), index,
						    what) };
	CHECK(place.word);
}

void place_of_data(struct scene *s)
{
	attach_locally(s);
	make_place(s, s->subject, SHMPOOL_DATA);
}

void place_of_room(struct scene *s)
{
	attach_locally(s);
	make_place(s, s->subject, SHMPOOL_ROOM);
}

void place_of_buffers(struct scene *s)
{
	attach_locally(s);
	make_place(s, (uint32_t)scene_sizes, SHMPOOL_FREE);
}

void place_of_messages(struct scene *s)
{
	static struct subscriber mine;
	attach_locally(s);
	const uint32_t topic = topic_ring(s)->id;
	struct qmempool *p = opening_pool((uint32_t)s->opened);
	EQUAL(0, topic_subscribe(p, s->v, queue_ring(p, topic), TOPIC_BLOCK, TOPIC_OLDEST, &mine));
	make_place(s, topic | mine.number << SHMPOOL_SUBSCRIBER_SHIFT, SHMPOOL_MESSAGE);
}

void place_of_messages_armed(struct scene *s)
{
	place_of_messages(s);
	EQUAL(0, place_arm(s));
}

void place_of_topic_room(struct scene *s)
{
	attach_locally(s);
	make_place(s, topic_ring(s)->id, SHMPOOL_ROOM);
}

void place_armed(struct scene *s)
{
	place_of_data(s);
	EQUAL(0, place_arm(s));
}

void place_beside_another(struct scene *s)
{
	place_armed(s);
	wait_enter(place.word); /* of the same process, so it is dead with the victim */
}

int place_arm(struct scene *s)
{
	bool unsure;
	(void)s;
	place_count(&place, &unsure);
	return 0;
}

int place_inspect(struct scene *s)
{
	uint32_t *at;
	(void)s;
	struct qmempool *p = place_begin(&place, &at);
	place_visit(p, &place, &(struct place_visit) { .now = wait_now(), .slice = true });
	opening_end(at);
	return 0;
}

int place_disarm(struct scene *s)
{
	(void)s;
	place.armed = 0;
	place_leave(&place);
	return 0;
}

int place_pass(struct scene *s)
{
	EQUAL(0, place_inspect(s));
	place_pass_on(&place);
	return 0;
}

static void check_word(const uint32_t *word)
{
	DEMAND(!wait_anybody(word));
}

void check_awake(struct scene *s)
{
	check_word(&s->ring->q->data_wait);
	check_word(&s->ring->q->room_wait);
	check_word(&pool_shared(s->of)->free_wait);
}

void check_topic_awake(struct scene *s)
{
	check_awake(s);
	check_word(&topic_ring(s)->q->data_wait);
	check_word(&topic_ring(s)->q->room_wait);
	check_topic(s);
}
