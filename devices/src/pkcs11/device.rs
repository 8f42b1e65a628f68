//! A token of a PKCS#11 module: found by its label, logged in by a PIN from a file, its sessions pooled, and opened again
//! once when they are lost.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Function, Pkcs11},
    error::{Error, RvError},
    mechanism::MechanismType,
    session::{Session, SessionState, UserType},
    slot::Slot,
    types::AuthPin,
};
use schema::encoding::Digest;
use service::files::read_secret_line;

use crate::{Trouble, TroubleKind};

/// Which token, and how to get in.
#[derive(Debug, Clone)]
pub struct TokenSettings {
    /// The PKCS#11 library.
    pub module: PathBuf,
    /// The token's label.
    pub token: String,
    /// The token's serial number, where several have the label.
    pub serial: Option<String>,
    /// A file with the user's PIN on one line.
    pub pin_file: PathBuf,
    /// The most sessions that work at once.
    pub sessions: usize,
}

/// A token in use.
pub struct Device {
    settings: TokenSettings,
    module: Pkcs11,
    place: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The token, and a session that keeps us logged in; none before it is found.
    open: Option<(Slot, Session)>,
    idle: Vec<Session>,
    /// Counts the losses: handles of objects are good for one generation.
    generation: u64,
    /// The PIN that the token turned down. It is not shown again: a token blocks after a few.
    refused_pin: Option<Digest>,
}

/// Why a call failed: the token's own answer, and what to make of it.
#[derive(Debug)]
pub struct Failure {
    /// What the token answered, when it was asked.
    pub answer: Option<RvError>,
    /// What to tell.
    pub trouble: Trouble,
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        failure.trouble
    }
}

/// What every module in this process shares: a library is loaded and initialised once.
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

impl Device {
    /// Loads the module, finds the token and logs in.
    pub fn open(settings: TokenSettings) -> Result<Self, Trouble> {
        let place = format!("token {:?} of {}", settings.token, settings.module.display());
        let module = load(&settings.module, &place)?;
        let device = Self { settings, module, place, state: Mutex::default() };
        device.with("looking at the token", |session, _| session.get_session_info().map(|_| ()))?;
        Ok(device)
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// How many calls it takes at once.
    pub fn sessions(&self) -> usize {
        self.settings.sessions
    }

    /// What the token can do, and whether the module says that it is a device rather than a program.
    pub fn abilities(&self) -> Result<(Vec<MechanismType>, bool), Trouble> {
        let slot = self.lock().open.as_ref().map(|(slot, _)| *slot);
        let gone = || Trouble::new(TroubleKind::Gone, &self.place, "it was lost while it was looked at");
        let slot = slot.ok_or_else(gone)?;
        let told = |error: Error| self.failure("asking for mechanisms", &error).trouble;
        let mechanisms = self.module.get_mechanism_list(slot).map_err(told)?;
        let hardware = self.module.get_slot_info(slot).map_err(told)?.hardware_slot();
        Ok((mechanisms, hardware))
    }

    /// Does something in a session of the pool. When the session turns out to be lost, everything is opened again and the
    /// work is done once more: what it makes, it must look for first. The work is given the generation of object handles.
    pub fn with<T>(&self, act: &'static str, work: impl Fn(&Session, u64) -> Result<T, Error>) -> Result<T, Failure> {
        let mut again = true;
        loop {
            let (session, generation) = self.session()?;
            match work(&session, generation) {
                Ok(done) => {
                    self.give_back(session, generation);
                    return Ok(done);
                }
                Err(error) if again && self.is_lost(&error, &session) => {
                    tracing::warn!(place = self.place, %error, act, "the token's sessions were lost and are opened again");
                    again = false;
                    drop(session);
                    self.lose(generation);
                }
                // The session may be in the middle of something: it is not used again.
                Err(error) => return Err(self.failure(act, &error)),
            }
        }
    }

    fn session(&self) -> Result<(Session, u64), Failure> {
        let mut state = self.lock();
        if state.open.is_none() {
            state.open = Some(self.log_in(&mut state)?);
        }
        let generation = state.generation;
        if let Some(session) = state.idle.pop() {
            return Ok((session, generation));
        }
        let slot = state.open.as_ref().map(|(slot, _)| *slot);
        drop(state);
        let gone = || Failure { answer: None, trouble: Trouble::new(TroubleKind::Gone, &self.place, "it was lost while it was opened") };
        match self.module.open_rw_session(slot.ok_or_else(gone)?) {
            Ok(session) => Ok((session, generation)),
            Err(error) => {
                self.lose(generation);
                Err(self.failure("opening a session", &error))
            }
        }
    }

    fn give_back(&self, session: Session, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation && state.idle.len() < self.settings.sessions {
            state.idle.push(session);
        }
    }

    /// Forgets every session of a generation.
    fn lose(&self, generation: u64) {
        let mut state = self.lock();
        if state.generation == generation {
            state.generation += 1;
            let (open, idle) = (state.open.take(), std::mem::take(&mut state.idle));
            drop(state);
            drop((open, idle));
        }
    }

    fn log_in(&self, state: &mut State) -> Result<(Slot, Session), Failure> {
        let slot = match self.find() {
            Err(Error::Pkcs11(RvError::CryptokiNotInitialized, _)) => initialize(&self.module).and_then(|()| self.find()),
            found => found,
        };
        let slot = slot.map_err(|error| self.failure("looking for the token", &error))?.ok_or_else(|| Failure {
            answer: Some(RvError::TokenNotPresent),
            trouble: Trouble::new(
                TroubleKind::Gone,
                &self.place,
                "there is no such token (or several): is it connected, and its label right?",
            ),
        })?;
        let session = self.module.open_rw_session(slot).map_err(|error| self.failure("opening a session", &error))?;
        let locked = |detail: String| Failure { answer: None, trouble: Trouble::new(TroubleKind::Locked, &self.place, detail) };
        let pin = read_secret_line(&self.settings.pin_file).map_err(|error| locked(format!("the PIN cannot be read: {error}")))?;
        let digest = Digest::labelled("freehold-refused-pin", &[&pin]);
        if state.refused_pin == Some(digest) {
            return Err(locked(format!("the PIN in {} was turned down, and is not tried again", self.settings.pin_file.display())));
        }
        let text = std::str::from_utf8(&pin).map_err(|_| locked(format!("{} is not text", self.settings.pin_file.display())))?;
        match session.login(UserType::User, Some(&AuthPin::new(text.into()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {
                state.refused_pin = None;
                Ok((slot, session))
            }
            Err(error) => {
                if let Error::Pkcs11(RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange, _) = error {
                    state.refused_pin = Some(digest);
                }
                Err(self.failure("logging in", &error))
            }
        }
    }

    /// The one token with the label.
    fn find(&self) -> Result<Option<Slot>, Error> {
        let mut found = Vec::new();
        for slot in self.module.get_slots_with_token()? {
            // Of a slot whose token is going away nothing can be read: it is not ours.
            let Ok(token) = self.module.get_token_info(slot) else { continue };
            let label = token.label().trim_end() == self.settings.token;
            let serial = self.settings.serial.as_ref().is_none_or(|serial| token.serial_number().trim_end() == serial);
            if token.token_initialized() && label && serial {
                found.push(slot);
            }
        }
        Ok(if found.len() == 1 { found.pop() } else { None })
    }

    /// Whether an error means that sessions or handles are no longer good. Some modules say no more than that something
    /// failed: then the session itself is asked.
    fn is_lost(&self, error: &Error, session: &Session) -> bool {
        let Error::Pkcs11(answer, _) = error else { return false };
        match answer {
            RvError::SessionHandleInvalid
            | RvError::SessionClosed
            | RvError::DeviceRemoved
            | RvError::TokenNotPresent
            | RvError::TokenNotRecognized
            | RvError::SlotIdInvalid
            | RvError::UserNotLoggedIn
            | RvError::CryptokiNotInitialized
            | RvError::ObjectHandleInvalid
            | RvError::KeyHandleInvalid
            | RvError::WrappingKeyHandleInvalid
            | RvError::UnwrappingKeyHandleInvalid => true,
            RvError::GeneralError | RvError::FunctionFailed | RvError::DeviceError => {
                !matches!(session.get_session_info().map(|info| info.session_state()), Ok(SessionState::RwUser))
            }
            _ => false,
        }
    }

    fn failure(&self, act: &str, error: &Error) -> Failure {
        let answer = match error {
            Error::Pkcs11(answer, _) => Some(*answer),
            _ => None,
        };
        let kind = match answer {
            Some(
                RvError::DeviceRemoved
                | RvError::TokenNotPresent
                | RvError::TokenNotRecognized
                | RvError::SlotIdInvalid
                | RvError::SessionHandleInvalid
                | RvError::SessionClosed
                | RvError::CryptokiNotInitialized
                | RvError::ObjectHandleInvalid
                | RvError::KeyHandleInvalid
                | RvError::WrappingKeyHandleInvalid
                | RvError::UnwrappingKeyHandleInvalid
                | RvError::SessionCount,
            ) => TroubleKind::Gone,
            Some(
                RvError::PinIncorrect
                | RvError::PinInvalid
                | RvError::PinLenRange
                | RvError::PinExpired
                | RvError::PinLocked
                | RvError::UserNotLoggedIn
                | RvError::UserPinNotInitialized,
            ) => TroubleKind::Locked,
            Some(
                RvError::FunctionRejected | RvError::ActionProhibited | RvError::TokenWriteProtected | RvError::KeyFunctionNotPermitted,
            ) => TroubleKind::Refused,
            _ => TroubleKind::Failed,
        };
        let said = match error {
            Error::Pkcs11(answer, function) => format!("{act}: {} answered {answer:?}", name(*function)),
            other => format!("{act}: {other}"),
        };
        Failure { answer, trouble: Trouble::new(kind, &self.place, said) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn name(function: Function) -> String {
    format!("C_{function:?}")
}

fn load(path: &Path, place: &str) -> Result<Pkcs11, Trouble> {
    let mut modules = MODULES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let failed = |act: &str, error: Error| Trouble::new(TroubleKind::Gone, place, format!("{act} the library failed: {error}"));
    let module = Pkcs11::new(path).map_err(|error| failed("loading", error))?;
    initialize(&module).map_err(|error| failed("initialising", error))?;
    modules.insert(path.to_owned(), module.clone());
    Ok(module)
}

fn initialize(module: &Pkcs11) -> Result<(), Error> {
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error),
    }
}
