/* SPDX-License-Identifier: Apache-2.0
 *
 * steps.pml - the numbers of the steps. A step's name is its C function and what the step does there.
 * Steps from STORES on write to shared memory.
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
#define role_take_producer 42
#define role_take_consumer 43
#define queue_release 44
#define alf_publishing 45

#define recover_mark_identity 9
#define recover_mark_op 10
#define recover_mark_tag 11
#define recover_ranges_cons 12
#define recover_ranges_prod 13
#define recover_ranges_role 14
#define recover_ranges_slot 15
#define sweep_unreserve_owner 16
#define sweep_unreserve_slot 17
#define sweep_unreserve_live 18
#define sweep_unreserve_again 19
#define ranges_bury_slot 20
#define ranges_bury_live 21
#define sweep_cons 22
#define sweep_role 23
#define sweep_live 24
#define sweep_owner 25
#define sweep_hand_on 27
#define recover_slots_check 26
#define recover_thieves_cas 49
#define sweep_unreserve_tombstone 50
#define sweep_unreserve_cas 51
#define ranges_bury_cas 52
#define sweep_cas 53
#define sweep_settle 54
#define sweep_abandon 61
#define recover_roles_producer 55
#define recover_roles_consumer 56
#define recover_slots_cas 57
#define recover_slots_op 58
#define recover_slots_identity 59
#define recover_slots_unlock 60

/* Not steps: work that onward() of recover.pml does at once. */
#define thieves_next 200
#define ranges_next 201
#define range_read 202
#define range_added 203
#define unreserve_begin 204
#define unreserve_range 205
#define unreserve_next 206
#define unreserve_cover 207
#define bury_begin 208
#define bury_at 209
#define bury_cover 210
#define sweep_begin 211
#define sweep_next 212
#define roles_begin 213
#define slots_next 214
