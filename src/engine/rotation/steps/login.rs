//! What a login that proves a new password told, for the answer of a change.

use crate::provider::{Fault, Login, LoginFault, SmtpReply};

/// The warning about a login that did not prove the password; `None` if it did.
pub(super) fn warning(login: Login) -> Option<String> {
    match login {
        Login::Accepted => None,
        Login::Refused => Some(String::from(
            "SMTP AUTH with the new password was refused although Mailu stored it: the account may \
             be disabled or rate limited, or the server may require app tokens. It is not tried \
             again.",
        )),
        Login::CannotTell => Some(String::from(
            "SMTP AUTH with the new password could not be tried. Check smtp_address in \
             <tenant>/config.",
        )),
        Login::Failed(fault) => Some(format!(
            "SMTP AUTH with the new password proved nothing: {}. The password is stored in Mailu \
             all the same; it is not tried again.",
            why(fault)
        )),
    }
}

fn why(fault: LoginFault) -> String {
    match fault {
        LoginFault::Unreachable(Fault::Tls(fault)) => {
            format!("TLS with smtp_address failed: {}", fault.told())
        }
        LoginFault::Unreachable(fault) => format!(
            "smtp_address was not reached: {fault}. Check it in <tenant>/config, and that this \
             server may reach it"
        ),
        LoginFault::NotOffered => String::from(
            "smtp_address offers no STARTTLS, or no login that is known here. Check its port: 465 \
             begins with TLS, any other with STARTTLS",
        ),
        LoginFault::Said(reply) => said(reply),
    }
}

fn said(reply: SmtpReply) -> String {
    let (stage, code) = (reply.stage.as_str(), reply.code);
    let advice = if reply.is_permanent() {
        "It does not let this server log in there: see its log"
    } else {
        "It put the login off, because it limits logins or takes none at the moment: see its log if it \
         goes on"
    };
    format!("the mail server answered {stage} with {code}. {advice}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::SmtpStage;

    #[test]
    fn what_the_server_said_is_told_as_what_it_is() {
        let said = |stage, code| Login::Failed(LoginFault::Said(SmtpReply { stage, code }));
        let told = warning(said(SmtpStage::Greeting, 451)).unwrap();
        assert!(told.contains("the connection with 451"), "{told}");
        assert!(told.contains("at the moment") && !told.contains("Check smtp_address"));
        let told = warning(said(SmtpStage::Hello, 550)).unwrap();
        assert!(told.contains("EHLO with 550"), "{told}");
        assert!(told.contains("does not let this server"), "{told}");
        assert_eq!(warning(Login::Accepted), None);
    }
}
