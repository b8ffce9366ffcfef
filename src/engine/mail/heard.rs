//! What an answer tells about its server, whatever the call was about.

use crate::provider::{ReadError, Refusal, Sent, Trouble};

/// What a call told about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An answer that only an accepted token gets.
    Accepted,
    /// 401 or 403.
    Refused,
    /// 429.
    Limited,
    /// A definite answer that says nothing of the token.
    Other,
    /// No definite answer.
    Nothing(Trouble),
}

impl Heard {
    const fn of_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Token => Self::Refused,
            Refusal::RateLimited => Self::Limited,
            Refusal::NoSuchAccount
            | Refusal::NoSuchAppToken
            | Refusal::NoSuchDomain
            | Refusal::Conflict => Self::Accepted,
            // Given by a proxy or before the token is looked at.
            Refusal::Invalid | Refusal::Redirect | Refusal::NoApi => Self::Other,
        }
    }

    pub(super) const fn of_read<T>(answer: &Result<T, ReadError>) -> Self {
        match answer {
            Ok(_) => Self::Accepted,
            Err(ReadError::Refused(refusal)) => Self::of_refusal(*refusal),
            Err(ReadError::Trouble(trouble)) => Self::of_trouble(*trouble),
        }
    }

    pub(super) const fn of_sent(sent: &Sent) -> Self {
        match sent {
            Sent::Acknowledged => Self::Accepted,
            Sent::Refused(refusal) => Self::of_refusal(*refusal),
            Sent::Unknown(trouble) => Self::of_trouble(*trouble),
        }
    }

    /// What is too large is an answer, and not 401, 403 or 429, whose bodies are not read.
    const fn of_trouble(trouble: Trouble) -> Self {
        match trouble {
            Trouble::TooLarge => Self::Other,
            trouble => Self::Nothing(trouble),
        }
    }

    /// Reports whether this is a failure of the server, as its breaker counts them. Certificates
    /// and addresses are not: they fail at once, and a tenant's own CA or the mount's address
    /// rules may be wrong, which must not keep others away.
    pub(super) const fn is_silence(self) -> bool {
        match self {
            Self::Nothing(Trouble::Tls | Trouble::AddressRefused | Trouble::TooLarge)
            | Self::Accepted
            | Self::Refused
            | Self::Limited
            | Self::Other => false,
            Self::Nothing(
                Trouble::Unresolved
                | Trouble::Unreachable
                | Trouble::Timeout
                | Trouble::Broken
                | Trouble::ServerError
                | Trouble::Unintelligible,
            ) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_too_large_is_an_answer() {
        let trouble = Trouble::TooLarge;
        let read = Heard::of_read::<()>(&Err(ReadError::Trouble(trouble)));
        for heard in [read, Heard::of_sent(&Sent::Unknown(trouble))] {
            assert_eq!(heard, Heard::Other);
            assert!(!heard.is_silence());
        }
        let timeout = Heard::of_sent(&Sent::Unknown(Trouble::Timeout));
        assert!(timeout.is_silence());
    }
}
