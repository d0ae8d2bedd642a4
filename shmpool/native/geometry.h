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

/* Returns a geometry whose options are those of a class. */
struct shmpool_geometry geometry_of(const struct shmpool_geometry *g, uint32_t class);

#endif
