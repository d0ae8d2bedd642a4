/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_check.c - see kill_scene.h: what must be true after dead members are recovered.
 */
#include <string.h>

#include "kill_topic.h"
#include "topic.h"

static void check_class(const struct segment *s)
{
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *block = segment_member(s, i), *m = segment_holder(s, block);
		DEMAND(block->op == 0);
		uint32_t thief = cache_holder(block->cache_bottom);
		DEMAND(thief == 0 || thief == CACHE_FLUSH_REQUESTED);
		DEMAND(cache_between(block->cache_bottom, block->cache_top) >= 0);
		/* No counter has gone below zero. */
		for (int k = 0; k < COUNT_CHAINED; k++)
			DEMAND(member_count(block, k) <= UINT32_MAX);
		DEMAND(m == scene.a || m == scene.b || cache_length(s, block) == 0);
		DEMAND(block->tag == m->tag);
	}
	for (uint64_t i = 0; i < s->extents; i++)
		DEMAND(*segment_extent(s, i) == 0 || *segment_extent(s, i) == EXTENT_PRESENT);
	DEMAND((segment_class_shared(s)->free_wait & 0xfff) == 0);
}

/* Checks that only the survivors are members, and that no word in the segment names another one. */
static void check_names(void)
{
	const struct segment *s = &scene.pool.segment;
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		if (m == scene.a || m == scene.b)
			continue;
		DEMAND(m->identity == 0);
		DEMAND(m->barrier == 0 && m->ended == 0 && m->adopted == 0);
		DEMAND(m->tag % (1u << TAG_NUMBER_BITS) == i + 1);
	}
	for (uint32_t i = 0; i < segment_classes(s); i++)
		check_class(&pool_class(&scene.pool, i)->segment);
	for (uint32_t i = 1; i <= s->geometry.queues; i++) {
		const struct queue_slot *slot = segment_queue(s, i);
		DEMAND(scene_settled(i));
		DEMAND(slot->queue.producer == 0 && slot->queue.consumer == 0);
		DEMAND((slot->queue.data_wait & 0xfff) == 0 &&
		       (slot->queue.room_wait & 0xfff) == 0);
	}
}

/* Checks that every buffer is where the survivors expect it. */
static void check_sums(void)
{
	struct shmpool_audit audit;
	struct shmpool_stats stats;
	struct shmpool_held held[MEMBERS];
	uint64_t queued[SLOTS] = { 0 }, sum = 0;
	bool listed = false;
	DEMAND(audit_count(&scene.pool, &audit, held, MEMBERS, queued, SLOTS) == 0);
	audit_stats(&scene.pool, &stats);
	for (uint32_t i = 0; i < MEMBERS; i++) {
		const struct member *m = segment_member(&scene.pool.segment, i);
		DEMAND(held[i].buffers == (m == scene.a ? 1u : m == scene.b ? 2u : 0u));
		const struct member *block = scene_block((struct member *)m);
		listed |= cache_holder(load_relaxed(&block->cache_bottom)) == CACHE_FLUSH_REQUESTED;
	}
	for (uint32_t i = 0; i < SLOTS; i++)
		sum += queued[i];
	DEMAND(audit.unaccounted == 0);
	DEMAND(audit.doubled == 0);
	DEMAND(audit.total == stats.created);
	/* Each member that died in the middle of an operation is one off at most: the one that left
	 * chains, the victim and its companion. */
	const int64_t uncounted = (int64_t)(stats.chained - audit.chained);
	DEMAND(uncounted >= -2 - scene.companion_died && uncounted <= 2 + scene.companion_died);
	DEMAND(audit.free + audit.cached + audit.chained + sum + 3 == audit.total);
	/* A cache with a request to flush may list buffers that a dead thief had taken. */
	DEMAND(stats.cached == audit.cached || (listed && stats.cached > audit.cached));
	DEMAND(stats.members == 2);
}

static void recover_all(void)
{
	struct shmpool_recovery out;
	const struct segment *s = &scene.pool.segment;
	uint32_t dead = 0;
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		dead += m->identity && m != scene.a && m != scene.b;
	}
	DEMAND(recover(&scene.pool, scene.a, &out) == 0);
	DEMAND(out.unknown == 0);
	if (scene.operation->leaves && out.postponed) {
		scene_drain();
		dead -= (uint32_t)out.members;
		DEMAND(recover(&scene.pool, scene.a, &out) == 0);
	}
	DEMAND(out.postponed == 0);
	DEMAND(out.members == dead);
}

/* Counts how often each number has come out: 1 for the survivors, 16 for the victim. In each queue
 * those of one publisher must be in order, except for what was put back. */
static void count(uint8_t *seen)
{
	uint32_t last[SLOTS][NUMBERS / 1000] = { 0 }, moved = 0;
	for (uint32_t i = 0; i < scene.taken; i++) {
		uint32_t number = scene.stream[i].number;
		uint32_t *before = &last[scene.stream[i].queue][number / 1000];
		seen[number]++;
		DEMAND(seen[number] == 1);
		/* Messages that dead members had got were put back once. All messages that they
		 * forwarded are there. */
		if (number >= FROM_OTHERS && number < FROM_OTHERS + scene.operation->lost)
			DEMAND(scene.stream[i].again);
		moved += number < FROM_VICTIM && scene.stream[i].queue == scene.other;
		if (scene.stream[i].again)
			continue;
		DEMAND(number > *before);
		*before = number;
	}
	DEMAND(moved == 0 || (scene.operation->kind == MOVES && moved == scene.operation->n));
	for (uint32_t i = 0; i < scene.report->got; i++)
		seen[scene.report->number[i]] += 16;
}

/* Returns how many messages of other members may be lost with the victim. */
static uint32_t may_miss(void)
{
	const struct operation *o = scene.operation;
	int result = scene.report->result;
	if (o->kind == FREES)
		return o->n;
	if (o->kind != GETS || o->on_death.what || scene.report->got)
		return 0;
	return result == PENDING ? o->n : result > 0 ? (uint32_t)result : 0;
}

static void check_missing(const uint8_t *seen, int exact)
{
	const struct operation *o = scene.operation;
	uint32_t missing = 0, first = 0, last = 0, took = 0;
	/* The survivors' later messages are behind the earlier ones. */
	for (uint32_t i = 0; i < o->filled + scene.later; i++) {
		uint32_t number = i < o->filled ? FROM_OTHERS + i : FROM_LATER + i - o->filled;
		took += seen[number] >= 16;
		/* A message goes to a survivor once. It goes to the victim and then again only if
		 * the queue's on_death says so. */
		DEMAND(seen[number] <= 16 || o->on_death.what);
		if (i < o->lost && !o->on_death.what) {
			DEMAND(!seen[number]);
			continue;
		}
		if (seen[number])
			continue;
		if (!missing++)
			first = i;
		last = i;
	}
	DEMAND(missing <= may_miss());
	if (missing && o->kind == GETS)
		DEMAND(last - first + 1 == missing); /* one bulk */
	if (missing && exact) {
		uint32_t there = o->filled + scene.later - o->lost;
		uint32_t most = o->n < there ? o->n : there;
		/* A bulk is lost whole, or is freed from its last buffer down. */
		DEMAND(last + 1 - o->lost == most);
		DEMAND(last + 1 - first == missing);
		DEMAND(missing == most || o->kind == FREES);
	}
	if (o->kind == GETS && scene.report->result > 0 && scene.report->got)
		DEMAND(took == (uint32_t)scene.report->result);
}

static void check_messages(int exact)
{
	const struct operation *o = scene.operation;
	static uint8_t seen[NUMBERS];
	uint32_t own = 0;
	memset(seen, 0, sizeof(seen));
	count(seen);
	check_missing(seen, exact);
	for (uint32_t i = 0; i < CAPACITY; i++)
		own += seen[FROM_VICTIM + i];
	DEMAND(own == 0 || (o->kind == PUTS && own == o->n));
	if (o->kind == PUTS && scene.report->result != PENDING)
		DEMAND(own == (scene.report->result < 0 ? 0 : o->n));
	for (uint32_t i = 0; i < scene.aside; i++)
		DEMAND(seen[FROM_ASIDE + i] == 1);
}

/* Checks that all buffers can be allocated, each once, and pass every queue. */
static void check_use(void)
{
	struct qmempool *p = &scene.pool;
	const uint32_t all = p->total - topic_keeps(&scene);
	uint64_t handle[CAPACITY + SMALLER], got[RING];
	bool seen[CAPACITY + SMALLER] = { false };
	uint32_t n = 0;
	DEMAND(*scene_message(scene.hand_a[0]) == 1 && *scene_message(scene.hand_b[0]) == 2 &&
	       *scene_message(scene.hand_b[1]) == 3);
	DEMAND(qmempool_free(p, scene.a, scene.hand_a[0]) == 0);
	DEMAND(qmempool_free_bulk(p, scene.b, scene.hand_b, 2) == 0);
	for (; n < all && blocking_alloc(p, scene.a, &handle[n], 1, WAIT_NEVER) == 0; n++) {
		DEMAND(!seen[handle_index(handle[n])]);
		seen[handle_index(handle[n])] = true;
	}
	DEMAND(n == all);
	for (uint32_t queue = 1; queue <= p->segment.geometry.queues; queue++) {
		const struct alf_ring *r = scene_ring(queue);
		if (!r || alf_closed(r) || topic_is(r))
			continue;
		for (uint32_t i = 0; i < RING && i < n; i++)
			DEMAND(blocking_put(p, scene.a, queue_in(scene.a, r), &handle[i], 1,
					    WAIT_NEVER) == 0);
		for (uint32_t i = 0; i < RING && i < n; i++) {
			DEMAND(blocking_get(p, scene.a, r, &got[i], 1, WAIT_NEVER) == 1);
			DEMAND(got[i] == handle[i]);
		}
		queue_release(r, scene.a);
	}
	for (uint32_t i = 0; i < n; i++)
		DEMAND(qmempool_free(p, i % 3 ? scene.b : scene.a, handle[i]) == 0);
	struct shmpool_audit audit;
	DEMAND(audit_count(p, &audit, NULL, 0, NULL, 0) == 0);
	DEMAND(audit.unaccounted == 0);
	DEMAND(audit.doubled == 0);
	DEMAND(audit.free + audit.cached == all);
}

static int64_t count_of(const struct member *m, int counter)
{
	const struct segment *s = &scene.pool.segment;
	uint64_t n = 0;
	for (uint32_t i = 0; i < segment_classes(s); i++)
		n += member_count(segment_block(s, m, i), counter);
	return (int64_t)n;
}

void scene_count(struct counted *out)
{
	const struct segment *s = &scene.pool.segment;
	memset(out, 0, sizeof(*out));
	for (uint32_t i = 0; i < s->members; i++) {
		const struct member *m = segment_member(s, i);
		if (m == scene.a || m == scene.b)
			continue;
		for (int k = 0; k < COUNTERS; k++)
			out->counter[k] += count_of(m, k);
		out->deaths += (int64_t)m->deaths;
		/* Not members whose death is counted and whose slot is not free yet: a companion
		 * may be suspended between the two, or before it stores that it has counted. */
		out->lives += m->identity && !m->cleared && m->deaths == member_epoch(m->tag);
	}
}

static bool within(int64_t value, int64_t from, int64_t to)
{
	return value >= from && value <= to;
}

void scene_check_counters(const struct counted *before, const struct counted *whole)
{
	const struct operation *o = scene.operation;
	const enum counter moved[] = { COUNT_ENQUEUE, COUNT_DEQUEUE, COUNT_ADOPT };
	const enum counter cached[] = { COUNT_ALLOC, COUNT_FREE };
	struct counted now;
	struct shmpool_stats stats;
	int64_t n = o->n, result = scene.report->result, all = CAPACITY;
	bool ended = result != PENDING && whole;
	scene_count(&now);
	for (int k = 0; k < COUNTERS; k++)
		now.counter[k] -= before->counter[k];
	for (size_t i = 0; i < sizeof(moved) / sizeof(*moved); i++) {
		int64_t count = now.counter[moved[i]];
		DEMAND(within(count, 0, whole ? whole->counter[moved[i]] : all));
		DEMAND(!ended || count == whole->counter[moved[i]]);
	}
	/* Caches are filled and flushed in bulks, which their positions count before the counters
	 * are corrected. */
	for (size_t i = 0; i < sizeof(cached) / sizeof(*cached); i++) {
		int64_t count = now.counter[cached[i]], most = whole ? n + CACHE : all;
		int64_t end = whole ? whole->counter[cached[i]] : 0;
		DEMAND(within(count, (end < 0 ? end : 0) - most, (end > 0 ? end : 0) + most));
		DEMAND(!ended || count == end);
	}
	if (o->kind == PUTS && result == 0 && !o->beside)
		DEMAND(now.counter[COUNT_ENQUEUE] == n);
	if (o->kind == GETS && result != PENDING && !o->beside)
		DEMAND(now.counter[COUNT_DEQUEUE] == (result > 0 ? result : 0));
	/* Each member that was alive or dead when the victim began has died once, unless it
	 * detached. */
	int64_t deaths = now.deaths - before->deaths,
		lives = before->lives - (o->beside && !scene.companion_died);
	DEMAND(within(deaths, lives - o->detaches, lives + (o->unattached ? 2 : 0)));
	audit_stats(&scene.pool, &stats);
	DEMAND(stats.deaths == (uint64_t)now.deaths);
	DEMAND(stats.counters[COUNT_ALLOC] ==
	       (uint64_t)(now.counter[COUNT_ALLOC] + before->counter[COUNT_ALLOC] +
			  count_of(scene.a, COUNT_ALLOC) + count_of(scene.b, COUNT_ALLOC)));
}

void scene_check(int exact)
{
	recover_all();
	check_names();
	check_sums();
	scene_drain();
	check_messages(exact);
	if (scene.operation->check)
		scene.operation->check(&scene);
	check_use();
	scene_audit();
}
