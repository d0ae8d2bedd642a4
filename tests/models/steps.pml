/* SPDX-License-Identifier: Apache-2.0
 *
 * steps.pml - the steps, each by the C function it belongs to and what that does there. From STORES on
 * they write to shared memory.
 */
#define at_rest 0
#define finished 1
#define dead 2
#define alf_reserve_prod 3
#define alf_reserve_cons 4
#define alf_reserve_again 5
#define alf_claim_cons 6
#define alf_read 7
#define alf_claim_again 8

#define STORES 32
#define alf_reserve_op 32
#define alf_reserve_cas 33
#define alf_reserve_op_late 34
#define transfer_in_owner 35
#define alf_publish 36
#define alf_done_in 37
#define alf_claim_op 38
#define alf_claim_cas 39
#define transfer_out_owner 40
#define alf_done_out 41
#define take_role_producer 42
#define take_role_consumer 43
#define queue_release 44

#define recover_mark_op 16
#define recover_mark_check 17
#define recover_voids_prod 18
#define recover_voids_cons 19
#define recover_voids_role 20
#define recover_voids_slot 21
#define recover_voids_cover 22
#define recover_sweep_cons 23
#define recover_sweep_role 24
#define recover_sweep_ops 25
#define recover_sweep_look 26
#define recover_sweep_second 27
#define recover_sweep_cover 28
#define recover_sweep_slot 29
#define recover_finish_check 30
#define recover_thieves_cas 49
#define recover_thieves_free 50
#define recover_voids_cas 51
#define recover_sweep_cas 52
#define recover_settle 53
#define recover_finish_cas 54
#define recover_finish_role 55
#define recover_finish_op 56
#define recover_finish_identity 57
#define recover_finish_thief 58

/* No steps: what onward() of recover.pml does at once. */
#define voids_member 200
#define voids_begin 201
#define voids_end 202
#define voids_next 203
#define after_voids 204
#define after_mark 205
#define after_sweep 206
#define mark_next 207
#define thieves_next 208
#define sweep_next 209
#define seen_next 210
#define finish_next 211
#define voids_cover_next 212
#define sweep_cover_next 213
