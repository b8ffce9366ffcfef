//! HashiCorp's go-plugin protocol, ignorant of Vault.
