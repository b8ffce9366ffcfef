//! What an answer tells about its server, whatever the call was about.

use crate::provider::{ReadError, Refusal, Sent, Trouble};

/// What a call told about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// An answer that only an accepted token gets.
    Accepted,
    /// Mailu's own 401 or 403: the token is wrong.
    Refused,
    /// Mailu's own 429.
    Limited,
    /// Somebody else's 401 or 403, with the status: Mailu may have counted it.
    Denied(u16),
    /// Somebody before Mailu asks to call later, in that many seconds if it says so.
    Busy(Option<u32>),
    /// There is no API at the URL, or something answers for it.
    NoApi,
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
            // Given before the token is looked at.
            Refusal::Invalid => Self::Other,
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

    const fn of_trouble(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Denied { status } => Self::Denied(status),
            Trouble::Busy { retry_after } => Self::Busy(retry_after),
            // Answers, and none that Mailu's limiter counts: those have a status of their own.
            Trouble::TooLarge => Self::Other,
            // A cache stands where the API should.
            Trouble::Redirect | Trouble::NoApi | Trouble::Cached => Self::NoApi,
            trouble => Self::Nothing(trouble),
        }
    }

    /// Reports whether this is a failure of the server, as its breaker counts them. Certificates
    /// and addresses are not: they fail at once, and a tenant's own CA or the mount's address
    /// rules may be wrong, which must not keep others away.
    pub(super) const fn is_silence(self) -> bool {
        match self {
            Self::Nothing(
                Trouble::Unresolved
                | Trouble::Unreachable
                | Trouble::Timeout
                | Trouble::Broken
                | Trouble::ServerError
                | Trouble::Unintelligible,
            ) => true,
            Self::Nothing(_)
            | Self::Accepted
            | Self::Refused
            | Self::Limited
            | Self::Denied(_)
            | Self::Busy(_)
            | Self::NoApi
            | Self::Other => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_says_nothing_is_an_answer() {
        for (trouble, wanted) in [
            (Trouble::TooLarge, Heard::Other),
            (Trouble::Redirect, Heard::NoApi),
            (Trouble::NoApi, Heard::NoApi),
        ] {
            let read = Heard::of_read::<()>(&Err(ReadError::Trouble(trouble)));
            for heard in [read, Heard::of_sent(&Sent::Unknown(trouble))] {
                assert_eq!(heard, wanted);
                assert!(!heard.is_silence());
            }
        }
        let timeout = Heard::of_sent(&Sent::Unknown(Trouble::Timeout));
        assert!(timeout.is_silence());
    }
}
