//! What a preflight's findings mean, for `status` and notices.

use super::storage::record::Finding;

/// A finding, as people are told of it. Constant texts: nothing in them comes from a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Explained {
    /// What is wrong: one sentence without a full stop.
    pub(super) message: &'static str,
    /// What to do about it, likewise.
    pub(super) hint: &'static str,
}

/// Explains a finding.
pub(super) const fn explain(finding: Finding) -> Explained {
    match finding {
        Finding::NoServer => NO_SERVER,
        Finding::AccountMissing => ACCOUNT_MISSING,
        Finding::Drift => DRIFT,
        Finding::Unsettled => UNSETTLED,
        Finding::TlsInvalid => TLS_INVALID,
        Finding::Unreachable => UNREACHABLE,
        Finding::TokenRefused => TOKEN_REFUSED,
        Finding::LimiterBusy => LIMITER_BUSY,
        Finding::LiveUnknown => LIVE_UNKNOWN,
        Finding::AccountDisabled => ACCOUNT_DISABLED,
        Finding::ChangeAtLogin => CHANGE_AT_LOGIN,
        Finding::OtherOwner => OTHER_OWNER,
        Finding::MarkDoesNotFit => MARK_DOES_NOT_FIT,
        Finding::AppTokensOpen => APP_TOKENS_OPEN,
        Finding::TlsExpiresSoon => TLS_EXPIRES_SOON,
        Finding::CaExpired => CA_EXPIRED,
        Finding::MailuOld => MAILU_OLD,
        Finding::MailuUnknown => MAILU_UNKNOWN,
    }
}

const fn told(message: &'static str, hint: &'static str) -> Explained {
    Explained { message, hint }
}

const NO_SERVER: Explained = told(
    "the tenant has no Mailu server",
    "write mailu_url and api_token to <tenant>/config",
);
const ACCOUNT_MISSING: Explained = told(
    "Mailu has no such account",
    "create the account in Mailu, or check that mailu_url is the right server",
);
const DRIFT: Explained = told(
    "Mailu holds another password than the current one",
    "find out who changed it, then write <tenant>/verify and <tenant>/rotate",
);
const UNSETTLED: Explained = told(
    "an earlier change of the password is still open",
    "read <tenant>/status for why, and write <tenant>/verify to settle it",
);
const TLS_INVALID: Explained = told(
    "the server's TLS certificate was not accepted",
    "check its name, its validity and who issued it, or set ca_cert or tls_server_name in \
     <tenant>/config",
);
const UNREACHABLE: Explained = told(
    "no Mailu API answers at the server's address",
    "check that the Mailu server runs with API=true, that mailu_url is right and that this \
     server may connect to it (allowed_hosts of the mount's config, firewalls, DNS)",
);
const TOKEN_REFUSED: Explained = told(
    "Mailu refuses the API token",
    "write the server's API_TOKEN to <tenant>/config",
);
const LIMITER_BUSY: Explained = told(
    "calls to the server rest after refused ones",
    "find out which tenant of this server has a wrong API token, and add the Vault servers \
     to AUTH_RATELIMIT_EXEMPTION on the Mailu server; calls are made again within the hour",
);
const LIVE_UNKNOWN: Explained = told(
    "it could not be told which password is live",
    "write <tenant>/verify; the change itself does not depend on it",
);
const ACCOUNT_DISABLED: Explained = told(
    "the account is disabled in Mailu, so no password logs in",
    "enable the account in Mailu if it is still needed; the change itself works",
);
const CHANGE_AT_LOGIN: Explained = told(
    "the next login on the web has to change the password, which would be a foreign change",
    "ask nobody to log in on the web before the change, which ends that; or write <tenant>/rotate now",
);
const OTHER_OWNER: Explained = told(
    "the account carries the mark of another mount or cluster, which may change its password too",
    "find out who else owns the account; write <tenant>/verify to accept the mark, or <tenant>/rotate",
);
const MARK_DOES_NOT_FIT: Explained = told(
    "the account's comment in Mailu leaves no room for the engine's mark, so other writers are not \
     noticed by it",
    "shorten the comment to 170 characters; the engine never cuts it, and the change itself works",
);
const APP_TOKENS_OPEN: Explained = told(
    "anybody can edit the server's app tokens without logging in (CVE-2026-49217)",
    "upgrade the server to Mailu 2024.06.52 or later now; the change itself works",
);
const CA_EXPIRED: Explained = told(
    "a CA certificate in ca_cert of <tenant>/config has expired",
    "write the current one: this engine still accepts what the expired one has issued, and hardly \
     anybody else does",
);
const TLS_EXPIRES_SOON: Explained = told(
    "the server's certificate ends before the change or within two weeks after it",
    "renew the certificate of the Mailu server",
);
const MAILU_OLD: Explained = told(
    "the server runs the Mailu 2.0 line, which gets no fixes any more",
    "upgrade the server to Mailu 2024.06 or later; the change itself works",
);
const MAILU_UNKNOWN: Explained = told(
    "the server does not tell which Mailu it runs",
    "check that <mailu_url>/api/v1/swagger.json can be read; the change itself does not \
     depend on it",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_codes_are_those_that_are_stored_and_each_has_its_texts() {
        use Finding::*;
        for finding in [
            NoServer,
            AccountMissing,
            Drift,
            Unsettled,
            TlsInvalid,
            Unreachable,
            TokenRefused,
            LimiterBusy,
            LiveUnknown,
            AccountDisabled,
            ChangeAtLogin,
            OtherOwner,
            MarkDoesNotFit,
            AppTokensOpen,
            TlsExpiresSoon,
            CaExpired,
            MailuOld,
            MailuUnknown,
        ] {
            let told = explain(finding);
            let stored = serde_json::to_string(&finding).unwrap();
            assert_eq!(stored, format!("\"{}\"", finding.code()));
            for text in [told.message, told.hint] {
                assert!(!text.is_empty() && !text.ends_with('.'), "{text}");
            }
        }
    }
}
