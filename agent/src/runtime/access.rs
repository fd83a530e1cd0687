//! What a runtime reads a private image with.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use longshore_model::assignment::ImageAccess;
use longshore_model::backoff::Backoff;
use longshore_model::failure::FailureReason;
use longshore_model::name::AppName;
use longshore_model::registry::Scope;
use longshore_model::secret::Secret;

use super::RuntimeError;

/// How long a server is waited for before an image is tried without it: a session that is about to open is there by then. It
/// grows with each round, since a registry that refused is not to be asked every few seconds.
const PATIENCE: Backoff = Backoff { base: Duration::from_secs(10), cap: Duration::from_secs(300) };

/// User name and password for a registry. Kept in memory only, and for no longer than a pull.
#[derive(Clone, Debug)]
pub struct RegistryCredential {
    /// Its name, for messages to people.
    pub name: String,
    /// What it is for; it must not be shown to any other registry.
    pub registry: Scope,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
    /// PEM of authorities to trust for this registry, beside those of the node; empty for none.
    pub ca_certificate_pem: String,
}

/// Knows what apps read their images with.
#[async_trait]
pub trait Keyring: Send + Sync + 'static {
    /// What an app reads its image with; `None` when everybody may read it. Waits as long as it takes; may be dropped.
    ///
    /// # Errors
    ///
    /// The app's credential cannot be used.
    async fn credential(&self, app: &AppName) -> Result<Option<RegistryCredential>, RuntimeError>;
}

/// An app's way to its credential, which is asked for only when a registry is.
#[derive(Clone)]
pub struct Access(Option<Owned>);

#[derive(Clone)]
struct Owned {
    keyring: Arc<dyn Keyring>,
    app: AppName,
    told: ImageAccess,
}

impl Access {
    /// Nobody's: for images that everybody may read.
    #[must_use]
    pub fn anonymous() -> Self {
        Self(None)
    }

    /// That of an app, of whose image this was `told`.
    #[must_use]
    pub fn of(app: AppName, told: ImageAccess, keyring: Arc<dyn Keyring>) -> Self {
        Self(Some(Owned { keyring, app, told }))
    }

    /// Tries at reading the app's image, of which the first without asking for a credential may be enough.
    pub(crate) fn tries(&self) -> Tries<'_> {
        Tries { owned: self.0.as_ref(), is_answered: self.0.is_none(), ..Tries::once() }
    }
}

/// Tries at reading an image, with a credential or without: [`Tries::next`] says with what, [`Tries::failed`] whether
/// there is another.
///
/// An image of which the server said that no credential is for it is read without asking. So is any image while the server
/// does not answer: apps must come up without it, and many images for which there is a credential can be read by
/// everybody. What a registry refuses meanwhile is not final: the wait for the server goes on.
pub(crate) struct Tries<'a> {
    owned: Option<&'a Owned>,
    /// Whether the try under way has what the keyring answered: its failure is final.
    is_answered: bool,
    failures: u32,
    last: Option<RuntimeError>,
}

impl Tries<'_> {
    /// The only try, without a credential.
    pub(crate) fn once() -> Self {
        Self { owned: None, is_answered: true, failures: 0, last: None }
    }

    /// What to try with; `None` is nothing.
    ///
    /// # Errors
    ///
    /// The credential cannot be used; or there is none, and a try without has failed.
    pub(crate) async fn next(&mut self) -> Result<Option<RegistryCredential>, RuntimeError> {
        let Some(Owned { keyring, app, told }) = self.owned else { return Ok(None) };
        let is_open = *told == ImageAccess::Open;
        if is_open && self.failures == 0 {
            return Ok(None);
        }
        let patience = PATIENCE.delay(self.failures.saturating_add(1));
        let answer = tokio::time::timeout(patience, keyring.credential(app)).await;
        match (answer, self.last.take()) {
            // Nothing is known that could help.
            (Ok(Ok(None)) | Err(_), Some(error)) if is_open => Err(error),
            (Ok(answer), _) => {
                self.is_answered = true;
                answer
            }
            (Err(_), _) => {
                tracing::info!(%app, "the server does not answer: trying to read the image without a credential");
                Ok(None)
            }
        }
    }

    /// Takes the failure of a try.
    ///
    /// # Errors
    ///
    /// The same, where no other credential could help.
    pub(crate) fn failed(&mut self, error: impl Into<RuntimeError>) -> Result<(), RuntimeError> {
        use FailureReason as R;
        let error = error.into();
        // Registries hide private images, and a credential may bring the authority that certifies its registry.
        let may_be_helped = matches!(error.reason, R::ImageAccessDenied | R::ImageNotFound | R::RegistryUnreachable);
        if self.is_answered || !may_be_helped {
            return Err(error);
        }
        tracing::info!(%error, "an image cannot be read without a credential: asking the server for one");
        self.failures = self.failures.saturating_add(1);
        self.last = Some(error);
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    /// Answers `0`, or never.
    struct Ring(Option<Option<RegistryCredential>>);

    #[async_trait]
    impl Keyring for Ring {
        async fn credential(&self, _: &AppName) -> Result<Option<RegistryCredential>, RuntimeError> {
            match &self.0 {
                Some(answer) => Ok(answer.clone()),
                None => std::future::pending().await,
            }
        }
    }

    const SILENT: Option<Option<RegistryCredential>> = None;

    fn credential() -> RegistryCredential {
        RegistryCredential {
            name: "shop".to_owned(),
            registry: Scope::parse("registry.example.com").unwrap(),
            username: "robot".to_owned(),
            password: Secret::new("secret".to_owned()),
            ca_certificate_pem: String::new(),
        }
    }

    fn access(told: ImageAccess, answer: Option<Option<RegistryCredential>>) -> Access {
        Access::of(AppName::parse("till").unwrap(), told, Arc::new(Ring(answer)))
    }

    fn error(reason: FailureReason) -> RuntimeError {
        RuntimeError { reason, message: "no".to_owned() }
    }

    async fn with(tries: &mut Tries<'_>) -> Option<String> {
        tries.next().await.unwrap().map(|credential| credential.name)
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_image_is_read_without_asking_and_a_refusal_asks_once() {
        let start = tokio::time::Instant::now();
        for reason in
            [FailureReason::ImageAccessDenied, FailureReason::ImageNotFound, FailureReason::RegistryUnreachable]
        {
            let access = access(ImageAccess::Open, Some(Some(credential())));
            let mut tries = access.tries();
            assert_eq!(with(&mut tries).await, None);
            tries.failed(error(reason)).unwrap();
            assert_eq!(with(&mut tries).await.as_deref(), Some("shop"), "it was made after the word");
            assert_eq!(tries.failed(error(reason)).unwrap_err().reason, reason);
        }
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_image_fails_when_nobody_knows_better() {
        for answer in [SILENT, Some(None)] {
            let access = access(ImageAccess::Open, answer);
            let mut tries = access.tries();
            assert_eq!(with(&mut tries).await, None);
            tries.failed(error(FailureReason::ImageAccessDenied)).unwrap();
            assert_eq!(tries.next().await.unwrap_err().reason, FailureReason::ImageAccessDenied);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_image_with_a_credential_is_tried_without_while_the_server_is_silent() {
        for told in [ImageAccess::Credential, ImageAccess::Untold] {
            let access = access(told, SILENT);
            let mut tries = access.tries();
            let mut waits = Vec::new();
            for _ in 0..7 {
                let start = tokio::time::Instant::now();
                assert_eq!(with(&mut tries).await, None);
                waits.push(start.elapsed().as_secs());
                tries.failed(error(FailureReason::ImageAccessDenied)).unwrap();
            }
            assert_eq!(waits, [10, 20, 40, 80, 160, 300, 300]);
            assert!(tries.failed(error(FailureReason::ImageInvalid)).is_err(), "no credential mends this");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_server_answers_is_final() {
        for (answer, name) in [(None, None), (Some(credential()), Some("shop"))] {
            let access = access(ImageAccess::Credential, Some(answer));
            let mut tries = access.tries();
            assert_eq!(with(&mut tries).await.as_deref(), name);
            assert!(tries.failed(error(FailureReason::ImageAccessDenied)).is_err());
        }
        let nobody = Access::anonymous();
        assert_eq!(with(&mut nobody.tries()).await, None);
        assert!(nobody.tries().failed(error(FailureReason::ImageAccessDenied)).is_err());
    }
}
