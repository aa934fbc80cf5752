//! What a server said to one attempt, besides the error that `object_store` makes of it.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use http::header::RETRY_AFTER;
use object_store::client::HttpResponse;
use parking_lot::Mutex;

tokio::task_local! {
    /// What the server said to the request that this task is making.
    static ANSWER: Arc<Answer>;
}

/// Codes of S3, Google Cloud Storage and Azure that say what is wrong. An error shows one of these, never
/// a word of the server's: that might be a secret.
const CODES: &[&str] = &[
    "AccessDenied",
    "AccountIsDisabled",
    "AccountProblem",
    "AllAccessDisabled",
    "AuthenticationFailed",
    "AuthenticationRequired",
    "AuthorizationFailure",
    "AuthorizationHeaderMalformed",
    "AuthorizationPermissionMismatch",
    "BadDigest",
    "BlobArchived",
    "BlobNotFound",
    "ConditionalRequestConflict",
    "ContainerBeingDeleted",
    "ContainerDisabled",
    "ContainerNotFound",
    "EntityTooLarge",
    "EntityTooSmall",
    "ExpiredToken",
    "FilesystemNotFound",
    "IllegalLocationConstraintException",
    "InsufficientAccountPermissions",
    "InternalError",
    "InvalidAccessKeyId",
    "InvalidArgument",
    "InvalidAuthenticationInfo",
    "InvalidBucketName",
    "InvalidObjectState",
    "InvalidRange",
    "InvalidRequest",
    "InvalidSecurity",
    "InvalidToken",
    "KeyTooLongError",
    LEASED,
    "MethodNotAllowed",
    "NoAuthenticationInformation",
    "NoSuchBucket",
    "NoSuchKey",
    "NoSuchUpload",
    "NotImplemented",
    "OperationAborted",
    "OperationTimedOut",
    "PermanentRedirect",
    "PreconditionFailed",
    "PublicAccessNotPermitted",
    "QuotaExceeded",
    "RequestExpired",
    "RequestTimeTooSkewed",
    "RequestTimeout",
    "ResourceNotFound",
    "ServerBusy",
    "ServiceUnavailable",
    "SignatureDoesNotMatch",
    "SlowDown",
    "TemporaryRedirect",
    "TokenRefreshRequired",
    "UserProjectMissing",
    "XAmzContentSHA256Mismatch",
];
/// Codes that say of a 404 that the object is not what is missing.
const NO_BUCKET: &[&str] = &["ContainerNotFound", "FilesystemNotFound", "NoSuchBucket"];
/// Azure's code for a put of a blob that somebody has a lease on; with the status of a condition that does not hold.
const LEASED: &str = "LeaseIdMissing";
/// What Google's JSON says in place of a code.
const NO_BUCKET_IN_WORDS: &str = "The specified bucket does not exist.";

/// What is known of the last answer to one attempt.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Said {
    pub(super) status: Option<u16>,
    pub(super) retry_after: Option<Duration>,
    /// One of `CODES`.
    pub(super) code: Option<&'static str>,
}

impl Said {
    /// Whether the place where the object should be does not exist.
    pub(super) fn no_bucket(&self) -> bool {
        self.code.is_some_and(|code| NO_BUCKET.contains(&code))
    }

    /// Whether the object may only be replaced by whoever has a lease on it.
    pub(super) fn leased(&self) -> bool {
        self.code == Some(LEASED)
    }
}

/// One attempt's notes: the last answer, and the bytes that the attempt takes of a body.
#[derive(Debug, Default)]
pub(super) struct Answer(Mutex<(Said, u64)>);

impl Answer {
    /// Runs one attempt, and notes in `self` what the server answers.
    pub(super) async fn noting<F: Future>(self: &Arc<Self>, attempt: F) -> F::Output {
        ANSWER.scope(Arc::clone(self), attempt).await
    }

    pub(super) fn said(&self) -> Said {
        self.0.lock().0
    }

    /// The last answer to the request that this task is making.
    pub(super) fn last() -> Said {
        ANSWER.try_with(|answer| answer.said()).unwrap_or_default()
    }

    /// Says how many bytes of a body this task will take.
    pub(super) fn will_take(most: u64) {
        ANSWER.try_with(|answer| answer.0.lock().1 = most).ok();
    }

    /// How many bytes of a body this task will take.
    pub(super) fn most() -> u64 {
        ANSWER.try_with(|answer| answer.0.lock().1).unwrap_or(0)
    }

    /// Notes the head of an answer.
    pub(super) fn note(response: &HttpResponse) {
        // Seconds only; the other form, a date, is not worth a clock's trust here.
        let seconds = response
            .headers()
            .get(RETRY_AFTER)
            .and_then(|value| value.to_str().ok()?.trim().parse().ok());
        let said = Said {
            status: Some(response.status().as_u16()),
            retry_after: seconds.map(Duration::from_secs),
            code: None,
        };
        ANSWER.try_with(|answer| answer.0.lock().0 = said).ok();
    }

    /// Forgets an answer that was not whole.
    pub(super) fn forget() {
        ANSWER
            .try_with(|answer| answer.0.lock().0 = Said::default())
            .ok();
    }

    /// Notes the code in the headers or the body of an error.
    pub(super) fn note_error(headers: &HeaderMap, body: &[u8]) {
        let code = find_code(headers, body);
        ANSWER.try_with(|answer| answer.0.lock().0.code = code).ok();
    }
}

fn find_code(headers: &HeaderMap, body: &[u8]) -> Option<&'static str> {
    let known = |said: &str| CODES.iter().copied().find(|code| *code == said);
    if let Some(header) = headers.get("x-ms-error-code") {
        return header.to_str().ok().and_then(known);
    }
    let body = String::from_utf8_lossy(body);
    if let Some((_, rest)) = body.split_once("<Code>") {
        return rest.split('<').next().and_then(|code| known(code.trim()));
    }
    body.contains(NO_BUCKET_IN_WORDS).then_some("NoSuchBucket")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_known_codes_are_noted() {
        for (body, code) in [
            (
                "<?xml version=\"1.0\"?><Error><Code>NoSuchBucket</Code><Message>x</Message></Error>",
                Some("NoSuchBucket"),
            ),
            ("<Error><Code>SeCrEt</Code></Error>", None),
            ("<Error><Code>AccessDenied", Some("AccessDenied")),
            (
                r#"{"error": {"code": 404, "message": "The specified bucket does not exist."}}"#,
                Some("NoSuchBucket"),
            ),
            ("<html>NoSuchBucket</html>", None),
            ("", None),
        ] {
            assert_eq!(code, find_code(&HeaderMap::new(), body.as_bytes()));
        }
        let mut azure = HeaderMap::new();
        azure.insert("x-ms-error-code", "ContainerNotFound".parse().unwrap());
        assert_eq!(Some("ContainerNotFound"), find_code(&azure, b""));
    }
}
