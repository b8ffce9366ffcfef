# A collector outside, for config/audit mode=external: fetches undelivered events, which writes them
# to the audit devices, and acknowledges them.

path "smtp/events/flush" {
  capabilities = ["update"]
}

path "smtp/events/ack" {
  capabilities = ["update"]
}
