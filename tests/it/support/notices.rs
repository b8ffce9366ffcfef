//! Notification channels that remember what they delivered, and fail as they are told to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::faults::Plan;
use vault_plugin_secrets_smtp::notify::{
    Channel, ChannelConfig, Error, Message, Notifier, Recipient,
};

const SECOND: Duration = Duration::from_secs(1);

/// What a channel does with the next messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Does {
    Fails(Error),
    /// It fails for this address alone.
    FailsFor(&'static str, Error),
    /// It fails for each of these addresses in its own way.
    FailsForEach(&'static [(&'static str, Error)]),
    /// It takes one message a second and asks for that second.
    OneASecond,
    /// It takes the message and never answers.
    Hangs,
}

/// The channels of one world; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notices(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    delivered: Vec<Message>,
    attempts: Vec<String>,
    /// As `delivered`, of every attempt.
    asked: Vec<String>,
    /// When a channel that takes one message a second took its last one.
    last: Option<Instant>,
    does: HashMap<String, Does>,
    configs: Vec<ChannelConfig>,
    /// Where each of `delivered` went.
    places: Vec<ChannelConfig>,
}

impl Notices {
    /// Makes channels for a process that `plan` may kill.
    pub(crate) fn notifier(&self, plan: &Plan) -> Notifier {
        let (notices, plan) = (self.clone(), plan.clone());
        Arc::new(move |config, _policy| {
            notices.0.lock().unwrap().configs.push(config.clone());
            Ok(Arc::new(Recorder {
                notices: notices.clone(),
                config: config.clone(),
                plan: plan.clone(),
            }))
        })
    }

    /// Lets a channel fail from now on.
    pub(crate) fn let_it(&self, channel: &str, does: Does) {
        let mut state = self.0.lock().unwrap();
        state.does.insert(channel.to_owned(), does);
    }

    /// Lets a channel work again.
    pub(crate) fn mend(&self, channel: &str) {
        self.0.lock().unwrap().does.remove(channel);
    }

    /// Everything that was delivered, in order.
    pub(crate) fn delivered(&self) -> Vec<Message> {
        self.0.lock().unwrap().delivered.clone()
    }

    /// Where it was delivered to, as a configuration shows it, in order.
    pub(crate) fn places(&self) -> Vec<String> {
        let state = self.0.lock().unwrap();
        state.places.iter().map(|it| format!("{it:?}")).collect()
    }

    /// What was delivered, as `channel[>address] event`, in order.
    pub(crate) fn story(&self) -> Vec<String> {
        let delivered = self.delivered();
        delivered.iter().map(line).collect()
    }

    /// How often a channel was asked to deliver something.
    pub(crate) fn attempts(&self, channel: &str) -> usize {
        let state = self.0.lock().unwrap();
        state.attempts.iter().filter(|it| *it == channel).count()
    }

    /// Every attempt, as the story has what was delivered.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.0.lock().unwrap().asked.clone()
    }

    /// The configuration that was used last.
    pub(crate) fn last_config(&self) -> ChannelConfig {
        self.0.lock().unwrap().configs.last().unwrap().clone()
    }
}

fn line(message: &Message) -> String {
    let event = message.event.map_or("test", |event| event.as_str());
    let event = event.strip_prefix("smtp_credentials_").unwrap_or(event);
    match &message.recipient {
        Recipient::Channel => format!("{} {event}", message.channel),
        Recipient::Address(address) => format!("{}>{address} {event}", message.channel),
    }
}

#[derive(Debug)]
struct Recorder {
    notices: Notices,
    config: ChannelConfig,
    plan: Plan,
}

#[async_trait]
impl Channel for Recorder {
    async fn deliver(&self, message: &Message) -> Result<(), Error> {
        self.plan.alive().await;
        let does = {
            let mut state = self.notices.0.lock().unwrap();
            state.attempts.push(message.channel.clone());
            state.asked.push(line(message));
            let does = state.does.get(&message.channel).copied();
            let address = match &message.recipient {
                Recipient::Address(address) => Some(address.as_str()),
                Recipient::Channel => None,
            };
            let does = does.and_then(|does| match does {
                Does::FailsFor(one, _) => (Some(one) == address).then_some(does),
                Does::FailsForEach(each) => each
                    .iter()
                    .find(|(one, _)| Some(*one) == address)
                    .map(|(_, error)| Does::Fails(*error)),
                Does::OneASecond => state
                    .last
                    .is_some_and(|last| last.elapsed() < SECOND)
                    .then_some(Does::Fails(Error::Busy {
                        retry_after: Some(SECOND),
                    })),
                Does::Fails(_) | Does::Hangs => Some(does),
            });
            if does.is_none() {
                state.delivered.push(message.clone());
                state.places.push(self.config.clone());
                state.last = Some(Instant::now());
            }
            does
        };
        match does {
            None => Ok(()),
            Some(Does::Fails(error) | Does::FailsFor(_, error)) => Err(error),
            Some(Does::Hangs) => std::future::pending().await,
            Some(Does::FailsForEach(_) | Does::OneASecond) => unreachable!("decided above"),
        }
    }
}
