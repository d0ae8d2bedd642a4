/* SPDX-License-Identifier: Apache-2.0
 *
 * slab.h - the buffers that exist: the first prealloc of them from creation on, the others extent
 * by extent, reserved before anybody can have them.
 *
 * slab_create  by the creator, alone
 * slab_grow    any number of members: each makes another extent
 *
 * Ordering
 *     [EXTENT]  an extent's word: the member that makes the extent stores EXTENT_PRESENT with
 *               release. A member that reads EXTENT_PRESENT sees the headers initialised.
 *     [TRIMS]  trims: a trimmer replaces EXTENT_PRESENT before it raises trims. A member reads
 *              trims before it reads extents. So a hint made from a word that was replaced later
 *              carries an older count, and is not believed.
 *
 * Progress: nobody waits. An extent whose maker dies stays named after it, and nobody has its
 * buffers.
 */
#ifndef SHMPOOL_SLAB_H
#define SHMPOOL_SLAB_H

#include "segment.h"

/* Makes the shared queue and the first prealloc buffers in it. 0, -ENOSPC. */
int slab_create(const struct segment *s);

/* Where a process begins to look for an absent extent: | trims 39 | extent 25 |. Every extent
 * before that one was present when so many had been taken away (trim.h). Threads of the process
 * share the word and store it whole: a thread that was suspended stores an old count of trims with
 * its place, and that place is not believed any more. */
#define SLAB_EXTENT_BITS 25
_Static_assert(CAPACITY_MAX < 1u << SLAB_EXTENT_BITS, "an extent has one buffer at least");

/* Makes the next absent extent; its buffers get the owner word owner. Returns how many there are,
 * the first one's index in *first; -EAGAIN if every extent is there or being made, -ENOSPC. */
int slab_grow(const struct segment *s, uint64_t *hint, uint64_t owner, uint32_t *first);

/* Buffers that slab_grow() could make, as many as are asked for at most. */
uint64_t slab_absent(const struct segment *s, uint64_t *hint, uint64_t most);

/* Returns the index of the first buffer of extent i. */
static inline uint64_t slab_extent_first(const struct segment *s, uint64_t i)
{
	return (uint64_t)s->geometry.prealloc + i * s->geometry.extent_buffers;
}

/* Returns the number of buffers of extent i. The last extent may have fewer than the others. */
static inline uint32_t slab_extent_size(const struct segment *s, uint64_t i)
{
	uint64_t each = s->geometry.extent_buffers;
	uint64_t left = (uint64_t)s->geometry.capacity - slab_extent_first(s, i);
	return (uint32_t)(left < each ? left : each);
}

/* Buffers that exist: prealloc and those of the extents that are present. */
uint64_t slab_created(const struct segment *s);

/* Whether the file has the memory that it must have for its buffers and rings: what a walk over all
 * of them may touch. A pool that was made and grown has; a crafted file, or one with holes punched
 * into it, may not, and reading its holes would allocate them. Of a small pool, whose walks touch
 * less than SLAB_SMALL, nothing is asked. */
#define SLAB_SMALL (16ull << 20)
bool slab_backed(const struct segment *s);

#endif
