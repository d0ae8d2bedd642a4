/* SPDX-License-Identifier: Apache-2.0
 *
 * test_slots.c - where the queue slots lie: none over another one or over what comes behind them,
 * and neighbours in different pages.
 */
#include "check.h"
#include "segment.h"

static char used[(QUEUES_MAX + 1) * sizeof(struct queue_slot) * 2];

static void slots_of(int64_t queues, int64_t classes, int64_t buffer_size)
{
	struct shmpool_geometry g = {
		.buffer_size = buffer_size,
		.capacity = 64,
		.prealloc = SHMPOOL_DEFAULT,
		.bulk = SHMPOOL_DEFAULT,
		.refill_multiplier = SHMPOOL_DEFAULT,
		.cache_size = SHMPOOL_DEFAULT,
		.headroom = 0,
		.members = 3,
		.queues = queues,
		.classes = classes,
	};
	for (int64_t i = 1; i < classes; i++)
		g.more[i - 1] = (struct shmpool_class) {
			.buffer_size = buffer_size * (i + 1),
			.capacity = 64,
			.prealloc = SHMPOOL_DEFAULT,
			.cache_size = SHMPOOL_DEFAULT,
		};
	struct segment s = { 0 };
	struct shmpool_refusal why;
	EQUAL(0, segment_plan(&s, &g, &why));
	EQUAL(0, s.queues_offset % QUEUE_PAGE);
	CHECK(s.queues_offset >= s.members_offset + s.members * s.member_stride);
	memset(used, 0, sizeof(used));
	for (uint32_t i = 0; i < s.rings; i++) {
		/* The mapping begins at 0, so that addresses are offsets. */
		const uint64_t at = (uint64_t)(uintptr_t)segment_queue(&s, i);
		CHECK(at >= s.queues_offset && at + sizeof(struct queue_slot) <= s.extents_offset);
		CHECK(at / QUEUE_PAGE == (at + sizeof(struct queue_slot) - 1) / QUEUE_PAGE);
		EQUAL(0, at % CACHE_LINE);
		char *const mine = used + (at - s.queues_offset) / CACHE_LINE;
		for (uint32_t k = 0; k < sizeof(struct queue_slot) / CACHE_LINE; k++) {
			EQUAL(0, mine[k]);
			mine[k] = 1;
		}
		for (uint32_t k = i < QUEUE_PAGES ? 0 : i - QUEUE_PAGES + 1; k < i; k++)
			CHECK(at / QUEUE_PAGE !=
			      (uint64_t)(uintptr_t)segment_queue(&s, k) / QUEUE_PAGE);
	}
}

int main(void)
{
	const int64_t most = QUEUES_MAX - 1;
	for (int64_t queues = 1; queues <= most; queues++)
		slots_of(queues, 1, 64);
	for (int64_t queues = 1; queues <= most - 16; queues += 7) {
		slots_of(queues, 8, 64);
		slots_of(queues, 8, 65536);
	}
	return 0;
}
