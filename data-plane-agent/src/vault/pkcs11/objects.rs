//! What is kept on a token: keys, found by label and id, and small records as data objects.

use std::{path::PathBuf, sync::Arc, time::Duration};

use cryptoki::{
    error::Error,
    object::{Attribute, AttributeType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::device::Device;
use crate::vault::{Trouble, TroubleKind, VaultError, keeper::Bounds, sealed::Records};

/// Records as data objects of a token, which every agent that uses the token shares.
pub struct DataObjects {
    device: Arc<Device>,
    namespace: String,
    call: Duration,
}

impl DataObjects {
    /// The records of a namespace.
    pub fn new(device: Arc<Device>, namespace: &str, call: Duration) -> Self {
        Self { device, namespace: namespace.to_owned(), call }
    }

    fn template(&self) -> Vec<Attribute> {
        vec![
            Attribute::Class(ObjectClass::DATA),
            Attribute::Token(true),
            Attribute::Private(true),
            Attribute::Application(self.namespace.clone().into_bytes()),
        ]
    }

    fn find(&self, session: &Session, name: &str) -> Result<Vec<ObjectHandle>, Error> {
        let mut template = self.template();
        template.push(Attribute::Label(name.as_bytes().to_vec()));
        session.find_objects(&template)
    }

    fn make(&self, session: &Session, name: &str, bytes: &[u8]) -> Result<ObjectHandle, Error> {
        let mut template = self.template();
        template.push(Attribute::Label(name.as_bytes().to_vec()));
        template.push(Attribute::Value(bytes.to_vec()));
        session.create_object(&template)
    }
}

impl Records for DataObjects {
    fn kind(&self) -> &'static str {
        "pkcs11"
    }

    fn place(&self) -> String {
        self.device.place().to_owned()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn bounds(&self) -> Bounds {
        // Devices take their time to make large RSA keys.
        Bounds { call: self.call, make: self.call.saturating_mul(12), width: self.device.sessions() }
    }

    fn check(&self) -> Result<(), VaultError> {
        // Asked of the token itself, not of what the library remembers.
        self.device.with("looking at the token", |session, _| session.iter_objects(&self.template())?.next().transpose().map(|_| ()))?;
        Ok(())
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("{} on {}", name, self.device.place()))
    }

    fn names(&self) -> Result<Vec<String>, VaultError> {
        let names = self.device.with("listing records", |session, _| {
            let mut names = Vec::new();
            for object in session.find_objects(&self.template())? {
                names.extend(text(session, object, AttributeType::Label)?.and_then(|label| String::from_utf8(label).ok()));
            }
            Ok(names)
        });
        Ok(names?)
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, VaultError> {
        let found = self.device.with("reading a record", |session, _| {
            let objects = self.find(session, name)?;
            objects
                .into_iter()
                .map(|object| Ok(text(session, object, AttributeType::Value)?.unwrap_or_default()))
                .collect::<Result<Vec<_>, Error>>()
        })?;
        match found.as_slice() {
            [] => Ok(None),
            [first, others @ ..] if others.iter().all(|other| other == first) => Ok(Some(first.clone())),
            _ => Err(VaultError::Corrupt {
                path: self.path(name),
                detail: "there are several of this name, with different content".to_owned(),
            }),
        }
    }

    fn create(&self, name: &str, bytes: &[u8]) -> Result<bool, VaultError> {
        enum Created {
            Mine,
            Theirs,
            Neither,
        }
        let created = self.device.with("keeping a record", |session, _| {
            if !self.find(session, name)?.is_empty() {
                return Ok(Created::Theirs);
            }
            let mine = self.make(session, name, bytes)?;
            // Tokens know no "create unless it is there". Whoever sees two takes its own back.
            if self.find(session, name)?.len() == 1 {
                return Ok(Created::Mine);
            }
            session.destroy_object(mine)?;
            Ok(if self.find(session, name)?.is_empty() { Created::Neither } else { Created::Theirs })
        })?;
        match created {
            Created::Mine => Ok(true),
            Created::Theirs => Ok(false),
            Created::Neither => {
                let detail = format!("another agent kept {name} at the same moment, and both took it back; it is tried again");
                Err(Trouble::new(TroubleKind::Failed, self.device.place(), detail).into())
            }
        }
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), VaultError> {
        let replaced = self.device.with("replacing a record", |session, _| {
            let old = self.find(session, name)?;
            self.make(session, name, bytes)?;
            old.into_iter().try_for_each(|object| session.destroy_object(object))
        });
        Ok(replaced?)
    }

    fn remove(&self, name: &str) -> Result<(), VaultError> {
        let removed = self.device.with("removing a record", |session, _| {
            self.find(session, name)?.into_iter().try_for_each(|object| session.destroy_object(object))
        });
        Ok(removed?)
    }
}

/// One attribute of an object.
pub(super) fn text(session: &Session, object: ObjectHandle, wanted: AttributeType) -> Result<Option<Vec<u8>>, Error> {
    Ok(session.get_attributes(object, &[wanted])?.into_iter().find_map(|attribute| match attribute {
        Attribute::Label(bytes)
        | Attribute::Value(bytes)
        | Attribute::Modulus(bytes)
        | Attribute::PublicExponent(bytes)
        | Attribute::EcPoint(bytes) => Some(bytes),
        _ => None,
    }))
}
