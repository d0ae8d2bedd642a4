/* SPDX-License-Identifier: Apache-2.0
 *
 * kill_victim.h - operations of the victim: their set-up, what is killed, and additional checks.
 */
#ifndef KILL_VICTIM_H
#define KILL_VICTIM_H

#include "kill_scene.h"

/* Set-up, before the victim is traced. */
void alloc_own(struct scene *s);
void alloc_parts(struct scene *s);
void alloc_parts_back(struct scene *s);
void get_own(struct scene *s);
void get_own_full(struct scene *s);
void get_own_again(struct scene *s);
void fill_letter(struct scene *s);
void empty_cache(struct scene *s);
void use_cache_up(struct scene *s);
void fill_cache(struct scene *s);
void run_dry(struct scene *s);
void run_all_dry(struct scene *s);
void some_cached(struct scene *s);
void asked_for(struct scene *s);
void all_home(struct scene *s);
void open_locally(struct scene *s);
void attach_locally(struct scene *s);
void attach_with_chain(struct scene *s);
void have_data(struct scene *s);
void have_two(struct scene *s);
void have_last(struct scene *s);
void take_front(struct scene *s);
void unblock(struct scene *s);
void make_queue(struct scene *s);
void get_own_ended(struct scene *s);
void about_to_grow(struct scene *s);
void about_to_move(struct scene *s);

/* The operations that are killed. */
int put_own(struct scene *s);
int put_aside(struct scene *s);
int nack_own(struct scene *s);
int nack_wait(struct scene *s);
int nack_later(struct scene *s);
int move_aside(struct scene *s);
int move_to_letter(struct scene *s);
int put_wait(struct scene *s);
int get_some(struct scene *s);
int get_wait(struct scene *s);
int alloc_some(struct scene *s);
int request_all(struct scene *s);
int give_back(struct scene *s);
int make_chain(struct scene *s);
int send_data(struct scene *s);
int receive_data(struct scene *s);
int attach_member(struct scene *s);
int attach(struct scene *s);
int open_and_attach(struct scene *s);
int detach_member(struct scene *s);
int detach(struct scene *s);
int create_queue(struct scene *s);
int create_too_many(struct scene *s);
int end_queue(struct scene *s);
int count_unfinished(struct scene *s);
int create_segment(struct scene *s);
int recover_dead(struct scene *s);
int trim_all_but(struct scene *s);
int pin_all(struct scene *s);
int use_device(struct scene *s);
int leave_device(struct scene *s);
void check_unpinned(struct scene *s);

/* The operations in which a companion is suspended, owning three buffers and more in its
 * cache. */
int alloc_beside(struct scene *s);
int alloc_many_beside(struct scene *s);
int refill_beside(struct scene *s);
int give_beside(struct scene *s);
int trim_beside(struct scene *s);
int free_beside(struct scene *s);
int flush_beside(struct scene *s);
int put_beside(struct scene *s);
int recover_beside(struct scene *s);

/* Checks after the operation. */
void check_queue(struct scene *s);
void check_lanes(struct scene *s);
void check_none(struct scene *s);
void check_ended(struct scene *s);
void check_unfinished(struct scene *s);
void check_returned(struct scene *s);
void check_segment(struct scene *s);
void check_nacked(struct scene *s);

/* What the subject queue says has memory has it, and has grown if the put returned. */
void check_grown(struct scene *s);
void check_fuller(struct scene *s); /* what get_own_full() published has come out */
void check_beside(struct scene *s); /* put_beside()'s message has come out */

#endif
