/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.c - see bytes.h.
 */
#include "bytes.h"

#include "copy.h"

struct bytes_part bytes_sum(const struct qmempool *p, uint64_t handle)
{
	struct bytes_part sum = { 0 };
	for (struct bytes_part part = bytes_first(p, handle); part.n;
	     part = bytes_next(p, handle, &part)) {
		sum.length += part.length;
		sum.room += part.room;
		sum.n = part.n;
	}
	return sum;
}

void bytes_share_out(const struct qmempool *p, uint64_t handle, uint64_t length)
{
	for (struct bytes_part part = bytes_first(p, handle); part.n;
	     part = bytes_next(p, handle, &part)) {
		const uint64_t here = length < part.room ? length : part.room;
		store_relaxed(&pool_buffer(p, part.index)->length, (uint32_t)here);
		length -= here;
	}
}

uint64_t bytes_copy_out(const struct qmempool *p, uint64_t handle, char *to, uint64_t n)
{
	uint64_t done = 0;
	for (struct bytes_part part = bytes_first(p, handle); part.n && done < n;
	     part = bytes_next(p, handle, &part)) {
		const uint64_t here = part.length < n - done ? part.length : n - done;
		copy_bytes(to + done, part.data, here);
		done += here;
	}
	return done;
}
