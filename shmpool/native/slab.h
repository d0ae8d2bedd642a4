/* SPDX-License-Identifier: Apache-2.0
 *
 * slab.h - the buffers that exist: the first prealloc of them from creation on, the others extent
 * by extent. Their memory is reserved before any member can get them.
 *
 *     slab_create  the creator only
 *     slab_grow    any number of members at once, each of which creates another extent
 *
 *     extent's word     meaning                        a crash of that member leaves; repaired by
 *     0                 absent
 *     tag               that member creates it or      an extent that no member uses:
 *                       removes it (trim.h)            recover_makers() makes it absent
 *     EXTENT_PRESENT    its buffers exist
 *
 *     from -> to        by                                               in
 *     0 -> tag          a member that grows the slab, by CAS             slab_grow()
 *     tag -> PRESENT    that member, once the headers are initialised    slab_grow()
 *     tag -> 0          that member, if there is no memory for it        slab_grow()
 *     PRESENT -> tag    a trimmer that owns all its buffers, by CAS      trim()
 *     tag -> 0          the trimmer                                      trim()
 *     tag -> PRESENT    the same, if a process has the pool pinned       trim()
 *     tag -> 0          a recoverer, if that member is dead, by CAS      recover_makers()
 *
 * Ordering
 *     [EXTENT]  an extent's word: the member that makes the extent stores EXTENT_PRESENT with
 *               release. A member that reads EXTENT_PRESENT sees the headers initialised.
 *     [TRIMS]  trims: a trimmer replaces EXTENT_PRESENT before it raises trims. A member reads
 *              trims before it reads extents. So a hint made from a word that was replaced later
 *              carries an older count, and is not believed.
 *
 * Progress: no member waits for another one.
 */
#ifndef SHMPOOL_SLAB_H
#define SHMPOOL_SLAB_H

#include "segment.h"

/* Creates the class's free ring with the first prealloc buffers in it. Returns 0, or what
 * segment_reserve() returns. */
int slab_create(const struct segment *s);

/* A process's hint where to search for an absent extent: | trims 39 | extent 25 |. All extents
 * before that one were present when pool_shared.trims had that value; with another value the hint
 * counts as 0. Threads share the word and store it whole, so a thread that was suspended stores an
 * old count of trims with its extent, and such a hint is ignored. */
#define SLAB_EXTENT_BITS 25
_Static_assert(CAPACITY_MAX < 1u << SLAB_EXTENT_BITS, "an extent has one buffer at least");

/* Creates the next absent extent, and gives its buffers the owner word owner. Returns the number of
 * its buffers, and stores the first one's index in *first; -EAGAIN if all extents exist or are
 * being created; or what segment_reserve() returns. */
int slab_grow(const struct segment *s, uint64_t *hint, uint64_t owner, uint32_t *first);

/* Returns the number of buffers that slab_grow() could create, or most if there are more. */
uint64_t slab_absent(const struct segment *s, uint64_t *hint, uint64_t most);

/* Returns the index of the first buffer of extent i. */
static inline uint64_t slab_extent_first(const struct segment *s, uint64_t i)
{
	return s->first + (uint64_t)s->geometry.prealloc + i * s->geometry.extent_buffers;
}

/* Returns the number of buffers of extent i. The last extent may have fewer than the others. */
static inline uint32_t slab_extent_size(const struct segment *s, uint64_t i)
{
	uint64_t each = s->geometry.extent_buffers;
	uint64_t left = s->first + (uint64_t)s->geometry.capacity - slab_extent_first(s, i);
	return (uint32_t)(left < each ? left : each);
}

/* Returns the number of buffers of the class that exist: prealloc and those of the present
 * extents. */
uint64_t slab_created(const struct segment *s);

/* True if the file has the memory that its buffers and rings need, so that a walk over all of them
 * allocates nothing. False for a crafted file, or one with holes punched into it: reading a hole
 * allocates it. Always true for a small pool, whose walks touch at most SLAB_SMALL bytes. */
#define SLAB_SMALL (16ull << 20)
bool slab_backed(const struct segment *s);

#endif
