//! Two control planes over one PostgreSQL, and a subscriber at the one while the other is asked.

use freehold_tests::database::{Engine, TestDatabase};
use futures::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest},
};

use super::super::*;

/// Speaks `graphql-transport-ws`.
struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Connects and says who it is; gives the server's answer to that.
    async fn open(world: &World, payload: Value) -> (Self, Value) {
        let address = world.running.graphql_address();
        let mut request = format!("ws://{address}/graphql").into_client_request().unwrap();
        request.headers_mut().insert("sec-websocket-protocol", "graphql-transport-ws".parse().unwrap());
        let (socket, answer) = client_async(request, TcpStream::connect(address).await.unwrap()).await.unwrap();
        assert_eq!(answer.headers()["sec-websocket-protocol"], "graphql-transport-ws");
        let mut socket = Self(socket);
        socket.send(json!({ "type": "connection_init", "payload": payload })).await;
        let answer = socket.next().await;
        (socket, answer)
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.unwrap();
    }

    /// The next message that is not a ping; how the server closed, when it did.
    async fn next(&mut self) -> Value {
        loop {
            let message = tokio::time::timeout(Duration::from_secs(60), self.0.next()).await.expect("an answer within a minute");
            match message.expect("an open socket").unwrap() {
                Message::Text(text) => {
                    let message: Value = serde_json::from_str(&text).unwrap();
                    if message["type"] != "ping" {
                        return message;
                    }
                    self.send(json!({ "type": "pong" })).await;
                }
                Message::Close(frame) => return json!({ "closed": frame.map(|frame| frame.reason.to_string()) }),
                _ => {}
            }
        }
    }

    async fn subscribe(&mut self, arguments: &str) {
        let query = format!("subscription {{ eventRecorded{arguments} {{ cursor event {{ type ledgerIndex }} }} }}");
        self.send(json!({ "id": "1", "type": "subscribe", "payload": { "query": query } })).await;
    }

    async fn event(&mut self) -> Value {
        let message = self.next().await;
        assert_eq!(message["type"], "next", "{message}");
        assert!(message["payload"].get("errors").is_none(), "{message}");
        message["payload"]["data"]["eventRecorded"].clone()
    }
}

fn bearer(token: &str) -> Value {
    json!({ "authorization": format!("Bearer {token}") })
}

/// Control planes that share a database and a sealing key.
async fn replicas(database: &TestDatabase) -> [World; 2] {
    let control_plane::database::Location::Postgres(url) = database.location.clone() else { panic!("PostgreSQL") };
    let key = database.folder.path().join("sealing.key");
    let mut worlds = Vec::new();
    for name in ["one", "two"] {
        let (url, key) = (url.clone(), key.clone());
        let folder = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        worlds.push(
            World::at(folder, Arc::new(SystemClock), move |config| {
                config.server.plain_http = true;
                config.agents.public_url = Some("https://agents.example:7401".parse().unwrap());
                (config.store.url, config.sealing.key_file) = (Some(url), Some(key));
            })
            .await,
        );
    }
    worlds.try_into().ok().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_replica_records_the_other_tells_at_once_and_goes_on_alone() {
    let database = TestDatabase::new(Engine::Postgres).unwrap();
    let control_plane::database::Location::Postgres(url) = database.location.clone() else { panic!("PostgreSQL") };
    let name = url::Url::parse(&url).unwrap().path().trim_start_matches('/').to_owned();
    let sql = |text: &str| database.server().unwrap().psql(&name, text).unwrap().trim().to_owned();
    let [one, two] = replicas(&database).await;
    let started = std::time::Instant::now();
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%LISTEN \"freehold_log\"%'";
    while sql(listening) != "2" {
        assert!(started.elapsed() < Duration::from_secs(30), "both listen: {}", sql("SELECT query FROM pg_stat_activity"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let token = one.tenant("acme").await;
    let (mut socket, answer) = Socket::open(&two, bearer(&token)).await;
    assert_eq!(answer["type"], "connection_ack");
    socket.subscribe("(type: \"ProjectCreated\")").await;
    // Subscribing takes a moment, and what came before it is not told.
    let mut seen = Vec::new();
    for n in 0.. {
        one.run(&token, "createProject", &format!("name: \"p{n}\""), "project { id }").await;
        if let Ok(event) = tokio::time::timeout(Duration::from_secs(1), socket.event()).await {
            seen.push(event);
            break;
        }
        assert!(n < 30, "nothing was told");
    }
    for n in 0..20 {
        one.run(&token, "createProject", &format!("name: \"q{n}\""), "project { id }").await;
        seen.push(socket.event().await);
    }
    let index = |event: &Value| event["event"]["ledgerIndex"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(seen.is_sorted_by(|a, b| index(a) < index(b)), "{seen:?}");

    // Gone on from a cursor, at the other replica, nothing is missing and nothing twice.
    let (mut again, _) = Socket::open(&one, bearer(&token)).await;
    again.subscribe(&format!("(type: \"ProjectCreated\", after: {})", seen[5]["cursor"])).await;
    for expected in &seen[6..] {
        assert_eq!(&again.event().await, expected);
    }

    // What the one did can be read at the other, with the position it gave.
    let made = one.run(&token, "createSite", "name: \"fra\"", "site { id } position").await;
    let read = two.ask(&token, &format!("{{ sites(position: {}) {{ nodes {{ id }} }} }}", made["position"])).await;
    assert_eq!(read["sites"]["nodes"], json!([{ "id": made["site"]["id"] }]));

    // A reactor leads at one of them; when that one is gone, the other goes on by itself.
    one.running.stop().await;
    let site = two.run(&token, "createSite", "name: \"ber\"", "site { id }").await["site"]["id"].as_str().unwrap().to_owned();
    let started = std::time::Instant::now();
    while sql(&format!("SELECT count(*) FROM heartbeats WHERE site = '{site}'")) != "1" {
        assert!(started.elapsed() < Duration::from_secs(60), "nobody compiles statements");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    two.running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_prove_who_they_are_see_their_tenant_only_and_end_with_their_token() {
    let world = World::start(|config| {
        config.server.plain_http = true;
        config.limits.followers = 3;
    })
    .await;
    let (mine, theirs) = (world.tenant("acme").await, world.tenant("other").await);
    for wrong in [json!({}), bearer("fh_api_nonsense"), json!({ "authorization": 7 })] {
        let (_, answer) = Socket::open(&world, wrong.clone()).await;
        assert_ne!(answer["type"], "connection_ack", "{wrong}");
    }
    let made = world.run(&mine, "createToken", "name: \"watch\", scopes: [READER]", "token { id } secret").await;
    let (mut socket, _) = Socket::open(&world, bearer(made["secret"].as_str().unwrap())).await;
    socket.subscribe("(after: \"AAAAAAAAAAA\")").await;
    socket.event().await;
    world.run(&theirs, "createProject", "name: \"secret\"", "project { id }").await;
    world.run(&mine, "createProject", "name: \"pay\"", "project { id }").await;
    loop {
        let event = socket.event().await;
        if event["event"]["type"] == "ProjectCreated" {
            let index = event["event"]["ledgerIndex"].as_str().unwrap();
            let mine = world.ask(&mine, "{ events(last: 1) { nodes { ledgerIndex } } }").await;
            assert_eq!(mine["events"]["nodes"][0]["ledgerIndex"], index, "the other tenant's project came first");
            break;
        }
    }

    // Nothing but subscriptions: what a POST is held to would not hold here.
    let before = world.ask(&mine, "{ events(last: 1) { nodes { ledgerIndex } } }").await;
    let mutation = "mutation { createProject(input: { name: \"sly\" }) { userErrors { code } } }";
    for query in [
        "{ viewer { principal } }",
        mutation,
        &format!("{} subscription s {{ eventRecorded {{ cursor }} }}", mutation.replace("mutation", "mutation m")),
    ] {
        let (mut sly, _) = Socket::open(&world, bearer(&mine)).await;
        sly.send(json!({ "id": "1", "type": "subscribe", "payload": { "query": query } })).await;
        let answer = sly.next().await.to_string();
        assert!(answer.contains("subscriptions_only") && !answer.contains("principal\":"), "{query}: {answer}");
        sly.0.close(None).await.unwrap();
        while sly.0.next().await.is_some() {}
    }
    assert_eq!(world.ask(&mine, "{ events(last: 1) { nodes { ledgerIndex } } }").await, before);
    tokio::time::sleep(Duration::from_secs(1)).await; // their places are given back

    let (_kept, _) = Socket::open(&world, bearer(&mine)).await;
    let (_too, _) = Socket::open(&world, bearer(&mine)).await;
    let full = world.client.get(world.running.graphql_url());
    let full = full.header("connection", "upgrade").header("upgrade", "websocket").send().await.unwrap();
    assert_eq!(full.status(), 503);
    assert_eq!(full.json::<Value>().await.unwrap()["code"], "too_many_followers");

    world.run(&mine, "revokeToken", &format!("token: {}", made["token"]["id"]), "token { id }").await;
    loop {
        let message = socket.next().await;
        if message.get("closed").is_some() || message["payload"]["errors"][0]["extensions"]["code"] == "invalid_token" {
            break;
        }
        assert_eq!(message["type"], "next", "{message}");
    }
    world.running.stop().await;
}
