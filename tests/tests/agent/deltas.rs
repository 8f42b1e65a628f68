//! A running agent is sent what it lacks of its site's statements, and no more.

use std::time::Duration;

use freehold_tests::world::{ShiftedClock, until};
use serde_json::json;

use super::plane::PlaneProcess;

/// What a control plane says that it has served: whole sets, deltas, and the bytes of each.
#[derive(Debug, Clone, Copy)]
struct Served {
    whole: (f64, f64),
    delta: (f64, f64),
}

/// As the control plane counts it, in a process of its own: metrics are counted by process.
async fn served(plane: &PlaneProcess) -> Served {
    let text = reqwest::get(plane.url("/metrics")).await.unwrap().text().await.unwrap();
    let number = |name: &str, form: &str| {
        let line = format!("{name}{{form=\"{form}\"}} ");
        text.lines().find_map(|found| found.strip_prefix(&line)).map_or(0.0, |number| number.parse().unwrap())
    };
    let both = |form| (number("freehold_statements_served_total", form), number("freehold_statements_served_bytes_total", form));
    Served { whole: both("whole"), delta: both("delta") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_is_sent_what_it_lacks_and_enforces_it() {
    let clock = ShiftedClock::new();
    let (mut plane, world) = PlaneProcess::start(&clock, false).await;
    let config = world.agent_config("agent", "plain_http = true");
    world.enrol(&config).await;
    world.encryption_key("cards").await;
    let token = world.caller("app", &config).await;
    let agent = world.agent(&config).await;
    let body = json!({ "key": "payments/cards", "plaintext": "AAAA" });
    world.publish("permit (principal, action, resource);").await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;

    let before = served(&plane).await;
    assert!(before.whole.0 >= 1.0 && before.delta.0 >= 1.0, "{before:?}");
    world.publish("permit (principal, action == Action::\"decrypt\", resource);").await;
    until(|| async {
        let (status, answer) = world.call(&agent, "/v1/encrypt", &token, &body).await;
        if status == 403 { Ok(()) } else { Err(format!("{status} {answer}")) }
    })
    .await;
    let after = served(&plane).await;
    assert_eq!(after.whole, before.whole, "nothing was asked for whole");
    let (count, bytes) = (after.delta.0 - before.delta.0, after.delta.1 - before.delta.1);
    assert!(count >= 1.0 && bytes / count < after.whole.1 / after.whole.0 / 2.0, "{before:?} {after:?}");

    // A minute later it hears that nothing has changed.
    clock.advance(Duration::from_secs(61));
    until(|| async {
        let later = served(&plane).await;
        if later.delta.0 > after.delta.0 { Ok(()) } else { Err(format!("{later:?}")) }
    })
    .await;

    // A control plane that was started again goes on from what another served.
    plane.kill();
    plane.revive();
    until(|| async { world.try_query("{ viewer { tenant { id } } }", json!({})).await.map(drop) }).await;
    world.publish("permit (principal, action, resource);").await;
    world.until_allowed(&agent, "/v1/encrypt", &token, &body).await;
    let served = served(&plane).await;
    assert!(served.whole.0 == 0.0 && served.delta.0 >= 1.0, "{served:?}");
    agent.stop().await.unwrap();
}
