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

/* Returns how many slots the warm ring of a class has, a power of two: warm.h. 0: it has none. */
#ifndef GEOMETRY_WARM_SIZE          /* steer.h has smaller ones */
#define GEOMETRY_WARM_SIZE 65536    /* bytes: the smallest buffers that have one */
#define GEOMETRY_WARM_BYTES 8388608 /* of the buffers that it has room for, two at least */
#endif
uint32_t geometry_warm(const struct shmpool_geometry *of);

/* Returns a geometry whose options are those of a class. */
struct shmpool_geometry geometry_of(const struct shmpool_geometry *g, uint32_t class);

#endif
