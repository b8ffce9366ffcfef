//! Users, domains and app tokens: what Mailu keeps in its database.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::Config;
use super::hash;
use super::tokens::AppToken;
use super::users::User;

/// The database. Addresses and domain names are kept in lower case.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub users: BTreeMap<String, User>,
    pub domains: BTreeMap<String, Domain>,
    pub tokens: BTreeMap<u64, AppToken>,
    pub last_token: u64,
}

/// A mail domain.
#[derive(Clone, Debug)]
pub struct Domain {
    pub comment: String,
    /// -1 for no limit.
    pub max_users: i64,
    pub max_aliases: i64,
    pub max_quota_bytes: i64,
}

impl Default for Domain {
    fn default() -> Self {
        Self {
            comment: String::new(),
            max_users: -1,
            max_aliases: -1,
            max_quota_bytes: 0,
        }
    }
}

impl Domain {
    pub fn json(&self, name: &str) -> Value {
        json!({
            "name": name,
            "comment": self.comment,
            "managers": [],
            "max_users": self.max_users,
            "max_aliases": self.max_aliases,
            "max_quota_bytes": self.max_quota_bytes,
            "signup_enabled": false,
            "alternatives": [],
            "dns_autoconfig": [],
            "dns_mx": format!("{name}. 600 IN MX 10 mail.{name}."),
            "dns_spf": format!("{name}. 600 IN TXT \"v=spf1 mx a:mail.{name} ~all\""),
            "dns_dkim": "",
            "dns_dmarc": "",
            "dns_dmarc_report": Value::Null,
            "dns_tlsa": [],
        })
    }
}

impl Tables {
    pub fn with(config: &Config) -> Self {
        let mut tables = Self::default();
        tables
            .domains
            .insert(config.domain.to_lowercase(), Domain::default());
        for (email, password) in &config.users {
            tables.put_user(email, hash::hash(password, config.rounds));
        }
        tables
    }

    /// Creates a user with Mailu's defaults, and its domain, whatever was there before.
    pub fn put_user(&mut self, email: &str, hash: String) {
        let email = email.to_lowercase();
        let domain = domain_of(&email).to_owned();
        self.domains.entry(domain).or_default();
        self.users.insert(email.clone(), User::new(email, hash));
    }

    pub fn user(&self, email: &str) -> Option<&User> {
        self.users.get(&email.to_lowercase())
    }

    pub fn user_mut(&mut self, email: &str) -> Option<&mut User> {
        self.users.get_mut(&email.to_lowercase())
    }

    /// Replaces a user's password hash; creates the user when there is none.
    pub fn set_hash(&mut self, email: &str, hash: String) {
        match self.user_mut(email) {
            Some(user) => user.hash = hash,
            None => self.put_user(email, hash),
        }
    }

    /// Writes another hash of an existing user.
    pub fn rehash(&mut self, email: &str, hash: String) {
        if let Some(user) = self.user_mut(email) {
            user.hash = hash;
        }
    }

    /// Removes a user and its tokens. Returns whether there was one.
    pub fn remove_user(&mut self, email: &str) -> bool {
        let email = email.to_lowercase();
        self.tokens.retain(|_, token| token.email != email);
        self.users.remove(&email).is_some()
    }

    pub fn users_of(&self, domain: &str) -> impl Iterator<Item = &User> {
        self.users
            .values()
            .filter(move |user| domain_of(&user.email) == domain)
    }
}

pub fn domain_of(email: &str) -> &str {
    email.rsplit_once('@').map_or("", |(_, domain)| domain)
}

/// Mailu takes a domain with at least one dot, made of letters, digits and inner hyphens.
pub fn is_domain(name: &str) -> bool {
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_alphanumeric() || c == '-')
    };
    name.contains('.') && name.split('.').all(is_label)
}

pub fn is_email(address: &str) -> bool {
    address.rsplit_once('@').is_some_and(|(local, domain)| {
        !local.is_empty()
            && !local.contains(|c: char| c == '@' || c.is_whitespace())
            && is_domain(domain)
    })
}
