# Answers an incident of any tenant: replaces the password at once, looks at it, ends a hold.
# What is answered is always wrapped: unwrapping its token shows the password once.

path "smtp/+/reset" {
  capabilities = ["update"]
}

path "smtp/+/reveal" {
  capabilities = ["update"]
}

path "smtp/+/release" {
  capabilities = ["update"]
}

path "smtp/batches" {
  capabilities = ["update"]
}

path "smtp/batches/" {
  capabilities = ["list"]
}

path "smtp/batches/+" {
  capabilities = ["read"]
}

path "smtp/batches/+/cancel" {
  capabilities = ["update"]
}

path "smtp/+/verify" {
  capabilities = ["update"]
}

path "smtp/+/status" {
  capabilities = ["read"]
}

path "smtp/+/events" {
  capabilities = ["read"]
}
