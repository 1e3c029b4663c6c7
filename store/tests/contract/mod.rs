//! The one suite that every form of the store passes: laws over [`avsweep_store::Store`], each on a fresh store.
//!
//! `contract_suite!(make)` writes one test per law, where `make` is an `async fn() -> anyhow::Result<(G, S)>` that
//! gives a new empty store `S` and whatever must live as long (a folder, a server).

pub(crate) mod deleting;
pub(crate) mod fixture;
pub(crate) mod guards;
pub(crate) mod history;
pub(crate) mod jobs;
pub(crate) mod leases;
pub(crate) mod model;
pub(crate) mod planning;
pub(crate) mod racing;
pub(crate) mod reports;
pub(crate) mod searching;
pub(crate) mod shares;
pub(crate) mod sharing;
pub(crate) mod sweeps;
pub(crate) mod workers;

/// One test per law. A new form of the store needs its `make` and this one line, beside the file `tests/<form>.rs`:
/// `mod contract; contract::contract_suite!(crate::make);`. The laws say all that [`avsweep_store::Store`] promises; the
/// order of sweeps in a claim is `avsweep_store`'s own `fair::order` in every form.
macro_rules! contract_suite {
    ($make:path) => {
        contract_suite!($make, 40);
    };
    ($make:path, $histories:literal) => {
        contract_suite!(@each $make;
            sweeps::creating_a_sweep_twice_finds_the_first,
            sweeps::a_name_with_another_definition_is_refused,
            sweeps::the_same_sweep_elsewhere_brings_its_paths_up_to_date,
            sweeps::an_unsound_definition_is_refused,
            sweeps::a_definition_comes_back_bit_for_bit,
            sweeps::a_sweep_is_found_by_name_and_by_number,
            sweeps::only_allowed_changes_of_state_happen,
            sweeps::totals_count_jobs_by_rung_and_state,
            sweeps::paused_and_cancelled_sweeps_hand_nothing_out,
            sweeps::a_cancelled_sweep_does_not_hold_up_others,
            planning::planning_twice_adds_nothing,
            planning::a_job_planned_twice_in_one_plan_is_one_job,
            planning::an_empty_plan_changes_nothing,
            planning::a_plan_with_a_bad_job_is_refused_as_a_whole,
            planning::points_come_in_the_order_of_their_ticks,
            planning::the_jobs_of_a_point_are_listed_by_rung_and_slice,
            planning::generation_without_judgement_is_listed_until_it_is_planned,
            planning::large_plans_keep_their_order,
            leases::jobs_are_leased_by_priority_then_age,
            leases::only_the_rungs_asked_for_are_leased,
            leases::a_leased_job_says_what_it_is_on,
            leases::a_late_report_from_a_lost_lease_changes_nothing,
            leases::a_wrong_token_or_attempt_changes_nothing,
            leases::an_unknown_job_is_refused,
            leases::renewing_keeps_a_lease_past_its_first_end,
            leases::a_lease_is_held_up_to_its_end_and_lost_after,
            leases::lost_workers_are_counted_and_park_the_job_at_their_limit,
            leases::errors_are_counted_apart_from_lost_workers,
            leases::a_parked_job_runs_again_on_request_with_clean_counts,
            leases::a_released_job_is_ready_again_and_nothing_is_counted,
            leases::reaping_all_takes_back_what_has_not_expired,
            leases::a_partly_reported_job_is_leased_again_for_what_is_missing,
            leases::a_job_that_lacks_nothing_is_closed_instead_of_leased,
            leases::a_claim_among_several_whose_jobs_lack_nothing_gets_others,
            reports::results_come_back_bit_for_bit,
            reports::a_result_reported_twice_is_stored_once_and_counted,
            reports::the_first_result_stays,
            reports::the_last_report_repeated_is_lost_and_changes_nothing,
            reports::a_last_report_with_a_query_missing_is_refused,
            reports::a_malformed_report_is_refused_and_stores_nothing,
            reports::a_malformed_verdict_is_refused,
            reports::times_are_summed,
            reports::tallies_follow_every_report,
            reports::pages_of_results_join_up_whatever_their_size,
            sharing::a_second_sweep_over_the_same_inputs_evaluates_nothing,
            sharing::a_sweep_with_more_queries_asks_only_for_those_it_lacks,
            sharing::results_reported_for_one_sweep_count_in_the_other_at_once,
            sharing::sweeps_over_other_inputs_share_nothing,
            sharing::an_identical_response_is_judged_once,
            sharing::a_response_judged_meanwhile_keeps_its_first_verdict,
            sharing::queries_of_one_content_under_two_ids_are_evaluated_once,
            searching::a_strategy_sees_what_came_of_its_points,
            searching::without_likelihoods_a_point_is_measured_when_its_responses_are_judged,
            searching::by_verdicts_a_point_with_likelihoods_is_measured_when_both_are_there,
            searching::choices_are_written_with_their_plans_and_go_with_their_sweep,
            racing::a_raced_job_is_closed_with_what_else_was_planned_at_its_point,
            racing::a_lost_lease_closes_nothing,
            racing::a_raced_job_that_is_wanted_after_all_goes_on_where_it_was,
            guards::one_holder_at_a_time_may_plan,
            guards::a_guard_is_extended_by_its_holder_in_the_same_term,
            guards::a_plan_under_a_lost_guard_writes_nothing,
            guards::a_sweep_with_an_open_job_is_not_finished,
            shares::a_sweep_of_higher_priority_goes_first,
            shares::equal_sweeps_get_equal_shares,
            shares::shares_are_counted_by_the_rungs_asked_for,
            shares::a_claim_takes_from_one_sweep_what_it_can,
            shares::a_preferred_sweep_keeps_its_worker,
            shares::an_excepted_sweep_is_left_to_others,
            shares::several_claims_get_what_they_would_one_after_the_other,
            shares::claims_at_once_get_equal_shares_of_equal_sweeps,
            deleting::a_sweep_that_is_worked_on_is_not_deleted,
            deleting::a_deleted_sweep_is_gone_and_its_numbers_with_it,
            deleting::deleting_keeps_what_others_share,
            deleting::a_verdict_stays_while_a_response_elsewhere_has_it,
            deleting::a_large_sweep_is_deleted_as_a_whole,
            jobs::jobs_are_listed_by_number_in_pages,
            jobs::jobs_are_listed_as_they_stand,
            jobs::listed_jobs_are_retried_and_no_others,
            jobs::retrying_makes_a_done_sweep_run_again,
            jobs::failures_are_summed_whatever_is_retried,
            jobs::a_job_that_gets_on_is_not_parked_for_its_lost_workers,
            jobs::a_killed_process_is_blamed_on_the_job_it_was_on,
            jobs::jobs_leased_with_a_poisoned_one_are_not_parked_with_it,
            workers::a_worker_is_remembered_as_it_last_said,
            workers::a_worker_is_listed_with_the_jobs_it_holds,
            workers::forgetting_spares_who_was_seen_and_who_holds_a_lease,
            workers::the_overview_sums_every_sweep,
        );

        #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn two_claims_never_get_the_same_job() -> anyhow::Result<()> {
            let (_guard, store) = $make().await?;
            $crate::contract::leases::two_claims_never_get_the_same_job(std::sync::Arc::new(store)).await
        }

        #[test]
        fn any_history_agrees_with_the_model() -> anyhow::Result<()> {
            $crate::contract::history::any_history_agrees_with_the_model($histories, || $make())
        }
    };
    (@each $make:path; $($module:ident::$law:ident,)*) => {
        $(
            #[tokio::test]
            async fn $law() -> anyhow::Result<()> {
                let (_guard, store) = $make().await?;
                $crate::contract::$module::$law(&store).await
            }
        )*
    };
}
pub(crate) use contract_suite;
