# Reads what happened and whether it reached the audit devices; what scripts/audit-verify needs.
# No password, no change.

path "smtp/events" {
  capabilities = ["read"]
}

path "smtp/+/events" {
  capabilities = ["read"]
}

path "smtp/tenants" {
  capabilities = ["list"]
}

path "smtp/status" {
  capabilities = ["read"]
}

path "smtp/+/status" {
  capabilities = ["read"]
}

path "smtp/+/versions/" {
  capabilities = ["list"]
}

path "smtp/+/versions/+" {
  capabilities = ["read"]
}

# Finds a known value in the audit log.
path "sys/audit-hash/+" {
  capabilities = ["update"]
}
