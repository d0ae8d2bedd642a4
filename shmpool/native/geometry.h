/* SPDX-License-Identifier: Apache-2.0
 *
 * geometry.h - the options of a pool: their ranges and defaults, and what each can be beside the
 * others.
 *
 * Who may call what at the same time: any thread anything.
 */
#ifndef SHMPOOL_GEOMETRY_H
#define SHMPOOL_GEOMETRY_H

#include "shmpool.h"

/* The values that an option can have whatever the others are, and its default. */
struct shmpool_range geometry_range(enum shmpool_option option);

/* Fills in the defaults of all classes and checks each option. 0, or -EINVAL and *why: the option,
 * its class, and the values that it can have. */
int geometry_check(struct shmpool_geometry *g, struct shmpool_refusal *why);

/* Returns how many side rings a class has (side.h), and stores in *room how many slots each has, a
 * power of two. */
#ifndef GEOMETRY_WARM_SIZE          /* steer.h has smaller ones */
#define GEOMETRY_WARM_SIZE 65536    /* bytes: the smallest buffers that have a warm ring */
#define GEOMETRY_WARM_BYTES 8388608 /* of the buffers that it has room for, two at least */
#endif
#ifndef GEOMETRY_SIDE_BULKS
#define GEOMETRY_SIDE_BULKS 4 /* the least room that each of several side rings has */
#endif
uint32_t geometry_sides(const struct shmpool_geometry *of, uint32_t *room);

/* Returns a geometry whose options are those of a class. */
struct shmpool_geometry geometry_of(const struct shmpool_geometry *g, uint32_t class);

#endif
