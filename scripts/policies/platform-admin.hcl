# Runs the mail servers of all tenants: configures, provisions, rotates, watches.
# Not granted: reading a password (<tenant>/admin, reset, reveal), destroying one for good, and
# ending a responder's work (release, cancelling a batch, which may be one of resets).

path "smtp/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# How events reach the audit devices. Its secret is never answered.
path "smtp/config/audit" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

path "smtp/config/keyring" {
  capabilities = ["read"]
}

path "smtp/config/keyring/+" {
  capabilities = ["update"]
}

path "smtp/" {
  capabilities = ["list"]
}

# Ordinary changes only: an emergency for many is the responder's.
path "smtp/batches" {
  capabilities      = ["update"]
  denied_parameters = { "action" = ["reset"] }
}

path "smtp/batches/" {
  capabilities = ["list"]
}

path "smtp/batches/+" {
  capabilities = ["read"]
}

path "smtp/status" {
  capabilities = ["read"]
}

path "smtp/metrics" {
  capabilities = ["read"]
}

path "smtp/events" {
  capabilities = ["read"]
}

path "smtp/ops/+" {
  capabilities = ["update"]
}

path "smtp/tenants" {
  capabilities = ["list"]
}

# Whoever chooses a tenant's endpoint reads its next password: writing this amounts to reading
# <tenant>/admin after the next change. Each change is a critical event with the old and new host.
path "smtp/+/config" {
  capabilities = ["create", "read", "update", "patch", "delete"]
}

# Creates, imports, changes and softly deletes a credential; the answers never hold a password.
path "smtp/+/admin" {
  capabilities = ["create", "update", "patch", "delete"]
}

path "smtp/+/undelete" {
  capabilities = ["update"]
}

path "smtp/+/rotate" {
  capabilities = ["update"]
}

path "smtp/+/rollback" {
  capabilities = ["update"]
}

path "smtp/+/pause" {
  capabilities = ["update"]
}

path "smtp/+/resume" {
  capabilities = ["update"]
}

path "smtp/+/verify" {
  capabilities = ["update"]
}

# With a wildcard in it, a path is matched as the list request has it: with the slash at its end.
path "smtp/+/versions/" {
  capabilities = ["list"]
}

path "smtp/+/versions/+" {
  capabilities = ["read"]
}

path "smtp/+/status" {
  capabilities = ["read"]
}

path "smtp/+/events" {
  capabilities = ["read"]
}
