//! The catalogue of algorithms in GraphQL.

use async_graphql::{Object, SimpleObject};
use schema::catalogue::Algorithm;

use super::scalar::{AlgorithmStatus, KeyPurpose, UInt64};

/// One row of the catalogue.
#[derive(Debug, Clone, SimpleObject)]
#[graphql(name = "Algorithm")]
pub struct AlgorithmNode {
    /// Used in APIs, policies and records. Never changes.
    pub name: &'static str,
    /// What it is, for people.
    pub title: &'static str,
    /// The standard that defines it.
    pub standard: &'static str,
    /// Parameters, as the standard writes them.
    pub parameters: &'static str,
    /// What a key of this algorithm may be for.
    pub purposes: Vec<KeyPurpose>,
    /// Whether it should be chosen today.
    pub status: AlgorithmStatus,
    /// Strength against a classical attacker, in bits.
    pub classical_bits: u16,
    /// Strength against a quantum attacker: the NIST category (1 to 5), or 0 for none.
    pub quantum_category: u8,
    /// The JOSE `alg`, where there is one.
    pub jose_alg: Option<&'static str>,
    /// The JOSE `enc`, where there is one.
    pub jose_enc: Option<&'static str>,
    /// The object identifier, where there is one.
    pub oid: Option<&'static str>,
    /// The most uses that protect data under one version, where the mathematics sets a limit.
    pub max_uses: Option<UInt64>,
    /// Whether its keys have a public half.
    pub asymmetric: bool,
}

impl From<Algorithm> for AlgorithmNode {
    fn from(algorithm: Algorithm) -> Self {
        let entry = algorithm.entry();
        Self {
            name: entry.name,
            title: entry.title,
            standard: entry.standard,
            parameters: entry.parameters,
            purposes: entry.purposes.iter().copied().map(Into::into).collect(),
            status: entry.status.into(),
            classical_bits: entry.classical_bits,
            quantum_category: entry.quantum_category,
            jose_alg: entry.jose_alg,
            jose_enc: entry.jose_enc,
            oid: entry.oid,
            max_uses: entry.max_uses.map(UInt64),
            asymmetric: entry.asymmetric,
        }
    }
}

/// Reading the catalogue.
#[derive(Default)]
pub struct AlgorithmQuery;

#[Object]
impl AlgorithmQuery {
    /// Every algorithm Freehold knows.
    async fn algorithms(&self) -> Vec<AlgorithmNode> {
        Algorithm::all().map(Into::into).collect()
    }
}
