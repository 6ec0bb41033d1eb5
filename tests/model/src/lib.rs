//! Model checking of herd's lock-free parts: loom runs each model under every interleaving, and with every
//! stale value that the memory model lets a thread read.
//!
//! The files under test are herd's own, compiled over loom's atomics (see `mutants.rs`). Each model holds on them
//! as they are, and fails on copies with the mistakes that it is there to find: a model that cannot fail proves
//! nothing. Where the order of steps is a caller's, the mistake is a model with the wrong order.
#![cfg(test)]
// A copy of a whole file brings more than one model uses, and a mutation makes more of it unused.
#![allow(dead_code, unused_imports, unreachable_pub)]
// The models are compiled once per variant.
#![allow(clippy::duplicate_mod)]

mod notify;

include!(concat!(env!("OUT_DIR"), "/variants.rs"));

/// `model fails { mistake: how it shows }`
macro_rules! models {
    ($($model:ident fails { $($mutation:ident: $how:literal)* })*) => {$(
        mod $model {
            #[test]
            fn holds() {
                crate::real::driver::models::$model();
            }
            $(
                #[test]
                #[should_panic(expected = $how)]
                fn $mutation() {
                    crate::$mutation::driver::models::$model();
                }
            )*
        }
    )*};
}

models! {
    a_closed_session_admits_nobody fails {
        acquire_after_close: "acquired after the close"
    }
    a_disconnect_spares_who_came_since fails {
        close_without_looking_again: "a holder of a dead worker"
    }
    a_session_that_was_left_has_no_holder fails {
        leave_whoever_came: "a holder of a dead worker"
    }
    a_stop_and_the_last_holder_agree_on_who_ends_a_session fails {
        leave_whoever_closed: "ended for two reasons"
    }
    a_session_in_use_until_now_is_not_idle fails {
        count_before_moment: "evicted for idleness"
        moment_read_before_count: "evicted for idleness"
        relaxed_release: "evicted for idleness"
    }
    the_last_holder_of_a_session_that_had_a_stream_is_noticed fails {
        listed_stays_set_during_the_look: "deadlock"
        listed_cleared_by_a_store: "deadlock"
    }
    the_last_holder_of_an_ended_session_is_noticed fails {
        end_unheard: "deadlock"
    }
    a_worker_is_handed_on_after_the_guests_of_its_session fails {
        enter_after_close: "a guest of another session"
        guest_unheard: "deadlock"
    }
    a_stream_that_came_while_its_session_was_quietened_is_heard fails {
        quieten_whoever_came: "a stream left unheard"
    }
    clients_that_leave_together_unanswered_are_noticed fails {
        unanswered_in_two_steps: "all left unheard"
    }
    a_request_becomes_a_stream_without_a_gap fails {}
    a_departure_is_heard_though_the_mailbox_is_full fails {
        departure_announced_by_a_store: "deadlock"
    }
    no_cache_keeps_an_ended_session fails {}
}

#[test]
#[should_panic(expected = "ended between request and stream")]
fn a_request_that_leaves_before_its_stream_comes_leaves_a_gap() {
    real::driver::models::a_gap_between_request_and_stream();
}

#[test]
#[should_panic(expected = "the cache keeps an ended session")]
fn an_ending_told_before_the_close_stays_in_a_cache() {
    real::driver::models::an_ending_told_before_the_close();
}
