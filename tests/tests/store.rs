//! One suite for every engine of the event store, its keys at rest, its read model and its reactors.

mod store {
    pub(crate) mod at_rest;
    pub(crate) mod backups;
    pub(crate) mod crash;
    pub(crate) mod demand;
    pub(crate) mod disk;
    pub(crate) mod fire;
    pub(crate) mod kurrent;
    pub(crate) mod log;
    pub(crate) mod model;
    pub(crate) mod moving;
    pub(crate) mod persons;
    pub(crate) mod reactors;
    pub(crate) mod read_model;
    pub(crate) mod roles;
    pub(crate) mod rotation;
    pub(crate) mod sources;
    pub(crate) mod verify;
    pub(crate) mod world;
}

use freehold_tests::database::Engine;
use store::{
    at_rest, backups, crash, demand, disk, fire, kurrent, log, model, moving, persons, reactors, read_model, roles, rotation, sources,
    verify,
};

/// Every case, on every engine.
macro_rules! conformance {
    ($($module:ident :: $case:ident;)*) => {
        mod sqlite {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $module::$case(Engine::Sqlite).await;
            })*
        }

        mod postgres {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $module::$case(Engine::Postgres).await;
            })*
        }

        mod postgres_roles {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $module::$case(Engine::PostgresRoles).await;
            })*
        }

        mod kurrentdb {
            use super::*;
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $case() {
                $module::$case(Engine::Kurrent).await;
            })*
        }
    };
}

conformance! {
    log::records_come_back_in_their_exact_bytes;
    log::of_many_writers_to_one_revision_one_wins;
    log::losers_do_not_hurt_their_batch;
    log::the_same_append_twice_is_one;
    log::what_the_database_refuses_is_certainly_not_kept;
    log::malformed_appends_are_refused;
    log::a_follower_never_misses_or_repeats;
    log::random_histories_read_back;
    model::random_concurrent_histories_make_sense;
    log::blobs_come_back;
    log::a_tenant_has_a_ledger_of_its_own;
    log::the_end_of_a_long_ledger_is_found_without_its_beginning;
    log::a_closed_store_says_so;
    crash::every_acknowledged_record_survives_kill_9;
    at_rest::a_wrong_sealing_key_is_refused_by_fingerprint;
    at_rest::a_stolen_database_tells_no_names;
    at_rest::tenants_share_nothing;
    at_rest::a_rotated_data_key_opens_old_and_new;
    at_rest::an_erased_tenant_is_gone_and_others_are_not;
    at_rest::secrets_come_back_and_the_first_stays;
    persons::an_erased_person_is_gone_and_every_record_stays;
    persons::what_was_erased_is_erased_again_after_a_restore;
    persons::an_erasure_on_record_is_carried_out;
    rotation::the_sealing_key_is_replaced_under_traffic;
    rotation::a_rotation_that_is_killed_goes_on;
    rotation::another_process_picks_the_sealing_key_up;
    rotation::what_others_do_with_data_keys_is_heard;
    rotation::keys_that_do_not_say_what_they_hang_from_open;
    read_model::it_can_be_rebuilt_to_the_same_rows;
    verify::a_planted_difference_is_shown_and_nothing_is_changed;
    read_model::it_is_found_by_what_it_is_indexed_by;
    read_model::what_is_known_is_brought_up_to_the_present;
    read_model::it_can_be_asked_as_of_a_time;
    read_model::pages_go_both_ways;
    read_model::waiting_is_bounded;
    reactors::a_reactor_gets_everything_in_order_and_goes_on_where_it_was;
    reactors::a_failing_reactor_gets_the_same_again;
    reactors::an_overtaken_leader_cannot_move_the_cursor;
    reactors::a_reactor_s_work_and_its_lease_may_wait_for_the_same_connection;
}

/// Not a test of its own: what `every_acknowledged_record_survives_kill_9` kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn crashing_writer() {
    crash::child().await;
}

/// Not a test of its own: what `a_rotation_that_is_killed_goes_on` kills.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rotating_operator() {
    rotation::child().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_keeps_the_sealing_key() {
    sources::a_server_keeps_the_sealing_key().await;
}

#[test]
fn the_sealing_key_moves_from_source_to_source() {
    sources::from_source_to_source();
}

/// Not a test of its own: what writes on a failing disk.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn faulty_writer() {
    disk::child().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_write_and_sync_of_sqlite_may_fail() {
    disk::every_write_and_sync_of_sqlite_may_fail().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loss_of_power_keeps_what_was_acknowledged() {
    disk::a_loss_of_power_keeps_what_was_acknowledged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_connection_may_be_cut_anywhere() {
    fire::a_connection_may_be_cut_anywhere().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_restarts_under_load_loses_and_repeats_nothing() {
    fire::a_server_that_restarts_under_load_loses_and_repeats_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_that_stands_still_loses_its_locks() {
    fire::a_writer_that_stands_still_loses_its_locks().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_promoted_standby_has_everything_that_was_acknowledged() {
    fire::a_promoted_standby_has_everything_that_was_acknowledged().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_keeps_commits_to_itself_is_refused_on_demand() {
    fire::a_server_that_keeps_commits_to_itself_is_refused_on_demand().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_proves_who_it_is() {
    fire::a_server_proves_who_it_is().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_writer_adds_and_changes_nothing() {
    roles::a_writer_adds_and_changes_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_query_that_forgets_its_tenant_sees_one() {
    roles::a_query_that_forgets_its_tenant_sees_one().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_table_is_given_or_kept_by_choice() {
    roles::every_table_is_given_or_kept_by_choice().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_model_can_be_split_by_tenant() {
    roles::the_read_model_can_be_split_by_tenant().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn roles_that_may_too_much_are_refused() {
    roles::roles_that_may_too_much_are_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn roles_are_made_by_command_and_again_without_harm() {
    roles::roles_are_made_by_command_and_again_without_harm().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_on_the_same_file_is_refused() {
    log::a_second_start_is_refused().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_database_is_named_without_its_password() {
    log::an_unreachable_database_is_named().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_share_one_log() {
    log::replicas_share_one_log(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_share_one_log_in_kurrentdb() {
    log::replicas_share_one_log(Engine::Kurrent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_prefix_is_complete_whoever_writes() {
    model::a_prefix_is_complete_whoever_writes(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_prefix_is_complete_whoever_writes_to_kurrentdb() {
    model::a_prefix_is_complete_whoever_writes(Engine::Kurrent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_share_one_read_model() {
    read_model::replicas_project_together(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_share_one_read_model_beside_kurrentdb() {
    read_model::replicas_project_together(Engine::Kurrent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_without_an_answer_is_read_back() {
    crash::a_commit_without_an_answer_is_read_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_append_to_kurrentdb_without_an_answer_is_read_back() {
    kurrent::an_append_without_an_answer_is_read_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn followers_of_kurrentdb_outlive_its_connections() {
    kurrent::followers_outlive_connections().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_absent_kurrentdb_is_told_within_a_time() {
    kurrent::an_absent_server_is_told().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn streams_of_kurrentdb_show_ids_only() {
    kurrent::streams_show_ids_only().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_root_that_demands_a_ledger_is_not_served_without_a_standby() {
    demand::a_root_that_demands_a_ledger_is_not_served_without_a_standby().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deployment_moves_from_store_to_store_and_back() {
    moving::there_and_back().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_that_is_broken_off_goes_on() {
    moving::a_broken_off_move_goes_on().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_in_use_is_moved_and_nothing_is_overwritten() {
    moving::what_is_not_moved().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_move_finds_differences() {
    moving::differences_are_found().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn records_without_their_keys_are_refused() {
    moving::records_without_their_keys_are_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sound_store_is_found_sound_and_every_damage_is_named() {
    verify::every_damage_is_named().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_read_model_is_rebuilt_under_live_writes() {
    verify::rebuilt_under_live_writes(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_read_model_is_rebuilt_under_live_writes_through_roles() {
    verify::rebuilt_under_live_writes(Engine::PostgresRoles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_backup_comes_back_whole_or_not_at_all() {
    backups::a_backup_comes_back_whole_or_not_at_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_drill_proves_a_backup_or_says_why_not() {
    backups::a_drill_proves_a_backup_or_says_why_not().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn backups_are_made_by_the_clock_and_trouble_is_told() {
    backups::by_the_clock().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgresql_is_backed_up_beside_a_control_plane() {
    backups::of_postgres_beside_a_control_plane(Engine::Postgres).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgresql_with_roles_is_backed_up_verified_and_rebuilt_as_who_owns_it() {
    backups::of_postgres_beside_a_control_plane(Engine::PostgresRoles).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_older_backup_does_not_bring_back_who_was_erased() {
    backups::an_older_backup_does_not_bring_back_who_was_erased().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn postgresql_goes_back_to_a_point_in_time_by_its_own_tools() {
    backups::to_a_point_in_time().await;
}
