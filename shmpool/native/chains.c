/* SPDX-License-Identifier: Apache-2.0
 *
 * chains.c - the calls of binding.h that make chains: which buffers, and of those one message.
 */
#include "lookup.h"

/* How many buffers of a class may be used: all that it can ever have, or those free now. */
static uint64_t limit_of(struct qmempool *p, bool now)
{
	const uint64_t capacity = (uint64_t)p->segment.geometry.capacity;
	return now ? qmempool_count(p, capacity) : capacity;
}

int64_t shmpool_chain_plan(uint64_t key, uint64_t length, int now, uint32_t *counts)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	if (error)
		return error;
	const uint32_t classes = segment_classes(&c.p->segment);
	uint64_t left = length + (uint64_t)c.p->segment.geometry.headroom; /* of the head */
	int64_t n = 0;
	for (uint32_t i = classes; i--;) {
		struct qmempool *of = pool_class(c.p, i);
		const uint64_t each = of->segment.stride, most = limit_of(of, now);
		uint64_t want = left / each + (left % each != 0);
		/* The rest, if a smaller class has room for it and the head is another one. */
		if (i && want && (want > 1 || n) && left % each &&
		    left % each <= pool_class(c.p, i - 1)->segment.stride && want - 1 < most &&
		    limit_of(pool_class(c.p, i - 1), now))
			want--;
		counts[i] = (uint32_t)(want < most ? want : most);
		n += counts[i];
		left -= left < counts[i] * each ? left : counts[i] * each;
	}
	return left ? now ? -EAGAIN : -EMSGSIZE : n;
}

int64_t shmpool_chain(uint64_t key, const uint64_t *handles, size_t n)
{
	struct lookup c;
	int error = lookup_key(key, &c);
	for (size_t i = 0; i < n && !error; i++)
		error = qmempool_check(c.p, c.m, handles[i]);
	if (error || n < 2)
		return error;
	for (size_t i = 1; i < n; i++)
		store_relaxed(&pool_buffer(c.p, handle_index(handles[i]))->headroom, 0);
	chain_make(c.p, c.m, handles, (uint32_t)n);
	return 0;
}
