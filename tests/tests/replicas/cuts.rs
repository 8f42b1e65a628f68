//! A client whose control plane loses its connections to the database asks again with the same idempotency key.

use freehold_tests::{
    cutting::{Cut, Cutting, Plan},
    database::{Engine, TestDatabase},
};

use super::super::*;

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_gets_the_first_answer() {
    let database = TestDatabase::new(Engine::Postgres).unwrap();
    let cutting = Cutting::start(database.server().unwrap().socket()).await.unwrap();
    let url = cutting.url(&database.name(), "freehold");
    let world = World::start(|config| config.store.url = Some(url)).await;
    let token = world.tenant("acme").await;
    let (mut tried_again, mut rounds) = (0, 0);
    for cut in [Cut::Before, Cut::Half, Cut::After] {
        for (n, words) in [(0, Some(&b"COMMIT"[..])), (0, Some(&b"INSERT INTO records"[..])), (0, None), (2, None), (5, None), (9, None)] {
            rounds += 1;
            let name = format!("p{rounds}");
            let mutation = format!(
                "mutation {{ createProject(input: {{ name: \"{name}\", idempotencyKey: \"{name}\" }}) {{ project {{ id }} userErrors {{ code }} }} }}"
            );
            cutting.cut([Plan { pass: n, cut }, Plan { pass: 3, cut }], words);
            let mut answers = Vec::new();
            // Until it is answered twice: the second time nothing is cut.
            while answers.len() < 2 {
                let answer = world.raw(&token, &mutation).await;
                // A fault: of the request, or of finding out whose token it is.
                if answer["data"]["createProject"].is_null() {
                    tried_again += 1;
                    assert!(tried_again < 200, "{answer}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
                assert_eq!(answer["data"]["createProject"]["userErrors"], json!([]), "{name}: {answer}");
                cutting.cut([], None);
                answers.push(answer["data"]["createProject"]["project"]["id"].clone());
            }
            assert!(answers[0].is_string() && answers[0] == answers[1], "{name}: two answers: {answers:?}");
        }
    }
    assert!(cutting.cuts() > 12, "{} cuts", cutting.cuts());
    let made = database.psql("SELECT count(DISTINCT stream) || ' ' || count(*) FROM records WHERE stream LIKE 'prj_%'").unwrap();
    assert_eq!(made, format!("{rounds} {rounds}"), "a project was made twice, or not at all");
    world.running.stop().await;
}
