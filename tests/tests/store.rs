//! One suite for every engine of the event store, its keys at rest, its read model and its reactors.

mod store {
    pub(crate) mod at_rest;
    pub(crate) mod crash;
    pub(crate) mod log;
    pub(crate) mod reactors;
    pub(crate) mod read_model;
    pub(crate) mod world;
}

use freehold_tests::database::Engine;
use store::{at_rest, crash, log, reactors, read_model};

/// Every case, on both engines.
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
    log::blobs_come_back;
    log::a_closed_store_says_so;
    crash::every_acknowledged_record_survives_kill_9;
    at_rest::a_wrong_sealing_key_is_refused_by_fingerprint;
    at_rest::a_stolen_database_tells_no_names;
    at_rest::tenants_share_nothing;
    at_rest::a_rotated_data_key_opens_old_and_new;
    at_rest::an_erased_tenant_is_gone_and_others_are_not;
    at_rest::secrets_come_back_and_the_first_stays;
    read_model::it_can_be_rebuilt_to_the_same_rows;
    read_model::it_is_found_by_what_it_is_indexed_by;
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
    log::replicas_share_one_log().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn replicas_share_one_read_model() {
    read_model::replicas_project_together().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_commit_without_an_answer_is_read_back() {
    crash::a_commit_without_an_answer_is_read_back().await;
}
