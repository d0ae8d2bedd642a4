/* SPDX-License-Identifier: Apache-2.0
 *
 * slab.h - the buffers that exist: the first prealloc of them from creation on, the others extent by
 * extent, reserved before anybody can have them.
 *
 * slab_create  by the creator, alone
 * slab_grow    any number of members: each makes another extent
 *
 * Ordering
 *     [EXTENT]  an extent's word: who reads EXTENT_PRESENT sees the headers initialised.
 *
 * Progress: nobody waits. An extent whose maker dies stays named after it, and nobody has its buffers.
 */
#ifndef SHMPOOL_SLAB_H
#define SHMPOOL_SLAB_H

#include "segment.h"

/* Makes the shared queue and the first prealloc buffers in it. 0, -ENOSPC. */
int slab_create(const struct segment *s);

/* Where one process looks for an absent extent: every one before it was present, as long as none has been
 * taken away since (trim.h). */
struct slab_hint {
	uint32_t first;
	uint32_t trims;
};

/* Makes the next absent extent; its buffers get the owner word owner. Returns how many there are, the
 * first one's index in *first; -EAGAIN if every extent is there or being made, -ENOSPC. */
int slab_grow(const struct segment *s, struct slab_hint *absent, uint64_t owner, uint32_t *first);

/* Buffers that exist: prealloc and those of the extents that are present. */
uint64_t slab_created(const struct segment *s);

/* Whether the file has the memory that it must have for its buffers and rings: what a walk over all of them
 * may touch. A pool that was made and grown has; a crafted file, or one with holes punched into it, may
 * not, and reading its holes would allocate them. Of a small pool, whose walks touch less than
 * SLAB_SMALL, nothing is asked. */
#define SLAB_SMALL (16ull << 20)
bool slab_backed(const struct segment *s);

#endif
