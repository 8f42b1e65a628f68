//! The REST interface as OpenAPI 3.1: derived from the code by a test, committed, and carried by the program as it is committed.
//! What derives it is a megabyte of code that a running agent has no use for.

/// The document, as `freehold-agent print-openapi` prints it.
pub const COMMITTED: &str = include_str!("../../../schema/contracts/agent.openapi.json");

#[cfg(test)]
mod tests {
    use utoipa::{
        Modify, OpenApi,
        openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    };

    use crate::rest::{
        anew, backup, bare, can, certify, cms, data_key, decrypt, discover, encrypt, public_key, random, self_test, sign, status, stream,
        transfer, transit, verify,
    };

    #[derive(OpenApi)]
    #[openapi(
        info(
            title = "Freehold agent",
            description = "Cryptography next to your keys, as policy allows. Bytes are base64url without padding; 64-bit numbers are \
                           strings; errors are RFC 9457 problems with a stable `code`."
        ),
        servers((url = "https://127.0.0.1:7410", description = "An agent on this host.")),
        paths(
            encrypt::encrypt,
            encrypt::encrypt_batch,
            decrypt::decrypt,
            decrypt::decrypt_batch,
            data_key::generate_data_key,
            data_key::generate_data_key_batch,
            anew::rewrap,
            anew::rewrap_batch,
            anew::re_encrypt,
            anew::re_encrypt_batch,
            sign::sign,
            sign::sign_batch,
            verify::verify,
            verify::verify_batch,
            anew::re_sign,
            anew::re_sign_batch,
            bare::sign_digest,
            bare::sign_digest_batch,
            bare::verify_digest,
            bare::verify_digest_batch,
            bare::mac,
            bare::mac_batch,
            bare::verify_mac,
            bare::verify_mac_batch,
            bare::wrap,
            bare::wrap_batch,
            bare::unwrap,
            bare::unwrap_batch,
            bare::agree,
            bare::agree_batch,
            bare::encapsulate,
            bare::encapsulate_batch,
            bare::decapsulate,
            bare::decapsulate_batch,
            bare::derive,
            bare::derive_batch,
            cms::open,
            cms::open_batch,
            cms::verify,
            cms::verify_batch,
            transit::open,
            transit::open_batch,
            certify::certify,
            certify::certify_batch,
            transfer::import_key,
            transfer::import_key_batch,
            transfer::import,
            transfer::import_batch,
            transfer::export,
            transfer::export_batch,
            stream::encrypt,
            stream::decrypt,
            stream::anew::re_encrypt,
            stream::sign::sign,
            stream::sign::verify,
            stream::sign::re_sign,
            public_key::by_id,
            public_key::by_name,
            random::random,
            random::random_batch,
            can::can,
            discover::keys,
            discover::algorithms,
            discover::jwks,
            status::status,
            self_test::self_test,
            backup::backup,
        ),
        modifiers(&Proofs)
    )]
    struct Document;

    struct Proofs;

    impl Modify for Proofs {
        fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
            let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).bearer_format("fh_caller_…");
            let bearer = bearer.description(Some("A caller token of this agent. A client certificate that policy knows will do as well."));
            let components = document.components.get_or_insert_default();
            components.add_security_scheme("caller", SecurityScheme::Http(bearer.build()));
        }
    }

    #[test]
    fn the_committed_document_is_what_the_code_says() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/contracts/agent.openapi.json");
        let derived = Document::openapi().to_pretty_json().unwrap() + "\n";
        if std::env::var_os("FREEHOLD_BLESS").is_some() {
            std::fs::write(path, &derived).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap();
        assert!(committed == derived, "run: make contracts");
    }
}
