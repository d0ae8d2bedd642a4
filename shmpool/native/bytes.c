/* SPDX-License-Identifier: Apache-2.0
 *
 * bytes.c - see bytes.h.
 */
#include "bytes.h"

#include "copy.h"

uint64_t bytes_length(const struct qmempool *p, uint64_t handle)
{
	uint64_t length = 0;
	for (struct bytes_part part = bytes_first(p, handle); part.n;
	     part = bytes_next(p, handle, &part))
		length += part.length;
	return length;
}

uint64_t bytes_room(const struct qmempool *p, uint64_t handle)
{
	uint64_t room = 0;
	for (struct bytes_part part = bytes_first(p, handle); part.n;
	     part = bytes_next(p, handle, &part))
		room += part.room;
	return room;
}

int bytes_set_length(const struct qmempool *p, uint64_t handle, uint64_t length)
{
	if (length > bytes_room(p, handle))
		return -EMSGSIZE;
	for (struct bytes_part part = bytes_first(p, handle); part.n;
	     part = bytes_next(p, handle, &part)) {
		const uint64_t here = length < part.room ? length : part.room;
		store_relaxed(&pool_buffer(p, part.index)->length, (uint32_t)here);
		length -= here;
	}
	return 0;
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
