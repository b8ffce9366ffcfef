//! What Mailu says of a candidate, and how it is asked.

use super::{Announced, Applied, Proven};
use crate::engine::error::Error;
use crate::engine::mail::Live;
use crate::engine::storage::record::Proof;
use crate::provider::{Account, Refusal, Sent, StoredHash, Trouble};

/// What a look at Mailu says of the candidate.
#[derive(Debug)]
pub(in crate::engine::rotation) enum Verdict {
    /// It is live.
    Live(Proven),
    /// The version with this number is live (`None`: it is the first password, and whatever was
    /// live before is nobody's loss): the same candidate may be sent again.
    OtherLive(Announced, Option<u64>),
    /// No stored value is live; the account may be missing.
    NoneLive(Announced),
    /// Mailu cannot be asked, or shows no hash that can be checked. `None` if it answered: then
    /// sending again gets at least an acknowledgement.
    CannotTell(Announced, Option<Error>),
    /// Not every stored value was compared yet: nothing is decided.
    NotYet(Announced),
}

/// What a look after a send says.
#[derive(Debug)]
pub(in crate::engine::rotation) struct Looked {
    pub(in crate::engine::rotation) verdict: Verdict,
    /// What the send was answered with, if that was a refusal. It may be a front's, after the
    /// effect, or of a repeat whose first copy still hangs: the look alone decides.
    pub(in crate::engine::rotation) refusal: Option<Refusal>,
    /// Why its outcome is not known, if it is not.
    pub(in crate::engine::rotation) trouble: Option<Trouble>,
}

impl Announced {
    /// Judges by what Mailu showed before anything is sent.
    pub(in crate::engine::rotation) async fn judge(self) -> Result<Verdict, Error> {
        let seen = Ok(self.seen.clone());
        self.verdict(seen, false).await
    }

    async fn verdict(
        mut self,
        seen: Result<Option<Account>, Error>,
        acknowledged: bool,
    ) -> Result<Verdict, Error> {
        let account = match seen {
            Ok(Some(account)) => account,
            Ok(None) => {
                self.seen = None;
                return Ok(self.none_live());
            }
            Err(_unasked) if acknowledged => {
                let mut proven = self.proven(Proof::Acknowledged, None);
                proven.unseen = true;
                return Ok(Verdict::Live(proven));
            }
            Err(error) => return Ok(Verdict::CannotTell(self, Some(error))),
        };
        let live = self.tenant.find_live(&account).await?;
        let hash = account.hash.clone();
        self.seen = Some(account);
        Ok(match live {
            Live::Candidate => Verdict::Live(self.proven(Proof::Hash, hash)),
            Live::CannotTell if acknowledged => {
                Verdict::Live(self.proven(Proof::Acknowledged, None))
            }
            Live::NotYet => Verdict::NotYet(self),
            Live::CannotTell => Verdict::CannotTell(self, None),
            Live::Version(number) => Verdict::OtherLive(self, Some(number)),
            Live::None => self.none_live(),
        })
    }

    /// Before the first password no version exists that could be live instead, and the account may
    /// have existed with a password that nobody told us.
    fn none_live(self) -> Verdict {
        let first = self
            .tenant
            .record
            .intent
            .as_ref()
            .is_some_and(|it| it.create_account);
        if first {
            Verdict::OtherLive(self, None)
        } else {
            Verdict::NoneLive(self)
        }
    }

    fn proven(self, proof: Proof, hash: Option<StoredHash>) -> Proven {
        Proven {
            enabled: self.seen.as_ref().is_none_or(|account| account.enabled),
            tenant: self.tenant,
            mail: self.mail,
            account: self.account,
            proof,
            hash,
            unseen: false,
        }
    }
}

impl Applied {
    /// Asks Mailu what is live now, whatever the send was answered with.
    pub(in crate::engine::rotation) async fn prove(self) -> Result<Looked, Error> {
        let Self { announced, sent } = self;
        let (refusal, trouble) = match sent {
            Sent::Refused(refusal) => (Some(refusal), None),
            Sent::Unknown(trouble) => (None, Some(trouble)),
            Sent::Acknowledged => (None, None),
        };
        // A refused token or an exhausted limiter will refuse the look as well.
        if let Some(refusal @ (Refusal::Token | Refusal::RateLimited)) = refusal {
            let verdict = Verdict::CannotTell(announced, Some(Error::Refused(refusal)));
            return Ok(Looked {
                verdict,
                refusal: Some(refusal),
                trouble,
            });
        }
        let acknowledged = sent == Sent::Acknowledged;
        if announced.tenant.engine.tasks.is_stopping() {
            // The mount goes away, and its storage with it: the next process looks.
            return Err(Error::Unsettled);
        }
        let seen = announced.mail.account(&announced.account).await;
        Ok(Looked {
            verdict: announced.verdict(seen, acknowledged).await?,
            refusal,
            trouble,
        })
    }
}
